"""How few numbers train a network? ``python -m experiments.subspaces``.

Two claims, on MNIST with a 784-200-200-10 perceptron, 3 seeds: in a random subspace of some 750
dimensions it reaches 90 % of the accuracy of training all 199,210 (Li et al., 2018, table 1:
``d_int90`` is 750); and where so few weights are kept that a random sparse network fails, it trains
once a fixed DCT lies below them (Price and Tanner, 2021). Results go to ``experiments/results/``.
About 20 minutes on one idle CPU core (estimated); a stopped run goes on where it stopped.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from rich.console import Console

import jaxsparse
from jaxsparse import subspaces
from jaxsparse.accounting import step_cost
from jaxsparse.algorithms.dense import dense

from . import data, records
from .augment import normalize
from .config import check_counts, check_rates
from .models import MLP
from .study import train_missing, write_results
from .subspaces_page import figure, markdown
from .train import environment

_NAME = "subspaces"
_INIT, _DIRECTIONS = 0x1217, 0x5B5
_EVALUATION_BATCH = 1000


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all cells share."""

    data: str = "mnist"
    """Data set."""
    widths: tuple[int, ...] = (200, 200)
    """Units of the hidden layers."""
    epochs: int = 3
    """Passes over the data."""
    batch_size: int = 128
    """Images in a batch."""
    seeds: int = 3
    """Trainings of each cell: other first weights, directions, masks and batches."""
    weight_rate: float = 1e-3
    """Adam's learning rate for weights of the whole network, cosine to 0."""
    sparse_rate: float = 0.03
    """The same for the sparse networks, with and without a DCT."""
    subspace_rate: float = 0.3
    """The same for coordinates of a random subspace."""
    held_out: int = 0
    """Training images to measure accuracy on instead of the test set: to choose rates by."""


def check(setting: Setting) -> None:
    """Refuse what cannot run.

    Args:
      setting: What to check.

    Raises:
      ValueError: one line with the value, the range and the remedy.
    """
    data.check_name(setting.data)
    check_counts(setting, ("seeds", "batch_size", "epochs"))
    check_rates(setting, ("weight_rate", "sparse_rate", "subspace_rate"))
    if setting.held_out < 0:
        raise ValueError(f"held_out is {setting.held_out}; it must be 0 or more images")


class Whole(NamedTuple):
    """All parameters, as they are: what the subspaces are compared with."""

    origin: Any

    def init(self) -> Any:
        """The parameters themselves."""
        return self.origin

    def params(self, coordinates: Any) -> Any:
        """They need no function."""
        return coordinates


@dataclasses.dataclass(frozen=True)
class Cell:
    """One arm at one size.

    Attributes:
      claim: Which of the two it belongs to; the baseline belongs to both.
      arm: Its label.
      size: Dimensions d, or the share of the weights that is kept; 0 for a control without.
      subspace: ``(key, params) -> reparametrisation``.
      method: ``steps -> MaskAlgorithm``.
      rate: The field of ``Setting`` with its learning rate.
    """

    claim: str
    arm: str
    size: float
    subspace: Callable[[Any, Any], Any]
    method: Callable[[int], jaxsparse.MaskAlgorithm]
    rate: str

    @property
    def name(self) -> str:
        """``"claim: arm, size"``."""
        return f"{self.claim}: {self.arm}, {self.size:g}"


def _random(projection: str, d: int) -> Callable[[Any, Any], Any]:
    return lambda key, params: subspaces.random_subspace(key, params, d, projection=projection)


def _whole(key: Any, params: Any) -> Whole:
    del key
    return Whole(params)


def _dct(key: Any, params: Any) -> subspaces.DctPlusSparse:
    del key
    return subspaces.dct_plus_sparse(params)


def _static(density: float) -> Callable[[int], jaxsparse.MaskAlgorithm]:
    return lambda steps: jaxsparse.static(1 - density, distribution=jaxsparse.equal_per_layer)


