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

    ``label`` is what it is called in legends: its method, and on a page of several runs the run.
    """

    name: str
    label: str
    method: str
    sparsity: float
    folder: pathlib.Path
    metrics: list[dict[str, Any]]
    result: records.Result | None


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
        cells.append(Cell(name, method, method, sparsity, folder, metrics, result))
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
      A style for each label, in order; those of dense cells take the ink and differ in their dash.
    """
    found = plots.styles([cell.label for cell in sparse(cells)])
    dense = dict.fromkeys(cell.label for cell in cells if cell.method == plots.DENSE)
    for index, label in enumerate(dense):
        dash = DENSE_DASHES[index % len(DENSE_DASHES)]
        found[label] = plots.Style(plots.INK, "*", dash)
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
