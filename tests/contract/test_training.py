"""Invariants 6 and 7: grown weights start anew; hostile and non-finite gradients do no harm."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxsparse
from tests.contract.methods import (
    Step,
    build,
    due_steps,
    gradients,
    kept,
    leaves,
    off_mask,
    plain,
    planned,
    random_tree,
    run,
    same,
    stepper,
)


def test_grown_weights_start_at_zero_with_the_optimizers_own_slots(name: str) -> None:
    """Adagrad starts at 0.1, which a blind zero would miss."""
    if build(name).dense_weights:
        return  # nothing starts: absent weights are trained like the others
    step, params = stepper(name), random_tree(0)
    state = step.init(params, 0)
    grown = 0
    for grads in gradients():
        before = state.masks
        params, state = step.compiled(params, state, grads)
        slots = state.inner_state.inner_state[1].sum_of_squares
        for new, old, weight, slot in leaves(state.masks, before, params, slots):
            came = new & ~old
            grown += int(came.sum())
            assert (weight[came] == 0).all() or build(name).regrow
            assert (slot[came] == np.float32(0.1)).all()
            assert off_mask(params, state) == 0
        reported = int(state.info.grown)
    # A method that never grows has nothing to reset, and says so.
    assert (grown > 0) == any(int(s.info.grown) for s in run(name).states)
    assert reported <= grown


def _poison(grads: Any, masks: Any, where: str) -> Any:
    """NaN in all sparse layers, inf at one weight of a dense leaf, or -inf at an absent weight."""
    grads = jax.tree.map(np.array, grads)
    if where == "dense":
        grads["Conv_0"]["bias"][3] = np.inf
    elif where == "kept":
        for part in ("Conv_0", "Dense_0", "Dense_1"):
            grads[part]["kernel"].flat[0] = np.nan
    else:
        mask = masks["Dense_0"]["kernel"]
        mask = np.ones((12, 16), bool) if isinstance(mask, optax.MaskedNode) else np.array(mask)
        grads["Dense_0"]["kernel"].flat[np.argmin(mask)] = -np.inf
    return jax.tree.map(jnp.asarray, grads)


def test_a_gradient_that_is_not_finite_never_touches_the_masks(name: str) -> None:
    step = stepper(name)
    for where in ("kept", "absent", "dense"):
        _one_bad_gradient(name, step, where)
    assert step.traces == 1


def _one_bad_gradient(name: str, step: Step, where: str) -> None:
    due, params = due_steps(name), random_tree(0)
    bad, state = next(iter(due), 2), step.init(params, 0)
    for number, grads in enumerate(gradients()[:16]):
        before, was = state.masks, params
        if number == bad:
            grads = _poison(grads, before, where)
        params, state = step.compiled(params, state, grads)
        missed = int(bad in due and number >= bad)
        assert int(state.info.skipped) == missed
        assert int(state.info.updates) == sum(number >= n for n in due) - missed
        assert off_mask(params, state) == 0
        if number == bad:
            assert same(state.masks, before)
        elif number in due and planned(name):  # the next one makes good for what was missed
            assert kept(state.masks) == kept(run(name).states[number + 1].masks)
        if number > bad:
            assert not same(params, was)  # training goes on
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


def test_a_weight_that_is_not_finite_never_touches_the_masks(name: str) -> None:
    """NaN at a kept weight, or infinity at an absent one: no update goes by it."""
    step, due = stepper(name), due_steps(name)
    if not due:
        return
    for number, where in ((np.nan, np.argmax), (np.inf, np.argmin)):
        params = random_tree(0)
        state = step.init(params, 0)
        for n, grads in enumerate(gradients()[: due[0] + 1]):
            if n == due[0]:
                before, weights = state.masks, jax.tree.map(np.array, params)
                for (mask,), part in zip(leaves(before), weights_of(weights), strict=True):
                    part.flat[where(mask)] = number
                params = jax.tree.map(jnp.asarray, weights)
            params, state = step.compiled(params, state, grads)
        assert same(state.masks, before)
        assert (int(state.info.updates), int(state.info.skipped)) == (0, 1)
    assert step.traces == 1


def weights_of(params: Any) -> list[Any]:
    """The leaves that may be sparse, in the order of the masks."""
    return [params[part]["kernel"] for part in ("Conv_0", "Dense_0", "Dense_1")]


def test_hostile_gradients_for_300_steps_and_scan_is_the_loop(name: str) -> None:
    """Zeros, equal, huge, tiny and alternating gradients: checked at each step, inside the scan."""
    step, params = plain(name), random_tree(0)
    usual = [kept(state.masks) for state in run(name).states]
    kinds: list[Callable[[Any, Any], Any]] = [
        lambda w, sign: jnp.zeros_like(w),
        lambda w, sign: jnp.ones_like(w),
        lambda w, sign: jnp.full_like(w, 1e30) * sign,
        lambda w, sign: jnp.full_like(w, 1e-40),
        lambda w, sign: w,
        lambda w, sign: jnp.where(w == 0, sign, -sign),
    ]

    def hostile(params: Any, number: Any) -> Any:
        sign = jnp.where(number % 2 == 0, 1.0, -1.0)
        kind = (number * 7) % 11 % len(kinds)
        return jax.tree.map(lambda w: jax.lax.switch(kind, kinds, w, sign), params)

    def body(carry: Any, number: Any) -> tuple[Any, Any]:
        params, state = step.plain(*carry, hostile(carry[0], number))
        forward = jaxsparse.forward_params(params, state, training=False)
        off = [
            jnp.sum(~mask & (weight != 0)) for mask, weight in _traced_leaves(state.masks, forward)
        ]
        return (params, state), (sum(off, jnp.int32(0)), state.info, state.masks)

    soak = jax.jit(lambda carry: jax.lax.scan(body, carry, jnp.arange(300)))
    start = (params, step.init(params, 5))
    (_, state), (off, info, masks) = soak(start)
    assert not np.any(off)
    per_step = np.asarray(info.kept).sum(1)
    whole = kept(state.masks) - per_step[-1]
    expected = np.array([*usual[1:], *[usual[-1]] * 300][:300])
    assert np.array_equal(per_step + whole, expected) or not planned(name)
    due = build(name).due
    assert int(state.info.updates) == (0 if due is None else int(np.sum(due(jnp.arange(300)))))
    assert int(state.info.skipped) == 0

    given, loop = jax.jit(hostile), start
    for number in range(24):
        loop = step.compiled(*loop, given(loop[0], number))
        assert same(jax.tree.map(lambda m, i=number: m[i], masks), loop[1].masks)
        assert same(jax.tree.map(lambda m, i=number: m[i], info), loop[1].info)


def _traced_leaves(masks: Any, params: Any) -> list[tuple[Any, Any]]:
    marks, structure = jax.tree.flatten(
        masks, is_leaf=lambda node: isinstance(node, optax.MaskedNode)
    )
    rows = zip(marks, structure.flatten_up_to(params), strict=True)
    return [row for row in rows if not isinstance(row[0], optax.MaskedNode)]
