"""Both forms of a pass, on one device and on several: the same integers."""

from collections.abc import Iterator
from typing import Any

import hypothesis
import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse import _counting, selection, top_k_mask, tree_top_k_masks


@pytest.fixture(params=[True, False], ids=["one device", "several"], scope="module", autouse=True)
def reduction(request: Any) -> Iterator[None]:
    """The tests run on eight devices, most users' programs on one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "device_count", lambda: 1 if request.param else 8)
        jax.clear_caches()
        yield
    jax.clear_caches()


@hypothesis.given(flags=hnp.arrays(bool, (3, 4, 5)), other=hnp.arrays(bool, (3, 4, 5)))
def test_counts(flags: np.ndarray, other: np.ndarray) -> None:
    assert [int(n) for n in _counting.counts(jnp.asarray(flags))] == [flags.sum()]
    both = _counting.counts(jnp.asarray(flags), jnp.asarray(other))
    assert [int(n) for n in both] == [flags.sum(), other.sum()]
    (along,) = _counting.counts(jnp.asarray(flags), axis=(1,))
    np.testing.assert_array_equal(along, flags.sum(1))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_odd_number_anywhere_is_seen(bad: float) -> None:
    good = [[jnp.zeros((3, 4)), jnp.ones((3, 4))], [jnp.ones(7)], []]
    assert bool(_counting.all_finite(good))
    for group, place in ((0, (2, 3)), (1, (6,))):
        odd = [list(arrays) for arrays in good]
        odd[group][-1] = odd[group][-1].at[place].set(bad)
        assert not bool(_counting.all_finite(odd))
    assert bool(_counting.all_finite([]))


@hypothesis.given(
    values=hnp.arrays(
        np.float32, (37,), elements=hypothesis.strategies.sampled_from([0.0, -0.0, 1.0, 2.5, 1e-45])
    ),
    k=hypothesis.strategies.integers(0, 40),
)
def test_ties_are_broken_alike(values: np.ndarray, k: int) -> None:
    found = np.asarray(top_k_mask(jnp.asarray(values), k))
    tree = {"a": jnp.asarray(values[:20]), "b": jnp.asarray(values[20:])}
    masks = tree_top_k_masks(tree, k)
    np.testing.assert_array_equal(np.concatenate([masks["a"], masks["b"]]), found)
    each = tree_top_k_masks(tree, {"a": min(k, 5), "b": k})
    np.testing.assert_array_equal(each["a"], top_k_mask(tree["a"], min(k, 5)))
    np.testing.assert_array_equal(each["b"], top_k_mask(tree["b"], k))
    order = np.lexsort((_hash(np.arange(37)), values))
    want = np.zeros(37, bool)
    want[order[37 - min(k, 37) :]] = True
    np.testing.assert_array_equal(found, want)


def _hash(index: np.ndarray) -> np.ndarray:
    x = index.astype(object) + 1
    x = (x ^ (x >> 16)) * 0x7FEB352D % 2**32
    x = (x ^ (x >> 15)) * 0x846CA68B % 2**32
    return (x ^ (x >> 16)).astype(np.int64)


@pytest.mark.parametrize("shape", [(40, 6), (6, 40)])
def test_long_groups(shape: tuple[int, int]) -> None:
    axis = int(np.argmax(shape))
    scores = jnp.round(jax.random.normal(jax.random.key(0), shape) * 3)
    mask = np.asarray(top_k_mask(scores, 7, axis=axis))
    assert (mask.sum(axis) == 7).all()
    assert (
        np.where(mask, scores, np.inf).min(axis) >= np.where(mask, -np.inf, scores).max(axis)
    ).all()


def test_fewer_candidates_than_asked_for_are_counted() -> None:
    rows, where = [(jnp.arange(6.0),), (jnp.arange(4.0),)], [jnp.arange(6) < 2, None]
    masks, found = selection.masks_by_score(jnp.abs, rows, jnp.array([6, 4]), where)
    assert [mask.tolist() for mask in masks] == [[True, True] + [False] * 4, [True] * 4]
    assert found.tolist() == [2, 4]
    masks, found = selection.masks_by_score(jnp.abs, rows, jnp.int32(9), where, together=True)
    assert [int(mask.sum()) for mask in masks] == [2, 4]
    assert int(found) == 6
    masks, found = selection.masks_by_score(
        jnp.abs, rows[:1], jnp.array([3]), where[:1], outside=True
    )
    assert masks[0].tolist() == [False] * 3 + [True] * 3
