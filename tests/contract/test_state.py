"""Invariants 4 and 5: state alone drives drop and grow, and randomness is a folded key."""

import collections
import functools
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import optax

import jaxsparse
from jaxsparse import MaskAlgorithm, TrainState
from tests.contract.methods import (
    RATE,
    build,
    due_steps,
    gradients,
    kept,
    off_mask,
    plain,
    planned,
    pure,
    random_tree,
    run,
    same,
    stepper,
)

INIT = 2**32 - 1  # the number of the step that draws the first masks


def test_unknown_extra_arguments_change_nothing(name: str) -> None:
    update, args = stepper(name).tx.update, (gradients()[0], run(name).states[0], random_tree(0))
    plain = jax.make_jaxpr(update)(*args)
    more = jax.make_jaxpr(lambda *args: update(*args, value=1.0, nobody="knows"))(*args)
    assert equations(more.jaxpr) == equations(plain.jaxpr)


def equations(jaxpr: Any) -> collections.Counter[str]:
    """Of a program and all that it calls: what a `cond` reads has no order to rely on."""
    found: collections.Counter[str] = collections.Counter()
    for eqn in jaxpr.eqns:
        kinds = [[v.aval for v in side] for side in (eqn.invars, eqn.outvars)]
        found[f"{eqn.primitive} {kinds}"] += 1
        for inner in jax.extend.core.jaxprs_in_params(eqn.params):
            found += equations(inner)
    return found


def test_train_state_and_multi_steps_around_it(name: str) -> None:
    """Two half batches a step: the masks of whole steps, with no argument but the gradients."""
    tx = optax.MultiSteps(stepper(name).tx, 2).gradient_transformation()
    create = lambda params: TrainState.create(apply_fn=print, params=params, tx=tx)
    state = jax.jit(create)(random_tree(0))
    assert off_mask(state.params, state) == 0
    apply = jax.jit(lambda state, grads: state.apply_gradients(grads=grads))
    for step, grads in enumerate(gradients()[:12]):
        for _ in range(2):
            state = apply(state, grads)
            assert off_mask(state.params, state) == 0
        assert same(state.sparsity_info.updates, run(name).states[step + 1].info.updates)
        assert kept(state.masks) == kept(run(name).states[step + 1].masks) or not planned(name)
    assert int(state.step) == 24
    assert same(state.forward_params, jaxsparse.forward_params(state.params, state.opt_state))


def test_the_wrapper_is_the_algorithm_and_nothing_else(name: str) -> None:
    """By hand, from the pure functions: drop and grow, train, and zeros; SGD and no wrapper."""
    method = build(name)
    step, params, weights = plain(name), random_tree(0), random_tree(0)
    state, key = step.init(params, 3), jax.random.key(3)
    masks, memory = jax.jit(functools.partial(_first_by_hand, method))(key, weights)
    assert same(masks, state.masks)
    by_hand = jax.jit(functools.partial(_step_by_hand, method))
    for number, grads in enumerate(gradients()[:12]):
        params, state = step.compiled(params, state, grads)
        due, idle = number in due_steps(name), bool(method.pauses(number))
        weights, masks, memory, kept = by_hand(
            key, weights, masks, memory, grads, jnp.int32(number), due, due and idle
        )
        assert same(masks, state.masks)
        if due:
            assert same(kept, state.info.kept)
        for mine, its in zip(jax.tree.leaves(weights), jax.tree.leaves(params), strict=True):
            np.testing.assert_allclose(mine, its, rtol=1e-5, atol=1e-6)


def _first_by_hand(method: MaskAlgorithm, key: Any, weights: Any) -> Any:
    first = jax.random.fold_in(key, jnp.uint32(INIT))
    masks = method.init(first, weights)
    memory = method.start(masks, weights)
    if not method.dense_weights:
        return masks, memory
    masks, _ = method.update(first, masks, weights, weights, jnp.int32(-1), memory)
    return masks, method.start(masks, weights)


