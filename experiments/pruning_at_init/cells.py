"""What is pruned and trained: the study, its cells, and their numbers."""

import dataclasses
import math
import pathlib
import time
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console

from jaxsparse import saliency, scores, sparse_paths
from jaxsparse.pruning import keep_all

from .. import data, models, records
from ..build import build_optimizer
from ..cell import Order, Stretches
from ..config import Config, Optimizer, check_counts
from ..data import steps_per_epoch
from ..loop import build_program, masks_given_later
from ..measures import Measures, measures_of
from ..stopping import Signals, Stopped
from ..study import read_cells
from ..train import progress_bars

_RANDOM_STREAM = 0x5A1E
_EVALUATION_BATCH = 125
METHODS = ("random", "magnitude", "snip", "grasp", "force", "synflow")
ONCE = "synflow_once"
"""SynFlow in a single round; its masks are not trained."""


@dataclasses.dataclass(frozen=True)
class Study:
    """What is pruned and trained: all that the numbers depend on."""

    data: str = "fashion_mnist"
    """Data set."""
    widths: Annotated[tuple[tuple[int, ...], ...], tyro.conf.Suppress] = (
        (8,),
        (16,),
        (32, 32),
        (64, 64, 64, 64),
    )
    """Channels of the 3x3 convolutions of each block of the VGG, before its pooling."""
    exponents: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
    """Compressions (weights / weights kept), as powers of ten."""
    seeds: int = 3
    """Number of seeds: first weights, batches and random masks 0, 1, 2, ..."""
    steps: int = 360
    """Steps of each training."""
    batch_size: int = 64
    """Examples a step."""
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    synflow_rounds: int = 100
    """Rounds of SynFlow (the paper's)."""
    force_rounds: int = 60
    """Rounds of FORCE (its authors')."""
    chunk_steps: int = 120
    """Steps in one compiled call at most; a stop is noticed between calls."""


class Cell(NamedTuple):
    """A method at a compression.

    Attributes:
      method: One of ``METHODS``, ``ONCE``, or dense.
      exponent: Of the compression; None: the highest that leaves a weight for each layer.
      trained: Or masks only?
    """

    method: str
    exponent: float | None
    trained: bool

    @property
    def name(self) -> str:
        """Name of the cell."""
        if self.method == "dense":
            return "dense"
        return f"{self.method}-{'max' if self.exponent is None else f'{self.exponent:g}'}"


@dataclasses.dataclass(frozen=True)
class Result:
    """The numbers of a cell. Lists have an entry a seed; those of a training are empty without one.

    ``exponent`` is log10 of the compression asked for; ``sizes`` and ``kept`` count the weights of
    each layer, from the input to the output. ``flops`` are all operations of the training,
    ``average_parameters`` the mean over its steps of the parameters in use; None in older runs.
    """

    cell: str
    method: str
    exponent: float
    trained: bool
    seeds: list[int]
    steps: int
    seconds: float
    sizes: dict[str, int]
    kept: dict[str, list[int]]
    test_accuracy: list[float]
    test_loss: list[float]
    flops: list[float] | None = None
    average_parameters: list[float] | None = None

    @property
    def collapsed(self) -> list[bool]:
        """Is a layer without any weight, for each seed?"""
        return [min(counts) == 0 for counts in zip(*self.kept.values(), strict=True)]


def check(study: Study) -> None:
    """Refuse a study that cannot run, before anything is loaded or traced.

    Args:
      study: What to check.

    Raises:
      ValueError: one line with the value, the range and the remedy.
    """
    data.check_name(study.data)
    counts = ("seeds", "steps", "batch_size", "synflow_rounds", "force_rounds", "chunk_steps")
    check_counts(study, counts)
    if wrong := [x for x in study.exponents if not x >= 0]:
        raise ValueError(f"exponents holds {wrong[0]}; give powers of ten from 0 on")
    if not study.optimizer.learning_rate > 0:
        rate = study.optimizer.learning_rate
        raise ValueError(f"optimizer.learning_rate is {rate}; it must be positive")


def cells_of(study: Study) -> list[Cell]:
    """The cells of a study, in the order in which they are run.

    Args:
      study: The study.

    Returns:
      Dense, then masks that are not trained, then those that are, from the sparsest on.
    """
    masks_only = [Cell(ONCE, exponent, False) for exponent in study.exponents]
    masks_only += [Cell(method, None, False) for method in (*METHODS, ONCE)]
    falling = sorted(study.exponents, reverse=True)
    trained = [Cell(m, exponent, True) for exponent in falling for m in METHODS]
    return [Cell("dense", 0.0, True), *masks_only, *trained]


