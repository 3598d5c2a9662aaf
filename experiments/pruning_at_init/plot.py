"""The figure of the study of pruning at initialization."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from ..plots import INK, Style, dress, styles
from ..tables import mean_and_sd
from .cells import Result
from .claims import of_method
from .page import LABELS


def figure(results: Sequence[Result]) -> Figure:
    """Accuracy over compression; below it what is left of each layer, a panel a compression.

    Args:
      results: Finished cells.

    Returns:
      The figure, on a transparent ground.
    """
    look = styles(["dense", *LABELS])
    drawing = Figure(figsize=(10.4, 7.6), layout="constrained")
    drawing.patch.set_alpha(0)
    grid = drawing.add_gridspec(2, 4, height_ratios=(1.15, 1))
    top = drawing.add_subplot(grid[0, :])
    _accuracy(top, results, look)
    chosen = _chosen(results)
    panels = []
    for i, exponent in enumerate(chosen):
        axes = drawing.add_subplot(grid[1, i], sharey=panels[0] if panels else None)
        panels.append(axes)
        _layers(axes, results, exponent, look, first=i == 0)
    handles = {}
    for axes in (top, *panels):
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if handles:
        drawing.legend(
            handles.values(),
            handles.keys(),
            loc="outside lower center",
            ncols=8,
            frameon=False,
            labelcolor=INK,
            fontsize=9,
        )
    return drawing


def _accuracy(axes: Axes, results: Sequence[Result], look: dict[str, Style]) -> None:
    dress(axes, "test accuracy (%); ringed: a layer is empty in every seed", label_size=9)
    trained = [r for r in results if r.trained]
    levels = sorted({r.exponent for r in trained if r.method != "dense"})
    for method, label in {"dense": "dense", **LABELS}.items():
        rows = of_method(trained, method)
        if not rows:
            continue
        pairs = [mean_and_sd([100 * x for x in r.test_accuracy]) for r in rows]
        means, style = [mean for mean, _ in pairs], look[method]
        if method == "dense":
            axes.axhline(means[0], color=style.color, linestyle=style.line, label=label)
            continue
        # Side by side, so that error bars do not hide each other.
        shift = 0.014 * (list(LABELS).index(method) - 2.5)
        places = [10 ** (r.exponent + shift) for r in rows]
        axes.errorbar(
            places,
            means,
            yerr=[spread or 0 for _, spread in pairs],
            color=style.color,
            marker=style.marker,
            linestyle=style.line,
            linewidth=1.4,
            markersize=5,
            capsize=2.5,
            label=label,
        )
        ringed = [(x, y) for x, y, r in zip(places, means, rows, strict=True) if all(r.collapsed)]
        for x, y in ringed:
            axes.plot(x, y, "o", ms=11, mfc="none", mec=style.color, mew=1.2)
    axes.set_xscale("log")
    _powers(axes, levels)
    axes.set_xlabel("compression: weights / weights kept")


def _powers(axes: Axes, levels: Sequence[float]) -> None:
    axes.xaxis.set_major_locator(FixedLocator([10**level for level in levels]))
    axes.set_xticklabels([rf"$10^{{{level:g}}}$" for level in levels])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _chosen(results: Sequence[Result]) -> list[float]:
    """Up to four compressions for the panels of layers: whole powers of ten, and the highest."""
    pruned = [r for r in results if r.method != "dense"]
    levels = sorted({r.exponent for r in pruned if r.trained})
    whole = [level for level in levels if level == int(level)]
    highest = sorted({r.exponent for r in pruned if not r.trained} - set(levels))
    return [*(whole or levels)[-3:], *highest[-1:]][:4]


def _layers(
    axes: Axes, results: Sequence[Result], exponent: float, look: dict[str, Style], *, first: bool
) -> None:
    """The share of each layer left, in the seed with the least; none is the last line."""
    dress(axes, f"weights left, $10^{{{exponent:.3g}}}$", label_size=8)
    rows = [r for r in results if r.exponent == exponent and r.method in LABELS]
    floor = _floor(results)
    paths: list[str] = list(rows[0].sizes) if rows else []
    for index, row in enumerate(rows):
        style = look[row.method]
        shares = [min(row.kept[path]) / row.sizes[path] for path in paths]
        axes.plot(
            [x + 0.05 * (index - len(rows) / 2) for x in range(len(paths))],
            [max(share, floor) for share in shares],
            color=style.color,
            marker=style.marker,
            linestyle=style.line,
            linewidth=1.1,
            markersize=4,
            label=LABELS[row.method],
        )
    axes.set_yscale("log")
    axes.set_ylim(floor / 1.8, 1.6)
    decades = range(round(math.log10(floor)) + 1, 1)
    axes.yaxis.set_major_locator(FixedLocator([floor, *(10.0**d for d in decades)]))
    axes.set_yticklabels(["none", *(f"{100 * 10.0**d:g} %" for d in decades)])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.axhline(floor, color=INK, linewidth=0.8, linestyle=(0, (2, 2)))
    if not first:
        axes.tick_params(labelleft=False)
    names = [path.removesuffix("/kernel").removeprefix("conv").replace("_", ".") for path in paths]
    axes.set_xticks(range(len(paths)), names, rotation=60)


def _floor(results: Sequence[Result]) -> float:
    """Where "none" is drawn: a decade below what a single weight is of the largest layer."""
    largest = max(max(r.sizes.values()) for r in results)
    return 10.0 ** (math.floor(-math.log10(largest)) - 1)
