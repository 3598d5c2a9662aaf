"""Private sharding helpers: masks lie where their weights lie."""

import math
from typing import Any

import jax
import jax.numpy as jnp
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


def _spec(array: Any) -> list[Any]:
    """Mesh axes of each dimension, a tuple each."""
    spec = list(explicit_sharding(array).spec)
    names = lambda entry: () if entry is None else entry if isinstance(entry, tuple) else (entry,)
    return [names(entry) for entry in [*spec, *[None] * (array.ndim - len(spec))]]


def is_split(array: Any, axis: int) -> bool:
    """Is this axis known to lie on several devices?"""
    return explicit_sharding(array) is not None and bool(_spec(array)[axis])


def _reshape(array: Array, shape: list[int], spec: list[Any]) -> Array:
    sharding = explicit_sharding(array)
    place = jax.sharding.NamedSharding(
        sharding.mesh, jax.sharding.PartitionSpec(*[names or None for names in spec])
    )
    return jnp.reshape(array, shape, out_sharding=place)


def split(array: Array, sizes: dict[int, int]) -> Array:
    """Each of these axes as two, ``(n // size, size)``: the second one is on one device.

    Where a device's share is no multiple of ``size``, the axis is gathered first.
    """
    shape: list[int] = []
    for axis, n in enumerate(array.shape):
        shape += [n // sizes[axis], sizes[axis]] if axis in sizes else [n]
    if explicit_sharding(array) is None:
        return array.reshape(shape)
    sharding, before, after = explicit_sharding(array), _spec(array), []
    for axis, n in enumerate(array.shape):
        shares = math.prod(sharding.mesh.shape[name] for name in before[axis])
        if axis in sizes and n // sizes[axis] % shares:
            before[axis] = ()
        after += [before[axis], ()] if axis in sizes else [before[axis]]
    return _reshape(_reshape(array, list(array.shape), before), shape, after)


def merge(array: Array, shape: tuple[int, ...], axes: tuple[int, ...]) -> Array:
    """The inverse: these axes of the result were two, and lie where the first of them does."""
    if explicit_sharding(array) is None:
        return array.reshape(shape)
    entries, spec = iter(_spec(array)), []
    for axis in range(len(shape)):
        spec.append(next(entries))
        if axis in axes:
            next(entries)
    return _reshape(array, list(shape), spec)
