"""Accuracy against what it costs: weights, and the FLOPs of training."""

import math
import pathlib
from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from .. import records, tables
from ..plots import DENSE, INK, Style, panel, points, styles
from . import page
from .cells import Cell, finished

SIMULATED = (
    "Masks simulate sparsity: accuracy, kept weights and FLOPs are real, time is not, for the "
    "masked weights are still multiplied."
)


def accuracy_section(cells: Sequence[Cell], look: dict[str, Style]) -> str:
    """Test accuracy against sparsity and against FLOPs.

    Args:
      cells: The cells of the run.
      look: Style of each method.

    Returns:
      Markup.
    """
    results = finished(cells)
    if not results:
        return page.section("accuracy", "Accuracy against cost", "No cell is finished.", [])
    panels = [
        ("Test accuracy (%) against sparsity", accuracy_figure(results, legend=False)),
        ("Test accuracy (%) against training FLOPs", cost_figure(results)),
    ]
    drawn = []
    for label, drawing in panels:
        drawing.axes[0].set_title(label, loc="left", color=INK, fontsize=11)
        drawn.append(page.figure(drawing, label))
    text = (
        "Mean over seeds; bars are one standard deviation. Against sparsity, dense is the "
        "horizontal line, and methods of one sparsity stand side by side. FLOPs are those of a "
        f"machine that skips zeros. {SIMULATED}"
    )
    shown = {method: look[method] for method in look if any(r.method == method for r in results)}
    content = [page.legend(shown), page.grid(drawn)]
    return page.section("accuracy", "Accuracy against cost", text, content)


def save_accuracy_png(run: pathlib.Path, path: pathlib.Path) -> None:
    """Save accuracy against sparsity as a picture for a README, on a transparent ground.

    Args:
      run: Folder of the run.
      path: The PNG file.
    """
    accuracy_figure(records.read_results(run)).savefig(path, dpi=200, transparent=True)


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


def _percent(results: Sequence[records.Result]) -> list[list[float]]:
    return [[100 * accuracy for accuracy in result.test_accuracy] for result in results]