def saliency_of(
    study: Study, method: str, measures: Measures, key: Any
) -> tuple[saliency.Saliency, dict[str, Any]]:
    """A method: how it scores, and in how many rounds.

    Networks are in evaluation mode with the batch statistics of initialization for every method, as
    in the code of Tanaka et al.; SNIP, GraSP and FORCE see ten images of each class.

    Args:
      study: The study, for its rounds.
      method: One of ``METHODS``, or ``ONCE``.
      measures: Network, loss and images.
      key: PRNG key of random scores.

    Returns:
      The saliency, and arguments of ``prune_in_rounds``.
    """
    model_fn, batches = measures.model_fn, measures.batches
    sensitivity = saliency.connection_sensitivity(measures.loss_fn, batches)
    flow = saliency.synaptic_flow(model_fn, measures.inputs)
    methods: dict[str, tuple[saliency.Saliency, dict[str, Any]]] = {
        "random": (saliency.by_score(scores.random, key), {}),
        "magnitude": (saliency.by_score(scores.magnitude), {}),
        "snip": (sensitivity, {}),
        "grasp": (
            saliency.gradient_flow(saliency.cross_entropy(model_fn, temperature=200.0), batches),
            {},
        ),
        "force": (sensitivity, {"rounds": study.force_rounds, "regrow": True}),
        "synflow": (flow, {"rounds": study.synflow_rounds}),
        ONCE: (flow, {}),
    }
    return methods[method]


def kept_count(weights: int, layers: int, exponent: float | None) -> int:
    """How many weights a compression leaves.

    Args:
      weights: Of all layers that are pruned.
      layers: Their number.
      exponent: log10 of the compression; None: the highest that leaves a weight for each layer.

    Returns:
      The count, at least 1.
    """
    return layers if exponent is None else max(round(weights / 10**exponent), 1)


class Trainer:
    """The compiled program of a study, and the trainings done by it."""

    def __init__(self, study: Study, dataset: data.Dataset) -> None:
        """Compile nothing yet.

        Args:
          study: The study.
          dataset: The data.
        """
        model = models.VGG(classes=dataset.num_classes, widths=study.widths, products=True)
        self._study, self._examples = study, len(dataset.train_images)
        # In parts of one size, small enough for the windows of an image to stay in a CPU's cache.
        size = math.gcd(len(dataset.test_images), _EVALUATION_BATCH)
        self._test = [
            (dataset.test_images[i : i + size], dataset.test_labels[i : i + size])
            for i in range(0, len(dataset.test_images), size)
        ]
        self._config = Config(
            seeds=study.seeds, batch_size=study.batch_size, optimizer=study.optimizer
        )
        per_epoch = steps_per_epoch(self._examples, study.batch_size)
        optimizer = build_optimizer(self._config, study.steps, per_epoch)
        self._program = build_program(
            model, dataset, optimizer, masks_given_later(), study.seeds, False
        )
        self._measures = measures_of(model, dataset)
        self._seeds = jnp.arange(study.seeds, dtype=jnp.uint32)
        first = jax.device_get(self._program.init(self._seeds))
        self._params, self._batch_stats = first.params, first.batch_stats
        all_kept = keep_all(jax.tree.map(lambda leaf: leaf[0], first.params))
        self.sizes = {
            path: leaf.size
            for path, leaf in zip(sparse_paths(all_kept), jax.tree.leaves(all_kept), strict=True)
        }

    def masks(self, cell: Cell) -> Any:
        """The masks of a cell, with a seed axis.

        Args:
          cell: Which one.

        Returns:
          Masks that keep as many weights over all layers as the compression says, exactly.
        """
        if cell.method == "dense":
            return jax.vmap(keep_all)(self._params)
        weights = sum(self.sizes.values())
        kept = kept_count(weights, len(self.sizes), cell.exponent)

        def one(seed: jax.Array, params: Any) -> Any:
            key = jax.random.fold_in(jax.random.key(seed), _RANDOM_STREAM)
            scored, options = saliency_of(self._study, cell.method, self._measures, key)
            # Half a weight above: its floor is exact, however the fraction was rounded.
            sparsity = max(1 - (kept - 0.5) / weights, 0.0)
            return saliency.prune_in_rounds(scored, params, sparsity, **options)

        return jax.jit(jax.vmap(one))(self._seeds, self._params)

    def run(self, cell: Cell, progress: Callable[[int], None]) -> Result:
        """Prune, and train where the cell says so.

        Args:
          cell: Which one.
          progress: Called with the steps done, between compiled calls; it may raise.

        Returns:
          The numbers.
        """
        began, masks = time.monotonic(), jax.device_get(self.masks(cell))
        steps = self._study.steps if cell.trained else 0
        progress(0)
        accuracy, loss, spent = self._train(masks, steps, progress) if steps else ([], [], {})
        counts = [leaf.reshape(len(leaf), -1).sum(1).tolist() for leaf in jax.tree.leaves(masks)]
        weights = sum(self.sizes.values())
        return Result(
            cell=cell.name,
            method=cell.method,
            exponent=math.log10(weights / len(self.sizes))
            if cell.exponent is None
            else cell.exponent,
            trained=cell.trained,
            seeds=self._seeds.tolist(),
            steps=steps,
            seconds=time.monotonic() - began,
            sizes=self.sizes,
            kept=dict(zip(self.sizes, counts, strict=True)),
            test_accuracy=accuracy,
            test_loss=loss,
            flops=spent.get("flops", []),
            average_parameters=spent.get("average_parameters", []),
        )

    def _train(
        self, masks: Any, steps: int, progress: Callable[[int], None]
    ) -> tuple[list[float], list[float], dict[str, Any]]:
        """Test accuracy and loss at the last step, and the cost: of the first weights, masked."""
        order = Order(self._config.seeds, self._examples, self._config.batch_size)
        learner = self._program.start(self._seeds, self._params, self._batch_stats, masks)
        training = Stretches(self._program, order, learner)
        done = 0
        while done < steps:
            chunk = min(self._study.chunk_steps, steps - done)
            training.run(chunk)
            done += chunk
            progress(done)
        loss, accuracy = np.mean(
            [self._program.evaluate(training.learner, *part) for part in self._test], axis=0
        ).tolist()
        return accuracy, loss, training.spent


