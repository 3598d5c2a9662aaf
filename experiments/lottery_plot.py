"""The figure of a study of lottery tickets."""

import statistics
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from .lottery_claims import Find, finder
from .lottery_page import ARMS
from .plots import INK, Style, dress, points, styles
from .rounds import Result


def figure(results: Sequence[Result], config: dict[str, Any]) -> Figure:
    """Accuracy and early stop against the weights kept, a line an arm.

    Args:
      results: Finished trainings.
      config: The study.

    Returns:
      The figure, on a transparent ground.
    """
    mine = [r for r in results if r.data == config["data"]]
    look = styles(["dense", *ARMS])
    drawing = Figure(figsize=(9.6, 4.1), layout="constrained")
    drawing.patch.set_alpha(0)
    left, right = drawing.subplots(1, 2)
    for axes, title, values in (
        (left, "test accuracy at the early stop (%)", _accuracies),
        (right, "iteration of the early stop", _stops),
    ):
        _dress(axes, title, [100 * r.density for r in mine])
        for arm, label in {"dense": "dense", **ARMS}.items():
            rows = sorted((r for r in mine if r.arm == arm), key=lambda r: -r.density)
            if rows:
                _draw(axes, rows, values, look[arm], label)
    _marks(left, right, finder(results, config["data"]))
    if mine:
        handles, labels = left.get_legend_handles_labels()
        drawing.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=4,
            frameon=False,
            labelcolor=INK,
            fontsize=9,
        )
    return drawing


def _accuracies(result: Result) -> list[float]:
    return [100 * value for value in result.test_accuracy]


def _stops(result: Result) -> list[float]:
    return [float(step) for step in result.best_step]


def _draw(axes: Axes, rows: list[Result], values: Any, style: Style, label: str) -> None:
    if label == "dense":
        mean = statistics.fmean(values(rows[0]))
        axes.axhline(mean, color=style.color, linestyle=style.line, linewidth=1.2)
    places = [100 * row.density for row in rows]
    points(axes, places, [values(row) for row in rows], style, label)


def _marks(left: Axes, right: Axes, find: Find) -> None:
    """What the paper says relative to dense and to the ticket, beside our own numbers of those."""
    mean = lambda arm, density, values: statistics.fmean(values(find(arm, density)))
    marks = []
    try:
        marks += [
            (left, 13.5, mean("dense", 100, _accuracies) + 0.3),
            (left, 3.6, mean("dense", 100, _accuracies)),
            (right, 21.1, (1 - 0.38) * mean("dense", 100, _stops)),
        ]
        marks.append((left, 21.1, mean("ticket", 21.1, _accuracies) - 0.5))
        marks.append((right, 21.1, 2.51 * mean("ticket", 21.1, _stops)))
    except KeyError:
        pass
    for index, (axes, x, y) in enumerate(marks):
        label = "published, relative to ours" if index == 0 else None
        axes.plot(x, y, "o", ms=10, mfc="none", mec=INK, mew=1.4, label=label, zorder=5)


def _dress(axes: Axes, title: str, densities: Sequence[float]) -> None:
    dress(axes, title, label_size=9)
    axes.set_xscale("log")
    axes.set_xlim(115, min([*densities, 80]) / 1.12)
    shown = [x for x in (100, 51.3, 21.1, 13.5, 7, 3.6, 2) if x > min([*densities, 80]) / 1.12]
    axes.set_xticks(shown, [f"{x:g}" for x in shown])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("weights kept (%)")
