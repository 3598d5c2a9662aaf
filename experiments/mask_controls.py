"""Does it matter which weights are kept? LeNet-300-100: ``python -m experiments.mask_controls``.

Claim (Frankle et al., 2021): masks that SNIP, GraSP and SynFlow find before training may be
shuffled within each layer, or put on other first weights, and nothing is lost; masks of magnitudes
after training may not. Expected: differences within 0.3 points up to 95 %. Each mask is trained as
it is, shuffled, on other first weights, and inverted (each layer keeps as many of the weights that
are worth least), beside a random mask with the same sparsity in all layers. Ctrl-C and kill lose
the cell in work and no more: the same command goes on.
"""

import dataclasses
import functools
import pathlib
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import tyro

import jaxsparse
from jaxsparse import saliency, tree_top_k_masks
from jaxsparse._tree import map_masks
from jaxsparse.pruning import keep_all
from jaxsparse.saliency import Saliency
from jaxsparse.schedules import check_sparsity

from . import data, mask_controls_page, mask_sources, masked, records
from .config import Model
from .mask_controls_page import CONTROLS, METHODS

_NAME = "mask_controls"


@dataclasses.dataclass(frozen=True)
class Study(masked.Training):
    """What is trained: all that the numbers depend on."""

    widths: tuple[int, ...] = (300, 100)
    """Units of each hidden layer."""
    sparsities: tuple[float, ...] = (0.9, 0.95, 0.99)
    """Fractions of zeros over all layers, each in [0, 1)."""


@dataclasses.dataclass(frozen=True)
class Arguments(masked.Arguments):
    """Train what is not finished, then write the page."""

    study: tyro.conf.OmitArgPrefixes[Study] = dataclasses.field(default_factory=Study)


class Cell(NamedTuple):
    """What is trained: ``dense``, ``random`` or a method; under which control; how sparse."""

    method: str
    control: str
    sparsity: float

    @property
    def name(self) -> str:
        """Name of the cell."""
        if self.method == "dense":
            return self.method
        return f"{self.method}-{self.control}-{self.sparsity:g}"


def cells_of(study: Study) -> dict[str, Cell]:
    """Every cell by its name.

    Args:
      study: The study.

    Returns:
      The cells, in the order of training.
    """
    cells = [Cell("dense", "as_is", 0.0)]
    for sparsity in study.sparsities:
        cells.append(Cell("random", "as_is", sparsity))
        cells += [Cell(method, control, sparsity) for method in METHODS for control in CONTROLS]
    return {cell.name: cell for cell in cells}


def least(of: tuple[Saliency, int], params: Any, masks: Any) -> Any:
    """As many weights in each layer, those that are worth least.

    Args:
      of: An entry of ``mask_sources.saliencies``; asked once, at the dense network.
      params: The weights it looks at, with a seed axis.
      masks: Say how many, with a seed axis.

    Returns:
      Masks like them.
    """

    def one(params: Any, masks: Any) -> Any:
        counts = map_masks(lambda mask: jnp.sum(mask, dtype=jnp.int32), masks)
        return tree_top_k_masks(saliency.inverted(of[0])(params, keep_all(params)), counts)

    return jax.device_get(jax.jit(jax.vmap(one))(params, masks))


class Lab:
    """Trains the cells of the study."""

    def __init__(self, study: Study, dataset: data.Dataset, run: pathlib.Path) -> None:
        """Compile nothing yet."""
        self._cells = cells_of(study)
        self._trained = records.cell_folder(run, "dense") / "trained.npz"
        self._trainer = masked.Trainer(study, Model("mlp", widths=study.widths), dataset)
        self._values = mask_sources.saliencies(self._trainer.measures)
        self._first = self._trainer.initial()
        self._found = functools.lru_cache(maxsize=1)(self._find)

    def __call__(self, name: str, show: masked.Show) -> masked.Result:
        """Train one cell; the dense network's weights are kept for magnitudes."""
        cell = self._cells[name]
        params, masks = self.start(cell)
        result, trained = self._trainer.train(name, params, self._first[1], masks, show)
        if cell.method == "dense":
            records.write_leaves(self._trained, trained)
        return result

    def start(self, cell: Cell) -> tuple[Any, Any]:
        """First weights and masks of a cell.

        Args:
          cell: The cell.

        Returns:
          Both, with a seed axis.
        """
        params, _, whole = self._first
        if cell.method == "dense":
            return params, whole
        if cell.method == "random":
            uniform = jaxsparse.uniform
            return params, mask_sources.random_masks(cell.name, uniform, params, cell.sparsity)
        masks = self._found(cell.method, cell.sparsity)
        looked_at = self._looked_at(cell.method)
        return {
            "as_is": lambda: (params, masks),
            "shuffled": lambda: (params, mask_sources.shuffled(cell.name, masks)),
            "reinitialized": lambda: (self._trainer.initial(1)[0], masks),
            "inverted": lambda: (params, least(self._values[cell.method], looked_at, masks)),
        }[cell.control]()

    def _looked_at(self, method: str) -> Any:
        params, batch_stats, whole = self._first
        if method != "magnitude":
            return params
        if not self._trained.exists():  # the dense cell is in work elsewhere, or comes later
            _, trained = self._trainer.train("dense", params, batch_stats, whole, lambda *_: None)
            records.write_leaves(self._trained, trained)
        return records.read_leaves(self._trained, params)

    def _find(self, method: str, sparsity: float) -> Any:
        return mask_sources.best_masks(self._values[method], self._looked_at(method), sparsity)


def check(study: Study) -> None:
    """Refuse a study that cannot run, before anything is loaded or traced.

    Args:
      study: What to check.

    Raises:
      ValueError: one line with the value, the range and the remedy.
    """
    masked.check_training(study)
    for sparsity in study.sparsities:
        check_sparsity(sparsity)


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
        open_lab=lambda dataset, run: Lab(study, dataset, run),
        markdown=mask_controls_page.markdown,
        figure=mask_controls_page.figure,
    )


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments, description=__doc__)))
