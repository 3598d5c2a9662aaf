"""Smaller networks with the same outputs, and what stays."""

from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxsparse
from experiments.models import MLP, CifarResNet
from jaxsparse.units import compact, prune_units, unit_groups, unit_masks, unit_norm
from jaxsparse.units.paths import masks_like

pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")


def shaken(tree: Any, seed: int = 0) -> Any:
    """No number as it was initialized: biases, scales and statistics other than 0 and 1."""
    rng = np.random.default_rng(seed)

    def one(path: Any, leaf: Any) -> jax.Array:
        noise = rng.normal(size=leaf.shape)
        wide = jnp.asarray(noise / max(np.prod(leaf.shape[:-1]), 1) ** 0.5, leaf.dtype)
        return 1 + jnp.abs(wide) if "var" in str(path[-1]) else wide

    return jax.tree_util.tree_map_with_path(one, tree)


def masked(params: Any, masks: Any) -> Any:
    marks = masks_like(masks, params)
    leaves, tree = jax.tree.flatten(params)
    kept = [
        leaf if isinstance(mask, optax.MaskedNode) else jnp.where(mask, leaf, 0)
        for mask, leaf in zip(marks, leaves, strict=True)
    ]
    return jax.tree.unflatten(tree, kept)


def check(model_fn: Any, params: Any, masks: Any, x: Any, **tolerance: float) -> Any:
    """Compact, and compare the outputs on this batch and on another of another size."""
    small = compact(model_fn, params, masks, x)
    tolerance = {"rtol": 1e-5, "atol": 1e-5, **tolerance}
    before, after = jax.jit(model_fn), jax.jit(small.apply)
    other = jnp.concatenate([x[:1] * 0.3, x, x[:1] - 1])
    for batch in (x, other):
        np.testing.assert_allclose(
            after(small.params, batch), before(masked(params, masks), batch), **tolerance
        )
    return small


def test_a_dead_unit_goes_with_its_constant() -> None:
    """Unit 0 is fed by nothing and read: relu(0.5) x 3 goes into the bias. Unit 1: nobody reads."""
    params = {
        "a": jnp.array([[1.0, 2.0, 3.0]]),
        "a_bias": jnp.array([0.5, 0.1, -0.2]),
        "b": jnp.array([[3.0], [4.0], [5.0]]),
        "b_bias": jnp.array([0.25]),
    }
    masks = {name: optax.MaskedNode() for name in params}
    masks["a"] = jnp.array([[False, True, True]])
    masks["b"] = jnp.array([[True], [False], [True]])
    model_fn = lambda p, x: jax.nn.relu(x @ p["a"] + p["a_bias"][None]) @ p["b"] + p["b_bias"][None]
    small = check(model_fn, params, masks, jnp.array([[1.0], [-2.0]]))
    assert small.shapes == {"a": (1, 1), "a_bias": (1,), "b": (1, 1), "b_bias": (1,)}
    np.testing.assert_allclose(small.params["b_bias"], [0.25 + 0.5 * 3])
    assert small.masks["a"].tolist() == [[True]]
    assert isinstance(small.masks["b_bias"], optax.MaskedNode)
    assert small.left == ()


def test_dead_units_take_what_feeds_them() -> None:
    """Nobody reads c's unit 1, which alone read b's unit 0, which alone read a's unit 2."""
    params = {
        "a": jnp.ones((2, 3)),
        "b": jnp.ones((3, 2)),
        "c": jnp.ones((2, 2)),
        "d": jnp.ones((2, 1)),
    }
    params["d"] = params["d"].at[1].set(0)
    params["c"] = params["c"].at[0, 0].set(0)
    params["b"] = params["b"].at[2, 1].set(0)
    model_fn = lambda p, x: jnp.tanh(jnp.tanh(jnp.tanh(x @ p["a"]) @ p["b"]) @ p["c"]) @ p["d"]
    small = check(
        model_fn,
        params,
        jax.tree.map(lambda w: w != 0, params),
        jnp.ones((2, 2)),
    )
    assert list(small.shapes.values()) == [(2, 2), (2, 1), (1, 1), (1, 1)]


