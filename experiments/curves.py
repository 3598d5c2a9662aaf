"""Curves over training: what the lines of a cell's metrics hold, and how they are drawn."""

import dataclasses
import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from . import plots, records

MAX_POINTS = 300


@dataclasses.dataclass(frozen=True)
class Cell:
    """What is known of one method at one sparsity, finished or not."""

    name: str
    method: str
    sparsity: float
    metrics: list[dict[str, Any]]
    result: records.Result | None


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


def curves(
    cells: Sequence[Cell], key: str, look: dict[str, plots.Style], *, title: str, scale: float = 1.0
) -> Figure | None:
    """One metric over the steps of training: a mean line and a band of one sd for each cell.

    Args:
      cells: The cells to draw.
      key: Name of the metric.
      look: Style of each method.
      title: Written above the panel.
      scale: Multiplies the values, such as 100 for a percentage.

    Returns:
      The figure, or None where there is nothing to draw.
    """
    figure, axes = plots.panel(title)
    settled: list[float] = []
    drawn: list[float] = []
    for cell in cells:
        steps, values = series(cell, key)
        if not np.isfinite(values).any():
            continue
        mean, spread = mean_and_spread(_thin(values * scale))
        steps = _thin(steps)
        style = look[cell.method]
        low, high = mean - spread, mean + spread
        if key.endswith("loss"):
            low = np.maximum(low, mean / 10)  # a band below zero has no place on a log axis
        axes.fill_between(steps, low, high, color=style.color, alpha=0.18, linewidth=0)
        axes.plot(steps, mean, color=style.color, linestyle=style.line, linewidth=1.6)
        drawn.extend(mean[np.isfinite(mean)])
        settled.extend(each for each in low[len(low) // 3 :] if math.isfinite(each))
    if not drawn:
        return None
    if key.endswith("loss") and min(drawn) > 0 and max(drawn) > 10 * min(drawn):
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
    elif key.endswith("accuracy") and settled:
        bottom, top = min(settled), max(drawn)
        margin = 0.1 * (top - bottom) + 1e-3 * scale
        axes.set_ylim(bottom - margin, min(top + margin, 1.002 * scale))
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    return figure


def gradual(cells: Sequence[Cell]) -> list[Cell]:
    """The cells whose sparsity changes while they train.

    Args:
      cells: Any cells.

    Returns:
      Those, in order.
    """
    found = []
    for cell in cells:
        values = series(cell, "sparsity")[1]
        if values.size and np.nanmax(values, initial=-1) - np.nanmin(values, initial=2) > 1e-4:
            found.append(cell)
    return found


def _thin(values: np.ndarray) -> np.ndarray:
    """At most about MAX_POINTS of the entries, the last among them."""
    stride = max(1, math.ceil(len(values) / MAX_POINTS))
    return values[(len(values) - 1) % stride :: stride]


def _short(value: float) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:g}"
