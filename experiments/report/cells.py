"""What is known of the cells of a run, finished or not."""

import dataclasses
import pathlib
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import plots, records

DENSE_DASHES = ((4, 2), (1.5, 1.5), (8, 3), (6, 2, 1.5, 2))


@dataclasses.dataclass(frozen=True)
class Cell:
    """What is known of one method at one sparsity, finished or not.

    ``run`` is the name of its run on a page of several, empty on the page of one.
    """

    name: str
    method: str
    sparsity: float
    folder: pathlib.Path
    metrics: list[dict[str, Any]]
    result: records.Result | None
    run: str = ""

    @property
    def label(self) -> str:
        """What it is called in legends and tables: its method, and the run where there are more."""
        return f"{self.method} · {self.run}" if self.run else self.method


def read_cells(run: pathlib.Path) -> tuple[dict[str, Any], list[Cell]]:
    """What is known of a run.

    Args:
      run: Folder of the run.

    Returns:
      What ``run.json`` says, and the cells it names, in its order.

    Raises:
      FileNotFoundError: if the folder holds no run.
    """
    about = records.read_json(run / "run.json")
    if about is None:
        raise FileNotFoundError(f"{run} holds no run.json; give the folder of a run")
    cells = []
    for name in about["cells"]:
        folder = records.cell_folder(run, name)
        result = records.read_result(folder)
        method, sparsity = (result.method, result.sparsity) if result else _parse(name)
        metrics = records.read_metrics(folder)
        cells.append(Cell(name, method, sparsity, folder, metrics, result))
    return about, cells


def series(cell: Cell, key: str) -> tuple[np.ndarray, np.ndarray]:
    """One metric of a cell over training.

    Args:
      cell: The cell.
      key: Name of the metric.

    Returns:
      Steps [T] and values [T, seeds]; what is not finite, or was not measured, is NaN.
    """
    kept = [row for row in cell.metrics if row.get(key) is not None]
    width = max((np.size(row[key]) for row in kept), default=0)
    values = np.full((len(kept), width), np.nan)
    for index, row in enumerate(kept):
        entries = np.atleast_1d(np.asarray(row[key], dtype=float))
        values[index, : entries.size] = entries
    values[~np.isfinite(values)] = np.nan
    return np.asarray([row["step"] for row in kept], dtype=float), values


def mean_and_spread(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sample standard deviation over the last axis, of the finite values.

    Args:
      values: [T, seeds], NaN where there is no value.

    Returns:
      Two arrays [T]; the deviation is 0 where fewer than two values are there.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # rows without a finite value stay NaN
        mean, spread = np.nanmean(values, axis=-1), np.nanstd(values, axis=-1, ddof=1)
    return mean, np.nan_to_num(spread)


def styles_of(cells: Sequence[Cell]) -> dict[str, plots.Style]:
    """How each label is drawn in every figure of a page.

    Args:
      cells: The cells of the page.

    Returns:
      A style for each label, in order. Dense cells take the ink. Of several runs, a method has
      one color, and a run one marker and dash, for up to 7 methods and 4 runs; beyond that each
      label has a style of its own.
    """
    methods = list(dict.fromkeys(cell.method for cell in sparse(cells)))
    runs = list(dict.fromkeys(cell.run for cell in cells))
    found = plots.styles([cell.label for cell in sparse(cells)])
    by_run = len(methods) <= len(plots.COLORS) and 1 < len(runs) <= len(plots.DASHES)
    for cell in cells:
        run = runs.index(cell.run)
        if cell.method == plots.DENSE:
            dash = DENSE_DASHES[run % len(DENSE_DASHES)]
            found[cell.label] = plots.Style(plots.INK, "*", dash)
        elif by_run:
            color = plots.COLORS[methods.index(cell.method)]
            found[cell.label] = plots.Style(color, plots.MARKERS[run], plots.DASHES[run])
    return {label: found[label] for label in dict.fromkeys(cell.label for cell in cells)}


def finished(cells: Sequence[Cell]) -> list[tuple[str, records.Result]]:
    """Label and result of the cells that have one, in order."""
    return [(cell.label, cell.result) for cell in cells if cell.result is not None]


def sparse(cells: Sequence[Cell]) -> list[Cell]:
    """All cells but the dense one."""
    return [cell for cell in cells if cell.method != plots.DENSE]


def levels(cells: Sequence[Cell]) -> list[float]:
    """The sparsities of the sparse cells, from low to high; 0 where there is none."""
    return sorted({cell.sparsity for cell in sparse(cells)}) or [0.0]


def _parse(name: str) -> tuple[str, float]:
    """Method and sparsity of an unfinished cell, from its name such as ``rigl-0.9``."""
    method, _, sparsity = name.rpartition("-")
    try:
        return (method, float(sparsity)) if method else (name, 0.0)
    except ValueError:
        return name, 0.0
