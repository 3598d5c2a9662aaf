"""Private: leaves as they are ranked: each by itself, or many in the rows of one array."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from jaxsparse._counting import counts, one_device, tally

# Rows of one array are ranked by as many programs as one leaf is: from this many leaves on, the
# time to compile what is done to each by itself is worse than a copy of the weights.
_MANY = 8
# Rows a leaf, on average: few, for the counts of rows are added up leaf by leaf; but not so few
# that much is filled up.
_ROWS = 16


class Layout(NamedTuple):
    """Where the elements of several leaves are found.

    Packed, a leaf starts a new row, and what is left of its last row is filled with zeros.

    Attributes:
      sizes: Elements of each leaf.
      packed: Are they in one array?
    """

    sizes: tuple[int, ...]
    packed: bool

    @property
    def width(self) -> int:
        """Elements of a row: a power of two."""
        aim = max(sum(self.sizes) // (_ROWS * len(self.sizes)), 64)
        return 1 << (aim - 1).bit_length()

    @property
    def leaf(self) -> np.ndarray:
        """The leaf that a row belongs to: int32."""
        return np.repeat(np.arange(len(self.sizes), dtype=np.int32), self._rows)

    @property
    def start(self) -> np.ndarray:
        """The index, in its leaf, of a row's first element: uint32."""
        number = np.concatenate([np.arange(n) for n in self._rows])
        return (number * self.width).astype(np.uint32)

    @property
    def filled(self) -> np.ndarray:
        """Elements of a row that are of a leaf: int32."""
        rest = np.array(self.sizes, np.int64)[self.leaf] - self.start
        return np.minimum(rest, self.width).astype(np.int32)

    @property
    def _rows(self) -> list[int]:
        return [-(-size // self.width) for size in self.sizes]

    def pack(self, arrays: Sequence[Array]) -> list[Array]:
        """The arrays, or the one that holds them all: (rows, width)."""
        if not self.packed:
            return list(arrays)
        parts = []
        for array, size in zip(arrays, self.sizes, strict=True):
            parts += [array.reshape(-1), jnp.zeros(-size % self.width, array.dtype)]
        return [jnp.concatenate(parts).reshape(-1, self.width)]

    def unpack(self, arrays: Sequence[Array], shapes: Sequence[tuple[int, ...]]) -> list[Array]:
        """The inverse. (Stored, for else XLA would make the whole anew for each leaf.)"""
        if not self.packed:
            return list(arrays)
        flat, first, found = jax.lax.optimization_barrier(arrays[0]).reshape(-1), 0, []
        for rows, size, shape in zip(self._rows, self.sizes, shapes, strict=True):
            found.append(flat[first : first + size].reshape(shape))
            first += rows * self.width
        return found

    def counts(self, *flags: Sequence[Bool[Array, "..."]]) -> list[Array]:
        """How many True in each leaf: int32 vectors, one for each of ``flags``."""
        if not self.packed:
            rows = [counts(*row) for row in zip(*flags, strict=True)]
            none = jnp.zeros(0, jnp.int32)
            return [
                jnp.stack([row[i] for row in rows]) if rows else none for i in range(len(flags))
            ]
        found = tally([flag for (flag,) in flags], (1,))
        return self.join(found)

    def join(self, sums: Sequence[Array], least: Any = None, most: Any = None) -> list[Array]:
        """Numbers of each row, (rows, 1), as numbers of each leaf: like ``tally``."""
        member = self.leaf[:, None] == np.arange(len(self.sizes), dtype=np.int32)
        among = lambda column, other: jnp.where(member, column, column.dtype.type(other))
        low = None if least is None else among(least, jnp.iinfo(least.dtype).max)
        high = None if most is None else among(most, 0)
        found = tally([among(column, 0) for column in sums], (0,), low, high)
        return [jnp.squeeze(x, 0) for x in found]

    def spread(self, values: Sequence[Array]) -> list[Array]:
        """One number a leaf as one a row, (rows, 1): unsigned integers, or bools.

        Stored, for else XLA would look them up for each element.
        """
        dtype = jnp.result_type(*values)
        table = jnp.stack([value.astype(dtype) for value in values], 1)[self.leaf]
        table = jax.lax.optimization_barrier(table)
        return [table[:, i : i + 1].astype(v.dtype) for i, v in enumerate(values)]


def layout_of(arrays: Sequence[Any]) -> Layout:
    """How arrays of these shapes and dtypes are held: packed if they are many, on one device.

    Args:
      arrays: Arrays or ``ShapeDtypeStruct`` leaves.

    Returns:
      A ``Layout``.

    Example:
      >>> layout_of([np.zeros((2, 3))] * 2)
      Layout(sizes=(6, 6), packed=False)
    """
    alike = len({jnp.dtype(array.dtype) for array in arrays}) == 1
    sizes = tuple(int(np.prod(array.shape)) for array in arrays)
    return Layout(sizes, alike and len(arrays) >= _MANY and one_device())
