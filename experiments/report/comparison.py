"""The page of several runs: what they differ in, and what came of it."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from .. import records, tables
from ..config import FREE
from ..plots import INK, Style
from . import page
from .cells import Cell, finished, read_cells, styles_of
from .confidence import calibration_table, error_figure
from .costs import accuracy_section
from .training import gradient_section


def write_comparison(runs: Sequence[pathlib.Path], out: pathlib.Path | None = None) -> pathlib.Path:
    """Write one page over several runs, finished or not.

    Args:
      runs: Folders of the runs, two at least.
      out: The page; by default ``comparison.html`` beside the folder of the first run.

    Returns:
      The page.

    Raises:
      FileNotFoundError: if a folder holds no run.
      ValueError: if a run is given twice, or there is only one.
    """
    places = [run.resolve() for run in runs]
    twice = [str(run) for run, place in zip(runs, places, strict=True) if places.count(place) > 1]
    if twice:
        raise ValueError(f"{' and '.join(twice)} are one run; name each run once")
    if len(runs) < 2:
        raise ValueError(f"{len(runs)} run given; a comparison needs two at least")
    names = short_names(places)
    abouts, cells = [], []
    for name, run in zip(names, runs, strict=True):
        about, mine = read_cells(run)
        abouts.append(about)
        cells += [
            dataclasses.replace(each, name=f"{each.name} · {name}", run=name) for each in mine
        ]
    look = styles_of(cells)
    title = f"Sparse training: {len(runs)} runs"
    sections = [
        _differences(names, abouts),
        _results(cells),
        accuracy_section(cells, look),
        _calibration(cells, look),
        gradient_section(cells, look),
    ]
    body = [
        page.element("h1", title),
        page.element("p", _summary(names, cells)),
        page.contents(sections),
        *sections,
    ]
    path = out or places[0].parent / "comparison.html"
    records.write_bytes(path, page.document(title, body).encode())
    return path


def short_names(places: Sequence[pathlib.Path]) -> list[str]:
    """What the runs are called: their folders, with those above where that is not enough.

    Args:
      places: Folders, no two the same.

    Returns:
      A name each, no two the same.
    """
    for parts in range(1, max(len(place.parts) for place in places) + 1):
        names = ["/".join(place.parts[-parts:]) for place in places]
        if len({*names}) == len(names):
            return names
    return [str(place) for place in places]


def differing(abouts: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """What was not the same in all runs.

    Args:
      abouts: What each ``run.json`` says.

    Returns:
      Rows of a dotted name and its text in each run; those of the configuration without
      ``config.``, and without where its files lie.
    """
    flat = [dict(page.flat("", about)) for about in abouts]
    keys = dict.fromkeys(key for each in flat for key in each)
    hidden = {"cells", *(f"config.{key}" for key in FREE)}
    rows = [
        [key.removeprefix("config."), *(each.get(key, tables.MISSING) for each in flat)]
        for key in keys
        if key not in hidden
    ]
    return [row for row in rows if len({*row[1:]}) > 1]


def _summary(names: Sequence[str], cells: Sequence[Cell]) -> str:
    parts = []
    for name in names:
        mine = [cell for cell in cells if cell.run == name]
        done = sum(cell.result is not None for cell in mine)
        parts.append(f"{name} ({done} of {len(mine)} cells finished)")
    return ", ".join(parts)


def _differences(names: Sequence[str], abouts: Sequence[Mapping[str, Any]]) -> str:
    rows = differing(abouts)
    title = "What differs"
    if not rows:
        return page.section("differences", title, "Nothing: the same configuration twice.", [])
    text = "Of configuration and environment, only what is not the same in all runs."
    return page.section("differences", title, text, [page.table(["", *names], rows, "texts")])


def _results(cells: Sequence[Cell]) -> str:
    pairs = finished(cells)
    results = [result for _, result in pairs]
    if not pairs:
        return page.section("results", "Results", "No cell is finished.", [])
    rows = [[label, *row[1:]] for (label, _), row in zip(pairs, tables.rows(results), strict=True)]
    heads = ["method · run", *tables.headers(results)[1:]]
    return page.section("results", "Results", tables.caption(results), [page.table(heads, rows)])


def _calibration(cells: Sequence[Cell], look: dict[str, Style]) -> str:
    title = "Calibration against sparsity"
    pairs = [(label, result) for label, result in finished(cells) if result.evaluation]
    if not pairs:
        return page.section("calibration", title, "Not recorded.", [])
    drawing = error_figure(pairs, look)
    what = "Calibration error (%) against sparsity"
    drawing.axes[0].set_title(what, loc="left", color=INK, fontsize=11)
    text = "Expected calibration error (ECE) on test images; NLL is in nats, Brier lies in 0 to 2."
    legend = page.legend({label: look[label] for label, _ in pairs})
    content = [calibration_table(pairs), legend, page.grid([page.figure(drawing, what)])]
    return page.section("calibration", title, text, content)
