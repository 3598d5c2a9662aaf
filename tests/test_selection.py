"""Selection against a NumPy oracle that sorts: every dtype, every kind of tie, every k."""

import functools
import itertools
from typing import Any

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from jaxsparse import top_k_mask, tree_top_k_masks

SHAPES = [(), (1,), (17,), (4, 6), (2, 3, 5)]
DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16]
# The least denormals of float32 and of float16, and neighbors of 1 and of the largest numbers.
SPECIAL = [0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 6e-8, -6e-8, 1.17549435e-38, 3.4e38, -3.4e38]
SPECIAL += [float("inf"), float("-inf"), float("nan"), float(np.nextafter(np.float32(1), 2))]


def tie_order(index: np.ndarray) -> np.ndarray:
    """The fixed hash that orders equal scores, written in 64-bit integers modulo 2^32."""
    low = 2**32 - 1
    x = index.astype(object) + 1
    x = (x ^ (x >> 16)) * 0x7FEB352D & low
    x = (x ^ (x >> 15)) * 0x846CA68B & low
    return (x ^ (x >> 16)).astype(np.int64)


def oracle(scores: Any, k: Any, where: Any = None) -> np.ndarray:
    """Sort by (candidate, number or NaN, value, hash of the index) and take the last k."""
    flat = np.asarray(scores).astype(np.float64).reshape(-1)
    candidate = np.ones(flat.size, bool) if where is None else np.asarray(where).reshape(-1)
    number = ~np.isnan(flat)
    order = np.lexsort(
        (tie_order(np.arange(flat.size)), np.where(number, flat, 0.0), number, candidate)
    )
    kept = np.zeros(flat.size, bool)
    kept[order[flat.size - min(max(int(k), 0), candidate.sum()) :]] = True
    return kept.reshape(np.shape(scores))


@jax.jit
def select(scores: jax.Array, k: jax.Array, where: jax.Array) -> tuple[jax.Array, jax.Array]:
    """With candidates and without, in one program for each shape and dtype; k is traced."""
    return top_k_mask(scores, k, where=where), top_k_mask(scores, k)


