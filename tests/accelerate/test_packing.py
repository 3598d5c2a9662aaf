"""Packed parameters and back, bit for bit; slots that are handed over."""

from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import accelerate
from jaxsparse.accelerate import Topology
from jaxsparse.accelerate.topology import moved

pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")

SHAPE = (8, 12)
WEIGHT = jnp.asarray(np.random.default_rng(0).normal(size=SHAPE), jnp.float32)
UNITS = jax.jit(lambda mask: jaxsparse.block(2, 3).expand(mask, SHAPE))


def unit_mask(seed: int, kept: int, balanced: bool) -> np.ndarray:
    """4 x 4 blocks: in each column, or in all, that many."""
    rng = np.random.default_rng(seed)
    if balanced:
        return np.stack([rng.permutation(4) < kept for _ in range(4)], axis=1)
    return (rng.permutation(16) < 4 * kept).reshape(4, 4)


@pytest.mark.parametrize(
    ("block", "balanced", "values"),
    [
        ((2, 3), True, (4, 2, 2, 3)),
        ((2, 3), False, (8, 2, 3)),
        ((1, 1), True, (12, 4)),
        ((1, 1), False, (48,)),
    ],
)
def test_there_and_back(block: Any, balanced: bool, values: Any) -> None:
    mask = UNITS(jnp.asarray(unit_mask(0, 2, balanced=True)))
    # Every bit: a kept -0.0, a subnormal number and a NaN are values like others.
    odd = jnp.where(mask, WEIGHT, 0).at[jnp.nonzero(mask)[0][0], jnp.nonzero(mask)[1][0]].set(-0.0)
    params = {"bias": jnp.ones(3), "kernel": odd}
    masks = {"bias": optax.MaskedNode(), "kernel": mask}
    packed, topology = accelerate.pack(params, masks, block=block, balanced=balanced)
    assert packed["kernel"].shape == values == topology["kernel"].values_shape
    again = accelerate.unpack(packed, topology)
    for found, want in zip(jax.tree.leaves(again), jax.tree.leaves(params), strict=True):
        assert np.asarray(found).tobytes() == np.asarray(want).tobytes()
    assert (accelerate.masks_of_topology(topology)["kernel"] == mask).all()
    assert accelerate.masks_of_topology(topology)["bias"] == optax.MaskedNode()
    taken = accelerate.pack_like(params, topology)["kernel"]
    assert (taken == packed["kernel"]).all()
    assert accelerate.bytes_of(packed) == 4 * (3 + 48)


def test_an_unbalanced_mask_in_columns_has_empty_slots() -> None:
    mask = jnp.asarray([[True, True, False], [False, True, False]])
    weight = jnp.asarray([[1.0, 2.0, 0.0], [0.0, 3.0, 0.0]])
    packed, topology = accelerate.pack(weight, mask, balanced=True)
    assert topology.indices.tolist() == [[0, 2], [0, 1], [2, 2]]
    assert packed.tolist() == [[1.0, 0.0], [2.0, 3.0], [0.0, 0.0]]
    assert (accelerate.unpack(packed, topology) == weight).all()
    assert (accelerate.masks_of_topology(topology) == mask).all()
    # By default columns that differ are kept in one list.
    assert accelerate.pack(weight, mask)[1].indices.tolist() == [0, 1, 4]


def test_dimensions_in_front_count_as_rows() -> None:
    weight = jnp.arange(24.0).reshape(2, 1, 3, 4)
    mask = weight.astype(int) % 3 == 0
    packed, topology = accelerate.pack(weight, mask)
    assert topology.grid == (6, 4)
    assert (accelerate.unpack(packed, topology) == jnp.where(mask, weight, 0)).all()


def test_gradients_of_unpack_are_those_of_kept_weights() -> None:
    mask = UNITS(jnp.asarray(unit_mask(1, 2, balanced=False)))
    packed, topology = accelerate.pack(WEIGHT, mask, block=(2, 3))
    grads = jax.grad(lambda p: (accelerate.unpack(p, topology) * WEIGHT).sum())(packed)
    assert (grads == accelerate.pack_like(WEIGHT, topology)).all()


@pytest.mark.parametrize("balanced", [True, False])
@hypothesis.given(seed=st.integers(0, 2**16), before=st.integers(1, 4), after=st.integers(0, 4))
def test_slots_are_handed_over(balanced: bool, seed: int, before: int, after: int) -> None:
    slots = max(before, after)
    old, new = unit_mask(seed, before, balanced), unit_mask(seed + 1, after, balanced)
    lists = lambda units: [set(np.flatnonzero(c)) for c in (units.T if balanced else [units])]
    shape = (4, slots) if balanced else (4 * slots,)
    empty = 4 if balanced else 16
    rows = np.full((len(lists(old)), shape[-1]), empty, np.int32)
    for row, kept in zip(rows, lists(old), strict=True):
        row[-len(kept) :] = sorted(kept)  # (empty slots first: anywhere will do)
    indices = jnp.asarray(rows.reshape(shape))
    topology = Topology(indices, SHAPE, (2, 3), balanced)
    found, same = _MOVED(topology, UNITS(jnp.asarray(new)))
    assert same.shape == found.indices.shape == shape
    after_move = [np.asarray(x).reshape(rows.shape) for x in (found.indices, same)]
    for was, now, stays, kept in zip(rows, *after_move, lists(new), strict=True):
        # Each kept unit once, in its old slot if it had one.
        assert sorted(now[now < empty].tolist()) == sorted(kept)
        assert (now[stays] == was[stays]).all()
        assert set(was[stays].tolist()) == kept & set(was.tolist())


_MOVED = jax.jit(moved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block": (4, 3)}, "kernel: the mask cuts blocks of \\(4, 3\\)"),
        ({"block": (3, 3)}, "block\\(3, 3\\) does not divide"),
        ({"masks": {"kernel": jnp.ones((2, 2), bool)}}, "kernel has shape \\(8, 12\\)"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    mask = UNITS(jnp.asarray(unit_mask(0, 2, balanced=True)))
    options = {"masks": {"kernel": mask}, "block": (2, 3), **change}
    with pytest.raises(ValueError, match=message):
        accelerate.pack({"kernel": WEIGHT}, **options)


def test_traced_masks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"traced, .* pack outside of jit"):
        jax.jit(lambda m: accelerate.pack(WEIGHT, m)[0])(jnp.ones(SHAPE, bool))
    with pytest.raises(ValueError, match=r"traced, .* pack outside of jit"):
        jax.jit(lambda w: accelerate.pack(w, jnp.ones(SHAPE, bool))[0])(WEIGHT)


def test_trees_that_do_not_belong_together() -> None:
    packed, topology = accelerate.pack(WEIGHT, jnp.ones(SHAPE, bool))
    with pytest.raises(ValueError, match="2 leaves of topologies, 1 of parameters"):
        accelerate.unpack(packed, [topology, topology])
    with pytest.raises(ValueError, match="packed values have shape \\(3,\\)"):
        accelerate.unpack(jnp.ones(3), topology)
    with pytest.raises(ValueError, match="an array of \\(3,\\) for the topology"):
        accelerate.pack_like(jnp.ones(3), topology)
    with pytest.raises(ValueError, match="unknown packed leaf 'kernal'; did you mean kernel"):
        accelerate.complete({"kernel": packed}, {"kernal": topology})
