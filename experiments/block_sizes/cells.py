"""What is trained: the study, its networks, and what each of them costs by count."""

import dataclasses
from typing import NamedTuple

from jaxsparse.accounting import step_training_flops
from jaxsparse.schedules import check_fraction, check_sparsity

from .. import data
from ..config import check_counts, check_rates

HIDDEN = ("hidden1", "hidden2")
HEAD = "head"


@dataclasses.dataclass(frozen=True)
class Study:
    """How every network is trained: all that the numbers depend on."""

    data: str = "fashion_mnist"
    """Data set, whole."""
    seeds: int = 5
    """Number of seeds: 0, 1, 2, ..."""
    steps: int = 468
    """Steps of each training (468: one epoch of 60,000 images in batches of 128)."""
    batch_size: int = 128
    """Examples a step."""
    learning_rate: float = 3e-3
    """Peak of Adam's, after a warm-up of a tenth of the steps; it falls to 0 by a cosine."""
    image: tuple[int, int] = (32, 40)
    """Height and width that images are resized to for sparse networks: what blocks divide."""
    width: int = 1280
    """Units of both hidden layers."""
    blocks: tuple[int, ...] = (1, 4, 16, 32, 64)
    """Sides of the blocks; 1: single weights."""
    sparsities: tuple[float, ...] = (0.8, 0.9, 0.95)
    """Fractions of zeros in each hidden layer, in (0, 1)."""
    wider: int = 2560
    """Units of networks that are wider yet, at the highest sparsity."""
    wider_blocks: tuple[int, ...] = (32, 64)
    """Their blocks."""
    dense_widths: tuple[int, ...] = (1280, 640, 320, 160, 80)
    """Units of the dense networks, descending; the first is what times are relative to."""
    controls: tuple[int, ...] = (640, 160)
    """Units of dense networks that take the resized images too."""
    interval: int = 18
    """Steps between updates of the masks."""
    drop_fraction: float = 0.3
    """RigL's at the start; a cosine to 0 at the last update."""
    stop: float = 0.75
    """Where the updates end, as a fraction of the steps."""


class Cell(NamedTuple):
    """A network.

    Attributes:
      width: Units of both hidden layers.
      block: Side of its blocks; 0: dense.
      sparsity: Fraction of zeros in each hidden layer.
      control: Dense, and on resized images as sparse ones are.
    """

    width: int
    block: int = 0
    sparsity: float = 0.0
    control: bool = False

    @property
    def name(self) -> str:
        """Name of the cell."""
        if self.block:
            return f"{self.width}-{self.block}x{self.block}-{self.sparsity:g}"
        return f"{self.width}-dense{'-resized' * self.control}"

    @property
    def resizes(self) -> bool:
        """Does it take images of another size?"""
        return self.control or self.block > 0

    @property
    def multiplies_blocks(self) -> bool:
        """Are its kept blocks alone multiplied, or is a dense kernel made of them each time?"""
        return self.block >= 16


def cells_of(study: Study) -> dict[str, Cell]:
    """Every cell by its name, quick ones first.

    Args:
      study: The study.

    Returns:
      The cells, in the order of training.
    """
    dense = [Cell(width) for width in reversed(study.dense_widths)]
    falling = sorted(study.sparsities, reverse=True)
    sparse = [Cell(study.width, b, s) for b in reversed(study.blocks) for s in falling]
    wider = [Cell(study.wider, b, falling[0]) for b in study.wider_blocks]
    controls = [Cell(width, control=True) for width in study.controls]
    quick = (*dense[:-1], *sparse[:1], *wider, *sparse[1:])
    return {cell.name: cell for cell in (*quick, dense[-1], *controls)}


def check(study: Study) -> None:
    """Refuse a study that cannot run, before anything is loaded or traced.

    Args:
      study: What to check.

    Raises:
      ValueError: one line with the value, the range and the remedy.
    """
    data.check_name(study.data)
    check_counts(study, ("seeds", "steps", "batch_size", "width", "wider", "interval"))
    check_rates(study, ("learning_rate",))
    check_fraction(study.drop_fraction, "drop_fraction")
    check_fraction(study.stop, "stop")
    inputs = study.image[0] * study.image[1]
    for sparsity in study.sparsities:
        check_sparsity(sparsity)
    for cell in cells_of(study).values():
        if cell.block and min(_slots(inputs, cell), _slots(cell.width, cell)) < 0:
            raise ValueError(
                f"{cell.name} of {inputs} inputs: blocks of {cell.block} at {cell.sparsity} do not "
                "fill columns with a whole number; choose another width, image or sparsity"
            )


def _slots(rows: int, cell: Cell) -> int:
    """Blocks kept in a block column; -1 where that is no whole number."""
    kept = rows * (1 - cell.sparsity) / cell.block
    return round(kept) if abs(kept - round(kept)) < 1e-6 and rows % cell.block == 0 else -1


def kept_weights(cell: Cell, inputs: int, classes: int) -> int:
    """Weights of a network, the dense last layer among them, biases not.

    Args:
      cell: The network.
      inputs: Inputs of its first layer.
      classes: Outputs of its last one.

    Returns:
      The count.
    """
    hidden = (inputs + cell.width) * cell.width
    return round(hidden * (1 - cell.sparsity)) + cell.width * classes


def training_flops(study: Study, cell: Cell, inputs: int, classes: int, moves: int) -> float:
    """Operations of a whole training, by the accounting of RigL's authors.

    Args:
      study: The study.
      cell: The network.
      inputs: Inputs of its first layer.
      classes: Outputs of its last one.
      moves: Steps at which masks move, which take the dense gradient.

    Returns:
      Multiplications and additions of the matrix products.
    """
    sparse = 2 * study.batch_size * kept_weights(cell, inputs, classes)
    dense = 2 * study.batch_size * kept_weights(Cell(cell.width), inputs, classes)
    step = lambda reads: float(step_training_flops(dense, sparse, reads))
    return (study.steps - moves) * step(False) + moves * step(True)
