"""Which blocks of a matrix its packed values are: indices, and how they move."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Int

from jaxsparse.base import Structure
from jaxsparse.structures import block as block_structure


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Topology:
    """Where the packed values of one weight belong: data beside them, never differentiated.

    Units are blocks over the last two dimensions, ``(rows, columns)`` of them; leading dimensions
    count as rows.

    Attributes:
      indices: int32. Balanced: ``(columns, slots)``, the block row of each slot of each block
        column. Otherwise ``(slots,)``, positions among all units, row by row. An empty slot has
        the number of rows (of units), one past the last.
      shape: Of the dense weight.
      block: Height and width of a block; ``(1, 1)``: single weights.
      balanced: Does every block column have the same number of slots?
    """

    indices: Any  # an array, or what a transformation has in its place
    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    block: tuple[int, int] = dataclasses.field(metadata={"static": True})
    balanced: bool = dataclasses.field(metadata={"static": True})

    @property
    def grid(self) -> tuple[int, int]:
        """Block rows (leading dimensions counted) and block columns."""
        height, width = self.block
        *lead, inputs, outputs = self.shape
        return math.prod(lead) * (inputs // height), outputs // width

    @property
    def empty(self) -> int:
        """What stands in an empty slot."""
        return self.grid[0] if self.balanced else math.prod(self.grid)

    @property
    def values_shape(self) -> tuple[int, ...]:
        """Shape of the packed values: that of the indices, and the block where it is one."""
        return (*self.indices.shape, *(self.block if self.block != (1, 1) else ()))

    @property
    def present(self) -> Bool[Array, "..."]:
        """Which slots hold a unit; shaped like the indices."""
        return self.indices < self.empty


def topology_of(
    path: str, mask: Any, block: tuple[int, int], balanced: bool, slots: int | None = None
) -> Topology:
    """The topology of a mask.

    Args:
      path: Of the leaf, for messages.
      mask: Concrete bool array of two or more dimensions.
      block: Height and width.
      balanced: One list of slots for each block column, or one for the whole leaf?
      slots: How many there are; default: as many as the fullest column (the leaf) needs.

    Returns:
      Units in ascending order, then the empty slots.

    Raises:
      ValueError: if the mask is traced, is not made of whole blocks, or needs more slots.

    Example:
      >>> mask = jnp.array([[True, False], [False, False], [True, True]])
      >>> topology_of("w", mask, (1, 1), balanced=True).indices.tolist()
      [[0, 2], [2, 3]]
    """
    if isinstance(mask, Tracer):
        raise ValueError(f"{path}: the mask is traced, but slots are counted; pack outside of jit")
    structure = block_structure(*block)
    structure.check(path, mask.shape)
    units = np.asarray(unit_mask(jnp.asarray(mask), structure))
    whole = structure.expand(jnp.asarray(units), mask.shape)
    if not np.array_equal(np.asarray(whole), np.asarray(mask)):
        raise ValueError(
            f"{path}: the mask cuts blocks of {block}; give the block that it was made with, or "
            "(1, 1)"
        )
    units = units.reshape(-1, units.shape[-1])
    lists = units.T if balanced else units.reshape(1, -1)
    most = max(int(lists.sum(axis=1).max()), 1)
    slots = most if slots is None else slots
    if slots < most:
        raise ValueError(f"{path}: {slots} slots for {most} kept units; give at least {most}")
    indices = np.full((len(lists), slots), lists.shape[1], np.int32)
    for own, kept in zip(indices, lists, strict=True):
        found = np.flatnonzero(kept)
        own[: len(found)] = found
    return Topology(jnp.asarray(indices if balanced else indices[0]), mask.shape, block, balanced)


def unit_mask(mask: Bool[Array, "..."], structure: Structure) -> Bool[Array, "..."]:
    """Which units have any weight.

    Args:
      mask: Bool array.
      structure: Of the units.

    Returns:
      Bool array of the pooled shape.

    Example:
      >>> unit_mask(jnp.eye(4, dtype=bool), block_structure(2, 2)).tolist()
      [[True, False], [False, True]]
    """
    return structure.pool(mask) > 0


def mask_of(topology: Topology) -> Bool[Array, "..."]:
    """The mask of a topology.

    Args:
      topology: Of one leaf.

    Returns:
      Bool array of the weight's shape.

    Example:
      >>> topology = Topology(jnp.array([0, 3]), (2, 2), (1, 1), balanced=False)
      >>> mask_of(topology).tolist()
      [[True, False], [False, True]]
    """
    present = over_values(topology, topology.present)
    return spread(topology, jnp.broadcast_to(present, topology.values_shape))


def over_values(topology: Topology, slots: Array) -> Array:
    """What is said of each slot, so that it broadcasts over the values.

    Args:
      topology: Of the leaf.
      slots: Array like the indices.

    Returns:
      The same, with dimensions of size 1 for those of a block.

    Example:
      >>> topology = Topology(jnp.array([0, 1]), (4, 2), (2, 2), balanced=False)
      >>> over_values(topology, topology.present).shape
      (2, 1, 1)
    """
    extra = len(topology.values_shape) - topology.indices.ndim
    return slots.reshape(*slots.shape, *[1] * extra)


def spread(topology: Topology, values: Array) -> Array:
    """Packed values as a dense array with zeros (False) elsewhere.

    Args:
      topology: Of the leaf.
      values: ``topology.values_shape``, any dtype.

    Returns:
      Array of ``topology.shape``.

    Raises:
      ValueError: if the values have another shape.

    Example:
      >>> topology = Topology(jnp.array([[1], [0]]), (2, 2), (1, 1), balanced=True)
      >>> spread(topology, jnp.array([[5.0], [7.0]])).tolist()
      [[0.0, 7.0], [5.0, 0.0]]
    """
    if values.shape != topology.values_shape:
        raise ValueError(
            f"packed values have shape {values.shape}, their topology is of "
            f"{topology.values_shape}; pass the two that belong together"
        )
    (rows, columns), (height, width) = topology.grid, topology.block
    values = values.reshape(*topology.indices.shape, height, width)
    if topology.balanced:
        places = (topology.indices, jnp.arange(columns, dtype=jnp.int32)[:, None])
        dense = jnp.zeros((rows, columns, height, width), values.dtype)
        dense = dense.at[places].set(values, mode="drop")
    else:
        dense = jnp.zeros((rows * columns, height, width), values.dtype)
        dense = dense.at[topology.indices].set(values, mode="drop")
        dense = dense.reshape(rows, columns, height, width)
    return dense.transpose(0, 2, 1, 3).reshape(topology.shape)


def gathered(topology: Topology, dense: Array) -> Array:
    """The values of a dense array at a topology's slots; zeros in empty ones.

    Args:
      topology: Of the leaf.
      dense: Array of ``topology.shape``.

    Returns:
      Array of ``topology.values_shape``.

    Raises:
      ValueError: if the array has another shape.

    Example:
      >>> topology = Topology(jnp.array([[1], [0]]), (2, 2), (1, 1), balanced=True)
      >>> gathered(topology, jnp.array([[1.0, 2.0], [3.0, 4.0]])).tolist()
      [[3.0], [2.0]]
    """
    if dense.shape != topology.shape:
        raise ValueError(f"an array of {dense.shape} for the topology of one of {topology.shape}")
    (rows, columns), (height, width) = topology.grid, topology.block
    units = dense.reshape(rows, height, columns, width).transpose(0, 2, 1, 3)
    if topology.balanced:
        places = (topology.indices, jnp.arange(columns, dtype=jnp.int32)[:, None])
        values = units.at[places].get(mode="fill", fill_value=0)
    else:
        values = units.reshape(rows * columns, height, width)
        values = values.at[topology.indices].get(mode="fill", fill_value=0)
    return values.reshape(topology.values_shape)


def moved(topology: Topology, mask: Bool[Array, "..."]) -> tuple[Topology, Bool[Array, "..."]]:
    """Hand the slots of dropped units to grown ones; what stays keeps its slot.

    Args:
      topology: Before.
      mask: After: whole blocks, no more in a column (in all) than there are slots.

    Returns:
      The topology after, and which slots hold what they held before (shaped like the indices);
      an empty slot stays one, or holds a grown unit.

    Example:
      >>> topology = Topology(jnp.array([0, 3]), (2, 2), (1, 1), balanced=False)
      >>> new, same = moved(topology, jnp.array([[False, True], [False, True]]))
      >>> new.indices.tolist(), same.tolist()
      ([1, 3], [False, True])
    """
    rows, columns = topology.grid
    units = unit_mask(mask, block_structure(*topology.block)).reshape(rows, columns)
    lists = units.T if topology.balanced else units.reshape(1, -1)
    slots = topology.indices.reshape(len(lists), -1)
    if topology.balanced:
        new, same = jax.vmap(_handed)(slots, lists)
    else:
        new, same = (x[None] for x in _handed(slots[0], lists[0]))
    shape = topology.indices.shape
    return dataclasses.replace(topology, indices=new.reshape(shape)), same.reshape(shape)


def fullest(topology: Topology) -> Int[Array, "..."]:
    """Which slots to keep, and in which order, so that none is empty in every column.

    Args:
      topology: Concrete.

    Returns:
      int32, shaped like the indices but with as many slots as the fullest column needs.

    Example:
      >>> topology = Topology(jnp.array([[2, 0], [2, 1], [2, 2]]), (2, 3), (1, 1), balanced=True)
      >>> fullest(topology).tolist()
      [[1], [1], [0]]
    """
    present = np.asarray(topology.present)
    most = max(int(present.sum(axis=-1).max()), 1)
    order = np.argsort(~present, axis=-1, kind="stable")[..., :most]
    return jnp.asarray(order.astype(np.int32))


def taken(x: Array, order: Int[Array, "..."]) -> Array:
    """Some slots of packed values, or of anything shaped like them.

    Args:
      x: Begins with the dimensions of the indices.
      order: From ``fullest``.

    Returns:
      Array with fewer slots; what is not shaped like values stays as it is.

    Example:
      >>> taken(jnp.array([[5.0, 7.0]]), jnp.array([[1]])).tolist()
      [[7.0]]
    """
    if x.ndim < order.ndim or x.shape[: order.ndim - 1] != order.shape[:-1]:
        return x
    extra = (1,) * (x.ndim - order.ndim)
    return jnp.take_along_axis(x, order.reshape(*order.shape, *extra), axis=order.ndim - 1)


def reordered(topology: Topology, order: Int[Array, "..."]) -> Topology:
    """The topology of values that were ``taken``.

    Args:
      topology: Before.
      order: From ``fullest``.

    Returns:
      A topology with fewer slots.

    Example:
      >>> topology = Topology(jnp.array([[2, 0]]), (2, 1), (1, 1), balanced=True)
      >>> reordered(topology, fullest(topology)).indices.tolist()
      [[0]]
    """
    return dataclasses.replace(topology, indices=taken(topology.indices, order))


def _handed(slots: Array, kept: Array) -> tuple[Array, Array]:
    """One list of slots, one of units: ``(slots after, those that stay)``."""
    (number,), (units,) = slots.shape, kept.shape
    stays = kept.at[slots].get(mode="fill", fill_value=False)
    held = jnp.zeros(units, bool).at[slots].set(True, mode="drop")
    (grown,) = jnp.nonzero(kept & ~held, size=number, fill_value=units)
    # The n-th free slot gets the n-th grown unit; those that are left get none.
    turn = jnp.cumsum(~stays) - 1
    return jnp.where(stays, slots, grown[turn].astype(slots.dtype)), stays
