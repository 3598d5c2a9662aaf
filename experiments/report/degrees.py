"""How many connections units and features have: the distributions of degrees."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .. import arrays, tables
from ..plots import Style, panel
from . import page
from .cells import Cell, levels, sparse
from .connections import chosen_layers

PANELS = 8  # at once; the others are behind a click


def degrees_section(cells: Sequence[Cell], look: dict[str, Style]) -> str:
    """Fan-in and fan-out of each sparse layer, at the end of training and at its start.

    Args:
      cells: The cells of the run.
      look: Style of each method.

    Returns:
      Markup.
    """
    saved = {cell.name: arrays.read_masks(cell.folder) for cell in sparse(cells)}
    drawn = [cell for cell in sparse(cells) if saved[cell.name] is not None]
    parts = []
    for level in levels(cells):
        views = {
            cell.label: found[1]
            for cell in drawn
            if cell.sparsity == level and (found := saved[cell.name]) is not None
        }
        paths = dict.fromkeys(path for layers in views.values() for path in layers)
        for path in chosen_layers(paths):
            mine = {label: layers[path] for label, layers in views.items() if path in layers}
            for what, at in (("fan-in", 1), ("fan-out", 2)):
                degrees = {label: view[at] for label, view in mine.items()}
                title = f"{what}, {path}, {tables.sparsity_text(level)} sparse"
                parts.append(page.figure(degrees_figure(degrees, look, title=title), title))
    title = "Degrees"
    if not parts:
        text = "Not recorded." if any(cell.result for cell in cells) else "Nothing yet."
        return page.section("degrees", title, text, [])
    text = (
        "Connections of each unit (fan-in) and of each input feature (fan-out), sorted, first "
        "seed: a flat line is a layer in which all have as many. Solid at the end of training, "
        "dotted at its start, unless nothing moved or the layer was dense then."
    )
    labels = {cell.label for cell in drawn}
    legend = page.legend({label: style for label, style in look.items() if label in labels})
    return page.section("degrees", title, text, [legend, page.grid(parts, PANELS, "More layers")])


def degrees_figure(degrees: dict[str, np.ndarray], look: dict[str, Style], *, title: str) -> Figure:
    """Sorted degrees, a line a label, at the last snapshot and at the first.

    Args:
      degrees: By label [snapshots, units].
      look: Style of each label.
      title: Written above the panel.

    Returns:
      The figure.
    """
    figure, axes = panel(title)
    for label, counts in degrees.items():
        first, last = np.sort(counts[0]), np.sort(counts[-1])
        _steps(axes, last, color=look[label].color, linewidth=1.6)
        if first[0] < first[-1] and (first != last).any():
            _steps(axes, first, color=look[label].color, linewidth=1.4, linestyle=":", alpha=0.9)
    axes.set_xlim(0, 100)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("units from least to most connected (%)")
    return figure


def _steps(axes: Axes, ordered: np.ndarray, **style: Any) -> None:
    """The quantile function of the degrees."""
    edges = np.linspace(0, 100, len(ordered) + 1)
    axes.stairs(ordered, edges, baseline=None, **style)
