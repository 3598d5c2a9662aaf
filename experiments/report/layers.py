"""What each layer keeps, and what it costs."""

from collections.abc import Callable, Mapping, Sequence

from matplotlib.figure import Figure

from .. import records, tables
from ..plots import DENSE, INK, PANEL, Style, panel
from . import page
from .cells import Cell, finished

PANELS = 4  # at once; the others are behind a click

# By path and shape of a layer, then by label: an entry a seed.
Bars = dict[str, dict[str, list[float]]]


def layers_section(cells: Sequence[Cell], look: dict[str, Style]) -> str:
    """The sparsity of each layer at the end of training.

    Args:
      cells: The cells of the run.
      look: Style of each method.

    Returns:
      Markup.
    """
    text = "At the end of training, mean over seeds; a line at the end of a bar is one sd."
    title, axis = "Sparsity of each layer", "zeros in the layer (%)"
    content = _panels(cells, look, _zeros, title, axis, dense=False)
    none = "No layer is sparse." if finished(cells) else "No cell is finished."
    return page.section("layers", title, text if content else none, content)


def flops_section(cells: Sequence[Cell], look: dict[str, Style]) -> str:
    """The FLOPs of each layer at the end of training.

    Args:
      cells: The cells of the run.
      look: Style of each method.

    Returns:
      Markup.
    """
    text = (
        "Forward pass of the finished networks, in percent of all FLOPs of the dense network, on "
        "a machine that skips zeros. Mean over seeds; a line at the end of a bar is one sd."
    )
    title, axis = "FLOPs of each layer", "FLOPs (% of the dense network's)"
    content = _panels(cells, look, flops_of, title, axis, dense=True)
    none = "Not recorded." if finished(cells) else "No cell is finished."
    return page.section("flops", title, text if content else none, content)


def _zeros(layer: records.Layer, result: records.Result) -> list[float] | None:
    del result
    if layer.kept is None or not layer.size:
        return None
    return [100 * (1 - kept / layer.size) for kept in layer.kept]


def flops_of(layer: records.Layer, result: records.Result) -> list[float] | None:
    """FLOPs of a layer in percent of those of the dense network's layers, an entry a seed.

    Args:
      layer: What the result says of it.
      result: Of all layers.

    Returns:
      The percentages, or None where they are not recorded.
    """
    if layer.flops is None:
        return None
    whole = sum(each.flops or 0 for each in result.layers)
    kept = [layer.size] * len(result.seeds) if layer.kept is None else layer.kept
    return [100 * layer.flops * each / (layer.size * whole) for each in kept]


def _panels(
    cells: Sequence[Cell],
    look: dict[str, Style],
    measure: Callable[[records.Layer, records.Result], list[float] | None],
    title: str,
    axis: str,
    *,
    dense: bool,
) -> list[str]:
    """A legend and a panel for each sparsity; nothing where nothing was measured."""
    pairs = finished(cells)
    parts, drawn = [], set()
    levels = sorted({r.sparsity for _, r in pairs if r.method != DENSE}) or [0.0] * dense
    for level in levels:
        found: Bars = {}
        for label, result in pairs:
            if not (dense if result.method == DENSE else result.sparsity == level):
                continue
            for layer in result.layers:
                values = measure(layer, result)
                if values is not None:
                    name = f"{layer.path}  {'x'.join(map(str, layer.shape))}"
                    found.setdefault(name, {})[label] = values
                    drawn.add(label)
        if found:
            where = f"{tables.sparsity_text(level)} sparse"
            figure = bars_figure(found, look, title=where, axis=axis)
            parts.append(page.figure(figure, f"{title}, {where}"))
    if not parts:
        return []
    legend = page.legend({label: style for label, style in look.items() if label in drawn})
    return [legend, page.grid(parts, PANELS, "The other sparsities")]


def bars_figure(bars: Bars, look: Mapping[str, Style], *, title: str, axis: str) -> Figure:
    """A group of bars a layer, a bar a label, seeds as an error bar.

    Args:
      bars: Percentages.
      look: Style of each label.
      title: Written above the panel.
      axis: What the bars measure.

    Returns:
      The figure.
    """
    labels = [label for label in look if any(label in each for each in bars.values())]
    height = 0.8 + len(bars) * (0.34 + 0.17 * len(labels))
    figure, axes = panel(title, (PANEL[0], height))
    top = max(tables.mean_and_sd(v)[0] for each in bars.values() for v in each.values())
    top = 100 if top > 50 else max(top, 1e-9)
    y = 0.0
    for layer, values in bars.items():
        axes.text(0, y, layer, color=INK, fontsize=9, va="center", parse_math=False)
        y += 1.25
        for label in labels:
            if label in values:
                mean, spread = tables.mean_and_sd(values[label])
                error = {"xerr": spread, "ecolor": INK} if spread else {}
                axes.barh(y, mean, 0.82, color=look[label].color, **error)
                beside = 1.02 * max(top, mean + (spread or 0))
                digits = 1 if mean >= 1 or mean == 0 else 2
                text = f"{mean:.{digits}f}"
                axes.text(beside, y, text, color=INK, fontsize=8, va="center")
            y += 1
        y += 0.75
    axes.set_ylim(y - 0.75, -1)
    axes.set_xlim(0, 1.14 * top)
    if top == 100:
        axes.set_xticks([0, 25, 50, 75, 100])
    axes.set_yticks([])
    axes.grid(False, axis="y")
    axes.set_xlabel(axis)
    return figure