def _rigl(density: float) -> Callable[[int], jaxsparse.MaskAlgorithm]:
    def method(steps: int) -> jaxsparse.MaskAlgorithm:
        stop = max(3 * steps // 4, 2)
        return jaxsparse.rigl(
            1 - density,
            distribution=jaxsparse.equal_per_layer,
            update=jaxsparse.every(100, start=min(100, stop - 1), stop=stop),
            drop_fraction=optax.cosine_decay_schedule(0.3, stop),
        )

    return method


def _all(steps: int) -> jaxsparse.MaskAlgorithm:
    del steps
    return dense()


DIMENSIONS = {"sparse": (100, 200, 300, 500, 750, 1000), "fastfood": (300, 500, 750)}
DENSITIES = (0.001, 0.003, 0.01)
CELLS = (
    Cell("baseline", "all weights", 1, _whole, _all, "weight_rate"),
    *(
        Cell("intrinsic", projection, d, _random(projection, d), _all, "subspace_rate")
        for projection, dimensions in DIMENSIONS.items()
        for d in dimensions
    ),
    *(
        Cell("extreme", arm, density, subspace, method(density), "sparse_rate")
        for density in DENSITIES
        for arm, subspace, method in (
            ("random sparse", _whole, _static),
            ("DCT plus sparse", _dct, _static),
            ("DCT plus sparse, RigL", _dct, _rigl),
        )
    ),
    Cell("extreme", "DCT alone", 0, _dct, _all, "sparse_rate"),
)


class Trained(NamedTuple):
    """What came of a cell; lists have an entry a seed.

    Attributes:
      accuracy: After the last step, on the test set or what is held out.
      flops: All operations of training: the products of the network and of its subspace.
      average_parameters: Mean over the steps of the coordinates in use.
    """

    accuracy: list[float]
    flops: list[float]
    average_parameters: list[float]


def _frozen_kernels(coordinates: Any) -> Any:
    """What the control without sparse weights trains: alphas and biases."""
    kernel = lambda path, leaf: "kernel" if jnp.ndim(leaf) > 1 else "rest"
    return jax.tree_util.tree_map_with_path(kernel, coordinates)


def _optimizer(cell: Cell, setting: Setting, steps: int, seed: int) -> Any:
    rate = optax.cosine_decay_schedule(getattr(setting, cell.rate), steps)
    adam = optax.adam(rate)
    if cell.claim == "extreme" and not cell.size:
        parts: dict[Any, Any] = {"kernel": optax.set_to_zero(), "rest": adam}
        return optax.multi_transform(parts, _frozen_kernels)
    return jaxsparse.sparsify(adam, cell.method(steps), seed=seed)


def _step_cost(cell: Cell, steps: int, shapes: tuple[Any, Any, Any], logits: Any, x: Any) -> Any:
    """Operations of a forward pass; ``(before, after, coordinates) -> (passes, parameters)``."""
    subspace, coordinates, state = shapes
    forward = lambda coordinates, subspace, x: logits(subspace.params(coordinates), x)
    report, method = jaxsparse.flops(forward, coordinates, subspace, x), cell.method(steps)

    def of_step(before: Any, after: Any, coordinates: Any) -> tuple[Any, Any]:
        if not jaxsparse.sparsity_states(state):  # without its kernels, trained in a dense network
            labels = jax.tree.leaves(_frozen_kernels(coordinates))
            leaves = zip(jax.tree.leaves(coordinates), labels, strict=True)
            rest = sum(leaf.size for leaf, label in leaves if label == "rest")
            return jnp.float32(3), jnp.float32(rest)
        cost = step_cost(report, method, before, after, coordinates)
        return cost.training, cost.parameters

    return report.dense, of_step


def train(cell: Cell, setting: Setting, dataset: data.Dataset) -> Trained:
    """Train one cell.

    Args:
      cell: What to train.
      setting: How.
      dataset: The data.

    Returns:
      What came of it.
    """
    test_images, test_labels = dataset.test_images, dataset.test_labels
    if setting.held_out:
        dataset, test_images, test_labels = data.hold_out(dataset, setting.held_out)
    model = MLP((*setting.widths, dataset.num_classes))
    images, labels = jnp.asarray(dataset.train_images), jnp.asarray(dataset.train_labels)
    mean, std = np.asarray(dataset.mean), np.asarray(dataset.std)
    apply: Callable[..., Any] = model.apply
    logits = lambda params, x: apply({"params": params}, normalize(x, mean, std))
    examples = len(images)
    per_epoch = data.steps_per_epoch(examples, setting.batch_size)
    steps = setting.epochs * per_epoch
    optimizer = lambda seed: _optimizer(cell, setting, steps, seed)

    @jax.jit
    def start(seed: Any) -> Any:
        key = jax.random.key(seed)
        sample = normalize(images[:1], mean, std)
        params = model.init(jax.random.fold_in(key, _INIT), sample)["params"]
        subspace = cell.subspace(jax.random.fold_in(key, _DIRECTIONS), params)
        coordinates = subspace.init()
        state = optimizer(seed).init(coordinates)
        if jaxsparse.sparsity_states(state):
            coordinates = jaxsparse.initial_params(coordinates, state)
        return subspace, coordinates, state

    batch = jax.ShapeDtypeStruct((setting.batch_size, *images.shape[1:]), images.dtype)
    shapes = jax.eval_shape(start, jnp.uint32(0))
    whole, cost_of = _step_cost(cell, steps, shapes, logits, batch)

    # (The subspace is an argument: closed over, its matrices would be constants of the program.)
    @jax.jit
    def epoch(subspace: Any, seed: Any, number: Any, coordinates: Any, state: Any) -> Any:
        def step(carry: Any, rows: Any) -> Any:
            coordinates, state = carry

            def loss(coordinates: Any) -> Any:
                found = logits(subspace.params(coordinates), images[rows])
                losses = optax.softmax_cross_entropy_with_integer_labels(found, labels[rows])
                return losses.mean()

            grads, before = jax.grad(loss)(coordinates), state
            updates, state = optimizer(seed).update(grads, state, coordinates)
            cost = cost_of(before, state, coordinates)
            return (optax.apply_updates(coordinates, updates), state), cost

        order = data.epoch_order(seed, number, examples, setting.batch_size)
        return jax.lax.scan(step, (coordinates, state), order)

    @jax.jit
    def right(subspace: Any, coordinates: Any, x: Any, y: Any) -> Any:
        return jnp.sum(jnp.argmax(logits(subspace.params(coordinates), x), -1) == y)

    found = Trained([], [], [])
    for number in range(setting.seeds):
        seed, costs = jnp.uint32(number), []
        subspace, coordinates, state = start(seed)
        for each in range(setting.epochs):
            at = (coordinates, state)
            (coordinates, state), cost = epoch(subspace, seed, jnp.int32(each), *at)
            costs.append(np.asarray(cost, np.float64))
        counts = [
            int(right(subspace, coordinates, test_images[i:j], test_labels[i:j]))
            for i in range(0, len(test_images), _EVALUATION_BATCH)
            for j in (i + _EVALUATION_BATCH,)
        ]
        passes, parameters = np.concatenate(costs, axis=1)
        found.accuracy.append(sum(counts) / len(test_images))
        found.flops.append(float(passes.sum() * whole))
        found.average_parameters.append(float(parameters.mean()))
    return found


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Train what is missing, then write the page."""

    setting: Setting = Setting()
    data_dir: pathlib.Path | None = None
    """TFDS data directory; default: the variable JAXSPARSE_DATA_DIR, else the user's cache."""
    anew: bool = False
    """Train everything, also what is there."""
    results: pathlib.Path = pathlib.Path(__file__).parent / "results"
    """Folder that the page, the numbers and the figure are written to."""


def main(arguments: Arguments, cells: Sequence[Cell] = CELLS) -> int:
    """Train and write the results, after each cell.

    Args:
      arguments: The command line.
      cells: What to train.

    Returns:
      Exit code: 0, or 2 where the data is missing, a number out of range, or what is there was
      trained otherwise.
    """
    console, path = Console(), arguments.results / f"{_NAME}.json"
    setting = records.plain(arguments.setting)
    about: dict[str, Any] = {} if arguments.anew else records.read_json(path) or {}
    try:
        check(arguments.setting)
        if about and about["setting"] != setting:
            raise ValueError(f"{path} has another setting; add --anew to train everything again")
        dataset = data.load(arguments.setting.data, arguments.data_dir)
    except (ValueError, FileNotFoundError) as error:
        Console(stderr=True).print(f"error: {error}", markup=False, highlight=False)
        return 2
    known = about.get("results", {})
    about = {"environment": environment(), "setting": setting, "results": {}}
    about["results"] = {cell.name: known[cell.name] for cell in cells if cell.name in known}

    def row(cell: Cell) -> dict[str, Any]:
        accuracy, *costs = train(cell, arguments.setting, dataset)
        about = {"claim": cell.claim, "arm": cell.arm, "size": cell.size, "test_accuracy": accuracy}
        return about | dict(zip(Trained._fields[1:], costs, strict=True))

    missing = {cell.name: lambda c=cell: row(c) for cell in cells if cell.name not in known}
    train_missing(path, about, missing, console)
    done = sum(cell.name in about["results"] for cell in CELLS)
    page = markdown({**about, "finished": f"{done} of {len(CELLS)} cells."})
    write_results(arguments.results, _NAME, about, page, figure(about))
    console.print(page, markup=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments, description=__doc__)))
