"""Granularities: which weights share a unit, and exact counts in every group through updates."""

import math
from collections.abc import Callable
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse
from jaxsparse import block, channel, fan_in, n_m, unstructured

pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")

DENSE, HWIO = (8, 6), (3, 3, 8, 4)


def groups_of(mask: Any, of: int) -> np.ndarray:
    """Kept weights of every group of ``of`` consecutive inputs, for each output and place."""
    mask = np.moveaxis(np.asarray(mask), -2, -1)
    return mask.reshape(*mask.shape[:-1], -1, of).sum(-1)


@pytest.mark.parametrize("shape", [DENSE, HWIO], ids=str)
@hypothesis.given(seed=st.integers(0, 2**16))
def test_n_m_groups_run_along_the_reduction_axis(shape: tuple[int, ...], seed: int) -> None:
    # Along the output axis (the last one) a matrix unit cannot use the zeros.
    structure = n_m(keep=1, of=4)
    scores = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    pooled = structure.pool(jnp.asarray(scores))
    assert structure.group_axes is not None
    (axis,) = structure.group_axes(pooled.ndim)
    assert pooled.shape[axis] == 4
    best = pooled == pooled.max(axis=axis, keepdims=True)
    mask = np.asarray(structure.expand(best, shape))
    assert (groups_of(mask, 4) == 1).all()
    # The one that is kept is the largest of four neighbors along the input axis.
    for place in zip(*np.nonzero(mask), strict=True):
        first = place[-2] // 4 * 4
        four = scores[(*place[:-2], slice(first, first + 4), place[-1])]
        assert scores[place] == four.max()


def test_n_m_on_another_axis() -> None:
    # Equinox's Linear is (out, in).
    structure = n_m(keep=2, of=4, axis=-1)
    assert structure.pool(jnp.zeros((6, 8))).shape == (6, 2, 4)
    with pytest.raises(ValueError, match="axis is 1; count it from the end"):
        n_m(keep=2, of=4, axis=1)


def test_blocks_lie_in_the_last_two_dimensions() -> None:
    # Blocks over the first two dimensions of a 3x3 kernel would leave one block in all.
    structure = block(4, 2)
    assert structure.unit(HWIO) == 8
    scores = jnp.arange(math.prod(HWIO), dtype=jnp.float32).reshape(HWIO)
    pooled = structure.pool(scores)
    assert pooled.shape == (3, 3, 2, 2)
    assert float(pooled[1, 2, 1, 0]) == float(scores[1, 2, 4:8, 0:2].sum())
    mask = structure.expand(pooled == pooled[1, 2, 1, 0], HWIO)
    want = np.zeros(HWIO, bool)
    want[1, 2, 4:8, 0:2] = True
    np.testing.assert_array_equal(mask, want)


def test_channels_are_whole_outputs() -> None:
    structure = channel()
    assert structure.unit(HWIO) == 72
    scores = jnp.arange(math.prod(HWIO), dtype=jnp.float32).reshape(HWIO)
    np.testing.assert_allclose(structure.pool(scores), scores.sum((0, 1, 2)), rtol=1e-6)
    mask = structure.expand(jnp.array([True, False, False, True]), HWIO)
    assert mask.shape == HWIO
    assert np.asarray(mask).reshape(-1, 4).all(0).tolist() == [True, False, False, True]
    assert np.asarray(mask).sum() == 2 * 72


def test_fan_in_groups_are_outputs() -> None:
    structure = fan_in()
    assert structure.group_axes is not None
    assert structure.group_axes(4) == (0, 1, 2)
    assert structure.group_axes(2) == (0,)
    assert structure.pool(jnp.zeros(HWIO)).shape == HWIO


def test_unstructured_changes_nothing() -> None:
    scores = jnp.arange(6.0).reshape(2, 3)
    assert unstructured().pool(scores) is scores
    assert unstructured().unit((2, 3)) == 1


@pytest.mark.parametrize("structure", [block(2, 2), channel()], ids=lambda s: s.name)
def test_sums_over_units_do_not_overflow(structure: jaxsparse.Structure) -> None:
    # Sums of int32 wrap, sums of float16 are infinite, sums of bfloat16 lose their small members.
    integers = structure.pool(jnp.full((8, 4), 2**31 - 1, jnp.int32))
    assert float(integers.min()) > 2**31
    halves = structure.pool(jnp.full((8, 4), 6e4, jnp.float16))
    assert bool(jnp.isfinite(halves).all())
    ones = structure.pool(jnp.ones((512, 4), jnp.bfloat16))
    assert float(ones.sum()) == 2048


# Every structure through updates of a method: what holds in each group before holds after.

CASES: dict[str, tuple[jaxsparse.Structure, Callable[[Any, int], np.ndarray]]] = {
    "n_m": (n_m(keep=1, of=2), lambda mask, n: groups_of(mask, 2)),
    "block": (block(2, 2), lambda mask, n: unit_shares(mask, block(2, 2))),
    "channel": (channel(), lambda mask, n: unit_shares(mask, channel())),
    "fan_in": (fan_in(), lambda mask, n: np.asarray(mask).reshape(-1, n).sum(0)),
}


def unit_shares(mask: Any, structure: jaxsparse.Structure) -> np.ndarray:
    """Weights kept in each unit, as shares: all or none."""
    mask = jnp.asarray(mask)
    return np.asarray(structure.pool(mask) / structure.unit(mask.shape))


