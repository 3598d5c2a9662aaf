"""Bytes that a sparse model takes at rest."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import PyTree

from .._table import aligned
from ._leaves import Leaf, array_leaves

_POINTER_BYTES = 4


class LeafSize(NamedTuple):
    """Bytes of one leaf in each of three encodings.

    Attributes:
      path: Of the leaf.
      shape: Of the leaf.
      kept: Weights kept.
      dense: Bytes of all values, zeros included.
      bitmask: Bytes of the kept values and one bit a position; no bits where nothing is missing.
      indices: Bytes in compressed sparse rows (CSR): the kept values, a column index for each and a
        pointer a row; the values alone where nothing is missing.
    """

    path: str
    shape: tuple[int, ...]
    kept: int
    dense: int
    bitmask: int
    indices: int

    @property
    def smallest(self) -> int:
        """Bytes of the smallest of the three."""
        return min(self.dense, self.bitmask, self.indices)


class SizeReport(NamedTuple):
    """Bytes of a model; ``print`` it for a table.

    Attributes:
      leaves: One :class:`LeafSize` an array leaf of the parameters.
    """

    leaves: tuple[LeafSize, ...]

    @property
    def dense(self) -> int:
        """Bytes of all values."""
        return sum(leaf.dense for leaf in self.leaves)

    @property
    def bitmask(self) -> int:
        """Bytes with a bitmask for each sparse leaf: the number papers report."""
        return sum(leaf.bitmask for leaf in self.leaves)

    @property
    def indices(self) -> int:
        """Bytes with compressed rows for each sparse leaf."""
        return sum(leaf.indices for leaf in self.leaves)

    @property
    def smallest(self) -> int:
        """Bytes with the smallest encoding of each leaf."""
        return sum(leaf.smallest for leaf in self.leaves)

    def __str__(self) -> str:
        """A row a leaf, and the totals."""
        rows = [(row.path, str(row.shape), f"{row.kept:,}", row) for row in self.leaves]
        return aligned(
            [
                (*cells, f"{of.dense:,}", f"{of.bitmask:,}", f"{of.indices:,}", f"{of.smallest:,}")
                for *cells, of in [*rows, ("total", "", "", self)]
            ],
            ("leaf", "shape", "kept", "dense", "bitmask", "indices", "smallest"),
        )


def size_bytes(params: PyTree, masks: PyTree | None = None, *, index_bytes: int = 4) -> SizeReport:
    """Count the bytes of a model at rest: dense, with bitmasks, and with indices.

    A sparse leaf of ``n`` weights in ``r`` rows, ``k`` weights kept, takes ``k`` values and ``n``
    bits, or ``k`` values, ``k`` column indices and ``r + 1`` pointers of 32 bits: with 32-bit
    indices, bitmasks are smaller wherever more than one weight in 32 is kept. A row is all weights
    of one index of all axes but the last. Leaves without a mask, biases among them, are stored
    whole.

    Args:
      params: Pytree of arrays or ``jax.ShapeDtypeStruct`` leaves; dtypes say how wide values are.
      masks: Pytree like ``params``: bool arrays or kept counts; ``optax.MaskedNode()``, or
        nothing, where a leaf is dense.
      index_bytes: Bytes of one column index.

    Returns:
      A :class:`SizeReport` with ``dense``, ``bitmask``, ``indices``, ``smallest`` and ``leaves``.

    Raises:
      ValueError: If ``masks`` do not fit ``params``.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> params = {"w": jax.ShapeDtypeStruct((784, 10), jnp.float32)}
      >>> report = size_bytes(params, {"w": 784})
      >>> report.dense, report.bitmask, report.indices
      (31360, 4116, 9412)

    References:
      Evci et al., `Rigging the Lottery <https://arxiv.org/abs/1911.11134>`_, ICML 2020,
      and its `code <https://github.com/google-research/rigl>`_, for the bitmask count.
    """
    leaves = array_leaves(params, masks)
    return SizeReport(tuple(_leaf_size(leaf, index_bytes) for leaf in leaves))


def _leaf_size(leaf: Leaf, index_bytes: int) -> LeafSize:
    width = jnp.dtype(leaf.dtype).itemsize
    values = leaf.kept * width
    sparse = leaf.kept < leaf.size
    pointers = _POINTER_BYTES * (math.prod(leaf.shape[:-1]) + 1)
    return LeafSize(
        leaf.path,
        leaf.shape,
        leaf.kept,
        dense=leaf.size * width,
        bitmask=values + (-(-leaf.size // 8) if sparse else 0),
        indices=values + (leaf.kept * index_bytes + pointers if sparse else 0),
    )
