"""Random matrices that take d coordinates to one leaf: dense, sparse, and Fastfood.

Each is drawn leaf by leaf; its columns get their unit norm over all leaves together.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int8

from jaxsparse.subspaces.hadamard import walsh_hadamard


@runtime_checkable
class Projection(Protocol):
    """The rows of P that belong to one leaf; a pytree of arrays, usually a ``NamedTuple``."""

    def project(self, coordinates: Array, shape: tuple[int, ...]) -> Array:
        """``P d``, of the leaf's shape; ``coordinates`` are (d,)."""
        ...


Draw: TypeAlias = Callable[[chex.PRNGKey, tuple[int, ...], int, int, Any], tuple[Projection, Array]]
"""``(key, shape, dimension, total, dtype) -> (projection, squares)`` for one leaf of a tree that
has ``total`` weights; ``squares`` (d,) is what its rows add to the squared norms of the columns."""


class Dense(NamedTuple):
    """Every entry normal: d floats a weight, in d rows."""

    basis: Float[Array, "..."]

    def project(self, coordinates: Array, shape: tuple[int, ...]) -> Array:
        """A sum of d rows."""
        exact = jax.lax.Precision.HIGHEST
        return jnp.dot(coordinates, self.basis, precision=exact).reshape(shape)


class Sparse(NamedTuple):
    """Entries of 1 and -1 at a few places: in order of ``rows``, which count the leaf's weights."""

    rows: Int[Array, "..."]
    columns: Int[Array, "..."]
    signs: Int8[Array, "..."]

    def project(self, coordinates: Array, shape: tuple[int, ...]) -> Array:
        """Each entry takes its coordinate to its weight."""
        taken = coordinates[self.columns] * self.signs.astype(coordinates.dtype)
        size = math.prod(shape)
        sums = jax.ops.segment_sum(taken, self.rows, size, indices_are_sorted=True)
        return sums.reshape(shape)


class Fastfood(NamedTuple):
    """``H G Pi H B``, a block below the other: three numbers a weight, whatever d is."""

    signs: Int8[Array, "..."]  # B: (blocks, width)
    order: Int[Array, "..."]  # Pi
    gains: Float[Array, "..."]  # G

    def project(self, coordinates: Array, shape: tuple[int, ...]) -> Array:
        """From right to left; what the last block has too much is cut off."""
        width = self.signs.shape[-1]
        padded = jnp.pad(coordinates, (0, width - coordinates.size))
        mixed = walsh_hadamard(padded[None] * self.signs.astype(padded.dtype))
        index = jnp.arange(self.order.shape[0])[:, None]
        # (Unique and in bounds: the transpose needs no care for collisions.)
        placed = mixed.at[index, self.order].get(mode="promise_in_bounds", unique_indices=True)
        return walsh_hadamard(placed * self.gains).reshape(-1)[: math.prod(shape)].reshape(shape)


def draw_dense(
    key: chex.PRNGKey, shape: tuple[int, ...], dimension: int, total: int, dtype: Any
) -> tuple[Projection, Array]:
    """Independent normal entries; Li et al., 2018.

    Args:
      key: Of this leaf.
      shape: Of the leaf.
      dimension: d.
      total: D; not read.
      dtype: Of the entries.

    Returns:
      The projection and the squares of its columns.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> drawn, squares = draw_dense(jax.random.key(0), (3, 2), 4, 6, jnp.float32)
      >>> drawn.basis.shape, squares.shape
      ((4, 6), (4,))
    """
    del total
    # (Flat: a product with a matrix of two dimensions is also fast backwards.)
    basis = jax.random.normal(key, (dimension, math.prod(shape)), dtype)
    return Dense(basis), jnp.sum(basis**2, 1)


def draw_sparse(
    key: chex.PRNGKey, shape: tuple[int, ...], dimension: int, total: int, dtype: Any
) -> tuple[Projection, Array]:
    """Entries of 1 and -1, one in ``sqrt(total)``; Li, Hastie and Church, 2006.

    The places are drawn in strata: of every ``sqrt(total)`` entries that follow one another (first
    those of the first weight) one is taken, uniformly. So their number is fixed, as shapes need it,
    none comes twice, and every entry is taken with the same probability.

    Args:
      key: Of this leaf.
      shape: Of the leaf.
      dimension: d.
      total: D.
      dtype: Of the squares.

    Returns:
      The projection and the squares of its columns.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> drawn, squares = draw_sparse(jax.random.key(0), (10, 10), 20, 100, jnp.float32)
      >>> drawn.rows.shape, int(squares.sum())  # 2,000 entries, one in ten
      ((200,), 200)
    """
    entries = dimension * math.prod(shape)
    count = max(round(entries / math.sqrt(total)), 1) if entries else 0
    # On the host: there may be more entries than an int32 counts.
    most, rest = divmod(entries, max(count, 1))
    index = np.arange(count + 1, dtype=np.int64)
    edges = index * most + index * rest // max(count, 1)
    starts, widths = edges[:-1], np.diff(edges)
    first, second = jax.random.split(key)
    offsets = jax.random.randint(first, (count,), 0, jnp.asarray(widths, jnp.int32))
    columns = jnp.asarray(starts % dimension, jnp.int32) + offsets
    rows = jnp.asarray(starts // dimension, jnp.int32) + columns // dimension
    columns = columns % dimension
    signs = jax.random.rademacher(second, (count,), jnp.int8)
    squares = jnp.zeros(dimension, dtype).at[columns].add(1)
    return Sparse(rows, columns, signs), squares


def draw_fastfood(
    key: chex.PRNGKey, shape: tuple[int, ...], dimension: int, total: int, dtype: Any
) -> tuple[Projection, Array]:
    """Products of diagonal, permuting and Hadamard matrices; Le, Sarlos and Smola, 2013.

    Blocks are square, as wide as the next power of two from d on. Columns of a whole block have
    the norm sqrt(width) exactly; of a block that is cut off, on average of its rows.

    Args:
      key: Of this leaf.
      shape: Of the leaf.
      dimension: d.
      total: D; not read.
      dtype: Of the gains.

    Returns:
      The projection and the squares of its columns, in the mean over its draws.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> drawn, squares = draw_fastfood(jax.random.key(0), (4, 3), 3, 12, jnp.float32)
      >>> drawn.signs.shape, squares.tolist()  # three blocks of 4 rows for 12 weights
      ((3, 4), [12.0, 12.0, 12.0])
    """
    del total
    size, width = math.prod(shape), 1 << (dimension - 1).bit_length()
    block = (-(-size // width), width)
    for_signs, for_order, for_gains = jax.random.split(key, 3)
    signs = jax.random.rademacher(for_signs, block, jnp.int8)
    index = jnp.broadcast_to(jnp.arange(width, dtype=jnp.int32), block)
    order = jax.random.permutation(for_order, index, axis=1, independent=True)
    normal = jax.random.normal(for_gains, block, dtype)
    # A column of H G Pi H B has the square width * |G|^2: here, width.
    gains = normal / jnp.sqrt(jnp.sum(normal**2, 1, keepdims=True))
    return Fastfood(signs, order, gains), jnp.full(dimension, size, dtype)


PROJECTIONS: dict[str, Draw] = {
    "dense": draw_dense,
    "sparse": draw_sparse,
    "fastfood": draw_fastfood,
}
"""Name of a projection -> how it is drawn for one leaf."""
