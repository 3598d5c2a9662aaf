"""A train state of eight devices on two, then on one: the same masks, where they belong."""

import functools
import pathlib
import re
from typing import Any

import jax
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxsparse

ocp: Any = pytest.importorskip("orbax.checkpoint")

pytestmark = pytest.mark.usefixtures("quick_compilation")

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "many_devices.md"
# A bias that every mesh splits, and one that none does.
SHAPES = {"a": (24, 9), "b": (7, 11), "c": (3, 3, 5, 16), "bias": (40,), "scale": (9,)}


def draw(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def optimizer() -> optax.GradientTransformationExtraArgs:
    update = jaxsparse.every(2, start=2, stop=100)
    return jaxsparse.sparsify(optax.adam(0.125), jaxsparse.rigl(0.7, update=update))


def place(mesh: Mesh, leaf: Any) -> NamedSharding:
    fits = [i for i, n in enumerate(leaf.shape) if n % mesh.size == 0]
    widest = max(fits, key=leaf.shape.__getitem__, default=None)
    return NamedSharding(mesh, P(*["data" if i == widest else None for i in range(leaf.ndim)]))


def go_on(state: jaxsparse.TrainState, steps: range) -> jaxsparse.TrainState:
    """By gradients that are given: no sum over examples that could round otherwise."""
    step = jax.jit(lambda state, grads: state.apply_gradients(grads=grads))
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    for number in steps:
        grads = jax.device_put(draw(number + 1), shardings.params)
        state = jax.device_put(step(state, grads), shardings)
    return state


def test_a_train_state_goes_on_on_other_meshes(tmp_path: pathlib.Path) -> None:
    """As docs/many_devices.md restores it, after 3, 5 and 7 steps; every second one moves masks."""
    snippet = next(
        code
        for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
        if "StandardRestore" in code
    )
    tx = optimizer()
    create = jax.jit(functools.partial(jaxsparse.TrainState.create, apply_fn=None, tx=tx))
    alone = create(params=draw(0))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    state = jax.device_put(alone, jax.tree.map(functools.partial(place, mesh), alone))
    done = 0
    for devices, until in ((2, 3), (1, 5), (8, 7)):
        state = go_on(state, range(done, until))
        with ocp.CheckpointManager(tmp_path) as manager:
            manager.save(until, args=ocp.args.StandardSave(state))
        kind = (AxisType.Auto,)
        mesh = jax.make_mesh(
            (devices,), ("data",), axis_types=kind, devices=jax.devices()[-devices:]
        )
        scope = {
            **{"jax": jax, "jaxsparse": jaxsparse, "params": draw(0), "tx": tx, "apply_fn": None},
            **{"ocp": ocp, "folder": tmp_path, "rule": functools.partial(place, mesh)},
        }
        exec(snippet, scope)
        restored: Any = scope["state"]
        assert jax.tree.structure(restored) == jax.tree.structure(state)
        for found, saved in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
            np.testing.assert_array_equal(found, saved)
            assert found.sharding == place(mesh, found)
        alone, state, done = go_on(alone, range(done, until)), restored, until
    state, alone = go_on(state, range(done, 9)), go_on(alone, range(done, 9))
    assert int(alone.sparsity_info.updates) == 4
    jax.tree.map(np.testing.assert_array_equal, *jax.device_get((state.masks, alone.masks)))
