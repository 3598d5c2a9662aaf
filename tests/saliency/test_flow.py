"""SynFlow: conservation, no collapse at the most extreme sparsity, and no overflow."""

import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse
from jaxsparse import saliency


def perceptron(widths: tuple[int, ...], seed: int = 0, scale: float = 1.0) -> Any:
    rng = np.random.default_rng(seed)
    pairs = itertools.pairwise(widths)
    return {
        f"layer_{i}": {
            "bias": jnp.asarray(rng.normal(size=n_out), jnp.float32),
            "kernel": jnp.asarray(rng.normal(size=(n_in, n_out)) * scale, jnp.float32),
        }
        for i, (n_in, n_out) in enumerate(pairs)
    }


def outputs(params: Any, x: Any) -> Any:
    for i in range(len(params)):
        layer = params[f"layer_{i}"]
        x = x @ layer["kernel"] + layer["bias"][None]
        x = jax.nn.relu(x) if i < len(params) - 1 else x
    return x


def scored(params: Any, inputs: int, masks: Any = None) -> list[np.ndarray]:
    """Scores of the kernels, from input to output."""
    masks = jaxsparse.keep_all(params) if masks is None else masks
    flow = saliency.synaptic_flow(outputs, jax.ShapeDtypeStruct((1, inputs), jnp.float32))
    found = jax.jit(flow)(params, masks)
    return [np.asarray(found[f"layer_{i}"]["kernel"], np.float64) for i in range(len(params))]


def test_by_hand() -> None:
    # |W1| = [[1, 2], [3, 4]], |W2| = [[5], [6]]: R = (1 + 3) 5 + (2 + 4) 6 = 56. What flows through
    # the weights: 5, 12, 15, 24, and 20, 36. Biases are not part of it.
    params = {
        "layer_0": {"kernel": jnp.array([[1.0, -2.0], [-3.0, 4.0]]), "bias": jnp.array([-1.0, 5])},
        "layer_1": {"kernel": jnp.array([[-5.0], [6.0]]), "bias": jnp.array([7.0])},
    }
    first, second = scored(params, 2)
    np.testing.assert_allclose(first, np.array([[5, 12], [15, 24]]) / 56, rtol=1e-6)
    np.testing.assert_allclose(second, np.array([[20], [36]]) / 56, rtol=1e-6)
    # Without the weight 2 the second unit has 4 left: R = 20 + 24.
    masks = jaxsparse.keep_all(params)
    masks["layer_0"]["kernel"] = masks["layer_0"]["kernel"].at[0, 1].set(False)
    first, second = scored(params, 2, masks)
    np.testing.assert_allclose(first, np.array([[5, 0], [15, 24]]) / 44, rtol=1e-6)
    np.testing.assert_allclose(second, np.array([[20], [24]]) / 44, rtol=1e-6)


