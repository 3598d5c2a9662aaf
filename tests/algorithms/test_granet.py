"""GraNet: one update by hand, its schedule, and an independent version in NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse.algorithms.granet import granet

# Twelve of sixteen are kept in two layers. Of the sixteen, eight are to be left: those of magnitude
# 3 and more, six in "a" and two in "b".
MASKS = {
    "a": jnp.array([[1, 1, 1, 1], [1, 1, 1, 0]], bool),
    "b": jnp.array([[1] * 4 + [1, 0, 0, 0]], bool),
}
WEIGHTS = {
    "a": jnp.array([[8.0, -7.0, 6.0, 5.0], [-4.0, 3.0, 0.5, 99.0]]),
    "b": jnp.array([[9.0, 3.5, 2.0, -1.0, 0.1, 99.0, 99.0, 99.0]]),
}
# Largest: kept ones (no candidates); then in "a" the pruned 0.5 and the absent one, in "b" two.
GRADS = {
    "a": jnp.array([[50.0, 50.0, 50.0, 0.1], [0.2, 0.3, 4.0, -5.0]]),
    "b": jnp.array([[50.0, 0.1, 0.2, 0.3, 0.4, 0.5, -7.0, 6.0]]),
}


def test_update_by_hand() -> None:
    # From 0.25 to 0.5: at the end eight of sixteen. The half of six in "a" is three (5, -4 and 3
    # go), of two in "b" it is one (3.5 goes). Then the largest gradients of each layer grow: in "a"
    # -5, 4 and 0.3, which had just gone and comes back; in "b" -7.
    method = granet(0.5, initial=0.25, stop=10, interval=5, drop_fraction=0.5)
    masks, info = jax.jit(method.update)(jax.random.key(0), MASKS, WEIGHTS, GRADS, 10)
    assert masks["a"].astype(int).tolist() == [[1, 1, 1, 0], [0, 1, 1, 1]]
    assert masks["b"].astype(int).tolist() == [[1, 0, 0, 0, 0, 0, 1, 0]]
    assert info.kept.tolist() == [6, 2]


def test_schedule_and_counts(key: jax.Array) -> None:
    # Cubic from 0.5 to 0.9 over 40 steps: 0.9 - 0.4 (1 - t/40)^3 = .73125, .85, .89375, .9 of 200.
    # Swaps go on after the end.
    params = {"a": jax.random.normal(key, (10, 8)), "b": jax.random.normal(key, (10, 12))}
    grads = jax.tree.map(lambda w: jnp.sin(99 * w), params)
    for scope in ("global", "layer"):
        method = granet(0.9, stop=40, interval=10, scope=scope, drop_fraction=0.5)
        masks, update = method.init(key, params), jax.jit(method.update)
        assert sum(int(mask.sum()) for mask in masks.values()) == 100
        for step, kept in ((10, 54), (20, 30), (30, 21), (40, 20), (50, 20)):
            masks, info = update(key, masks, params, grads, step)
            # (Layers are rounded one by one, on the way.)
            assert abs(int(info.kept.sum()) - kept) <= (scope == "layer" and step < 40)
            assert int(info.grown) > 0 or step > 10
    assert np.flatnonzero(method.due(jnp.arange(61))).tolist() == [10, 20, 30, 40, 50, 60]
    assert not bool(method.pauses(10))
    later = granet(0.9, start=7, stop=25, interval=10)
    assert np.flatnonzero(later.due(jnp.arange(40))).tolist() == [17, 25, 27, 37]
    assert np.flatnonzero(later.dense_gradients(jnp.arange(40))).tolist() == [17, 25, 27, 37]


def numpy_update(masks: Any, weights: Any, grads: Any, total: int, fraction: float) -> Any:
    names = list(masks)
    order = sorted(
        (
            (abs(weights[n][i]), n, i)
            for n in names
            for i in zip(*np.nonzero(masks[n]), strict=True)
        ),
        key=lambda row: -row[0],
    )[:total]
    new = {}
    for name in names:
        own = [i for _, n, i in order if n == name]
        mask = np.zeros_like(masks[name])
        for i in own[: len(own) - int(fraction * len(own))]:
            mask[i] = True
        absent = sorted(zip(*np.nonzero(~mask), strict=True), key=lambda i: -abs(grads[name][i]))
        for i in absent[: len(own) - mask.sum()]:
            mask[i] = True
        new[name] = mask
    return new


def test_against_numpy(key: jax.Array) -> None:
    method = granet(
        0.8, initial=0.4, stop=8, interval=2, drop_fraction=lambda step: 0.5 - step / 32
    )
    rng = np.random.default_rng(0)
    draw = lambda: {
        name: rng.normal(size=shape).astype(np.float32)
        for name, shape in (("a", (6, 5)), ("b", (5, 10)), ("c", (2, 2, 3, 5)))
    }
    masks: Any = jax.tree.map(np.asarray, method.init(key, draw()))
    update = jax.jit(method.update)
    # 84 of 140 at first; 0.8 - 0.4 (1 - t/8)^3: 0.63125, 0.75, 0.79375 and 0.8 are zero.
    for step, total in ((2, 52), (4, 35), (6, 29), (8, 28), (10, 28)):
        weights, grads = draw(), draw()
        new, _ = update(key, masks, weights, grads, step)
        masks = numpy_update(masks, weights, grads, total, 0.5 - step / 32)
        for name in masks:
            np.testing.assert_array_equal(new[name], masks[name])


def test_trains_at_updates_with_zeros_and_from_dense(key: jax.Array) -> None:
    params = {"a": jax.random.normal(key, (6, 5)), "b": jax.random.normal(key, (5, 10))}
    method = granet(0.75, initial=0.0, stop=6, interval=2)
    tx = jaxsparse.sparsify(optax.adam(0.1), method)
    state = tx.init(params)
    assert all(bool(mask.all()) for mask in state.masks.values())

    def step(carry: Any, _: Any) -> Any:
        params, state = carry
        updates, state = tx.update(jax.tree.map(jnp.cos, params), state, params)
        params = optax.apply_updates(params, updates)
        off = sum(jnp.sum((params[n] != 0) & ~state.masks[n]) for n in params)
        return (params, state), (off, state.info.kept.sum(), state.inner_state[0].count)

    run = jax.jit(lambda carry: jax.lax.scan(step, carry, length=8))
    _, (off, kept, count) = run((params, state))
    assert off.tolist() == [0] * 8
    assert (kept[0], kept[-1]) == (80, 20)
    assert count.tolist() == list(range(1, 9))


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"sparsity is 90.0; .*give 0.9"):
        granet(90.0)
    with pytest.raises(ValueError, match=r"initial is 0.5, above sparsity \(0.3\)"):
        granet(0.3)
    with pytest.raises(ValueError, match=r"scope 'global' prunes single weights, not fan_in"):
        granet(0.9, structure=jaxsparse.fan_in())
    with pytest.raises(ValueError, match="stop is 0, not after start"):
        granet(0.9, stop=0)
    with pytest.raises(ValueError, match=r"drop_fraction is 2.0; it must lie in \[0, 1\]"):
        granet(0.9, drop_fraction=2.0)
