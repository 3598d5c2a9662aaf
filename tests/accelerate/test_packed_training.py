"""Packed training is masked training: the same topology, the same loss, the same slots."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

import jaxsparse
from jaxsparse import accelerate

from .models import DENSE, PARAMS, X, Y, loss, masked_steps, where

pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")

BALANCED = jaxsparse.block(4, 4, balanced=True)
UPDATE = jaxsparse.every(3, start=3, stop=10)
CHOICES = {"where": where, "distribution": jaxsparse.uniform}
# name -> (algorithm, block)
METHODS = {
    "rigl": (jaxsparse.rigl(0.5, update=UPDATE, structure=BALANCED, **CHOICES), (4, 4)),
    "rigl, single weights": (
        jaxsparse.rigl(0.75, update=UPDATE, trains_on_update=True, **CHOICES),
        (1, 1),
    ),
    "set": (
        jaxsparse.sparse_evolutionary(
            0.5, update=UPDATE, structure=jaxsparse.block(4, 4), **CHOICES
        ),
        (4, 4),
    ),
    "gradual": (
        jaxsparse.gradual_magnitude(
            0.75, start=1, stop=10, interval=3, structure=BALANCED, **CHOICES
        ),
        (4, 4),
    ),
    "static": (jaxsparse.static(0.5, structure=BALANCED, **CHOICES), (4, 4)),
}
INNER = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2))
# (A slot of adagrad's starts at 0.1.)
ADAGRAD = optax.adagrad(1e-1)


def packed_steps(method: Any, block: Any, inner: Any, masks: Any, params: Any) -> tuple[Any, ...]:
    packed, topology = accelerate.pack(params, masks, block=block)
    optimizer = accelerate.packed_optimizer(inner, method, seed=3)
    return optimizer, packed, optimizer.init(packed, topology)


@pytest.mark.parametrize("name", METHODS)
def test_the_same_run_in_masked_form(name: str) -> None:
    (method, block), marks = METHODS[name], jaxsparse.masks_of
    inner = ADAGRAD if name == "set" else INNER
    masked, params, state = masked_steps(method, inner)
    optimizer, packed, own = packed_steps(method, block, inner, marks(state), params)
    step = jax.jit(accelerate.train_step(loss, optimizer), static_argnames="moves")
    masks_of = jax.jit(accelerate.masks_of_topology)
    changes = 0
    for i in range(12):
        due = optimizer.due is not None and bool(optimizer.due(i))
        before, kept = marks(state), packed
        params, state, want = masked(params, state, X, Y)
        packed, own, found = step(packed, own, X, Y, moves=due)
        np.testing.assert_allclose(found, want, rtol=1e-5)
        topology = masks_of(own.topology)
        jax.tree.map(np.testing.assert_array_equal, topology, marks(state))
        for mine, theirs in zip(own.info, state.info, strict=True):
            np.testing.assert_array_equal(mine, theirs)
        changes += any(
            (a != b).any()
            for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(marks(state)), strict=True)
        )
        if not due:
            assert jax.tree.map(jnp.shape, kept) == jax.tree.map(jnp.shape, packed)
    dense = accelerate.unpack(packed, own.topology)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, dense, params)
    # Every slot of the optimizer, too, where there is a weight.
    slots = optax.tree_map_params(
        inner,
        lambda slot, topology: (
            slot if topology == optax.MaskedNode() else accelerate.unpack(slot, topology)
        ),
        own.inner_state,
        own.topology,
        is_leaf=lambda leaf: isinstance(leaf, accelerate.Topology | optax.MaskedNode),
    )
    whole = optax.tree_map_params(
        inner,
        lambda slot, mask: slot if mask == optax.MaskedNode() else jnp.where(mask, slot, 0),
        state.inner_state,
        marks(state),
        is_leaf=lambda leaf: isinstance(leaf, optax.MaskedNode),
    )
    jax.tree.map(close, slots, whole)
    assert changes in {"static": [0]}.get(name, [2, 3])


def test_one_program_with_a_condition_is_the_same() -> None:
    method, block = METHODS["rigl"]
    _, params, state = masked_steps(method, INNER)
    optimizer, packed, own = packed_steps(method, block, INNER, state.masks, params)
    traced = []
    counted = lambda *operands: [loss(*operands), traced.append(1)][0]
    step = jax.jit(accelerate.train_step(counted, optimizer), static_argnames="moves")
    both, apart = (packed, own), (packed, own)
    for i in range(7):
        *both, first = step(*both, X, Y)
        *apart, second = step(*apart, X, Y, moves=bool(optimizer.due(i)))
        np.testing.assert_allclose(first, second, rtol=1e-6)
    one, two = (state.topology["first"]["kernel"].indices for _, state in (both, apart))
    assert (one == two).all()
    assert int(both[1].info.updates) == 2
    # Once in each of two programs, and in both parts of the third.
    assert len(traced) == 4


def test_numbers_that_are_not_finite_move_nothing() -> None:
    method, block = METHODS["set"]
    _, params, state = masked_steps(method, INNER)
    optimizer, packed, own = packed_steps(method, block, INNER, state.masks, params)
    grads = jax.tree.map(jnp.ones_like, PARAMS)
    grads["second"]["kernel"] = grads["second"]["kernel"].at[0, 0].set(jnp.nan)
    _, after = jax.jit(optimizer.move)(grads, own, packed)
    assert int(after.info.skipped) == 1
    assert int(after.info.updates) == 0
    for new, old in zip(
        jax.tree.leaves(after.topology), jax.tree.leaves(own.topology), strict=True
    ):
        assert (new == old).all()


def test_a_handed_slot_starts_anew() -> None:
    method, block = METHODS["set"]
    _, params, state = masked_steps(method, ADAGRAD)
    optimizer, packed, own = packed_steps(method, block, ADAGRAD, state.masks, params)
    grads = jax.tree.map(jnp.ones_like, PARAMS)
    updates, after = jax.jit(optimizer.move)(grads, own, packed)
    values = optax.apply_updates(packed, updates)["first"]["kernel"]
    pair = (s.topology["first"]["kernel"].indices for s in (own, after))
    came = np.not_equal(*pair)
    assert came.any()
    assert (np.asarray(values)[came] == 0).all()
    slots = np.asarray(after.inner_state[0].sum_of_squares["first"]["kernel"])
    assert (slots[came] == np.float32(0.1)).all()
    assert (slots[~came] > 1).all()


def test_an_empty_slot_stays_zero() -> None:
    # Noise goes to every number that an optimizer has.
    noisy = optax.chain(optax.add_noise(1.0, 0.0, 0), optax.sgd(0.1))
    mask = jnp.array([[True, False], [True, True]])
    packed, topology = accelerate.pack({"w": jnp.ones((2, 2))}, {"w": mask}, balanced=True)
    method = jaxsparse.fixed({"w": mask})
    optimizer = accelerate.packed_optimizer(noisy, method)
    updates, _ = optimizer.update(packed, optimizer.init(packed, topology), packed)
    assert topology["w"].present.tolist() == [[True, True], [True, False]]
    assert (np.asarray(updates["w"]) != 0).tolist() == [[True, True], [True, False]]


def test_gradual_pruning_gives_its_slots_back() -> None:
    method, block = METHODS["gradual"]
    _, params, state = masked_steps(method, INNER)
    optimizer, packed, own = packed_steps(method, block, INNER, state.masks, params)
    step = jax.jit(accelerate.train_step(loss, optimizer), static_argnames="moves")
    assert packed["first"]["kernel"].shape == (8, 4, 4, 4)  # dense at first
    for i in range(8):
        packed, own, _ = step(packed, own, X, Y, moves=bool(optimizer.due(i)))
    before = accelerate.unpack(packed, own.topology)
    less, state = optimizer.shrink(packed, own)
    assert less["first"]["kernel"].shape == (8, 1, 4, 4)
    after = accelerate.unpack(less, state.topology)
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert accelerate.bytes_of(state.inner_state) < 0.5 * accelerate.bytes_of(own.inner_state)
    # And training goes on as it would have.
    for i in range(8, 12):
        packed, own, want = step(packed, own, X, Y, moves=bool(optimizer.due(i)))
        less, state, found = step(less, state, X, Y, moves=bool(optimizer.due(i)))
        np.testing.assert_allclose(found, want, rtol=1e-5)


def test_between_updates_nothing_is_dense() -> None:
    # First layer: 90 % of 64 x 64 blocks.
    params = {"kernel": jax.ShapeDtypeStruct((512, 512), jnp.float32)}
    structure = jaxsparse.block(8, 8, balanced=True)
    method = jaxsparse.rigl(0.9, distribution=jaxsparse.uniform, structure=structure)
    masks = method.init(jax.random.key(0), params)
    packed, topology = accelerate.pack({"kernel": jnp.ones((512, 512))}, masks, block=(8, 8))
    optimizer = accelerate.packed_optimizer(optax.adam(1e-3), method)
    state = optimizer.init(packed, topology)
    square = lambda p, t, x: (accelerate.matmul(x, p["kernel"], t["kernel"]) ** 2).sum()
    step = accelerate.train_step(square, optimizer)

    def memory(moves: bool) -> int:
        run = jax.jit(lambda *a: step(*a, moves=moves), donate_argnums=(0, 1))
        compiled = run.lower(packed, state, jnp.ones((2, 512))).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert memory(False) < 512 * 512
    assert memory(True) > 4 * 512 * 512
    # Values and both moments: 1.2 bytes a weight, and the indices.
    assert accelerate.bytes_of((packed, state)) < 1.3 * 512 * 512


def test_checkpoints_hold_what_is_kept(tmp_path: pathlib.Path) -> None:
    method, block = METHODS["rigl"]
    _, params, state = masked_steps(method, INNER)
    _, packed, own = packed_steps(method, block, INNER, state.masks, params)
    jax.tree.map(np.testing.assert_array_equal, jaxsparse.masks_of(own), state.masks)
    assert jaxsparse.forward_params(packed, own) is packed
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "saved", (packed, own))
        checkpointer.wait_until_finished()
        abstract = jax.eval_shape(lambda: (packed, own))
        again = checkpointer.restore(tmp_path / "saved", abstract)
    assert jax.tree.structure(again) == jax.tree.structure((packed, own))
    jax.tree.map(np.testing.assert_array_equal, again, (packed, own))


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (jaxsparse.sr_ste(), "needs dense weights behind a sparse forward pass"),
        (jaxsparse.snfs(0.5), "needs a memory of dense arrays"),
        (jaxsparse.srigl(0.5), "needs masks of any size"),
    ],
)
def test_methods_that_need_dense_arrays_are_refused(method: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        accelerate.packed_optimizer(optax.sgd(0.1), method)


def test_a_topology_of_other_masks_is_refused() -> None:
    method, block = METHODS["static"]
    masks = method.init(jax.random.key(0), PARAMS)
    packed, topology = accelerate.pack(PARAMS, masks, block=block)
    make = lambda method: accelerate.packed_optimizer(optax.sgd(0.1), method)
    with pytest.raises(ValueError, match="first/kernel: 2 slots for 3 kept units"):
        make(jaxsparse.static(0.25, structure=BALANCED, **CHOICES)).init(packed, topology)
    with pytest.raises(ValueError, match="first/kernel: the mask cuts blocks of \\(4, 4\\)"):
        make(jaxsparse.static(0.5, **CHOICES)).init(packed, topology)
    less = {**CHOICES, "where": lambda path, leaf: path == "first/kernel"}
    with pytest.raises(ValueError, match="second/kernel is packed, but dense under the algorithm"):
        make(jaxsparse.static(0.5, structure=BALANCED, **less)).init(packed, topology)
    with pytest.raises(ValueError, match="seed is -1"):
        accelerate.packed_optimizer(optax.sgd(0.1), method, seed=-1)
    # In jit nothing is counted, and abstract states can be had.
    jax.eval_shape(make(method).init, packed, topology)
    assert loss(PARAMS, DENSE, X, Y).shape == ()
