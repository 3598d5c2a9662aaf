"""One cell of a run: one method at one sparsity, from where it stopped to its result."""

import dataclasses
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxsparse

from . import arrays, build, evaluate, processes, records
from .checkpoints import Checkpoints
from .config import FREE, Config
from .data import Dataset, epoch_order, steps_per_epoch
from .loop import Learner, Program, StepMetrics, build_program, spent
from .measures import measures_of
from .mesh import ONE_DEVICE, Layout, layout_of
from .nonfinite import check_finite
from .snapshots import Snapshots
from .stopping import Stopped


@dataclasses.dataclass(frozen=True)
class Cell:
    """What is trained: a method of the registry at a sparsity (0 where it has none)."""

    name: str
    method: str
    sparsity: float


def chunk_length(steps: int, most: int) -> int:
    """Steps of one compiled call: the largest divisor of all steps that is not too small.

    Args:
      steps: Steps of the run.
      most: The longest call wanted.

    Returns:
      A number in [1, most]; it divides ``steps`` unless that would make calls very short.
    """
    divisor = max(n for n in range(1, min(most, steps) + 1) if steps % n == 0)
    return divisor if 4 * divisor >= min(most, steps) else min(most, steps)


class Order:
    """Batches of any range of steps; an epoch's order is drawn once."""

    def __init__(self, seeds: int, examples: int, batch_size: int, first: int = 0) -> None:
        """For so many seeds, from the first on."""
        self._per_epoch = steps_per_epoch(examples, batch_size)
        order = lambda seed, epoch: epoch_order(seed, epoch, examples, batch_size)
        self._draw = jax.jit(jax.vmap(order, in_axes=(0, None)))
        self._seeds = jnp.arange(first, first + seeds, dtype=jnp.uint32)
        self._epoch, self._rows = -1, np.zeros(0)

    def steps(self, start: int, stop: int) -> np.ndarray:
        """Indices [steps, seeds, batch] of the steps in [start, stop)."""
        parts = []
        while start < stop:
            epoch, first = divmod(start, self._per_epoch)
            if epoch != self._epoch:
                rows = np.asarray(self._draw(self._seeds, epoch))
                self._epoch, self._rows = epoch, rows.swapaxes(0, 1)
            last = min(self._per_epoch, first + stop - start)
            parts.append(self._rows[first:last])
            start += last - first
        return np.concatenate(parts)


def program_of(
    config: Config, cell: Cell, dataset: Dataset, layout: Layout = ONE_DEVICE
) -> Program:
    """The compiled functions of a cell.

    Args:
      config: The run.
      cell: Which of its cells.
      dataset: The data.
      layout: Where it runs.

    Returns:
      A ``Program``; nothing is compiled before it is called.
    """
    per_epoch = steps_per_epoch(len(dataset.train_images), config.batch_size)
    steps = config.epochs * per_epoch
    model = build.build_model(config, dataset.num_classes)
    measures = measures_of(model, dataset, layout.auto)
    return build_program(
        model,
        dataset,
        build.build_optimizer(config, steps, per_epoch, cell.method),
        build.build_method(config, cell.method, cell.sparsity, steps, measures),
        config.seeds,
        config.augment,
        config.exploration,
        layout,
    )


class Stretches:
    """A program in training, a stretch of steps at a time; nothing is written."""

    def __init__(self, program: Program, order: Order, learner: Learner, step: int = 0) -> None:
        """From a step on, with the batches of that order; ``learner`` is taken over."""
        self._program, self._order = program, order
        self._first = self._step = step
        self.learner, self.spent = learner, {}

    def run(self, steps: int) -> None:
        """Train so many steps, to their end."""
        rows = self._order.steps(self._step, self._step + steps)
        self.learner, metrics = jax.block_until_ready(self._program.run(self.learner, rows))
        self._step += steps
        done = self._step - self._first
        self.spent = spent(self.spent, metrics, self._program, rows.shape[-1], done)