@pytest.mark.parametrize("sparsity", [0.0, 0.9])
def test_what_flows_into_a_unit_flows_out_and_layers_are_equal(sparsity: float) -> None:
    params = perceptron((20, 30, 25, 30, 10))
    masks = (
        jax.jit(jaxsparse.static(sparsity).init)(jax.random.key(1), params) if sparsity else None
    )
    layers = scored(params, 20, masks)
    for before, after in itertools.pairwise(layers):
        np.testing.assert_allclose(before.sum(0), after.sum(1), rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose([layer.sum() for layer in layers], 1, rtol=1e-5)


class _Residual(nn.Module):
    """A stem, two blocks with shortcuts and batch normalization, and a head."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        norm = lambda x: nn.BatchNorm(use_running_average=True)(x)
        x = nn.relu(norm(nn.Conv(6, (3, 3))(x)))
        for _ in range(2):
            y = nn.relu(norm(nn.Conv(6, (3, 3), use_bias=False)(x)))
            x = nn.relu(x + norm(nn.Conv(6, (3, 3), use_bias=False)(y)))
        return nn.Dense(4)(nn.max_pool(x, (2, 2), (2, 2)).reshape(x.shape[0], -1))


def test_a_cut_through_a_residual_network_carries_all_of_it() -> None:
    """The stem and the head are passed by everything; a block's two kernels by the same share."""
    with jax.numpy_rank_promotion("allow"):
        model, image = _Residual(), jnp.ones((1, 6, 6, 2))
        variables = jax.jit(model.init)(jax.random.key(0), image)
        apply = lambda params, x: model.apply({**variables, "params": params}, x)
        flow = saliency.synaptic_flow(apply, image)
        found = jax.jit(flow)(variables["params"], jaxsparse.keep_all(variables["params"]))
    total = {name: float(found[name]["kernel"].sum()) for name in found if "kernel" in found[name]}
    np.testing.assert_allclose([total["Conv_0"], total["Dense_0"]], 1, rtol=1e-5)
    for first, second in (("Conv_1", "Conv_2"), ("Conv_3", "Conv_4")):
        np.testing.assert_allclose(total[first], total[second], rtol=1e-5)
        assert 0 < total[first] < 1


def kept_in_layers(params: Any, inputs: int, sparsity: float, rounds: int) -> list[int]:
    flow = saliency.synaptic_flow(outputs, jax.ShapeDtypeStruct((1, inputs), jnp.float32))
    prune = lambda params: saliency.prune_in_rounds(flow, params, sparsity, rounds=rounds)
    masks = jax.jit(prune)(params)
    return [int(masks[f"layer_{i}"]["kernel"].sum()) for i in range(len(params))]


def test_no_layer_collapses_at_maximal_critical_compression() -> None:
    """One weight a layer is the least; 100 rounds leave each layer its own, one round does not."""
    widths = (30, 40, 5, 40, 30, 10)
    params = perceptron(widths)
    size = sum(a * b for a, b in itertools.pairwise(widths))
    sparsity = 1 - 5 / size
    assert kept_in_layers(params, 30, sparsity, 100) == [1] * 5
    assert 0 in kept_in_layers(params, 30, sparsity, 1)


@pytest.mark.parametrize("scale", [16.0, 2.0**-7])
def test_deep_networks_neither_overflow_nor_vanish(scale: float) -> None:
    """Forty layers: R is about 1e60, or 1e-50, which float32 does not hold."""
    params = perceptron((4,) * 41, scale=scale)
    layers = scored(params, 4)
    np.testing.assert_allclose([layer.sum() for layer in layers], 1, rtol=1e-4)
    weights = [np.abs(np.asarray(params[f"layer_{i}"]["kernel"], np.float64)) for i in range(40)]
    forward, backward = [np.ones(4)], [np.ones(4)]
    for weight in weights:
        forward.append(forward[-1] @ weight)
    for weight in reversed(weights):
        backward.append(weight @ backward[-1])
    total = forward[-1].sum()
    assert not 1e-38 < total < 3e38
    for i, weight in enumerate(weights):
        want = forward[i][:, None] * weight * backward[39 - i][None, :] / total
        np.testing.assert_allclose(layers[i], want, rtol=1e-4)


def test_the_method_prunes_in_rounds_without_data() -> None:
    params, key = perceptron((6, 8, 7, 4)), jax.random.key(0)
    shape = jax.ShapeDtypeStruct((1, 6), jnp.float32)
    method = jaxsparse.synflow(0.8, model_fn=outputs, inputs=shape, rounds=7)
    masks = jax.jit(method.init)(key, params)
    nothing = jax.tree.map(jnp.zeros_like, params)
    masks, info = jax.jit(method.update)(key, masks, params, nothing, 0)
    kept = {name: np.ones(layer["kernel"].shape, bool) for name, layer in params.items()}
    size, keep = 132, 132 - 105
    for t in range(1, 8):
        layers = [
            np.abs(np.asarray(params[f"layer_{i}"]["kernel"], np.float64)) * kept[f"layer_{i}"]
            for i in range(3)
        ]
        into = [np.ones(6), np.ones(6) @ layers[0], np.ones(6) @ layers[0] @ layers[1]]
        out = [layers[1] @ layers[2] @ np.ones(4), layers[2] @ np.ones(4), np.ones(4)]
        flows = [a[:, None] * w * b[None] for a, w, b in zip(into, layers, out, strict=True)]
        k = keep if t == 7 else round(size * (keep / size) ** (t / 7))
        least = np.sort(np.concatenate([flow.reshape(-1) for flow in flows]))[-k]
        kept = {f"layer_{i}": flow >= least for i, flow in enumerate(flows)}
    for name, want in kept.items():
        np.testing.assert_array_equal(masks[name]["kernel"], want)
    assert int(info.kept.sum()) == keep