def read_results(run: pathlib.Path) -> tuple[dict[str, Any], list[Result]]:
    """What ``run.json`` says, and the finished cells in its order.

    Args:
      run: Folder of the run.

    Returns:
      Both.

    Raises:
      FileNotFoundError: if the folder holds no run.
    """
    return read_cells(run, _read)


def _read(folder: pathlib.Path) -> Result | None:
    saved = records.read_json(folder / "result.json")
    return None if saved is None else Result(**saved)


def _path(run: pathlib.Path, cell: str) -> pathlib.Path:
    return records.cell_folder(run, cell) / "result.json"


def run_study(study: Study, trainer: Trainer, run: pathlib.Path, console: Console) -> None:
    """Prune and train all that is not finished yet.

    Args:
      study: The study.
      trainer: Its program.
      run: Its folder.
      console: Where the progress goes.

    Raises:
      Stopped: on Ctrl-C or SIGTERM; what was finished is kept.
    """
    cells = cells_of(study)
    with Signals() as signals, progress_bars(console) as bars:
        whole = bars.add_task("all cells", total=len(cells), note="")
        for cell in cells:
            if not _path(run, cell.name).exists():
                bar = bars.add_task(cell.name, total=study.steps, note="masks")

                def show(done: int, bar: Any = bar) -> None:
                    bars.update(bar, completed=done, note="steps")
                    if signals.stopping:
                        raise Stopped(signals.stopping)

                result = trainer.run(cell, show)
                records.write_json(_path(run, cell.name), dataclasses.asdict(result))
                bars.remove_task(bar)
                bars.console.print(line(result), highlight=False)
            bars.advance(whole)


def line(result: Result) -> str:
    """A finished cell in one line.

    Args:
      result: Its numbers.

    Returns:
      The line.
    """
    kept = sum(counts[0] for counts in result.kept.values())
    accuracies = "  ".join(f"{100 * value:.2f}" for value in result.test_accuracy)
    return (
        f"{result.cell:18} {kept:7,} kept  empty layer in {sum(result.collapsed)} seeds  "
        f"accuracy {accuracies or '-'}  ({result.seconds:.0f} s)"
    )
