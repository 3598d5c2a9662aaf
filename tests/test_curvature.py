"""Diagonal curvature against the whole Hessian, finite differences, and by hand."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxsparse.curvature import exact_hessian_diagonal, gauss_newton_diagonal, hutchinson

pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")

RNG = np.random.default_rng(0)
draw = lambda *shape: jnp.asarray(RNG.normal(size=shape), jnp.float32)
PARAMS = {"a": {"bias": draw(4), "kernel": draw(3, 4)}, "b": {"kernel": draw(4, 3)}}
INPUTS, LABELS = draw(6, 3), jnp.array([0, 1, 2, 0, 1, 1])


def model(params: Any, inputs: Any) -> Any:
    hidden = jnp.tanh(inputs @ params["a"]["kernel"] + params["a"]["bias"][None])
    return hidden @ params["b"]["kernel"]


def loss(params: Any) -> Any:
    losses = jax.nn.log_softmax(model(params, INPUTS))
    return -jnp.mean(jnp.take_along_axis(losses, LABELS[:, None], 1))


def flat(params: Any) -> np.ndarray:
    return np.concatenate([np.asarray(leaf).reshape(-1) for leaf in jax.tree.leaves(params)])


@functools.cache
def hessian() -> np.ndarray:
    vector, back = ravel_pytree(PARAMS)
    return np.asarray(jax.hessian(lambda v: loss(back(v)))(vector))


@pytest.mark.parametrize("chunk", [1, 5, 64])
def test_exact_is_the_diagonal_of_the_hessian(chunk: int) -> None:
    found = jax.jit(functools.partial(exact_hessian_diagonal, loss, chunk=chunk))(PARAMS)
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, PARAMS)
    np.testing.assert_allclose(flat(found), np.diag(hessian()), rtol=1e-4, atol=1e-6)


def test_exact_by_finite_differences() -> None:
    found = exact_hessian_diagonal(loss, PARAMS)
    step = 0.02
    for i, j in ((0, 0), (2, 3), (1, 2)):
        moved = [
            loss({**PARAMS, "b": PARAMS["b"], "a": {**PARAMS["a"], "kernel": kernel}})
            for kernel in (
                PARAMS["a"]["kernel"].at[i, j].add(step),
                PARAMS["a"]["kernel"],
                PARAMS["a"]["kernel"].at[i, j].add(-step),
            )
        ]
        second = float(moved[0] - 2 * moved[1] + moved[2]) / step**2
        np.testing.assert_allclose(found["a"]["kernel"][i, j], second, rtol=0.02, atol=2e-3)


def test_hutchinson_is_the_mean_over_signs() -> None:
    # Independent signs: the mean of 4,000 lies within five deviations of the diagonal.
    samples = 4000
    found = flat(
        jax.jit(functools.partial(hutchinson, loss, key=jax.random.key(1), samples=samples))(PARAMS)
    )
    whole = hessian()
    spread = np.sqrt((np.sum(whole**2, 1) - np.diag(whole) ** 2) / samples)
    assert (np.abs(found - np.diag(whole)) < 5 * spread + 1e-6).all()
    again = flat(hutchinson(loss, PARAMS, key=jax.random.key(1), samples=2))
    other = flat(hutchinson(loss, PARAMS, key=jax.random.key(2), samples=2))
    assert not np.allclose(again, other)


def test_hutchinson_of_a_diagonal_hessian_is_exact() -> None:
    cubic = lambda params: sum(jnp.sum(leaf**3) for leaf in jax.tree.leaves(params))
    found = hutchinson(cubic, PARAMS, key=jax.random.key(0), samples=3)
    np.testing.assert_allclose(flat(found), 6 * flat(PARAMS), rtol=1e-5)


def test_gauss_newton_equals_numpy() -> None:
    found = jax.jit(functools.partial(gauss_newton_diagonal, model))(PARAMS, INPUTS)
    vector, back = ravel_pytree(PARAMS)
    jacobian = np.asarray(jax.jacobian(lambda v: model(back(v), INPUTS))(vector), np.float64)
    logits = np.asarray(model(PARAMS, INPUTS), np.float64)
    total = np.zeros(vector.size)
    for rows, line in zip(jacobian, logits, strict=True):
        p = np.exp(line) / np.exp(line).sum()
        total += np.diag(rows.T @ (np.diag(p) - np.outer(p, p)) @ rows) / len(logits)
    np.testing.assert_allclose(flat(found), total, rtol=1e-4, atol=1e-7)
    assert (flat(found) >= 0).all()


def test_gauss_newton_of_a_linear_model_is_the_hessian() -> None:
    # The network does not curve: what is left is the loss, whatever the labels are.
    linear = lambda params, inputs: inputs @ params["kernel"]
    params = {"kernel": draw(3, 3)}

    def cross_entropy(params: Any) -> Any:
        losses = jax.nn.log_softmax(linear(params, INPUTS))
        return -jnp.mean(jnp.take_along_axis(losses, LABELS[:, None], 1))

    np.testing.assert_allclose(
        gauss_newton_diagonal(linear, params, INPUTS)["kernel"],
        exact_hessian_diagonal(cross_entropy, params)["kernel"],
        rtol=1e-4,
        atol=1e-6,
    )


def test_inputs_may_be_a_pytree() -> None:
    paired = lambda params, inputs: model(params, inputs["x"] + inputs["y"])
    halves = {"x": INPUTS / 2, "y": INPUTS / 2}
    np.testing.assert_allclose(
        flat(gauss_newton_diagonal(paired, PARAMS, halves)),
        flat(gauss_newton_diagonal(model, PARAMS, INPUTS)),
        rtol=1e-5,
    )


def test_half_precision_is_summed_in_single() -> None:
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), PARAMS)
    for found in (
        gauss_newton_diagonal(model, half, INPUTS),
        hutchinson(loss, half, key=jax.random.key(0), samples=2),
    ):
        assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("float32")}


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="chunk is 0; it must be at least 1"):
        exact_hessian_diagonal(loss, PARAMS, chunk=0)
    with pytest.raises(ValueError, match="samples is 0; it must be at least 1"):
        hutchinson(loss, PARAMS, key=jax.random.key(0), samples=0)
    with pytest.raises(ValueError, match=r"logits of shape \(3,\) for \[6\] examples; model_fn"):
        gauss_newton_diagonal(lambda params, x: model(params, x).sum(0), PARAMS, INPUTS)
