"""Sparse variational dropout: the noise, the divergence, and what is pruned."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse.algorithms.variational_dropout import variational_dropout

PARAMS = {"b": jnp.ones(2), "w": jnp.array([[1.0, -0.5, 0.2, 0.0]])}
K = (0.63576, 1.8732, 1.48695)


def log_alpha(weight: Any, log_variance: Any) -> np.ndarray:
    weight = np.asarray(weight, np.float64)
    return np.clip(np.asarray(log_variance, np.float64) - np.log(weight**2 + 1e-8), -8, 8)


def divergence(x: np.ndarray) -> np.ndarray:
    return -(K[0] / (1 + np.exp(-(K[1] + K[2] * x))) - 0.5 * np.log1p(np.exp(-x)) - K[0])


def started(method: Any, params: Any) -> tuple[Any, Any]:
    masks = method.init(jax.random.key(0), params)
    return masks, method.start(masks, params)


def test_what_is_pruned_by_hand() -> None:
    # log alpha = 0 - log w^2: 0, 1.39, 3.22 and 18.4 (clipped to 8): the last two are pruned.
    method = variational_dropout(initial=0.0)
    masks, memory = started(method, PARAMS)
    masks, info = method.update(jax.random.key(0), masks, PARAMS, PARAMS, 0, memory)
    assert masks["w"].tolist() == [[True, True, False, False]]
    assert int(info.kept[0]) == 2
    seen = memory.forward(jax.random.key(0), PARAMS, masks, False)
    assert seen["w"].tolist() == [[1.0, -0.5, 0.0, 0.0]]
    assert seen["b"].tolist() == [1.0, 1.0]
    masks, _ = variational_dropout(initial=0.0, threshold=1.0).update(
        jax.random.key(0), masks, PARAMS, PARAMS, 0, memory
    )
    assert masks["w"].tolist() == [[True, False, False, False]]


def test_the_noise() -> None:
    method = variational_dropout(initial=math.log(0.04))
    masks, memory = started(method, PARAMS)
    draw = lambda key: memory.forward(key, PARAMS, masks, True)["w"][0]
    seen = np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(1), 4000)))
    # The deviation is 0.2; a weight of zero has log alpha at its limit, and no noise.
    np.testing.assert_allclose(seen.std(0), [0.2, 0.2, 0.2, 0.0], atol=5 * 0.2 / math.sqrt(8000))
    np.testing.assert_allclose(seen.mean(0), PARAMS["w"][0], atol=5 * 0.2 / math.sqrt(4000))
    assert abs(np.corrcoef(seen[:, :3].T)[0, 1]) < 0.08


def test_the_divergence_by_hand() -> None:
    """Without a gradient of the loss both parameters follow the divergence alone."""
    own = optax.sgd(1.0)
    method = variational_dropout(examples=4, kl_weight=2.0, initial=-1.0, noise_optimizer=own)
    masks, memory = started(method, PARAMS)
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    given, after = method.backward(jax.random.key(0), masks, PARAMS, zero, 0, memory)
    weight, step = np.array([1.0, -0.5, 0.2]), 1e-6

    def slope(f: Any) -> np.ndarray:
        return 2 / 4 * (divergence(f(step)) - divergence(f(-step))) / (2 * step)

    by_weight = slope(lambda h: log_alpha(weight + h, -1.0))
    by_variance = slope(lambda h: log_alpha(weight, -1.0 + h))
    np.testing.assert_allclose(given["w"][0, :3], by_weight, rtol=1e-3)
    np.testing.assert_allclose(-1 - after.log_variance["w"][0, :3], by_variance, rtol=1e-3)
    # Clipped at a weight of 0: nothing moves it.
    assert (float(given["w"][0, 3]), float(after.log_variance["w"][0, 3])) == (0.0, -1.0)
    assert given["b"].tolist() == [0.0, 0.0]


def test_the_fit_falls_to_zero() -> None:
    assert divergence(np.array(50.0)) == pytest.approx(0.0, abs=1e-9)
    assert (np.diff(divergence(np.linspace(-8, 8, 50))) < 0).all()


def test_the_chain_rule_is_that_of_the_forward_pass_with_the_same_noise() -> None:
    own = optax.sgd(1.0)
    method = variational_dropout(kl_weight=0.0, initial=-2.0, noise_optimizer=own)
    key = jax.random.key(3)
    params = {"a": jax.random.normal(key, (3, 4)), "b": jax.random.normal(key, (2, 5))}
    masks, memory = started(method, params)
    forward = lambda params, v: memory._replace(log_variance=v).forward(key, params, masks, True)
    grads = jax.tree.map(jnp.cos, params)
    to_params, to_variance = jax.vjp(forward, params, memory.log_variance)[1](grads)
    given, after = jax.jit(method.backward)(key, masks, params, grads, 0, memory)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, given, to_params)
    moved = jax.tree.map(jnp.subtract, memory.log_variance, after.log_variance)
    jax.tree.map(close, moved, to_variance)
    assert all(bool(leaf.any()) for leaf in jax.tree.leaves(to_variance))


def test_a_training_run_against_numpy() -> None:
    """A parabola; the noise is read off the forward pass, the warm-up lasts four steps."""
    rng = np.random.default_rng(6)
    weight, center = rng.normal(size=(4, 3)), rng.normal(size=(4, 3))
    warm_up = optax.linear_schedule(0.0, 1.0, 4)
    method = variational_dropout(
        examples=2, kl_weight=warm_up, initial=-3.0, noise_optimizer=optax.sgd(0.3)
    )
    tx = jaxsparse.sparsify(optax.sgd(0.05), method, seed=1)
    params, spread = {"w": jnp.asarray(weight, jnp.float32)}, np.full((4, 3), -3.0)

    def step(carry: Any, _: Any) -> Any:
        params, state = carry
        seen = jaxsparse.forward_params(params, state)
        updates, state = tx.update({"w": seen["w"] - center}, state, params)
        new = optax.apply_updates(params, updates)
        return (new, state), (seen["w"], new["w"], state)

    carry = (params, jax.jit(tx.init)(params))
    drawn, weights, states = jax.jit(lambda c: jax.lax.scan(step, c, length=8))(carry)[1]
    for number in range(8):
        x = log_alpha(weight, spread)
        inside = np.abs(x) < 8
        deviation = np.exp(x / 2) * np.abs(weight)
        noise = (np.asarray(drawn[number], np.float64) - weight) / deviation
        grad = np.asarray(drawn[number], np.float64) - center
        s = 1 / (1 + np.exp(-(K[1] + K[2] * x)))
        fall = -K[0] * K[2] * s * (1 - s) - 0.5 / (1 + np.exp(x))
        # By log alpha, and by the weight besides: d log alpha / d w = -2 w / (w^2 + 1e-8).
        by_x = (grad * noise * deviation / 2 + min(number / 4, 1) / 2 * fall) * inside
        pull = grad * (1 + np.exp(x / 2) * np.sign(weight) * noise)
        pull += by_x * -2 * weight / (weight**2 + 1e-8)
        weight, spread = weight - 0.05 * pull, spread - 0.3 * by_x
        np.testing.assert_allclose(weights[number], weight, rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(states.memory.log_variance["w"][number], spread, rtol=2e-3)
        kept = log_alpha(weights[number], states.memory.log_variance["w"][number]) < 3
        np.testing.assert_array_equal(states.masks["w"][number], kept)


def test_defaults() -> None:
    method = variational_dropout()
    _, memory = started(method, PARAMS)
    assert memory.log_variance["w"].tolist() == [[-10.0] * 4]
    assert memory.log_variance["b"] == optax.MaskedNode()
    assert all(bool(method.dense_gradients(step)) for step in range(3))


def test_where_and_bad_arguments() -> None:
    masks = variational_dropout(where=lambda path, leaf: path == "b").init(
        jax.random.key(0), PARAMS
    )
    assert masks["w"] == optax.MaskedNode()
    with pytest.raises(ValueError, match=r"examples is 0; it must be at least 1"):
        variational_dropout(examples=0)
    with pytest.raises(ValueError, match=r"threshold is 8.0; it must lie between -8 and 8"):
        variational_dropout(threshold=8.0)
    with pytest.raises(ValueError, match=r"kl_weight is -1.0; it must be 0 or more"):
        variational_dropout(kl_weight=-1.0)
