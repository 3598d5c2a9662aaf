"""linen, nnx, Equinox and Haiku: there and back in their own structures."""

import pathlib
from typing import Any

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxsparse
from jaxsparse.export import load_safetensors, save_safetensors, to_bcoo

pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")
STATIC = jaxsparse.sparsify(optax.adam(1e-3), jaxsparse.static(0.75))


def assert_same(first: Any, second: Any) -> None:
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        assert (type(a), a.dtype) == (type(b), b.dtype)
        np.testing.assert_array_equal(a, b)


def names_in(path: pathlib.Path) -> set[str]:
    return set(jaxsparse.export.safetensors_files.read_contents(path).tensors)


NAMES = {"first/bias", "first/kernel", "second/bias", "second/kernel"}


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        boxed = nn.with_partitioning(nn.initializers.ones_init(), ("x", None))
        return nn.Dense(3, name="second")(nn.Dense(16, name="first", kernel_init=boxed)(x))


class Nnx(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first, self.second = nnx.Linear(4, 16, rngs=rngs), nnx.Linear(16, 3, rngs=rngs)


@pytest.fixture(params=[False, True])
def packed(request: pytest.FixtureRequest) -> bool:
    return request.param


def test_linen_with_boxes(tmp_path: pathlib.Path, packed: bool) -> None:
    with jax.numpy_rank_promotion("allow"):
        params = Linen().init(jax.random.key(0), jnp.ones((1, 4)))["params"]
    state = jaxsparse.TrainState.create(apply_fn=None, params=params, tx=STATIC)
    save_safetensors(tmp_path / "x", state.params, state.masks, packed=packed)
    assert names_in(tmp_path / "x") == NAMES
    found, masks = load_safetensors(tmp_path / "x", like=state.params)
    assert_same(found, state.params)
    assert_same(masks, state.masks)


def test_nnx(tmp_path: pathlib.Path, packed: bool) -> None:
    model = Nnx(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, STATIC, wrt=nnx.Param)
    params, masks = nnx.state(model, nnx.Param), jaxsparse.masks_of(optimizer.opt_state)
    save_safetensors(tmp_path / "x", params, masks, packed=packed)
    assert names_in(tmp_path / "x") == NAMES
    other = Nnx(nnx.Rngs(1))
    found, kept = load_safetensors(tmp_path / "x", like=nnx.state(other, nnx.Param))
    assert_same(found, jaxsparse.apply_masks(params, masks))
    assert sum(int(mask.sum()) for mask in jax.tree.leaves(kept)) == 28
    nnx.update(other, found)
    np.testing.assert_array_equal(other.first.kernel[...], found["first"]["kernel"][...])


def test_equinox(tmp_path: pathlib.Path, packed: bool) -> None:
    make = lambda key: eqx.nn.MLP(4, 3, 16, 1, key=key, dtype=jnp.bfloat16)
    model = make(jax.random.key(0))
    masks = jaxsparse.masks_of(STATIC.init(eqx.filter(model, eqx.is_inexact_array)))
    save_safetensors(tmp_path / "x", model, masks, packed=packed)
    assert "layers/0/weight" in names_in(tmp_path / "x")
    like = eqx.filter_eval_shape(make, jax.random.key(0))
    found, kept = load_safetensors(tmp_path / "x", like=like)
    arrays = lambda tree: eqx.filter(tree, eqx.is_array)
    assert_same(arrays(found), jaxsparse.apply_masks(arrays(model), masks))
    assert found.activation is like.activation
    assert_same(arrays(kept).layers[1].weight, masks.layers[1].weight)
    weights = to_bcoo(model, masks)
    assert weights.layers[0].weight.nse + weights.layers[1].weight.nse == 28


def test_haiku(tmp_path: pathlib.Path, packed: bool) -> None:
    with jax.numpy_rank_promotion("allow"):
        forward = hk.transform(lambda x: hk.nets.MLP([16, 3])(x))
        params = forward.init(jax.random.key(0), jnp.ones((1, 4)))
    masks = jaxsparse.masks_of(STATIC.init(params))
    save_safetensors(tmp_path / "x", params, masks, packed=packed)
    found, kept = load_safetensors(tmp_path / "x", like=params)
    assert_same(found, jaxsparse.apply_masks(params, masks))
    assert_same(kept, masks)
