"""What a run consists of: frozen dataclasses, their defaults, and the presets."""

import dataclasses
import itertools
import math
import pathlib
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import tyro

from jaxsparse import ALGORITHMS
from jaxsparse._tree import check_known
from jaxsparse.schedules import check_fraction, check_sparsity

from . import data, mesh


@dataclasses.dataclass(frozen=True)
class Model:
    """The network. Widths and depths count only for the families that have them."""

    name: Literal["mlp", "lenet-5", "plain-conv", "cifar-resnet", "wide-resnet", "vgg"] = "mlp"
    """Family: multilayer perceptron; Caffe's LeNet-5; convolutions in a row (small, for a CPU);
    He's CIFAR ResNet; wide ResNet; VGG."""
    widths: tuple[int, ...] = (300, 100)
    """Units of each hidden layer (mlp)."""
    depth: int = 20
    """Layers: any number of convolutions (plain-conv), 6n+2 (cifar-resnet), 6n+4 (wide-resnet),
    11, 16 or 19 (vgg)."""
    width: int = 16
    """Channels (plain-conv; first stage of cifar-resnet), or the widening factor (wide-resnet)."""


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """The inner optimizer, which sparsify wraps."""

    name: Literal["sgd", "adam"] = "sgd"
    """sgd with Nesterov momentum, or adam."""
    learning_rate: float = 0.1
    """Peak learning rate, per step."""
    momentum: float = 0.9
    """Momentum of sgd, in [0, 1)."""
    weight_decay: float = 1e-4
    """L2 penalty, added to the gradient of every weight that is kept."""
    decay: Literal["cosine", "steps"] = "cosine"
    """cosine to 0 over the run, or by a factor at given epochs."""
    boundaries: tuple[float, ...] = (80, 120)
    """Epochs at which the learning rate falls (decay steps)."""
    factor: float = 0.1
    """What it is multiplied with there (decay steps)."""


@dataclasses.dataclass(frozen=True)
class Pruning:
    """How methods move their masks. Fractions are of the run's steps."""

    distribution: Literal["erk", "er", "uniform"] = "erk"
    """Layer-wise sparsities of every method with layer-wise budgets."""
    interval: int = 100
    """Steps between updates of the masks (RigL's Delta T)."""
    stop: float = 0.75
    """Fraction of the run after which masks stay as they are, in (0, 1]."""
    drop_fraction: float = 0.3
    """Fraction of the kept weights that RigL swaps at first, in [0, 1]; cosine to 0 at stop."""
    prune_start: float = 0.1
    """Fraction of the run at which gradual pruning begins, in [0, stop)."""
    one_shot: float = 0.5
    """Fraction of the run at which methods that prune a trained network once do so, in [0, 1)."""


