"""Several devices, the way users have them: FSDP, boxed parameters, accumulation, shard_map."""

import functools
import math
import pathlib
import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxsparse

pytestmark = pytest.mark.usefixtures("quick_compilation")

KINDS = pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
# Whatever moves more than a few numbers between devices.
GATHERS = re.compile(r"\b(all-gather|all-to-all|collective-permute|reduce-scatter|sort)[\w-]*\(")
# Eight devices share the first dimension, none, the last of four, the last, and one of a bias.
RAGGED = {"a": (24, 9), "b": (7, 11), "c": (3, 3, 5, 16), "d": (10, 40), "e": (40,)}
# Sharded along the first dimension, the last, and both.
SPECS = {"both": P("data", "model"), "first": P(("data", "model"), None), "last": P(None, "data")}
SHAPES = {"both": (16, 30), "first": (56, 9), "last": (13, 40)}


def mesh_of(kind: AxisType, *shape: int) -> jax.sharding.Mesh:
    return jax.make_mesh(shape, ("data", "model")[: len(shape)], axis_types=(kind,) * len(shape))


def draw(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def sparse(inner: Any = None, start: int = 2) -> optax.GradientTransformationExtraArgs:
    # A power of two: the parameters round alike on every mesh.
    update = jaxsparse.every(2, start=start, stop=100)
    return jaxsparse.sparsify(inner or optax.sgd(0.125), jaxsparse.rigl(0.7, update=update))


def step(tx: Any, params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state


def assert_same(first: Any, second: Any) -> None:
    assert jax.tree.structure(first) == jax.tree.structure(second)
    jax.tree.map(np.testing.assert_array_equal, first, second)


def assert_placed(masks: dict[str, Any], shardings: dict[str, Any]) -> None:
    for name, mask in masks.items():
        if not isinstance(mask, optax.MaskedNode):
            assert mask.sharding.is_equivalent_to(shardings[name], mask.ndim), name
            assert len(mask.sharding.device_set) == 8


def largest(program: str) -> int:
    """Elements of the largest array in a compiled program, of any dtype."""
    shapes = re.findall(r"\b[a-z]+\d*\[([\d,]+)\]", program)
    return max(math.prod(map(int, shape.split(","))) for shape in shapes)


# --- FSDP: each leaf along its largest dimension that eight devices can share --------------------


def fsdp(mesh: jax.sharding.Mesh, leaf: Any) -> NamedSharding:
    fits = [i for i, n in enumerate(leaf.shape) if n % 8 == 0]
    widest = max(fits, key=leaf.shape.__getitem__, default=None)
    return NamedSharding(mesh, P(*["data" if i == widest else None for i in range(leaf.ndim)]))


@functools.cache
def on_one_device(steps: int) -> list[Any]:
    tx, params = sparse(), draw(RAGGED, 0)
    state, compiled = jax.jit(tx.init)(params), jax.jit(functools.partial(step, tx))
    masks = [state.masks]
    for number in range(steps):
        params, state = compiled(params, state, draw(RAGGED, number + 1))
        masks.append(state.masks)
    return jax.device_get([*masks, params])


@KINDS
def test_fsdp_on_ragged_sizes(kind: AxisType) -> None:
    steps, mesh, tx = 5, mesh_of(kind, 8), sparse()
    *masks, last = on_one_device(steps)
    assert any((masks[2]["a"] != masks[3]["a"]).ravel())
    place = functools.partial(fsdp, mesh)
    shardings = jax.tree.map(place, draw(RAGGED, 0))
    assert [tuple(shardings[name].spec).count("data") for name in RAGGED] == [1, 0, 1, 1, 1]
    params, *grads = (jax.device_put(draw(RAGGED, i), shardings) for i in range(steps + 1))
    with jax.set_mesh(mesh):
        asked = jax.tree.map(place, jax.eval_shape(tx.init, params))
        state = jax.jit(tx.init, out_shardings=asked)(params)
        compiled = jax.jit(functools.partial(step, tx)).lower(params, state, grads[0]).compile()
        assert_same(jax.device_get(state.masks), masks[0])
        for number in range(steps):
            params, state = compiled(params, state, grads[number])
            assert_placed(state.masks, shardings)
            assert_same(jax.device_get(state.masks), masks[number + 1])
    assert_placed(params, shardings)
    assert_same(jax.device_get(params), last)
    assert int(state.info.updates) == 2
    assert GATHERS.findall(compiled.as_text()) == []
    assert largest(compiled.as_text()) <= 90  # an eighth of the largest leaf


@KINDS
def test_init_never_makes_a_mask_on_one_device(kind: AxisType) -> None:
    """Of no leaf is there ever more than one device's share, whatever the dtype."""
    mesh, tx, params = mesh_of(kind, 4, 2), sparse(optax.adam(0.125)), draw(SHAPES, 0)
    whole = jax.jit(tx.init).lower(params).compile()
    assert largest(whole.as_text()) == 520
    shardings = {name: NamedSharding(mesh, spec) for name, spec in SPECS.items()}
    by_shape = {shape: shardings[name] for name, shape in SHAPES.items()}
    place = lambda leaf: by_shape.get(leaf.shape, NamedSharding(mesh, P()))
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, shardings)
        asked = jax.tree.map(place, jax.eval_shape(tx.init, placed))
        compiled = jax.jit(tx.init, out_shardings=asked).lower(placed).compile()
        state = compiled(placed)
    # Shares of 60, 63 and 130 weights, of 480, 504 and 520.
    assert largest(compiled.as_text()) <= 130
    assert GATHERS.findall(compiled.as_text()) == []
    assert_placed(state.masks, shardings)
    assert_placed(state.inner_state[0].mu, shardings)
    assert_same(jax.device_get(state.masks), jax.device_get(whole(params).masks))


@KINDS
def test_parameters_on_no_mesh_while_one_is_set(kind: AxisType) -> None:
    tx, params = sparse(), draw(RAGGED, 0)
    with jax.set_mesh(mesh_of(kind, 8)):
        for init in (tx.init, jax.jit(tx.init)):
            assert_same(jax.device_get(init(params).masks), on_one_device(5)[0])


# --- boxed parameters: flax's sharding metadata --------------------------------------------------


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = functools.partial(nn.with_partitioning, nn.initializers.lecun_normal())
        bias = nn.with_partitioning(nn.initializers.zeros, ("model",))
        x = nn.relu(nn.Dense(16, kernel_init=init((None, "model")), bias_init=bias)(x))
        return nn.Dense(8, kernel_init=init(("model", "data")), use_bias=False)(x)


def test_linen_boxes_keep_their_specs() -> None:
    mesh, tx = mesh_of(AxisType.Auto, 4, 2), sparse(optax.adam(1e-2))
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(32, n)).astype(np.float32) for n in (12, 8))
    loss = lambda params: jnp.mean((Linen().apply({"params": params}, x) - y) ** 2)

    @jax.jit
    def train(params: Any, state: Any) -> Any:
        value, grads = jax.value_and_grad(loss)(params)
        return *step(tx, params, state, grads), value

    with jax.set_mesh(mesh), jax.numpy_rank_promotion("allow"):
        params = Linen().init(jax.random.key(0), x)["params"]
        specs = nn.get_partition_spec(params)
        assert specs["Dense_0"] == {"bias": P("model"), "kernel": P(None, "model")}
        abstract = jax.eval_shape(tx.init, params)
        shardings = nn.get_sharding({"params": params, "state": abstract}, mesh)
        params = jax.device_put(params, shardings["params"])
        state = jax.jit(tx.init, out_shardings=shardings["state"])(params)
        losses = []
        for number in range(6):
            if number in (0, 5):
                found = nn.get_partition_spec(state)
                assert found.masks == found.inner_state[0].mu == found.inner_state[0].nu == specs
                mask = state.masks["Dense_1"]["kernel"].value
                assert mask.sharding.is_equivalent_to(shardings["params"]["Dense_1"]["kernel"], 2)
            params, state, value = train(params, state)
            losses.append(float(value))
    assert losses[-1] < losses[0]
    assert int(state.info.updates) == 2
    kernel = params["Dense_1"]["kernel"].value
    assert not np.asarray(kernel)[~np.asarray(state.masks["Dense_1"]["kernel"].value)].any()


