"""The forms that a masked matrix can be multiplied in."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxsparse.accelerate.block_sparse import block_sparse_matmul
from jaxsparse.accelerate.fan_in import condensed_matmul
from jaxsparse.accelerate.topology import gathered, topology_of
from jaxsparse.export.matrices import to_bcsr

_SIDES = (128, 64, 32, 16, 8, 4, 2)


class Form(NamedTuple):
    """One way to multiply by a matrix.

    Attributes:
      name: ``"block-sparse"``, ``"condensed"`` or ``"bcsr"``.
      detail: Its block or its number of slots.
      multiply: ``(x, *parts) -> x @ matrix``, for ``x`` of two dimensions.
      parts: Arrays, prepared once.
    """

    name: str
    detail: str
    multiply: Callable[..., Array]
    parts: tuple[Any, ...]


def forms_of(path: str, matrix: np.ndarray, mask: np.ndarray) -> list[Form]:
    """The forms that fit a mask and store less than the dense matrix.

    Args:
      path: Of the weight, for messages.
      matrix: ``(inputs, outputs)``.
      mask: Like it, bool.

    Returns:
      None, or up to three.
    """
    forms: list[Form] = []
    if not mask.size:
        return forms
    fullest = max(int(mask.sum(0).max()), 1)
    block = height, width = block_of(mask)
    rows = mask[::height, ::width].sum(0)
    if max(block) >= 4 and max(int(rows.max()), 1) * height < len(mask):
        topology = topology_of(path, mask, block, balanced=True)
        parts = _gathered(topology, matrix), topology.indices
        forms.append(Form("block-sparse", f"{height}x{width}", block_sparse_matmul, parts))
    if 2 * fullest < len(mask):
        topology = topology_of(path, mask, (1, 1), balanced=True)
        parts = _transposed(_gathered(topology, matrix)), _transposed(topology.indices)
        forms.append(Form("condensed", f"{fullest} a column", condensed_matmul, parts))
    known = jax.default_backend() == "cpu" and matrix.dtype in (np.float32, np.float64)
    if known and 2 * mask.sum() < mask.size:
        parts = (to_bcsr(matrix.T, mask.T),)
        forms.append(Form("bcsr", "", _by_rows, parts))
    return forms


def block_of(mask: np.ndarray) -> tuple[int, int]:
    """The largest block, up to 128 a side, of which a mask is made.

    Args:
      mask: bool ``(inputs, outputs)``.

    Returns:
      Height and width, each a power of two.
    """

    def side(mask: np.ndarray) -> int:
        for size in _SIDES:
            if len(mask) % size == 0:
                groups = mask.reshape(len(mask) // size, size, -1)
                if (groups == groups[:, :1]).all():
                    return size
        return 1

    return side(mask), side(mask.T)


_gathered = jax.jit(gathered)


def _transposed(array: Array) -> Array:
    """As it will lie in memory."""
    return jnp.asarray(np.ascontiguousarray(np.asarray(array).T))


def _by_rows(x: Array, rows: Any) -> Array:
    return (rows @ x.T.astype(rows.dtype)).T
