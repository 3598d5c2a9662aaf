"""Do penalties find better zeros than sizes do? ``python -m experiments.regularized``.

LeNet-300-100 on MNIST is trained with a proximal step of L1 or of group lasso, then fine-tuned
under the masks of its exact zeros, without the penalty. Controls have as many weights (or, in each
layer, as many inputs and units): those of the dense network that are largest, fine-tuned alike.
Three seeds; page, numbers and figure go to ``experiments/results/``. A few minutes on one CPU
core; a stopped run goes on after its last finished row, with the dense network trained anew.
"""

import dataclasses
import functools
import math
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from rich.console import Console

import jaxsparse
from jaxsparse.pruning import keep_all
from jaxsparse.regularization import Regularizer, group_lasso, l1, masks_from_zeros, proximal

from . import data, models, records
from .cell import Order, Stretches
from .config import check_counts, check_rates
from .data import steps_per_epoch
from .loop import Learner, Program, build_program, masks_given_later
from .plots import DENSE
from .regularized_page import figure, markdown
from .study import train_missing, write_results
from .train import environment

_NAME, _MOMENTUM, _CHUNK = "regularized", 0.9, 200


@dataclasses.dataclass(frozen=True)
class Training:
    """What every row of the table is trained with."""

    data: str = "mnist"
    """Data set."""
    widths: tuple[int, ...] = (300, 100)
    """Units of each hidden layer."""
    seeds: int = 3
    """Number of seeds, all in one compiled program: 0, 1, 2, ..."""
    batch_size: int = 100
    """Examples a step."""
    epochs: int = 2
    """Passes over the training set with the penalty (the dense network: without)."""
    tuning_epochs: int = 1
    """Passes under fixed masks, without it."""
    learning_rate: float = 0.05
    """Of Nesterov's SGD with momentum 0.9, cosine to 0."""
    tuning_rate: float = 0.02
    """The same, of the fine-tuning."""


def check(training: Training) -> None:
    """Refuse what cannot run.

    Args:
      training: What to check.

    Raises:
      ValueError: one line with the value, the range and the remedy.
    """
    data.check_name(training.data)
    check_counts(training, ("seeds", "batch_size", "epochs", "tuning_epochs"))
    check_rates(training, ("learning_rate", "tuning_rate"))


@dataclasses.dataclass(frozen=True)
class Arm:
    """A penalty: of single weights, or of the groups named."""

    groups: tuple[str, ...]
    strength: float

    @property
    def kind(self) -> str:
        """What is penalized."""
        return "group lasso, " + " and ".join(self.groups) if self.groups else "L1"

    @property
    def name(self) -> str:
        """Of the row."""
        return f"{self.kind}, {self.strength:g}"

    def regularizer(self) -> Regularizer:
        """The penalty."""
        return group_lasso(self.strength, self.groups) if self.groups else l1(self.strength)


ARMS = (
    Arm((), 3e-4),
    Arm((), 1e-3),
    Arm(("filters", "channels"), 3e-4),
    Arm(("channels",), 8e-4),
)


def _sgd(rate: Any) -> Any:
    return optax.sgd(rate, momentum=_MOMENTUM, nesterov=True)


class Ended(NamedTuple):
    """What came of a training, an entry a seed: ``cost`` has operations and average parameters."""

    accuracy: list[float]
    cost: dict[str, list[float]]


