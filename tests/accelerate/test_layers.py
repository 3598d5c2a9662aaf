"""Layers of linen and nnx: dense as flax's own, packed, and block-sparse from the start."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxsparse
from jaxsparse import accelerate
from jaxsparse.accelerate import linen
from jaxsparse.accelerate import nnx as layers

pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")

TOKENS = jax.random.normal(jax.random.key(0), (2, 5, 32))
BLOCK = (8, 8)


class Linen(nn.Module):
    sparsity: float = 0.0

    @nn.compact
    def __call__(self, x: Any) -> Any:
        x += linen.SparseSelfAttention(4, self.sparsity, BLOCK, causal=True, name="attention")(x)
        return x + linen.SparseMLP(64, self.sparsity, BLOCK, name="mlp")(x)


class Nnx(nnx.Module):
    def __init__(self, sparsity: float, rngs: nnx.Rngs) -> None:
        same = {"sparsity": sparsity, "block": BLOCK, "rngs": rngs}
        self.attention = layers.SparseSelfAttention(32, 4, causal=True, **same)
        self.mlp = layers.SparseMLP(32, 64, **same)

    def __call__(self, x: Any) -> Any:
        x += self.attention(x)
        return x + self.mlp(x)


@pytest.fixture(scope="module")
def variables() -> Any:
    return jax.jit(Linen(0.75).init)(jax.random.key(1), TOKENS)


def test_without_sparsity_it_is_flax_own() -> None:
    ours, theirs = linen.SparseDense(7), nn.Dense(7)
    variables = jax.jit(theirs.init)(jax.random.key(0), TOKENS)
    np.testing.assert_allclose(
        ours.apply(variables, TOKENS), theirs.apply(variables, TOKENS), rtol=1e-5, atol=1e-6
    )
    own = jax.jit(ours.init)(jax.random.key(0), TOKENS)
    assert jax.tree.map(jnp.shape, own) == jax.tree.map(jnp.shape, variables)


def test_block_sparse_from_the_start(variables: Any) -> None:
    params, topology = variables["params"], variables["topology"]
    assert params["mlp"]["up"]["kernel"].shape == (8, 1, 8, 8)
    assert params["mlp"]["down"]["kernel"].shape == (4, 2, 8, 8)
    for leaf in jax.tree.leaves(topology):
        rows = np.asarray(leaf)
        assert all(len(set(row)) == len(row) for row in rows)
        assert rows.dtype == np.int32
    # The same variance as a dense layer of as many inputs: 1 / (2 x 8), over 2,048 values.
    big, _ = accelerate.block_sparse_kernel(jax.random.key(0), (64, 128), 0.75, (8, 8))
    np.testing.assert_allclose(float(jnp.var(big)), 1 / 16, rtol=0.1)


def test_dense_kernels_give_the_same(variables: Any) -> None:
    params = variables["params"]
    topology = accelerate.complete(params, variables["topology"])
    packed = jax.jit(Linen(0.75).apply)(variables, TOKENS)
    dense = {
        "params": accelerate.unpack(params, topology),
        "topology": accelerate.no_topology(topology),
    }
    assert dense["params"]["mlp"]["up"]["kernel"].shape == (32, 64)
    apply = jax.jit(Linen().apply)
    np.testing.assert_allclose(apply(dense, TOKENS), packed, rtol=1e-4, atol=1e-5)
    # And a model that was trained with masks can be packed.
    del dense["topology"]
    np.testing.assert_allclose(apply(dense, TOKENS), packed, rtol=1e-4, atol=1e-5)
    again = {"params": params, "topology": topology}
    np.testing.assert_allclose(apply(again, TOKENS), packed, rtol=1e-6)


def test_nnx_is_linen(variables: Any) -> None:
    model = Nnx(0.75, nnx.Rngs(0))
    graphdef, params, _ = nnx.split(model, nnx.Param, layers.TopologyVariable)
    assert jax.tree.map(jnp.shape, nnx.to_pure_dict(params)) == jax.tree.map(
        jnp.shape, variables["params"]
    )
    # With linen's numbers it computes what linen does.
    own = variables["params"]
    nnx.replace_by_pure_dict(params, own)
    topology = accelerate.complete(params, variables["topology"])
    merged = layers.with_topology(graphdef, params, topology)
    want = Linen(0.75).apply(variables, TOKENS)
    np.testing.assert_allclose(merged(TOKENS), want, rtol=1e-4, atol=1e-5)


def test_nnx_trains_packed() -> None:
    model = Nnx(0.75, nnx.Rngs(0))
    graphdef, params, _ = nnx.split(model, nnx.Param, layers.TopologyVariable)
    method = jaxsparse.rigl(
        0.75,
        distribution=jaxsparse.uniform,
        update=jaxsparse.every(2, start=2),
        structure=jaxsparse.block(*BLOCK, balanced=True),
    )
    optimizer = accelerate.packed_optimizer(optax.adam(1e-2), method)
    state = optimizer.init(params, layers.topologies(model))

    def loss(params: Any, topology: Any, x: Any) -> Any:
        return (layers.with_topology(graphdef, params, topology)(x) ** 2).mean()

    step = jax.jit(accelerate.train_step(loss, optimizer), static_argnames="moves")
    losses = []
    for i in range(6):
        params, state, value = step(params, state, TOKENS, moves=bool(optimizer.due(i)))
        losses.append(float(value))
    assert losses[-1] < losses[0]
    assert int(state.info.updates) == 2
    assert int(state.info.grown) == int(state.info.dropped) > 0


def test_half_precision(variables: Any) -> None:
    layer = linen.SparseDense(64, 0.75, BLOCK, dtype=jnp.bfloat16)
    out, own = layer.init_with_output(jax.random.key(0), TOKENS)
    assert out.dtype == jnp.bfloat16
    assert own["params"]["kernel"].dtype == jnp.float32
    nnx_layer = layers.SparseDense(
        32, 64, sparsity=0.75, block=BLOCK, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)
    )
    assert nnx_layer(TOKENS).dtype == jnp.bfloat16


def test_single_weights_are_dense_inside_only() -> None:
    mask = jax.random.uniform(jax.random.key(1), (32, 16)) < 0.3
    kernel = jax.random.normal(jax.random.key(2), (32, 16))
    values, topology = accelerate.pack(kernel, mask)
    f = lambda x, values: (accelerate.matmul(x, values, topology) ** 2).sum()
    g = lambda x, kernel: (accelerate.matmul(x, jnp.where(mask, kernel, 0)) ** 2).sum()
    found, want = (
        jax.jit(jax.grad(function, (0, 1)))(TOKENS, weight)
        for function, weight in ((f, values), (g, kernel))
    )
    np.testing.assert_allclose(found[0], want[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        found[1], accelerate.pack_like(want[1], topology), rtol=1e-4, atol=1e-4
    )
    # The matrix is no residual: what waits for the backward pass is inputs and values.
    saved = jax.eval_shape(lambda x, v: jax.vjp(f, x, v)[1], TOKENS, values)
    assert all(leaf.size < kernel.size for leaf in jax.tree.leaves(saved))


def test_a_bias_in_the_product_in_every_form() -> None:
    mask = jaxsparse.block(8, 8).expand(jnp.eye(4, dtype=bool), (32, 32))
    kernel = jnp.where(mask, jax.random.normal(jax.random.key(2), (32, 32)), 0)
    bias = jnp.arange(32.0)
    forms = [(kernel, optax.MaskedNode())]
    forms += [accelerate.pack(kernel, mask, block=block) for block in (BLOCK, (1, 1))]
    for weight, topology in forms:
        found = accelerate.matmul(TOKENS, weight, topology, bias=bias)
        want = TOKENS @ kernel + bias[None, None]
        np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-4)
        with pytest.raises(ValueError, match=r"bias of shape \(1,\).*give \(32,\)"):
            accelerate.matmul(TOKENS, weight, topology, bias=jnp.ones(1))


def test_pointwise_convolutions() -> None:
    x = jax.random.normal(jax.random.key(0), (2, 6, 6, 16))
    mask = jaxsparse.block(8, 8).expand(jnp.eye(2, dtype=bool)[None, None], (1, 1, 16, 16))
    kernel = jnp.where(mask, jax.random.normal(jax.random.key(1), (1, 1, 16, 16)), 0)
    values, topology = accelerate.pack(kernel, mask, block=BLOCK)
    assert values.shape == (2, 1, 8, 8)
    dims = ("NHWC", "HWIO", "NHWC")
    want = jax.lax.conv_general_dilated(x, kernel, (2, 2), "VALID", dimension_numbers=dims)
    for found in (
        accelerate.pointwise_conv(x, values, topology, strides=(2, 2)),
        accelerate.pointwise_conv(x, kernel, strides=(2, 2)),
        accelerate.pointwise_conv(x, values, topology, strides=(2, 2), bias=jnp.ones(16)) - 1,
    ):
        np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="has a window larger than 1"):
        accelerate.pointwise_conv(x, jnp.ones((3, 3, 16, 16)))
    with pytest.raises(ValueError, match="1 strides for 2 dimensions"):
        accelerate.pointwise_conv(x, kernel, strides=(2,))


def test_errors_name_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="do not fit a kernel of shape \\(16, 4\\)"):
        accelerate.matmul(TOKENS, jnp.ones((16, 4)))
    with pytest.raises(ValueError, match="block\\(64, 64\\) does not divide"):
        linen.SparseDense(32, 0.5).init(jax.random.key(0), TOKENS)
    with pytest.raises(ValueError, match="3 heads do not divide a width of 32"):
        linen.SparseSelfAttention(3).init(jax.random.key(0), TOKENS)
    with pytest.raises(ValueError, match="sparsity is 1"):
        accelerate.block_sparse_kernel(jax.random.key(0), (8, 8), 1.0, (2, 2))
