"""Compiled inference gives what the dense model gives, in the forms that are the fastest."""

import functools
from collections.abc import Callable, Mapping
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
from jaxsparse.accelerate import compile_inference, inference
from jaxsparse.accelerate._forms import block_of, forms_of

pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")

DENSE = optax.MaskedNode()
RNG = np.random.default_rng(0)


def normal(*shape: int) -> Any:
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def single(inputs: int, outputs: int) -> Any:
    """A mask of single weights: two a column, and no unit without one."""
    rows = np.arange(inputs)[:, None]
    return jnp.asarray((rows + np.arange(outputs)) % (inputs // 2) == 0)


def blocks(inputs: int, outputs: int, side: int) -> Any:
    """A mask of blocks: two a block column (the last has one), in every block row."""
    units = np.asarray(single(inputs // side, outputs // side)).copy()
    units[np.flatnonzero(units[:, -1])[0], -1] = False
    return jnp.asarray(np.kron(units, np.ones((side, side))) > 0)


def prefer(*names: str) -> inference.Measure:
    """Times by which a form is the fastest, and the whole function layer by layer."""
    order = {"layer by layer": 0.25, "dense": 1.0} | dict.fromkeys(names, 0.5)
    return lambda calls: {name: order.get(name, 2.0) for name in calls}


def masked(params: Any, masks: Any) -> Any:
    return jaxsparse.apply_masks(params, masks)


def chosen(model: Any) -> dict[str, str]:
    return {row.path: row.chosen for row in model.layers}


PARAMS = {"a": normal(32, 16), "bias": normal(16), "b": normal(16, 24)}
MASKS = {"a": blocks(32, 16, 4), "bias": DENSE, "b": single(16, 24)}


def mlp(params: Any, x: Any) -> Any:
    """With nested calls: jit, remat, custom rules."""
    hidden = jax.jit(lambda w, x: x @ w)(params["a"], x) + params["bias"]
    return jax.checkpoint(lambda w, x: jax.nn.silu(jax.nn.relu(x)) @ w)(params["b"], hidden)


@pytest.mark.parametrize(
    ("prefers", "a", "b"),
    [
        (("block-sparse", "condensed"), "block-sparse 4x4", "condensed 2 a column"),
        (("bcsr",), "bcsr", "bcsr"),
        ((), "dense", "dense"),
    ],
)
def test_the_fastest_form_is_chosen_and_right(prefers: Any, a: str, b: str) -> None:
    with jax.numpy_rank_promotion("allow"):
        x = normal(3, 32)
        model = compile_inference(mlp, PARAMS, MASKS, x, measure=prefer(*prefers))
        assert chosen(model) == {"a": a, "b": b}
        assert model.chosen == ("layer by layer" if prefers else "dense")
        for inputs in (x, normal(32)):  # other batches: compiled again
            want = mlp(masked(PARAMS, MASKS), inputs)
            np.testing.assert_allclose(model(inputs), want, rtol=1e-4, atol=1e-4)


def test_off_the_mask_is_zero_and_only_what_is_needed_is_held() -> None:
    model_fn = lambda p, x: x @ p["w"] + x @ p["v"]
    params = {"v": normal(8, 8), "w": normal(8, 8)}
    masks = {"v": DENSE, "w": single(8, 8)}
    model = compile_inference(model_fn, params, masks, normal(1, 8), measure=prefer("condensed"))
    # v, and two slots of values and indices for each of eight columns.
    assert model.bytes == (4 * 64 + 8 * 16, 2 * 4 * 64)
    x = normal(2, 8)
    np.testing.assert_allclose(model(x), model_fn(masked(params, masks), x), rtol=1e-5, atol=1e-5)


class Block(nn.Module):
    """A convolution with a window of one and strides, then attention."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.Conv(8, (1, 1), (2, 1), padding="VALID")(x)
        return nn.MultiHeadDotProductAttention(2)(x.reshape(x.shape[0], -1, 8))


def test_attention_and_pointwise_convolutions() -> None:
    x = normal(2, 4, 3, 8)
    shapes = jax.eval_shape(Block().init, jax.random.key(0), x)
    params = jax.tree.map(lambda leaf: normal(*leaf.shape), shapes)
    flat = lambda shape: single(int(np.prod(shape[:-1])), shape[-1]).reshape(shape)
    masks = jax.tree.map(lambda w: flat(w.shape) if w.ndim > 2 else DENSE, params)
    with jax.numpy_rank_promotion("allow"):
        model = compile_inference(Block().apply, params, masks, x, measure=prefer("condensed"))
        attention = "params/MultiHeadDotProductAttention_0"
        paths = [f"{attention}/{name}/kernel" for name in ("key", "out", "query", "value")]
        assert [row.path for row in model.layers] == ["params/Conv_0/kernel", *paths]
        assert all(row.chosen.startswith("condensed") for row in model.layers)
        want = jax.jit(Block().apply)(masked(params, masks), x)
        np.testing.assert_allclose(model(x), want, rtol=1e-3, atol=1e-3)


def test_half_precision_is_that_of_the_model() -> None:
    layer = nn.Dense(8, use_bias=False, dtype=jnp.bfloat16)
    params, masks = {"params": {"kernel": normal(16, 8)}}, {"params": {"kernel": single(16, 8)}}
    x = normal(2, 16)
    model = compile_inference(layer.apply, params, masks, x, measure=prefer("condensed"))
    # float32 weights are cast where the model does it: before, once. No rows in half precision.
    assert list(model.layers[0].seconds) == ["dense", "condensed"]
    assert model.bytes == (2 * 8 * (2 + 4), 4 * 16 * 8)
    want: Any = layer.apply(masked(params, masks), x)
    assert model(x).dtype == want.dtype == jnp.bfloat16
    np.testing.assert_allclose(model(x).astype(float), want.astype(float), atol=0.05)


def test_nnx() -> None:
    graph, state = nnx.split(nnx.Linear(16, 8, rngs=nnx.Rngs(0)))
    masks = jax.tree.map(lambda w: single(16, 8) if w.ndim > 1 else DENSE, state)
    apply = lambda state, x: nnx.merge(graph, state)(x)
    x = normal(1, 16)
    with jax.numpy_rank_promotion("allow"):
        model = compile_inference(apply, state, masks, x, measure=prefer("condensed"))
        assert chosen(model) == {"kernel": "condensed 2 a column"}
        dense = jax.tree.map(lambda w: w * single(16, 8) if w.ndim > 1 else w, state)
        np.testing.assert_allclose(model(x), apply(dense, x), rtol=1e-4, atol=1e-5)


def test_equinox_with_the_weight_on_the_left() -> None:
    layer = eqx.nn.Linear(16, 8, key=jax.random.key(0))
    params, static = eqx.partition(layer, eqx.is_array)
    masks = jax.tree.map(lambda w: single(16, 8).T if w.ndim > 1 else DENSE, params)
    x = normal(3, 16)
    for apply, example in (
        (lambda p, x: jax.vmap(eqx.combine(p, static))(x), x),
        (lambda p, x: eqx.combine(p, static)(x), x[0]),
    ):
        model = compile_inference(apply, params, masks, example, measure=prefer("condensed"))
        assert chosen(model) == {"weight": "condensed 2 a column"}
        want = apply(eqx.tree_at(lambda p: p.weight, params, layer.weight * masks.weight), example)
        np.testing.assert_allclose(model(example), want, rtol=1e-4, atol=1e-5)


def scanned(params: Any, x: Any) -> Any:
    return jax.lax.scan(lambda x, _: (jnp.tanh(x @ params["w"]), None), x, None, length=3)[0]


def convolved(params: Any, x: Any) -> Any:
    kernel = params["w"].reshape(2, 2, 2, 8)
    return jax.lax.conv_general_dilated(
        x.reshape(-1, 2, 2, 2), kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@pytest.mark.parametrize(
    ("apply", "reason"),
    [
        (scanned, "read by scan"),
        (convolved, "a convolution of 2x2: more than a product"),
        (lambda p, x: p["w"][x.astype(int)[:, 0]], "read by gather"),
        (lambda p, x: x @ (2 * p["w"]), "read by mul"),
        (
            lambda p, x: (x @ (p["w"] @ p["w"]), p["w"]),
            "multiplied by another masked weight, a result",
        ),
        (
            lambda p, x: jax.vmap(jnp.dot)(x.reshape(-1, 2, 4), p["w"].reshape(2, 4, 8)),
            "a batch of",
        ),
        (lambda p, x: jnp.matmul(x, p["w"], precision="highest"), "in a precision of its own"),
        (lambda p, x: x.astype(int) @ p["w"].astype(int), "of type int32"),
        (lambda p, x: x + jnp.inf @ p["w"] if False else (x + jnp.inf) @ p["w"], "not finite"),
        (lambda p, x: x, "not used"),
    ],
)
def test_other_uses_stay_dense_and_say_why(apply: Any, reason: str) -> None:
    params, masks = {"w": normal(8, 8)}, {"w": single(8, 8)}
    x = jnp.asarray(np.arange(16).reshape(2, 8) % 8, jnp.float32)
    model = compile_inference(apply, params, masks, x, measure=prefer("condensed", "bcsr"))
    assert (model.layers[0].chosen, model.chosen, model.bytes) == ("dense", "dense", (256, 256))
    assert reason in model.layers[0].reason
    want = apply(masked(params, masks), x)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), model(x), want)


def test_a_use_more_keeps_the_dense_weight() -> None:
    apply = lambda p, x: scanned(p, x @ p["w"])
    params, masks, x = {"w": normal(8, 8)}, {"w": single(8, 8)}, normal(2, 8)
    model = compile_inference(apply, params, masks, x, measure=prefer("condensed"))
    assert [row.chosen for row in model.layers] == ["condensed 2 a column", "dense"]
    assert model.bytes == (256 + 8 * 16, 256)
    np.testing.assert_allclose(model(x), apply(masked(params, masks), x), rtol=1e-4, atol=1e-5)


def test_one_matrix_used_twice_is_prepared_once() -> None:
    apply = lambda p, x: jnp.tanh(x @ p["w"]) @ p["w"]
    params, masks, x = {"w": normal(8, 8)}, {"w": single(8, 8)}, normal(2, 8)
    model = compile_inference(apply, params, masks, x, measure=prefer("condensed"))
    assert (len(model.layers), model.bytes) == (1, (8 * 16, 256))
    np.testing.assert_allclose(model(x), apply(masked(params, masks), x), rtol=1e-4, atol=1e-5)


def test_units_that_do_nothing_are_taken_out_first() -> None:
    # Units 4 to 7 of the hidden layer have no weights: half of both matrices goes.
    params = {"a": normal(16, 8), "b": normal(8, 8)}
    masks = {"a": single(16, 8) & (jnp.arange(8) < 4)[None], "b": single(8, 8)}
    apply = lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"]
    x = normal(2, 16)
    for layers, name in (({}, "dense"), ({"condensed": 0.1}, "condensed 2 a column")):
        order = {"dense": 1.0, "compacted": 0.5} | layers
        measure = lambda calls, order=order: {name: order.get(name, 2.0) for name in calls}
        model = compile_inference(apply, params, masks, x, measure=measure)
        assert (model.chosen, chosen(model)["a"]) == ("compacted", name)
        assert [row.shape for row in model.layers] == [(16, 4), (4, 8)]
        want = apply(masked(params, masks), x)
        np.testing.assert_allclose(model(x), want, rtol=1e-4, atol=1e-5)


TABLE = """\
layer shape kept chosen dense block-sparse condensed bcsr because
a 32x16 21.9% dense 1.23 ms 1.2 ms 1.3 ms 1.5 ms nothing saves 5%
b 16x24 12.5% condensed 2 a column 1.23 ms 0.4 ms 1.5 ms 3.1 times as fast
the whole function: layer by layer (dense 1.23 ms, layer by layer 1 ms)
weights held: 2,496 bytes (dense: 3,648)"""


def test_the_table() -> None:
    times = {"dense": 1.234e-3, "block-sparse": 1.2e-3, "bcsr": 1.5e-3, "layer by layer": 1e-3}
    condensed = lambda calls: 1.3e-3 if "block-sparse" in calls else 4e-4
    measure = lambda calls: {name: times.get(name, condensed(calls)) for name in calls}
    with jax.numpy_rank_promotion("allow"):
        model = compile_inference(mlp, PARAMS, MASKS, normal(2, 32), measure=measure)
    lines = [" ".join(line.split()) for line in str(model).splitlines()]
    assert lines == TABLE.splitlines()


def test_a_whole_that_is_not_faster_stays_dense() -> None:
    measure = lambda calls: {name: 1.0 if name == "dense" else 0.96 for name in calls}
    params, masks, x = {"w": normal(8, 8)}, {"w": single(8, 8)}, normal(2, 8)
    apply = lambda p, x: x @ p["w"]
    model = compile_inference(apply, params, masks, x, measure=measure)
    assert model.layers[0].reason == "nothing saves 5%"
    seen: list[Mapping[str, Callable[[], Any]]] = []

    def slower_in_all(calls: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
        seen.append(calls)
        return {name: 1.0 if name in ("dense", "layer by layer") else 0.9 for name in calls}

    model = compile_inference(apply, params, masks, x, margin=0.0, measure=slower_in_all)
    assert (model.chosen, model.layers[0].chosen) == ("dense", "dense")
    assert model.layers[0].reason == "1.1 times as fast alone, but not the whole function"
    assert [set(calls) for calls in seen] == [
        {"dense", "condensed", "bcsr"},
        {"dense", "layer by layer"},
    ]
    np.testing.assert_allclose(model(x), apply(masked(params, masks), x), rtol=1e-6)


def test_a_form_that_is_wrong_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    from jaxsparse.accelerate import _forms as forms

    right = forms.condensed_matmul
    monkeypatch.setattr(forms, "condensed_matmul", lambda *parts: 2 * right(*parts))
    params, masks, x = {"w": normal(8, 8)}, {"w": single(8, 8)}, normal(2, 8)
    model = compile_inference(
        lambda p, x: x @ p["w"], params, masks, x, measure=prefer("condensed")
    )
    assert model.layers[0].reason == "nothing saves 5%; not the dense result: condensed"
    assert set(model.layers[0].seconds) == {"dense", "bcsr"}


def test_medians_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = [0.0], []

    def call(name: str, seconds: float) -> None:
        calls.append(name)
        clock[0] += seconds * (10 if len(calls) < 5 else 1)  # the first two rounds are slow

    monkeypatch.setattr(inference.time, "perf_counter", lambda: clock[0])
    functions = {"a": lambda: call("a", 1.0), "b": lambda: call("b", 2.0)}
    assert inference.medians(functions) == {"a": 1.0, "b": 2.0}
    assert calls == ["a", "b"] * 6  # once for nothing, then at least five times


@pytest.mark.parametrize(
    ("shape", "side"), [((8, 8), (4, 4)), ((8, 4), (2, 1)), ((256, 12), (128, 4)), ((9, 8), (3, 8))]
)
def test_blocks_are_found(shape: tuple[int, int], side: tuple[int, int]) -> None:
    units = np.indices([n // s for n, s in zip(shape, side, strict=True)]).sum(0) % 2 == 0
    mask = np.kron(units, np.ones(side)) > 0
    want = {(4, 4): (4, 4), (2, 1): (2, 1), (128, 4): (128, 4), (3, 8): (1, 8)}[side]
    assert block_of(mask) == want


def test_forms_that_store_no_less_are_left_out() -> None:
    full = np.ones((8, 8), bool)
    names = lambda mask: [form.name for form in forms_of("w", np.ones((8, 8), np.float32), mask)]
    assert names(full) == []
    half = full.copy()
    half[:, 1:] = False  # one full column: only compressed rows store less
    assert names(half) == ["bcsr"]
    assert names(np.zeros((8, 8), bool)) == ["condensed", "bcsr"]


def test_inputs_of_another_kind() -> None:
    apply = lambda p, x: x @ p["w"] if x.ndim == 2 else x[0] + p["w"]
    params, masks = {"w": normal(8, 8)}, {"w": single(8, 8)}
    model = compile_inference(apply, params, masks, normal(2, 8), measure=prefer("condensed"))
    with pytest.raises(ValueError, match="w is used otherwise on these inputs than on the example"):
        model(normal(1, 8, 8))


def test_errors() -> None:
    params, masks, x = {"w": normal(8, 8)}, {"w": single(8, 8)}, normal(2, 8)
    apply = lambda p, x: x @ p["w"]
    for margin in (-0.1, 1.0):
        with pytest.raises(ValueError, match="give a part of the dense time"):
            compile_inference(apply, params, masks, x, margin=margin)
    with pytest.raises(ValueError, match="none of the 1 leaves has a mask"):
        compile_inference(apply, params, {"w": DENSE}, x)
    with pytest.raises(ValueError, match=r"w has shape \(8, 8\), its mask \(4, 8\)"):
        compile_inference(apply, params, {"w": single(4, 8)}, x)
    with pytest.raises(ValueError, match="w is traced"):
        jax.jit(lambda p: compile_inference(apply, p, masks, x)(x))(params)
