"""The figures of a report, each a matplotlib Figure that reads on a light and on a dark page."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from . import records, tables

INK = "#7c7d7f"  # mid-grey: legible on white and on black; the page puts its own text color here
DENSE = "dense"
PANEL = (4.6, 3.1)  # inches; one panel a figure, so that a phone shows it at full width

# Okabe and Ito's colors that stand out on white and on black alike.
COLORS = ("#0a84c6", "#e08a00", "#0aa377", "#d55e00", "#c565a0", "#b8a000", "#3fb0e8")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (1.5, 1.5), (6, 2, 1.5, 2))


@dataclasses.dataclass(frozen=True)
class Style:
    """How one method is drawn in every figure; ``dash`` is in line widths, empty for solid."""

    color: str
    marker: str
    dash: tuple[float, ...]

    @property
    def line(self) -> Any:
        """The dash as matplotlib takes it."""
        return (0, self.dash) if self.dash else "-"


def styles(methods: Sequence[str]) -> dict[str, Style]:
    """A color, a marker and a dash for each method; dense takes the ink.

    Args:
      methods: Names, in order, with or without repeats.

    Returns:
      A style for each name; no two are the same for up to 28 sparse methods.
    """
    found: dict[str, Style] = {}
    for method in dict.fromkeys(methods):
        if method == DENSE:
            found[method] = Style(INK, "*", (4, 2))
            continue
        index = sum(name != DENSE for name in found)
        turn = index // len(COLORS)
        found[method] = Style(
            color=COLORS[index % len(COLORS)],
            marker=MARKERS[(index + turn) % len(MARKERS)],
            dash=DASHES[turn % len(DASHES)],
        )
    return found


def dress(axes: Axes, title: str, label_size: int = 10) -> None:
    """Put a panel into the ink, on a transparent ground.

    Args:
      axes: The panel.
      title: Written above it.
      label_size: Of the numbers at its ticks, in points.
    """
    axes.patch.set_alpha(0)
    axes.set_title(title, loc="left", color=INK, fontsize=11)
    axes.tick_params(colors=INK, which="both", labelsize=label_size, length=3)
    axes.xaxis.label.set_color(INK)
    axes.grid(True, color=INK, alpha=0.22, linewidth=0.7)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)


def panel(title: str, size: tuple[float, float] = PANEL) -> tuple[Figure, Axes]:
    """A figure with one panel, in the ink, on a transparent ground.

    Args:
      title: Written above the panel.
      size: Width and height in inches.

    Returns:
      The figure and its panel.
    """
    figure = Figure(figsize=size, layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.subplots()
    dress(axes, title)
    return figure, axes


def accuracy_figure(results: Sequence[records.Result], *, legend: bool = True) -> Figure:
    """Test accuracy against sparsity: mean and sd over seeds, a line a method, dense as a line.

    Args:
      results: Finished cells.
      legend: Name the methods below the panel.

    Returns:
      The figure, on a transparent ground.
    """
    look = styles([result.method for result in results])
    sparse = [result for result in results if result.method != DENSE]
    levels = sorted({result.sparsity for result in sparse})
    methods = list(dict.fromkeys(result.method for result in sparse))
    figure, axes = panel("test accuracy (%)" if legend else "")
    for result in results:
        if result.method == DENSE:
            mean, spread = tables.mean_and_sd(result.test_accuracy)
            low, high = 100 * (mean - (spread or 0)), 100 * (mean + (spread or 0))
            axes.axhspan(low, high, color=INK, alpha=0.15, linewidth=0)
            axes.axhline(100 * mean, color=INK, linestyle=look[DENSE].line, label=DENSE)
    for index, method in enumerate(methods):
        shift = (index - (len(methods) - 1) / 2) * min(0.13, 0.7 / len(methods))
        mine = [r for r in sparse if r.method == method]
        mine.sort(key=lambda result: result.sparsity)
        places = [levels.index(result.sparsity) + shift for result in mine]
        points(axes, places, _percent(mine), look[method], method)
    axes.set_xticks(range(len(levels)), [tables.sparsity_text(level) for level in levels])
    if len(levels) > 6:
        axes.tick_params(axis="x", labelrotation=60)
    axes.set_xlim(-0.5, max(len(levels), 1) - 0.5)
    axes.set_xlabel("sparsity")
    if legend and results:
        figure.legend(
            loc="outside lower center", ncols=3, frameon=False, labelcolor=INK, fontsize=9
        )
    return figure


def cost_figure(results: Sequence[records.Result]) -> Figure:
    """Test accuracy against the FLOPs of the whole training, as a fraction of dense.

    Args:
      results: Finished cells.

    Returns:
      The figure.
    """
    look = styles([result.method for result in results])
    figure, axes = panel("")
    costs: list[float] = []
    for method in look:
        mine = [result for result in results if result.method == method]
        placed = [(tables.mean_and_sd(result.training_flops)[0], result) for result in mine]
        placed = sorted(
            ((x, r) for x, r in placed if math.isfinite(x) and x > 0), key=lambda pair: pair[0]
        )
        costs.extend(x for x, _ in placed)
        line = method != DENSE
        rows = _percent([result for _, result in placed])
        points(axes, [x for x, _ in placed], rows, look[method], method, line)
    if costs and max(costs) > 4 * min(costs):
        axes.set_xscale("log")
        ticks = [1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001]
        low, high = min(costs) / 1.4, max(max(costs), 1) * 1.4
        axes.set_xlim(low, high)
        axes.set_xticks([tick for tick in ticks if low <= tick <= high])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("training FLOPs, fraction of dense")
    return figure


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


def points(
    axes: Axes,
    places: Sequence[float],
    values: Sequence[Sequence[float]],
    style: Style,
    label: str,
    line: bool = True,
) -> None:
    """Mean and standard deviation over seeds, a point a place.

    Args:
      axes: The panel.
      places: Where on its x axis.
      values: For each place an entry a seed.
      style: How it is drawn.
      label: In the legend.
      line: Join the points?
    """
    pairs = [tables.mean_and_sd(each) for each in values]
    axes.errorbar(
        places,
        [mean for mean, _ in pairs],
        yerr=[spread or 0 for _, spread in pairs],
        color=style.color,
        marker=style.marker,
        linestyle=style.line if line else "none",
        linewidth=1.4,
        markersize=9 if style.marker == "*" else 6,
        capsize=2.5,
        label=label.replace("$", r"\$"),
    )


def _percent(results: Sequence[records.Result]) -> list[list[float]]:
    return [[100 * accuracy for accuracy in result.test_accuracy] for result in results]
