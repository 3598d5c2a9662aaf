"""DSR: one update by hand, the threshold, and an independent version in NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse.algorithms.dsr import dsr
from jaxsparse.memories import Threshold

# Four of eight are kept in "a", four of six in "b".
MASKS = {"a": jnp.array([[1] * 4 + [0] * 4], bool), "b": jnp.array([[1] * 4 + [0] * 2], bool)}
WEIGHTS = {
    "a": jnp.array([[0.5, -0.4, 0.3, 0.1, 9.0, 9.0, 9.0, 9.0]]),
    "b": jnp.array([[-0.05, 0.02, -0.25, 0.01, 9.0, 9.0]]),
}


def update_once(least: float, **options: Any) -> Any:
    memory = Threshold(jnp.float32(least), jnp.float32(-1.0))
    method = dsr(0.5, **options)
    masks, info = method.update(jax.random.key(0), MASKS, WEIGHTS, WEIGHTS, 1, memory)
    return masks["a"].astype(int).tolist()[0], masks["b"].astype(int).tolist()[0], info


def test_update_by_hand() -> None:
    # H = 0.2: 0.1 goes in "a", and all but -0.25 in "b". Three and one are left: of the four that
    # grow, three are for "a", and there are four places that were empty before.
    a, b, info = update_once(0.2)
    assert info.kept.tolist() == [6, 2]
    assert a[:4] == [1, 1, 1, 0]
    assert sum(a[4:]) == 3
    assert b[:4] == [0, 0, 1, 0]
    assert sum(b[4:]) == 1


def test_the_largest_of_a_layer_stays() -> None:
    # H = 0.45: all of "b" would go; -0.25 stays. One and one are left: three come to each, and "b"
    # has only two places that were empty, so that one that just went comes back.
    a, b, info = update_once(0.45)
    assert info.kept.tolist() == [4, 4]
    assert a[:4] == [1, 0, 0, 0]
    assert (b[2], sum(b[4:]), sum(b)) == (1, 2, 4)


def test_dropped_weights_may_come_back_on_demand() -> None:
    methods = [dsr(0.5, threshold=0.2, regrow_dropped=again) for again in (True, False)]
    came = []
    for method in methods:
        draw = lambda key, method=method: method.update(key, MASKS, WEIGHTS, WEIGHTS, 1)[0]
        masks = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(1), 60))
        came.append(bool(masks["a"][:, 0, 3].any()))
    assert came == [True, False]


def test_the_threshold_follows_the_target() -> None:
    # A target of a quarter of eight, two, give or take 10 %. At 0.03 two go: as it is. At 0.015 it
    # is one: doubled. At 0.2 three of "b" and one of "a", four: halved. At 0.6 six, for one of each
    # stays. The threshold that was used is kept beside the next one.
    method = dsr(0.5, drop_fraction=0.25, update=jaxsparse.every(2))
    remember = jax.jit(method.remember)
    for least, after in ((0.03, 0.03), (0.015, 0.03), (0.2, 0.1), (0.6, 0.3)):
        before = Threshold(jnp.float32(0.7), jnp.float32(least))
        memory = remember(before, MASKS, WEIGHTS, WEIGHTS, 2)
        np.testing.assert_allclose(memory, [least, after], rtol=1e-6)
        # Nothing moves between updates.
        np.testing.assert_array_equal(remember(before, MASKS, WEIGHTS, WEIGHTS, 3), before)
    first = method.start(MASKS, WEIGHTS)
    np.testing.assert_array_equal(first, np.float32([1e-3, 1e-3]))
    # Seven of eight are 0, for ever too many: the threshold falls, but never to 0.
    zeros = jax.tree.map(jnp.zeros_like, WEIGHTS)
    memory = Threshold(jnp.float32(1), jnp.float32(2e-38))
    assert float(remember(memory, MASKS, zeros, zeros, 2).next) > 0


def test_against_numpy_in_training(key: jax.Array) -> None:
    """The counts of every layer and the threshold over twelve steps of SGD."""
    params = {
        n: jax.random.normal(jax.random.fold_in(key, i), s)
        for i, (n, s) in enumerate({"a": (8, 10), "b": (10, 12), "c": (3, 3, 2, 4)}.items())
    }
    method = dsr(0.5, update=jaxsparse.every(2, start=1), threshold=0.2, drop_fraction=0.2)
    tx = jaxsparse.sparsify(optax.sgd(0.1), method)
    state, step = tx.init(params), jax.jit(tx.update)
    params = jaxsparse.apply_masks(params, state.masks)
    total, least = sum(int(m.sum()) for m in state.masks.values()), np.float32(0.2)
    for number in range(12):
        grads = jax.tree.map(lambda w, i=number: jnp.cos(9 * w + i), params)
        before = jax.tree.map(np.asarray, (params, state.masks))
        updates, state = step(grads, state, params)
        params = optax.apply_updates(params, updates)
        kept = state.info.kept.tolist()
        assert sum(kept) == total
        assert all(not np.any(np.asarray(params[n])[~np.asarray(state.masks[n])]) for n in params)
        if number % 2 == 0:
            continue
        stays = {n: before[1][n] & (abs(before[0][n]) >= least) for n in params}
        left = np.array([mask.sum() for mask in stays.values()])
        gone = total - left.sum()
        assert left.min() > 0
        ideal = left + gone * left / left.sum()
        room = np.array([mask.size for mask in stays.values()])
        assert (ideal < room).all()
        assert (abs(kept - ideal) < 1).all()
        assert all((np.asarray(state.masks[n]) | ~stays[n]).all() for n in params)
        least *= np.float32(
            2.0 if gone < 0.9 * 0.2 * total else 0.5 if gone > 1.1 * 0.2 * total else 1
        )
        assert float(state.memory.next) == least


def test_when() -> None:
    method = dsr(0.5)
    assert np.flatnonzero(method.due(jnp.arange(301))).tolist() == [100, 200, 300]
    assert not bool(method.pauses(100))
    assert not bool(method.dense_gradients(100))


def test_bad_arguments() -> None:
    for name in ("drop_fraction", "tolerance"):
        with pytest.raises(ValueError, match=rf"{name} is 1.5; it must lie in \[0, 1\]"):
            dsr(0.9, **{name: 1.5})
    with pytest.raises(ValueError, match=r"threshold is 0.0; it must be positive"):
        dsr(0.9, threshold=0.0)
