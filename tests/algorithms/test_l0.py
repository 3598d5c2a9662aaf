"""L0: the gates' distribution, their gradient, and the masks of the mean gate."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse.algorithms.l0 import l0

sigmoid = lambda x: 1 / (1 + np.exp(-np.asarray(x, np.float64)))
SHIFT = 2 / 3 * math.log(0.1 / 1.1)
PARAMS = {"b": jnp.ones(3), "w": jnp.arange(1.0, 13.0).reshape(4, 3)}


def memory_of(method: Any, params: Any, log_alpha: Any) -> tuple[Any, Any]:
    masks = method.init(jax.random.key(0), params)
    memory = method.start(masks, params)
    shapes = [a.shape for a in jax.tree.leaves(memory.log_alpha)]
    new = [jnp.asarray(a, jnp.float32).reshape(s) for a, s in zip(log_alpha, shapes, strict=True)]
    tree = jax.tree.structure(memory.log_alpha)
    return masks, memory._replace(log_alpha=jax.tree.unflatten(tree, new))


def test_the_mean_gate_by_hand() -> None:
    # sigmoid(log alpha) of 1/2, 1/12, 0.05 and 0.95: stretched, 0.5, 0, below 0 and 1.04.
    method = l0()
    log_alpha = [0.0, math.log(1 / 11) - 1e-4, math.log(0.05 / 0.95), math.log(0.95 / 0.05)]
    masks, memory = memory_of(method, PARAMS, [log_alpha])
    masks, info = method.update(jax.random.key(0), masks, PARAMS, PARAMS, 0, memory)
    assert masks["w"].tolist() == [[True] * 3, [False] * 3, [False] * 3, [True] * 3]
    assert int(info.kept[0]) == 6
    seen = memory.forward(jax.random.key(0), PARAMS, masks, False)
    want = [[0.5, 1.0, 1.5], [0.0] * 3, [0.0] * 3, [10.0, 11.0, 12.0]]
    np.testing.assert_allclose(seen["w"], want, rtol=1e-6)
    assert seen["b"].tolist() == [1.0] * 3


def test_gates_are_shared_and_hard_concrete() -> None:
    method, params = l0(), {"w": jnp.ones((2, 3))}
    masks, memory = memory_of(method, params, [[0.0, 1.0]])
    draw = lambda key: memory.forward(key, params, masks, True)["w"]
    gates = np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(1), 4000)))
    assert (gates == gates[:, :, :1]).all()
    gates = gates[:, :, 0]
    assert gates.min() == 0.0
    assert gates.max() == 1.0
    # Open with the probability of the penalty; fully open by symmetry.
    for log_alpha, column in ((0.0, gates[:, 0]), (1.0, gates[:, 1])):
        chance = float(sigmoid(log_alpha - SHIFT))
        deviation = math.sqrt(chance * (1 - chance) / 4000)
        assert abs((column > 0).mean() - chance) < 5 * deviation
        full = float(sigmoid(log_alpha + SHIFT))
        assert abs((column == 1).mean() - full) < 5 * math.sqrt(full * (1 - full) / 4000)
    # The median of the first is a half.
    assert abs(np.median(gates[:, 0]) - 0.5) < 0.06
    # Units draw apart.
    assert abs(np.corrcoef(gates.T)[0, 1]) < 0.08


def test_the_penalty_by_hand() -> None:
    """Without a gradient of the loss, log alpha falls by that of the expected L0 norm."""
    method = l0(penalty=2.0, examples=8, gate_optimizer=optax.sgd(1.0))
    log_alpha = np.array([0.0, 0.5, -1.0, 2.0])
    masks, memory = memory_of(method, PARAMS, [log_alpha])
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    given, after = method.backward(jax.random.key(0), masks, PARAMS, zero, 0, memory)
    chance = sigmoid(log_alpha - SHIFT)
    want = log_alpha - 2 / 8 * 3 * chance * (1 - chance)
    np.testing.assert_allclose(after.log_alpha[0].ravel(), want, rtol=1e-5)
    assert not any(leaf.any() for leaf in jax.tree.leaves(given))


@pytest.mark.parametrize("gates", ["paper", "input", "output", "weight"])
def test_the_chain_rule_is_that_of_the_forward_pass_with_the_same_noise(gates: Any) -> None:
    method = l0(penalty=0.0, gates=gates, gate_optimizer=optax.sgd(1.0))
    key, params = jax.random.key(3), {"k": jnp.ones((2, 3, 4)) * 2, "w": PARAMS["w"]}
    masks = method.init(key, params)
    memory = method.start(masks, params)
    sizes = {"paper": (4, 4), "input": (3, 4), "output": (4, 3), "weight": (24, 12)}
    assert tuple(a.size for a in jax.tree.leaves(memory.log_alpha)) == sizes[gates]
    forward = lambda params, a: memory._replace(log_alpha=a).forward(key, params, masks, True)
    grads = jax.tree.map(jnp.cos, params)
    to_params, to_gates = jax.vjp(forward, params, memory.log_alpha)[1](grads)
    given, after = jax.jit(method.backward)(key, masks, params, grads, 0, memory)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, given, to_params)
    moved = jax.tree.map(jnp.subtract, memory.log_alpha, after.log_alpha)
    jax.tree.map(close, moved, to_gates)
    assert any(bool(leaf.any()) for leaf in jax.tree.leaves(to_gates))


def test_a_training_run_against_numpy() -> None:
    """A parabola; the noise is read off the forward pass."""
    rng = np.random.default_rng(5)
    weight, center = rng.normal(size=(5, 4)), rng.normal(size=(5, 4))
    method = l0(penalty=5.0, examples=50, gate_optimizer=optax.sgd(0.5), drop_rate=0.2)
    tx = jaxsparse.sparsify(optax.sgd(0.1), method, seed=3)
    params = {"w": jnp.asarray(weight, jnp.float32)}

    def step(carry: Any, _: Any) -> Any:
        params, state = carry
        seen = jaxsparse.forward_params(params, state)
        updates, state = tx.update({"w": seen["w"] - center}, state, params)
        new = optax.apply_updates(params, updates)
        return (new, state), (seen["w"] / params["w"], new["w"], state)

    carry = (params, jax.jit(tx.init)(params))
    drawn, weights, states = jax.jit(lambda c: jax.lax.scan(step, c, length=8))(carry)[1]
    log_alpha = np.full((5, 1), math.log(4.0))
    for number in range(8):
        gate = np.asarray(drawn[number])[:, :1].astype(np.float64)
        grad = weight * gate - center
        inside = (gate > 0) & (gate < 1)
        s = (gate + 0.1) / 1.2
        slope = inside * 1.2 * s * (1 - s) / (2 / 3)
        chance = sigmoid(log_alpha - SHIFT)
        pull = (grad * weight).sum(1, keepdims=True) * slope + 5 / 50 * 4 * chance * (1 - chance)
        weight = weight - 0.1 * grad * gate
        log_alpha = np.clip(log_alpha - 0.5 * pull, math.log(1e-2), math.log(1e2))
        np.testing.assert_allclose(weights[number], weight, rtol=1e-3, atol=1e-4)
        got = states.memory.log_alpha[0][number]
        np.testing.assert_allclose(got, log_alpha, rtol=2e-3, atol=2e-3)
        kept = np.broadcast_to(sigmoid(got) * 1.2 - 0.1 > 0, (5, 4))
        np.testing.assert_array_equal(states.masks["w"][number], kept)
    assert len(np.unique(np.asarray(drawn)[:, 0, 0])) > 2


def test_log_alpha_stays_in_its_interval() -> None:
    method = l0(penalty=1e6, gate_optimizer=optax.sgd(1.0))
    tx = jaxsparse.sparsify(optax.sgd(0.1), method)
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    _, state = jax.jit(tx.update)(zero, jax.jit(tx.init)(PARAMS), PARAMS)
    np.testing.assert_allclose(state.memory.log_alpha[0], math.log(1e-2), rtol=1e-6)
    assert state.info.kept.tolist() == [0]


def test_the_gates_start_at_their_drop_rate() -> None:
    for rate in (0.5, 0.2):
        method = l0(drop_rate=rate)
        memory = method.start(method.init(jax.random.key(0), PARAMS), PARAMS)
        np.testing.assert_allclose(sigmoid(memory.log_alpha[0]), 1 - rate, rtol=1e-5)
        assert memory.log_alpha[0].shape == (4, 1)


def test_where_and_bad_arguments() -> None:
    masks = l0(where=lambda path, leaf: path == "w").init(jax.random.key(0), PARAMS)
    assert masks["b"] == optax.MaskedNode()
    with pytest.raises(ValueError, match=r"drop_rate is 1.0; it must lie between 0 and 1"):
        l0(drop_rate=1.0)
    with pytest.raises(ValueError, match=r"penalty is -1.0 and examples is 50000"):
        l0(penalty=-1.0)
    with pytest.raises(ValueError, match=r"penalty is 1.0 and examples is 0"):
        l0(examples=0)
