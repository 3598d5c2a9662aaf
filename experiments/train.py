"""Train sparse networks: ``python -m experiments.train [PRESET] [--flags]``.

Every method at every sparsity, all seeds of a cell in one compiled program; then a table and an
HTML report. A stopped run goes on with ``--resume``, to the same numbers.
"""

import datetime
import os
import pathlib
import platform
import signal
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

from . import data, evaluate, mesh, processes, records
from .cell import Cell, Stopped, run_cell
from .checkpoints import differences
from .config import FREE, PRESETS, Config, check, preset
from .data import steps_per_epoch
from .nonfinite import NotFiniteError
from .report import write_report
from .tables import summary_table

INTERRUPTED = 130
"""Exit code of a run that was stopped, by Ctrl-C or SIGTERM, and can be resumed."""
CANNOT_SAVE = 74
"""Exit code of a run that could not write (a full disk) and can be resumed (EX_IOERR)."""
PROCESS_LOST = 75
"""Exit code where another process of the run is gone; all can be resumed (EX_TEMPFAIL)."""
NOT_FINITE = 3
"""Exit code of a run that had more steps with numbers that are not finite than it may."""

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
    """The folder of the run: a new one, or with ``resume`` the one to go on with.

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
    taken = sorted(root.glob(f"{name}-[0-9]*"), key=lambda p: int(p.name.rpartition("-")[2]))
    taken = [path for path in [root / name, *taken] if (path / "run.json").exists()]
    if config.resume:
        run = config.out or (taken[-1] if taken else root / name)
        about = records.read_json(run / "run.json")
        if about is None:
            raise ValueError(f"{run} holds no run to resume; leave out --resume to start one")
        check_same(run, about, records.plain(config))
        return run
    run = config.out or root / (name if not taken else f"{name}-{len(taken) + 1}")
    if (run / "run.json").exists():
        raise ValueError(f"{run} holds a run; add --resume to go on with it, or name another --out")
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


class Signals:
    """Ctrl-C and SIGTERM end the run at the next checkpoint; a second Ctrl-C ends it at once."""

    def __init__(self) -> None:
        """Not asked to stop yet."""
        self.stopping = False
        self._before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}

    def __enter__(self) -> "Signals":
        """Listen."""
        for number in self._before:
            signal.signal(number, self._stop)
        return self

    def __exit__(self, *args: object) -> None:
        """Leave signals to those who listened before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _stop(self, number: int, frame: Any) -> None:
        del number, frame
        if self.stopping:
            raise KeyboardInterrupt
        self.stopping = True


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
    """Train every cell of a run that is not finished yet.

    Args:
      config: The run.
      run: Its folder, from ``open_run``.
      console: Where the progress goes.

    Returns:
      The results of all cells.

    Raises:
      Stopped: on Ctrl-C or SIGTERM, after a checkpoint.
    """
    dataset = processes.first_alone(lambda: data.load(config.data, config.data_dir))
    outside = processes.first_alone(lambda: evaluate.images_outside(dataset, config.data_dir))
    per_cell = config.epochs * steps_per_epoch(len(dataset.train_images), config.batch_size)
    if per_cell >= 2**31:
        raise ValueError(f"epochs is {config.epochs}: {per_cell} steps, where 2**31 are too many")
    cells = cells_of(config)
    results = []
    with Signals() as signals, progress_bars(console) as bars:
        whole = bars.add_task("all cells", total=len(cells) * per_cell, note="")
        for number, cell in enumerate(cells):
            folder = records.cell_folder(run, cell.name)
            result = records.read_result(folder)
            if result is None:
                bar = bars.add_task(cell.name, total=per_cell, note="compiling")

                def show(step: int, row: dict[str, Any], bar: Any = bar, n: int = number) -> None:
                    rate = step / max(row["seconds"], 1e-9)
                    note = f"loss {row['train_loss'][0]:.3f}  {rate:.0f} steps/s"
                    bars.update(bar, completed=step, note=note)
                    bars.update(whole, completed=n * per_cell + step)

                stopping = lambda: signals.stopping
                result = run_cell(config, cell, dataset, folder, show, stopping, outside)
                bars.remove_task(bar)
                mean = sum(result.test_accuracy) / len(result.test_accuracy)
                bars.console.print(
                    f"{cell.name:24} test accuracy {100 * mean:.2f} %  ({result.seconds:.0f} s)"
                )
            bars.update(whole, completed=(number + 1) * per_cell)
            results.append(result)
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line.

    Args:
      arguments: Without the program's name; default: those of the process.

    Returns:
      Exit code: 0; 2 for a configuration that cannot run; 3 for more steps with numbers that are
      not finite than ``--max-nonfinite``; 74 where a file cannot be written, 75 where another
      process is gone, 130 for a run stopped on request: these four can be resumed.
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
        processes.join(config.devices)
        mesh.use_cpu_devices(config.devices)
        console.quiet = not processes.writes()
        with processes.watching():
            run = open_run(name, config, pathlib.Path("runs"))
            many = f"{len(cells_of(config))} cells x {config.seeds} seeds"
            console.print(f"{name}: {many}, into {run}")
            console.print(summary_table(train(config, run, console)))
            if processes.writes():
                console.print(f"report: {write_report(run)}")
            processes.wait_for_all("the report is written")
    except (ValueError, FileNotFoundError, NotFiniteError) as error:
        _say(f"error: {error}")
        return NOT_FINITE if isinstance(error, NotFiniteError) else 2
    except OSError as error:
        _say(f"error: {error}")
        return processes.leave(CANNOT_SAVE)
    except processes.ProcessLostError as error:
        _say(f"error: {error}")
        return processes.leave(PROCESS_LOST)
    except (Stopped, KeyboardInterrupt):
        console.print(
            f"stopped; go on with: python -m experiments.train {name} --resume (same flags)"
        )
        return INTERRUPTED
    return 0


def _say(line: str) -> None:
    Console(stderr=True).print(line, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
