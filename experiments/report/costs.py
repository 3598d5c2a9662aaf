"""Accuracy against what it costs: weights, and the FLOPs of training."""

import math
import pathlib
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from .. import records, tables
from ..plots import DENSE, INK, Style, panel, points
from . import page
from .cells import Cell, finished, read_cells, styles_of

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
    pairs = finished(cells)
    if not pairs:
        return page.section("accuracy", "Accuracy against cost", "No cell is finished.", [])
    panels = [
        ("Test accuracy (%) against sparsity", accuracy_figure(pairs, look)),
        ("Test accuracy (%) against training FLOPs", cost_figure(pairs, look)),
    ]
    drawn = []
    for title, drawing in panels:
        drawing.axes[0].set_title(title, loc="left", color=INK, fontsize=11)
        drawn.append(page.figure(drawing, title))
    text = (
        "Mean over seeds; bars are one standard deviation. Against sparsity, dense is a "
        "horizontal line, and methods of one sparsity stand side by side. FLOPs are those of a "
        f"machine that skips zeros. {SIMULATED}"
    )
    content = [page.legend({label: look[label] for label, _ in pairs}), page.grid(drawn)]
    return page.section("accuracy", "Accuracy against cost", text, content)


def save_accuracy_png(run: pathlib.Path, path: pathlib.Path) -> None:
    """Save accuracy against sparsity as a picture for a README, on a transparent ground.

    Args:
      run: Folder of the run.
      path: The PNG file.
    """
    _, cells = read_cells(run)
    figure = accuracy_figure(finished(cells), styles_of(cells))
    figure.axes[0].set_title("test accuracy (%)", loc="left", color=INK, fontsize=11)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, labelcolor=INK, fontsize=9)
    figure.savefig(path, dpi=200, transparent=True)


def accuracy_figure(
    pairs: Sequence[tuple[str, records.Result]], look: Mapping[str, Style]
) -> Figure:
    """Test accuracy in percent against sparsity.

    Args:
      pairs: Labels and results of finished cells.
      look: Style of each label.

    Returns:
      The figure, on a transparent ground.
    """
    return against_sparsity([(label, result, _percent(result)) for label, result in pairs], look)


def against_sparsity(
    rows: Sequence[tuple[str, records.Result, Sequence[float]]], look: Mapping[str, Style]
) -> Figure:
    """Any number against sparsity: mean and sd over seeds, a line a label, dense as a line.

    Args:
      rows: Label and result of a finished cell, and an entry a seed.
      look: Style of each label.

    Returns:
      The figure, on a transparent ground.
    """
    sparse = [row for row in rows if row[1].method != DENSE]
    levels = sorted({result.sparsity for _, result, _ in sparse})
    labels = list(dict.fromkeys(label for label, _, _ in sparse))
    figure, axes = panel("")
    for label, result, values in rows:
        if result.method == DENSE:
            mean, spread = tables.mean_and_sd(values)
            low, high = mean - (spread or 0), mean + (spread or 0)
            axes.axhspan(low, high, color=INK, alpha=0.15, linewidth=0)
            axes.axhline(mean, color=INK, linestyle=look[label].line, label=label)
    for index, label in enumerate(labels):
        shift = (index - (len(labels) - 1) / 2) * min(0.13, 0.7 / len(labels))
        mine = sorted((r.sparsity, values) for name, r, values in sparse if name == label)
        places = [levels.index(sparsity) + shift for sparsity, _ in mine]
        points(axes, places, [values for _, values in mine], look[label], label)
    axes.set_xticks(range(len(levels)), [tables.sparsity_text(level) for level in levels])
    if len(levels) > 6:
        axes.tick_params(axis="x", labelrotation=60)
    axes.set_xlim(-0.5, max(len(levels), 1) - 0.5)
    axes.set_xlabel("sparsity")
    return figure


def cost_figure(pairs: Sequence[tuple[str, records.Result]], look: Mapping[str, Style]) -> Figure:
    """Test accuracy in percent against the FLOPs of the whole training, as a fraction of dense.

    Args:
      pairs: Labels and results of finished cells.
      look: Style of each label.

    Returns:
      The figure.
    """
    figure, axes = panel("")
    costs: list[float] = []
    for label in dict.fromkeys(label for label, _ in pairs):
        mine = [result for name, result in pairs if name == label]
        placed = [(tables.mean_and_sd(r.training_flops)[0], _percent(r)) for r in mine]
        placed = sorted(pair for pair in placed if math.isfinite(pair[0]) and pair[0] > 0)
        costs.extend(cost for cost, _ in placed)
        line = mine[0].method != DENSE
        rows = [values for _, values in placed]
        points(axes, [cost for cost, _ in placed], rows, look[label], label, line)
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


def _percent(result: records.Result) -> list[float]:
    return [100 * accuracy for accuracy in result.test_accuracy]
