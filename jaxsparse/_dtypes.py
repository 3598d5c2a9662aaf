"""Float types in which sums and products lose nothing."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array


def wide_dtype(array: Any) -> Any:
    """float32, or the array's own type where that is wider."""
    return jnp.promote_types(array.dtype, jnp.float32)


def wide(array: Array) -> Array:
    """The array in it: sums of integers would wrap, those of half precision lose members."""
    return array.astype(wide_dtype(array))
