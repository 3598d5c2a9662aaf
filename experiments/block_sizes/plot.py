"""The figure of the study of block sizes."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from ..masked_page import name_lines, panels
from ..plots import Style, points, styles
from .cells import cells_of
from .comparison import AXES, Found, dense_by, found_of
from .page import study_of


def figure(about: dict[str, Any]) -> Figure:
    """Accuracy over kept weights, training FLOPs and step time, a line a size of block.

    Args:
      about: What the JSON file of the study holds.

    Returns:
      The figure, on a transparent ground.
    """
    study = study_of(about)
    find = found_of(about, cells_of(study))
    look = styles(["dense", *[f"{side}x{side}" for side in study.blocks]])
    titles = ["test accuracy (%)", "", ""]
    drawing, grid = panels(titles, (11.5, 4.6))
    whole = f"dense {study.dense_widths[0]}"
    labels = {
        "kept": "kept weights",
        "flops": f"training FLOPs, {whole} = 1",
        "time": f"measured step time, {whole} = 1",
    }
    for axes, axis in zip(grid, AXES, strict=True):
        _draw(axes, dense_by(find, axis), axis, look["dense"], "dense, several widths")
        for side in study.blocks:
            name = f"{side}x{side}"
            for width in (study.width, study.wider):
                rows = [
                    each
                    for each in find.values()
                    if (each.cell.width, each.cell.block) == (width, side)
                ]
                rows = sorted(rows, key=lambda each: each.kept)
                own = {study.width: look[name].marker, study.wider: "*"}[width]
                style = dataclasses.replace(look[name], marker=own)
                _draw(axes, rows, axis, style, f"{name}, {width} wide")
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(labels[axis])
    name_lines(drawing, grid[0], 4)
    return drawing


def _draw(axes: Axes, rows: Sequence[Found], axis: str, style: Style, name: str) -> None:
    known = [each for each in rows if math.isfinite(getattr(each, axis))]
    places = [getattr(each, axis) for each in known]
    values = [[100 * x for x in each.accuracy.values()] for each in known]
    if known:
        points(axes, places, values, style, name)
