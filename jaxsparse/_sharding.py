"""Private sharding helpers: masks lie where their weights lie."""

from typing import Any

import jax
from jax.core import Tracer
from jaxtyping import Array


def explicit_sharding(array: Any) -> Any:
    """The sharding a new array needs to meet this one under Explicit axes, elsewhere ``None``."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not any(kind == jax.sharding.AxisType.Explicit for kind in mesh.axis_types):
        return None
    sharding = getattr(jax.typeof(array), "sharding", None)
    return None if sharding is None or sharding.mesh.empty else sharding


def like(mask: Array, array: Any) -> Array:
    """The mask with the sharding of its weight, wherever that is known."""
    sharding = explicit_sharding(array)
    if sharding is not None:
        return jax.sharding.reshard(mask, sharding)
    # Outside jit; inside, Auto axes leave it to the compiler and to `out_shardings`.
    concrete = isinstance(array, jax.Array) and not isinstance(array, Tracer)
    traced = isinstance(mask, Tracer)
    return jax.device_put(mask, array.sharding) if concrete and not traced else mask
