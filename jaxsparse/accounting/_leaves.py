"""What the accounts need to know of a parameter leaf: its path, shape and integer kept count."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .._tree import flatten_with_paths, is_dense, join


class Leaf(NamedTuple):
    """One parameter leaf; ``position`` is its place among all leaves of the pytree."""

    position: int
    path: str
    shape: tuple[int, ...]
    dtype: Any
    kept: int

    @property
    def size(self) -> int:
        """Number of weights, kept or not."""
        return math.prod(self.shape)


def is_array(leaf: Any) -> bool:
    """Has it a shape and a dtype? An Equinox module also has leaves that are functions."""
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def array_leaves(params: PyTree, masks: PyTree | None) -> list[Leaf]:
    """The array leaves of ``params``; a leaf that ``masks`` leaves out keeps all its weights."""
    named = [(path, leaf) for path, leaf in flatten_with_paths(params)[0] if not is_dense(leaf)]
    kept = {path: mask for path, mask in flatten_with_paths(masks)[0] if not is_dense(mask)}
    unknown = kept.keys() - {path for path, leaf in named if is_array(leaf)}
    if unknown:
        raise ValueError(
            f"masks have leaves that params have not: {join(sorted(unknown))}; params have: "
            f"{join(path for path, _ in named)}"
        )
    return [
        Leaf(
            position,
            path,
            tuple(leaf.shape),
            leaf.dtype,
            _kept_count(path, tuple(leaf.shape), kept.get(path)),
        )
        for position, (path, leaf) in enumerate(named)
        if is_array(leaf)
    ]


def _kept_count(path: str, shape: tuple[int, ...], mask: Any) -> int:
    """The exact kept count of one leaf, from its mask, from a count, or from having neither."""
    size = math.prod(shape)
    if mask is None:
        return size
    if isinstance(mask, jax.ShapeDtypeStruct):
        raise ValueError(f"{path}: an abstract mask has no kept count; pass the count, an int")
    dtype = jnp.result_type(mask)
    if np.shape(mask) == () and jnp.issubdtype(dtype, jnp.integer):
        if not 0 <= int(mask) <= size:
            raise ValueError(f"{path}: kept count {int(mask)} is outside [0, {size}]")
        return int(mask)
    if np.shape(mask) != shape or not jnp.issubdtype(dtype, jnp.bool_):
        raise ValueError(
            f"{path}: expected a bool mask of shape {shape} or an int kept count, "
            f"got {dtype} {np.shape(mask)}"
        )
    # Counted where it lives: a sharded mask need not fit on, or be addressable from, one host.
    if isinstance(mask, jax.Array):
        return int(jnp.sum(mask, dtype=jnp.uint32))
    return int(np.count_nonzero(mask))
