"""MEST: one update by hand, mutation, and the soft bound."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse.algorithms.mest import mest

# Eight of sixteen are kept. |w| + 0.5 |g|: 1, 4, 2.5, 3, 1.75, 5, 6 and 7; the gradients of absent
# weights are of no account.
MASK = jnp.array([[1, 1, 1, 1], [1, 1, 1, 1], [0] * 4, [0] * 4], bool)
WEIGHTS = jnp.array([[1.0, -1.0, 2.5, 3.0], [-1.5, 5.0, -6.0, 7.0], [9.0] * 4, [9.0] * 4])
GRADS = jnp.array([[0.0, 6.0, 0.0, 0.0], [0.5, 0.0, 0.0, 0.0], [99.0] * 4, [99.0] * 4])


def draws(number: int = 200, **options: Any) -> np.ndarray:
    """New masks under many keys."""
    method = mest(0.5, **{"drop_fraction": 0.25, "gradient_weight": 0.5} | options)
    params, grads = {"w": WEIGHTS}, {"w": GRADS}
    one = lambda key: method.update(key, {"w": MASK}, params, grads, 0)[0]["w"]
    return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), number)))


def test_update_by_hand() -> None:
    # A quarter of eight goes: 1 and -1.5, while -1 is spared for its gradient. The two that come
    # are any of the ten, those two among them.
    masks = draws()
    assert (masks.sum((1, 2)) == 8).all()
    stays = np.array([[0, 1, 1, 1], [0, 1, 1, 1], [0] * 4, [0] * 4], bool)
    assert masks[:, stays].all()
    # Five deviations of 1/5 in 200 draws are 0.14.
    assert abs(masks.mean(0)[~stays] - 0.2).max() < 0.14


def test_without_the_gradient_it_is_the_magnitude() -> None:
    # 1 and -1, of which -1 is the first to go where it is the choice.
    masks = draws(40, gradient_weight=0.0)
    assert masks[:, 1, 0].all()
    assert not masks[:, 0, :2].all()


def test_the_soft_bound_by_hand() -> None:
    # A bound of eight and a quarter above it. Ten are kept; the update drops to eight, and grows
    # two. When the fraction has fallen to an eighth: to eight, and up to nine. At 0: eight.
    method = mest(0.5, drop_fraction=lambda step: jnp.maximum(0.25 - step / 8, 0), soft_bound=True)
    update, params = jax.jit(method.update), {"w": jnp.abs(WEIGHTS)}
    masks = {"w": MASK.at[2, :2].set(True)}
    assert int(method.init(jax.random.key(0), params)["w"].sum()) >= 10
    for step, kept in ((0, 10), (1, 9), (2, 8)):
        new, info = update(jax.random.key(1), masks, params, params, step)
        assert int(info.kept[0]) == kept
        # Of the ten, the two smallest are 1 and 1 (then it is a hash): at 2 only the others stay.
        assert bool((new["w"] | ~masks["w"])[WEIGHTS > 1.5].all())
    assert int(info.dropped) == 2


@pytest.mark.parametrize("soft_bound", [False, True])
def test_counts_in_training(key: jax.Array, soft_bound: bool) -> None:
    falling = optax.piecewise_constant_schedule(0.5, {4: 0.5, 8: 0.0})
    method = mest(0.75, update=jaxsparse.every(2), drop_fraction=falling, soft_bound=soft_bound)
    tx = jaxsparse.sparsify(optax.adam(0.1), method)
    params = {"a": jax.random.normal(key, (6, 5)), "b": jax.random.normal(key, (5, 10))}

    def step(carry: Any, _: Any) -> Any:
        params, state = carry
        updates, state = tx.update(jax.tree.map(jnp.cos, params), state, params)
        params = optax.apply_updates(params, updates)
        off = sum(jnp.sum((params[n] != 0) & ~state.masks[n]) for n in params)
        return (params, state), (off, state.info)

    run = jax.jit(lambda carry: jax.lax.scan(step, carry, length=12))
    _, (off, info) = run((params, tx.init(params)))
    assert off.tolist() == [0] * 12
    # 8 and 12 of 30 and 50: a half more is 12 + 18, a quarter more 10 + 15.
    # (Layers are rounded one by one, on the way; boundaries hold for their own step already.)
    want = np.array([30] * 4 + [25] * 4 + [20] * 4) if soft_bound else 20
    assert (abs(info.kept.sum(1) - want) <= 2 * soft_bound).all()
    assert info.kept[-1].tolist() == list(jaxsparse.uniform(params, 0.75).values())
    assert (info.grown[:2] > 0).all()


def test_published_schedules_and_when() -> None:
    method = mest(0.9)
    assert np.flatnonzero(method.due(jnp.arange(8_001))).tolist() == [2000, 4000, 6000, 8000]
    assert not bool(method.pauses(2000))
    assert not bool(method.dense_gradients(2000))
    # Prune to 92 %, grow to 90 %; then 91 %; then nothing: 20 of 100 kept weights, 10, 0.
    params = {"w": jnp.arange(1.0, 1001.0).reshape(20, 50)}
    masks, update = method.init(jax.random.key(0), params), jax.jit(method.update)
    swaps = []
    for step in (0, 40_000, 50_000):
        new, _ = update(jax.random.key(1), masks, params, params, step)
        smallest = jnp.sort(jnp.where(masks["w"], params["w"], 0).ravel())[-100:]
        swaps.append(int(jnp.sum((masks["w"] & ~new["w"]) & (params["w"] <= smallest[19]))))
    # (Some come back at once.)
    assert 10 < swaps[0] <= 20
    assert 0 < swaps[1] <= 10
    assert swaps[2] == 0


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"drop_fraction is 1.5; it must lie in \[0, 1\]"):
        mest(0.9, drop_fraction=1.5, soft_bound=True)
    with pytest.raises(ValueError, match=r"gradient_weight is -1.0; it must be 0 or more"):
        mest(0.9, gradient_weight=-1.0)
    with pytest.raises(ValueError, match=r"sparsity would end at 0.85, short of 0.9; give a drop_"):
        mest(0.9, drop_fraction=0.5, soft_bound=True)
    with pytest.raises(ValueError, match=r"sparsity is 90.0; .*give 0.9"):
        mest(90.0)