class Nnx(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        column = nnx.with_partitioning(nnx.initializers.lecun_normal(), (None, "model"))
        bias = nnx.with_partitioning(nnx.initializers.zeros_init(), ("model",))
        both = {"out_sharding": ("model", "data")}
        self.first = nnx.Linear(12, 16, rngs=rngs, kernel_init=column, bias_init=bias)
        self.second = nnx.Linear(16, 8, rngs=rngs, use_bias=False, kernel_metadata=both)


@KINDS
def test_nnx_metadata_keeps_its_specs(kind: AxisType) -> None:
    tx, specs = sparse(optax.adam(1e-2)), {"first": P(None, "model"), "second": P("model", "data")}
    update = nnx.jit(lambda model, optimizer, grads: optimizer.update(model, grads))
    with jax.set_mesh(mesh_of(kind, 4, 2)):
        model = Nnx(nnx.Rngs(0))
        optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
        for _ in range(4):
            found = nnx.get_partition_spec(nnx.state(optimizer))["opt_state"]
            params, masks = nnx.state(model, nnx.Param), jaxsparse.masks_of(optimizer.opt_state)
            for layer, spec in specs.items():
                assert found["masks"][layer]["kernel"].get_value() == spec
                assert found["inner_state"][0]["mu"][layer]["kernel"].get_value() == spec
                mask, kernel = (t[layer]["kernel"].get_value() for t in (masks, params))
                assert mask.sharding.is_equivalent_to(kernel.sharding, 2)
                assert not kernel.sharding.is_fully_replicated
            update(model, optimizer, jax.tree.map(jnp.ones_like, params))
    assert int(optimizer.opt_state.info.updates[...]) == 1


# --- accumulation, and one program a device ------------------------------------------------------


def whole_numbers(shape: tuple[int, ...], seed: int, times: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(-20, 21, shape).astype(np.float32) * times


def test_accumulated_gradients_are_ranked_as_their_mean() -> None:
    shapes, inner = {"kernel": (16, 20)}, sparse(start=1)
    tx = optax.MultiSteps(inner, 4)
    # Multiples of six: optax's running mean of four of them is exact.
    parts = [{"kernel": whole_numbers((16, 20), i, times=6)} for i in range(16)]
    params = mine = last_only = draw(shapes, 0)
    state, states, other = tx.init(params), inner.init(params), inner.init(params)
    accumulate, whole = (jax.jit(functools.partial(step, t)) for t in (tx, inner))
    for number, part in enumerate(parts):
        before = jaxsparse.masks_of(state)["kernel"]
        params, state = accumulate(params, state, part)
        moved = bool((jaxsparse.masks_of(state)["kernel"] != before).any())
        # Real steps 1 and 3, each at the last of its four calls.
        assert moved == (number in (7, 15))
        if number % 4 == 3:
            mean = {"kernel": sum(p["kernel"] for p in parts[number - 3 : number + 1]) / 4}
            mine, states = whole(mine, states, mean)
            last_only, other = whole(last_only, other, part)
        assert_same(jaxsparse.masks_of(state), states.masks)
        assert int(optax.tree.get(state, "sparse_step")) == (number + 1) // 4
    assert_same([params, state.inner_opt_state], [mine, states])
    assert int(states.info.updates) == 2
    assert (other.masks["kernel"] != states.masks["kernel"]).any()  # else this shows nothing


# Linear in the weights, with whole numbers: every sum is exact, in whatever order.
def correlation(params: Any, batch: Any) -> jax.Array:
    return jnp.mean(jnp.sum((batch["x"] @ params["kernel"]) * batch["y"], -1))


def batch(seed: int) -> dict[str, np.ndarray]:
    return {"x": whole_numbers((64, 16), seed), "y": whole_numbers((64, 12), seed + 100)}


@functools.cache
def whole_batch() -> tuple[Any, Any]:
    """Weights and masks after four steps on one device."""
    tx, params = sparse(start=1), {"kernel": whole_numbers((16, 12), 7)}
    state, one = tx.init(params), jax.jit(functools.partial(step, tx))
    for number in range(4):
        params, state = one(params, state, jax.grad(correlation)(params, batch(number)))
    assert int(state.info.updates) == 2
    return jax.device_get((params, state.masks))


def stacked(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (8, *jnp.shape(leaf))), tree)


@KINDS
@pytest.mark.parametrize("reduced", [True, False])
def test_devices_agree_if_gradients_are_reduced_before_they_are_ranked(
    kind: AxisType, reduced: bool
) -> None:
    """Every device has a state of its own here: nothing else could make them equal."""
    tx, mesh = sparse(start=1), mesh_of(kind, 8)

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    def each(params: Any, state: Any, batch: Any) -> Any:
        params, state = jax.tree.map(lambda leaf: leaf[0], (params, state))
        grads = jax.grad(correlation)(params, batch)
        grads = jax.lax.pmean(grads, "data") if reduced else grads
        return jax.tree.map(lambda leaf: leaf[None], step(tx, params, state, grads))

    first = {"kernel": whole_numbers((16, 12), 7)}
    params, state, compiled = stacked(first), stacked(tx.init(first)), jax.jit(each)
    place = lambda tree: jax.device_put(tree, NamedSharding(mesh, P("data")))
    with jax.set_mesh(mesh):
        params, state = place(params), place(state)
        for number in range(4):
            params, state = compiled(params, state, place(batch(number)))
    weights, masks = jax.device_get((params["kernel"], state.masks["kernel"]))
    if reduced:
        wanted = [tree["kernel"] for tree in whole_batch()]
        assert_same([weights, masks], jax.device_get(stacked(wanted)))
    else:
        assert len({mask.tobytes() for mask in masks}) > 1
        assert {int(mask.sum()) for mask in masks} == {58}  # 30 % of 192, on each


# --- what the documentation says -----------------------------------------------------------------


def test_the_documented_snippets_run() -> None:
    """Placing, accumulation and shard_map, as they stand in docs/optimizers.md."""
    text = (pathlib.Path(__file__).parent.parent / "docs" / "optimizers.md").read_text()
    section = text.partition("## Several devices")[2].partition("\n## ")[0]
    placing, accumulation, mapped = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    names = {"functools": functools, "jax": jax, "jaxsparse": jaxsparse, "optax": optax}

    scope = names | {"params": draw(RAGGED, 0), "tx": sparse()}
    exec(placing, scope)
    assert_placed(scope["state"].masks, jax.tree.map(scope["fsdp"], scope["params"]))
    assert_same(jax.device_get(scope["state"].masks), on_one_device(5)[0])

    exec(accumulation, more := dict(names))
    state = more["tx"].init({"kernel": jnp.ones((20, 10))})
    assert int(jaxsparse.masks_of(state)["kernel"].sum()) == 20

    place = lambda tree, *spec: jax.device_put(tree, NamedSharding(scope["mesh"], P(*spec)))
    params = place({"kernel": whole_numbers((16, 12), 7)})
    scope |= {"loss": correlation, "params": params, "tx": sparse(start=1)}
    exec(mapped, scope)
    with jax.set_mesh(scope["mesh"]):
        state = first = jax.jit(scope["tx"].init)(params)
        for number in range(4):
            params, state = scope["step"](params, state, place(batch(number), "data"))
        assert_same(jax.device_get((params, state.masks)), whole_batch())
        exec(mapped.replace("jax.lax.pmean(", "(lambda grads, axis: grads)("), scope)
        with pytest.raises((TypeError, ValueError), match=r"varying|replicat"):
            scope["step"](scope["params"], first, place(batch(0), "data"))
