"""Train sparse networks: ``python -m experiments.train [PRESET] [--flags]``.

Every method at every sparsity, all seeds of a cell in one compiled program; then a table and an
HTML report. A stopped run goes on with ``--resume``, to the same numbers.

Exit codes: 0 finished; 1 cells failed, the others are finished; 2 cannot run as asked; 3 more steps
that are not finite than --max-nonfinite; 74 cannot write; 130 stopped by Ctrl-C, 143 by SIGTERM,
both after a checkpoint.
"""

import datetime
import functools
import os
import pathlib
import platform
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import flax
import jax
import optax
import tyro
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

import jaxsparse

from . import conversion, data, evaluate, jobs, mesh, processes, records
from .cell import Cell, program_of, run_cell
from .checkpoints import differences
from .config import FREE, PRESETS, Config, check, preset
from .data import steps_per_epoch
from .nonfinite import NotFiniteError
from .report import write_report
from .stopping import (
    CANNOT_SAVE,
    PROCESS_LOST,
    FailedCellsError,
    Signals,
    Stopped,
    exit_code,
    tell,
)
from .tables import summary_table

_DEFAULT = "digits-mlp"


def cells_of(config: Config) -> list[Cell]:
    """The cells of a run: methods x sparsities; one cell for a method without a sparsity.

    Args:
      config: The run.

    Returns:
      Its cells, in the order in which they are trained.
    """
    cells = [Cell(m, m, 0.0) for m in config.methods if not _has_sparsity(m)]
    for sparsity in config.sparsities:
        cells += [
            Cell(f"{m}-{sparsity:g}", m, sparsity) for m in config.methods if _has_sparsity(m)
        ]
    return cells


def _has_sparsity(method: str) -> bool:
    return "sparsity" in jaxsparse.ALGORITHMS[method].small


