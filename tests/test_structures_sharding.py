"""Structures on eight devices: the masks of one, where the weights are, and nothing gathered."""

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
from jaxsparse import block, channel, fan_in, n_m

pytestmark = pytest.mark.usefixtures("quick_compilation")

# Devices share whole groups and blocks: eight inputs each, at least.
SHAPES = {"dense": (64, 48), "conv": (3, 3, 32, 16)}
SPECS = {
    "inputs": {"dense": P("data", None), "conv": P(None, None, "data", None)},
    "outputs": {"dense": P(None, ("data", "model")), "conv": P(None, None, None, "model")},
    "both": {"dense": P("data", "model"), "conv": P(None, None, "model", "data")},
}
STRUCTURES = {
    "n_m": (n_m(keep=2, of=4), {"sparsity": 0.5, "distribution": jaxsparse.uniform}),
    "block": (block(4, 2), {"sparsity": 0.75}),
    "channel": (channel(), {"sparsity": 0.5}),
    "fan_in": (fan_in(), {"sparsity": 0.75}),
}
GATHERS = re.compile(r"\b(all-gather|all-to-all|collective-permute|reduce-scatter|sort)[\w-]*\(")
STEPS = 4


def draw(seed: int) -> dict[str, Any]:
    # Whole numbers: the sums over blocks and channels are exact, in whatever order.
    rng = np.random.default_rng(seed)
    return {k: rng.integers(-99, 100, s).astype(np.float32) for k, s in SHAPES.items()}


def transformation(name: str) -> optax.GradientTransformationExtraArgs:
    structure, options = STRUCTURES[name]
    update = jaxsparse.every(2, start=1, stop=100)
    method = jaxsparse.rigl(**options, update=update, drop_fraction=0.5, structure=structure)
    return jaxsparse.sparsify(optax.sgd(1.0), method, seed=5)


def step(tx: Any, params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state


@functools.cache
def on_one_device(name: str) -> list[Any]:
    tx, params = transformation(name), draw(0)
    state, one = jax.jit(tx.init)(params), jax.jit(functools.partial(step, tx))
    masks = [state.masks]
    for number in range(STEPS):
        params, state = one(params, state, draw(number + 1))
        masks.append(state.masks)
    assert int(state.info.updates) == 2
    assert int(state.info.grown) > 0
    return jax.device_get([*masks, params])


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
@pytest.mark.parametrize("where", SPECS)
@pytest.mark.parametrize("name", STRUCTURES)
def test_eight_devices_keep_the_masks_of_one(name: str, where: str, kind: AxisType) -> None:
    mesh, tx = (
        jax.make_mesh((4, 2), ("data", "model"), axis_types=(kind,) * 2),
        transformation(name),
    )
    shardings = {leaf: NamedSharding(mesh, spec) for leaf, spec in SPECS[where].items()}
    *masks, last = on_one_device(name)
    place = lambda seed: jax.device_put(draw(seed), shardings)
    params = place(0)
    with jax.set_mesh(mesh):
        state = tx.init(params)
        one = jax.jit(functools.partial(step, tx)).lower(params, state, place(1)).compile()
        for number in range(STEPS + 1):
            for leaf, mask in state.masks.items():
                assert mask.sharding.is_equivalent_to(shardings[leaf], mask.ndim)
                np.testing.assert_array_equal(mask, masks[number][leaf])
            if number < STEPS:
                params, state = one(params, state, place(number + 1))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(params), last)
    assert GATHERS.findall(one.as_text()) == []


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
@pytest.mark.parametrize(("shape", "axis"), [((16, 24), 0), ((16, 24), 1), ((80, 16), 0)])
def test_selection_along_an_axis(shape: tuple[int, int], axis: int, kind: AxisType) -> None:
    scores = np.random.default_rng(0).integers(-3, 4, shape).astype(np.float32)
    k = np.arange(shape[1 - axis], dtype=np.int32) % 9
    wanted = jaxsparse.top_k_mask(jnp.asarray(scores), k, axis=axis)
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(kind,) * 2)
    for spec in (P("data", "model"), P("model", None), P(None, "data")):
        with jax.set_mesh(mesh):
            placed = jax.device_put(scores, NamedSharding(mesh, spec))
            found = jaxsparse.top_k_mask(placed, k, axis=axis)
        assert found.sharding.is_equivalent_to(placed.sharding, 2)
        np.testing.assert_array_equal(found, wanted)


def test_groups_on_two_devices_are_gathered() -> None:
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    structure, scores = n_m(keep=2, of=4), np.arange(96, dtype=np.float32).reshape(24, 4)
    with jax.set_mesh(mesh):
        placed = jax.device_put(scores, NamedSharding(mesh, P("data", None)))
        pooled = structure.pool(placed)  # three rows a device
        back = structure.expand(pooled > 50, (24, 4))
    np.testing.assert_array_equal(pooled, scores.reshape(6, 4, 4))
    np.testing.assert_array_equal(back, scores > 50)
