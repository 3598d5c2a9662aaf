"""``sparsify`` and ``vmap_axes``: what a user can see of the wrapper itself."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import SparsityState, TrainState, sparsify, vmap_axes

pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")


def params_like(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "bias": jnp.asarray(rng.normal(size=5), jnp.float32),
        "kernel": jnp.asarray(rng.normal(size=(8, 5)), jnp.float32),
    }


def swapping(**options: Any) -> jaxsparse.MaskAlgorithm:
    return jaxsparse.rigl(0.5, update=jaxsparse.every(2, start=1), drop_fraction=0.5, **options)


def test_state_names_its_parts() -> None:
    state = sparsify(optax.adam(0.1), jaxsparse.static(0.5), seed=9).init(params_like())
    assert isinstance(state, SparsityState)
    assert (int(state.sparse_step), state.sparse_step.dtype) == (0, jnp.int32)
    assert (int(state.seed), state.seed.dtype) == (9, jnp.uint32)
    assert int(optax.tree.get(state, "seed")) == 9
    assert state.memory == ()
    assert int(optax.tree.get(state, "count")) == 0  # no field of ours hides the optimizer's


def test_missing_params_are_named() -> None:
    tx = sparsify(optax.sgd(0.1), jaxsparse.static(0.5))
    state = tx.init(params_like())
    with pytest.raises(ValueError, match=r"tx\.update\(grads, state, params\)"):
        tx.update(params_like(), state)


@pytest.mark.parametrize("seed", [-1, 2**32, np.int64(-3)])
def test_seeds_out_of_range_are_refused(seed: int) -> None:
    with pytest.raises(ValueError, match=rf"seed is {seed}; give a whole number in \[0, 2\*\*32\)"):
        sparsify(optax.sgd(0.1), jaxsparse.static(0.5), seed=seed)


def test_the_largest_seeds_differ() -> None:
    make = lambda seed: sparsify(optax.sgd(0.1), jaxsparse.static(0.5), seed=seed)
    first, last, again, half = (
        make(seed).init(params_like()).masks["kernel"]
        for seed in (0, 2**32 - 1, np.uint32(2**32 - 1), 2**31)
    )
    np.testing.assert_array_equal(last, again)
    assert (first != last).any()
    assert (half != last).any()
    assert (half != first).any()


def test_a_traced_seed_is_the_same_seed() -> None:
    init = lambda seed: sparsify(optax.sgd(0.1), jaxsparse.static(0.5), seed=seed)
    traced = jax.jit(lambda seed: init(seed).init(params_like()).masks)
    for seed in (0, 3):
        np.testing.assert_array_equal(
            traced(seed)["kernel"], init(seed).init(params_like()).masks["kernel"]
        )


def test_extra_arguments_reach_the_inner_optimizer() -> None:
    seen = []

    def update(updates: Any, state: Any, params: Any = None, *, value: Any, **extra: Any) -> Any:
        seen.append((value, sorted(extra)))
        return jax.tree.map(lambda u: -value * u, updates), state

    inner = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    tx, params = sparsify(inner, jaxsparse.static(0.5)), params_like()
    state = tx.init(params)
    updates, _ = tx.update(params, state, params, value=2.0, other=1)
    assert seen == [(2.0, ["other"])]
    np.testing.assert_array_equal(updates["bias"], -2.0 * params["bias"])
    mask = state.masks["kernel"]
    np.testing.assert_array_equal(
        updates["kernel"], np.where(mask, -2.0 * params["kernel"], -params["kernel"])
    )


def test_extra_arguments_stop_at_an_optimizer_that_takes_none() -> None:
    tx, params = sparsify(optax.sgd(0.1), jaxsparse.static(0.5)), params_like()
    updates, _ = tx.update(params, tx.init(params), params, value=1.0, grad=None)
    np.testing.assert_allclose(updates["bias"], -0.1 * params["bias"], rtol=1e-6)


def test_the_inner_optimizer_sees_no_gradient_of_absent_weights() -> None:
    tx, params = sparsify(optax.trace(0.9), jaxsparse.static(0.5)), params_like()
    state = tx.init(params)
    _, state = tx.update(jax.tree.map(jnp.ones_like, params), state, params)
    np.testing.assert_array_equal(state.inner_state.trace["kernel"], state.masks["kernel"])
    np.testing.assert_array_equal(state.inner_state.trace["bias"], np.ones(5))


@pytest.mark.parametrize(("weights", "slopes"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_dropped_weights_go_to_zero_whatever_the_gradients_dtype(weights: str, slopes: str) -> None:
    """A bfloat16 ``-p`` would leave the rest of a float32 ``p`` behind."""
    tx = sparsify(optax.sgd(0.25), swapping())
    params = jax.tree.map(lambda leaf: leaf.astype(weights), params_like())
    state, step = tx.init(params), jax.jit(tx.update)
    for number in range(6):
        grads = jax.tree.map(lambda leaf: leaf.astype(slopes), params_like(number + 1))
        updates, state = step(grads, state, params)
        params = optax.apply_updates(params, updates)
        assert params["kernel"].dtype == weights
        assert not np.any(np.asarray(params["kernel"])[~np.asarray(state.masks["kernel"])])
    assert int(state.info.updates) == 3


def test_types_survive_cond_and_scan() -> None:
    """Equal dtypes, weak types and structure: an update may be a branch and a carry."""
    tx = sparsify(optax.adam(0.1), swapping(gradient_steps=2))
    params = params_like()
    carry = (params, tx.init(params))

    def train(carry: Any, grads: Any) -> Any:
        params, state = carry
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    @jax.jit
    def every_other(carry: Any) -> Any:
        def body(carry: Any, step: Any) -> Any:
            return (
                jax.lax.cond(
                    step % 2 == 0, train, lambda carry, grads: carry, carry, params_like(1)
                ),
                None,
            )

        return jax.lax.scan(body, carry, jnp.arange(6))[0]

    _, state = after = every_other(carry)
    assert int(state.sparse_step) == 3
    assert jax.tree.map(jax.typeof, after) == jax.tree.map(jax.typeof, carry)
    assert not any(jax.typeof(leaf).weak_type for leaf in jax.tree.leaves(after))


def test_every_buffer_can_be_donated() -> None:
    """No array is in a state twice; a donated buffer would be used again."""
    tx = sparsify(optax.adam(0.1), swapping(gradient_steps=2))
    params = params_like()

    def train(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    step, plain = jax.jit(train, donate_argnums=(0, 1)), jax.jit(train)
    kept = (params_like(), tx.init(params_like()))
    state = tx.init(params)
    for number in range(4):
        donated = (params, state)
        params, state = step(params, state, params_like(number + 1))
        kept = plain(*kept, params_like(number + 1))
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(donated))
    pairs = zip(jax.tree.leaves((params, state)), jax.tree.leaves(kept), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)


def test_update_is_at_the_weights_that_come_in() -> None:
    """SET drops and then trains: what this step would make large is dropped all the same."""
    method = jaxsparse.sparse_evolutionary(0.5, update=jaxsparse.at(0), drop_fraction=0.5)
    tx = sparsify(optax.sgd(1.0), method)
    params = {"kernel": jnp.ones((4, 4))}
    state = tx.init(params)
    place = np.flatnonzero(state.masks["kernel"])
    large, small = place[:4], place[4:]
    params = {"kernel": jnp.ones(16).at[large].set(2.0).reshape(4, 4)}
    grads = jnp.zeros(16).at[small].set(-9.0).at[large].set(1.0).reshape(4, 4)
    updates, after = tx.update({"kernel": grads}, state, params)
    assert np.asarray(after.masks["kernel"]).flat[large].all()
    new = np.asarray(optax.apply_updates(params, updates)["kernel"])
    np.testing.assert_array_equal(new.flat[large], np.ones(4, np.float32))
    dropped = ~np.asarray(after.masks["kernel"]).flat[small]
    assert dropped.any()
    np.testing.assert_array_equal(new.flat[small][dropped], np.zeros(dropped.sum(), np.float32))


def test_leaves_that_are_not_floating_pass_through() -> None:
    params = {"kernel": jnp.ones((4, 4)), "table": jnp.arange(6).reshape(2, 3)}
    tx = sparsify(optax.sgd(0.5), jaxsparse.static(0.5))
    state = tx.init(params)
    assert state.masks["table"] == optax.MaskedNode()
    grads = {"kernel": jnp.ones((4, 4)), "table": jnp.zeros((2, 3), jnp.int32)}
    updates, _ = tx.update(grads, state, params)
    np.testing.assert_array_equal(
        optax.apply_updates(params, updates)["table"], np.arange(6).reshape(2, 3)
    )


def test_none_leaves_stay_none() -> None:
    params = {"kernel": jnp.ones((4, 4)), "rest": None}
    tx = sparsify(optax.adam(0.5), swapping())
    state = tx.init(params)
    for _ in range(2):
        updates, state = tx.update(params, state, params)
    assert updates["rest"] is None
    assert state.masks["rest"] is None


def test_vmap_axes_share_the_step_alone() -> None:
    tx = sparsify(optax.adam(0.1), swapping())
    state = tx.init(params_like())
    axes = vmap_axes(state)
    assert axes.sparse_step is None
    assert axes.seed == axes.masks["kernel"] == axes.info.updates == 0
    assert vmap_axes(state, 1).masks["kernel"] == 1
    inside = vmap_axes({"opt": (state, jnp.zeros(3)), "other": jnp.zeros(2)})
    assert inside["opt"][0].sparse_step is None
    assert inside["opt"][1] == inside["other"] == 0


def test_vmap_axes_of_a_train_state() -> None:
    tx = sparsify(optax.sgd(0.25), swapping())
    params = params_like()
    create = lambda scale: TrainState.create(
        apply_fn=print, params=jax.tree.map(lambda leaf: scale * leaf, params), tx=tx
    )
    axes = vmap_axes(jax.eval_shape(create, 1.0))
    states = jax.jit(jax.vmap(create, out_axes=axes))(jnp.array([1.0, 2.0]))
    step = jax.jit(
        jax.vmap(lambda s, g: s.apply_gradients(grads=g), in_axes=(axes, None), out_axes=axes)
    )
    for number in range(2):
        states = step(states, params_like(number + 1))
    assert states.opt_state.sparse_step.shape == ()
    assert states.masks["kernel"].shape == (2, 8, 5)
    assert states.sparsity_info.updates.tolist() == [1, 1]


def test_a_step_with_a_seed_axis_updates_only_when_due_as_well() -> None:
    """A conditional would have become a select, and drop/grow run at every step."""
    runs = []

    def counted(key: Any, weight: Any, grad: Any, mask: Any, memory: Any) -> Any:
        jax.debug.callback(lambda: runs.append(1))
        return jnp.abs(weight)

    method = jaxsparse.drop_grow(sparsity=0.5, drop=counted, update=jaxsparse.at([2]))
    tx, params = sparsify(optax.sgd(0.25), method), params_like()
    states = jax.vmap(lambda seed: sparsify(optax.sgd(0.25), method, seed=seed).init(params))
    naive = jax.jit(jax.vmap(tx.update, in_axes=(None, 0, None)))
    state = states(jnp.arange(2))
    seen = []
    for _ in range(4):
        _, state = naive(params, state, params)
        jax.effects_barrier()
        seen.append(len(runs) > 0)
        runs.clear()
    assert seen == [False, False, True, False]
    assert state.info.updates.tolist() == [1, 1]


def test_one_seed_skips_while_the_others_go_on() -> None:
    """A NaN under one seed of a vmap leaves the other seeds alone."""
    tx = sparsify(optax.apply_if_finite(optax.sgd(0.25), 3), swapping())
    params = params_like()
    state = tx.init(params)
    axes = vmap_axes(state)
    stack = lambda leaf, axis: leaf if axis is None else jnp.stack([leaf] * 2)
    states = jax.tree.map(stack, state, axes)
    grads = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), params_like(1))
    bad = {**grads, "bias": grads["bias"].at[1].set(jnp.nan)}
    step = jax.jit(jax.vmap(tx.update, in_axes=(0, axes, None), out_axes=(0, axes)))
    _, states = step(grads, states, params)
    _, after = step(bad, states, params)
    assert after.info.updates.tolist() == [1, 0]
    assert after.info.skipped.tolist() == [0, 1]
    np.testing.assert_array_equal(after.masks["kernel"][1], states.masks["kernel"][1])
    assert (after.masks["kernel"][0] != states.masks["kernel"][0]).any()


def test_a_sweep_over_sparsities_is_one_program() -> None:
    """Budgets may be traced: ``by_path`` with int32 counts under one vmap."""

    def kept_after(count: Any) -> Any:
        distribution = functools.partial(jaxsparse.by_path, rules={"kernel": count})
        method = jaxsparse.rigl(
            0.5, distribution=distribution, update=jaxsparse.at(0), drop_fraction=0.5
        )
        tx, params = sparsify(optax.sgd(0.25), method), params_like()
        _, state = tx.update(params_like(1), tx.init(params), params)
        return state.masks["kernel"].sum()

    assert jax.jit(jax.vmap(kept_after))(jnp.array([1, 7, 40])).tolist() == [1, 7, 40]
