"""Optimal brain damage: saliencies by hand, what they predict, and curvatures that do not fit."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse.algorithms.obd import obd
from jaxsparse.curvature import exact_hessian_diagonal, gauss_newton_diagonal, hutchinson

KEY = jax.random.key(0)
PARAMS = {
    "a": {"bias": jnp.ones(2), "kernel": jnp.array([[3.0, -1.0], [2.0, 4.0]])},
    "b": {"kernel": jnp.array([[1.0, 0.5], [-2.0, 3.0]])},
}
SECOND = {
    "a": {"bias": jnp.ones(2), "kernel": jnp.array([[2.0, 10.0], [1.0, 0.5]])},
    "b": {"kernel": jnp.array([[30.0, 8.0], [1.5, -4.0]])},
}


def prune(method: Any, params: Any = PARAMS, step: int = 0) -> Any:
    masks = method.init(KEY, params)
    masks, _ = jax.jit(method.update)(KEY, masks, params, params, step)
    return {name: mask["kernel"].astype(int).tolist() for name, mask in masks.items()}


def test_an_update_by_hand() -> None:
    # h w^2 / 2: a = [[9, 5], [2, 4]], b = [[15, 1], [3, -18]].
    given = lambda params: SECOND
    assert prune(obd(0.5, curvature=given, step=0)) == {
        "a": [[1, 1], [0, 1]],
        "b": [[1, 0], [0, 0]],
    }
    layered = obd(0.5, curvature=given, step=0, scope="layer")
    assert prune(layered) == {"a": [[1, 1], [0, 0]], "b": [[1, 0], [1, 0]]}
    # Whole outputs: 11 and 9; 18 and -17.
    channels = obd(0.5, curvature=given, step=0, scope="layer", structure=jaxsparse.channel())
    assert prune(channels) == {"a": [[1, 0], [1, 0]], "b": [[1, 0], [1, 0]]}


def model(params: Any, inputs: Any) -> Any:
    hidden = jnp.tanh(inputs @ params["a"]["kernel"] + params["a"]["bias"][None])
    return hidden @ params["b"]["kernel"]


INPUTS = jnp.asarray(np.random.default_rng(0).normal(size=(8, 2)), jnp.float32)


def loss(params: Any) -> Any:
    """Least where ``params`` are ``PARAMS``."""
    want = jax.nn.softmax(model(PARAMS, INPUTS))
    return -jnp.mean(jnp.sum(want * jax.nn.log_softmax(model(params, INPUTS)), 1))


def test_a_quadratic_loss_rises_by_the_saliencies() -> None:
    # Where there is nothing but a diagonal, and the slope is 0, the prediction is exact.
    curve = jax.tree.map(lambda h: jnp.abs(h), SECOND)
    quadratic = lambda params: sum(
        jax.tree.leaves(
            jax.tree.map(lambda h, w, m: 0.5 * jnp.sum(h * (w - m) ** 2), curve, params, PARAMS)
        )
    )
    method = obd(0.5, curvature=functools.partial(exact_hessian_diagonal, quadratic), step=0)
    masks, _ = method.update(KEY, method.init(KEY, PARAMS), PARAMS, PARAMS, 0)
    lost = [
        float(
            0.5
            * jnp.sum(
                jnp.where(masks[n]["kernel"], 0, curve[n]["kernel"] * PARAMS[n]["kernel"] ** 2)
            )
        )
        for n in "ab"
    ]
    rise = quadratic(jaxsparse.apply_masks(PARAMS, masks)) - quadratic(PARAMS)
    np.testing.assert_allclose(rise, sum(lost), rtol=1e-5)
    # And no other choice of four costs less.
    costs = np.concatenate(
        [np.ravel(0.5 * curve[n]["kernel"] * PARAMS[n]["kernel"] ** 2) for n in "ab"]
    )
    np.testing.assert_allclose(sum(lost), np.sort(costs)[:4].sum(), rtol=1e-5)


@pytest.mark.parametrize(
    "curvature",
    [
        functools.partial(exact_hessian_diagonal, loss),
        functools.partial(gauss_newton_diagonal, model, inputs=INPUTS),
        functools.partial(hutchinson, loss, key=jax.random.key(3), samples=64),
    ],
    ids=["exact", "gauss-newton", "hutchinson"],
)
def test_each_curvature_equals_numpy(curvature: Any) -> None:
    found = prune(obd(0.5, curvature=curvature, step=0))
    second = curvature(PARAMS)
    score = {n: 0.5 * np.asarray(second[n]["kernel"] * PARAMS[n]["kernel"] ** 2) for n in "ab"}
    least = np.sort(np.concatenate([score[n].reshape(-1) for n in "ab"]))[4]
    assert found == {n: (score[n] >= least).astype(int).tolist() for n in "ab"}


def test_training_prunes_once_and_goes_on() -> None:
    method = obd(0.5, curvature=functools.partial(exact_hessian_diagonal, loss), step=2)
    tx, params = jaxsparse.sparsify(optax.sgd(0.1), method), jax.tree.map(lambda w: w + 0.1, PARAMS)
    state, kept = tx.init(params), []

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(4):
        params, state = step(params, state)
        kept.append(sum(int(m.sum()) for m in jax.tree.leaves(state.masks)))
    assert kept == [8, 8, 4, 4]
    for name in "ab":
        np.testing.assert_array_equal(params[name]["kernel"] != 0, state.masks[name]["kernel"])
    assert [n for n in range(6) if method.due(n)] == [2]


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="obd needs curvature=, a function of the parameters: for"):
        obd(0.5)
    with pytest.raises(ValueError, match=r"sparsity is 1.0; .*\[0, 1\)"):
        obd(1.0, curvature=lambda params: params)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), PARAMS)
    half = obd(0.5, curvature=lambda params: {"a": params["a"]})
    with pytest.raises(
        ValueError, match=r"curvature returned \('a/bias', \(2,\)\), .* like the par"
    ):
        half.init(KEY, shapes)
    with pytest.raises(ValueError, match="it must be like the parameters"):
        obd(0.5, curvature=lambda params: jax.tree.map(jnp.sum, params)).init(KEY, shapes)
