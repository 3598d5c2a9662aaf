"""Invariant 9: the same masks on one device and on eight, whatever the sharding, and no gather."""

import functools
import re
from typing import Any

import jax
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxsparse import ALGORITHMS
from tests.contract.methods import gradients, plain, planned, random_tree

STEPS = 8
SEED = 4
# Sharded along the last dimension or a middle one, the first or two, and not at all.
PLACES = {
    "auto": {
        "Conv_0": {"bias": P("model"), "kernel": P(None, None, None, ("data", "model"))},
        "Dense_0": {"kernel": P("data", "model")},
        "Dense_1": {"kernel": P()},
        "LayerNorm_0": {"scale": P("model")},
    },
    "explicit": {
        "Conv_0": {"bias": P(), "kernel": P(None, None, "model", None)},
        "Dense_0": {"kernel": P("data", None)},
        "Dense_1": {"kernel": P()},
        "LayerNorm_0": {"scale": P()},
    },
}
# Whatever moves more than a few numbers between devices.
GATHERS = re.compile(r"\b(all-gather|all-to-all|collective-permute|reduce-scatter|sort)[\w-]*\(")


@pytest.fixture(scope="module")
def meshes() -> dict[str, Any]:
    make = lambda kind: jax.make_mesh((4, 2), ("data", "model"), axis_types=(kind,) * 2)
    return {"auto": make(AxisType.Auto), "explicit": make(AxisType.Explicit)}


@functools.cache
def reference(name: str) -> tuple[list[Any], list[Any]]:
    """Masks before and after each step, and the last parameters, on one device."""
    params, compiled = random_tree(0), plain(name).compiled
    state = plain(name).init(params, SEED)
    masks = [state.masks]
    for grads in gradients()[:STEPS]:
        params, state = compiled(params, state, grads)
        masks.append(state.masks)
    return jax.device_get(masks), jax.device_get(params)


@pytest.fixture
def alone(name: str, one_device: None, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """The reference; and what was traced for one device is forgotten."""
    found = reference(name)
    monkeypatch.undo()
    jax.clear_caches()
    assert jax.device_count() == 8
    return found


def assert_same(first: Any, second: Any) -> None:
    assert jax.tree.structure(first) == jax.tree.structure(second)
    jax.tree.map(np.testing.assert_array_equal, first, second)


def assert_close(first: Any, second: Any) -> None:
    np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-6)


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


@pytest.mark.parametrize("kind", PLACES)
def test_eight_devices_keep_the_masks_of_one(
    name: str, kind: str, meshes: Any, alone: tuple[Any, Any]
) -> None:
    mesh, step = meshes[kind], plain(name)
    init = functools.partial(step.init.__wrapped__, seed=SEED)
    shardings = jax.tree.map(
        lambda spec: NamedSharding(mesh, spec), PLACES[kind], is_leaf=lambda x: isinstance(x, P)
    )
    place = lambda tree: jax.device_put(tree, shardings)
    masks, last = alone
    params = place(random_tree(0))
    # The state's leaves have the shapes of parameters, and their sharding.
    by_shape = {leaf.shape: leaf.sharding for leaf in jax.tree.leaves(params)}
    everywhere = NamedSharding(mesh, P())
    placed = jax.tree.map(
        lambda leaf: by_shape.get(leaf.shape, everywhere), jax.eval_shape(init, params)
    )
    with jax.set_mesh(mesh):
        state = jax.jit(init, out_shardings=placed)(params)
    assert_sharded_alike(state.masks, params)
    assert_same(jax.device_get(state.masks), masks[0])
    with jax.set_mesh(mesh):
        compiled = jax.jit(step.plain).lower(params, state, place(gradients()[0])).compile()
        for number, grads in enumerate(gradients()[:STEPS]):
            params, state = compiled(params, state, place(grads))
            assert_sharded_alike(state.masks, params)
            assert_same(jax.device_get(state.masks), masks[number + 1])
            # (A method's own numbers, as gates of units, come out where XLA likes them.)
            state = jax.device_put(state, placed)
    if planned(name):
        assert_same(jax.device_get(params), last)
    else:  # exp and log are rounded otherwise in another program; masks are not
        jax.tree.map(assert_close, jax.device_get(params), last)
    assert_placed(params, shardings)
    assert ALGORITHMS[name].gathers or GATHERS.findall(compiled.as_text()) == []
