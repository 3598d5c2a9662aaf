"""Every optimizer and wrapper of optax: exact zeros, and fresh slots for grown weights, or a word.

Where the slots of an optimizer cannot be cut weight by weight, it is listed in ``WARNS`` and
``sparsify`` says so exactly once.
"""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

import jaxsparse

SHAPE = (6, 10)  # of the one sparse leaf: no other array of any state has it by chance
RATE = 0.1

FACTORIES: dict[str, Callable[[], Any]] = {
    "adabelief": lambda: optax.adabelief(RATE),
    "adadelta": lambda: optax.adadelta(RATE),
    "adagrad": lambda: optax.adagrad(RATE),
    "adam": lambda: optax.adam(RATE),
    "adamax": lambda: optax.adamax(RATE),
    "adamw": lambda: optax.adamw(RATE),
    "adan": lambda: optax.adan(RATE),
    "ademamix": lambda: contrib.ademamix(RATE),
    "adopt": lambda: contrib.adopt(RATE),
    "amsgrad": lambda: optax.amsgrad(RATE),
    "dadapt_adamw": lambda: contrib.dadapt_adamw(RATE),
    "fromage": lambda: optax.fromage(RATE),
    "lamb": lambda: optax.lamb(RATE),
    "lars": lambda: optax.lars(RATE, momentum=0.9),
    "lion": lambda: optax.lion(RATE),
    "muon": lambda: contrib.muon(RATE),
    "nadamw": lambda: optax.nadamw(RATE),
    "noisy_sgd": lambda: optax.noisy_sgd(RATE, key=0),
    "polyak_sgd": lambda: optax.polyak_sgd(RATE),
    "prodigy": lambda: contrib.prodigy(RATE),
    "radam": lambda: optax.radam(RATE),
    "rmsprop": lambda: optax.rmsprop(RATE, initial_scale=1.0),
    "rprop": lambda: optax.rprop(RATE),
    "schedule_free": lambda: contrib.schedule_free_adamw(RATE),
    "sgd": lambda: optax.sgd(RATE),
    "sgd momentum": lambda: optax.sgd(RATE, momentum=0.9, nesterov=True),
    "yogi": lambda: optax.yogi(RATE),
    # wrappers inside
    "apply_if_finite": lambda: optax.apply_if_finite(optax.adam(RATE), 3),
    "chain with clipping": lambda: optax.chain(
        optax.clip_by_global_norm(1.0), optax.add_decayed_weights(0.1), optax.adam(RATE)
    ),
    "ema": lambda: optax.chain(optax.sgd(RATE), optax.ema(0.9)),
    "inject_hyperparams": lambda: optax.inject_hyperparams(optax.adamw)(lambda step: RATE),
    "inject_hyperparams adagrad": lambda: optax.inject_hyperparams(optax.adagrad)(RATE),
    "masked": lambda: optax.masked(optax.adam(RATE), {"bias": False, "kernel": True}),
    "masked away": lambda: optax.masked(optax.adam(RATE), {"bias": True, "kernel": False}),
    "mechanize": lambda: contrib.mechanize(optax.adam(RATE)),
    "MultiSteps": lambda: optax.MultiSteps(optax.adam(RATE), 2).gradient_transformation(),
    "named_chain": lambda: optax.named_chain(
        ("clip", optax.clip(1.0)), ("adagrad", optax.adagrad(RATE))
    ),
    "partition": lambda: optax.partition(
        {"a": optax.adagrad(RATE), "b": optax.sgd(RATE)}, {"bias": "b", "kernel": "a"}
    ),
    "reduce_on_plateau": lambda: optax.chain(optax.adam(RATE), contrib.reduce_on_plateau()),
}
# Statistics of rows, columns, whole leaves or concatenated leaves; or a state that hides them.
WARNS: dict[str, Callable[[], Any]] = {
    "adafactor": lambda: optax.adafactor(RATE),
    "adafactor factored": lambda: optax.adafactor(RATE, min_dim_size_to_factor=2),
    "flatten": lambda: optax.flatten(optax.adam(RATE)),
    "galore": lambda: contrib.galore(RATE),
    # Its structural options must be static, with or without sparsify.
    "inject_hyperparams adafactor": lambda: optax.inject_hyperparams(
        optax.adafactor, static_args=("min_dim_size_to_factor", "multiply_by_parameter_scale")
    )(RATE),
    "lbfgs": lambda: optax.lbfgs(RATE, linesearch=None),
    "novograd": lambda: optax.novograd(RATE),
    "sm3": lambda: optax.sm3(RATE),
}


