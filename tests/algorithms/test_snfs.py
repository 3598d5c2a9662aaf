"""Sparse momentum: one update by hand, its memory, and an independent version in NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse.algorithms.snfs import snfs

# Four of eight are kept in each layer.
MASKS = {"a": jnp.array([[1] * 4 + [0] * 4], bool), "b": jnp.array([[1] * 4 + [0] * 4], bool)}
WEIGHTS = {
    "a": jnp.array([[5.0, -4.0, 3.0, 0.5, 9.0, 9.0, 9.0, 9.0]]),
    "b": jnp.array([[-5.0, 0.2, -0.1, 4.0, 9.0, 9.0, 9.0, 9.0]]),
}
# Means over the kept: 3 in "a" and 1 in "b", so that "a" gets three quarters.
MOMENTA = {
    "a": jnp.array([[-1.0, 2.0, 8.0, 1.0, 0.5, -7.0, 6.0, 0.1]]),
    "b": jnp.array([[2.0, 1.0, 1.0, 0.0, 0.3, 0.2, -0.4, 0.1]]),
}


def update_once(**options: Any) -> Any:
    method = snfs(0.5, drop_fraction=0.5, **options)
    grads = jax.tree.map(jnp.zeros_like, WEIGHTS)
    masks, info = jax.jit(method.update)(jax.random.key(0), MASKS, WEIGHTS, grads, 1, MOMENTA)
    return [masks[name].astype(int).tolist()[0] for name in masks], info.kept.tolist()


def test_update_by_hand() -> None:
    # Half of each goes: 3 and 0.5, and 0.2 and -0.1. Of the four, three go to "a", where momenta
    # of 8 (just dropped), -7 and 6 are the largest, and one to "b", where it is 1: of two that are
    # equal and just dropped, either.
    (a, b), kept = update_once()
    assert kept == [5, 3]
    assert a == [1, 1, 1, 0, 0, 1, 1, 0]
    assert b in ([1, 1, 0, 1, 0, 0, 0, 0], [1, 0, 1, 1, 0, 0, 0, 0])


def test_without_redistribution() -> None:
    # Each layer gets its two back.
    (a, b), kept = update_once(redistribute=False)
    assert kept == [4, 4]
    assert a == [1, 1, 1, 0, 0, 1, 0, 0]
    assert b == [1, 1, 1, 1, 0, 0, 0, 0]


def test_adams_moments() -> None:
    # |m| / (sqrt(v) + 1e-8): the -7 of "a" has the largest square and no chance.
    method = snfs(0.5, drop_fraction=0.5, squares=0.999, redistribute=False)
    one = jax.tree.map(jnp.ones_like, MOMENTA)
    squares = one | {"a": one["a"].at[0, 5].set(1e6)}
    memory = {n: jaxsparse.memories.Moments(MOMENTA[n], squares[n]) for n in MOMENTA}
    masks, _ = method.update(jax.random.key(0), MASKS, WEIGHTS, WEIGHTS, 1, memory)
    assert masks["a"].astype(int).tolist() == [[1, 1, 1, 0, 0, 0, 1, 0]]


def test_what_is_remembered() -> None:
    for squares in (None, 0.5):
        method = snfs(0.5, momentum=0.75, squares=squares)
        memory = method.start(MASKS, WEIGHTS)
        for grad in (4.0, 8.0):
            grads = jax.tree.map(lambda w, g=grad: jnp.full_like(w, g), WEIGHTS)
            memory = method.remember(memory, MASKS, WEIGHTS, grads, 0)
        # 0.25 * 4 = 1; 0.75 + 0.25 * 8 = 2.75. Squares: 8, then 4 + 32 = 36.
        leaf = memory["a"]
        mean = leaf if squares is None else leaf.mean
        assert mean.tolist() == [[2.75] * 8]
        assert squares is None or leaf.square.tolist() == [[36.0] * 8]


def numpy_update(masks: Any, weights: Any, momenta: Any, fraction: float) -> Any:
    """Real-valued shares; the draws leave room everywhere, so the counts are theirs, rounded."""
    share = {n: abs(momenta[n][masks[n]]).mean() for n in masks}
    new, dropped = {}, 0
    for name, mask in masks.items():
        swap = int(fraction * mask.sum())
        order = sorted(zip(*np.nonzero(mask), strict=True), key=lambda i: abs(weights[name][i]))
        new[name] = mask.copy()
        for i in order[:swap]:
            new[name][i] = False
        dropped += swap
    return new, {n: dropped * share[n] / sum(share.values()) for n in share}


def test_against_numpy(key: jax.Array) -> None:
    rng = np.random.default_rng(0)
    shapes = {"a": (8, 10), "b": (10, 12), "c": (2, 2, 4, 6)}
    draw = lambda: {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    method = snfs(0.75, drop_fraction=0.25)
    update, first = jax.jit(method.update), draw()
    masks: Any = jax.tree.map(np.asarray, method.init(key, first))
    total = sum(mask.sum() for mask in masks.values())
    for step in range(6):
        weights, momenta = draw(), draw()
        momenta["b"] = momenta["b"] * 2
        found, info = update(key, masks, weights, weights, step, momenta)
        left, quota = numpy_update(masks, weights, momenta, 0.25)
        assert int(info.kept.sum()) == total
        for name, mask in found.items():
            mask = np.asarray(mask)
            assert (mask | ~left[name]).all()  # what was to stay did
            grown = mask & ~left[name]
            assert abs(grown.sum() - quota[name]) < 1
            absent = abs(momenta[name][~left[name] & ~mask])
            assert abs(momenta[name][grown]).min() >= absent.max()
        masks = jax.tree.map(np.asarray, found)


def test_a_full_layer_passes_on_what_it_cannot_hold() -> None:
    # "b" has room for two, and all of the momentum: "a" gets the other two.
    masks = {"a": MASKS["a"], "b": jnp.array([[1, 1, 1, 1]], bool)}
    weights = {"a": WEIGHTS["a"], "b": WEIGHTS["b"][:, :4]}
    momenta = {"a": 0 * WEIGHTS["a"], "b": WEIGHTS["b"][:, :4]}
    method = snfs(0.0, drop_fraction=0.5)
    _, info = method.update(jax.random.key(0), masks, weights, weights, 1, momenta)
    assert info.kept.tolist() == [4, 4]


def test_in_training(key: jax.Array) -> None:
    method = snfs(0.75, update=jaxsparse.every(2, start=2))
    tx = jaxsparse.sparsify(optax.sgd(0.1, momentum=0.9), method)
    params = {"a": jax.random.normal(key, (6, 5)), "b": jax.random.normal(key, (5, 10))}

    def step(carry: Any, _: Any) -> Any:
        params, state = carry
        updates, state = tx.update(jax.tree.map(jnp.cos, params), state, params)
        params = optax.apply_updates(params, updates)
        off = sum(jnp.sum((params[n] != 0) & ~state.masks[n]) for n in params)
        return (params, state), (off, state.info)

    run = jax.jit(lambda carry: jax.lax.scan(step, carry, length=7))
    _, (off, info) = run((params, tx.init(params)))
    assert off.tolist() == [0] * 7
    assert info.kept.sum(1).tolist() == [20] * 7
    assert info.updates.tolist() == [0, 0, 1, 1, 2, 2, 3]
    assert bool(method.dense_gradients(3))
    assert np.flatnonzero(snfs(0.9).due(jnp.arange(301))).tolist() == [100, 200, 300]


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"momentum is 1.5; it must lie in \[0, 1\]"):
        snfs(0.9, momentum=1.5)
    with pytest.raises(ValueError, match=r"squares is -1.0; it must lie in \[0, 1\]"):
        snfs(0.9, squares=-1.0)
    with pytest.raises(ValueError, match="snfs moves budgets between layers, and fan_in fixes"):
        snfs(0.9, structure=jaxsparse.fan_in())
    assert snfs(0.9, structure=jaxsparse.fan_in(), redistribute=False).due is not None
