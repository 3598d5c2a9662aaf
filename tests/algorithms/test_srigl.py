"""SRigL: one update by hand, ablation, and an independent version in NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse.algorithms.srigl import srigl

# Four neurons (columns) with two of four inputs each. A quarter of eight is swapped.
MASK = jnp.array([[1, 1, 1, 1], [1, 1, 1, 1], [0] * 4, [0] * 4], bool)
WEIGHTS = jnp.array([[5.0, -0.1, 4.0, -3.0], [6.0, 0.2, 7.0, 8.0], [99.0] * 4, [99.0] * 4])
# The two largest: -9 (column 0) and 8 (column 2), at absent weights.
GRADS = jnp.array(
    [[0.0, 0.3, 0.0, 0.0], [0.0, 0.4, 0.0, 0.0], [1.0, 2.0, 8.0, 3.0], [-9.0, 1.0, 0.5, -4.0]]
)


def update_once(grads: Any = GRADS, **options: Any) -> Any:
    method = srigl(0.5, drop_fraction=0.25, **options)
    params, grads = {"w": WEIGHTS}, {"w": grads}
    masks, info = jax.jit(method.update)(jax.random.key(0), {"w": MASK}, params, grads, 100)
    return masks["w"].astype(int).tolist(), info


def test_update_by_hand() -> None:
    # -0.1 and 0.2 go, of the whole layer, both of column 1: it has no salient weight, and is given
    # up. Eight weights for three neurons: two each. None of these has lost one.
    masks, info = update_once()
    assert masks == [[1, 0, 1, 1], [1, 0, 1, 1], [0] * 4, [0] * 4]
    assert int(info.kept[0]) == 6


def test_without_ablation() -> None:
    # The two come to column 1, where the largest gradients are 2 and 1.
    masks, info = update_once(ablation=0.0)
    assert masks == [[1, 0, 1, 1], [1, 0, 1, 1], [0, 1, 0, 0], [0, 1, 0, 0]]
    assert (int(info.kept[0]), int(info.dropped), int(info.grown)) == (8, 2, 2)


def test_a_large_gradient_saves_a_neuron() -> None:
    # Now its 20 and 10 are the largest two, and its two weights grow there.
    masks, info = update_once(GRADS.at[2:, 1].set(jnp.array([20.0, -10.0])))
    assert masks == [[1, 0, 1, 1], [1, 0, 1, 1], [0, 1, 0, 0], [0, 1, 0, 0]]
    assert int(info.kept[0]) == 8


def test_fan_in_grows_with_ablation_and_shrinks_again() -> None:
    # With gamma 1 two salient weights are needed. Of five neurons with four inputs of eight,
    # weights of 1 to 20, column by column: the fifth that goes are 1 to 4, all of column 0.
    # Twenty for four neurons: five each.
    weights = jnp.arange(1.0, 21.0).reshape(5, 4).T
    mask = jnp.concatenate([jnp.ones((4, 5), bool), jnp.zeros((4, 5), bool)])
    params = {"w": jnp.concatenate([weights, jnp.zeros((4, 5))])}
    grads = {"w": jnp.concatenate([jnp.zeros((4, 5)), jnp.arange(1.0, 21.0).reshape(4, 5)])}
    method = srigl(0.5, drop_fraction=0.2, ablation=1.0)
    update = jax.jit(method.update)
    masks, info = update(jax.random.key(0), {"w": mask}, params, grads, 0)
    assert masks["w"].sum(0).tolist() == [0, 5, 5, 5, 5]
    # The last row has the largest gradients: 17 to 20 for columns 1 to 4.
    assert masks["w"][-1].tolist() == [False, True, True, True, True]
    assert (int(info.kept[0]), int(info.grown)) == (20, 4)
    # Then column 0 has all the large gradients: back to four each, the least of five cut.
    grads = {"w": jnp.zeros((8, 5)).at[:4, 0].set(9.0)}
    masks, info = update(jax.random.key(0), masks, params, grads, 1)
    assert masks["w"].sum(0).tolist() == [4, 4, 4, 4, 4]
    assert masks["w"][:4].all()


def numpy_update(old: Any, weight: Any, grad: Any, k: int, fraction: float, gamma: float) -> Any:
    total = k * old.shape[1]
    keep = old.copy()
    order = sorted(zip(*np.nonzero(old), strict=True), key=lambda i: abs(weight[i]))
    for i in order[: max(len(order) - (total - int(fraction * total)), 0)]:
        keep[i] = False
    swap = total - keep.sum()
    steep = np.argsort(-abs(grad), axis=None)[:swap]
    salient = keep.copy()
    salient.flat[steep] = True
    count = salient.sum(0)
    active = count >= min(max(int(gamma * k), 1), count.max())
    each = min(total // active.sum(), old.shape[0])
    new = np.zeros_like(old)
    for j in np.flatnonzero(active):
        held = sorted(np.flatnonzero(keep[:, j]), key=lambda i: -abs(weight[i, j]))[:each]
        rest = [i for i in np.argsort(-abs(grad[:, j])) if i not in held]
        new[held + rest[: each - len(held)], j] = True
    return new


def test_against_numpy(key: jax.Array) -> None:
    rng = np.random.default_rng(0)
    # A wide spread of the neurons' scales, so that some are given up.
    scale = np.exp(2 * rng.normal(size=12))
    draw = lambda: {
        "a": (rng.normal(size=(8, 12)) * scale).astype(np.float32),
        "c": (rng.normal(size=(2, 2, 3, 12)) * scale).astype(np.float32),
    }
    method = srigl(0.5, drop_fraction=0.25, ablation=0.75, distribution=jaxsparse.uniform)
    update = jax.jit(method.update)
    masks: Any = jax.tree.map(np.asarray, method.init(key, draw()))
    fans = {"a": 4, "c": 6}
    gone = 0
    for step in range(8):
        weights, grads = draw(), draw()
        new, _ = update(key, masks, weights, grads, step)
        for name in masks:
            flat = lambda x: np.asarray(x).reshape(-1, 12)
            want = numpy_update(
                flat(masks[name]), flat(weights[name]), flat(grads[name]), fans[name], 0.25, 0.75
            )
            np.testing.assert_array_equal(flat(new[name]), want)
            gone += int((want.sum(0) == 0).sum())
        masks = jax.tree.map(np.asarray, new)
    assert gone > 8


def test_in_training(key: jax.Array) -> None:
    method = srigl(0.75, update=jaxsparse.every(2, start=1), ablation=0.5, gradient_steps=2)
    tx = jaxsparse.sparsify(optax.adam(0.1), method)
    params = {"a": jax.random.normal(key, (8, 6)), "b": jax.random.normal(key, (12, 10))}

    def step(carry: Any, _: Any) -> Any:
        params, state = carry
        updates, state = tx.update(jax.tree.map(jnp.cos, params), state, params)
        params = optax.apply_updates(params, updates)
        off = sum(jnp.sum((params[n] != 0) & ~state.masks[n]) for n in params)
        fans = {n: mask.sum(0) for n, mask in state.masks.items()}
        return (params, state), (off, fans, state.inner_state[0].count)

    run = jax.jit(lambda carry: jax.lax.scan(step, carry, length=8))
    _, (off, fans, count) = run((params, tx.init(params)))
    assert off.tolist() == [0] * 8
    for fan in fans.values():
        for row in np.asarray(fan):
            assert len(set(row[row > 0])) == 1
    # An update does not train.
    assert count.tolist() == [1, 1, 2, 2, 3, 3, 4, 4]


def test_what_it_is_and_bad_arguments() -> None:
    assert srigl(0.9).learned
    assert not srigl(0.9, ablation=0.0).learned
    assert np.flatnonzero(srigl(0.9).pauses(jnp.arange(301))).tolist() == [100, 200, 300]
    assert not bool(srigl(0.9, trains_on_update=True).pauses(100))
    with pytest.raises(ValueError, match=r"ablation is 2.0; it must lie in \[0, 1\]"):
        srigl(0.9, ablation=2.0)
