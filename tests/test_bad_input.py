"""Bad input: one line that names the value, the range and the remedy, before anything is traced.

Nothing here holds an array with numbers in it: shapes and names are all that an error needs.
"""

import functools
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxsparse
from jaxsparse import dense, partition, sparsify, static

pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")

float32 = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
LAYER = {"Dense_0": {"kernel": float32(6, 4)}}
anything = lambda path, leaf: True


def init(method: jaxsparse.MaskAlgorithm, params: Any = LAYER) -> Any:
    return method.init(key(), params)


@functools.cache
def key() -> jax.Array:
    return jax.random.key(0)


def by_path(**rules: Any) -> Any:
    return functools.partial(jaxsparse.by_path, rules={f"*{k}": v for k, v in rules.items()})


def budget(kept: int) -> Any:
    """A distribution of one's own."""
    return lambda params, sparsity, *, where: {"Dense_0": {"kernel": kept}}


# What is wrong -> the call, and what the message must hold: the value, the range, the remedy.
CASES: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "sparsity of 1": (lambda: static(1.0), ["sparsity is 1.0", "[0, 1)"]),
    "negative sparsity": (lambda: static(-0.1), ["sparsity is -0.1", "[0, 1)"]),
    "sparsity in percent": (lambda: static(90.0), ["is 90.0;", "[0, 1)", "for 90 % give 0.9"]),
    "sparsity that is no number": (lambda: static(float("nan")), ["is nan", "[0, 1)"]),
    "sparsity schedule": (
        lambda: jaxsparse.rigl(optax.constant_schedule(1.0)),
        ["last value of the sparsity schedule is 1.0", "[0, 1)"],
    ),
    "sparsity of a gradual method": (
        lambda: jaxsparse.gradual_magnitude(1.2),
        ["sparsity is 1.2", "[0, 1)"],
    ),
    "sparsity of a distribution": (
        lambda: jaxsparse.erk(LAYER, 2.0),
        ["sparsity is 2.0", "[0, 1)", "give 0.02"],
    ),
    "sparsity of one layer": (
        lambda: by_path(kernel=1.5)(LAYER, 0.5),
        ["sparsity of Dense_0/kernel is 1.5", "[0, 1)"],
    ),
    "drop fraction": (
        lambda: jaxsparse.rigl(0.9, drop_fraction=1.5),
        ["drop_fraction is 1.5", "[0, 1]"],
    ),
    "budget larger than a layer": (
        lambda: init(static(0.5, distribution=by_path(kernel=25))),
        ["Dense_0/kernel", "25 weights", "it has 24", "give 0 to 24"],
    ),
    "negative budget": (
        lambda: by_path(kernel=-1)(LAYER, 0.5),
        ["Dense_0/kernel", "-1 weights", "give 0 to 24"],
    ),
    "budget of a user's distribution": (
        lambda: init(static(0.5, distribution=budget(99))),
        ["keeps 99 weights of Dense_0/kernel", "has 24", "give 0 to 24"],
    ),
    "negative budget of a user's distribution": (
        lambda: init(static(0.5, distribution=budget(-3))),
        ["keeps -3 weights of Dense_0/kernel", "give 0 to 24"],
    ),
    "dense ends leave nothing": (
        lambda: jaxsparse.erk_plus({**LAYER, "head": float32(6, 4)}, 0.9, last="head"),
        ["sparsity 0.9", "dense head (24 of 48 weights)", "less sparsity, or use erk"],
    ),
    "groups that do not divide": (
        lambda: init(static(0.5, structure=jaxsparse.n_m(keep=2, of=4))),
        ["n_m(keep=2, of=4)", "axis -2 of Dense_0/kernel (6, 4)", "where=", "partition"],
    ),
    "blocks that do not divide": (
        lambda: init(static(0.5, structure=jaxsparse.block(4, 4))),
        ["block(4, 4)", "Dense_0/kernel (6, 4)", "where=", "other sides"],
    ),
    "groups of another density": (
        lambda: init(static(0.9, structure=jaxsparse.n_m(keep=1, of=2))),
        ["n_m(keep=1, of=2) keeps 0.5", "Dense_0/kernel", "distribution=uniform", "sparsity=0.5"],
    ),
    "groups that keep all": (lambda: jaxsparse.n_m(keep=4, of=4), ["keep=4, of=4", "[1, of)"]),
    "blocks without a side": (lambda: jaxsparse.block(0, 4), ["block(0, 4)", "at least 1"]),
    "glob of partition": (
        lambda: init(partition({"Dense_O/*": static(0.5)}, default=dense())),
        ["partition", "'Dense_O/*' matches none of the 1 leaves", "nearest: Dense_0/kernel"],
    ),
    "glob of by_path": (
        lambda: init(static(0.5, distribution=by_path(kernal=0.5))),
        ["by_path", "'*kernal' matches none", "nearest: Dense_0/kernel"],
    ),
    "glob of the last layer": (
        lambda: jaxsparse.erk_plus(LAYER, 0.5, last="head"),
        ["last", "'head' matches none", "nearest: Dense_0/kernel"],
    ),
    "no last layer": (
        lambda: jaxsparse.erk_plus(LAYER, 0.5),
        ["last is not given", "glob", "Dense_0/kernel"],
    ),
    "integer leaves": (
        lambda: init(static(0.5, where=anything), {"table": jax.ShapeDtypeStruct((3, 2), int)}),
        ["table", "int", "[3, 2]", "only floating leaves", "where="],
    ),
    "zero-size leaves": (
        lambda: init(static(0.5, where=anything), {"kernel": float32(0, 2)}),
        ["kernel", "(0, 2)", "no weights", "where="],
    ),
    "nothing that may be sparse": (
        lambda: init(static(0.5), {"bias": float32(4), "scale": float32(4)}),
        ["none of the 2 leaves", "bias, scale", "where=", "dense()"],
    ),
    "empty tree in a distribution": (
        lambda: jaxsparse.erk({}, 0.5),
        ["erk needs a tree with at least one array", "empty"],
    ),
    "empty tree in a train state": (
        lambda: jaxsparse.TrainState.create(
            apply_fn=print, params={}, tx=sparsify(optax.sgd(0.1), static(0.5))
        ),
        ["params is an empty tree", "pass the model's initialized parameters"],
    ),
    "no masks, no density": (lambda: jaxsparse.density({}), ["no leaf of the tree has a mask"]),
    "params missing": (
        lambda: sparsify(optax.sgd(0.1), static(0.5)).update(LAYER, None),
        ["sparsify needs the parameters", "tx.update(grads, state, params)"],
    ),
    "seed": (
        lambda: sparsify(optax.sgd(0.1), static(0.5), seed=-1),
        ["seed is -1", "[0, 2**32)"],
    ),
    "unknown method": (
        lambda: jaxsparse.algorithm("rigel", sparsity=0.9),
        ["unknown method 'rigel'", "did you mean rigl", f"({len(jaxsparse.ALGORITHMS)} in all)"],
    ),
    "unknown method like none": (
        lambda: jaxsparse.algorithm("@"),
        ["unknown method '@'", "dense, static", f"({len(jaxsparse.ALGORITHMS)} in all)"],
    ),
    "stop before start": (
        lambda: jaxsparse.every(10, start=5, stop=4),
        ["stop is 4", "start (5)", "give stop >= start"],
    ),
    "stop before start of a gradual method": (
        lambda: jaxsparse.gradual_magnitude(0.9, start=10, stop=5),
        ["stop is 5", "start (10)", "give stop > start"],
    ),
    "stop at start": (
        lambda: jaxsparse.polynomial_sparsity(0.9, 5, 5),
        ["stop is 5", "start (5)", "give stop > start"],
    ),
    "no steps between updates": (
        lambda: jaxsparse.every(0),
        ["n is 0", "whole number of steps", "at least 1"],
    ),
    "negative step": (lambda: jaxsparse.at([3, -1]), ["step is -1", "at least 0"]),
    "no step": (lambda: jaxsparse.at([]), ["steps is empty", "at least one step"]),
    "negative k": (lambda: jaxsparse.top_k_mask(jnp.ones(3), -1), ["k is -1", "0 or more"]),
    "state without masks": (
        lambda: jaxsparse.masks_of(optax.EmptyState()),
        ["no sparsify state inside EmptyState", "wrapped with jaxsparse.sparsify"],
    ),
    "optimizer without masks": (
        lambda: jaxsparse.forward_params(LAYER, (optax.EmptyState(),)),
        ["no sparsify state inside tuple", "wrapped with jaxsparse.sparsify"],
    ),
    "another model's masks": (
        lambda: jaxsparse.summary(LAYER, {}),
        ["1 leaves of params, 0 of masks", "pass the parameters"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_one_line_that_names_value_range_and_remedy(case: str) -> None:
    call, parts = CASES[case]
    with pytest.raises(ValueError, match=re.escape(parts[0])) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 250
    for part in parts:
        assert part in message


def test_choices_of_another_type_are_refused_in_words() -> None:
    """In a process without the type checker of the tests, which would be first."""
    program = """
import jaxsparse
for make in (lambda: jaxsparse.static(90),
             lambda: jaxsparse.every(2.5),
             lambda: jaxsparse.snip(0.9, scope="globl"),
             lambda: jaxsparse.rigl(0.9, grown_slots="zero"),
             lambda: jaxsparse.before_training(0.9, saliency=None, path="cubic"),
             lambda: jaxsparse.saliency.prune_in_rounds(None, None, 0.9, scope="all"),
             lambda: jaxsparse.drop_grow(sparsity=0.9, scope="global",
                                         structure=jaxsparse.fan_in())):
    try:
        make()
    except ValueError as error:
        print(error)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout.splitlines() == [
        "sparsity is 90; it is the fraction of zeros, in [0, 1): for 90 % give 0.9",
        "n is 2.5; it must be a whole number of steps, at least 1",
        "scope is 'globl'; it must be 'layer' or 'global'",
        "grown_slots is 'zero'; give 'initial', 'keep' or a number",
        "path is 'cubic'; it must be 'exponential' or 'linear'",
        "scope is 'all'; it must be 'layer' or 'global'",
        "scope 'global' and fan_in exclude each other; use 'layer'",
    ]


@pytest.mark.parametrize("name", jaxsparse.ALGORITHMS)
def test_every_method_refuses_what_cannot_be_sparse(name: str) -> None:
    """A method with masks at all says so of a tree of vectors, and of its own sparsity."""
    factory, small, *_ = jaxsparse.ALGORITHMS[name]
    vectors = {"bias": float32(4)}
    if "sparsity" not in small and not factory(**small).learned:
        assert jax.tree.leaves(factory(**small).init(key(), vectors)) == []
        return
    with pytest.raises(ValueError, match="none of the 1 leaves may be sparse"):
        init(factory(**small), vectors)
    if "sparsity" not in small:
        return
    with pytest.raises(ValueError, match=r"is 1\.5; it is the fraction of zeros, in \[0, 1\)"):
        factory(**{**small, "sparsity": 1.5})


def test_nothing_is_traced_before_the_error() -> None:
    """Budgets, structures and globs are checked without a single JAX operation."""
    events: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **rest: events.append(event)
    )
    jax.clear_caches()
    key()
    jax.jit(lambda x: x + 1)(0)
    assert any("trace" in event for event in events)  # the listener hears
    events.clear()
    for case in (
        "budget larger than a layer", "groups that do not divide", "blocks that do not divide",
        "glob of partition", "integer leaves", "zero-size leaves", "nothing that may be sparse",
        "params missing", "unknown method", "stop before start", "sparsity of 1",
    ):  # fmt: skip
        call, parts = CASES[case]
        with pytest.raises(ValueError, match=re.escape(parts[0])):
            call()
        assert events == [], case