def _step_by_hand(
    method: MaskAlgorithm,
    key: Any,
    weights: Any,
    masks: Any,
    memory: Any,
    grads: Any,
    number: Any,
    due: Any,
    idle: Any,
) -> Any:
    """One step; masks move if it is due, weights train unless it is idle."""
    choose = lambda flag, new, old: jax.tree.map(functools.partial(jnp.where, flag), new, old)
    now = jax.random.fold_in(key, number)
    memory = method.remember(memory, masks, weights, grads, number)
    given = grads
    if method.backward is not None:
        given, memory = method.backward(now, masks, weights, grads, number, memory)
    # Of what is absent, nothing is trained.
    trained = jax.tree.map(lambda w, g: w - jnp.float32(RATE) * g, weights, given)
    trained = choose(idle, weights, trained)
    # Masks over dense weights are chosen from what training made of them.
    ranked = trained if method.dense_weights else weights
    moved, info = method.update(now, masks, ranked, grads, number, memory)
    moved = choose(due, moved, masks)
    if not method.dense_weights:
        trained = jaxsparse.apply_masks(jaxsparse.apply_masks(trained, masks), moved)
        if method.regrow:
            values = method.regrow(now, masks, weights, grads, memory).values
            trained = choose(due, grown_from(trained, masks, moved, values), trained)
    return trained, moved, memory, info.kept


def grown_from(weights: Any, before: Any, masks: Any, values: Any) -> Any:
    """What has just grown starts at these values."""
    dense = lambda node: isinstance(node, optax.MaskedNode)

    def one(mask: Any, old: Any, weight: Any, value: Any) -> Any:
        return weight if dense(mask) else jnp.where(mask & ~old, value, weight)

    return jax.tree.map(one, masks, before, weights, values, is_leaf=dense)


def test_the_seed_decides_where_a_method_draws_and_only_there(name: str) -> None:
    (init, update), params = pure(name), twins()
    first, second = (jax.random.key(seed) for seed in (11, 12))
    masks = init(first, params)
    memory = build(name).start(masks, params)
    args = (masks, params, params, next(iter(due_steps(name)), 0), memory)
    draws = not same(update(first, *args)[0], update(second, *args)[0])
    if build(name).learned or not build(name).dense_weights:
        # (Else the first masks are one update from these.)
        draws = draws or not same(masks, init(second, params))
    assert same(masks, init(first, params))
    assert same(update(first, *args)[0], update(first, *args)[0])

    def trajectory(seed: int) -> list[Any]:
        state = stepper(name).init(random_tree(0), seed)
        weights, masks = random_tree(0), [state.masks]
        for grads in gradients()[:12]:
            weights, state = stepper(name).compiled(weights, state, grads)
            masks.append(state.masks)
        return masks

    assert same(trajectory(0), [state.masks for state in run(name).states[:13]])
    # Noise of the forward pass may move what is learned, too.
    assert same(trajectory(0), trajectory(1)) != draws or build(name).learned


def test_equal_leaves_draw_apart(name: str) -> None:
    """The leaf's index is part of the randomness: twins do not share their masks."""
    (init, update), keys = pure(name), [jax.random.key(seed) for seed in (1, 2)]
    params = twins()
    masks = [init(key, params) for key in keys]
    if not same(*masks):
        assert not same(masks[0]["a"], masks[0]["b"])
    alike = jax.tree.map(lambda mask: masks[0]["a"], masks[0])
    at = next(iter(due_steps(name)), 0)
    memory = build(name).start(alike, params)
    moved = [update(key, alike, params, params, at, memory)[0] for key in keys]
    if not same(*moved):
        assert not same(moved[0]["a"], moved[0]["b"])
    assert all(kept_in(after) == kept_in(moved[0]) for after in moved)


def twins() -> dict[str, Any]:
    kernel = random_tree(0)["Dense_0"]["kernel"]
    return {"a": kernel, "b": kernel}


def kept_in(masks: Any) -> int:
    return sum(int(mask.sum()) for mask in jax.tree.leaves(masks))
