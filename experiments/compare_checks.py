"""What the comparison made us look into: ``python -m experiments.compare_checks``.

Methods that end below a fixed random mask in ``experiments.compare_methods``, or far from their
published number, are trained again with one thing changed: is it the method, its setting, or a
bug? LeNet-300-100 on MNIST, 3 seeds; the table goes to ``experiments/results/``. About 15 minutes
on two CPU cores; a stopped run goes on where it stopped.
"""

import dataclasses
import math
import pathlib
import statistics
import sys
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import tyro
from rich.console import Console

import jaxsparse
from jaxsparse import at, every, scores
from jaxsparse.algorithms.sensitivity import path_sensitivity
from jaxsparse.base import MaskAlgorithm

from . import build, compare_methods, data, records
from .cell import Order, Stretches
from .config import Config
from .data import steps_per_epoch
from .loop import build_program
from .study import train_missing, write_results
from .tables import aligned_markdown, percent_text
from .train import environment

_SEEDS = 3
_NAME = "compare_checks"
QUESTIONS = {
    "ste_random": "Do weights under masks that are drawn anew lack time with their last mask?",
    "movement": "What does it cost to choose masks rarely, when absent weights gather scores?",
    "sensitivity": "Is it the optimizer, the budgets, or the criterion?",
    "published": "At 95 %, with 20 epochs: do the distances to dense shrink to the published ones?",
}


@dataclasses.dataclass(frozen=True)
class Arm:
    """One training: a method, for the steps of the run, and its optimizer (default: the run's)."""

    question: str
    label: str
    method: Callable[[Config, int], MaskAlgorithm]
    optimizer: Callable[[], Any] | None = None
    epochs: int = 3


def _named(name: str, sparsity: float = 0.9) -> Callable[[Config, int], MaskAlgorithm]:
    return lambda config, steps: build.build_method(config, name, sparsity, steps)


def _random_until(stop: float) -> Callable[[Config, int], MaskAlgorithm]:
    def method(config: Config, steps: int) -> MaskAlgorithm:
        n = config.pruning.interval
        update = every(n, start=n, stop=max(int(stop * steps), n + 1))
        options: dict[str, Any] = {"score": scores.random, "distribution": jaxsparse.erk}
        return jaxsparse.ste(0.9, update=update, **options)

    return method


def _movement(interval: int) -> Callable[[Config, int], MaskAlgorithm]:
    return lambda config, steps: jaxsparse.movement(
        0.9,
        start=int(config.pruning.prune_start * steps),
        stop=int(config.pruning.stop * steps),
        interval=interval,
        distribution=jaxsparse.erk,
    )


def _half_way(
    factory: Callable[..., MaskAlgorithm], **options: Any
) -> Callable[[Config, int], MaskAlgorithm]:
    return lambda config, steps: factory(
        0.9, step=steps // 2, distribution=jaxsparse.erk, **options
    )


