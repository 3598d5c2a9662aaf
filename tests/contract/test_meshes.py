"""Invariant 9: the same masks on one device and on eight, whatever the sharding, and no gather."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxsparse
from jaxsparse import ALGORITHMS

STEPS = 8
# Sharded along the first dimension, the last, both, a middle one, and not at all.
SPECS = {
    "both": {"kernel": P("data", "model")},
    "first": {"bias": P("model"), "kernel": P("data", None)},
    "last": {"bias": P(), "kernel": P(None, None, None, ("data", "model"))},
    "middle": {"kernel": P(None, "model", None)},
    "whole": {"kernel": P()},
}
SHAPES = {
    "both": {"kernel": (16, 10)},
    "first": {"bias": (16,), "kernel": (24, 9)},
    "last": {"bias": (24,), "kernel": (3, 3, 2, 24)},
    "middle": {"kernel": (3, 8, 5)},
    "whole": {"kernel": (7, 11)},
}
# Whatever moves more than a few numbers between devices.
GATHERS = re.compile(r"\b(all-gather|all-to-all|collective-permute|reduce-scatter|sort)[\w-]*\(")

is_spec = lambda leaf: isinstance(leaf, tuple)


@pytest.fixture(scope="module")
def meshes() -> dict[str, Any]:
    make = lambda kind: jax.make_mesh((4, 2), ("data", "model"), axis_types=(kind,) * 2)
    return {"auto": make(AxisType.Auto), "explicit": make(AxisType.Explicit)}


@functools.cache
def tree(seed: int) -> Any:
    rng = np.random.default_rng(seed)
    draw = lambda shape: rng.normal(size=shape).astype(np.float32)
    return jax.tree.map(draw, SHAPES, is_leaf=is_spec)


def transformation(name: str) -> optax.GradientTransformationExtraArgs:
    factory, small, *_ = ALGORITHMS[name]
    # A power of two and no sums over weights: the parameters round alike on every mesh.
    return jaxsparse.sparsify(optax.sgd(0.125), factory(**small), seed=4)


def step(tx: Any) -> Any:
    def one(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return one


@functools.cache
def reference(name: str) -> tuple[list[Any], list[Any]]:
    """Masks before and after each step, and the last parameters, on one device."""
    tx = transformation(name)
    params = jax.tree.map(jnp.asarray, tree(0))
    state = jax.jit(tx.init)(params)
    compiled, masks = jax.jit(step(tx)), [state.masks]
    for number in range(STEPS):
        params, state = compiled(params, state, tree(number + 1))
        masks.append(state.masks)
    return jax.device_get(masks), jax.device_get(params)


def assert_same(first: Any, second: Any) -> None:
    assert jax.tree.structure(first) == jax.tree.structure(second)
    jax.tree.map(np.testing.assert_array_equal, first, second)


def assert_sharded_alike(masks: Any, params: Any) -> None:
    for mask, leaf in zip(
        jax.tree.leaves(masks, is_leaf=lambda x: isinstance(x, optax.MaskedNode)),
        jax.tree.leaves(params),
        strict=True,
    ):
        if not isinstance(mask, optax.MaskedNode):
            assert mask.sharding.is_equivalent_to(leaf.sharding, mask.ndim)
            assert len(mask.sharding.device_set) == 8


def assert_placed(params: Any, shardings: Any) -> None:
    alike = lambda leaf, sharding: leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
    assert all(jax.tree.leaves(jax.tree.map(alike, params, shardings)))


@pytest.mark.parametrize("kind", ["auto", "explicit"])
def test_eight_devices_keep_the_masks_of_one(name: str, kind: str, meshes: Any) -> None:
    mesh, tx = meshes[kind], transformation(name)
    shardings = jax.tree.map(
        lambda spec: NamedSharding(mesh, spec), SPECS, is_leaf=lambda leaf: isinstance(leaf, P)
    )
    place = lambda number: jax.device_put(tree(number), shardings)
    masks, last = reference(name)
    params = place(0)
    # The state's leaves have the shapes of parameters, and their sharding.
    by_shape = {leaf.shape: leaf.sharding for leaf in jax.tree.leaves(params)}
    everywhere = NamedSharding(mesh, P())
    placed = jax.tree.map(
        lambda leaf: by_shape.get(leaf.shape, everywhere), jax.eval_shape(tx.init, params)
    )
    with jax.set_mesh(mesh):
        state = jax.jit(tx.init, out_shardings=placed)(params)
    assert_sharded_alike(state.masks, params)
    assert_same(jax.device_get(state.masks), masks[0])
    with jax.set_mesh(mesh):
        compiled = jax.jit(step(tx)).lower(params, state, place(1)).compile()
        for number in range(STEPS):
            params, state = compiled(params, state, place(number + 1))
            assert_sharded_alike(state.masks, params)
            assert_same(jax.device_get(state.masks), masks[number + 1])
            # (A method's own numbers, as gates of units, come out where XLA likes them.)
            state = jax.device_put(state, placed)
        assert_same(jax.device_get(params), last)
    assert_placed(params, shardings)
    assert ALGORITHMS[name].gathers or GATHERS.findall(compiled.as_text()) == []
