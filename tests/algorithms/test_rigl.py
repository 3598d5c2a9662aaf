"""RigL: one update by hand, and each of the published details."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import every, rigl

# Eight of sixteen are kept. A quarter, two, is swapped: -0.1 and 0.2 have the least magnitudes.
MASK = jnp.array([[1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]], bool)
WEIGHTS = jnp.array(
    [[-0.1, 1.0, -2.0, 3.0], [9.0, 9.0, 9.0, 9.0], [0.2, -0.3, 0.4, 5.0], [9.0, 9.0, 9.0, 9.0]]
)
# The largest gradients: 8 (kept: no candidate), -7 (just dropped), 6, -5 and 4 (absent).
GRADS = jnp.array(
    [[-7.0, 8.0, 0.1, 0.2], [0.3, 6.0, 0.0, 1.0], [0.4, 0.5, 0.0, 0.0], [-5.0, 2.0, 4.0, 0.1]]
)


def update_once(**options: Any) -> Any:
    method = rigl(0.5, drop_fraction=0.25, **options)
    params, grads = {"w": WEIGHTS}, {"w": GRADS}
    masks, info = jax.jit(method.update)(jax.random.key(0), {"w": MASK}, params, grads, 100)
    return masks["w"].astype(int).tolist(), info


def test_update_by_hand() -> None:
    # Just-dropped weights are candidates: -0.1 comes back, 0.2 makes room for the gradient of 6.
    masks, info = update_once()
    assert masks == [[1, 1, 1, 1], [0, 1, 0, 0], [0, 1, 1, 1], [0, 0, 0, 0]]
    assert (int(info.dropped), int(info.grown), int(info.kept[0])) == (1, 1, 8)


def test_update_by_hand_without_the_dropped() -> None:
    # Both are gone; 6 and -5 come.
    masks, info = update_once(regrow_dropped=False)
    assert masks == [[0, 1, 1, 1], [0, 1, 0, 0], [0, 1, 1, 1], [1, 0, 0, 0]]
    assert (int(info.dropped), int(info.grown), int(info.kept[0])) == (2, 2, 8)


def test_a_weight_that_comes_back_at_once_keeps_its_value_and_slots() -> None:
    tx = jaxsparse.sparsify(optax.adam(0.1), rigl(0.5, drop_fraction=0.25, update=every(1)))
    params = jaxsparse.apply_masks({"w": WEIGHTS}, {"w": MASK})
    state = tx.init(params)
    filled = jax.tree.map(lambda x: jnp.full_like(x, 7) if x.ndim else x, state.inner_state)
    state = state._replace(masks={"w": MASK}, inner_state=filled)
    updates, state = jax.jit(tx.update)({"w": GRADS}, state, params)
    new = optax.apply_updates(params, updates)["w"]
    mu = state.inner_state[0].mu["w"]
    # -0.1 was dropped and grown again, 0.2 was dropped, and (1, 1) has just grown.
    assert (float(new[0, 0]), float(mu[0, 0])) == (float(np.float32(-0.1)), 7.0)
    assert float(new[2, 0]) == 0.0
    assert (float(new[1, 1]), float(mu[1, 1])) == (0.0, 0.0)


def test_the_fraction_rounds_down_and_follows_the_step() -> None:
    # Cosine from 0.3 over 100 steps, 8 kept: floor(2.4) = 2 at 0, floor(1.2) = 1 at 50, 0 at 100.
    method = rigl(0.5, drop_fraction=optax.cosine_decay_schedule(0.3, 100), regrow_dropped=False)
    update = jax.jit(method.update)
    params, grads = {"w": WEIGHTS}, {"w": GRADS}
    for step, dropped in ((0, 2), (50, 1), (100, 0)):
        _, info = update(jax.random.key(0), {"w": MASK}, params, grads, step)
        assert (int(info.dropped), int(info.grown)) == (dropped, dropped)


def test_when_it_updates() -> None:
    due = lambda method, stop: [step for step in range(0, stop, 50) if method.due(step)]
    # The paper's t < T_end, from the first interval on; at step 0 as published code; end inclusive.
    assert due(rigl(0.9), 301) == [100, 200, 300]
    assert due(rigl(0.9, update=every(100)), 301) == [0, 100, 200, 300]
    assert due(rigl(0.9, update=every(100, start=100, stop=200)), 301) == [100]
    inclusive = every(100, start=100, stop=200, inclusive=True)
    assert due(rigl(0.9, update=inclusive), 301) == [100, 200]
    last = [step for step in (74_900, 75_000, 75_100) if rigl(0.9).due(step)]
    assert last == [74_900]
    dense = [step for step in range(0, 301, 50) if rigl(0.9).dense_gradients(step)]
    assert dense == [100, 200, 300]


PARAMS = {"bias": jnp.ones(4), "w": WEIGHTS}


def train(trains_on_update: bool) -> tuple[Any, Any]:
    """Four steps of Adam with an update at step 2: everything before and after each step."""
    method = rigl(
        0.5,
        update=jaxsparse.at(2),
        drop_fraction=0.25,
        regrow_dropped=False,
        trains_on_update=trains_on_update,
    )
    tx = jaxsparse.sparsify(optax.adam(0.01), method)
    state = tx.init(PARAMS)._replace(masks={"bias": optax.MaskedNode(), "w": MASK})
    params = jaxsparse.apply_masks(PARAMS, state.masks)
    grads = {"bias": jnp.ones(4), "w": GRADS}

    def step(carry: Any, _: Any) -> Any:
        params, state = carry
        updates, state = tx.update(grads, state, params)
        carry = optax.apply_updates(params, updates), state
        return carry, carry

    _, (weights, states) = jax.jit(lambda c: jax.lax.scan(step, c, length=4))((params, state))
    return weights, states


def test_the_update_step_does_not_train() -> None:
    weights, states = train(trains_on_update=False)
    adam = states.inner_state[0]
    # Nothing of the optimizer counts that step, and no leaf moves at it.
    assert adam.count.tolist() == [1, 2, 2, 3]
    assert states.sparse_step.tolist() == [1, 2, 3, 4]
    both = np.asarray(states.masks["w"][1] & states.masks["w"][2])
    assert both.sum() == 6
    for tree in (weights, adam.mu, adam.nu):
        np.testing.assert_array_equal(tree["bias"][1], tree["bias"][2])
        np.testing.assert_array_equal(tree["w"][1][both], tree["w"][2][both])
        assert (np.asarray(tree["bias"][2]) != np.asarray(tree["bias"][3])).all()
    assert (np.asarray(weights["w"][1][both]) != np.asarray(weights["w"][0][both])).any()
    # Grown at 0, and trained from the next step on.
    grown = np.asarray(states.masks["w"][2] & ~states.masks["w"][1])
    assert weights["w"][2][grown].tolist() == [0.0, 0.0]
    assert (np.asarray(weights["w"][3])[grown] != 0).all()


def test_the_update_step_trains_on_demand() -> None:
    weights, states = train(trains_on_update=True)
    assert states.inner_state[0].count.tolist() == [1, 2, 3, 4]
    assert (np.asarray(weights["bias"][1]) != np.asarray(weights["bias"][2])).all()
    both = np.asarray(states.masks["w"][1] & states.masks["w"][2] & (GRADS != 0))
    assert (np.asarray(weights["w"][1])[both] != np.asarray(weights["w"][2])[both]).all()
    grown = np.asarray(states.masks["w"][2] & ~states.masks["w"][1])
    assert weights["w"][2][grown].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("regrow_dropped", [True, False])
def test_counts_hold_over_many_updates(regrow_dropped: bool, key: jax.Array) -> None:
    # Densities re-derived from masks in float32 drift, and dead units lose weights.
    params = {"a": jax.random.normal(key, (9, 7)), "b": jax.random.normal(key, (7, 11))}
    dead = {"a": jnp.zeros((9, 7)).at[:2].set(1.0), "b": jnp.zeros((7, 11))}
    method = rigl(0.7, update=every(1), drop_fraction=0.6, regrow_dropped=regrow_dropped)
    want = jaxsparse.erk(params, 0.7)

    def one(masks: Any, step: Any) -> Any:
        masks, info = method.update(key, masks, params, dead, step)
        return masks, info.kept

    _, kept = jax.jit(lambda m: jax.lax.scan(one, m, jnp.arange(30)))(method.init(key, params))
    assert (np.asarray(kept) == list(want.values())).all()


def test_itop_settings_swap_half_of_the_weights_rarely(key: jax.Array) -> None:
    end = 100_000
    decay = optax.cosine_decay_schedule(0.5, end)
    method = rigl(0.75, update=every(4_000, start=4_000, stop=end), drop_fraction=decay)
    assert method.due is not None
    assert np.flatnonzero(method.due(np.arange(13_000))).tolist() == [4_000, 8_000, 12_000]
    # 20 of 80 stay. By 4,000 the fraction is 0.498: 9 are swapped; at half time, 0.25, 5.
    params = {"w": jax.random.normal(key, (8, 10))}
    grads = {"w": jax.random.normal(jax.random.key(1), (8, 10))}
    masks = jax.jit(method.init)(key, params)
    for step, swapped in ((4_000, 9), (50_000, 5)):
        _, info = jax.jit(
            rigl(0.75, update=every(4_000), drop_fraction=decay, regrow_dropped=False).update
        )(key, masks, params, grads, step)
        assert (int(info.dropped), int(info.grown)) == (swapped, swapped)


def test_a_sparsity_schedule(key: jax.Array) -> None:
    # Prunes along a cubic while it swaps: counts follow the schedule at every update.
    params = {"w": jax.random.normal(key, (8, 10))}
    method = rigl(
        jaxsparse.polynomial_sparsity(0.75, 0, 4, power=1.0), update=every(1), drop_fraction=0.5
    )
    masks, update = method.init(key, params), jax.jit(method.update)
    kept = [int(masks["w"].sum())]
    for step in range(6):
        masks, _ = update(key, masks, params, jax.tree.map(jnp.cos, params), step)
        kept.append(int(masks["w"].sum()))
    assert kept == [80, 80, 65, 50, 35, 20, 20]


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"drop_fraction is 1.5; it must lie in \[0, 1\]"):
        rigl(0.9, drop_fraction=1.5)
    with pytest.raises(ValueError, match=r"sparsity is 90.0; .*give 0.9"):
        rigl(90.0)