def environment() -> dict[str, Any]:
    """What the numbers depend on besides the configuration.

    Returns:
      Versions, hardware, commit and date.
    """
    git = ["git", "-C", str(pathlib.Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    device = jax.devices()[0]
    kind = platform.machine() if device.platform == "cpu" else device.device_kind
    return {
        "jaxsparse": jaxsparse.__version__,
        "commit": commit,
        "python": platform.python_version(),
        "jax": jax.__version__,
        "flax": flax.__version__,
        "optax": optax.__version__,
        "hardware": f"{jax.device_count()} x {device.platform} ({kind}), {os.cpu_count()} cores",
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
    }


def open_run(name: str, config: Config, root: pathlib.Path) -> pathlib.Path:
    """The folder of the run: a new one, or with ``resume`` the one to go on with; of a job, either.

    Args:
      name: Name of the preset.
      config: The run.
      root: Where runs lie.

    Returns:
      The folder, with ``run.json`` in it.

    Raises:
      ValueError: if there is nothing to resume, the run has another configuration, or the folder
        of a new run is not empty.
    """
    if config.job_index is not None:
        with jobs.alone(run_folder(name, config, root), wait=True):
            return _begin_or_join(name, config, root)
    run = run_folder(name, config, root)
    there = (run / "run.json").exists()
    if config.resume and not there:
        raise ValueError(f"{run} holds no run to resume; leave out --resume to start one")
    if there and not config.resume:
        raise ValueError(f"{run} holds a run; add --resume to go on with it, or name another --out")
    return _begin_or_join(name, config, root)


def run_folder(name: str, config: Config, root: pathlib.Path) -> pathlib.Path:
    """``out``; or a folder named by the preset: a free one, with ``resume`` the newest taken one.

    Jobs share the first, taken or not.

    Args:
      name: Name of the preset.
      config: The run.
      root: Where runs lie.

    Returns:
      The folder; it need not be there.
    """
    first = root / name
    taken = sorted(root.glob(f"{name}-[0-9]*"), key=lambda p: int(p.name.rpartition("-")[2]))
    taken = [path for path in [first, *taken] if (path / "run.json").exists()]
    if config.out or not taken or config.job_index is not None:
        return config.out or first
    return taken[-1] if config.resume or config.list_jobs else root / f"{name}-{len(taken) + 1}"


def _begin_or_join(name: str, config: Config, root: pathlib.Path) -> pathlib.Path:
    run = run_folder(name, config, root)
    about = records.read_json(run / "run.json")
    if about is not None:
        check_same(run, about, records.plain(config))
        return run
    cells = [cell.name for cell in cells_of(config)]
    about = {
        "preset": name,
        "config": records.plain(config),
        "cells": cells,
        "environment": environment(),
    }
    processes.wait_for_all("a run is opened")  # each has looked at what is there
    records.write_json(run / "run.json", about)
    return run


def check_same(run: pathlib.Path, about: dict[str, Any], config: dict[str, Any]) -> None:
    """A run goes on with the configuration and library it was begun with, or not at all.

    Args:
      run: Its folder, for the message.
      about: What is in its ``run.json``.
      config: The configuration given now, as JSON has it.

    Raises:
      ValueError: if they differ in what the numbers depend on, with a line for each difference.
    """
    told = lambda settings: {k: v for k, v in settings.items() if k not in FREE}
    here = {"jaxsparse": jaxsparse.__version__, **told(config)}
    version = about.get("environment", {}).get("jaxsparse")
    different = differences({"jaxsparse": version, **told(about["config"])}, here)
    if different:
        said = f"{run} was begun with other settings; resume with the same flags, or "
        raise ValueError("\n".join([f"{said}leave out --resume to start another run:", *different]))


def progress_bars(console: Console) -> Progress:
    """Bars of trainings: steps, a note, the time so far and the time left.

    Args:
      console: Where they go.

    Returns:
      A context; its tasks have a field ``note``.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
    )


def train(config: Config, run: pathlib.Path, console: Console) -> list[records.Result]:
    """Train every cell of a run that is not finished yet, nor in work elsewhere.

    Args:
      config: The run.
      run: Its folder, from ``open_run``.
      console: Where the progress goes.

    Returns:
      The results of all finished cells.

    Raises:
      FailedCellsError: if cells failed; the others went on.
      Stopped: on Ctrl-C or SIGTERM, after a checkpoint.
    """
    cells = jobs.share(cells_of(config), config.job_index, config.job_count)
    dataset = processes.first_alone(lambda: data.load(config.data, config.data_dir))
    outside = processes.first_alone(lambda: evaluate.images_outside(dataset, config.data_dir))
    per_cell = config.epochs * steps_per_epoch(len(dataset.train_images), config.batch_size)
    if per_cell >= 2**31:
        raise ValueError(f"epochs is {config.epochs}: {per_cell} steps, where 2**31 are too many")
    if jax.process_count() > 1 and (config.per_device or config.start_from):
        raise ValueError(
            "--per-device and --start-from take one process; begin the run in one (Ctrl-C stops it "
            "after a checkpoint), and go on in several with --resume"
        )
    start = None
    if config.start_from is not None:
        abstract = program_of(config, cells_of(config)[0], dataset).abstract
        start = conversion.fitted(conversion.read_network(config.start_from, dataset), abstract)
    done = {cell.name: 0 for cell in cells}
    with Signals() as signals, progress_bars(console) as bars:
        whole = bars.add_task("all cells", total=len(cells) * per_cell, note="")

        def reached(cell: Cell, step: int) -> None:
            done[cell.name] = step
            bars.update(whole, completed=sum(done.values()))

        def train_one(cell: Cell) -> None:
            folder = records.cell_folder(run, cell.name)
            if records.read_result(folder) is None:
                bar = bars.add_task(cell.name, total=per_cell, note="compiling")

                def show(step: int, row: dict[str, Any]) -> None:
                    rate = step / max(row["seconds"], 1e-9)
                    note = f"loss {row['train_loss'][0]:.3f}  {rate:.0f} steps/s"
                    bars.update(bar, completed=step, note=note)
                    reached(cell, step)

                stopping = lambda: signals.stopping
                try:
                    result = run_cell(config, cell, dataset, folder, show, stopping, outside, start)
                finally:
                    bars.remove_task(bar)
                mean = sum(result.test_accuracy) / len(result.test_accuracy)
                bars.console.print(
                    f"{cell.name:24} test accuracy {100 * mean:.2f} %  ({result.seconds:.0f} s)"
                )
            reached(cell, per_cell)

        todo = {cell.name: functools.partial(train_one, cell) for cell in cells}
        jobs.do_all(run, todo, jax.local_devices() if config.per_device else [None])
    return records.read_results(run)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line.

    Args:
      arguments: Without the program's name; default: those of the process.

    Returns:
      Exit code, one of `experiments.stopping`: 0; 1 where cells failed; 2 for what cannot run; 3
      for more steps with numbers that are not finite than ``--max-nonfinite``; 74 where a file
      cannot be written, 75 where another process is gone; 130 and 143 for a run that Ctrl-C or
      SIGTERM stopped. All but 2 can be gone on with, by ``--resume``.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    console = Console()
    name = given.pop(0) if given and not given[0].startswith("-") else _DEFAULT
    try:
        default = preset(name)
        listed = "\n".join(f"  {key:20} {line}" for key, (line, _) in PRESETS.items())
        config = tyro.cli(
            Config,
            prog=f"python -m experiments.train {name}",
            description=f"{__doc__}\n\nPresets (this help shows the defaults of {name}):\n{listed}",
            default=default,
            args=given,
        )
        check(config)
        if config.list_jobs:
            _list_jobs(name, config, console)
            return 0
        processes.join(config.devices)
        mesh.use_cpu_devices(config.devices)
        console.quiet = not processes.writes()
        with processes.watching():
            run = open_run(name, config, pathlib.Path("runs"))
            many = f"{len(cells_of(config))} cells x {config.seeds} seeds"
            console.print(f"{name}: {many}, into {run}")
            try:
                train(config, run, console)
            except FailedCellsError as error:
                _finish(run, config, console)
                return tell(error)
            _finish(run, config, console)
            processes.wait_for_all("the report is written")
    except (ValueError, OSError, NotFiniteError, processes.ProcessLostError) as error:
        code = tell(error)
        return processes.leave(code) if code in (CANNOT_SAVE, PROCESS_LOST) else code
    except (Stopped, KeyboardInterrupt) as error:
        console.print(
            f"stopped; go on with: python -m experiments.train {name} --resume (same flags)"
        )
        return exit_code(error)
    return 0


def _finish(run: pathlib.Path, config: Config, console: Console) -> None:
    """The table of what is finished; the report, unless it is left to a later job."""
    results, cells = records.read_results(run), cells_of(config)
    if results:
        console.print(summary_table(results))
    reported = len(results) == len(cells) or (results and config.job_index is None)
    if reported and processes.writes():
        console.print(f"report: {write_report(run)}")
    if len(results) < len(cells):
        console.print(f"{len(results)} of {len(cells)} cells are finished; others: --list-jobs")


def _list_jobs(name: str, config: Config, console: Console) -> None:
    """A line a job, without training."""
    run = run_folder(name, config, pathlib.Path("runs"))
    for index, cell in enumerate(cells_of(config)):
        console.print(f"{index:4} {cell.name:32} {jobs.state_of(run, cell.name)}", markup=False)


if __name__ == "__main__":
    sys.exit(main())
