"""Drop and grow: invariants, NumPy versions of whole updates, and everything that goes wrong."""

from collections.abc import Callable
from typing import Any

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import apply_masks, block, drop_grow, n_m, scores, sparsify, uniform

pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")

SHAPES = {"a": (4, 6), "b": (3, 5)}
KEPT = {"a": 12, "b": 8}  # 39 - floor(39 / 2) = 20 in all


def drop_fraction(step: Any) -> Any:
    """A step of 32 swaps a half: one program for every fraction, without rounding."""
    return step / 64


def build(**choices: Any) -> Any:
    choices = {"grow": scores.gradient_magnitude, "drop_fraction": drop_fraction} | choices
    return drop_grow(sparsity=0.5, distribution=uniform, **choices)


METHODS = {
    "layer": build(),
    "layer-fresh": build(regrow_dropped=False),
    "global": build(scope="global"),
    "global-fresh": build(scope="global", regrow_dropped=False),
}
UPDATES = {name: jax.jit(method.update) for name, method in METHODS.items()}
EVERYWHERE = pytest.mark.parametrize("name", METHODS)
KEY = jax.random.key(3)
START = METHODS["layer"].init(KEY, {name: jnp.zeros(shape) for name, shape in SHAPES.items()})


def numbers(masks: Any) -> dict[str, np.ndarray]:
    return {name: np.asarray(mask) for name, mask in masks.items()}


def move(name: str, masks: Any, weights: Any, grads: Any, step: int) -> tuple[Any, Any]:
    as_arrays = lambda tree: {n: jnp.asarray(x) for n, x in tree.items()}
    masks, info = UPDATES[name](KEY, as_arrays(masks), as_arrays(weights), as_arrays(grads), step)
    return numbers(masks), info


