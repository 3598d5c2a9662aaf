"""Training from given weights under given masks: one training after another, by one program.

Masks and weights are data, so that rounds and controls of an iterative procedure share a compiled
step. The files of a training are those of a cell (`experiments.records`); beside them:

RUN/cells/CELL/trained.npz       the weights that training ended with
"""

import dataclasses
import math
import pathlib
import shutil
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxsparse

from . import models, records
from .cell import Order
from .checkpoints import Checkpoints
from .config import check_counts
from .data import Dataset, hold_out, steps_per_epoch
from .loop import Learner, build_program, masks_given_later, spent
from .stopping import Stopped


@dataclasses.dataclass(frozen=True)
class Training:
    """One training: Adam at a constant rate, evaluated on images held out of the training set."""

    seeds: int = 5
    """Number of seeds, all in one compiled program: 0, 1, 2, ..."""
    iterations: int = 6000
    """Steps of each training (the paper: 50,000)."""
    widths: tuple[int, ...] = (300, 100)
    """Units of each hidden layer."""
    batch_size: int = 60
    """Examples a step."""
    learning_rate: float = 1.2e-3
    """Adam's learning rate, per step, constant."""
    validation: int = 5000
    """Training images held out; the iteration of least loss on them is the early stop."""
    evaluate_every: int = 100
    """Steps between evaluations on them; a stop is noticed then."""
    checkpoint_seconds: float = 30.0
    """Seconds between checkpoints at least; a stopped run loses no more than that."""


@dataclasses.dataclass(frozen=True)
class Task:
    """What is trained: an arm of the study, after so many rounds of pruning, on a data set."""

    data: str
    arm: str
    round: int

    @property
    def name(self) -> str:
        """Name of the cell."""
        return f"{self.data}-{self.arm}-{self.round}"


@dataclasses.dataclass(frozen=True)
class Result:
    """The final numbers of a training. Lists have an entry a seed.

    ``best_step`` is the iteration of least validation loss among those evaluated;
    ``validation_loss`` and ``test_accuracy`` are of the weights there, ``last_test_accuracy`` and
    ``train_loss`` (over the last interval) of those at the end. ``weights`` counts all that may be
    pruned. ``flops`` are all operations of this training, ``average_parameters`` the mean over its
    steps of the parameters in use; None in older runs.
    """

    cell: str
    data: str
    arm: str
    round: int
    seeds: list[int]
    steps: int
    seconds: float
    best_step: list[int]
    validation_loss: list[float]
    test_accuracy: list[float]
    last_test_accuracy: list[float]
    train_loss: list[float]
    nonfinite: list[int]
    weights: int
    kept: dict[str, list[int]]
    flops: list[float] | None = None
    average_parameters: list[float] | None = None

    @property
    def density(self) -> float:
        """Fraction of the weights that is kept."""
        return sum(kept[0] for kept in self.kept.values()) / self.weights


def read_result(folder: pathlib.Path) -> Result | None:
    """The final numbers of a training.

    Args:
      folder: Folder of its cell.

    Returns:
      The numbers, or None while it is not finished.
    """
    saved = records.read_json(folder / "result.json")
    return None if saved is None else Result(**saved)


def check(training: Training) -> None:
    """Refuse a training that cannot run, before anything is loaded or traced.

    Args:
      training: What to check.

    Raises:
      ValueError: one line with the value, the range and the remedy.
    """
    check_counts(training, ("seeds", "iterations", "batch_size", "validation", "evaluate_every"))
    if not training.learning_rate > 0:
        raise ValueError(f"learning_rate is {training.learning_rate}; it must be positive")
    if training.iterations % training.evaluate_every:
        raise ValueError(
            f"iterations is {training.iterations}; give a multiple of evaluate_every "
            f"({training.evaluate_every})"
        )


