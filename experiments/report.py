"""A run as one HTML page to look at: ``python -m experiments.report RUN``.

The page asks for nothing from any other place, reads on a phone, in light and in dark, and shows
what is there of a run that is not finished.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tyro

from . import curves, page, plots, records, tables

SNAPSHOTS = 6
PANELS = 8  # at once; the others are behind a click

SIMULATED = (
    "Masks simulate sparsity: accuracy, kept weights and FLOPs are real, time is not, for the "
    "masked weights are still multiplied."
)


def write_report(run: pathlib.Path) -> pathlib.Path:
    """Write the page of a run, finished or not.

    Args:
      run: Folder of the run.

    Returns:
      The page, ``RUN/report.html``.

    Raises:
      FileNotFoundError: if the folder holds no run.
    """
    about, cells = read_cells(run)
    results = [cell.result for cell in cells if cell.result is not None]
    look = plots.styles([cell.method for cell in cells])
    title = _title(run, about)
    body = [
        page.element("h1", title),
        page.element("p", _summary(about, cells)),
        *_notice(cells),
        f"<details>{page.element('summary', 'What was run')}{page.facts(about)}</details>",
        page.section("results", "Results", tables.caption(results), [_table(results)]),
        _learning(cells, look),
        _accuracy(results, look),
        _layers(results, look),
        _sparsity(cells, look),
        _inputs(run, cells),
    ]
    path = run / "report.html"
    records.write_bytes(path, page.document(title, body).encode())
    return path


def save_accuracy_png(run: pathlib.Path, path: pathlib.Path) -> None:
    """Save accuracy against sparsity as a picture for a README, on a transparent ground.

    Args:
      run: Folder of the run.
      path: The PNG file.
    """
    plots.accuracy_figure(records.read_results(run)).savefig(path, dpi=200, transparent=True)


def read_cells(run: pathlib.Path) -> tuple[dict[str, Any], list[curves.Cell]]:
    """What is known of a run.

    Args:
      run: Folder of the run.

    Returns:
      What ``run.json`` says, and the cells it names, in its order.

    Raises:
      FileNotFoundError: if the folder holds no run.
    """
    about = records.read_json(run / "run.json")
    if about is None:
        raise FileNotFoundError(f"{run} holds no run.json; give the folder of a run")
    cells = []
    for name in about["cells"]:
        folder = records.cell_folder(run, name)
        result = records.read_result(folder)
        method, sparsity = (result.method, result.sparsity) if result else _parse(name)
        cells.append(curves.Cell(name, method, sparsity, records.read_metrics(folder), result))
    return about, cells


def _parse(name: str) -> tuple[str, float]:
    """Method and sparsity of an unfinished cell, from its name such as ``rigl-0.9``."""
    method, _, sparsity = name.rpartition("-")
    try:
        return (method, float(sparsity)) if method else (name, 0.0)
    except ValueError:
        return name, 0.0


def _title(run: pathlib.Path, about: Mapping[str, Any]) -> str:
    config = about.get("config")
    said = {**config, **about} if isinstance(config, Mapping) else about
    model = said.get("model")
    network = model.get("name") if isinstance(model, Mapping) else model
    described = " with ".join(str(each) for each in (said.get("data"), network) if each)
    return f"Sparse training: {said.get('preset') or described or run.resolve().name}"


def _summary(about: Mapping[str, Any], cells: Sequence[curves.Cell]) -> str:
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


def _notice(cells: Sequence[curves.Cell]) -> list[str]:
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


def _progress(cell: curves.Cell) -> str:
    return f"step {cell.metrics[-1]['step']:,}" if cell.metrics else "not started"


def _table(results: Sequence[records.Result]) -> str:
    return page.table(tables.headers(results), tables.rows(results)) if results else ""


def _learning(cells: Sequence[curves.Cell], look: dict[str, plots.Style]) -> str:
    levels = _levels(cells)
    parts = []
    for level in levels:
        mine = [cell for cell in cells if cell.method == plots.DENSE or cell.sparsity == level]
        where = f", {tables.sparsity_text(level)} sparse" if _sparse(cells) else ""
        for key, what, scale in (
            ("test_accuracy", "test accuracy (%)", 100.0),
            ("train_loss", "train loss", 1.0),
        ):
            drawing = curves.curves(mine, key, look, title=what + where, scale=scale)
            if drawing is not None:
                parts.append(page.figure(drawing, f"Learning curves: {what}{where}"))
    shown = {method: style for method, style in look.items() if any(_drawn(cells, method))}
    text = (
        "Mean over seeds, with a band of one standard deviation. The accuracy axis starts where "
        "the last two thirds of training lie."
    )
    content = [page.legend(shown), page.grid(parts, PANELS, "The other sparsities")]
    return page.section("learning", "Learning curves", text if parts else "Nothing yet.", content)


def _accuracy(results: Sequence[records.Result], look: dict[str, plots.Style]) -> str:
    if not results:
        return page.section("accuracy", "Accuracy against cost", "No cell is finished.", [])
    panels = [
        ("Test accuracy (%) against sparsity", plots.accuracy_figure(results, legend=False)),
        ("Test accuracy (%) against training FLOPs", plots.cost_figure(results)),
    ]
    drawn = []
    for label, drawing in panels:
        drawing.axes[0].set_title(label, loc="left", color=plots.INK, fontsize=11)
        drawn.append(page.figure(drawing, label))
    text = (
        "Mean over seeds; bars are one standard deviation. Against sparsity, dense is the "
        "horizontal line, and methods of one sparsity stand side by side. FLOPs are those of a "
        f"machine that skips zeros. {SIMULATED}"
    )
    shown = {method: look[method] for method in look if any(r.method == method for r in results)}
    content = [page.legend(shown), page.grid(drawn)]
    return page.section("accuracy", "Accuracy against cost", text, content)


def _layers(results: Sequence[records.Result], look: dict[str, plots.Style]) -> str:
    parts, methods = [], set()
    for level in sorted({r.sparsity for r in results if r.method != plots.DENSE}):
        mine = [r for r in results if r.sparsity == level and r.method != plots.DENSE]
        label = f"{tables.sparsity_text(level)} sparse"
        drawing = plots.layers_figure(mine, look, title=label)
        if drawing is not None:
            parts.append(page.figure(drawing, f"Sparsity of each layer, {label}"))
            methods |= {r.method for r in mine}
    if not parts:
        return page.section("layers", "Sparsity of each layer", "No layer is sparse.", [])
    text = "At the end of training, mean over seeds; a line at the end of a bar is one sd."
    shown = {method: style for method, style in look.items() if method in methods}
    content = [page.legend(shown), page.grid(parts, PANELS // 2, "The other sparsities")]
    return page.section("layers", "Sparsity of each layer", text, content)


def _sparsity(cells: Sequence[curves.Cell], look: dict[str, plots.Style]) -> str:
    moving = curves.gradual(cells)
    title = "Sparsity over training"
    drawing = curves.curves(moving, "sparsity", look, title="zeros (%)", scale=100)
    if drawing is None:
        text = "Each method kept its sparsity from the first step to the last."
        return page.section("sparsity", title, text, [])
    still = [c.method for c in _sparse(cells) if c not in moving and c.metrics]
    text = "Methods whose sparsity changes while they train; a line a cell."
    if still:
        text += f" Constant from the first step: {', '.join(dict.fromkeys(still))}."
    shown = {method: look[method] for method in look if any(_drawn(moving, method))}
    return page.section(
        "sparsity", title, text, [page.legend(shown), page.grid([page.figure(drawing, title)])]
    )


def _inputs(run: pathlib.Path, cells: Sequence[curves.Cell]) -> str:
    parts, whole = [], []
    for cell in cells:
        saved = records.read_inputs(records.cell_folder(run, cell.name))
        if saved is None or not saved[0]:
            continue
        steps, connections = saved
        maps = connections.sum(axis=-1)
        if maps.min() == maps.max():
            whole.append(f"{cell.name} ({maps.max():,} each)")
            continue
        places = np.linspace(0, len(steps) - 1, min(SNAPSHOTS, len(steps))).round().astype(int)
        parts.append(page.strip(cell.name, [steps[place] for place in places], maps[places]))
    title = "Which inputs stay connected"
    if not parts and not whole:
        text = "Not recorded: the first layer of this network is no matrix over its inputs."
        text = text if any(cell.result for cell in cells) else "Nothing yet."
        return page.section("inputs", title, text, [])
    text = (
        "Connections from each input to the first layer, first seed, over training; channels are "
        "summed. Each cell has its own scale of color, the same at all of its steps."
    )
    if whole:
        text += f" All inputs alike throughout: {', '.join(whole)}."
    return page.section("inputs", title, text, [page.grid(parts, 12, "The other cells")])


def _sparse(cells: Sequence[curves.Cell]) -> list[curves.Cell]:
    return [cell for cell in cells if cell.method != plots.DENSE]


def _levels(cells: Sequence[curves.Cell]) -> list[float]:
    return sorted({cell.sparsity for cell in _sparse(cells)}) or [0.0]


def _drawn(cells: Sequence[curves.Cell], method: str) -> list[bool]:
    return [bool(cell.metrics) for cell in cells if cell.method == method]


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Write the page of a run, finished or not."""

    run: tyro.conf.Positional[pathlib.Path]
    """Folder of the run, which holds run.json."""


def main(arguments: Arguments) -> None:
    """Write the page and say where it is; an error ends the program with one line."""
    try:
        print(write_report(arguments.run))
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(tyro.cli(Arguments, prog="python -m experiments.report"))