def test_unstructured_masks_leave_dead_units_behind() -> None:
    model, x = MLP((40, 30, 20, 5)), jax.random.normal(jax.random.key(1), (3, 12))
    params = shaken(jax.eval_shape(model.init, jax.random.key(0), x)["params"])
    masks = jaxsparse.static(0.95).init(jax.random.key(2), params)
    small = check(lambda p, x: model.apply({"params": p}, x), params, masks, x)
    widths = [small.shapes[f"Dense_{i}/kernel"][1] for i in range(4)]
    assert widths[3] == 5
    assert all(0 < w < full for w, full in zip(widths, (40, 30, 20), strict=False))
    # Built anew with these widths, the model takes the parameters.
    rebuilt = MLP(tuple(widths)).apply({"params": small.params}, x)
    np.testing.assert_allclose(
        rebuilt, model.apply({"params": masked(params, masks)}, x), rtol=1e-5, atol=1e-5
    )
    # Nothing that is left could go.
    again = compact(
        lambda p, x: MLP(tuple(widths)).apply({"params": p}, x), small.params, small.masks, x
    )
    assert again.shapes == small.shapes


class Vgg(nn.Module):
    """Convolutions with batch normalization, one without padding, pooling, flattening."""

    widths: tuple[int, ...] = (6, 8, 10, 12)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits."""
        for i, width in enumerate(self.widths[:3]):
            x = nn.Conv(width, (3, 3), padding="SAME" if i else "VALID", use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=True)(x))
            x = nn.max_pool(x, (2, 2), (2, 2)) if i else nn.avg_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Dense(self.widths[3])(x.reshape(x.shape[0], -1)))
        return nn.Dense(4)(x)


def test_channels_of_a_vgg_are_really_removed() -> None:
    x = jax.random.normal(jax.random.key(1), (2, 18, 18, 3))
    variables = shaken(jax.eval_shape(Vgg().init, jax.random.key(0), x))
    groups = unit_groups(Vgg().apply, variables, x)
    masks = prune_units(groups, variables, unit_norm(groups, variables, order=1), 0.5)
    small = check(Vgg().apply, variables, masks, x)
    assert small.left == ()
    assert small.shapes["params/Conv_1/kernel"] == (3, 3, 3, 4)
    assert small.shapes["batch_stats/BatchNorm_1/mean"] == (4,)
    assert small.shapes["params/Dense_0/kernel"] == (2 * 2 * 5, 6)
    rebuilt = Vgg((3, 4, 5, 6)).apply(small.params, x)
    np.testing.assert_allclose(
        rebuilt, Vgg().apply(masked(variables, masks), x), rtol=1e-5, atol=1e-5
    )
    # It trains on: slopes of the smaller one are the larger one's, where that has weights.
    slopes = jax.jit(jax.grad(lambda p: small.apply(p, x).sum()))(small.params)
    full = jax.jit(jax.grad(lambda p: Vgg().apply(p, x).sum()))(masked(variables, masks))
    keep = np.flatnonzero(np.asarray(masks["params"]["Conv_1"]["kernel"]).any((0, 1, 3)))
    made = np.flatnonzero(np.asarray(masks["params"]["Conv_1"]["kernel"]).any((0, 1, 2)))
    np.testing.assert_allclose(
        slopes["params"]["Conv_1"]["kernel"],
        full["params"]["Conv_1"]["kernel"][:, :, keep][..., made],
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_residual_stages_shrink_together(shortcut: str) -> None:
    model = CifarResNet(depth=8, width=6, classes=3, shortcut=shortcut)
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 2))
    variables = shaken(jax.eval_shape(model.init, jax.random.key(0), x))
    groups = unit_groups(model.apply, variables, x)
    masks = prune_units(groups, variables, unit_norm(groups, variables), 0.4)
    small = check(model.apply, variables, masks, x)
    assert small.left == ()
    stem = small.shapes["params/conv1/kernel"][3]
    assert stem == small.shapes["params/stage1_block1/conv2/kernel"][3] == 4
    assert small.shapes["params/stage1_block1/conv1/kernel"] == (3, 3, 4, 4)
    assert small.shapes["batch_stats/stage1_block1/bn2/mean"] == (4,)
    # One branch alone cannot take a channel away that the other still feeds.
    (group, *_) = [g for g in groups.free if g.name == "params/conv1/kernel"]
    kept = [np.ones(g.units, bool) for g in groups.free]
    whole = unit_masks(groups, variables, kept)
    whole["params"]["stage1_block1"]["conv2"]["kernel"] = (
        whole["params"]["stage1_block1"]["conv2"]["kernel"].at[..., 0].set(False)
    )
    assert compact(model.apply, variables, whole, x).shapes == {
        path: tuple(leaf.shape)
        for path, leaf in zip(small.shapes, jax.tree.leaves(variables), strict=True)
    }
    assert group.units == 6


def test_a_constant_before_a_padded_convolution_stays_and_is_said() -> None:
    """Its border sees zeros, its middle the constant: no bias is equal to that."""
    conv = lambda x, w: jax.lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    params = {
        "a": jnp.ones((3, 3, 1, 2)).at[..., 0].set(0),
        "bias": jnp.array([1.0, -1.0]),
        "c": jnp.ones((3, 3, 2, 1)),
    }
    model_fn = lambda p, x: conv(jax.nn.relu(conv(x, p["a"]) + p["bias"][None, None, None]), p["c"])
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    small = compact(model_fn, params, None, x)
    assert small.shapes["a"] == (3, 3, 1, 2)
    assert [(row.group, row.units, row.reason) for row in small.left] == [
        ("a", 1, "a constant that is not zero")
    ]
    assert "left: 1 of a, a constant that is not zero" in str(small)
    # Below zero, ReLU makes it none.
    params["bias"] = jnp.array([-1.0, -1.0])
    none = {name: optax.MaskedNode() for name in params}
    assert check(model_fn, params, none, x).shapes["a"] == (3, 3, 1, 1)


def test_inputs_and_whole_layers_stay_and_are_said() -> None:
    params = {"a": jnp.ones((3, 2)).at[1].set(0), "b": jnp.zeros((2, 2))}
    model_fn = lambda p, x: jnp.tanh(x @ p["a"]) @ p["b"]
    small = compact(model_fn, params, None, jnp.ones((2, 3)))
    assert small.shapes == {"a": (3, 1), "b": (1, 2)}
    reasons = {row.reason for row in small.left}
    assert reasons == {"not read, but input of the model", "so that the layer is not empty"}


def test_a_kernel_that_is_used_twice_loses_no_row_to_one_use() -> None:
    """Its input is zero the first time, not the second."""
    params = {"a": jnp.zeros((2, 2)), "b": jnp.ones((2, 2)), "shared": jnp.ones((2, 2))}

    def model_fn(p, x):
        return jnp.tanh(x @ p["a"]) @ p["shared"] + jnp.tanh(x @ p["b"]) @ p["shared"]

    small = check(model_fn, params, {n: optax.MaskedNode() for n in params}, jnp.ones((2, 2)))
    assert small.shapes["shared"] == (2, 2)


def test_nnx_with_batch_statistics() -> None:
    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.conv = nnx.Conv(2, 6, (3, 3), rngs=rngs)
            self.norm = nnx.BatchNorm(6, use_running_average=True, rngs=rngs)
            self.inner = nnx.Conv(6, 6, (3, 3), use_bias=False, rngs=rngs)
            self.head = nnx.Linear(6, 3, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            x = nnx.relu(self.norm(self.conv(x)))
            return self.head(nnx.relu(x + self.inner(x)).mean((1, 2)))

    graph, *states = nnx.split(Net(nnx.Rngs(0)), nnx.Param, nnx.BatchStat)
    states = shaken(tuple(states))
    model_fn = lambda states, x: nnx.merge(graph, *states)(x)
    x = jax.random.normal(jax.random.key(1), (2, 5, 5, 2))
    groups = unit_groups(model_fn, states, x)
    assert [group.units for group in groups.free] == [6]
    masks = prune_units(groups, states, unit_norm(groups, states), 0.5)
    small = check(model_fn, states, masks, x)
    assert small.params[0]["inner"]["kernel"][...].shape == (3, 3, 3, 3)
    assert small.params[1]["norm"]["mean"][...].shape == (3,)


def test_bfloat16_and_bad_masks() -> None:
    params = {"a": jnp.ones((2, 3), jnp.bfloat16), "c": jnp.ones((3, 1), jnp.bfloat16)}
    masks = {"a": jnp.array([[True, True, False]] * 2), "c": optax.MaskedNode()}
    model_fn = lambda p, x: jnp.tanh(x @ p["a"]) @ p["c"]
    small = check(model_fn, params, masks, jnp.ones((1, 2), jnp.bfloat16), rtol=1e-2)
    assert small.params["a"].dtype == jnp.bfloat16
    assert small.params["a"].shape == (2, 2)
    with pytest.raises(ValueError, match=r"a has shape \(2, 3\), its mask \(3,\)"):
        compact(model_fn, params, {**masks, "a": jnp.ones(3, bool)}, jnp.ones((1, 2)))


def test_nnx_perceptrons_and_flattened_convolutions() -> None:
    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.conv = nnx.Conv(1, 4, (3, 3), padding="VALID", rngs=rngs)
            self.hidden = nnx.Linear(16, 6, rngs=rngs)
            self.head = nnx.Linear(6, 3, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            x = nnx.max_pool(nnx.relu(self.conv(x)), (2, 2), (2, 2))
            return self.head(nnx.relu(self.hidden(x.reshape(x.shape[0], -1))))

    graph, params = nnx.split(Net(nnx.Rngs(0)))
    params = shaken(params)
    model_fn = lambda params, x: nnx.merge(graph, params)(x)
    x = jax.random.normal(jax.random.key(1), (2, 6, 6, 1))
    groups = unit_groups(model_fn, params, x)
    assert [group.units for group in groups.free] == [4, 6]
    masks = prune_units(groups, params, unit_norm(groups, params), 0.5)
    small = check(model_fn, params, masks, x)
    assert small.params["hidden"]["kernel"][...].shape == (2 * 2 * 2, 3)
    assert small.params["conv"]["bias"][...].shape == (2,)


def test_equinox_has_its_inputs_last() -> None:
    model = eqx.nn.MLP(4, 3, 8, 2, key=jax.random.key(0))
    params, rest = eqx.partition(model, eqx.is_array)
    model_fn = lambda params, x: jax.vmap(eqx.combine(params, rest))(x)
    x = jax.random.normal(jax.random.key(1), (2, 4))
    groups = unit_groups(model_fn, params, x)
    assert [group.units for group in groups.free] == [8, 8]
    masks = prune_units(groups, params, unit_norm(groups, params), 0.5)
    small = check(model_fn, params, masks, x)
    assert small.params.layers[1].weight.shape == (4, 4)
    # The module itself takes whatever widths its arrays have.
    again = jax.vmap(eqx.combine(small.params, rest))(x)
    np.testing.assert_allclose(again, small.apply(small.params, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gate", ["elementwise", "attention"])
def test_a_constant_times_data_is_data(gate: str) -> None:
    """The gate is fed by its bias alone; what passes it varies all the same."""

    def model_fn(params: Any, x: jax.Array) -> jax.Array:
        gates = jax.nn.sigmoid(x @ params["gate"] + params["bias"][None])
        values = jnp.tanh(x @ params["value"])
        mixed = gates * values if gate == "elementwise" else gates @ gates.T @ values
        return mixed @ params["head"] + params["out"][None]

    params = {
        "bias": jnp.array([0.5, -0.5, 1.0]),
        "out": jnp.array([0.1, 0.2]),
        "gate": jnp.zeros((2, 3)),
        "head": jnp.ones((3, 2)),
        "value": jnp.array([[1.0, -1.0, 0.5], [0.3, 0.2, -1.0]]),
    }
    none = {name: optax.MaskedNode() for name in params}
    # (One example: no other could show that the product is no constant.)
    small = check(model_fn, params, none, jnp.array([[1.0, 2.0]]))
    assert small.shapes["head"] == (3, 2)
