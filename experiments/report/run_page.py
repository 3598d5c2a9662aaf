"""The page of one run."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from .. import plots, records, tables
from . import page
from .cells import Cell, finished, read_cells, styles_of
from .confidence import calibration_section, outside_section
from .connections import inputs_section, masks_section
from .costs import accuracy_section
from .degrees import degrees_section
from .layers import flops_section, layers_section
from .training import gradient_section, learning_section, sparsity_section


def write_report(run: pathlib.Path, out: pathlib.Path | None = None) -> pathlib.Path:
    """Write the page of a run, finished or not.

    Args:
      run: Folder of the run.
      out: The page; by default ``RUN/report.html``.

    Returns:
      The page.

    Raises:
      FileNotFoundError: if the folder holds no run.
    """
    about, cells = read_cells(run)
    results = [result for _, result in finished(cells)]
    look = styles_of(cells)
    title = _title(run, about)
    sections = [
        page.section("results", "Results", tables.caption(results), [_table(results)]),
        learning_section(cells, look),
        accuracy_section(cells, look),
        calibration_section(cells, look),
        outside_section(cells, look),
        layers_section(cells, look),
        flops_section(cells, look),
        sparsity_section(cells, look),
        gradient_section(cells, look),
        inputs_section(cells),
        masks_section(cells),
        degrees_section(cells, look),
    ]
    body = [
        page.element("h1", title),
        page.element("p", _summary(about, cells)),
        *_notice(cells),
        f"<details>{page.element('summary', 'What was run')}{page.facts(about)}</details>",
        page.contents(sections),
        *sections,
    ]
    path = out or run / "report.html"
    records.write_bytes(path, page.document(title, body).encode())
    return path


def _title(run: pathlib.Path, about: Mapping[str, Any]) -> str:
    config = about.get("config")
    said = {**config, **about} if isinstance(config, Mapping) else about
    model = said.get("model")
    network = model.get("name") if isinstance(model, Mapping) else model
    described = " with ".join(str(each) for each in (said.get("data"), network) if each)
    return f"Sparse training: {said.get('preset') or described or run.resolve().name}"


def _summary(about: Mapping[str, Any], cells: Sequence[Cell]) -> str:
    """One line: how much was run, where, and from which commit."""
    methods = len({cell.method for cell in cells})
    levels = sorted({cell.sparsity for cell in cells if cell.method != plots.DENSE})
    parts = [f"{methods} method{'s' * (methods != 1)}"]
    if levels:
        parts.append(f"at {', '.join(map(tables.sparsity_text, levels))} sparsity")
    text = " ".join(parts)
    seeds = max((len(cell.result.seeds) for cell in cells if cell.result), default=0)
    text += f", {seeds} seed{'s' * (seeds != 1)} each" if seeds else ""
    environment = about.get("environment")
    said = {**about, **environment} if isinstance(environment, Mapping) else about
    for key, before in (("hardware", ""), ("date", ""), ("commit", "commit ")):
        text += f" · {before}{said[key]}" if said.get(key) else ""
    return text


def _notice(cells: Sequence[Cell]) -> list[str]:
    """What the reader must know before the numbers: unfinished cells and non-finite values."""
    found = []
    missing = [f"{cell.name} ({_progress(cell)})" for cell in cells if cell.result is None]
    if missing:
        count = f"{len(missing)} of {len(cells)} cells"
        text = f"Not finished, {count}: {', '.join(missing)}. They are in the curves as far as "
        found.append(page.element("p", text + "they got, and in no table.", "notice"))
    loops = [
        f"{cell.name} ({sum(cell.result.nonfinite):,} steps, {sum(cell.result.skipped):,} skipped "
        "mask updates)"
        for cell in cells
        if cell.result and any((*cell.result.nonfinite, *cell.result.skipped))
    ]
    if loops:
        text = f"Non-finite losses or gradients, over all seeds: {', '.join(loops)}."
        found.append(page.element("p", text, "notice"))
    return found


def _progress(cell: Cell) -> str:
    return f"step {cell.metrics[-1]['step']:,}" if cell.metrics else "not started"


def _table(results: Sequence[records.Result]) -> str:
    return page.table(tables.headers(results), tables.rows(results)) if results else ""
