"""Wanda: weights times input norms by hand, by output and by layer, against NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse.algorithms.wanda import input_norms, wanda

KEY = jax.random.key(0)
# Inputs of norm 1, 10, 2 and 5.
WEIGHTS = jnp.array([[9.0, -1.0, 2.0], [1.0, 0.5, -0.1], [-6.0, 4.0, 3.0], [1.0, 1.0, 2.0]])
NORMS = jnp.array([1.0, 10.0, 2.0, 5.0])


def prune(method: Any, params: Any) -> Any:
    masks = method.init(KEY, params)
    return jax.jit(method.update)(KEY, masks, params, params, 0)


def given(norms: Any) -> Any:
    return lambda params: norms


def test_an_update_by_hand() -> None:
    # |w| x norm, column by column: [9, 10, 12, 5], [1, 5, 8, 5], [2, 1, 6, 10]: two of each; the
    # tie of 5 falls either way.
    masks, info = prune(wanda(0.5, activation_norms=given({"w": NORMS})), {"w": WEIGHTS})
    mask = masks["w"].astype(int)
    assert mask[:, 0].tolist() == [0, 1, 1, 0]
    assert mask[:, 1].tolist() in ([0, 1, 1, 0], [0, 0, 1, 1])
    assert mask[:, 2].tolist() == [0, 0, 1, 1]
    assert int(info.kept[0]) == 6


def test_within_each_layer_by_hand() -> None:
    # The best six of all twelve: 12, 10, 10, 9, 8, 6.
    method = wanda(0.5, activation_norms=given({"w": NORMS}), structure=None)
    masks, _ = prune(method, {"w": WEIGHTS})
    want = [[1, 0, 0], [1, 0, 0], [1, 1, 1], [0, 0, 1]]
    assert masks["w"].astype(int).tolist() == want


def test_one_of_two_by_hand() -> None:
    # Groups of two inputs: the better of each.
    structure = jaxsparse.n_m(keep=1, of=2)
    method = wanda(0.5, activation_norms=given({"w": NORMS}), structure=structure)
    masks, _ = prune(method, {"w": WEIGHTS})
    want = [[0, 0, 1], [1, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert masks["w"].astype(int).tolist() == want


@pytest.mark.parametrize("rank", [1, 3])
def test_an_update_equals_numpy(rank: int) -> None:
    # A convolution, with norms by channel or by position too; a dense layer.
    shapes = {"conv": (3, 2, 4, 6), "dense": (10, 7)}
    # (The norms are among the parameters: one program for all draws.)
    norms = lambda params: {n: dict.fromkeys(p, p["norms"]) for n, p in params.items()}
    method = wanda(0.7, activation_norms=norms)
    init, update = method.init, jax.jit(method.update)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        draw = lambda *shape, rng=rng: rng.uniform(-1, 1, size=shape).astype(np.float32)
        params = {
            n: {"kernel": draw(*shape), "norms": abs(draw(*shape[:-1][-rank:]))}
            for n, shape in shapes.items()
        }
        arrays = jax.tree.map(jnp.asarray, params)
        masks, _ = update(KEY, init(KEY, arrays), arrays, arrays, 0)
        for name, shape in shapes.items():
            norm = np.broadcast_to(params[name]["norms"], shape[:-1])
            rows = (np.abs(params[name]["kernel"]) * norm[..., None]).reshape(-1, shape[-1])
            # Of 24 and 10 inputs: 144 - floor(0.7 x 144) are 44 kept, 7 an output; 21 kept, 3.
            want = rows >= np.sort(rows, 0)[-{"conv": 7, "dense": 3}[name]]
            found = np.asarray(masks[name]["kernel"]).reshape(want.shape)
            np.testing.assert_array_equal(found, want)


def test_norms_of_a_network_are_those_of_its_activations() -> None:
    rng = np.random.default_rng(0)
    data = rng.normal(size=(20, 6)).astype(np.float32)
    params = {n: jnp.asarray(rng.normal(size=(6, 6)), jnp.float32) for n in "ab"}

    def norms(params: Any) -> Any:
        hidden = jax.nn.relu(data @ params["a"])
        return {"a": input_norms(jnp.asarray(data)), "b": input_norms(hidden)}

    # In training: the norms are taken at the step, from the weights of the step.
    tx = jaxsparse.sparsify(optax.sgd(0.1), wanda(0.5, activation_norms=norms, step=1))
    state, update = tx.init(params), jax.jit(tx.update)
    for _ in range(2):
        before = {n: np.asarray(w) for n, w in params.items()}
        updates, state = update(jax.tree.map(jnp.cos, params), state, params)
        params = optax.apply_updates(params, updates)
    hidden = np.maximum(data @ before["a"], 0)
    for name, inputs in (("a", data), ("b", hidden)):
        rows = np.abs(before[name]) * np.sqrt(np.square(inputs).sum(0))[:, None]
        np.testing.assert_array_equal(state.masks[name], rows >= np.sort(rows, 0)[-3])
        np.testing.assert_array_equal(params[name] != 0, state.masks[name])


def test_input_norms_run_over_all_positions() -> None:
    images = jnp.arange(24.0, dtype=jnp.bfloat16).reshape(2, 2, 2, 3)
    found = input_norms(images)
    assert found.dtype == jnp.float32
    want = np.sqrt((np.arange(24.0).reshape(8, 3) ** 2).sum(0))
    np.testing.assert_allclose(found, want, rtol=1e-6)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="wanda needs activation_norms=, a function of the param"):
        wanda(0.5)
    with pytest.raises(ValueError, match=r"sparsity is 1.0; .*\[0, 1\)"):
        wanda(1.0, activation_norms=given({"w": NORMS}))
    outputs = wanda(0.5, activation_norms=given({"w": NORMS[:3]}))
    with pytest.raises(
        ValueError, match=r"w \(4, 3\) has norms of shape \(3,\); give one an input, \(4,\)"
    ):
        outputs.init(KEY, {"w": WEIGHTS})
    few = wanda(0.5, activation_norms=given({"w": NORMS}))
    with pytest.raises(ValueError, match="activation_norms returned 1 arrays for 2 parameters"):
        few.init(KEY, {"bias": jnp.ones(3), "w": WEIGHTS})
