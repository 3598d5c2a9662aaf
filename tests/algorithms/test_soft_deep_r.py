"""Soft Deep R: its forward pass by hand, and training against the paper's theta in NumPy."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse.algorithms.soft_deep_r import SoftRewiring, soft_deep_r


def test_forward_and_masks_by_hand() -> None:
    # theta = sign w - origin: 2, 2 - 3 = -1; 3, 1 - 0.5 = 0.5; -1 (across zero), 0.25 - 0.25 = 0.
    weights = {"bias": jnp.ones(1), "w": jnp.array([[2.0, 2.0], [-3.0, -1.0], [-1.0, 0.25]])}
    dense = {"bias": optax.MaskedNode()}
    memory = SoftRewiring(
        dense | {"w": jnp.array([[True, True], [False, False], [True, True]])},
        dense | {"w": jnp.array([[0.0, 3.0], [0.0, 0.5], [0.0, 0.25]])},
    )
    masks = dense | {"w": jnp.zeros((3, 2), bool)}
    grads = jax.tree.map(jnp.zeros_like, weights)
    method = soft_deep_r(0.5)
    masks, info = method.update(jax.random.key(0), masks, weights, grads, 0, memory)
    assert masks["w"].tolist() == [[True, False], [True, True], [False, False]]
    assert (int(info.grown), int(info.dropped), int(info.kept[0])) == (3, 0, 3)
    seen = memory.forward(jax.random.key(0), weights, masks, True)
    assert seen["w"].tolist() == [[2.0, 0.0], [-3.0, -0.5], [0.0, 0.0]]
    assert seen["bias"].tolist() == [1.0]


def test_it_starts_with_the_weights_of_a_random_mask(key: jax.Array) -> None:
    params = {"a": jax.random.normal(key, (6, 5)), "b": jax.random.normal(key, (5, 10))}
    state = jaxsparse.sparsify(optax.sgd(0.1), soft_deep_r(0.75)).init(params)
    seen = jaxsparse.forward_params(params, state)
    assert [int(mask.sum()) for mask in state.masks.values()] == list(
        jaxsparse.er(params, 0.75).values()
    )
    for name, mask in state.masks.items():
        np.testing.assert_array_equal(seen[name], jnp.where(mask, params[name], 0))
        signs = jnp.where(state.memory.positive[name], 1, -1)
        theta = np.asarray(signs * params[name] - state.memory.origin[name])[~np.asarray(mask)]
        assert -5.1e-5 < theta.min() < -3e-5
        assert -2e-5 < theta.max() < 0


def train(params: Any, steps: int, **options: Any) -> Iterator[Any]:
    tx = jaxsparse.sparsify(optax.sgd(0.5), soft_deep_r(0.5, **options))
    state, step = tx.init(params), jax.jit(tx.update)
    for number in range(steps):
        seen = jaxsparse.forward_params(params, state)
        grads = jax.tree.map(lambda w, i=number: jnp.cos(9 * w + i), seen)
        yield params, state, seen, grads
        updates, state = step(grads, state, params)
        params = optax.apply_updates(params, updates)
    yield params, state, jaxsparse.forward_params(params, state), None


def test_training_against_numpy(key: jax.Array) -> None:
    """Without noise: theta falls by rate (sign g + l1) where it is positive, and else stays."""
    params = {"a": jax.random.normal(key, (6, 5)), "b": jax.random.normal(key, (5, 10))}
    theta, sign = {}, {}
    kept = []
    for number, (_, state, seen, grads) in enumerate(train(params, 8, l1=0.125, noise=0.0)):
        for name, w in params.items():
            if not number:
                sign[name] = np.where(np.asarray(w) >= 0, 1.0, -1.0)
                theta[name] = np.where(state.masks[name], abs(np.asarray(w)), -1e-5)
            np.testing.assert_allclose(
                seen[name], sign[name] * np.maximum(theta[name], 0), rtol=1e-5, atol=2e-6
            )
            np.testing.assert_array_equal(state.masks[name], theta[name] > 0)
            if grads is not None:
                fall = 0.5 * (sign[name] * np.asarray(grads[name]) + 0.125)
                theta[name] = np.where(theta[name] > 0, theta[name] - fall, theta[name])
        kept.append(int(state.info.kept.sum()))
    # Nothing comes back without noise.
    assert kept == sorted(kept, reverse=True)
    assert kept[0] == 40
    assert kept[-1] < 35


def test_noise_reconnects_and_theta_is_clipped(key: jax.Array) -> None:
    before: Any = {"w": jax.random.normal(key, (20, 20))}
    came = []
    for params, state, _, _ in train(before, 30, l1=0.0, noise=0.02, depth=0.05):
        signs = jnp.where(state.memory.positive["w"], 1, -1)
        # (Clipped is what the last step began with.)
        theta = signs * before["w"] - state.memory.origin["w"]
        assert float(theta.min()) > -0.05001
        before = params
        came.append(int(state.info.grown))
    assert min(came[1:]) > 0


def test_bad_arguments() -> None:
    for name in ("l1", "noise"):
        with pytest.raises(ValueError, match=rf"{name} is -1.0; it must be 0 or more"):
            soft_deep_r(0.9, **{name: -1.0})
    with pytest.raises(ValueError, match=r"depth is 0.0; it must be positive"):
        soft_deep_r(0.9, depth=0.0)
    with pytest.raises(ValueError, match=r"sparsity is 90.0; .*give 0.9"):
        soft_deep_r(90.0)
