"""SET: the smallest go, others come at random."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse

# Two of four are swapped: 3 and -4 stay, 0.5 and -1 go. Six places are free then.
MASK = jnp.array([[1, 0, 1, 0], [0, 1, 0, 1]], bool)
WEIGHTS = jnp.array([[3.0, 9.0, 0.5, -9.0], [9.0, -1.0, 9.0, -4.0]])
STAYS = np.array([[1, 0, 0, 0], [0, 0, 0, 1]], bool)


def build(**options: Any) -> Any:
    options = {"update": jaxsparse.every(2, start=1), "drop_fraction": 0.5} | options
    return jaxsparse.sparse_evolutionary(0.5, **options)


def draws(method: Any, number: int = 2000) -> np.ndarray:
    """New masks under many keys."""
    keys = jax.random.split(jax.random.key(7), number)
    params = {"w": WEIGHTS}
    one = lambda key: method.update(key, {"w": MASK}, params, params, 1)[0]["w"]
    return np.asarray(jax.jit(jax.vmap(one))(keys))


def test_drops_by_magnitude_and_grows_any_of_the_rest_alike() -> None:
    masks = draws(build())
    assert (masks.sum((1, 2)) == 4).all()
    assert masks[:, STAYS].all()
    # Two of six at random, just-dropped ones among them: 1/3 each; five deviations are 0.053.
    often = masks.mean(0)[~STAYS]
    assert abs(often - 1 / 3).max() < 0.053


def test_without_the_dropped_among_the_candidates() -> None:
    masks = draws(build(regrow_dropped=False))
    assert (masks.sum((1, 2)) == 4).all()
    assert masks[:, STAYS].all()
    assert not masks[:, np.asarray(MASK) & ~STAYS].any()
    assert abs(masks.mean(0)[~np.asarray(MASK)] - 1 / 2).max() < 0.056


def test_layers_grow_independently() -> None:
    params = {"a": jnp.ones((16, 16)), "b": jnp.ones((16, 16))}
    masks = {name: jnp.arange(256).reshape(16, 16) < 128 for name in params}
    method = build(drop_fraction=1.0)
    new, _ = jax.jit(method.update)(jax.random.key(0), masks, params, params, 1)
    # 128 of 256 each: 64 in common, and a spread of 4.
    assert 40 < int((new["a"] & new["b"]).sum()) < 88


def test_the_update_step_trains_what_stays() -> None:
    # 0.5 is the least of what comes in; sgd(1) with gradient 2.75 then takes 3 to 0.25.
    tx = jaxsparse.sparsify(optax.sgd(1.0), build(drop_fraction=0.25, regrow_dropped=False))
    params = {"w": jnp.where(MASK, WEIGHTS, 0.0)}
    state = tx.init(params)._replace(masks={"w": MASK}, sparse_step=jnp.int32(1))
    grads = {"w": jnp.array([[2.75, 1.0, 2.75, 1.0], [1.0, 1.0, 1.0, 1.0]])}
    updates, state = jax.jit(tx.update)(grads, state, params)
    new = optax.apply_updates(params, updates)["w"]
    assert not bool(state.masks["w"][0, 2])
    assert int(state.masks["w"].sum()) == 4
    assert new[np.asarray(MASK)].tolist() == [0.25, 0.0, -2.0, -5.0]
    # The grown one starts at 0, whatever its gradient.
    assert int((new != 0).sum()) == 3


def test_comes_when_due(key: jax.Array) -> None:
    method = build()
    assert [step for step in range(8) if method.due(step)] == [1, 3, 5, 7]
    assert [step for step in range(301) if jaxsparse.sparse_evolutionary(0.5).due(step)] == [
        100,
        200,
        300,
    ]
    assert not any(bool(method.pauses(step)) for step in range(8))
    tx = jaxsparse.sparsify(optax.sgd(0.1), method)
    params = {"w": jax.random.normal(key, (6, 8))}

    def step(carry: Any, _: Any) -> Any:
        params, state = carry
        updates, state = tx.update(params, state, params)
        return (optax.apply_updates(params, updates), state), (state.info, state.masks["w"])

    _, (info, masks) = jax.jit(lambda c: jax.lax.scan(step, c, length=7))((params, tx.init(params)))
    assert info.updates.tolist() == [0, 1, 1, 2, 2, 3, 3]
    assert (masks.sum((1, 2)) == 24).all()
    moved = [bool((a != b).any()) for a, b in itertools.pairwise(masks)]
    assert moved == [True, False, True, False, True, False]


def test_drop_fraction_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"drop_fraction is 30.0; it must lie in \[0, 1\]"):
        jaxsparse.sparse_evolutionary(0.9, drop_fraction=30.0)


# Eight of sixteen are kept: 1, 2, 3, 4 and 5, -6 and -7, and a 0 that was grown and never trained.
SIGNED_MASK = jnp.array([[1] * 4, [1] * 4, [0] * 4, [0] * 4], bool)
SIGNED = jnp.array([[1.0, -6.0, 3.0, 5.0], [2.0, 0.0, -7.0, 4.0], [9.0] * 4, [-9.0] * 4])


@functools.cache
def tenths() -> Any:
    """An update whose fraction is a tenth of the step."""
    options = {"drop_fraction": lambda step: step / 10, "regrow_dropped": False}
    return jax.jit(build(by_sign=True, **options).update)


def by_sign(step: int) -> Any:
    params = {"w": SIGNED}
    masks, info = tenths()(jax.random.key(3), {"w": SIGNED_MASK}, params, params, step)
    return np.asarray(masks["w"]), info


def test_by_sign_by_hand() -> None:
    # floor(0.5 * 5) = 2 of the positive go, 1 and 2, and floor(0.5 * 2) = 1 of the negative, -6,
    # though five weights are smaller; and the 0. All four places are filled elsewhere.
    masks, info = by_sign(5)
    assert masks[:2].astype(int).tolist() == [[0, 0, 1, 1], [0, 0, 1, 1]]
    assert (int(info.kept[0]), int(info.dropped), int(info.grown)) == (8, 4, 4)


def test_by_sign_rounds_down_and_follows_a_schedule() -> None:
    # floor(0.4 * 5) = 2 and floor(0.4 * 2) = 0; at step 0 the fraction is 0: only the 0 goes.
    assert [int(by_sign(step)[1].dropped) for step in (4, 0)] == [3, 1]


def test_by_sign_against_numpy(key: jax.Array) -> None:
    rng = np.random.default_rng(0)
    for draw in range(20):
        weight = rng.normal(size=(4, 4)).astype(np.float32).round(1)
        old = rng.permutation(16).reshape(4, 4) < 8
        stays = np.zeros_like(old)
        for sign in (1, -1):
            places = np.flatnonzero(old & (sign * weight > 0))
            order = places[np.argsort(-abs(weight.flat[places]), kind="stable")]
            stays.flat[order[: len(order) - int(0.3 * len(order))]] = True
        args = {"w": jnp.asarray(old)}, {"w": jnp.asarray(weight)}
        new, info = tenths()(jax.random.fold_in(key, draw), *args, args[1], 3)
        kept = np.asarray(new["w"]) & old
        # Equal magnitudes may be chosen otherwise: counts and values agree.
        assert int(info.kept[0]) == old.sum()
        assert sorted(weight[kept]) == sorted(weight[stays])


def test_by_sign_over_many_leaves_and_steps(key: jax.Array) -> None:
    params = {str(i): jax.random.normal(jax.random.fold_in(key, i), (6, 8)) for i in range(9)}
    tx = jaxsparse.sparsify(optax.adam(0.1), build(by_sign=True))

    def step(carry: Any, _: Any) -> Any:
        params, state = carry
        updates, state = tx.update(params, state, params)
        return (optax.apply_updates(params, updates), state), state.info.kept

    run = jax.jit(lambda c: jax.lax.scan(step, c, length=6))
    (params, state), kept = run((params, tx.init(params)))
    assert (np.asarray(kept) == 24).all()
    assert all(
        (np.asarray(params[name])[~np.asarray(state.masks[name])] == 0).all() for name in params
    )


def test_updates_at_the_ends_of_epochs_but_the_last() -> None:
    # Four epochs of 25 steps: 0 to 99. Their ends are before steps 25, 50, 75; 100 is never run.
    due = jaxsparse.sparse_evolutionary(0.5, update=jaxsparse.every(25, start=25)).due
    assert [step for step in range(100) if due(step)] == [25, 50, 75]


def test_by_sign_needs_single_weights_and_one_sparsity() -> None:
    for options in ({"structure": jaxsparse.channel()}, {"sparsity": lambda step: 0.5}):
        with pytest.raises(ValueError, match="by_sign drops single weights at a constant sparsity"):
            jaxsparse.sparse_evolutionary(**{"sparsity": 0.5, "by_sign": True} | options)