@dataclasses.dataclass(frozen=True)
class Config:
    """One run: methods x sparsities, all seeds of a cell in one compiled program."""

    data: str = "digits"
    """Data set: digits, mnist, fashion_mnist, cifar10 or cifar100."""
    model: Model = Model()
    optimizer: Optimizer = Optimizer()
    pruning: Pruning = Pruning()
    methods: tuple[str, ...] = ("dense", "static", "set", "rigl", "gradual_magnitude", "snip")
    """Methods, by their names in jaxsparse.ALGORITHMS."""
    sparsities: tuple[float, ...] = (0.9,)
    """Fractions of zeros over the layers that may be sparse, each in [0, 1)."""
    seeds: int = 5
    """Number of seeds of each cell: 0, 1, 2, ..."""
    epochs: int = 60
    """Passes over the training set."""
    batch_size: int = 32
    """Examples a step."""
    exploration: bool = False
    """Keep account of all weights that a mask ever kept (ITOP's exploration rate)."""
    augment: bool = False
    """Random crops and flips of the training images."""
    evaluate_every: int = 5
    """Epochs between evaluations on the test set; the last epoch always ends with one."""
    chunk_steps: int = 400
    """Steps in one compiled call at most; a stop is noticed between calls."""
    checkpoint_seconds: float = 10.0
    """Seconds between checkpoints at least; a stopped run loses no more than that."""
    max_nonfinite: int | None = None
    """Steps with a loss or gradient that is not finite, of all seeds, after which a cell stops the
    run (exit code 3), with a checkpoint from before them; default: never."""
    start_from: Annotated[pathlib.Path | None, tyro.conf.arg(metavar="RUN/cells/CELL")] = None
    """A finished cell whose networks are trained on, seed by seed, by other methods or at other
    sparsities: first masks keep the largest weights, all else begins anew."""
    data_dir: pathlib.Path | None = None
    """TFDS data directory; default: the variable JAXSPARSE_DATA_DIR, else the user's cache."""
    out: Annotated[pathlib.Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder of the run; default: runs/PRESET, with a number where that is taken."""
    resume: bool = False
    """Go on with the newest run of the same preset (or with --out) where it stopped."""
    devices: tyro.conf.OmitArgPrefixes[mesh.Devices] = mesh.ONE_PROCESS

    job_index: int | None = None
    """Train only the cells JOB_INDEX, JOB_INDEX + JOB_COUNT, ... (from 0): one job of an array,
    such as $SLURM_ARRAY_TASK_ID. The first to come begins the run (--out, or runs/PRESET)."""
    job_count: int | None = None
    """Jobs that share the cells; default: a job for each cell."""
    list_jobs: bool = False
    """Print the cells with their index and how far they are, and train nothing."""
    per_device: bool = False
    """Train one cell on each device at a time, where there are several."""


# What may differ when a run goes on: nothing that its numbers depend on.
# (Another mesh rounds the gradients otherwise.)
FREE = (
    *("data_dir", "out", "resume", "checkpoint_seconds", "max_nonfinite", "devices"),
    *("job_index", "job_count", "list_jobs", "per_device"),
)

_DIGITS = Config(
    model=Model(widths=(256, 128)),
    optimizer=Optimizer(learning_rate=0.05),
    pruning=Pruning(interval=40),
    sparsities=(0.9,),
)
_LENET = Config(
    data="mnist",
    methods=("dense", "static", "set", "rigl", "gradual_magnitude"),
    sparsities=(0.9, 0.95, 0.98, 0.99),
    epochs=20,
    batch_size=100,
    evaluate_every=1,
    chunk_steps=600,
)
_CIFAR = Config(
    data="cifar10",
    model=Model("cifar-resnet", depth=20, width=16),
    optimizer=Optimizer(weight_decay=5e-4, decay="steps"),
    pruning=Pruning(distribution="erk"),
    sparsities=(0.8, 0.9),
    seeds=3,
    epochs=160,
    batch_size=128,
    augment=True,
    evaluate_every=10,
    chunk_steps=130,
)

PRESETS: dict[str, tuple[str, Config]] = {
    "digits-mlp": ("scikit-learn's digits, 64-256-128-10: a minute on two cores", _DIGITS),
    "mnist-lenet-300-100": ("MNIST, LeNet-300-100 at four sparsities, 20 epochs", _LENET),
    "fashion-mlp": (
        "Fashion-MNIST, 784-1000-1000-1000-10 (SET's network)",
        dataclasses.replace(
            _LENET,
            data="fashion_mnist",
            model=Model(widths=(1000, 1000, 1000)),
            sparsities=(0.9, 0.98),
        ),
    ),
    "cifar10-resnet-20": (
        "CIFAR-10, ResNet-20, 160 epochs (Liu et al., 2022): a GPU's work",
        _CIFAR,
    ),
    "cifar10-wrn-22-2": (
        "CIFAR-10, WRN-22-2, 250 epochs (Evci et al., 2020): a GPU's work",
        dataclasses.replace(
            _CIFAR,
            model=Model("wide-resnet", depth=22, width=2),
            optimizer=Optimizer(
                weight_decay=5e-4, decay="steps", boundaries=(77, 154, 231), factor=0.2
            ),
            sparsities=(0.8, 0.9, 0.95),
            epochs=250,
        ),
    ),
}
"""Name -> (one line about it, configuration)."""


def preset(name: str) -> Config:
    """The configuration of a preset.

    Args:
      name: A key of ``PRESETS``.

    Returns:
      Its configuration.

    Raises:
      ValueError: if there is no such preset; the message holds the nearest ones.
    """
    check_known("preset", name, PRESETS)
    return PRESETS[name][1]


def check_counts(settings: Any, names: Sequence[str], prefix: str = "") -> None:
    """Refuse counts below 1, and those that no int32 holds.

    Args:
      settings: A dataclass.
      names: Of its fields.
      prefix: Of the fields, in the message.

    Raises:
      ValueError: one line with the value and the range.
    """
    for name in names:
        value = getattr(settings, name)
        if value < 1:
            raise ValueError(f"{prefix}{name} is {value}; it must be at least 1")
        if value >= 2**31:
            raise ValueError(
                f"{prefix}{name} is {value}; it must be below 2**31: give a smaller one"
            )


def check_rates(settings: Any, names: Sequence[str], prefix: str = "") -> None:
    """Refuse learning rates that are not above 0.

    Args:
      settings: A dataclass.
      names: Of its fields.
      prefix: Of the fields, in the message.

    Raises:
      ValueError: one line with the value and the range.
    """
    for name in names:
        if not 0 < getattr(settings, name) < float("inf"):
            value = getattr(settings, name)
            raise ValueError(f"{prefix}{name} is {value}; it must be positive and finite")


_SIDES = {"digits": 8, "cifar10": 32, "cifar100": 32}  # of images, in pixels; 28 elsewhere
_SMALLEST = {"lenet-5": 16, "vgg": 32}
_DEPTHS = {
    "cifar-resnet": ("6n + 2 with n >= 1", lambda depth: depth >= 8 and depth % 6 == 2),
    "wide-resnet": ("6n + 4 with n >= 1", lambda depth: depth >= 10 and depth % 6 == 4),
    "vgg": ("11, 13, 16 or 19", lambda depth: depth in (11, 13, 16, 19)),
}


def check_model(model: Model, data_name: str) -> None:
    """Refuse networks that cannot be built, or whose last layers get no pixel.

    Args:
      model: The network.
      data_name: The data set.

    Raises:
      ValueError: one line with the value and the range.
    """
    for width in model.widths:
        if not 1 <= width < 2**31:
            raise ValueError(f"model.widths has {width}; each must be at least 1, and below 2**31")
    check_counts(model, ("depth", "width"), "model.")
    said, allowed = _DEPTHS.get(model.name, ("", lambda depth: True))
    if not allowed(model.depth):
        raise ValueError(f"model.depth is {model.depth}; for {model.name} it must be {said}")
    side, least = _SIDES.get(data_name, 28), _SMALLEST.get(model.name, 1)
    if side < least:
        raise ValueError(
            f"{data_name} has images of {side} x {side} pixels; {model.name} takes {least} or "
            "more: choose another model.name or data"
        )


def check_optimizer(optimizer: Optimizer) -> None:
    """Refuse an optimizer whose settings are out of range.

    Args:
      optimizer: The inner optimizer.

    Raises:
      ValueError: one line with the value and the range.
    """
    check_rates(optimizer, ("learning_rate", "factor"), "optimizer.")
    if not 0 <= optimizer.momentum < 1:
        raise ValueError(f"optimizer.momentum is {optimizer.momentum}; it must lie in [0, 1)")
    if not 0 <= optimizer.weight_decay < math.inf:
        raise ValueError(
            f"optimizer.weight_decay is {optimizer.weight_decay}; it must be finite, at least 0"
        )
    ends = (0.0, *optimizer.boundaries, math.inf)
    if not all(before < after for before, after in itertools.pairwise(ends)):
        raise ValueError(
            f"optimizer.boundaries is {optimizer.boundaries}; give finite epochs above 0 that "
            "increase"
        )


def check(config: Config) -> None:
    """Refuse a configuration that cannot run, before anything is loaded or traced.

    Args:
      config: What to check.

    Raises:
      ValueError: one line with the value, the range and the remedy.
    """
    data.check_name(config.data)
    for method in config.methods:
        check_known("method", method, ALGORITHMS)
    for sparsity in config.sparsities:
        check_sparsity(sparsity)
    check_counts(config, ("seeds", "epochs", "batch_size", "evaluate_every", "chunk_steps"))
    check_model(config.model, config.data)
    check_optimizer(config.optimizer)
    mesh.check(config.devices, config.batch_size)
    if config.per_device and config.devices.mesh:
        raise ValueError(
            f"per_device trains a cell on each device, mesh {config.devices.mesh!r} each cell on "
            "all of them; leave one of them out"
        )
    if math.isnan(config.checkpoint_seconds):
        raise ValueError("checkpoint_seconds is nan; give a number of seconds, 0 for every call")
    if config.max_nonfinite is not None and config.max_nonfinite < 0:
        raise ValueError(
            f"max_nonfinite is {config.max_nonfinite}; it must be at least 0, where the first such "
            "step stops the run; leave it out to never stop"
        )
    pruning = config.pruning
    check_counts(pruning, ("interval",), "pruning.")
    check_fraction(pruning.drop_fraction, "pruning.drop_fraction")
    if not 0 < pruning.stop <= 1:
        raise ValueError(f"pruning.stop is {pruning.stop}; it is a fraction of the run, in (0, 1]")
    if not 0 <= pruning.prune_start < pruning.stop:
        raise ValueError(
            f"pruning.prune_start is {pruning.prune_start}; it must lie in [0, {pruning.stop}), "
            "before pruning.stop"
        )
    if not 0 <= pruning.one_shot < 1:
        raise ValueError(f"pruning.one_shot is {pruning.one_shot}; it must lie in [0, 1)")
    if "sensitivity" in config.methods and pruning.one_shot >= pruning.stop:
        raise ValueError(
            f"pruning.one_shot is {pruning.one_shot}; sensitivity prunes from there to "
            f"pruning.stop ({pruning.stop}): give a smaller one"
        )
    if not config.methods or not config.sparsities:
        raise ValueError("methods or sparsities is empty; name at least one of each")
    named = {"methods": config.methods, "sparsities": config.sparsities}
    for name, values in named.items():
        # Cells are called by them, with six digits.
        said = [value if isinstance(value, str) else f"{value:g}" for value in values]
        twice = next((one for one in said if said.count(one) > 1), None)
        if twice:
            raise ValueError(f"{name} has {twice} more than once; name each only once")