class Trainer:
    """The compiled program of one data set, and the trainings done by it."""

    def __init__(self, training: Training, dataset: Dataset) -> None:
        """Compile nothing yet.

        Args:
          training: How to train.
          dataset: The data, whole: the validation set is taken from its train split.
        """
        rest, self._images, self._labels = hold_out(dataset, training.validation)
        self._training, examples = training, len(rest.train_images)
        model = models.MLP(
            features=(*training.widths, dataset.num_classes),
            kernel_init=nn.initializers.glorot_normal(),
        )
        optimizer = optax.adam(training.learning_rate)
        given = masks_given_later()
        self._program = build_program(model, rest, optimizer, given, training.seeds, False)
        self._order = Order(training.seeds, examples, training.batch_size)
        per_epoch = steps_per_epoch(examples, training.batch_size)
        self._apart = math.ceil(training.iterations / per_epoch) * per_epoch
        self._choose = jax.jit(jax.vmap(_choose))

    def initial(self, draw: int = 0) -> tuple[Any, Any]:
        """Glorot-normal weights, and masks that keep them all; host arrays with a seed axis.

        Args:
          draw: Another number, another initialization.

        Returns:
          Weights and masks.
        """
        learner = self._program.init(self._seeds() + jnp.uint32(1000 * draw))
        return jax.device_get((learner.params, learner.opt_state.masks))

    def train(
        self,
        task: Task,
        params: Any,
        masks: Any,
        folder: pathlib.Path,
        progress: Callable[[int, dict[str, Any]], None],
        stopping: Callable[[], int],
        steps: int | None = None,
    ) -> tuple[Result, Any]:
        """Train to the end, from where it stopped; what is finished is read.

        Batches come in an order that depends on seed and round: the same for all arms.

        Args:
          task: What is trained.
          params: The weights to start from, with a seed axis; those off the masks do not count.
          masks: The masks, likewise.
          folder: Folder of the cell.
          progress: Called with the step reached and the latest metrics.
          stopping: Asked between compiled calls: is the run to stop? 0, or the number of the signal
            that says so.
          steps: Iterations; default: those of the configuration.

        Returns:
          The final numbers, and the trained weights as host arrays.

        Raises:
          Stopped: if ``stopping`` said so; a checkpoint was saved.
        """
        steps = steps or self._training.iterations
        result = read_result(folder)
        if result is None:
            learner, best, rows = self._run(
                params, masks, folder, progress, stopping, steps, task.round * self._apart
            )
            result = self._result(task, learner, best, rows)
            records.write_leaves(folder / "trained.npz", learner.params)
            records.write_json(folder / "result.json", dataclasses.asdict(result))
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        (folder / "checkpoints.json").unlink(missing_ok=True)
        return result, records.read_leaves(folder / "trained.npz", self._program.abstract.params)

    def _run(
        self,
        params: Any,
        masks: Any,
        folder: pathlib.Path,
        progress: Callable[[int, dict[str, Any]], None],
        stopping: Callable[[], int],
        steps: int,
        first: int,
    ) -> tuple[Learner, Any, list[dict[str, Any]]]:
        """The learner at the end, the weights of least validation loss, a row an evaluation."""
        program, every = self._program, self._training.evaluate_every
        about = {"jaxsparse": jaxsparse.__version__, **records.plain(self._training)}
        about.pop("checkpoint_seconds")
        with Checkpoints(
            folder / "checkpoints", about, log=folder / "metrics.jsonl"
        ) as checkpoints:
            shapes = {"learner": program.abstract, "best": program.abstract.params}
            step, saved = checkpoints.restore(shapes) or (0, None)
            if saved is not None:
                learner, best = saved["learner"], saved["best"]
            else:
                learner = program.start(self._seeds(), params, {}, masks)
                best = jax.tree.map(jnp.copy, learner.params)
            records.truncate_metrics(folder, step)
            rows = records.read_metrics(folder)
            written, before = len(rows), rows[-1]["seconds"] if rows else 0.0
            began = kept = time.monotonic()
            while step < steps:
                indices = self._order.steps(first + step, first + step + every)
                learner, metrics = program.run(learner, indices)
                step += every
                loss, accuracy = program.evaluate(learner, self._images, self._labels)
                row = {
                    "step": step,
                    "train_loss": np.asarray(metrics.loss, np.float64).mean(0).tolist(),
                    "validation_loss": np.asarray(loss, np.float64).tolist(),
                    "validation_accuracy": np.asarray(accuracy, np.float64).tolist(),
                    "nonfinite": np.asarray(metrics.nonfinite).sum(0).tolist(),
                    **spent(rows[-1] if rows else {}, metrics, program, indices.shape[-1], step),
                    "seconds": before + time.monotonic() - began,
                }
                better = _best(rows) > _losses([row])[0] if rows else np.full(len(loss), True)
                best = self._choose(better, learner.params, best)
                rows.append(row)
                progress(step, row)
                stop = stopping() if step < steps else 0
                if stop or time.monotonic() - kept > self._training.checkpoint_seconds:
                    records.append_metrics(folder, rows[written:])
                    checkpoints.save(step, {"learner": learner, "best": best})
                    written, kept = len(rows), time.monotonic()
                if stop:
                    checkpoints.wait()
                    raise Stopped(stop)
            records.append_metrics(folder, rows[written:])
        return learner, best, rows

    def _result(
        self, task: Task, learner: Learner, best: Any, rows: list[dict[str, Any]]
    ) -> Result:
        at = np.argmin(_losses(rows), axis=0)
        _, test = self._program.evaluate(learner._replace(params=best))
        _, last = self._program.evaluate(learner)
        kept = {path: n.tolist() for path, n in self._program.kept(learner).items()}
        return Result(
            cell=task.name,
            data=task.data,
            arm=task.arm,
            round=task.round,
            seeds=list(range(self._training.seeds)),
            steps=rows[-1]["step"],
            seconds=rows[-1]["seconds"],
            best_step=[rows[i]["step"] for i in at],
            validation_loss=[rows[i]["validation_loss"][seed] for seed, i in enumerate(at)],
            test_accuracy=np.asarray(test, np.float64).tolist(),
            last_test_accuracy=np.asarray(last, np.float64).tolist(),
            train_loss=rows[-1]["train_loss"],
            nonfinite=np.sum([row["nonfinite"] for row in rows], axis=0).tolist(),
            weights=sum(layer.size for layer in self._program.layers if layer.path in kept),
            kept=kept,
            flops=rows[-1].get("flops"),
            average_parameters=rows[-1].get("average_parameters"),
        )

    def _seeds(self) -> jax.Array:
        return jnp.arange(self._training.seeds, dtype=jnp.uint32)


def _choose(better: jax.Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(better, a, b), new, old)


def _losses(rows: list[dict[str, Any]]) -> np.ndarray:
    """Validation losses [evaluations, seeds]; what is no number is never the least."""
    losses = np.array([row["validation_loss"] for row in rows])
    return np.where(np.isfinite(losses), losses, np.inf)


def _best(rows: list[dict[str, Any]]) -> np.ndarray:
    return _losses(rows).min(axis=0)
