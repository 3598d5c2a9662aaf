"""Curves over training: accuracy, loss, and the sparsity of methods that change it."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from .. import plots, tables
from . import page
from .cells import Cell, levels, mean_and_spread, series, sparse

MAX_POINTS = 300
POSITIVE = ("train_loss", "test_loss", "grad_norm")  # on a log axis where they range far
PANELS = 8  # at once; the others are behind a click


def learning_section(cells: Sequence[Cell], look: dict[str, plots.Style]) -> str:
    """Test accuracy and train loss over the steps of training.

    Args:
      cells: The cells of the run.
      look: Style of each method.

    Returns:
      Markup.
    """
    text = (
        "Mean over seeds, with a band of one standard deviation. The accuracy axis starts where "
        "the last two thirds of training lie."
    )
    panels = (("test_accuracy", "test accuracy (%)", 100.0), ("train_loss", "train loss", 1.0))
    parts = _panels(cells, look, panels, "Learning curves: ")
    content = [page.legend(_drawn(cells, look)), page.grid(parts, PANELS, "The other sparsities")]
    return page.section("learning", "Learning curves", text if parts else "Nothing yet.", content)


def _panels(
    cells: Sequence[Cell],
    look: dict[str, plots.Style],
    panels: Sequence[tuple[str, str, float]],
    said: str = "",
) -> list[str]:
    """A figure for each sparsity and metric (key, title, scale); ``said`` comes before its name."""
    parts = []
    for level in levels(cells):
        mine = [cell for cell in cells if cell.method == plots.DENSE or cell.sparsity == level]
        where = f", {tables.sparsity_text(level)} sparse" if sparse(cells) else ""
        for key, what, scale in panels:
            drawing = curves(mine, key, look, title=what + where, scale=scale)
            if drawing is not None:
                parts.append(page.figure(drawing, f"{said}{what}{where}"))
    return parts


def gradient_section(cells: Sequence[Cell], look: dict[str, plots.Style]) -> str:
    """The norm of the gradient over the steps of training.

    Args:
      cells: The cells of the run.
      look: Style of each method.

    Returns:
      Markup.
    """
    parts = _panels(cells, look, [("grad_norm", "gradient norm", 1.0)])
    text = (
        "L2 norm of the whole gradient, absent weights included, at the weights of the forward "
        "pass. Each point is the mean over the steps since the one before; a band is one standard "
        "deviation over seeds."
    )
    content = [page.legend(_drawn(cells, look)), page.grid(parts, PANELS, "The other sparsities")]
    return page.section("gradients", "Gradient norm", text if parts else "Nothing yet.", content)


def sparsity_section(cells: Sequence[Cell], look: dict[str, plots.Style]) -> str:
    """The sparsity of the methods that change it while they train.

    Args:
      cells: The cells of the run.
      look: Style of each method.

    Returns:
      Markup.
    """
    moving = gradual(cells)
    title = "Sparsity over training"
    drawing = curves(moving, "sparsity", look, title="zeros (%)", scale=100)
    if drawing is None:
        text = "Each method kept its sparsity from the first step to the last."
        return page.section("sparsity", title, text, [])
    still = [c.label for c in sparse(cells) if c not in moving and c.metrics]
    text = "Methods whose sparsity changes while they train; a line a cell."
    if still:
        text += f" Constant from the first step: {', '.join(dict.fromkeys(still))}."
    content = [page.legend(_drawn(moving, look)), page.grid([page.figure(drawing, title)])]
    return page.section("sparsity", title, text, content)


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
        style = look[cell.label]
        low, high = mean - spread, mean + spread
        if key in POSITIVE:
            low = np.maximum(low, mean / 10)  # a band below zero has no place on a log axis
        axes.fill_between(steps, low, high, color=style.color, alpha=0.18, linewidth=0)
        axes.plot(steps, mean, color=style.color, linestyle=style.line, linewidth=1.6)
        drawn.extend(mean[np.isfinite(mean)])
        settled.extend(each for each in low[len(low) // 3 :] if math.isfinite(each))
    if not drawn:
        return None
    if key in POSITIVE and min(drawn) > 0 and max(drawn) > 10 * min(drawn):
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


def _drawn(cells: Sequence[Cell], look: dict[str, plots.Style]) -> dict[str, plots.Style]:
    labels = {cell.label for cell in cells if cell.metrics}
    return {label: style for label, style in look.items() if label in labels}


def _thin(values: np.ndarray) -> np.ndarray:
    """At most about MAX_POINTS of the entries, the last among them."""
    stride = max(1, math.ceil(len(values) / MAX_POINTS))
    return values[(len(values) - 1) % stride :: stride]


def _short(value: float) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:g}"
