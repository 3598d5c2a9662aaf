"""Masks by hand: apply, find, count, compare, print."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import (
    apply_masks,
    density,
    masks_of,
    overlap,
    sparsify,
    sparsity_states,
    static,
    summary,
)

DENSE = optax.MaskedNode()


def test_apply_masks_gives_exact_zeros() -> None:
    params = {
        "bias": jnp.array([1.0, 2.0]),
        "half": jnp.array([jnp.inf, -3.0, jnp.nan], jnp.bfloat16),
        "w": jnp.array([[-1.0, 2.0], [3.0, -0.0]]),
    }
    masks = {
        "bias": DENSE,
        "half": jnp.array([False, True, False]),
        "w": jnp.array([[False, True], [True, False]]),
    }
    found = apply_masks(params, masks)
    assert found["bias"] is params["bias"]
    # A product with a mask would leave NaN where a weight is not finite, and -0.0.
    assert found["half"].tolist() == [0.0, -3.0, 0.0]
    assert found["half"].dtype == jnp.bfloat16
    assert found["w"].tolist() == [[0.0, 2.0], [3.0, 0.0]]
    assert not np.signbit(np.asarray(found["w"])).any()


def test_apply_masks_of_another_tree() -> None:
    with pytest.raises(ValueError, match=r"2 leaves of params, 1 of masks; pass the parameters"):
        apply_masks({"a": jnp.ones(2), "b": jnp.ones(2)}, {"a": jnp.ones(2, bool)})
    # Nothing is broadcast in silence.
    for shape in [(2,), (2, 1), (1, 2, 2)]:
        with pytest.raises(ValueError, match=r"a has shape \(2, 2\), its mask \("):
            apply_masks({"a": jnp.ones((2, 2))}, {"a": jnp.ones(shape, bool)})


def test_density_counts_masked_leaves_only() -> None:
    masks = {"a": jnp.array([True, False, False, False]), "b": DENSE, "c": jnp.ones((2, 2), bool)}
    assert float(density(masks)) == 5 / 8
    with pytest.raises(ValueError, match="no leaf of the tree has a mask"):
        density({"a": DENSE})


def test_density_above_2_to_the_24() -> None:
    # A float32 sum of ones stops at 2^24: the density would be a half.
    assert float(density({"a": jnp.ones((2**13, 2**12), bool)})) == 1.0


def test_overlap_is_intersection_over_union() -> None:
    first = {"a": jnp.array([True, True, False, False]), "b": DENSE, "c": jnp.array([True])}
    second = {"a": jnp.array([False, True, True, False]), "b": DENSE, "c": jnp.array([True])}
    # Common: 1 + 1; either: 3 + 1.
    assert float(overlap(first, second)) == 0.5
    assert float(overlap(first, first)) == 1.0
    nothing = {"a": jnp.zeros(4, bool), "b": DENSE, "c": jnp.zeros(1, bool)}
    assert float(overlap(first, nothing)) == 0.0
    assert float(overlap(nothing, nothing)) == 1.0


# Summaries.

PARAMS = {
    "Dense_0": {"bias": jnp.zeros(300), "kernel": jnp.zeros((784, 300))},
    "conv": jax.ShapeDtypeStruct((3, 3, 16, 32), jnp.bfloat16),
    "scale": jnp.float32(1),
}


def masks_like(params: Any) -> Any:
    first = np.arange(235_200).reshape(784, 300) < 23_520
    return {
        "Dense_0": {"bias": DENSE, "kernel": jnp.asarray(first)},
        "conv": jnp.ones((3, 3, 16, 32), bool),
        "scale": DENSE,
    }


def test_summary_prints_a_table() -> None:
    table = summary(PARAMS, masks_like(PARAMS))
    assert str(table).splitlines() == [
        "layer           shape        kept  weights  sparsity",
        "----------------------------------------------------",
        "Dense_0/bias    300           300      300     dense",
        "Dense_0/kernel  784x300    23,520  235,200    0.9000",
        "conv            3x3x16x32   4,608    4,608    0.0000",
        "scale           scalar          1        1     dense",
        "----------------------------------------------------",
        "sparse layers              28,128  239,808    0.8827",
        "all parameters             28,429  240,109    0.8816",
    ]


def test_summary_can_be_read() -> None:
    table = summary(PARAMS, masks_like(PARAMS))
    assert [row.path for row in table.rows] == ["Dense_0/bias", "Dense_0/kernel", "conv", "scale"]
    assert table.rows[1] == ("Dense_0/kernel", (784, 300), 23_520, 235_200)
    assert table.rows[0].kept is None
    assert (table.kept, table.size) == (28_128, 239_808)


def test_summary_of_dense_and_of_empty_trees() -> None:
    lines = str(summary({"w": jnp.zeros((2, 3))}, {"w": DENSE})).splitlines()
    assert lines[2].split() == ["w", "2x3", "6", "6", "dense"]
    assert lines[-1].split() == ["all", "parameters", "6", "6", "0.0000"]
    assert len(lines) == 5
    assert str(summary({}, {})).splitlines()[-1].split() == ["all", "parameters", "0", "0", "-"]


def test_summary_of_another_tree() -> None:
    with pytest.raises(ValueError, match="4 leaves of params, 1 of masks"):
        summary(PARAMS, {"w": DENSE})


# Masks inside optimizer states.


def test_masks_of_merges_the_parts_of_a_partition() -> None:
    params = {
        "body": {"a": jnp.ones((4, 4)), "bias": jnp.ones(4)},
        "head": {"a": jnp.ones((4, 6)), "b": jnp.ones((2, 2))},
        "plain": jnp.ones((2, 2)),
    }
    tx = optax.partition(
        {
            "body": sparsify(optax.sgd(0.1), static(0.75)),
            "head": sparsify(optax.adam(0.1), static(0.5, distribution=jaxsparse.uniform)),
            "plain": optax.sgd(0.1),
        },
        {"body": "body", "head": "head", "plain": "plain"},
    )
    state = tx.init(params)
    assert len(sparsity_states(state)) == 2
    masks = masks_of(state)
    assert masks["body"]["bias"] == DENSE
    assert masks["plain"] == DENSE
    assert int(masks["body"]["a"].sum()) == 4
    assert [int(masks["head"][name].sum()) for name in "ab"] == [12, 2]
    rows = summary(params, masks).rows
    assert [row.kept for row in rows] == [4, None, 12, 2, None]
    # The update keeps both parts where they were.
    updates, state = jax.jit(tx.update)(jax.tree.map(jnp.ones_like, params), state, params)
    new = optax.apply_updates(params, updates)
    assert int((new["head"]["a"] != 0).sum()) == 12
    assert int((new["body"]["a"] != 0).sum()) == 4
    assert bool((new["plain"] != 0).all())


def test_masks_of_a_state_without_any() -> None:
    state = optax.adam(0.1).init({"w": jnp.ones((2, 2))})
    with pytest.raises(ValueError, match=r"no sparsify state inside tuple; .*jaxsparse.sparsify"):
        masks_of(state)
    assert sparsity_states(state) == []