@pytest.fixture(scope="module", autouse=True)
def forget_programs(quick_compilation: None) -> Iterator[None]:
    """None of these is of a method of the registry."""
    yield
    jax.clear_caches()


@pytest.fixture(autouse=True)
def standard_promotion() -> Iterator[None]:
    """Some optimizers broadcast inside; that is theirs to decide."""
    with jax.numpy_rank_promotion("allow"):
        yield


def tree(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    return {"bias": draw(10), "kernel": draw(*SHAPE)}


def method() -> jaxsparse.MaskAlgorithm:
    """Swaps half of 18 weights at steps 1, 3, 5, ...; no dropped weight comes back at once."""
    return jaxsparse.rigl(
        0.7,
        update=jaxsparse.every(2, start=1),
        drop_fraction=0.5,
        trains_on_update=True,
        regrow_dropped=False,
    )


def train(tx: Any, state: Any, steps: int = 6) -> Iterator[tuple[Any, Any, Any]]:
    """The masks before a step, the parameters and the state after it; zeros and counts checked."""

    @jax.jit
    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params, value=jnp.float32(1.0))
        return optax.apply_updates(params, updates), state

    params = tree(0)
    for number in range(steps):
        before = jaxsparse.masks_of(state)["kernel"]
        shapes = jax.tree.map(jax.typeof, state)
        params, state = step(params, state, tree(number + 1))
        mask = jaxsparse.masks_of(state)["kernel"]
        assert int(mask.sum()) == 18
        assert not np.any(np.asarray(params["kernel"])[~np.asarray(mask)])
        assert np.isfinite(params["kernel"]).all()
        assert jax.tree.map(jnp.result_type, shapes) == jax.tree.map(jnp.result_type, state)
        yield np.asarray(before), params, state


