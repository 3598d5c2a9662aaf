"""DNW: what the forward pass sees, what is trained, and the counts of every step."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse.algorithms.dnw import dnw

# The four largest of eight: -5, 4, 3 and -2.
WEIGHTS = jnp.array([[1.0, -2.0, 0.5, 4.0], [-5.0, 0.1, 3.0, -0.2]])
SEEN = [[0.0, -2.0, 0.0, 4.0], [-5.0, 0.0, 3.0, 0.0]]


def test_one_step_by_hand() -> None:
    tx, params = jaxsparse.sparsify(optax.sgd(1.0), dnw(0.5)), {"w": WEIGHTS}
    state = jax.jit(tx.init)(params)
    assert jaxsparse.forward_params(params, state)["w"].tolist() == SEEN
    # 0.5 is hidden, learns -2.5 - 0.5 = -3, and takes the place of -2 that has become -1.
    grads = {"w": jnp.array([[0.0, -1.0, 3.5, 0.0], [0.0, 0.0, 0.0, 0.0]])}
    updates, state = jax.jit(tx.update)(grads, state, params)
    params = optax.apply_updates(params, updates)
    assert params["w"].tolist() == [
        [1.0, -1.0, -3.0, 4.0],
        [-5.0, WEIGHTS[1, 1], 3.0, WEIGHTS[1, 3]],
    ]
    seen = jaxsparse.forward_params(params, state)["w"].tolist()
    assert seen == [[0.0, 0.0, -3.0, 4.0], [-5.0, 0.0, 3.0, 0.0]]
    assert (int(state.info.dropped), int(state.info.grown), int(state.info.kept[0])) == (1, 1, 4)


def largest(weight: np.ndarray, kept: int) -> np.ndarray:
    order = np.argsort(-np.abs(weight).ravel(), kind="stable")[:kept]
    mask = np.zeros(weight.size, bool)
    mask[order] = True
    return mask.reshape(weight.shape)


def test_ten_steps_against_numpy() -> None:
    """A regression on what is seen; weight decay reaches hidden weights too."""
    rng = np.random.default_rng(3)
    weight, inputs = rng.normal(size=(8, 6)), rng.normal(size=(32, 8))
    targets = rng.normal(size=(32, 6))
    tx = jaxsparse.sparsify(optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.05)), dnw(0.75))
    params = {"w": jnp.asarray(weight, jnp.float32)}

    def loss(params: Any) -> Any:
        return 0.5 * jnp.sum((inputs @ params["w"] - targets) ** 2) / 32

    def step(carry: Any, _: Any) -> Any:
        params, state = carry
        grads = jax.grad(loss)(jaxsparse.forward_params(params, state))
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), (params["w"], state.masks["w"])

    scan = jax.jit(lambda carry: jax.lax.scan(step, carry, length=10))
    _, (weights, masks) = scan((params, jax.jit(tx.init)(params)))
    changed = 0
    for mine, mask in zip(weights, masks, strict=True):
        seen = largest(weight, 12)
        grad = inputs.T @ (inputs @ (weight * seen) - targets) / 32
        weight = weight - 0.05 * (grad + 0.1 * weight)
        np.testing.assert_allclose(mine, weight, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(mask, largest(weight, 12))
        changed += int((seen != largest(weight, 12)).sum())
    assert changed


def kept(method: Any, params: Any) -> list[int]:
    masks = jax.jit(jaxsparse.sparsify(optax.sgd(0.1), method).init)(params).masks
    return [int(mask.sum()) for mask in jax.tree.leaves(masks)]


def test_each_layer_keeps_its_share_or_all_compete() -> None:
    params = {"a": jnp.full((4, 10), 2.0), "b": jnp.ones((5, 8))}
    assert kept(dnw(0.75), params) == [10, 10]
    assert kept(dnw(0.75, scope="global"), params) == [20, 0]
    assert kept(dnw(0.75, distribution=jaxsparse.erk), params) == [10, 10]


def test_structure_and_where() -> None:
    params = {"a": jnp.arange(1.0, 41.0).reshape(4, 10), "b": jnp.ones((5, 8))}
    method = dnw(
        0.5,
        structure=jaxsparse.block(2, 2),
        where=lambda path, leaf: path == "a",
    )
    masks = jax.jit(jaxsparse.sparsify(optax.sgd(0.1), method).init)(params).masks
    assert masks["b"] == optax.MaskedNode()
    assert masks["a"].tolist() == [[False] * 10] * 2 + [[True] * 10] * 2


def test_sparsity_may_follow_a_schedule() -> None:
    tx = jaxsparse.sparsify(
        optax.sgd(0.0), dnw(jaxsparse.polynomial_sparsity(0.75, 0, 4, power=1.0))
    )
    params = {"w": jnp.arange(80.0).reshape(8, 10)}

    def step(state: Any, _: Any) -> Any:
        _, state = tx.update(params, state, params)
        return state, state.info.kept[0]

    state = jax.jit(tx.init)(params)
    counts = jax.jit(lambda s: jax.lax.scan(step, s, length=6))(state)[1].tolist()
    assert [int(state.info.kept[0]), *counts] == [80, 80, 65, 50, 35, 20, 20]


def test_it_reads_dense_gradients_always() -> None:
    assert all(bool(dnw(0.9).dense_gradients(step)) and bool(dnw(0.9).due(step)) for step in (0, 7))


def test_sparsity_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"sparsity is 90.0; .*give 0.9"):
        dnw(90.0)
