"""linen, nnx, Equinox, Haiku and plain dicts: each trains, sparse, the way its users write it."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import flax.linen as nn
import flax.serialization
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx

import jaxsparse
from jaxsparse import TrainState, masks_of

pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")

STEPS, INPUTS, HIDDEN, CLASSES = 40, 12, 16, 3
# 240 weights in two kernels at 75 %: 60 stay.
KEPT = 60
NAMES = {"first/bias", "first/kernel", "second/bias", "second/kernel"}


@pytest.fixture(autouse=True)
def broadcasting() -> Iterator[None]:
    """Models add biases of one dimension to activations of two."""
    with jax.numpy_rank_promotion("allow"):
        yield


def data() -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, 64)
    centers = 2 * rng.normal(size=(CLASSES, INPUTS))
    inputs = centers[labels] + rng.normal(size=(64, INPUTS))
    return jnp.asarray(inputs, jnp.float32), jnp.asarray(labels)


def loss_of(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def transformation() -> optax.GradientTransformationExtraArgs:
    return jaxsparse.sparsify(
        optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2)),
        jaxsparse.rigl(
            0.75,
            update=jaxsparse.every(5, start=5, stop=30),
            drop_fraction=optax.cosine_decay_schedule(0.3, 30),
        ),
        seed=1,
    )


def check(params: Any, state: Any, losses: list[Any]) -> None:
    """A lower loss, exact zeros, exact counts, and masks that moved."""
    masks = masks_of(state)
    rows = jaxsparse.summary(params, masks)
    assert (rows.kept, rows.size) == (KEPT, 240)
    kernels = [np.asarray(leaf) for leaf in jax.tree.leaves(params) if jnp.ndim(leaf) == 2]
    marks = [np.asarray(mask) for mask in jax.tree.leaves(masks)]
    for kernel, mask in zip(kernels, marks, strict=True):
        assert kernel.shape == mask.shape
        assert not kernel[~mask].any()
    assert sum(int((kernel != 0).sum()) for kernel in kernels) in range(KEPT // 2, KEPT + 1)
    (own,) = jaxsparse.sparsity_states(state)
    assert (int(own.info.updates), int(own.info.skipped)) == (5, 0)
    assert int(own.sparse_step) == STEPS
    assert float(losses[-1]) < 0.5 * float(losses[0])


def paths(params: Any, masks: Any) -> set[str]:
    return {row.path for row in jaxsparse.summary(params, masks).rows}


# --- plain dicts ---------------------------------------------------------------------------------


def dict_params() -> dict[str, Any]:
    keys = jax.random.split(jax.random.key(0))
    draw = jax.nn.initializers.lecun_normal()
    return {
        "first": {"kernel": draw(keys[0], (INPUTS, HIDDEN)), "bias": jnp.zeros(HIDDEN)},
        "second": {"kernel": draw(keys[1], (HIDDEN, CLASSES)), "bias": jnp.zeros(CLASSES)},
    }


def dict_apply(params: Any, inputs: jax.Array) -> jax.Array:
    hidden = nn.relu(inputs @ params["first"]["kernel"] + params["first"]["bias"])
    return hidden @ params["second"]["kernel"] + params["second"]["bias"]


def optax_loop(params: Any, loss: Callable[[Any], jax.Array]) -> tuple[Any, Any, list[Any]]:
    tx = transformation()
    state, losses = jax.jit(tx.init)(params), []

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        value, grads = jax.value_and_grad(loss)(jaxsparse.forward_params(params, state))
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    for _ in range(STEPS):
        params, state, value = step(params, state)
        losses.append(value)
    return params, state, losses


def test_plain_dicts() -> None:
    inputs, labels = data()
    result = optax_loop(dict_params(), lambda params: loss_of(dict_apply(params, inputs), labels))
    check(*result)
    assert paths(result[0], result[1].masks) == NAMES


# --- flax.linen ----------------------------------------------------------------------------------


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Dense(HIDDEN, name="first")(x))
        return nn.Dense(CLASSES, name="second")(x)


def linen_state() -> TrainState:
    params = Linen().init(jax.random.key(0), data()[0])["params"]
    return TrainState.create(apply_fn=Linen().apply, params=params, tx=transformation())


@jax.jit
def linen_step(state: TrainState, inputs: Any, labels: Any) -> tuple[TrainState, Any]:
    def loss(params: Any) -> Any:
        return loss_of(state.apply_fn({"params": params}, inputs), labels)

    value, grads = jax.value_and_grad(loss)(state.forward_params)
    return state.apply_gradients(grads=grads), value


def test_linen_train_state() -> None:
    state, losses = linen_state(), []
    kernel, mask = state.params["first"]["kernel"], state.masks["first"]["kernel"]
    assert not np.asarray(kernel)[~np.asarray(mask)].any()  # sparse before the first step
    for _ in range(STEPS):
        state, value = linen_step(state, *data())
        losses.append(value)
    check(state.params, state.opt_state, losses)
    assert masks_of(state)["first"]["bias"] == optax.MaskedNode()
    assert paths(state.params, state.masks) == NAMES


def test_linen_boxed_parameters() -> None:
    """Sharding metadata around parameters: the paths are as without."""
    dense = nn.Dense(
        HIDDEN, kernel_init=nn.with_partitioning(nn.initializers.lecun_normal(), (None, "model"))
    )
    boxed = dense.init(jax.random.key(0), data()[0])["params"]
    tx = transformation()
    state = tx.init(boxed)
    updates, state = tx.update(boxed, state, boxed)
    params = optax.apply_updates(boxed, updates)
    assert isinstance(params["kernel"], nn.Partitioned)
    assert paths(params, state.masks) == {"bias", "kernel"}
    assert int((params["kernel"].value != 0).sum()) == 48
    assert params["kernel"].names == (None, "model")


# --- flax.nnx ------------------------------------------------------------------------------------


class Nnx(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first = nnx.Linear(INPUTS, HIDDEN, rngs=rngs)
        self.second = nnx.Linear(HIDDEN, CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.second(nnx.relu(self.first(x)))


def test_nnx_optimizer() -> None:
    model = Nnx(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, transformation(), wrt=nnx.Param)

    @nnx.jit
    def step(model: Nnx, optimizer: nnx.Optimizer, inputs: Any, labels: Any) -> Any:
        value, grads = nnx.value_and_grad(lambda model: loss_of(model(inputs), labels))(model)
        optimizer.update(model, grads)
        return value

    losses = [step(model, optimizer, *data()) for _ in range(STEPS)]
    params = nnx.state(model, nnx.Param)
    check(params, optimizer.opt_state, losses)
    assert paths(params, masks_of(optimizer.opt_state)) == NAMES
    applied = jaxsparse.apply_masks(params, masks_of(optimizer.opt_state))
    for mine, its in zip(jax.tree.leaves(applied), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(mine, its)


# --- Equinox -------------------------------------------------------------------------------------


class Layer(eqx.Module):
    bias: jax.Array
    kernel: jax.Array

    def __call__(self, x: jax.Array) -> jax.Array:
        return x @ self.kernel + self.bias


class Equinox(eqx.Module):
    first: Layer
    second: Layer
    activation: Callable[[jax.Array], jax.Array]

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.second(self.activation(self.first(x)))


def test_equinox_modules() -> None:
    start = dict_params()
    model = Equinox(Layer(**start["first"]), Layer(**start["second"]), jax.nn.relu)
    tx, losses = transformation(), []
    state = tx.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(model: Equinox, state: Any, inputs: Any, labels: Any) -> Any:
        value, grads = eqx.filter_value_and_grad(lambda m: loss_of(m(inputs), labels))(model)
        updates, state = tx.update(grads, state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, updates), state, value

    for _ in range(STEPS):
        model, state, value = step(model, state, *data())
        losses.append(value)
    check(eqx.filter(model, eqx.is_inexact_array), state, losses)
    assert paths(eqx.filter(model, eqx.is_inexact_array), state.masks) == NAMES


def test_equinox_own_layers() -> None:
    """``eqx.nn.MLP``: lists of layers, (out, in) weights."""
    mlp = eqx.nn.MLP(INPUTS, CLASSES, HIDDEN, 1, key=jax.random.key(0))
    params, static = eqx.partition(mlp, eqx.is_inexact_array)
    inputs, labels = data()
    params, state, losses = optax_loop(
        params, lambda p: loss_of(jax.vmap(eqx.combine(p, static))(inputs), labels)
    )
    check(params, state, losses)
    assert paths(params, state.masks) == {
        "layers/0/weight", "layers/0/bias", "layers/1/weight", "layers/1/bias"
    }  # fmt: skip


# --- Haiku ---------------------------------------------------------------------------------------


def test_haiku() -> None:
    inputs, labels = data()

    def network(x: jax.Array) -> jax.Array:
        return hk.Linear(CLASSES, name="second")(jax.nn.relu(hk.Linear(HIDDEN, name="first")(x)))

    model = hk.without_apply_rng(hk.transform(network))
    params = model.init(jax.random.key(0), inputs)
    params, state, losses = optax_loop(params, lambda p: loss_of(model.apply(p, inputs), labels))
    check(params, state, losses)
    assert paths(params, state.masks) == {"first/w", "first/b", "second/w", "second/b"}


# --- the same masks, and checkpoints -------------------------------------------------------------


def test_frameworks_draw_the_same_first_masks() -> None:
    """Same names in the same order, same seed: the same masks."""
    tx, start = transformation(), dict_params()
    module = Equinox(Layer(**start["first"]), Layer(**start["second"]), jax.nn.relu)
    trees = [
        start,
        Linen().init(jax.random.key(0), data()[0])["params"],
        nnx.state(Nnx(nnx.Rngs(0)), nnx.Param),
        eqx.filter(module, eqx.is_inexact_array),
    ]
    first, *others = [jax.tree.leaves(tx.init(tree).masks) for tree in trees]
    assert [mask.shape for mask in first] == [(INPUTS, HIDDEN), (HIDDEN, CLASSES)]
    for masks in others:
        jax.tree.map(np.testing.assert_array_equal, masks, first)


@pytest.fixture(scope="module")
def trained() -> TrainState:
    with jax.numpy_rank_promotion("allow"):
        state = linen_state()
        for _ in range(7):
            state, _ = linen_step(state, *data())
    return state


def assert_same_state(first: Any, second: Any) -> None:
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        assert jnp.result_type(a) == jnp.result_type(b)
        np.testing.assert_array_equal(a, b)


def assert_goes_on_alike(first: TrainState, second: TrainState) -> None:
    """Ten more steps, two more drop/grow updates, bit for bit."""
    for _ in range(10):
        first, _ = linen_step(first, *data())
        second, _ = linen_step(second, *data())
    assert int(first.sparsity_info.updates) == 3
    assert_same_state(first, second)


def test_deepcopy(trained: TrainState) -> None:
    other = copy.deepcopy(trained.opt_state)
    assert_same_state(other, trained.opt_state)
    assert type(other) is jaxsparse.SparsityState
    assert_goes_on_alike(trained.replace(opt_state=other), trained)


def test_flax_serialization(trained: TrainState) -> None:
    fresh = jax.tree.map(jnp.zeros_like, trained)
    state = flax.serialization.from_bytes(
        fresh.opt_state, flax.serialization.to_bytes(trained.opt_state)
    )
    assert_same_state(state, trained.opt_state)
    whole = flax.serialization.from_bytes(fresh, flax.serialization.to_bytes(trained))
    assert_same_state(whole, trained)
    assert_goes_on_alike(whole, trained)


def test_orbax_keeps_the_named_tuples(trained: TrainState, tmp_path: Path) -> None:
    target = {"params": trained.params, "opt_state": trained.opt_state, "step": trained.step}
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, target)
    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(7, args=ocp.args.StandardSave(target))
        manager.wait_until_finished()
        found = manager.restore(7, args=ocp.args.StandardRestore(abstract))
    assert type(found["opt_state"]) is jaxsparse.SparsityState
    assert_same_state(found, target)
    assert_goes_on_alike(trained.replace(**found), trained)


@pytest.mark.parametrize("name", jaxsparse.ALGORITHMS)
def test_every_methods_state_survives_bytes_and_copies(name: str) -> None:
    factory, small, *_ = jaxsparse.ALGORITHMS[name]
    tx = jaxsparse.sparsify(optax.adam(1e-2), factory(**small))
    state = jax.jit(tx.init)(dict_params())
    blank = jax.tree.map(jnp.zeros_like, state)
    stored = flax.serialization.to_bytes(state)
    assert_same_state(flax.serialization.from_bytes(blank, stored), state)
    assert_same_state(copy.deepcopy(state), state)
