"""What each layer keeps."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from .. import records, tables
from ..plots import DENSE, INK, PANEL, Style, panel
from . import page
from .cells import Cell, finished

PANELS = 4  # at once; the others are behind a click


def layers_section(cells: Sequence[Cell], look: dict[str, Style]) -> str:
    """The sparsity of each layer at the end of training.

    Args:
      cells: The cells of the run.
      look: Style of each method.

    Returns:
      Markup.
    """
    results = finished(cells)
    parts, methods = [], set()
    for level in sorted({r.sparsity for r in results if r.method != DENSE}):
        mine = [r for r in results if r.sparsity == level and r.method != DENSE]
        label = f"{tables.sparsity_text(level)} sparse"
        drawing = layers_figure(mine, look, title=label)
        if drawing is not None:
            parts.append(page.figure(drawing, f"Sparsity of each layer, {label}"))
            methods |= {r.method for r in mine}
    if not parts:
        return page.section("layers", "Sparsity of each layer", "No layer is sparse.", [])
    text = "At the end of training, mean over seeds; a line at the end of a bar is one sd."
    shown = {method: style for method, style in look.items() if method in methods}
    content = [page.legend(shown), page.grid(parts, PANELS, "The other sparsities")]
    return page.section("layers", "Sparsity of each layer", text, content)


def layers_figure(
    results: Sequence[records.Result], look: dict[str, Style], *, title: str
) -> Figure | None:
    """Sparsity of each layer: a group of bars a layer, a bar a method, seeds as an error bar.

    Args:
      results: Finished cells, all of one sparsity.
      look: Style of each method.
      title: Written above the panel.

    Returns:
      The figure, or None where no layer is sparse.
    """
    counts: dict[str, dict[str, np.ndarray]] = {}
    shapes: dict[str, str] = {}
    for result in results:
        for layer in result.layers:
            if layer.kept is not None and layer.size:
                kept = 1 - np.asarray(layer.kept, dtype=float) / layer.size
                counts.setdefault(layer.path, {})[result.method] = 100 * kept
                shapes[layer.path] = "x".join(map(str, layer.shape))
    if not counts:
        return None
    methods = [method for method in look if any(method in each for each in counts.values())]
    height = 0.8 + len(counts) * (0.34 + 0.17 * len(methods))
    figure, axes = panel(title, (PANEL[0], height))
    y = 0.0
    for path, values in counts.items():
        name = f"{path}  {shapes[path]}"
        axes.text(0, y, name, color=INK, fontsize=9, va="center", parse_math=False)
        y += 1.25
        for method in methods:
            if method in values:
                mean, spread = tables.mean_and_sd(values[method].tolist())
                error = {"xerr": spread, "ecolor": INK} if spread else {}
                axes.barh(y, mean, 0.82, color=look[method].color, **error)
                axes.text(102, y, f"{mean:.1f}", color=INK, fontsize=8, va="center")
            y += 1
        y += 0.75
    axes.set_ylim(y - 0.75, -1)
    axes.set_xlim(0, 112)
    axes.set_xticks([0, 25, 50, 75, 100])
    axes.set_yticks([])
    axes.grid(False, axis="y")
    axes.set_xlabel("zeros in the layer (%)")
    return figure
