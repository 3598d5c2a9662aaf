"""Which leaves of a tree may be sparse, and what is read of them: path, shape and size."""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxsparse._tree import flatten_with_paths, is_dense, join
from jaxsparse.base import Params, Where

_LEFT_OUT = ("embed", "norm")


def default_where(path: str, leaf: Any) -> bool:
    """Floating leaves of two or more dimensions, without embeddings and normalization.

    Args:
      path: ``"/"``-joined key names.
      leaf: An array or a ``ShapeDtypeStruct``.

    Returns:
      May the leaf be sparse?

    Example:
      >>> import jax.numpy as jnp
      >>> default_where("Dense_0/kernel", jnp.zeros((3, 4)))
      True
      >>> default_where("Embed_0/embedding", jnp.zeros((3, 4)))
      False
    """
    floating = jnp.issubdtype(leaf.dtype, jnp.floating)
    named = any(word in path.lower() for word in _LEFT_OUT)
    return bool(floating and len(leaf.shape) >= 2 and math.prod(leaf.shape) and not named)


class Layer(NamedTuple):
    """One leaf that may be sparse: what a distribution reads of it."""

    path: str
    shape: tuple[int, ...]
    size: int


def sparse_layers(params: Params, where: Where) -> tuple[list[Layer | None], Any]:
    """The leaves that may be sparse, in the tree's order.

    Args:
      params: Pytree of arrays or ``ShapeDtypeStruct`` leaves.
      where: ``(path, leaf) -> bool``.

    Returns:
      A ``Layer`` or ``None`` for each leaf, and the tree's structure.

    Raises:
      ValueError: if ``where`` takes an integer or an empty leaf, or takes none of several.

    Example:
      >>> import jax.numpy as jnp
      >>> params = {"bias": jnp.zeros(4), "kernel": jnp.zeros((3, 4))}
      >>> sparse_layers(params, default_where)[0]
      [None, Layer(path='kernel', shape=(3, 4), size=12)]
    """
    leaves, structure = flatten_with_paths(params)
    layers: list[Layer | None] = []
    for path, leaf in leaves:
        if is_dense(leaf) or not where(path, leaf):
            layers.append(None)
            continue
        shape = tuple(leaf.shape)
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"{path} is {leaf.dtype}{list(shape)}: only floating leaves can be sparse; "
                "leave it out with where="
            )
        if not math.prod(shape):
            raise ValueError(f"{path} has shape {shape} and no weights; leave it out with where=")
        layers.append(Layer(path, shape, math.prod(shape)))
    arrays = [path for path, leaf in leaves if not is_dense(leaf)]
    if arrays and not any(layers):
        raise ValueError(
            f"none of the {len(arrays)} leaves may be sparse ({join(arrays)}); "
            "pass where= that takes one, or use dense()"
        )
    return layers, structure
