"""The figures of a report, each a matplotlib Figure that reads on a light and on a dark page."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from . import tables

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
