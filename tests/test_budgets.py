"""From a sparsity to whole numbers of units, for each leaf, group and step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

from jaxsparse import (
    block,
    channel,
    default_where,
    erk,
    fan_in,
    n_m,
    one_shot,
    polynomial_sparsity,
    uniform,
    unstructured,
)
from jaxsparse.budgets import Leaf, final_sparsity, plan, targets

PARAMS = {
    "bias": jax.ShapeDtypeStruct((8,), jnp.float32),
    "conv": jax.ShapeDtypeStruct((3, 3, 4, 8), jnp.float32),
    "dense": jax.ShapeDtypeStruct((8, 6), jnp.float32),
}


@pytest.mark.parametrize(
    ("structure", "conv", "dense"),
    # Units in a group, groups, units kept in each, at a half of 288 and of 48.
    [
        (unstructured(), (288, 1, 144), (48, 1, 24)),
        (n_m(keep=2, of=4), (4, 72, 2), (4, 12, 2)),
        (block(4, 2), (36, 1, 18), (6, 1, 3)),
        (channel(), (8, 1, 4), (6, 1, 3)),
        (fan_in(), (36, 8, 18), (8, 6, 4)),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_plan(structure: Any, conv: tuple[int, ...], dense: tuple[int, ...]) -> None:
    leaves, number, _ = plan(PARAMS, 0.5, uniform, structure, default_where)
    assert number == 3
    assert [tuple(leaf) for leaf in leaves] == [(1, (3, 3, 4, 8), *conv), (2, (8, 6), *dense)]


def test_counts_round_to_the_nearest_whole_number_of_units() -> None:
    # 7 of 48 weights: 0.875 of a channel of 8, and 1.17 of 6 inputs an output.
    seventh = lambda params, sparsity, *, where: {"dense": 7}
    params = {"dense": PARAMS["dense"]}
    kept = lambda structure: plan(params, 0.5, seventh, structure, default_where)[0][0].keep
    assert (kept(unstructured()), kept(channel()), kept(fan_in())) == (7, 1, 1)
    # At least one unit, but none where none is wanted.
    one = lambda params, sparsity, *, where: {"dense": 1}
    none = lambda params, sparsity, *, where: {"dense": 0}
    assert plan(params, 0.5, one, channel(), default_where)[0][0].keep == 1
    assert plan(params, 0.5, none, channel(), default_where)[0][0].keep == 0


def test_traced_counts() -> None:
    def kept(count: jax.Array) -> jax.Array:
        counts = lambda params, sparsity, *, where: {"dense": count}
        return plan({"dense": PARAMS["dense"]}, 0.5, counts, channel(), default_where)[0][0].keep

    assert jax.jit(jax.vmap(kept))(jnp.array([0, 1, 7, 24, 48])).tolist() == [0, 1, 1, 3, 6]


@pytest.mark.parametrize("count", [-1, 49])
def test_a_count_beyond_the_layer(count: int) -> None:
    counts = lambda params, sparsity, *, where: {"dense": count}
    with pytest.raises(ValueError, match=rf"keeps {count} weights of dense, .* give 0 to 48"):
        plan({"dense": PARAMS["dense"]}, 0.5, counts, unstructured(), default_where)


def test_a_tree_without_arrays_has_no_plan() -> None:
    # optax probes transformations with empty trees.
    assert plan({}, 0.5, erk, unstructured(), default_where)[:2] == ([], 0)
    masked = {"a": optax.MaskedNode()}
    assert plan(masked, 0.5, erk, unstructured(), default_where)[:2] == ([], 1)


@pytest.mark.parametrize(
    ("sparsity", "final"),
    [
        (0.9, 0.9),
        (0.0, 0.0),
        (polynomial_sparsity(0.9, 10, 100), 0.9),
        (one_shot(0.99, 5), 0.99),
        (optax.linear_schedule(0.0, 0.965, 10), 0.965),
        (lambda step: 0.5, 0.5),
    ],
)
def test_final_sparsity_is_the_decimal_that_was_typed(sparsity: Any, final: float) -> None:
    # Not its float32 neighbor 0.89999998, by which a budget would be one weight larger.
    assert final_sparsity(sparsity) == final


def test_final_sparsity_inside_jit() -> None:
    schedule = polynomial_sparsity(0.9, 10, 100)
    assert float(jax.jit(lambda: jnp.float32(final_sparsity(schedule)))()) == pytest.approx(0.9)


@pytest.mark.parametrize("value", [1.0, -0.5, 90.0])
def test_sparsity_out_of_range(value: float) -> None:
    with pytest.raises(ValueError, match=rf"^sparsity is {value}; "):
        final_sparsity(value)
    with pytest.raises(ValueError, match=rf"last value of the sparsity schedule is {value}; "):
        final_sparsity(lambda step: value)


def test_targets_round_zeros_in_proportion() -> None:
    # 7 zeros at the end: round(7 s / 0.7) zeros at sparsity s.
    leaf = Leaf(index=0, shape=(2, 5), units=10, groups=1, keep=3)
    schedule = lambda step: step / 10
    found = [int(targets([leaf], schedule, 0.7, step)[0]) for step in range(9)]
    assert found == [10, 9, 8, 7, 6, 5, 4, 3, 2]
    assert targets([leaf], 0.7, 0.7, 0) == [3]


@pytest.mark.parametrize("percent", [1, 7, 30, 55, 90, 97, 99])
def test_targets_end_exactly_above_2_to_the_24(percent: int) -> None:
    # float32 has no odd integers there, and a division inside jit may be a multiplication.
    final = percent / 100
    sizes = (2**24 + 1, 2**25 + 3, 2**30 + 1)
    leaves = [Leaf(i, (size,), size, 1, size // 3) for i, size in enumerate(sizes)]
    schedule = polynomial_sparsity(final, 10, 50)
    at_step = jax.jit(lambda step: targets(leaves, schedule, final_sparsity(schedule), step))
    assert [int(k) for k in at_step(50)] == [size // 3 for size in sizes]
    assert [int(k) for k in at_step(10)] == list(sizes)
    middle = [int(k) for k in at_step(30)]
    assert all(size // 3 <= k <= size for k, size in zip(middle, sizes, strict=True))


def test_targets_of_a_schedule_that_ends_at_zero() -> None:
    leaf = Leaf(index=0, shape=(2, 5), units=10, groups=1, keep=10)
    assert int(targets([leaf], lambda step: 0.0, 0.0, 5)[0]) == 10


def assert_int(value: Any) -> None:
    assert jnp.issubdtype(jnp.asarray(value).dtype, jnp.integer)


def test_targets_are_integers() -> None:
    leaf = Leaf(index=0, shape=(2, 5), units=10, groups=1, keep=3)
    calls: list[Callable[[], Any]] = [
        lambda: targets([leaf], 0.7, 0.7, 0)[0],
        lambda: targets([leaf], lambda step: 0.35, 0.7, 0)[0],
    ]
    for call in calls:
        assert_int(call())