class Study:
    """Trainings of one configuration: with a penalty, and under masks."""

    def __init__(self, training: Training, dataset: data.Dataset) -> None:
        """Compile nothing yet."""
        self._training, self._dataset = training, dataset
        self._examples = len(dataset.train_images)
        per_epoch = steps_per_epoch(self._examples, training.batch_size)
        self._steps = training.epochs * per_epoch
        self._tuning_steps = training.tuning_epochs * per_epoch
        self._seeds = jnp.arange(training.seeds, dtype=jnp.uint32)
        rate = optax.cosine_decay_schedule(training.tuning_rate, self._tuning_steps)
        self._tuner = self._program(_sgd(rate), masks_given_later())

    def _program(self, optimizer: Any, algorithm: jaxsparse.MaskAlgorithm) -> Program:
        features = (*self._training.widths, self._dataset.num_classes)
        model, seeds = models.MLP(features=features), self._training.seeds
        return build_program(model, self._dataset, optimizer, algorithm, seeds, False)

    def _run(
        self, program: Program, learner: Learner, first: int, steps: int
    ) -> tuple[Learner, Ended]:
        order = Order(self._training.seeds, self._examples, self._training.batch_size)
        training, chunk = Stretches(program, order, learner, first), math.gcd(_CHUNK, steps)
        for _ in range(steps // chunk):
            training.run(chunk)
        cost = {key: training.spent[key] for key in ("flops", "average_parameters")}
        return training.learner, Ended(_floats(program.evaluate(training.learner)[1]), cost)

    def train(self, arm: Arm | None) -> tuple[Any, Ended]:
        """Train with a penalty, or the dense network.

        Args:
          arm: The penalty; ``None``: none.

        Returns:
          Weights on the host, with a seed axis, and what came of them.
        """
        rate = optax.cosine_decay_schedule(self._training.learning_rate, self._steps)
        optimizer = _sgd(rate)
        if arm is not None:
            # What a constant gradient moves the weights by, momentum included.
            reach = lambda step: rate(step) / (1 - _MOMENTUM)
            optimizer = proximal(optimizer, arm.regularizer(), learning_rate=reach)
        program = self._program(optimizer, jaxsparse.dense())
        learner, ended = self._run(program, program.init(self._seeds), 0, self._steps)
        return jax.device_get(learner.params), ended

    def tune(self, params: Any, masks: Any) -> Ended:
        """Fine-tune under masks.

        Args:
          params: Weights with a seed axis.
          masks: Their masks.

        Returns:
          What came of them.
        """
        learner = self._tuner.start(self._seeds, params, {}, masks)
        return self._run(self._tuner, learner, self._steps, self._tuning_steps)[1]

    def row(self, arm: Arm, dense: Any) -> dict[str, Any]:
        """Everything about one penalty.

        Args:
          arm: The penalty.
          dense: Weights of the dense network.

        Returns:
          What the page needs of it.
        """
        params, ended = self.train(arm)
        masks = jax.vmap(masks_from_zeros)(params)
        ends = {
            "regularized": ended,
            "tuned": self.tune(params, masks),
            "magnitude": self.tune(dense, largest_weights(dense, masks)),
        }
        if arm.groups:
            ends["norm"] = self.tune(dense, largest_groups(dense, masks, arm.groups))
        return {
            "kept": [int(n) for n in _kept(masks)],
            "weights": sum(mask[0].size for mask in jax.tree.leaves(masks)),
            "units": alive(masks),
            **_row(ends),
        }


def _row(ends: Mapping[str, Ended]) -> dict[str, Any]:
    """The accuracies by the names of the trainings, and their costs."""
    accuracies = {name: ended.accuracy for name, ended in ends.items()}
    return {**accuracies, "cost": {name: ended.cost for name, ended in ends.items()}}


def _floats(values: Any) -> list[float]:
    return np.asarray(values, np.float64).tolist()


def _kept(masks: Any) -> Any:
    """Weights kept, an entry a seed."""
    return sum(np.asarray(mask).sum(axis=(1, 2)) for mask in jax.tree.leaves(masks))


def largest_weights(params: Any, masks: Any) -> Any:
    """Masks of as many weights, over all layers: the largest.

    Args:
      params: Weights with a seed axis.
      masks: Masks likewise.

    Returns:
      Like ``masks``, with the same count for each seed.
    """
    dense = lambda node: isinstance(node, optax.MaskedNode)
    size = lambda mask, weight: mask if dense(mask) else jnp.abs(weight)
    sizes = jax.tree.map(size, masks, params, is_leaf=dense)
    choose = lambda scores, count: jaxsparse.tree_top_k_masks(scores, count)
    return jax.vmap(choose)(sizes, jnp.asarray(_kept(masks), jnp.int32))


def largest_groups(params: Any, masks: Any, groups: Sequence[str]) -> Any:
    """Masks of as many groups in each layer: those of the largest norm.

    Args:
      params: Weights with a seed axis.
      masks: Masks likewise; those of groups.
      groups: "channels" (rows), "filters" (columns), or both.

    Returns:
      Like ``masks``, with the same counts of rows and columns.
    """

    def one(weight: Any, mask: Any) -> Any:
        kept = jnp.ones_like(mask)
        for group in groups:
            axis = 1 if group == "channels" else 0
            norms = jnp.linalg.norm(weight, axis=axis, keepdims=True)
            count = jnp.sum(jnp.any(mask, axis=axis), dtype=jnp.int32)
            kept &= jaxsparse.top_k_mask(norms, count)
        return kept

    dense = lambda node: isinstance(node, optax.MaskedNode)
    each = lambda mask, weight: mask if dense(mask) else jax.vmap(one)(weight, mask)
    return jax.tree.map(each, masks, params, is_leaf=dense)


def alive(masks: Any) -> list[list[int]]:
    """Inputs that are read, and units that are fed and read, layer by layer.

    Args:
      masks: Those of a network of dense layers in order, with a seed axis.

    Returns:
      A list a seed: inputs, then units of each hidden layer.
    """
    layers = [np.asarray(mask) for mask in jax.tree.leaves(masks)]
    read = [layer.any(axis=2) for layer in layers]
    fed = [np.ones_like(read[0]), *(layer.any(axis=1) for layer in layers[:-1])]
    counts = [(a & b).sum(axis=1) for a, b in zip(read, fed, strict=True)]
    return np.stack(counts, axis=1).tolist()


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Train what is missing, then write the page."""

    training: Training = Training()
    data_dir: pathlib.Path | None = None
    """TFDS data directory; default: the variable JAXSPARSE_DATA_DIR, else the user's cache."""
    anew: bool = False
    """Train everything, also what is there."""
    results: pathlib.Path = pathlib.Path(__file__).parent / "results"
    """Folder that the page, the numbers and the figure are written to."""


def main(arguments: Arguments, arms: Sequence[Arm] = ARMS) -> int:
    """Train and write the results, after each row.

    Args:
      arguments: The command line.
      arms: The penalties.

    Returns:
      Exit code: 0, or 2 where the data is missing or a number out of range.
    """
    console, path = Console(), arguments.results / f"{_NAME}.json"
    training = dataclasses.asdict(arguments.training)
    known: dict[str, Any] = {} if arguments.anew else records.read_json(path) or {}
    same = known.get("training") == {**training, "widths": list(training["widths"])}
    names = {DENSE, *(arm.name for arm in ARMS)}
    kept = {n: r for n, r in known.get("results", {}).items() if n in names} if same else {}
    try:
        check(arguments.training)
        dataset = data.load(arguments.training.data, arguments.data_dir)
    except (ValueError, FileNotFoundError) as error:
        Console(stderr=True).print(f"error: {error}", markup=False, highlight=False)
        return 2
    study = Study(arguments.training, dataset)
    dense = functools.cache(lambda: study.train(None))

    def dense_row() -> dict[str, Any]:
        params, ended = dense()
        tuned = study.tune(params, jax.vmap(keep_all)(params))
        return _row({"regularized": ended, "tuned": tuned})

    rows = {arm.name: lambda a=arm: study.row(a, dense()[0]) for arm in arms}
    missing = {n: row for n, row in {DENSE: dense_row, **rows}.items() if n not in kept}
    where = environment() if missing else known["environment"]
    about = {"environment": where, "training": training, "results": kept}
    train_missing(path, about, missing, console)
    kinds = {arm.name: arm.kind for arm in ARMS}
    page = markdown(about, kinds)
    write_results(arguments.results, _NAME, about, page, figure(about, kinds))
    console.print(page, markup=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments, description=__doc__)))
