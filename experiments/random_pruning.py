"""How good are random masks? Small conv nets: ``python -m experiments.random_pruning``.

Claim (Liu et al., 2022): with sparsities that suit the layers, networks under random masks come
close to dense ones, the closer the wider and deeper they are; ERK is above uniform, and not below
the masks of SNIP and GraSP. Expected: the gap to dense halves over each sweep. Six layer-wise
sparsities: ERK, ERK with a dense last layer, uniform, uniform with a dense first layer, and those
of the masks that SNIP and GraSP find on the same first weights. Ctrl-C and kill lose the cell in
work and no more: the same command goes on.
"""

import dataclasses
import functools
import sys
from typing import Any, NamedTuple

import tyro

import jaxsparse
from jaxsparse.schedules import check_sparsity

from . import data, mask_sources, masked, random_pruning_page
from .config import Model
from .random_pruning_page import FOUND, RATIOS

_NAME = "random_pruning"
_FIRST, _LAST = "conv1/kernel", "head/kernel"
_DISTRIBUTIONS = {
    "erk": jaxsparse.erk,
    "erk_plus": functools.partial(jaxsparse.erk_plus, last=_LAST),
    "uniform": jaxsparse.uniform,
    "uniform_plus": functools.partial(jaxsparse.uniform_plus, first=_FIRST, last=_LAST),
}


@dataclasses.dataclass(frozen=True)
class Study(masked.Training):
    """What is trained: all that the numbers depend on."""

    data: str = "fashion_mnist"
    """Data set, whole."""
    seeds: int = 3
    """Number of seeds: 0, 1, 2, ..."""
    width: int = 16
    """Channels of the networks of the depth sweep."""
    depth: int = 4
    """Convolutions of the networks of the width sweep."""
    widths: tuple[int, ...] = (8, 16, 32)
    """Channels, ascending."""
    depths: tuple[int, ...] = (2, 4, 8)
    """Convolutions, ascending."""
    sparsity: float = 0.9
    """Fraction of zeros over all layers, in [0, 1)."""


@dataclasses.dataclass(frozen=True)
class Arguments(masked.Arguments):
    """Train what is not finished, then write the page."""

    study: tyro.conf.OmitArgPrefixes[Study] = dataclasses.field(default_factory=Study)


class Cell(NamedTuple):
    """What is trained: a network, dense or under the masks of an arm."""

    width: int
    depth: int
    arm: str

    @property
    def name(self) -> str:
        """Name of the cell."""
        return f"{self.width}x{self.depth}-{self.arm}"


def cells_of(study: Study) -> dict[str, Cell]:
    """Every cell by its name; SNIP's and GraSP's own masks in the width sweep only.

    Args:
      study: The study.

    Returns:
      The cells, in the order of training.
    """
    wide = [(width, study.depth) for width in study.widths]
    deep = [(study.width, depth) for depth in study.depths]
    cells = [
        Cell(*net, arm)
        for net in dict.fromkeys(wide + deep)
        for arm in ("dense", *RATIOS, *(FOUND if net in wide else ()))
    ]
    return {cell.name: cell for cell in cells}


class Lab:
    """Trains the cells of the study."""

    def __init__(self, study: Study, dataset: data.Dataset) -> None:
        """Compile nothing yet."""
        self._study, self._dataset, self._cells = study, dataset, cells_of(study)
        self._open = functools.lru_cache(maxsize=1)(self._open_network)
        self._found = functools.lru_cache(maxsize=2)(self._find)

    def __call__(self, name: str, show: masked.Show) -> masked.Result:
        """Train one cell."""
        cell = self._cells[name]
        trainer, (params, batch_stats, _) = self._open(cell.width, cell.depth)
        return trainer.train(name, params, batch_stats, self.masks(cell), show)[0]

    def masks(self, cell: Cell) -> Any:
        """The masks of a cell.

        Args:
          cell: The cell.

        Returns:
          Masks, with a seed axis.
        """
        _, (params, _, whole) = self._open(cell.width, cell.depth)
        sparsity = self._study.sparsity
        if cell.arm == "dense":
            return whole
        if cell.arm in _DISTRIBUTIONS:
            return mask_sources.random_masks(cell.name, _DISTRIBUTIONS[cell.arm], params, sparsity)
        method = cell.arm.removesuffix("_ratio")
        found = self._found(cell.width, cell.depth, method)
        return found if cell.arm == method else mask_sources.shuffled(cell.name, found)

    def _open_network(self, width: int, depth: int) -> tuple[masked.Trainer, Any]:
        model = Model("plain-conv", depth=depth, width=width)
        # One seed at a time: what a step works on then stays in the cache of the processor.
        trainer = masked.Trainer(self._study, model, self._dataset, lanes=1)
        return trainer, trainer.initial()

    def _find(self, width: int, depth: int, method: str) -> Any:
        trainer, (params, _, _) = self._open(width, depth)
        value = mask_sources.saliencies(trainer.measures)[method]
        return mask_sources.best_masks(value, params, self._study.sparsity)


def check(study: Study) -> None:
    """Refuse a study that cannot run, before anything is loaded or traced.

    Args:
      study: What to check.

    Raises:
      ValueError: one line with the value, the range and the remedy.
    """
    masked.check_training(study)
    check_sparsity(study.sparsity)
    for name in ("widths", "depths"):
        sizes = getattr(study, name)
        if not sizes or list(sizes) != sorted({*sizes}) or sizes[0] < 1:
            raise ValueError(f"{name} is {sizes}; give positive numbers in ascending order")


def main(given: Arguments) -> int:
    """Train what is missing, and write the results.

    Args:
      given: The command line.

    Returns:
      Exit code: 0, 2 for a study that cannot run, 130 for one stopped on request.
    """
    study = given.study
    return masked.main(
        given,
        study,
        _NAME,
        check=lambda: check(study),
        cells=list(cells_of(study)),
        open_lab=lambda dataset, run: Lab(study, dataset),
        markdown=random_pruning_page.markdown,
        figure=random_pruning_page.figure,
    )


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments, description=__doc__)))
