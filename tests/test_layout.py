"""Many leaves in one array: the same masks, to the bit, as leaf by leaf."""

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
from jaxsparse import ALGORITHMS, _layout, top_k_mask, tree_top_k_masks
from jaxsparse._layout import Layout, layout_of

pytestmark = pytest.mark.usefixtures("quick_compilation")

SHAPES = [(3, 4), (70,), (), (0, 5), (2, 3, 33), (1, 1), (130,), (64,), (7, 9)]
SIZES = [12, 70, 1, 0, 198, 1, 130, 64, 63]
TIES = st.sampled_from([0.0, -0.0, 1.0, 2.5, 1e-45, np.inf, -np.inf, np.nan])


def drawn(seed: int) -> list[jax.Array]:
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in SHAPES]


def leaves_of(flat: np.ndarray) -> list[np.ndarray]:
    parts = np.split(flat, np.cumsum(SIZES)[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, SHAPES, strict=True)]


def test_rows_start_with_a_leaf() -> None:
    layout = Layout((70, 0, 64, 1), packed=True)
    assert layout.width == 64
    assert layout.leaf.tolist() == [0, 0, 2, 3]
    assert layout.start.tolist() == [0, 64, 0, 0]
    assert layout.filled.tolist() == [64, 6, 64, 1]
    # Sixteen rows a leaf: little is filled up, and there are few rows to add up.
    assert Layout((2**20,) * 10, packed=True).width == 2**16


@pytest.mark.usefixtures("as_on_one_device")
class TestPacked:
    """As on one device; the functions that follow rank the same leaves on eight."""

    def test_there_and_back(self) -> None:
        layout, arrays = layout_of(drawn(0)), drawn(0)
        assert layout.packed
        (rows,) = layout.pack(arrays)
        assert rows.shape == (len(layout.leaf), layout.width)
        for array, found in zip(arrays, layout.unpack([rows], SHAPES), strict=True):
            np.testing.assert_array_equal(found, array)
        assert float(jnp.sum(jnp.abs(rows))) == pytest.approx(
            sum(float(jnp.abs(x).sum()) for x in arrays), rel=1e-5
        )

    def test_counts(self) -> None:
        arrays = drawn(1)
        layout = layout_of(arrays)
        positive = layout.pack([x > 0 for x in arrays])
        (found,) = layout.counts(positive)
        assert found.tolist() == [int((x > 0).sum()) for x in arrays]

    def test_few_or_unlike_leaves_stay_apart(self) -> None:
        assert not layout_of(drawn(0)[:7]).packed
        assert not layout_of([*drawn(0)[:8], jnp.ones(3, jnp.bfloat16)]).packed
        assert not layout_of([]).packed

    @hypothesis.given(
        values=hnp.arrays(np.float32, (sum(SIZES),), elements=TIES),
        where=hnp.arrays(bool, (sum(SIZES),)),
        k=st.integers(0, 600),
    )
    def test_selection(self, values: np.ndarray, where: np.ndarray, k: int) -> None:
        scores, among = leaves_of(values), leaves_of(where)
        together = tree_top_k_masks(scores, k, where=among)
        whole = top_k_mask(jnp.asarray(values), k, where=jnp.asarray(where))
        np.testing.assert_array_equal(np.concatenate([x.ravel() for x in together]), whole)
        numbers = [(k + 31 * i) % (size + 2) for i, size in enumerate(SIZES)]
        each = tree_top_k_masks(scores, numbers)
        for mask, score, number in zip(each, scores, numbers, strict=True):
            assert int(mask.sum()) == min(number, score.size)
            np.testing.assert_array_equal(mask, top_k_mask(jnp.asarray(score), number))


def masks_over_time(name: str) -> list[Any]:
    factory, small, *_ = ALGORITHMS[name]
    tx = jaxsparse.sparsify(optax.sgd(0.125), factory(**small), seed=7)
    rng = np.random.default_rng(3)
    shapes = [(4 + 3 * i, 9) for i in range(3)] + [(5,)] * 3
    draw = lambda: {f"{i}": rng.normal(size=s).astype(np.float32) for i, s in enumerate(shapes)}
    params = draw()
    state, step = jax.jit(tx.init)(params), jax.jit(tx.update)
    found = [(state.masks, state.info)]
    for number in range(9):
        grads = draw()
        if number == 5:  # in a dense leaf
            grads["4"][2] = np.nan
        updates, state = step(grads, state, params)
        params = optax.apply_updates(params, jax.tree.map(np.nan_to_num, updates))
        found.append((state.masks, state.info))
    return jax.device_get(found)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_method_keeps_the_same_weights(name: str) -> None:
    apart = masks_over_time(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "device_count", lambda: 1)
        patch.setattr(_layout, "_MANY", 3)  # fewer leaves to compile
        jax.clear_caches()
        packed = masks_over_time(name)
    jax.clear_caches()
    assert jax.tree.structure(apart) == jax.tree.structure(packed)
    jax.tree.map(np.testing.assert_array_equal, apart, packed)