def draws(seed: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Weights and gradients without ties."""
    rng = np.random.default_rng(seed)
    draw = lambda: {n: rng.normal(size=s).astype(np.float32) for n, s in SHAPES.items()}
    return draw(), draw()


def test_initial_masks_keep_the_budget() -> None:
    assert {name: int(mask.sum()) for name, mask in START.items()} == KEPT


# Invariants, with scores full of ties.

few_values = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, 300.0])
values = st.fixed_dictionaries(
    {name: hnp.arrays(np.float32, shape, elements=few_values) for name, shape in SHAPES.items()}
)


@EVERYWHERE
@hypothesis.given(weights=values, grads=values, swap=st.integers(0, 64))
def test_invariants(name: str, weights: Any, grads: Any, swap: int) -> None:
    old = numbers(START)
    new, info = move(name, old, weights, grads, swap)
    dropped = {n: old[n] & ~new[n] for n in SHAPES}
    grown = {n: new[n] & ~old[n] for n in SHAPES}
    count = lambda tree: sum(int(x.sum()) for x in tree.values())
    swapped = sum(swap * kept // 64 for kept in KEPT.values())
    # Ties never change a count: of the whole under "global", of each layer under "layer".
    assert count(new) == 20
    if name.startswith("layer"):
        assert {n: int(x.sum()) for n, x in new.items()} == KEPT
    assert count(dropped) == count(grown) == int(info.dropped) == int(info.grown)
    assert info.kept.tolist() == [x.sum() for x in new.values()]
    if name.endswith("fresh"):
        # As many as there is room for: 19 absent weights, 12 and 7 in the layers.
        rooms = [12, 7] if name.startswith("layer") else [19]
        wanted = [swap * kept // 64 for kept in KEPT.values()]
        wanted = wanted if name.startswith("layer") else [swapped]
        assert count(grown) == sum(min(w, r) for w, r in zip(wanted, rooms, strict=True))
    else:
        assert count(grown) <= swapped


@EVERYWHERE
@hypothesis.given(weights=values, grads=values)
def test_no_drop_is_the_identity(name: str, weights: Any, grads: Any) -> None:
    new, info = move(name, START, weights, grads, 0)
    for leaf in SHAPES:
        np.testing.assert_array_equal(new[leaf], START[leaf])
    assert int(info.dropped) == int(info.grown) == int(info.skipped) == 0
    assert int(info.updates) == 1


@EVERYWHERE
@pytest.mark.parametrize("value", [0.0, 1.0, -7.0])
def test_equal_gradients_and_dead_units_keep_the_count(name: str, value: float) -> None:
    # Growth by `grad * (mask == 0)` picks active weights again: density decays over the updates.
    masks = numbers(START)
    weights = {n: np.ones(s, np.float32) for n, s in SHAPES.items()}
    grads = {n: np.full(s, value, np.float32) for n, s in SHAPES.items()}
    for step in (20, 32, 60):
        masks, _ = move(name, masks, weights, grads, step)
        assert sum(int(mask.sum()) for mask in masks.values()) == 20
        assert name.startswith("global") or {n: int(m.sum()) for n, m in masks.items()} == KEPT


# The same updates, written in NumPy.


def swap_by_sorting(
    weight: np.ndarray, grad: np.ndarray, mask: np.ndarray, swap: int, fresh: bool
) -> np.ndarray:
    """Flat arrays without ties: drop the smallest, grow by the largest gradients."""
    kept = np.flatnonzero(mask)
    survivors = kept[np.argsort(-np.abs(weight[kept]))][: len(kept) - swap]
    taken = np.zeros(mask.shape, bool)
    taken[survivors] = True
    by_gradient = np.argsort(-np.abs(grad))
    candidates = [i for i in by_gradient if not (mask[i] if fresh else taken[i])][:swap]
    taken[candidates] = True
    # Where nothing else is left, what was just dropped.
    rest = [i for i in by_gradient if not taken[i]][: len(kept) - taken.sum()]
    taken[rest] = True
    return taken


@EVERYWHERE
@hypothesis.given(seed=st.integers(0, 2**16), swap=st.integers(0, 64))
def test_update_equals_numpy(name: str, seed: int, swap: int) -> None:
    weights, grads = draws(seed)
    old, fresh = numbers(START), name.endswith("fresh")
    new, _ = move(name, old, weights, grads, swap)
    swaps = {n: swap * kept // 64 for n, kept in KEPT.items()}
    if name.startswith("layer"):
        for n in SHAPES:
            flat = [tree[n].reshape(-1) for tree in (weights, grads, old)]
            want = swap_by_sorting(*flat, swaps[n], fresh)
            np.testing.assert_array_equal(new[n].reshape(-1), want)
    else:
        join = lambda tree: np.concatenate([tree[n].reshape(-1) for n in SHAPES])
        want = swap_by_sorting(*map(join, (weights, grads, old)), sum(swaps.values()), fresh)
        np.testing.assert_array_equal(join(new), want)


def test_dropped_weights_come_back_only_where_nothing_else_is_left() -> None:
    # 7 of 8 are kept, 3 are swapped, but one place alone is free: two of the dropped fill up,
    # those with the largest gradients (weights 0.1, 0.2, 0.3 have gradients 9, 1, 5).
    method = drop_grow(
        sparsity=0.125,
        grow=scores.gradient_magnitude,
        drop_fraction=0.45,
        distribution=uniform,
        regrow_dropped=False,
    )
    masks = {"w": jnp.array([[1, 1, 1, 1], [1, 1, 1, 0]], bool)}
    weights = {"w": jnp.array([[0.1, -0.2, 0.3, 4.0], [5.0, 6.0, 7.0, 0.0]])}
    grads = {"w": jnp.array([[9.0, 1.0, -5.0, 0.0], [0.0, 0.0, 0.0, 0.5]])}
    new, info = jax.jit(method.update)(KEY, masks, weights, grads, 0)
    assert new["w"].astype(int).tolist() == [[1, 0, 1, 1], [1, 1, 1, 1]]
    assert (int(info.dropped), int(info.grown)) == (1, 1)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_with_large_gradients(dtype: Any) -> None:
    # A small number added to tell kept from absent weights is lost beside 1000, and in bfloat16
    # beside 1: kept weights then lose to, or count as, the top gradients.
    masks = {"w": jnp.array([[1, 1, 1, 1], [0, 0, 0, 0]], bool)}
    weights = {"w": jnp.array([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 0.0]], dtype)}
    grads = {"w": jnp.array([[0.0, 0.0, 2048.0, -2048.0], [1024.0, 0.0, -1024.0, 0.0]], dtype)}
    method = build(drop_fraction=0.5)
    new, _ = jax.jit(method.update)(KEY, masks, weights, grads, 0)
    assert new["w"].astype(int).tolist() == [[0, 0, 1, 1], [1, 0, 1, 0]]


# Numbers that are not finite.


@EVERYWHERE
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", ["weights", "grads"])
def test_nothing_moves_where_a_number_is_not_finite(name: str, bad: float, place: str) -> None:
    weights, grads = draws(0)
    {"weights": weights, "grads": grads}[place]["b"][1, 2] = bad
    new, info = move(name, START, weights, grads, 32)
    for leaf in SHAPES:
        np.testing.assert_array_equal(new[leaf], START[leaf])
    assert (int(info.skipped), int(info.updates)) == (1, 0)
    assert int(info.dropped) == int(info.grown) == 0


def test_gradients_of_dense_leaves_count_too() -> None:
    masks = {"bias": optax.MaskedNode(), "w": jnp.array([[True, False], [False, True]])}
    params = {"bias": jnp.ones(2), "w": jnp.ones((2, 2))}
    grads = {"bias": jnp.array([0.0, jnp.nan]), "w": jnp.ones((2, 2))}
    _, info = jax.jit(build().update)(KEY, masks, params, grads, 32)
    assert int(info.skipped) == 1


# Randomness.


def test_initial_masks_are_random_but_fixed_by_the_key() -> None:
    params = {"a": jnp.ones((20, 20)), "b": jnp.ones((20, 20))}
    init = jax.jit(METHODS["layer"].init)
    masks, again, other = init(KEY, params), init(KEY, params), init(jax.random.key(4), params)
    np.testing.assert_array_equal(masks["a"], again["a"])
    for different in (other["a"], masks["b"]):
        # 200 of 400 at random have 100 in common, and a spread of 5.
        assert 70 < int((masks["a"] & different).sum()) < 130
    # Every place is as likely as any other.
    many = jax.vmap(lambda key: METHODS["layer"].init(key, params)["a"])(jax.random.split(KEY, 400))
    often = np.asarray(many).mean(0)
    assert (many.sum((1, 2)) == 200).all()
    assert abs(often - 0.5).max() < 0.13


def test_traced_and_abstract_parameters_give_the_same_masks() -> None:
    arrays = {name: jnp.ones(shape) for name, shape in SHAPES.items()}
    shapes = jax.eval_shape(lambda: arrays)
    eager, traced = METHODS["layer"].init(KEY, shapes), jax.jit(METHODS["layer"].init)(KEY, arrays)
    for name in SHAPES:
        np.testing.assert_array_equal(eager[name], traced[name])


# What grown weights start from, through an optimizer.

OLD = jnp.array([[1, 1, 1, 1], [0, 0, 0, 0]], bool)
WEIGHTS = jnp.array([[0.1, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 0.0]])
GRADS = jnp.array([[0.5, 0.5, 0.5, 0.5], [0.25, -3.0, 0.75, 0.0]])
# The least weight, 0.1, goes; the largest absent gradient, -3, comes.
GROWN = (1, 1)


def step_once(inner: Any, method: Any, slots: float | None = None) -> tuple[Any, Any, Any]:
    """One step from the masks above: old state, new state, new parameters."""
    tx = sparsify(inner, method)
    params = {"bias": jnp.ones(2), "w": WEIGHTS}
    state = tx.init(params)
    inner_state = state.inner_state
    if slots is not None:
        fill = lambda x: jnp.full_like(x, slots) if x.ndim else x
        inner_state = jax.tree.map(fill, inner_state)
    masks = {"bias": optax.MaskedNode(), "w": OLD}
    state = state._replace(masks=masks, inner_state=inner_state)
    updates, new = jax.jit(tx.update)({"bias": jnp.ones(2), "w": GRADS}, state, params)
    assert new.masks["w"].astype(int).tolist() == [[0, 1, 1, 1], [0, 1, 0, 0]]
    return state, new, optax.apply_updates(params, updates)


def rigl(**options: Any) -> Any:
    return jaxsparse.rigl(
        0.5, update=jaxsparse.every(1), drop_fraction=0.25, distribution=uniform, **options
    )


def test_grown_weights_start_at_zero_or_at_what_is_asked() -> None:
    _, _, params = step_once(optax.sgd(0.1), rigl())
    assert params["w"].tolist() == [[0.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 0.0]]

    def half_gradient(key: Any, weight: Any, grad: Any, mask: Any, memory: Any) -> Any:
        return -0.5 * grad

    _, _, params = step_once(optax.sgd(0.1), rigl(grown_values=half_gradient))
    assert params["w"].tolist() == [[0.0, 2.0, 3.0, 4.0], [0.0, 1.5, 0.0, 0.0]]

    def noise(key: Any, weight: Any, grad: Any, mask: Any, memory: Any) -> Any:
        return jax.random.uniform(key, weight.shape, minval=1.0, maxval=2.0)

    _, _, params = step_once(optax.sgd(0.1), rigl(grown_values=noise))
    assert 1 <= float(params["w"][GROWN]) < 2
    assert int((params["w"] != 0).sum()) == 4


@pytest.mark.parametrize(
    ("grown_slots", "of_adagrad", "of_adam"),
    # The optimizers' own initial values are 0.1 and 0; the gradient is -3.
    [("initial", 0.1, 0.0), ("keep", 7.0, 7.0), (2.0, 0.1 - 6.0, -6.0)],
)
def test_slots_of_grown_weights(grown_slots: Any, of_adagrad: float, of_adam: float) -> None:
    method = rigl(grown_slots=grown_slots)
    _, new, _ = step_once(optax.adagrad(0.1), method, slots=7.0)
    slots = [new.inner_state[0].sum_of_squares]
    _, new, _ = step_once(optax.adam(0.1), method, slots=7.0)
    slots += [new.inner_state[0].mu, new.inner_state[0].nu]
    for slot, value in zip(slots, (of_adagrad, of_adam, of_adam), strict=True):
        want = np.full(OLD.shape, 7.0)
        want[GROWN] = value
        np.testing.assert_allclose(slot["w"], want, rtol=1e-6)
        np.testing.assert_array_equal(slot["bias"], [7.0, 7.0])


def test_slots_of_grown_weights_where_the_step_trains() -> None:
    # The optimizer has moved by then: the grown weight's slots start after that.
    _, new, params = step_once(optax.adam(0.1), rigl(trains_on_update=True), slots=7.0)
    assert int(new.inner_state[0].count) == 1
    assert float(new.inner_state[0].mu["w"][GROWN]) == 0.0
    assert float(params["w"][GROWN]) == 0.0
    assert not np.array_equal(params["w"][0, 1:], WEIGHTS[0, 1:])


# Bad input.


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"drop_fraction": 1.5}, r"drop_fraction is 1.5; it must lie in \[0, 1\]"),
        ({"drop_fraction": -0.1}, r"drop_fraction is -0.1; it must lie in \[0, 1\]"),
        ({"scope": "global", "structure": n_m(keep=2, of=4)}, "exclude each other; use 'layer'"),
    ],
)
def test_bad_choices(choices: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        build(**choices)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("sparsity", [1.0, -0.5, 90.0])
@pytest.mark.parametrize(
    "factory", [jaxsparse.static, jaxsparse.rigl, jaxsparse.sparse_evolutionary]
)
def test_sparsity_out_of_range(factory: Callable[..., Any], sparsity: float) -> None:
    # Before anything is traced: when the method is made.
    with pytest.raises(ValueError, match=rf"sparsity is {sparsity}; .* in \[0, 1\)"):
        factory(sparsity)


def test_global_scope_lets_a_layer_go() -> None:
    # All of the largest weights are in one layer; structures may compete too.
    params = {"large": jnp.arange(4.0, 20.0).reshape(4, 4), "small": jnp.ones((4, 4))}
    for structure in (None, block(2, 2)):
        method = jaxsparse.magnitude(0.5, scope="global", structure=structure)
        masks, info = jax.jit(method.update)(
            KEY, jax.tree.map(lambda x: x > 0, params), params, params, 0
        )
        assert dict(zip(masks, info.kept.tolist(), strict=True)) == {"large": 16, "small": 0}
        assert bool((apply_masks(params, masks)["small"] == 0).all())
