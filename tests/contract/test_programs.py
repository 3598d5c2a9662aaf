"""Invariants 8 and 10: one compilation, no callback, vmap; abstract and empty trees."""

import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp

import jaxsparse
from jaxsparse.base import remember_nothing
from tests.contract.methods import (
    STEPS,
    build,
    due_steps,
    gradients,
    plain,
    planned,
    random_tree,
    run,
    same,
    signature,
    stepper,
)


def test_nothing_is_traced_twice(name: str) -> None:
    run(name)
    run(name, seed=7, stream=1)
    assert stepper(name).traces == 1


def test_no_host_callback_and_no_effect(name: str) -> None:
    result, tx = run(name), stepper(name).tx
    jaxpr = jax.make_jaxpr(tx.update)(gradients()[0], result.states[0], result.params[0])
    assert not jaxpr.effects
    assert "callback" not in str(jaxpr)
    assert "callback" not in str(jax.make_jaxpr(tx.init)(result.params[0]))


def test_vmap_over_seeds_is_the_loop_and_still_updates_only_when_due(
    name: str, tmp_path: pathlib.Path
) -> None:
    method, params = build(name), random_tree(0)
    step = plain(name)
    init = lambda seed: step.init(params, seed)
    axes = jaxsparse.vmap_axes(jax.eval_shape(init, 0))
    states = jax.jit(jax.vmap(init, out_axes=axes))(jnp.arange(3))
    weights = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), params)
    many = jax.jit(jax.vmap(step.plain, in_axes=(0, axes, None), out_axes=(0, axes)))
    text = many.lower(weights, states, gradients()[0]).compile().as_text()
    # All of drop and grow is in a loop of one pass or none, at the top of the program; XLA of
    # jax 0.12 writes a loop of a small program as a call of a function with just that loop.
    loops = re.findall(r" while\(| call\(.*to_apply=%while", text[text.index("ENTRY") :])
    if method.remember is remember_nothing and method.backward is None:
        assert len(loops) == (method.due is not None)
    singles = [(params, init(seed)) for seed in range(3)]
    for grads in gradients()[:12]:
        if int(states.sparse_step) == 5:
            resumed = through_orbax(tmp_path, (weights, states))
        weights, states = many(weights, states, grads)
        singles = [step.compiled(*single, grads) for single in singles]
    assert states.sparse_step.shape == ()
    # All seeds in one checkpoint, to the same bits.
    for grads in gradients()[5:12]:
        resumed = many(*resumed, grads)
    assert same(resumed, (weights, states))
    for seed, single in enumerate(singles):
        mine = jax.tree.map(
            lambda leaf, axis, i=seed: leaf if axis is None else leaf[i],
            (weights, states),
            (jax.tree.map(lambda _: 0, weights), axes),
            is_leaf=lambda node: node is None,
        )
        if planned(name):
            assert same(mine, single)
            continue
        # exp and log are rounded otherwise under vmap; masks are not.
        assert same(mine[1].masks, single[1].masks)
        for ours, theirs in zip(jax.tree.leaves(mine), jax.tree.leaves(single), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_init_on_abstract_arrays_and_under_transformations(name: str) -> None:
    method, params, tx = build(name), random_tree(0), stepper(name).tx
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    both = jax.jit(lambda key, params: (method.init(key, abstract), method.init(key, params)))
    assert same(*both(jax.random.key(0), params))
    assert signature(jax.eval_shape(tx.init, abstract)) == signature(run(name).states[0])


def test_init_on_a_tree_without_leaves(name: str) -> None:
    tx = stepper(name).tx
    for empty in ({}, (), [], {"a": {}, "b": None}, optax.MaskedNode()):
        state = tx.init(empty)
        assert jax.tree.leaves(state.masks) == []
        updates, state = tx.update(empty, state, empty)
        assert jax.tree.leaves(updates) == []
    slots = optax.tree_map_params(tx, lambda slot: None, run(name).states[0])
    assert jax.tree.leaves(slots.masks) == []


def test_orbax_gives_all_state_back(name: str, tmp_path: pathlib.Path) -> None:
    """Momentum, thresholds and signs are in the state: training goes on as it would have.

    From right before an update, and from right after it.
    """
    result, due = run(name), due_steps(name)
    moments = [min(due[-1] if due else 20, STEPS - 4) + after for after in (0, 1)]
    saved = [{"params": result.params[at], "state": result.states[at]} for at in moments]
    found = through_orbax(tmp_path, saved)
    assert same(found, saved)
    for at, part in zip(moments, found, strict=True):
        params, state = part["params"], part["state"]
        for grads in gradients()[at : at + 3]:
            params, state = stepper(name).compiled(params, state, grads)
        assert same((params, state), (result.params[at + 3], result.states[at + 3]))
    assert stepper(name).traces == 1


def through_orbax(folder: pathlib.Path, saved: Any) -> Any:
    """What is restored from a checkpoint of it."""
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "saved", saved)
        checkpointer.wait_until_finished()
        return checkpointer.restore(
            folder / "saved", jax.tree.map(ocp.utils.to_shape_dtype_struct, saved)
        )