def _absolute(config: Config, steps: int) -> MaskAlgorithm:
    """The sensitivity's size."""
    base = jaxsparse.sensitivity(0.9)
    return jaxsparse.drop_grow(
        sparsity=jaxsparse.one_shot(0.9, steps // 2),
        distribution=jaxsparse.erk,
        update=at(steps // 2),
        drop=lambda key, weight, grad, mask, memory: jnp.abs(
            path_sensitivity(key, weight, grad, mask, memory)
        ),
        scope="global",
        start=base.start,
        remember=base.remember,
    )


_plain = lambda: optax.sgd(0.3)
ARMS = (
    Arm("ste_random", "drawn until 75 % of the run", _random_until(0.75)),
    Arm("ste_random", "drawn until 37.5 %", _random_until(0.375)),
    Arm("ste_random", "drawn once more, after 100 steps", _random_until(0.0)),
    Arm("ste_random", "static", _named("static")),
    Arm("movement", "chosen every step", _movement(1)),
    Arm("movement", "chosen every 100 steps", _movement(100)),
    Arm("sensitivity", "as compared: along a cubic", _named("sensitivity")),
    Arm("sensitivity", "at once", _half_way(jaxsparse.sensitivity)),
    Arm(
        "sensitivity", "at once, a budget a layer", _half_way(jaxsparse.sensitivity, scope="layer")
    ),
    Arm("sensitivity", "at once, by its absolute value", _absolute),
    Arm("sensitivity", "at once, plain gradient descent", _half_way(jaxsparse.sensitivity), _plain),
    Arm(
        "sensitivity",
        "magnitude, plain gradient descent",
        _half_way(jaxsparse.magnitude, scope="global"),
        _plain,
    ),
    Arm("sensitivity", "static, plain gradient descent", _named("static"), _plain),
    *(
        Arm("published", name, _named(name, 0.0 if name == "dense" else 0.95), epochs=20)
        for name in ("dense", "set", "snfs", "dsr", "deep_r")
    ),
)


def train(arm: Arm, config: Config, dataset: data.Dataset) -> list[float]:
    """Train one arm.

    Args:
      arm: What to train.
      config: The comparison's configuration.
      dataset: The data.

    Returns:
      Test accuracy at the end, an entry a seed.
    """
    examples = len(dataset.train_images)
    config = dataclasses.replace(config, epochs=arm.epochs, seeds=_SEEDS, exploration=False)
    per_epoch = steps_per_epoch(examples, config.batch_size)
    steps = arm.epochs * per_epoch
    make = arm.optimizer or (lambda: build.build_optimizer(config, steps, per_epoch))
    model = build.build_model(config, dataset.num_classes)
    program = build_program(
        model, dataset, make(), arm.method(config, steps), config.seeds, config.augment, False
    )
    seeds, chunk = jnp.arange(config.seeds, dtype=jnp.uint32), math.gcd(config.chunk_steps, steps)
    order = Order(config.seeds, examples, config.batch_size)
    training = Stretches(program, order, program.init(seeds))
    for _ in range(steps // chunk):
        training.run(chunk)
    return np.asarray(program.evaluate(training.learner)[1], np.float64).tolist()


def markdown(about: dict[str, Any]) -> str:
    """The page.

    Args:
      about: What the JSON file holds.

    Returns:
      Markdown.
    """
    results, environment = about["results"], about["environment"]
    parts = []
    for question, text in QUESTIONS.items():
        rows = [
            [arm.label, percent_text(results[name])]
            for name, arm in named_arms().items()
            if arm.question == question and name in results
        ]
        if question == "published" and rows:
            mean = {row[0]: statistics.fmean(results[f"{question}: {row[0]}"]) for row in rows}
            known = compare_methods.PUBLISHED
            for row in rows:
                there = known.get((row[0], 0.95), known["dense", 0.0]) - known["dense", 0.0]
                gap = mean[row[0]] - mean["dense"] if "dense" in mean else math.nan
                row += [f"{100 * gap:+.2f}", f"{100 * there:+.2f}"]
        heads = ["", "accuracy (%)", "to dense", "published"][: len(rows[0]) if rows else 2]
        parts.append(f"## {question}\n\n{text}\n\n{aligned_markdown(heads, rows)}")
    return f"""# What the comparison made us look into

`python -m experiments.compare_checks`: LeNet-300-100 on MNIST at 90 %, 3 epochs, where nothing else
is said; settings of [the comparison](compare_methods.md), {_SEEDS} seeds, test accuracy at the last
step, mean ± standard deviation. {len(results)} of {len(ARMS)} trainings.

{chr(10).join(parts)}
{environment["hardware"]}; Python {environment["python"]}, jax {environment["jax"]}, flax
{environment["flax"]}, optax {environment["optax"]}; commit {environment["commit"]},
{environment["date"]}.
"""


def named_arms() -> dict[str, Arm]:
    """The trainings by name.

    Returns:
      "question: label" -> arm.
    """
    return {f"{arm.question}: {arm.label}": arm for arm in ARMS}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Train what is missing, then write the page."""

    data_dir: pathlib.Path | None = None
    """TFDS data directory; default: the variable JAXSPARSE_DATA_DIR, else the user's cache."""
    anew: bool = False
    """Train everything, also what is there."""
    results: pathlib.Path = pathlib.Path(__file__).parent / "results"
    """Folder that the page and the numbers are written to."""


def main(arguments: Arguments) -> int:
    """Train and write the results, after each training.

    Args:
      arguments: The command line.

    Returns:
      Exit code: 0, or 2 where the data is missing.
    """
    console, path = Console(), arguments.results / f"{_NAME}.json"
    about: dict[str, Any] = {} if arguments.anew else records.read_json(path) or {}
    known = {n: r for n, r in about.get("results", {}).items() if n in named_arms()}
    about = {"environment": environment(), "results": known}
    config = compare_methods.configuration()
    try:
        dataset = data.load(config.data, arguments.data_dir)
    except (ValueError, FileNotFoundError) as error:
        Console(stderr=True).print(f"error: {error}", markup=False, highlight=False)
        return 2
    arms = named_arms().items()
    missing = {n: lambda a=arm: train(a, config, dataset) for n, arm in arms if n not in known}
    train_missing(path, about, missing, console)
    page = markdown(about)
    write_results(arguments.results, _NAME, about, page, None)
    console.print(page, markup=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments, description=__doc__)))