def run_cell(
    config: Config,
    cell: Cell,
    dataset: Dataset,
    folder: pathlib.Path,
    progress: Callable[[int, dict[str, Any]], None],
    stopping: Callable[[], int],
    outside: evaluate.Outside,
    start: Any = None,
) -> records.Result:
    """Train one cell to its end, or from its last checkpoint to its end.

    Args:
      config: The run.
      cell: Which of its cells.
      dataset: The data.
      folder: Folder of the cell.
      progress: Called with the step reached and the latest metrics.
      stopping: Asked between compiled calls: is the run to stop? 0, or the number of the signal
        that says so.
      outside: Images of no class, which the trained networks are asked to recognize as such.
      start: A ``conversion.Network`` to start from; ``None``: one that is just initialized.

    Returns:
      The final numbers, which are also in ``folder``.

    Raises:
      Stopped: if ``stopping`` said so; a checkpoint was saved (but with ``max_nonfinite`` none of
        a call that had a step with numbers that are not finite).
      NotFiniteError: if there were more such steps than ``max_nonfinite``.
      CannotSaveError: if a checkpoint could not be written; those before it are whole.
      ValueError: if there are checkpoints of another training, or none that is whole.
    """
    examples = len(dataset.train_images)
    per_epoch = steps_per_epoch(examples, config.batch_size)
    steps = config.epochs * per_epoch
    layout = layout_of(config.devices)
    program = program_of(config, cell, dataset, layout)
    order = Order(config.seeds, examples, config.batch_size)
    chunk = chunk_length(steps, config.chunk_steps)
    every = config.evaluate_every * per_epoch
    about, metrics = about_of(config, cell), folder / "metrics.jsonl"
    with Checkpoints(folder / "checkpoints", about, log=metrics) as checkpoints:
        saved = checkpoints.restore(program.abstract)
        if saved is None:
            seeds = np.arange(config.seeds, dtype=np.uint32)
            step, learner = 0, program.go_on(seeds, *start) if start else program.init(seeds)
        else:
            step, learner = saved
        records.truncate_metrics(folder, step)
        log = _Log(program, folder, dataset.image_shape, config.batch_size, step)
        if not step:
            log.snapshot(0, learner)
        newest, wrote = step, time.monotonic()
        began = wrote
        while step < steps:
            ahead = min(step + chunk, steps)
            rows = layout.share(order.steps(step, ahead), -1)
            learner, metrics = program.run(learner, rows)
            evaluating = ahead == steps or ahead // every > step // every
            row = log.add(ahead, ahead / per_epoch, metrics, learner, evaluating, began)
            step, began = ahead, time.monotonic()
            progress(step, row)
            late = time.monotonic() - wrote > config.checkpoint_seconds
            stop, late = processes.largest(stopping() if step < steps else 0, late)
            most, flags = config.max_nonfinite, np.asarray(metrics.nonfinite)
            sound = most is None or not np.any(flags)
            if not sound:  # what to go back to is a checkpoint from before the trouble
                log.save()
                check_finite(most, cell.name, sum(row["nonfinite"]), flags, step, newest)
            if step == steps or ((stop or late) and sound):
                checkpoints.wait()  # on a full disk, it knows best what to say
                log.save()
                checkpoints.save(step, learner)
                newest, wrote = step, time.monotonic()
            if stop:
                checkpoints.wait()
                processes.wait_for_all("stopped")
                raise Stopped(stop)
    evaluation, confidence = evaluate.evaluate_confidence(program.scores, learner, dataset, outside)
    arrays.write_confidence(folder, confidence)
    result = log.result(cell, config, learner, steps)
    result = dataclasses.replace(result, evaluation=evaluation)
    records.write_result(folder, result)
    return result


def about_of(config: Config, cell: Cell) -> dict[str, Any]:
    """What decides the numbers of a cell.

    Args:
      config: The run.
      cell: Which of its cells.

    Returns:
      All settings but those of ``FREE`` and of other cells, as JSON has them.
    """
    settings = records.plain(config)
    others = (*FREE, "methods", "sparsities")
    return {
        "jaxsparse": jaxsparse.__version__,
        "method": cell.method,
        "sparsity": cell.sparsity,
        **{key: value for key, value in settings.items() if key not in others},
    }


