"""SET: the smallest go, others come at random."""

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