def arrays(shape: tuple[int, ...]) -> st.SearchStrategy[np.ndarray]:
    """Arrays full of ties: one value, two values, special values, or any float."""
    any_float = st.floats(width=32)
    special = st.sampled_from(SPECIAL)
    pools = [
        st.lists(any_float | special, min_size=1, max_size=2).map(st.sampled_from),
        st.just(special),
        st.just(special | any_float),
    ]
    return st.one_of(*pools).flatmap(
        lambda elements: hnp.arrays(np.float32, shape, elements=elements)
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@hypothesis.given(data=st.data())
def test_equals_sorting(shape: tuple[int, ...], dtype: Any, data: st.DataObject) -> None:
    with np.errstate(all="ignore"):
        scores = data.draw(arrays(shape)).astype(dtype)
    where = data.draw(hnp.arrays(bool, shape))
    n = scores.size
    k = data.draw(st.sampled_from([-1, 0, 1, n // 2, n - 1, n, n + 3]))
    among, overall = select(jnp.asarray(scores), jnp.int32(k), jnp.asarray(where))
    np.testing.assert_array_equal(among, oracle(scores, k, where))
    np.testing.assert_array_equal(overall, oracle(scores, k))
    assert among.dtype == bool
    assert among.shape == shape


@pytest.mark.parametrize("shape", [(17,), (4, 6)], ids=str)
@hypothesis.given(data=st.data())
def test_equals_sorting_in_float64(shape: tuple[int, ...], data: st.DataObject) -> None:
    # 64-bit keys: neighbors that float32 cannot tell apart, and float64's own denormals.
    close = st.sampled_from([1.0, 1.0 + 2.0**-52, 5e-324, -5e-324, 0.0, 1e308, float("nan")])
    scores = data.draw(hnp.arrays(np.float64, shape, elements=close | st.floats()))
    k = data.draw(st.integers(0, scores.size + 1))
    with jax.enable_x64(True):
        x = jnp.asarray(scores)
        assert x.dtype == jnp.float64
        found, _ = select(x, jnp.int32(k), jnp.ones(shape, bool))
    np.testing.assert_array_equal(found, oracle(scores, k))


@hypothesis.given(
    scores=hnp.arrays(np.int32, (4, 6), elements=st.integers(-(2**31) + 2, 2**31 - 4) | st.just(7)),
    k=st.integers(0, 25),
)
def test_integers_equal_sorting(scores: np.ndarray, k: int) -> None:
    found, _ = select(jnp.asarray(scores), jnp.int32(k), jnp.ones((4, 6), bool))
    np.testing.assert_array_equal(found, oracle(scores, k))


def test_extreme_integers_keep_the_count() -> None:
    scores = jnp.array([2**31 - 1, -(2**31), 2**31 - 1, 0, -(2**31), 2**31 - 2], jnp.int32)
    found = [select(scores, jnp.int32(k), jnp.ones(6, bool))[1] for k in range(7)]
    assert [int(mask.sum()) for mask in found] == list(range(7))
    assert found[4].tolist() == [True, False, True, True, False, True]


@pytest.mark.parametrize(
    "value", [0.0, -0.0, 3.0, -3.0, 1e-45, -1e-45, np.inf, -np.inf, np.nan], ids=str
)
def test_all_equal_keeps_exactly_k(value: float) -> None:
    # Peers threshold with >= or >, so that ties keep all or none.
    scores = jnp.full((4, 6), value, jnp.float32)
    masks = [select(scores, jnp.int32(k), jnp.ones((4, 6), bool))[1] for k in range(25)]
    assert [int(mask.sum()) for mask in masks] == list(range(25))
    # Nested: the order among equals does not depend on k.
    assert all(bool((a <= b).all()) for a, b in itertools.pairwise(masks))


def test_signed_zeros_are_equal_and_denormals_are_not_zero() -> None:
    zeros = jnp.array([0.0, -0.0] * 8)
    np.testing.assert_array_equal(top_k_mask(zeros, 5), top_k_mask(jnp.zeros(16), 5))
    # XLA compares denormals as zeros; the keys do not.
    scores = jnp.array([0.0, 1e-45, -1e-45, -0.0, 2e-45])
    assert top_k_mask(scores, 2).tolist() == [False, True, False, False, True]
    assert top_k_mask(scores, 4).tolist() == [True, True, False, True, True]


def test_nan_of_either_sign_comes_last() -> None:
    nan = np.array([0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF], np.uint32).view(np.float32)
    scores = jnp.asarray(np.concatenate([nan, np.array([-np.inf, np.inf], np.float32)]))
    assert top_k_mask(scores, 2).tolist() == [False] * 4 + [True, True]
    assert int(top_k_mask(scores, 3)[:4].sum()) == 1
    assert bool(top_k_mask(scores, 6).all())


def test_fewer_candidates_than_k() -> None:
    scores, where = jnp.arange(6.0), jnp.array([True, False, False, True, False, False])
    np.testing.assert_array_equal(top_k_mask(scores, 4, where=where), where)
    assert not bool(top_k_mask(scores, 4, where=jnp.zeros(6, bool)).any())
    # A candidate of -inf or NaN is still a candidate; an infinite score that is none is not.
    bad = jnp.array([-jnp.inf, jnp.inf, 1.0, jnp.nan, jnp.inf, 1.0])
    np.testing.assert_array_equal(top_k_mask(bad, 2, where=where), where)


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 2, 2)], ids=str)
def test_empty(shape: tuple[int, ...]) -> None:
    assert top_k_mask(jnp.zeros(shape), 2).shape == shape
    assert tree_top_k_masks({"a": jnp.zeros(shape)}, 2)["a"].shape == shape


def test_k_beyond_int32_is_cut() -> None:
    assert bool(top_k_mask(jnp.zeros(4), 2**40).all())
    assert bool(tree_top_k_masks({"a": jnp.zeros(4)}, 2**40)["a"].all())


def test_scalar() -> None:
    assert bool(top_k_mask(jnp.float32(jnp.nan), 1))
    assert not bool(top_k_mask(jnp.float32(1.0), 0))


@pytest.mark.parametrize("k", [-1, np.int32(-5)])
def test_negative_k_is_refused(k: Any) -> None:
    with pytest.raises(ValueError, match=rf"k is {k}; it must be 0 or more"):
        top_k_mask(jnp.zeros(3), k)
    with pytest.raises(ValueError, match=rf"k is {k}; it must be 0 or more"):
        tree_top_k_masks({"a": jnp.zeros(3)}, k)


def test_too_many_scores_are_refused() -> None:
    huge = jax.ShapeDtypeStruct((2**16, 2**15), jnp.bfloat16)
    with pytest.raises(ValueError, match="2147483648 scores at once; at most 2147483647"):
        jax.eval_shape(lambda x: top_k_mask(x, 1), huge)


def test_counts_above_2_to_the_24_are_exact() -> None:
    # float32 counts cannot tell 2^24 from 2^24 + 1.
    mask = top_k_mask(jnp.zeros(2**24 + 3, jnp.float16), 2**24 + 1)
    assert int(np.asarray(mask).sum()) == 2**24 + 1


def test_ties_are_spread_over_the_array() -> None:
    # "The first k of equal scores" would empty whole rows, and depend on the layout.
    mask = np.asarray(top_k_mask(jnp.zeros((64, 64)), 1024))
    share = mask.reshape(16, -1).mean(axis=1)
    assert share.min() > 0.15
    assert share.max() < 0.35
    rows = mask.sum(axis=1)
    assert rows.min() >= 4  # of 16 expected


def test_ties_do_not_depend_on_the_layout() -> None:
    flat = top_k_mask(jnp.zeros(24), 9)
    for shape in [(4, 6), (2, 3, 4)]:
        np.testing.assert_array_equal(top_k_mask(jnp.zeros(shape), 9).reshape(-1), flat)


def test_the_tie_order_has_no_two_equal_and_spares_its_marks() -> None:
    # 0 marks "no candidate" and 2^32 - 1 lies out of the search: no index may hash to either.
    def index_of(hashed: int) -> int:
        x = hashed ^ (hashed >> 16)
        x = x * pow(0x846CA68B, -1, 2**32) % 2**32
        x = x ^ (x >> 15) ^ (x >> 30)
        x = x * pow(0x7FEB352D, -1, 2**32) % 2**32
        return (x ^ (x >> 16)) - 1

    for index in (0, 5, 2**31 - 1):
        assert index_of(int(tie_order(np.array([index]))[0])) == index
    assert not 0 <= index_of(0) < 2**31
    assert not 0 <= index_of(2**32 - 1) < 2**31


@hypothesis.given(seed=st.integers(0, 2**16), k=st.integers(0, 17))
def test_permuted_scores_give_a_permuted_mask(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.permutation(17).astype(np.float32)
    order = rng.permutation(17)
    ones = jnp.ones(17, bool)
    straight, _ = select(jnp.asarray(scores), jnp.int32(k), ones)
    permuted, _ = select(jnp.asarray(scores[order]), jnp.int32(k), ones)
    np.testing.assert_array_equal(np.asarray(straight)[order], permuted)


# Whole pytrees.

TREE = {"a": (3, 4), "b": (5,), "c": (), "d": (2, 2, 2), "e": (0, 3)}


@jax.jit
def select_tree(scores: Any, k: jax.Array, where: Any) -> tuple[Any, Any]:
    return tree_top_k_masks(scores, k, where=where), tree_top_k_masks(scores, k)


def split(flat: np.ndarray) -> dict[str, np.ndarray]:
    ends = np.cumsum([np.prod(shape, dtype=int) for shape in TREE.values()])
    parts = np.split(flat, ends[:-1])
    return {name: part.reshape(TREE[name]) for name, part in zip(TREE, parts, strict=True)}


def joined(tree: Any) -> np.ndarray:
    return np.concatenate([np.asarray(leaf).reshape(-1) for leaf in jax.tree.leaves(tree)])


@hypothesis.given(data=st.data())
def test_tree_equals_the_concatenation(data: st.DataObject) -> None:
    scores = split(data.draw(arrays((26,))))
    where = split(data.draw(hnp.arrays(bool, 26)))
    k = data.draw(st.integers(0, 30))
    with_mark = {**scores, "dense": optax.MaskedNode()}
    among, overall = select_tree(with_mark, jnp.int32(k), {**where, "dense": optax.MaskedNode()})
    assert among["dense"] == optax.MaskedNode()
    assert {name: mask.shape for name, mask in among.items() if name != "dense"} == TREE
    np.testing.assert_array_equal(joined(among), oracle(joined(scores), k, joined(where)))
    np.testing.assert_array_equal(joined(overall), oracle(joined(scores), k))
    everywhere = jnp.ones(26, bool)
    flat, _ = select(jnp.asarray(joined(scores)), jnp.int32(k), everywhere)
    np.testing.assert_array_equal(joined(overall), flat)


def test_tree_of_several_dtypes_compares_values() -> None:
    scores = {"half": jnp.array([1.0, 3.0], jnp.bfloat16), "single": jnp.array([1.001, 2.0])}
    masks = tree_top_k_masks(scores, 3)
    assert masks["half"].tolist() == [False, True]
    assert masks["single"].tolist() == [True, True]


def test_tree_without_arrays() -> None:
    assert tree_top_k_masks({}, 3) == {}
    assert tree_top_k_masks({"a": optax.MaskedNode()}, 3) == {"a": optax.MaskedNode()}


# Groups along an axis.


def grouped_oracle(scores: np.ndarray, k: Any, axis: int, where: np.ndarray) -> np.ndarray:
    """Each group by itself, with the hash of the index in the whole array."""
    index = np.moveaxis(np.arange(scores.size).reshape(scores.shape), axis, -1)
    values, candidates = np.moveaxis(scores, axis, -1), np.moveaxis(where, axis, -1)
    k = np.broadcast_to(k, values.shape[:-1])
    kept = np.zeros(values.shape, bool)
    for group in np.ndindex(values.shape[:-1]):
        number = ~np.isnan(values[group])
        value = np.where(number, values[group].astype(np.float64), 0.0)
        order = np.lexsort((tie_order(index[group]), value, number, candidates[group]))
        count = min(max(int(k[group]), 0), candidates[group].sum())
        kept[group][order[len(order) - count :]] = True
    return np.moveaxis(kept, -1, axis)


@functools.partial(jax.jit, static_argnames="axis")
def select_along(scores: jax.Array, k: jax.Array, where: jax.Array, axis: int) -> jax.Array:
    return top_k_mask(scores, k, where=where, axis=axis)


# Up to 32 members all pairs are compared; longer groups are searched like whole arrays.
@pytest.mark.parametrize(
    ("shape", "axis"), [((4, 6, 3), 0), ((4, 6, 3), 1), ((4, 6, 3), -1), ((2, 40), 1), ((33, 3), 0)]
)
@hypothesis.given(data=st.data())
def test_groups_equal_sorting(shape: tuple[int, ...], axis: int, data: st.DataObject) -> None:
    scores, where = data.draw(arrays(shape)), data.draw(hnp.arrays(bool, shape))
    groups = tuple(np.delete(shape, axis).tolist())
    k = data.draw(hnp.arrays(np.int32, groups, elements=st.integers(-1, shape[axis] + 1)))
    found = select_along(jnp.asarray(scores), jnp.asarray(k), jnp.asarray(where), axis)
    np.testing.assert_array_equal(found, grouped_oracle(scores, k, axis, where))


@pytest.mark.parametrize(("shape", "axis"), [((8, 6), 0), ((8, 6), -1), ((2, 40), 1)])
def test_one_k_for_all_groups(shape: tuple[int, ...], axis: int) -> None:
    scores = np.zeros(shape, np.float32)
    everywhere = np.ones(shape, bool)
    for k in (0, 2, shape[axis]):
        found = select_along(jnp.asarray(scores), jnp.int32(k), jnp.asarray(everywhere), axis)
        np.testing.assert_array_equal(found, grouped_oracle(scores, k, axis, everywhere))


# Transformations.


def test_under_vmap_and_scan(key: jax.Array) -> None:
    scores = jnp.round(jax.random.normal(key, (5, 17)) * 2)
    ks = jnp.array([0, 3, 8, 17, 20])
    want = [oracle(row, k) for row, k in zip(scores, ks, strict=True)]
    np.testing.assert_array_equal(jax.jit(jax.vmap(top_k_mask))(scores, ks), want)
    _, masks = jax.lax.scan(lambda carry, row: (carry, top_k_mask(*row)), 0, (scores, ks))
    np.testing.assert_array_equal(masks, want)


def test_one_program_for_every_k() -> None:
    traces = []

    @jax.jit
    def counted(scores: jax.Array, k: jax.Array) -> jax.Array:
        traces.append(k)
        return top_k_mask(scores, k)

    found = [int(counted(jnp.arange(9.0), jnp.int32(k)).sum()) for k in range(10)]
    assert found == list(range(10))
    assert len(traces) == 1


def test_masks_carry_no_gradient() -> None:
    loss = lambda x: jnp.sum(jnp.where(top_k_mask(x, 2), x, 0.0))
    assert jax.grad(loss)(jnp.array([1.0, 3.0, 2.0])).tolist() == [0.0, 1.0, 1.0]
