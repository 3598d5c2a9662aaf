"""Powerpropagation: the powers, their chain rule, and the pruning."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse.algorithms.powerpropagation import powerpropagation


def run(method: Any, steps: int, params: Any, grad: Any, inner: Any = None) -> Any:
    """Weights, states and what was seen after each step."""
    tx = jaxsparse.sparsify(inner or optax.sgd(0.5), method)

    def step(carry: Any, _: Any) -> Any:
        params, state = carry
        updates, state = tx.update(grad(jaxsparse.forward_params(params, state)), state, params)
        params = optax.apply_updates(params, updates)
        seen = jaxsparse.forward_params(params, state, training=False)
        return (params, state), (params, state, seen)

    carry = (params, jax.jit(tx.init)(params))
    return jax.jit(lambda c: jax.lax.scan(step, c, length=steps))(carry)[1]


def test_one_step_by_hand() -> None:
    # alpha 2: w = phi |phi|, slope 2 |phi|. With g = 1 and a rate of 0.5, phi falls by |phi|.
    params = {"w": jnp.array([[2.0, -1.0, 0.0, 0.5]]), "b": jnp.array([3.0])}
    grad = lambda seen: jax.tree.map(jnp.ones_like, seen)
    phi, _, seen = run(powerpropagation(0.5, start=9), 2, params, grad)
    assert phi["w"].tolist() == [[[0.0, -2.0, 0.0, 0.0]], [[0.0, -4.0, 0.0, 0.0]]]
    assert seen["w"].tolist() == [[[0.0, -4.0, 0.0, 0.0]], [[0.0, -16.0, 0.0, 0.0]]]
    # What may not be sparse is as ever.
    assert phi["b"].tolist() == seen["b"].tolist() == [[2.5], [2.0]]


@pytest.mark.parametrize("alpha", [1.0, 1.375, 3.0])
def test_ten_steps_against_numpy(alpha: float) -> None:
    """Pruned at step 4, a third of the weights, and pulled to a center all along."""
    rng = np.random.default_rng(2)
    phi, center = rng.normal(size=(6, 5)), rng.normal(size=(6, 5))
    phi[0, :2] = 0
    params = {"w": jnp.asarray(phi, jnp.float32)}
    grad = lambda seen: {"w": 0.01 * (seen["w"] - center)}
    method = powerpropagation(0.6, start=4, alpha=alpha)
    phis, states, seen = run(method, 10, params, grad)
    mask = np.ones((6, 5), bool)
    for step in range(10):
        slope = alpha * np.abs(phi) ** (alpha - 1) * mask
        phi = phi - 0.5 * 0.01 * (phi * np.abs(phi) ** (alpha - 1) * mask - center) * slope
        if step == 4:
            mask.ravel()[np.argsort(np.abs(phi).ravel())[:18]] = False
        np.testing.assert_allclose(phis["w"][step], phi, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(states.masks["w"][step], mask)
        want = phi * np.abs(phi) ** (alpha - 1) * mask
        np.testing.assert_allclose(seen["w"][step], want, rtol=1e-4, atol=1e-5)


def test_the_slope_is_that_of_the_forward_pass() -> None:
    method, key = powerpropagation(0.5, start=0, alpha=2.5), jax.random.key(1)
    params = {"w": jax.random.normal(key, (4, 6))}
    grads = {"w": jax.random.normal(jax.random.key(2), (4, 6))}
    masks = {"w": params["w"] > -0.5}
    memory = method.start(masks, params)
    forward = lambda params: memory.forward(key, params, masks, True)
    (want,) = jax.vjp(forward, params)[1](grads)
    given, _ = method.backward(key, masks, params, grads, 0, memory)
    np.testing.assert_allclose(given["w"], want["w"], rtol=1e-5, atol=1e-6)


def test_small_weights_learn_slowly() -> None:
    params = {"w": jnp.array([[0.1, 1.0]])}
    grad = lambda seen: jax.tree.map(jnp.ones_like, seen)
    phi, _, _ = run(powerpropagation(0.0, start=0, alpha=3.0), 1, params, grad, optax.sgd(0.1))
    np.testing.assert_allclose(params["w"] - phi["w"][0], [[0.003, 0.3]], rtol=1e-4)


def test_the_start_leaves_the_weights_as_they_were() -> None:
    params = {"kernel": jnp.array([[8.0, -1.0, 0.0, -0.027]]), "bias": jnp.array([8.0])}
    method = powerpropagation(0.5, start=9, alpha=3.0)
    state = jaxsparse.sparsify(optax.sgd(0.1), method).init(params)
    phi = jaxsparse.initial_params(params, state)
    np.testing.assert_allclose(phi["kernel"], [[2.0, -1.0, 0.0, -0.3]], rtol=1e-5)
    assert phi["bias"].tolist() == [8.0]
    seen = jaxsparse.forward_params(phi, state)
    np.testing.assert_allclose(seen["kernel"], params["kernel"], rtol=1e-5)
    tx = jaxsparse.sparsify(optax.sgd(0.1), method)
    train = jaxsparse.TrainState.create(apply_fn=print, params=params, tx=tx)
    assert train.params["kernel"].tolist() == phi["kernel"].tolist()


def test_gradual_pruning_is_for_good() -> None:
    params = {"w": jnp.linspace(0.1, 8.0, 80).reshape(8, 10)}
    grad = lambda seen: jax.tree.map(jnp.zeros_like, seen)
    method = powerpropagation(0.75, start=2, stop=6, interval=3)
    _, states, _ = run(method, 9, params, grad)
    # Updates at 2, 5 and 6; 60 zeros (1 - (1/4)^3) at 5: round(59.06).
    assert states.info.kept[:, 0].tolist() == [80, 80, 80, 80, 80, 21, 20, 20, 20]
    assert not (states.masks["w"][1:] & ~states.masks["w"][:-1]).any()


def test_scope_structure_and_where() -> None:
    params = {"a": jnp.full((4, 10), 2.0), "b": jnp.ones((5, 8)), "c": jnp.ones((4, 4))}
    grad = lambda seen: jax.tree.map(jnp.zeros_like, seen)
    where = lambda path, leaf: path != "c"
    _, states, seen = run(
        powerpropagation(0.75, start=0, scope="global", where=where), 1, params, grad
    )
    assert states.info.kept.tolist() == [[20, 0]]
    assert states.masks["c"] == optax.MaskedNode()
    assert seen["c"].tolist() == [params["c"].tolist()]
    method = powerpropagation(0.5, start=0, structure=jaxsparse.channel(), where=where)
    _, states, _ = run(method, 1, params, grad)
    assert int(states.masks["a"][0].all(0).sum()) == 5


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"alpha is 0.5; it must be at least 1"):
        powerpropagation(0.9, start=0, alpha=0.5)
    with pytest.raises(ValueError, match=r"sparsity is 90.0; .*give 0.9"):
        powerpropagation(90.0, start=0)
    with pytest.raises(ValueError, match="stop is 3, not after start"):
        powerpropagation(0.9, start=3, stop=3)
    with pytest.raises(ValueError, match="n is 0; it must be a whole number"):
        powerpropagation(0.9, start=0, stop=9, interval=0)