PARAMS = {"dense": DENSE, "conv": HWIO}
SWAPS: dict[str, Any] = {
    "update": jaxsparse.every(1),
    "drop_fraction": 0.5,
    "distribution": jaxsparse.uniform,
}
METHODS: dict[str, Any] = {
    "set": lambda structure: jaxsparse.sparse_evolutionary(0.5, structure=structure, **SWAPS),
    "rigl": lambda structure: jaxsparse.rigl(0.5, structure=structure, **SWAPS),
    "gradual": lambda structure: jaxsparse.gradual_magnitude(
        0.5, structure=structure, stop=4, interval=1
    ),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", CASES)
def test_exact_counts_through_updates(case: str, method: str, key: jax.Array) -> None:
    structure, counts_of = CASES[case]
    algorithm = METHODS[method](structure)
    draw = lambda i: {
        name: jax.random.normal(jax.random.fold_in(key, 2 * i + n), shape)
        for n, (name, shape) in enumerate(PARAMS.items())
    }
    masks = algorithm.init(key, draw(0))
    update = jax.jit(algorithm.update)
    moved = 0
    for step in range(5):
        before = masks
        masks, info = update(jax.random.fold_in(key, step), masks, draw(step), draw(9 + step), step)
        moved += int(info.grown) + int(info.dropped)
        for name, mask in masks.items():
            counts, shape = counts_of(mask, PARAMS[name][-1]), PARAMS[name]
            kept = int(np.asarray(mask).sum())
            if case in ("block", "channel"):
                assert set(np.unique(counts).tolist()) <= {0.0, 1.0}
            if method == "gradual":
                # Rises to the target; what is pruned stays pruned; groups stay level.
                assert bool((mask <= before[name]).all())
                assert case in ("block", "channel") or np.unique(counts).size == 1
            if method != "gradual" or step == 4:
                assert kept == math.prod(shape) // 2
                assert case in ("block", "channel") or np.unique(counts).size == 1
    assert moved > 0


def pruned(weight: jax.Array, structure: jaxsparse.Structure) -> list[list[int]]:
    method = jaxsparse.magnitude(0.5, structure=structure)
    params, masks = {"w": weight}, {"w": jnp.ones(weight.shape, bool)}
    return jax.jit(method.update)(jax.random.key(0), masks, params, params, 0)[0]["w"].tolist()


def test_structured_selection_by_hand() -> None:
    # Block sums of |w|: [[10, 3], [4, 8]]; two of four are kept.
    weight = jnp.array([[4.0, -3, 1, 0], [1, 2, -1, 1], [0, 1, 5, 1], [1, -2, 1, -1]])
    assert pruned(weight, block(2, 2)) == [[1, 1, 0, 0]] * 2 + [[0, 0, 1, 1]] * 2
    # Sums of |w| of the columns: 6, 8, 8, 3: the two in the middle.
    assert pruned(weight, channel()) == [[0, 1, 1, 0]] * 4
    # The two largest of each column.
    weight = jnp.array([[4.0, 1], [-3, 2], [2, -3], [1, 4]])
    for structure in (n_m(keep=2, of=4), fan_in()):
        assert pruned(weight, structure) == [[1, 0], [1, 0], [0, 1], [0, 1]]


# Bad input.


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: n_m(keep=4, of=4), r"n_m\(keep=4, of=4\): keep must lie in \[1, of\)"),
        (lambda: n_m(keep=0, of=4), r"n_m\(keep=0, of=4\): keep must lie"),
        (lambda: n_m(keep=1, of=1), "of at least 2"),
        (lambda: block(0, 2), r"block\(0, 2\): both sides must be at least 1"),
        (lambda: build(n_m(keep=2, of=4)), r"does not divide axis -2 of kernel \(6, 9\); .*where="),
        (lambda: build(block(4, 3)), r"block\(4, 3\) does not divide .* kernel \(6, 9\); .*where="),
        (lambda: build(block(3, 4)), r"block\(3, 4\) does not divide"),
        (lambda: build(channel(), (5,)), r"channel needs two or more dimensions; kernel is \(5,\)"),
        (lambda: build(fan_in(), (5,)), r"fan_in needs two or more dimensions; kernel is \(5,\)"),
        (lambda: build(n_m(keep=1, of=5), (5,)), r"does not divide axis -2 of kernel \(5,\)"),
        # The structure prescribes its own sparsity.
        (lambda: build(n_m(keep=1, of=3)), r"kernel is to keep 27 of 54 .*sparsity=0.66"),
    ],
)
def test_misfits(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def build(structure: jaxsparse.Structure, shape: tuple[int, ...] = (6, 9)) -> Any:
    method = jaxsparse.static(
        0.5, structure=structure, distribution=jaxsparse.uniform, where=lambda path, leaf: True
    )
    return method.init(jax.random.key(0), {"kernel": jax.ShapeDtypeStruct(shape, jnp.float32)})


def test_abstract_parameters_are_enough() -> None:
    # Masks of shapes: nothing is read of the weights.
    masks = build(block(2, 3), (6, 9))
    assert masks["kernel"].shape == (6, 9)
    assert int(masks["kernel"].sum()) in (24, 30)
