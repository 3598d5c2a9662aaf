"""STR: what is seen, how the thresholds learn, and the masks that follow."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse.algorithms.soft_threshold import soft_threshold

PARAMS = {"b": jnp.ones(2), "w": jnp.array([[2.0, -1.5, 0.25, -0.5]])}


def test_one_step_by_hand() -> None:
    # s = 0: the threshold is 1/2, its slope 1/4. 2 and -1.5 are seen as 1.5 and -1.
    method = soft_threshold(initial_threshold=0.0, threshold_optimizer=optax.sgd(1.0))
    tx = jaxsparse.sparsify(optax.sgd(0.5), method)
    state = jax.jit(tx.init)(PARAMS)
    assert state.masks["w"].tolist() == [[True, True, False, False]]
    for training in (True, False):
        seen = jaxsparse.forward_params(PARAMS, state, training=training)
        assert seen["w"].tolist() == [[1.5, -1.0, 0.0, 0.0]]
        assert seen["b"].tolist() == [1.0, 1.0]
    grads = {"b": jnp.ones(2), "w": jnp.array([[1.0, 2.0, 4.0, 8.0]])}
    updates, state = jax.jit(tx.update)(grads, state, PARAMS)
    params = optax.apply_updates(PARAMS, updates)
    # Hidden weights learn nothing.
    assert params["w"].tolist() == [[1.5, -2.5, 0.25, -0.5]]
    assert params["b"].tolist() == [0.5, 0.5]
    # The slope of the loss by s is -(1 - 2) / 4, so s falls to -1/4 and the threshold to 0.438.
    np.testing.assert_allclose(state.memory.thresholds, [-0.25])
    assert state.masks["w"].tolist() == [[True, True, False, True]]
    cut = 1 / (1 + np.exp(0.25))
    seen = jaxsparse.forward_params(params, state)["w"]
    np.testing.assert_allclose(seen, [[1.5 - cut, cut - 2.5, 0.0, cut - 0.5]], rtol=1e-5)


def test_twelve_steps_against_numpy() -> None:
    """Two layers, momentum and decay of the thresholds, decay of the weights."""
    rng = np.random.default_rng(4)
    weights = {"a": rng.normal(size=(6, 5)), "b": rng.normal(size=(3, 4))}
    center = {name: rng.normal(size=w.shape) for name, w in weights.items()}
    own = optax.chain(optax.add_decayed_weights(0.05), optax.sgd(0.3, momentum=0.5))
    inner = optax.chain(optax.add_decayed_weights(0.02), optax.sgd(0.2))
    tx = jaxsparse.sparsify(inner, soft_threshold(initial_threshold=-2.0, threshold_optimizer=own))
    params = jax.tree.map(lambda w: jnp.asarray(w, jnp.float32), weights)

    def step(carry: Any, _: Any) -> Any:
        params, state = carry
        grads = jax.tree.map(jnp.subtract, jaxsparse.forward_params(params, state), center)
        updates, state = tx.update(grads, state, params)
        carry = optax.apply_updates(params, updates), state
        return carry, carry

    carry = (params, jax.jit(tx.init)(params))
    got, states = jax.jit(lambda c: jax.lax.scan(step, c, length=12))(carry)[1]
    s, moment = dict.fromkeys(weights, -2.0), dict.fromkeys(weights, 0.0)
    for number in range(12):
        for i, name in enumerate(weights):
            w, cut = weights[name], 1 / (1 + np.exp(-s[name]))
            seen = np.sign(w) * np.maximum(np.abs(w) - cut, 0)
            grad = (seen - center[name]) * (np.abs(w) > cut)
            slope = -np.sum(grad * np.sign(w)) * cut * (1 - cut) + 0.05 * s[name]
            moment[name] = 0.5 * moment[name] + slope
            weights[name] = w - 0.2 * (grad + 0.02 * w)
            s[name] -= 0.3 * moment[name]
            np.testing.assert_allclose(states.memory.thresholds[number, i], s[name], rtol=1e-3)
            np.testing.assert_allclose(got[name][number], weights[name], rtol=1e-3, atol=1e-4)
            kept = np.abs(got[name][number]) > jax.nn.sigmoid(states.memory.thresholds[number, i])
            np.testing.assert_array_equal(states.masks[name][number], kept)


def test_the_chain_rule_is_that_of_the_forward_pass() -> None:
    method = soft_threshold(initial_threshold=-1.0, threshold_optimizer=optax.sgd(1.0))
    key = jax.random.key(1)
    params = {"a": jax.random.normal(key, (4, 6)), "b": 2 * jax.random.normal(key, (3, 5))}
    grads = jax.tree.map(jnp.cos, params)
    masks = method.init(key, params)
    memory = method.start(masks, params)
    forward = lambda params, s: memory._replace(thresholds=s).forward(key, params, masks, True)
    to_params, to_s = jax.vjp(forward, params, memory.thresholds)[1](grads)
    given, after = method.backward(key, masks, params, grads, 0, memory)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), given, to_params)
    np.testing.assert_allclose(memory.thresholds - after.thresholds, to_s, rtol=1e-4)


def test_decay_alone_makes_it_sparser() -> None:
    """s goes to 0 from below, and the threshold to a half."""
    own = optax.chain(optax.add_decayed_weights(1.0), optax.sgd(0.5))
    method = soft_threshold(initial_threshold=-8.0, threshold_optimizer=own)
    tx = jaxsparse.sparsify(optax.sgd(0.0), method)
    params = {"w": jnp.linspace(0.01, 1.0, 100).reshape(10, 10)}
    zero = jax.tree.map(jnp.zeros_like, params)

    def step(state: Any, _: Any) -> Any:
        state = tx.update(zero, state, params)[1]
        return state, state.info.kept[0]

    kept = jax.jit(lambda s: jax.lax.scan(step, s, length=20))(jax.jit(tx.init)(params))[1]
    # s = -4, -2, ...: thresholds 0.018 and 0.119, at the end just below a half.
    assert kept[:2].tolist() == [99, 89]
    assert kept[-1] == 51


def test_the_defaults_are_the_published_ones() -> None:
    method = soft_threshold()
    state = jax.jit(jaxsparse.sparsify(optax.sgd(0.1), method).init)(PARAMS)
    assert state.memory.thresholds.tolist() == [-3200.0]
    # The threshold is 0: all but zeros is seen, as it is.
    assert jaxsparse.forward_params(PARAMS, state)["w"].tolist() == PARAMS["w"].tolist()
    given, memory = method.backward(
        jax.random.key(0),
        state.masks,
        PARAMS,
        jax.tree.map(jnp.zeros_like, PARAMS),
        0,
        state.memory,
    )
    # 0.256 x 2.25e-5 x 3200 = 0.01845.
    np.testing.assert_allclose(memory.thresholds + 3200, [0.01845], atol=2e-4)
    assert not any(leaf.any() for leaf in jax.tree.leaves(given))
    assert not bool(method.dense_gradients(3))


def test_where_and_bad_arguments() -> None:
    method = soft_threshold(where=lambda path, leaf: path == "b")
    masks = method.init(jax.random.key(0), PARAMS)
    assert masks["w"] == optax.MaskedNode()
    with pytest.raises(ValueError, match="initial_threshold is -inf; it must be a finite number"):
        soft_threshold(initial_threshold=-float("inf"))
