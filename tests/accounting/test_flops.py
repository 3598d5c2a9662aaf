"""Operation counts against hand-worked networks, XLA's own count, and published ones."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

from experiments.models import LeNet5
from jaxsparse.accounting import FlopsReport, flops, micronet


def spec(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def rows(report: FlopsReport) -> tuple[Any, ...]:
    """Without the operations that no mask saves: none in a leaf under multiply-add."""
    assert all(row.fixed == (0 if row.shape else row.dense) for row in report.layers)
    return tuple(row[:5] for row in report.layers)


# One square layer on 3 rows: 2 * 3 * 8 * 8 operations, whatever is wrapped around it.
W, X, ONE = {"w": spec(8, 8)}, spec(3, 8), 384


def mlp(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return jax.nn.relu(jax.nn.relu(x @ params["a"] + params["bias"]) @ params["b"]) @ params["c"]


LENET = {"a": spec(784, 300), "b": spec(300, 100), "c": spec(100, 10), "bias": spec(1, 300)}


def test_lenet_300_100_by_hand() -> None:
    report = flops(mlp, LENET, spec(1, 784))
    assert report.dense == report.sparse == 2 * (784 * 300 + 300 * 100 + 100 * 10) == 532_400
    assert report.ratio == 1.0
    assert [row.path for row in report.layers] == ["a", "b", "c"]
    assert rows(report)[0] == ("a", (784, 300), 235_200, 470_400, 470_400)
    assert flops(mlp, LENET, spec(7, 784)).dense == 7 * 532_400


def test_uneven_masks_weigh_each_layer_by_its_own_cost() -> None:
    masks = {"a": 23_520, "b": 15_001, "c": optax.MaskedNode(), "bias": optax.MaskedNode()}
    report = flops(mlp, LENET, spec(5, 784), masks=masks)
    assert report.sparse == 2 * 5 * (23_520 + 15_001 + 1000)
    assert [row.kept for row in report.layers] == [23_520, 15_001, 1000]
    assert report.ratio == report.sparse / report.dense


@pytest.mark.parametrize("module", [np, jnp])
def test_masks_and_their_counts_agree(module: Any) -> None:
    mask = module.asarray(np.random.default_rng(0).random((8, 8)) < 0.3)
    by_mask = flops(lambda p, x: x @ p["w"], W, X, masks={"w": mask})
    kept = int(np.asarray(mask).sum())
    assert by_mask == flops(lambda p, x: x @ p["w"], W, X, masks={"w": kept})
    assert by_mask == flops(lambda p, x: x @ p["w"], W, X, masks={"w": np.int32(kept)})
    assert by_mask.sparse == 2 * 3 * kept


SAME_COST: dict[str, Callable[[Any, Any], Any]] = {
    "jit": lambda p, x: jax.jit(jax.jit(lambda w, x: x @ w))(p["w"], x),
    "checkpoint": lambda p, x: jax.checkpoint(lambda w: jnp.tanh(x @ w))(p["w"]),
    "relu": lambda p, x: jax.nn.relu(x) @ p["w"],
    "gelu": lambda p, x: jax.nn.gelu(x, approximate=False) @ p["w"],
    "custom_jvp": lambda p, x: x @ jax.nn.relu(p["w"]),
    "einsum": lambda p, x: jnp.einsum("bi,oi->ob", x, p["w"]),
    "swapped": lambda p, x: p["w"].T @ x.T,
    "bfloat16": lambda p, x: x.astype(jnp.bfloat16) @ p["w"].astype(jnp.bfloat16),
    "reshaped": lambda p, x: x @ p["w"].reshape(4, 16).reshape(8, 8).T[::-1],
    "vmap over rows": lambda p, x: jax.vmap(lambda row: row @ p["w"])(x),
    "scaled": lambda p, x: x @ (p["w"] / jnp.sqrt(8.0)),
    "straight through": lambda p, x: x @ (p["w"] + lax.stop_gradient(abs(p["w"]) - p["w"])),
    "standardized": lambda p, x: x @ ((p["w"] - p["w"].mean()) / p["w"].std()),
    "constant mask": lambda p, x: x @ (p["w"] * np.eye(8, dtype=np.float32)),
    "barrier": lambda p, x: jnp.matmul(*lax.optimization_barrier((x, p["w"]))),
    "fixed loop": lambda p, x: lax.fori_loop(0, 1, lambda _, x: x @ p["w"], x),
    "cond": lambda p, x: lax.cond(x.sum() > 0, lambda w: x @ w, lambda w: x, p["w"]),
    "named": lambda p, x: x @ jax.named_call(lambda w: w * 2, name="twice")(p["w"]),
}


@pytest.mark.parametrize("name", SAME_COST)
def test_wrapping_changes_neither_cost_nor_attribution(name: str) -> None:
    report = flops(SAME_COST[name], W, X, masks={"w": 16})
    assert rows(report) == (("w", (8, 8), 16, ONE, ONE // 4),)


FILLED: dict[str, Callable[[Any, Any], Any]] = {
    "sum": lambda p, x: x @ (p["w"] + p["v"]),
    "difference": lambda p, x: x @ (p["w"] - 2 * p["v"]).T,
    "low rank": lambda p, x: x @ (p["w"] + p["v"] @ p["v"]),
    "choice": lambda p, x: x @ jnp.where(np.eye(8) > 0, p["w"], p["v"]),
}


@pytest.mark.parametrize("name", FILLED)
def test_what_another_leaf_fills_is_not_saved(name: str) -> None:
    report = flops(FILLED[name], {**W, "v": spec(8, 8)}, X, masks={"w": 16})
    rows = {row.path: row for row in report.layers}
    assert rows["(activations)"].sparse == ONE
    assert report.ratio == 1


def test_custom_vjp() -> None:
    @jax.custom_vjp
    def double(w: jax.Array) -> jax.Array:
        return 2 * w

    double.defvjp(lambda w: (2 * w, None), lambda _, g: (2 * g,))
    assert flops(lambda p, x: x @ double(p["w"]), W, X, masks={"w": 16}).ratio == 0.25


@pytest.mark.parametrize("dtype", [jnp.bool_, jnp.float32])
def test_a_mask_among_the_inputs_keeps_the_attribution(dtype: Any) -> None:
    def masked(params: Any, mask: jax.Array, x: jax.Array) -> jax.Array:
        w = jnp.where(mask, params["w"], 0) if mask.dtype == bool else params["w"] * mask
        return x @ w

    report = flops(masked, W, spec(8, 8, dtype=dtype), X, masks={"w": 16})
    assert rows(report) == (("w", (8, 8), 16, ONE, ONE // 4),)


def test_a_scale_on_activations_is_not_a_kernel() -> None:
    params = {"scale": spec(8), **W}

    def normalized(params: Any, x: jax.Array) -> jax.Array:
        x = x * params["scale"][None]
        return (x @ x.T) @ x @ params["w"]

    report = flops(normalized, params, X, masks={"scale": 1, "w": 16})
    assert [row.path for row in report.layers] == ["(activations)", "w"]
    assert report.layers[0].dense == report.layers[0].sparse == 2 * (3 * 3 * 8) * 2
    assert report.layers[1].sparse == ONE // 4


def test_attention_scores_are_dense_in_both() -> None:
    model = nn.MultiHeadDotProductAttention(num_heads=2)
    x = spec(1, 5, 8)
    variables = jax.eval_shape(model.init, jax.random.key(0), x, x)
    masks = jax.tree.map(lambda w: 0 if w.ndim == 3 else optax.MaskedNode(), variables)
    report = flops(model.apply, variables, x, x, masks=masks)
    assert report.dense == 4 * 2 * 5 * 8 * 8 + 2 * (2 * 5 * 5 * 8)
    assert report.sparse == 2 * (2 * 5 * 5 * 8)
    assert {row.path for row in report.layers} == {
        "(activations)",
        *(f"params/{name}/kernel" for name in ("query", "key", "value", "out")),
    }


@pytest.mark.parametrize(
    ("options", "kernel", "macs"),
    [
        ({"padding": "SAME"}, (3, 3, 4, 6), 2 * 8 * 8 * 6 * 9 * 4),
        ({"padding": "VALID"}, (3, 3, 4, 6), 2 * 6 * 6 * 6 * 9 * 4),
        ({"strides": 2}, (3, 3, 4, 6), 2 * 4 * 4 * 6 * 9 * 4),
        ({"feature_group_count": 2}, (3, 3, 2, 6), 2 * 8 * 8 * 6 * 9 * 2),
        ({"feature_group_count": 4}, (3, 3, 1, 4), 2 * 8 * 8 * 4 * 9),
        ({"kernel_dilation": 2}, (3, 3, 4, 6), 2 * 8 * 8 * 6 * 9 * 4),
    ],
)
def test_convolutions(options: dict[str, Any], kernel: tuple[int, ...], macs: int) -> None:
    model = nn.Conv(kernel[-1], (3, 3), **options)
    variables = jax.eval_shape(model.init, jax.random.key(0), spec(2, 8, 8, 4))
    report = flops(
        lambda v, x: jax.nn.relu(model.apply(v, x)),
        variables,
        spec(2, 8, 8, 4),
        masks={"params": {"kernel": 9}},
    )
    assert report.dense == 2 * macs
    assert report.layers[0][:3] == ("params/kernel", kernel, 9)
    assert report.sparse * np.prod(kernel) == report.dense * 9


def test_transposed_convolution_does_not_multiply_inserted_zeros() -> None:
    model = nn.ConvTranspose(6, (4, 4), strides=(2, 2))
    variables = jax.eval_shape(model.init, jax.random.key(0), spec(1, 8, 8, 3))
    assert flops(model.apply, variables, spec(1, 8, 8, 3)).dense == 2 * 8 * 8 * 4 * 4 * 3 * 6


def test_backward_costs_twice_the_forward() -> None:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            x = nn.relu(nn.Conv(4, (3, 3), strides=2, name="one")(x))
            return nn.Dense(5, name="two")(nn.Conv(6, (3, 3), name="three")(x).reshape(2, -1))

    x = spec(2, 9, 9, 3)
    variables = jax.eval_shape(Net().init, jax.random.key(0), x)
    forward = flops(Net().apply, variables, x)
    loss = lambda v, x: Net().apply(v, x).sum()
    both = flops(jax.grad(loss, argnums=(0, 1)), variables, x)
    assert both.dense == 3 * forward.dense
    # Forward and the gradient of the activations read the kernel, that of the kernel does not.
    read = {row.path: row.dense for row in both.layers}
    for row in forward.layers:
        assert read[row.path] == 2 * row.dense
    assert read["(activations)"] == forward.dense


def test_scan_multiplies_by_its_length() -> None:
    repeated = lambda p, x: lax.scan(lambda c, _: (c @ p["w"], None), x, None, length=7)[0]
    assert rows(flops(repeated, W, X, masks={"w": 16})) == (("w", (8, 8), 16, 7 * ONE, 7 * 96),)


def test_scan_over_stacked_layers() -> None:
    params = {"layers": spec(5, 8, 8)}
    stacked = lambda p, x: lax.scan(lambda c, w: (jnp.tanh(c @ w), c), x, p["layers"])
    report = flops(stacked, params, X, masks={"layers": 77})
    assert rows(report) == (("layers", (5, 8, 8), 77, 5 * ONE, 2 * 3 * 77),)


def test_scan_of_a_carried_weight() -> None:
    def carried(params: Any, x: jax.Array) -> Any:
        return lax.scan(lambda c, _: ((c[0], c[1] @ c[0]), None), (params["w"], x), None, length=2)

    assert flops(carried, W, X).layers[0][:4] == ("w", (8, 8), 64, 2 * ONE)


def test_a_carry_that_becomes_data_is_not_a_weight() -> None:
    def power(params: Any, x: jax.Array) -> Any:
        del x
        return lax.scan(lambda c, _: (c @ c, None), params["w"], None, length=2)

    assert [row.path for row in flops(power, W, X).layers] == ["(activations)"]


def test_while_needs_a_trip_count() -> None:
    def loop(params: Any, x: jax.Array) -> jax.Array:
        return lax.while_loop(lambda x: x.sum() < 9, lambda x: x @ params["w"], x)

    with pytest.raises(ValueError, match="trip count is unknown"):
        flops(loop, W, X)
    assert flops(loop, W, X, while_steps=11).dense == 11 * ONE
    idle = lambda p, x: lax.while_loop(lambda x: x.sum() < 9, lambda x: 2 * x, x) @ p["w"]
    assert flops(idle, W, X).dense == ONE


def test_cond_costs_its_dearest_branch() -> None:
    params = {"w": spec(8, 8), "v": spec(8, 8)}

    def choose(p: Any, x: jax.Array) -> jax.Array:
        return lax.cond(x.sum() > 0, lambda: x @ p["w"], lambda: x @ p["v"] @ p["v"])

    assert rows(flops(choose, params, X)) == (("v", (8, 8), 64, 2 * ONE, 2 * ONE),)


def test_a_shared_leaf_has_one_row() -> None:
    params = {"embedding": spec(100, 8), **W}
    ids = spec(3, dtype=jnp.int32)
    tied = lambda p, ids: p["embedding"][ids] @ p["w"] @ p["w"] @ p["embedding"].T
    report = flops(tied, params, ids, masks={"embedding": 80, "w": 32})
    assert rows(report) == (
        ("w", (8, 8), 32, 2 * ONE, ONE),
        ("embedding", (100, 8), 80, 2 * 3 * 8 * 100, 2 * 3 * 80),
    )


def test_kernels_concatenated_for_one_product_share_it() -> None:
    cell = nn.OptimizedLSTMCell(8)
    x = spec(3, 8)
    carry = (spec(3, 8), spec(3, 8))
    variables = jax.eval_shape(cell.init, jax.random.key(0), carry, x)
    masks = {"params": {"hi": {"kernel": 0}, "if": {"kernel": 16}}}
    report = flops(cell.apply, variables, carry, x, masks=masks)
    assert len(report.layers) == 8
    assert all(row.dense == ONE for row in report.layers)
    assert report.sparse == 6 * ONE + ONE // 4


def test_experts() -> None:
    params = {"experts": spec(4, 8, 6)}
    ragged = lambda p, x, sizes: lax.ragged_dot(x, p["experts"], sizes)
    report = flops(ragged, params, X, spec(4, dtype=jnp.int32), masks={"experts": 48})
    assert rows(report) == (("experts", (4, 8, 6), 48, 2 * 3 * 8 * 6, 2 * 3 * 8 * 6 // 4),)
    routed = lambda p, x, expert: x @ p["experts"][expert]
    assert flops(routed, params, X, spec(dtype=jnp.int32), masks={"experts": 48}) == report


def test_shard_map_counts_every_shard() -> None:
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = jax.shard_map(
        lambda w, x: x @ w, mesh=mesh, in_specs=(P(), P("data")), out_specs=P("data")
    )
    report = flops(lambda p, x: sharded(p["w"], x), W, spec(12, 8), masks={"w": 16})
    assert rows(report) == (("w", (8, 8), 16, 4 * ONE, ONE),)


def test_a_product_that_cannot_be_read_is_an_error() -> None:
    from jax.experimental import pallas as pl

    def kernel(w: Any, x: Any, out: Any) -> None:
        out[...] = jnp.dot(x[...], w[...])

    call = pl.pallas_call(kernel, out_shape=jax.ShapeDtypeStruct((3, 8), jnp.float32))
    with pytest.raises(ValueError, match="inside primitive 'pallas_call'"):
        flops(lambda p, x: call(p["w"], x), W, X)


def test_xla_counts_the_same(key: jax.Array) -> None:
    params = {"a": jnp.ones((64, 128)), "b": jnp.ones((128, 32))}
    linear = lambda p, x: x @ p["a"] @ p["b"]
    x = jax.random.normal(key, (16, 64))
    compiled = jax.jit(linear).lower(params, x).compile().cost_analysis()
    assert flops(linear, params, x).dense == compiled["flops"]
    # Biases and ReLU, which are not counted here, are one operation an element.
    params = {name: jnp.ones(leaf.shape) for name, leaf in LENET.items()}
    x = jnp.ones((4, 784))
    compiled = jax.jit(mlp).lower(params, x).compile().cost_analysis()
    assert 0 <= compiled["flops"] - flops(mlp, params, x).dense <= 4 * (3 * 300 + 100)


def test_xla_counts_the_same_in_convolutions() -> None:
    model = LeNet5()
    variables = jax.eval_shape(model.init, jax.random.key(0), spec(2, 28, 28, 1))
    compiled = jax.jit(model.apply).lower(variables, spec(2, 28, 28, 1)).compile().cost_analysis()
    counted = flops(model.apply, variables, spec(2, 28, 28, 1)).dense
    # Biases, ReLU and pooling: at most seven an output of a convolution, three one of a layer.
    others = 2 * (7 * (24 * 24 * 20 + 8 * 8 * 50) + 3 * 510)
    assert 0 <= compiled["flops"] - counted <= others < counted / 10


def test_equinox() -> None:
    model = eqx.nn.MLP(8, 4, 16, 1, key=jax.random.key(0))
    masks = jax.tree.map(
        lambda w: w.size // 2 if w.ndim == 2 else optax.MaskedNode(),
        eqx.filter(model, eqx.is_array),
    )
    report = flops(lambda model, x: jax.vmap(model)(x), model, X, masks=masks)
    assert rows(report) == (
        ("layers/0/weight", (16, 8), 64, 2 * 3 * 8 * 16, 3 * 8 * 16),
        ("layers/1/weight", (4, 16), 32, 2 * 3 * 16 * 4, 3 * 16 * 4),
    )
    parts = eqx.partition(model, eqx.is_array)
    combined = lambda p, x: jax.vmap(eqx.combine(p, parts[1]))(x)
    assert flops(combined, parts[0], X, masks=masks) == report


def test_nnx() -> None:
    from flax import nnx

    model = nnx.Sequential(nnx.Linear(8, 16, rngs=nnx.Rngs(0)), nnx.relu)
    graph, state = nnx.split(model)
    mask = jnp.arange(128).reshape(8, 16) < 32
    masks = jax.tree.map(lambda w: mask if w.ndim == 2 else optax.MaskedNode(), state)
    report = flops(lambda state, x: nnx.merge(graph, state)(x), state, X, masks=masks)
    assert rows(report) == (("layers/0/kernel", (8, 16), 32, 768, 192),)


def test_inputs_that_are_no_arrays_are_passed_on() -> None:
    model = nn.BatchNorm()
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.ones((3, 8)), True))
    assert flops(model.apply, variables, X, True).layers == ()
    assert flops(model.apply, variables, X, True).ratio == 1.0


def test_printed_report_is_aligned() -> None:
    lines = str(flops(mlp, LENET, spec(1, 784), masks={"a": 23_520})).splitlines()
    assert len(lines) == 5
    assert len({len(line) for line in lines}) == 1
    assert lines[1].split() == ["a", "(784,", "300)", "23,520", "470,400", "47,040", "0.1000"]
    assert lines[-1].split() == ["total", "532,400", "109,040", "0.2048"]


def test_shares_of_other_counts() -> None:
    report = flops(mlp, LENET, spec(1, 784), convention="micronet")
    kept = {"a": jnp.array([23_520, 235_200]), "b": jnp.int32(15_000)}
    shares = jax.jit(lambda kept: report.share(kept))(kept)
    for share, a in zip(shares, (23_520, 235_200), strict=True):
        masked = flops(mlp, LENET, spec(1, 784), masks={"a": a, "b": 15_000}, convention="micronet")
        assert float(share) == pytest.approx(masked.ratio, rel=1e-6)
    with pytest.raises(ValueError, match=r"unknown leaf 'bias'; .*All: a, b, c"):
        report.share({"bias": 3})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"convention": "micronets"}, "unknown convention 'micronets'; did you mean micronet?"),
        ({"convention": micronet(padded_as_image=["v"])}, "pattern 'v' matches none of the 1 leav"),
        ({"masks": {"v": 1}}, "masks have leaves that params have not: v; params have: w"),
        ({"masks": {"w": 65}}, r"w: kept count 65 is outside \[0, 64\]"),
        ({"masks": {"w": np.ones((8, 1), bool)}}, r"expected a bool mask of shape \(8, 8\)"),
        ({"masks": {"w": np.ones((8, 8))}}, "got float"),
        ({"masks": {"w": spec(8, 8, dtype=jnp.bool_)}}, "an abstract mask has no kept count"),
    ],
)
def test_errors_name_what_is_wrong(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        flops(lambda p, x: x @ p["w"], W, X, **options)
