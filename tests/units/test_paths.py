"""Effective sparsity against brute force, closed forms, and reachability by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from experiments.models import CifarResNet
from jaxsparse.units import effective_paths

pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")


def mlp(params, x):
    """Three layers with biases, tanh between."""
    for i, name in enumerate("abc"):
        x = (jnp.tanh(x) if i else x) @ params[name] + params[name + "_bias"][None]
    return x


def random_masks(seed: int, density: float) -> dict:
    rng = np.random.default_rng(seed)
    return {
        "a": rng.random((9, 7)) < density,
        "b": rng.random((7, 8)) < density,
        "c": rng.random((8, 4)) < density,
    }


@pytest.mark.parametrize("seed", range(4))
def test_a_weight_of_an_mlp_counts_if_it_is_reached_and_read(seed: int) -> None:
    masks = random_masks(seed, 0.2)
    params = {name: jnp.zeros(mask.shape) for name, mask in masks.items()}
    params |= {f"{name}_bias": jnp.ones(mask.shape[1]) for name, mask in masks.items()}
    marks = {name: masks.get(name, optax.MaskedNode()) for name in params}
    found = effective_paths(mlp, params, marks, jax.ShapeDtypeStruct((1, 9), jnp.float32))
    from_input = [np.ones(9, bool)]
    for name in "abc":
        from_input.append((from_input[-1] @ masks[name].astype(int)) > 0)
    to_output = [np.ones(4, bool)]
    for name in "cba":
        to_output.insert(0, (masks[name].astype(int) @ to_output[0]) > 0)
    for i, name in enumerate("abc"):
        expected = masks[name] & from_input[i][:, None] & to_output[i + 1][None, :]
        np.testing.assert_array_equal(found.masks[name], expected)
        assert found.layers[i].dead == int((~expected.any(0)).sum())
    np.testing.assert_array_equal(found.inputs[0], to_output[0])
    assert found.unreachable_inputs == int((~to_output[0]).sum())
    kept = sum(int(mask.sum()) for mask in masks.values())
    assert found.sparsity == 1 - kept / 151
    assert found.effective_sparsity >= found.sparsity
    assert isinstance(found.masks["a_bias"], optax.MaskedNode)


def test_a_residual_network_against_slopes_of_positive_weights() -> None:
    """With positive weights and inputs, no bias, float64: a slope is positive on paths only."""
    model = CifarResNet(depth=8, width=3, classes=4)
    x = jnp.ones((1, 8, 8, 1))
    variables = jax.jit(model.init)(jax.random.key(0), x)
    masks = jaxsparse.static(0.97).init(jax.random.key(1), variables["params"])
    found = effective_paths(
        model.apply, variables, {"params": masks, "batch_stats": optax.MaskedNode()}, x
    )
    # (Biases are no paths: they are zero here, as at initialization.)
    positive = jax.tree_util.tree_map_with_path(
        lambda path, leaf: np.full(leaf.shape, 0.0 if "bias" in str(path[-1]) else 1.0),
        variables["params"],
    )
    kept = jax.tree.map(
        lambda mask, leaf: leaf if isinstance(mask, optax.MaskedNode) else leaf * np.asarray(mask),
        masks,
        positive,
        is_leaf=lambda node: isinstance(node, optax.MaskedNode),
    )
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda stat: np.asarray(stat, np.float64), variables["batch_stats"])
        double = CifarResNet(depth=8, width=3, classes=4, dtype=jnp.float64)
        total = lambda params: jnp.sum(
            double.apply({"params": params, "batch_stats": wide}, jnp.ones((1, 8, 8, 1)))
        )
        slopes = jax.jit(jax.grad(total))(kept)
    compared = 0
    for mask, mine, slope in zip(
        jax.tree.leaves(masks, is_leaf=lambda m: isinstance(m, optax.MaskedNode)),
        jax.tree.leaves(found.masks["params"], is_leaf=lambda m: isinstance(m, optax.MaskedNode)),
        jax.tree.leaves(slopes),
        strict=True,
    ):
        if not isinstance(mask, optax.MaskedNode):
            np.testing.assert_array_equal(mine, np.asarray(mask) & (np.asarray(slope) > 0))
            compared += int(np.asarray(mask).sum() - mine.sum())
    assert compared > 0, "all kept weights are effective: nothing was tested"


class Deep(nn.Module):
    """Wide enough and deep enough for the number of paths to overflow float32."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Twenty layers of a hundred units."""
        for _ in range(20):
            x = nn.gelu(nn.Dense(100)(x))
        return nn.Dense(1)(x)


def test_more_paths_than_floats_can_count() -> None:
    x = jnp.ones((1, 100))
    params = jax.eval_shape(Deep().init, jax.random.key(0), x)["params"]
    ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), params)
    masks = jaxsparse.static(0.0).init(jax.random.key(0), ones)
    found = effective_paths(lambda p, x: Deep().apply({"params": p}, x), params, masks, x)
    assert found.effective_sparsity == found.sparsity == 0


def test_pooling_padding_and_flattening() -> None:
    """A 3x3 kernel on a 1x1 image has one tap that ever meets it."""

    def model_fn(params, x):
        x = jax.lax.conv_general_dilated(
            x, params["conv"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = nn.max_pool(nn.relu(x), (1, 1))
        return x.reshape(1, -1) @ params["head"]

    params = {"conv": jnp.ones((3, 3, 2, 2)), "head": jnp.ones((2, 1))}
    masks = {"conv": np.ones((3, 3, 2, 2), bool), "head": np.array([[True], [False]])}
    found = effective_paths(model_fn, params, masks, jnp.ones((1, 1, 1, 2)))
    expected = np.zeros((3, 3, 2, 2), bool)
    expected[1, 1, :, 0] = True
    np.testing.assert_array_equal(found.masks["conv"], expected)


def test_a_gate_that_nothing_reaches_lets_paths_through() -> None:
    model_fn = lambda p, x: jax.nn.sigmoid(x @ p["gate"]) * (x @ p["value"]) @ p["head"]
    params = {"gate": jnp.ones((2, 2)), "head": jnp.ones((2, 1)), "value": jnp.ones((2, 2))}
    masks = {name: np.ones(leaf.shape, bool) for name, leaf in params.items()}
    masks["gate"][:] = False
    found = effective_paths(model_fn, params, masks, jnp.ones((1, 2)))
    assert found.masks["value"].all()
    assert found.masks["head"].all()
    assert not found.masks["gate"].any()


def test_bad_input() -> None:
    params, x = {"a": jnp.ones((2, 2))}, jnp.ones((1, 2))
    model_fn = lambda p, x: x @ p["a"]
    with pytest.raises(ValueError, match="none of the 1 leaves has a mask"):
        effective_paths(model_fn, params, {"a": optax.MaskedNode()}, x)
    with pytest.raises(ValueError, match=r"a has shape \(2, 2\), its mask \(2, 1\)"):
        effective_paths(model_fn, params, {"a": np.ones((2, 1), bool)}, x)
    loop = lambda p, x: jax.lax.scan(lambda c, _: (c @ p["a"], None), x, None, 3)[0]
    with pytest.raises(ValueError, match="cannot follow paths through 'scan'"):
        effective_paths(loop, params, {"a": np.ones((2, 2), bool)}, x)