def slots(state: Any) -> list[np.ndarray]:
    """Whatever has the shape of the sparse leaf: found without optax's help."""
    floats = [leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return [np.asarray(leaf) for leaf in floats if leaf.shape == SHAPE]


@pytest.mark.parametrize("name", FACTORIES)
def test_grown_weights_have_fresh_slots(name: str) -> None:
    inner = FACTORIES[name]()
    tx = jaxsparse.sparsify(inner, method())
    swaps, moved = 0, False
    for before, params, state in train(tx, jax.jit(tx.init)(tree(0))):
        mask = np.asarray(state.masks["kernel"])
        grown = mask & ~before
        swaps += int(grown.sum())
        assert not np.any(np.asarray(params["kernel"])[grown])
        first = slots(inner.init(params))
        for slot, start in zip(slots(state.inner_state), first, strict=True):
            np.testing.assert_array_equal(slot[grown], start[grown])
            moved = moved or bool(np.any(slot[mask] != start[mask]))
    assert swaps == 27
    assert moved == bool(first)  # where there are slots, training fills them


@pytest.mark.parametrize("name", WARNS)
def test_slots_that_cannot_be_reset_are_told_of_exactly_once(name: str) -> None:
    tx = jaxsparse.sparsify(WARNS[name](), method())
    with pytest.warns(UserWarning, match="cannot be reset weight by weight") as told:
        state = tx.init(tree(0))
    assert len(told) == 1
    assert "\n" not in str(told[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for before, params, after in train(tx, state):
            grown = np.asarray(after.masks["kernel"]) & ~before
            assert not np.any(np.asarray(params["kernel"])[grown])


@pytest.mark.parametrize("name", WARNS)
def test_masks_that_never_change_need_no_warning(name: str) -> None:
    tx = jaxsparse.sparsify(WARNS[name](), jaxsparse.static(0.7))
    assert int(tx.init(tree(0)).masks["kernel"].sum()) == 18


def _inner() -> Any:
    return jaxsparse.sparsify(optax.adagrad(RATE), method())


OUTSIDE: dict[str, Callable[[], Any]] = {
    "apply_if_finite": lambda: optax.apply_if_finite(_inner(), 3),
    "chain": lambda: optax.chain(optax.clip_by_global_norm(1.0), _inner()),
    "named_chain": lambda: optax.named_chain(("clip", optax.clip(1.0)), ("sparse", _inner())),
    "inject_hyperparams": lambda: optax.inject_hyperparams(
        lambda rate: jaxsparse.sparsify(optax.adagrad(rate), method())
    )(rate=RATE),
    "masked": lambda: optax.chain(
        optax.masked(_inner(), {"bias": False, "kernel": True}),
        optax.masked(optax.sgd(RATE), {"bias": True, "kernel": False}),
    ),
    "partition": lambda: optax.partition(
        {"a": _inner(), "b": optax.sgd(RATE)}, {"bias": "b", "kernel": "a"}
    ),
    "partition of two": lambda: optax.partition(
        {"a": _inner(), "b": jaxsparse.sparsify(optax.sgd(RATE), jaxsparse.dense())},
        {"bias": "b", "kernel": "a"},
    ),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_wrappers_around_it(name: str) -> None:
    tx, swaps = OUTSIDE[name](), 0
    for before, params, state in train(tx, jax.jit(tx.init)(tree(0))):
        grown = np.asarray(jaxsparse.masks_of(state)["kernel"]) & ~before
        swaps += int(grown.sum())
        (sums,) = slots(state)
        assert (sums[grown] == np.float32(0.1)).all()
        assert not np.any(np.asarray(params["kernel"])[grown])
    assert swaps == 27
    assert int(jaxsparse.sparsity_states(state)[0].sparse_step) == 6


def test_multi_steps_around_it_counts_whole_steps() -> None:
    tx = optax.MultiSteps(_inner(), 2)
    params = jaxsparse.apply_masks(tree(0), jaxsparse.masks_of(state := jax.jit(tx.init)(tree(0))))
    step = jax.jit(tx.update)
    for number in range(8):
        before = jaxsparse.masks_of(state)["kernel"]
        updates, state = step(tree(number + 1), state, params)
        params = optax.apply_updates(params, updates)
        mask = jaxsparse.masks_of(state)["kernel"]
        assert int(optax.tree.get(state, "sparse_step")) == (number + 1) // 2
        assert bool((mask != before).any()) == (number in (3, 7))
        assert not np.any(np.asarray(params["kernel"])[~np.asarray(mask)])


def test_apply_if_finite_around_it_hides_a_bad_step() -> None:
    tx = optax.apply_if_finite(_inner(), 3)
    state = jax.jit(tx.init)(tree(0))
    bad = jax.tree.map(lambda leaf: leaf * jnp.nan, tree(1))
    updates, after = jax.jit(tx.update)(bad, state, tree(0))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(updates))
    assert int(optax.tree.get(after, "sparse_step")) == 0
    assert int(optax.tree.get(after, "total_notfinite")) == 1
    np.testing.assert_array_equal(
        jaxsparse.masks_of(after)["kernel"], jaxsparse.masks_of(state)["kernel"]
    )


@pytest.mark.parametrize("keep", ["initial", "keep", 2.0])
def test_grown_slots_may_be_kept_or_offset(keep: Any) -> None:
    """RigL's published options: initial, as they are, or initial plus a multiple of gradients."""
    rigl = jaxsparse.rigl(
        0.7,
        update=jaxsparse.at(1),
        drop_fraction=0.5,
        trains_on_update=True,
        regrow_dropped=False,
        grown_slots=keep,
    )
    tx = jaxsparse.sparsify(optax.adagrad(RATE, initial_accumulator_value=0.5), rigl)
    states = [state for _, _, state in train(tx, jax.jit(tx.init)(tree(0)), 2)]
    grown = np.asarray(states[1].masks["kernel"] & ~states[0].masks["kernel"])
    assert grown.sum() == 9
    expected = {
        "initial": np.full(SHAPE, 0.5, np.float32),
        "keep": slots(states[0].inner_state)[0],
        2.0: 0.5 + 2.0 * np.asarray(tree(2)["kernel"]),
    }[keep]
    np.testing.assert_allclose(slots(states[1].inner_state)[0][grown], expected[grown], rtol=1e-6)


def test_a_paused_step_leaves_the_optimizer_as_it_was() -> None:
    """RigL's update step does not train: counts, moments and kept weights stand still."""
    rigl = jaxsparse.rigl(0.7, update=jaxsparse.at(1), drop_fraction=0.5, regrow_dropped=False)
    tx = jaxsparse.sparsify(optax.adam(RATE), rigl)
    (_, params, state), (_, later, after) = train(tx, jax.jit(tx.init)(tree(0)), 2)
    stayed = np.asarray(state.masks["kernel"] & after.masks["kernel"])
    assert int(optax.tree.get(state, "count")) == int(optax.tree.get(after, "count")) == 1
    np.testing.assert_array_equal(later["bias"], params["bias"])
    pairs = zip(slots(state.inner_state), slots(after.inner_state), strict=True)
    for old, new in [*pairs, (np.asarray(params["kernel"]), np.asarray(later["kernel"]))]:
        np.testing.assert_array_equal(new[stayed], old[stayed])
        assert not new[np.asarray(after.masks["kernel"] & ~state.masks["kernel"])].any()