class _Log:
    """Metrics of a cell on their way to its files."""

    def __init__(
        self,
        program: Program,
        folder: pathlib.Path,
        image_shape: tuple[int, ...],
        batch: int,
        step: int,
    ) -> None:
        self._program, self._folder = program, folder
        self._image_shape, self._batch = image_shape, batch
        # (Process 0 may not have truncated them yet, or gone on already.)
        rows = [row for row in records.read_metrics(folder) if row["step"] <= step]
        self._last = rows[-1] if rows else {}
        self._unsaved: list[dict[str, Any]] = []
        self._snapshots = Snapshots(folder, image_shape, step)

    def snapshot(self, step: int, learner: Learner) -> None:
        """Keep what the first seed's masks look like."""
        paths = [layer.path for layer in self._program.layers]
        masks = processes.on_host(jax.tree.map(lambda mask: mask[:1], learner.opt_state.masks))
        self._snapshots.add(step, {path: _leaf(masks, path) for path in paths})

    def add(
        self,
        step: int,
        epoch: float,
        metrics: StepMetrics,
        learner: Learner,
        evaluating: bool,
        began: float,
    ) -> dict[str, Any]:
        """One line of metrics from one compiled call."""
        values = jax.tree.map(lambda x: np.asarray(x, np.float64), metrics)
        info = learner.opt_state.info
        kept = self._kept_in_all(learner)
        seeds = values.loss.shape[1]
        before = np.asarray(self._last.get("nonfinite", np.zeros(seeds)))
        size = sum(layer.size for layer in self._program.layers)
        row: dict[str, Any] = {
            "step": step,
            "epoch": epoch,
            "train_loss": values.loss.mean(0).tolist(),
            "train_accuracy": values.accuracy.mean(0).tolist(),
            "grad_norm": values.grad_norm.mean(0).tolist(),
            "kept": kept.tolist(),
            "sparsity": (1 - kept / size).tolist(),
            "inference_flops": values.inference_flops[-1].tolist(),
            **spent(self._last, metrics, self._program, self._batch, step),
            "dropped": np.broadcast_to(info.dropped, seeds).tolist(),
            "grown": np.broadcast_to(info.grown, seeds).tolist(),
            "updates": np.broadcast_to(info.updates, seeds).tolist(),
            "skipped": np.broadcast_to(info.skipped, seeds).tolist(),
            "nonfinite": (before + values.nonfinite.sum(0)).astype(int).tolist(),
        }
        if evaluating:
            loss, accuracy = self._program.evaluate(learner)
            row["test_loss"] = np.asarray(loss, np.float64).tolist()
            row["test_accuracy"] = np.asarray(accuracy, np.float64).tolist()
            self.snapshot(step, learner)
        row["seconds"] = self._last.get("seconds", 0.0) + time.monotonic() - began
        self._unsaved.append(row)
        self._last = row
        return row

    def save(self) -> None:
        """Write what has been collected; a checkpoint of the same step follows."""
        records.append_metrics(self._folder, self._unsaved)
        self._unsaved = []
        self._snapshots.save()

    def result(self, cell: Cell, config: Config, learner: Learner, steps: int) -> records.Result:
        """The final numbers."""
        last, kept = self._last, self._program.kept(learner)
        explored = self._program.explored
        layers = [
            records.Layer(
                path=layer.path,
                shape=list(layer.shape),
                size=layer.size,
                kept=kept[layer.path].tolist() if layer.path in kept else None,
                flops=layer.flops,
            )
            for layer in self._program.layers
        ]
        return records.Result(
            cell=cell.name,
            method=cell.method,
            sparsity=cell.sparsity,
            seeds=list(range(config.seeds)),
            steps=steps,
            epochs=float(config.epochs),
            seconds=last["seconds"],
            test_accuracy=last["test_accuracy"],
            test_loss=last["test_loss"],
            train_loss=last["train_loss"],
            kept=last["kept"],
            weights=sum(layer.size for layer in layers),
            inference_flops=last["inference_flops"],
            training_flops=last["training_flops"],
            updates=max(last["updates"]),
            skipped=last["skipped"],
            nonfinite=last["nonfinite"],
            layers=layers,
            flops=last["flops"],
            average_parameters=last["average_parameters"],
            exploration=None if explored is None else np.asarray(explored(learner)).tolist(),
        )

    def _kept_in_all(self, learner: Learner) -> np.ndarray:
        kept = self._program.kept(learner)
        seeds = learner.seed.shape
        counts = [
            np.broadcast_to(kept.get(layer.path, layer.size), seeds)
            for layer in self._program.layers
        ]
        return np.sum(counts, axis=0)


def _leaf(tree: Any, path: str) -> Any:
    """The array at a path, or None where the leaf is dense."""
    for part in path.split("/"):
        tree = tree[part]
    return tree if hasattr(tree, "shape") else None
