"""Studies of masks: networks trained under masks that are given, one cell after another.

A cell is one network under one kind of mask, all seeds. Its numbers are written as soon as it is
finished (`experiments.records` names the files), and a study that is started again trains only
what is missing, to the same numbers.
"""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from matplotlib.figure import Figure
from rich.console import Console

from . import build, data, jobs, records
from .cell import Order, chunk_length
from .config import Config, Model, Optimizer, check_counts
from .loop import build_program, masks_given_later, spent
from .measures import Measures, measures_of
from .stopping import INTERRUPTED, FailedCellsError, tell
from .study import read_cells, write_results
from .train import check_same, environment, progress_bars

Show = Callable[[int, int], None]
"""``(steps done, all steps)`` of a cell."""


@dataclasses.dataclass(frozen=True)
class Training:
    """How every network is trained: SGD with Nesterov momentum 0.9, cosine decay."""

    data: str = "mnist"
    """Data set, whole."""
    seeds: int = 5
    """Number of seeds: 0, 1, 2, ..."""
    epochs: int = 1
    """Passes over the training set."""
    batch_size: int = 100
    """Examples a step."""
    learning_rate: float = 0.1
    """Peak learning rate, per step; it falls to 0 over the run."""
    weight_decay: float = 1e-4
    """L2 penalty of the weights that are kept."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What a study is told beside what its numbers depend on."""

    out: Annotated[pathlib.Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder of the run; default: runs/ and the study's name. What is finished there is kept."""
    data_dir: pathlib.Path | None = None
    """TFDS data directory; default: the variable JAXSPARSE_DATA_DIR, else the user's cache."""
    backwards: bool = False
    """From the last cell on: a second process beside one that goes forwards."""
    page_only: bool = False
    """Train nothing: write the page of the cells that are finished."""
    results: pathlib.Path = pathlib.Path(__file__).parent / "results"
    """Folder that the page, the numbers and the figure are written to."""


@dataclasses.dataclass(frozen=True)
class Result:
    """The final numbers of a cell. Lists have an entry a seed.

    ``weights`` counts what may be pruned, ``kept`` what is left of it in each layer. ``flops`` are
    all operations of training, ``average_parameters`` the mean over its steps of the parameters in
    use; None in older runs.
    """

    cell: str
    steps: int
    seconds: float
    test_accuracy: list[float]
    test_loss: list[float]
    nonfinite: list[int]
    weights: int
    kept: dict[str, list[int]]
    commit: str = ""
    flops: list[float] | None = None
    average_parameters: list[float] | None = None


def check_training(training: Training) -> None:
    """Refuse a training that cannot run, before anything is loaded or traced.

    Args:
      training: What to check.

    Raises:
      ValueError: one line with the value, the range and the remedy.
    """
    data.check_name(training.data)
    check_counts(training, ("seeds", "epochs", "batch_size"))
    if not training.learning_rate > 0:
        raise ValueError(f"learning_rate is {training.learning_rate}; it must be positive")


class Trainer:
    """One network: its first weights, and its training under any masks by one compiled program."""

    def __init__(
        self, training: Training, model: Model, dataset: data.Dataset, lanes: int | None = None
    ) -> None:
        """Compile nothing yet.

        Args:
          training: How to train.
          model: The network.
          dataset: The data.
          lanes: Seeds that are trained at once, a divisor of all; default: all.
        """
        config = Config(
            data=training.data,
            model=model,
            optimizer=Optimizer(
                learning_rate=training.learning_rate, weight_decay=training.weight_decay
            ),
        )
        self._training, self._examples = training, len(dataset.train_images)
        self._lanes = lanes or training.seeds
        per_epoch = data.steps_per_epoch(self._examples, training.batch_size)
        self._steps = training.epochs * per_epoch
        module = build.build_model(config, dataset.num_classes)
        optimizer = build.build_optimizer(config, self._steps, per_epoch)
        self._program = build_program(
            module, dataset, optimizer, masks_given_later(), self._lanes, False
        )
        self.measures: Measures = measures_of(module, dataset)

    def initial(self, draw: int = 0) -> tuple[Any, Any, Any]:
        """First weights, batch statistics, and masks that keep all: host arrays with a seed axis.

        Args:
          draw: Another number, another initialization.

        Returns:
          The three.
        """
        parts = []
        for first in range(0, self._training.seeds, self._lanes):
            learner = self._program.init(self._seeds(first + 1000 * draw))
            parts.append((learner.params, learner.batch_stats, learner.opt_state.masks))
        return _joined(parts)

    def train(
        self, cell: str, params: Any, batch_stats: Any, masks: Any, show: Show
    ) -> tuple[Result, Any]:
        """Train under masks. Batches come in an order that depends on the seed alone.

        Args:
          cell: Name of the cell.
          params: The weights to start from, with a seed axis; those off the masks do not count.
          batch_stats: Batch statistics, likewise.
          masks: The masks, likewise.
          show: Called with the steps done and all steps.

        Returns:
          The final numbers, and the trained weights as host arrays.
        """
        program, steps, began = self._program, self._steps, time.monotonic()
        chunk, parts, ended = chunk_length(steps, 200), [], []
        groups = range(0, self._training.seeds, self._lanes)
        for number, first in enumerate(groups):
            mine = jax.tree.map(
                lambda x, at=first: x[at : at + self._lanes], (params, batch_stats, masks)
            )
            learner = program.start(self._seeds(first), *mine)
            order = Order(self._lanes, self._examples, self._training.batch_size, first)
            bad, used = np.zeros(self._lanes, int), {}
            for step in range(0, steps, chunk):
                last = min(step + chunk, steps)
                learner, metrics = program.run(learner, order.steps(step, last))
                used = spent(used, metrics, program, self._training.batch_size, last)
                bad += np.asarray(metrics.nonfinite).sum(0)
                show(number * steps + last, len(groups) * steps)
            loss, accuracy = program.evaluate(learner)
            cost = (used["flops"], used["average_parameters"])
            parts.append((accuracy, loss, bad, program.kept(learner), *map(np.asarray, cost)))
            ended.append(learner.params)
        accuracy, loss, bad, kept, operations, parameters = _joined(parts)
        result = Result(
            cell=cell,
            steps=steps,
            seconds=time.monotonic() - began,
            test_accuracy=np.asarray(accuracy, np.float64).tolist(),
            test_loss=np.asarray(loss, np.float64).tolist(),
            nonfinite=bad.tolist(),
            weights=sum(layer.size for layer in program.layers if layer.path in kept),
            kept={path: counts.tolist() for path, counts in kept.items()},
            flops=operations.tolist(),
            average_parameters=parameters.tolist(),
        )
        return result, _joined(ended)

    def _seeds(self, first: int) -> jax.Array:
        return jnp.arange(first, first + self._lanes, dtype=jnp.uint32)


def _joined(parts: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *each: np.concatenate([np.asarray(x) for x in each]), *parts)


def read_result(folder: pathlib.Path) -> Result | None:
    """The final numbers of a cell.

    Args:
      folder: Of the cell.

    Returns:
      The numbers, or None while it is not finished.
    """
    saved = records.read_json(folder / "result.json")
    return None if saved is None else Result(**saved)


def run_cells(
    run: pathlib.Path,
    cells: Sequence[str],
    train: Callable[[str, Show], Result],
    commit: str,
    console: Console,
) -> None:
    """Train every cell that is not finished yet, nor in work in another process.

    Args:
      run: Folder of the run.
      cells: Names, in the order of training.
      train: Name and progress to the numbers.
      commit: Written down with them.
      console: Where the progress goes.

    Raises:
      FailedCellsError: if cells failed; the others are finished.
    """
    with progress_bars(console) as bars:
        whole = bars.add_task("all cells", total=len(cells), note="")

        def train_one(cell: str) -> None:
            folder = records.cell_folder(run, cell)
            if read_result(folder) is None:
                bar = bars.add_task(cell, total=None, note="")
                show = lambda n, of: bars.update(bar, completed=n, total=of)
                result = dataclasses.replace(train(cell, show), commit=commit)
                records.write_json(folder / "result.json", dataclasses.asdict(result))
                mean = 100 * float(np.mean(result.test_accuracy))
                bars.remove_task(bar)
                bars.console.print(f"{cell:32} {mean:6.2f} %  ({result.seconds:.0f} s)")
            bars.advance(whole)

        jobs.do_all(run, {cell: functools.partial(train_one, cell) for cell in cells})


def main(
    given: Arguments,
    study: Training,
    name: str,
    check: Callable[[], None],
    cells: Sequence[str],
    open_lab: Callable[[data.Dataset, pathlib.Path], Callable[[str, Show], Result]],
    markdown: Callable[[dict[str, Any]], str],
    figure: Callable[[dict[str, Any]], Figure],
) -> int:
    """Train what is missing and write the results.

    Args:
      given: The command line.
      study: What the numbers depend on.
      name: Of the study, as a module.
      check: Raises a ``ValueError`` where the study cannot run.
      cells: Names of its cells, in the order of training.
      open_lab: Data and the run's folder to what trains a cell.
      markdown: The page of ``{"run": ..., "results": [...]}``.
      figure: The figure of it.

    Returns:
      Exit code: 0, 2 where something cannot be run or read, 130 for a run stopped on request.
    """
    console, code = Console(), 0
    run = given.out or pathlib.Path("runs") / name.replace("_", "-")
    try:
        try:
            if not given.page_only:
                check()
                commit = _open_run(run, study, cells)
                lab = open_lab(data.load(study.data, given.data_dir), run)
                run_cells(run, cells[:: -1 if given.backwards else 1], lab, commit, console)
        except KeyboardInterrupt:
            console.print("stopped; the same command goes on")
            code = INTERRUPTED
        numbers = numbers_of(run)
    except (ValueError, OSError, FailedCellsError) as error:
        return tell(error)
    page = markdown(numbers)
    write_results(given.results, name, numbers, page, figure(numbers))
    console.print(page, markup=False, highlight=False, soft_wrap=True)
    return code


def numbers_of(run: pathlib.Path) -> dict[str, Any]:
    """What the JSON file of a study holds.

    Args:
      run: Folder of the run, finished or not.

    Returns:
      ``{"run": what run.json holds, "results": [...]}``, in the order of training.

    Raises:
      FileNotFoundError: if the folder holds no run.
    """
    about, results = read_cells(run, read_result)
    return {"run": about, "results": [dataclasses.asdict(result) for result in results]}


def _open_run(run: pathlib.Path, study: Training, cells: Sequence[str]) -> str:
    """Begin a run, or go on with one of the same study; the commit that trains from here on."""
    about = records.read_json(run / "run.json")
    config, now = records.plain(study), environment()
    if about is None:
        about = {"config": config, "cells": list(cells), "environment": now}
        records.write_json(run / "run.json", about)
    check_same(run, about, config)
    return now["commit"]
