"""A study: a run of many cells, its page, its numbers and its figure among the results."""

import dataclasses
import math
import pathlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import tyro
from matplotlib.figure import Figure
from rich.console import Console

from . import records
from .config import Config
from .report import write_report
from .stopping import FailedCellsError, Stopped, exit_code, tell
from .train import check_same, environment, open_run, progress_bars, train

Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Train, or go on training, then write the table."""

    run: pathlib.Path | None = None
    """A run of the study to read instead of training."""
    resume: bool = False
    """Go on with the newest run of the study."""
    data_dir: pathlib.Path | None = None
    """TFDS data directory."""
    partial: bool = False
    """With --run: write the page of the cells that are finished, and say how many they are."""
    results: pathlib.Path = pathlib.Path(__file__).parent / "results"
    """Folder that the table, the numbers and the figure are written to."""


def open_folder(
    name: str, config: Any, cells: Sequence[str], out: pathlib.Path | None, resume: bool
) -> pathlib.Path:
    """The folder of a study with trainings of its own: a new one, or the one to go on with.

    Args:
      name: Of the study.
      config: A dataclass: all that the numbers depend on.
      cells: Names of what is to be finished.
      out: The folder; default ``runs/NAME``.
      resume: Go on with what is there?

    Returns:
      The folder, with ``run.json`` in it.

    Raises:
      ValueError: if there is nothing to resume, the run is of another study, or there is one.
    """
    run = out or pathlib.Path("runs") / name
    about = records.read_json(run / "run.json")
    plain = records.plain(config)
    if resume:
        if about is None:
            raise ValueError(f"{run} holds no run to resume; leave out --resume to start one")
        check_same(run, about, plain)
        return run
    if about is not None:
        raise ValueError(f"{run} holds a run; add --resume to go on with it, or name another --out")
    about = {"preset": name, "config": plain, "cells": list(cells), "environment": environment()}
    records.write_json(run / "run.json", about)
    return run


def read_cells(
    run: pathlib.Path, read: Callable[[pathlib.Path], Result | None]
) -> tuple[dict[str, Any], list[Result]]:
    """What ``run.json`` says, and the finished cells in its order.

    Args:
      run: Folder of the run.
      read: From a cell's folder to its numbers, or None while it is not finished.

    Returns:
      Both.

    Raises:
      FileNotFoundError: if the folder holds no run.
    """
    about = records.read_json(run / "run.json")
    if about is None:
        raise FileNotFoundError(f"{run} holds no run.json; give the folder of a run")
    found = [read(records.cell_folder(run, cell)) for cell in about["cells"]]
    return about, [result for result in found if result is not None]


def command(
    name: str,
    arguments: type,
    about: str | None,
    given: Sequence[str] | None,
    train: Callable[[Any, Console], pathlib.Path],
    write_page: Callable[[pathlib.Path, pathlib.Path], str],
) -> int:
    """The command line of a study with trainings of its own: train, or go on, then write the page.

    Args:
      name: Of its module.
      arguments: A dataclass of the flags, with ``run`` and ``results``.
      about: What it says of itself.
      given: The flags, without the program's name; default: those of the process.
      train: From the arguments to the folder of a finished run.
      write_page: From a run's folder and that of the results to the page.

    Returns:
      Exit code: 0, 2 for a study that cannot run, 130 or 143 for one that was stopped.
    """
    console, prog = Console(), f"python -m experiments.{name}"
    flags = tyro.cli(arguments, prog=prog, description=about, args=given)
    try:
        page = write_page(flags.run or train(flags, console), flags.results)
    except (ValueError, OSError) as error:
        return tell(error)
    except (Stopped, KeyboardInterrupt) as error:
        console.print(f"stopped; go on with: {prog} --resume")
        console.print("(same flags; --run FOLDER writes the page of what is there)")
        return exit_code(error)
    console.print(page, markup=False, highlight=False, soft_wrap=True)
    return 0


def train_missing(
    path: pathlib.Path,
    about: dict[str, Any],
    missing: Mapping[str, Callable[[], Any]],
    console: Console,
) -> None:
    """Train what a file of results does not have yet; each is written as soon as it is there.

    Args:
      path: The file.
      about: What it holds; ``about["results"]`` grows.
      missing: Name to what trains it and returns its numbers.
      console: Where the progress goes.
    """
    with progress_bars(console) as bars:
        bar = bars.add_task(path.stem, total=len(missing), note="")
        for name, train in missing.items():
            bars.update(bar, note=name)
            about["results"][name] = train()
            records.write_json(path, about)
            bars.advance(bar)


def write_results(
    folder: pathlib.Path, name: str, numbers: Any, page: str, figure: Figure | None
) -> None:
    """Write the numbers, the page and the figure of a study.

    Args:
      folder: Where they go.
      name: Of the files.
      numbers: What the JSON file holds.
      page: Markdown.
      figure: Or None where there is nothing to draw.
    """
    records.write_json(folder / f"{name}.json", numbers)
    records.write_bytes(folder / f"{name}.md", page.encode())
    if figure is not None:
        figure.savefig(folder / f"{name}.png", dpi=160, transparent=True)


def difference(ours: records.Result, other: records.Result) -> tuple[float, float]:
    """How much better one cell is than another, seed by seed.

    Args:
      ours: A cell.
      other: Another with the same seeds.

    Returns:
      Mean of the differences in test accuracy, and their standard error, in percentage points.
    """
    pairs = zip(ours.test_accuracy, other.test_accuracy, strict=True)
    gaps = [100 * (a - b) for a, b in pairs]
    return statistics.fmean(gaps), statistics.stdev(gaps) / math.sqrt(len(gaps))


def main(
    arguments: Arguments,
    name: str,
    label: str,
    config: Config,
    markdown: Callable[[list[records.Result], dict[str, Any]], str],
    figure: Callable[[pathlib.Path, pathlib.Path], None],
    after: Callable[[Config, pathlib.Path, Console], None] | None = None,
) -> int:
    """Train what is not finished, and write the results.

    Args:
      arguments: The command line.
      name: Of the result files.
      label: Of the run's folder.
      config: The run.
      markdown: From all results and what ``run.json`` holds to the page.
      figure: From the run's folder to a PNG file.
      after: What is measured once all is trained, and added to ``run.json``.

    Returns:
      Exit code: 0, or one of `experiments.stopping`: 2 where something cannot be run or read, 130
      or 143 for a run stopped by Ctrl-C or SIGTERM.
    """
    console = Console()
    run = arguments.run
    try:
        if run is None:
            changes = {"data_dir": arguments.data_dir, "resume": arguments.resume}
            config = dataclasses.replace(config, **changes)
            run = open_run(label, config, pathlib.Path("runs"))
            train(config, run, console)
            if after is not None:
                after(config, run, console)
        results, about = records.read_results(run), records.read_json(run / "run.json")
        if about is None:
            raise ValueError(f"{run} holds no run; name the folder of one")
        if not results or (len(results) < len(about["cells"]) and not arguments.partial):
            raise ValueError(
                f"{run} has {len(results)} of {len(about['cells'])} cells; go on with --resume, "
                "or add --partial"
            )
    except (Stopped, KeyboardInterrupt) as error:
        console.print("stopped; go on with --resume")
        return exit_code(error)
    except (ValueError, OSError, FailedCellsError) as error:
        return tell(error)
    numbers = {"run": about, "results": [dataclasses.asdict(result) for result in results]}
    page = markdown(results, about)
    write_results(arguments.results, name, numbers, page, None)
    figure(run, arguments.results / f"{name}.png")
    console.print(page, markup=False)
    console.print(f"report: {write_report(run)}")
    return 0
