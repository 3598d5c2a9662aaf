"""Lottery tickets, LeNet-300-100 on MNIST: ``python -m experiments.lottery_tickets``.

Claim (Frankle & Carbin, 2019): a dense network holds a subnetwork, found by pruning the trained
weights 20 % at a time, that from its own first weights trains faster than the whole and as well;
from other weights it does neither. Every ticket stands beside its controls: the same mask from
other weights, a random mask, a mask pruned at once, and pruning that goes on from trained weights.
Tickets are also trained on the other data set. Expected: least validation loss earlier, and
accuracy above dense, at 21 and 13.5 % of the weights. Ctrl-C and kill lose nothing: ``--resume``.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import tyro
from rich.console import Console

from . import data, lottery_page, lottery_plot, records, rounds
from .rounds import Task, Trainer
from .stopping import Signals
from .study import command, open_folder, read_cells, write_results
from .tickets import Study, check, run_procedures, tasks_of
from .train import progress_bars

_NAME = "lottery-tickets"


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Train, or go on training, then write the page."""

    study: tyro.conf.OmitArgPrefixes[Study] = dataclasses.field(default_factory=Study)
    out: Annotated[pathlib.Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder of the run; default: runs/lottery-tickets."""
    resume: bool = False
    """Go on with the run where it stopped, with the same flags."""
    run: Annotated[pathlib.Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """A run, finished or not, to write the page of instead of training."""
    data_dir: pathlib.Path | None = None
    """TFDS data directory; default: the variable JAXSPARSE_DATA_DIR, else the user's cache."""
    results: pathlib.Path = pathlib.Path(__file__).parent / "results"
    """Folder that the page, the numbers and the figure are written to."""


def open_run(study: Study, out: pathlib.Path | None, resume: bool) -> pathlib.Path:
    """The folder of the run: a new one, or with ``resume`` the one to go on with.

    Args:
      study: The study.
      out: The folder; default ``runs/lottery-tickets``.
      resume: Go on with what is there?

    Returns:
      The folder, with ``run.json`` in it.

    Raises:
      ValueError: if there is nothing to resume, the run is of another study, or there is one.
    """
    cells = [task.name for task in tasks_of(study)]
    return open_folder(_NAME, study, cells, out, resume)


def read_results(run: pathlib.Path) -> tuple[dict[str, Any], list[rounds.Result]]:
    """What ``run.json`` says, and the finished trainings in its order.

    Args:
      run: Folder of the run.

    Returns:
      Both.

    Raises:
      FileNotFoundError: if the folder holds no run.
    """
    return read_cells(run, rounds.read_result)


def run_study(
    study: Study, run: pathlib.Path, data_dir: pathlib.Path | None, console: Console
) -> None:
    """Train all that is not finished yet.

    Args:
      study: The study.
      run: Its folder, from ``open_run``.
      data_dir: TFDS data directory.
      console: Where the progress goes.

    Raises:
      Stopped: on Ctrl-C or SIGTERM, after a checkpoint.
    """
    tasks = tasks_of(study)
    names = dict.fromkeys(task.data for task in tasks)
    trainers = {name: Trainer(study, data.load(name, data_dir)) for name in names}
    with Signals() as signals, progress_bars(console) as bars:
        whole = bars.add_task("all rounds", total=len(tasks), note="")

        def train(
            trainer: Trainer, task: Task, params: Any, masks: Any, steps: int | None = None
        ) -> Any:
            folder = records.cell_folder(run, task.name)
            finished = rounds.read_result(folder) is not None
            bar = bars.add_task(task.name, total=steps or study.iterations, note="")

            def show(step: int, row: dict[str, Any]) -> None:
                rate = step / max(row["seconds"], 1e-9)
                note = f"validation loss {row['validation_loss'][0]:.3f}  {rate:.0f} steps/s"
                bars.update(bar, completed=step, note=note)

            stopping = lambda: signals.stopping
            result, trained = trainer.train(task, params, masks, folder, show, stopping, steps)
            bars.remove_task(bar)
            bars.advance(whole)
            if not finished:
                bars.console.print(lottery_page.line(result), highlight=False)
            return trained

        run_procedures(study, trainers, train)


def write_page(run: pathlib.Path, folder: pathlib.Path) -> str:
    """Write the page, the numbers and the figure of a run, finished or not.

    Args:
      run: Folder of the run.
      folder: Where they go.

    Returns:
      The page.
    """
    about, results = read_results(run)
    numbers = {"run": about, "results": [dataclasses.asdict(result) for result in results]}
    page = lottery_page.markdown(results, about)
    figure = lottery_plot.figure(results, about["config"])
    write_results(folder, "lottery_tickets", numbers, page, figure)
    return page


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line.

    Args:
      arguments: Without the program's name; default: those of the process.

    Returns:
      Exit code: 0, 2 for a study that cannot run, 130 or 143 for one that was stopped.
    """
    return command("lottery_tickets", Arguments, __doc__, arguments, _train, write_page)


def _train(given: Arguments, console: Console) -> pathlib.Path:
    check(given.study)
    run = open_run(given.study, given.out, given.resume)
    number = len(tasks_of(given.study))
    console.print(f"{number} trainings x {given.study.seeds} seeds, into {run}")
    run_study(given.study, run, given.data_dir, console)
    return run


if __name__ == "__main__":
    sys.exit(main())
