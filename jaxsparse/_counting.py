"""Private: several counts of one array in one pass over it."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def _most(x: Array) -> Any:
    return x.dtype.type(jnp.iinfo(x.dtype).max)


# (elements, start, combination, collective form) of each number that a pass brings home.
_SUM = (np.int32(0), jax.lax.add, lambda x, axes: jnp.sum(x, axes, dtype=jnp.int32, keepdims=True))
# (An initial value, for there are empty leaves.)
_MIN = (
    None,
    jax.lax.min,
    lambda x, axes: jnp.min(x, axes, keepdims=True, initial=_most(x)),
)
_MAX = (None, jax.lax.max, lambda x, axes: jnp.max(x, axes, keepdims=True, initial=0))


def one_device() -> bool:
    """One variadic reduction reads an array once, whatever is asked of it.

    On a CPU it also escapes XLA's tree reduction, which writes the summands out: eight times
    faster. But GSPMD gathers the partial results of a variadic reduction, where it adds up those
    of plain ones. The numbers are the same integers either way.
    """
    return jax.device_count() == 1


def tally(
    numbers: Sequence[Array], axes: Sequence[int], least: Any = None, most: Any = None
) -> list[Array]:
    """The sum of each array; and the least and the largest integer of two further arrays.

    Args:
      numbers: Bool or int32 arrays of one shape.
      axes: The axes counted over; they stay, with size 1.
      least: Unsigned integers of that shape, or ``None``.
      most: The same.

    Returns:
      int32 arrays, one for each of ``numbers``, and the extremes asked for.
    """
    rows = [(number.astype(jnp.int32), *_SUM) for number in numbers]
    if least is not None:
        rows.append((least, _most(least), *_MIN[1:]))
    if most is not None:
        rows.append((most, most.dtype.type(0), *_MAX[1:]))
    axes = tuple(axes)
    if len(rows) == 1 or not one_device():
        return [collective(x, axes) for x, _, _, collective in rows]
    combine = [row[2] for row in rows]
    found = jax.lax.reduce(
        tuple(row[0] for row in rows),
        tuple(row[1] for row in rows),
        lambda x, y: tuple(f(a, b) for f, a, b in zip(combine, x, y, strict=True)),
        axes,
    )
    return [jnp.expand_dims(x, axes) for x in found]


def counts(*flags: Array, axis: tuple[int, ...] | None = None) -> list[Array]:
    """How many True in each of several bool arrays of one shape, along axes or in all: int32."""
    flags = tuple(jnp.atleast_1d(flag) for flag in flags)
    axes = tuple(range(flags[0].ndim)) if axis is None else axis
    if len(flags) == 1:
        # Two numbers for one, each of use: XLA would cut what is not, and sum as slowly as ever.
        yes, no = tally([flags[0], ~flags[0]], axes)
        size = math.prod(flags[0].shape[i] for i in axes)
        found = [(yes - no + size) // 2]
    else:
        found = tally(flags, axes)
    return [jnp.squeeze(x, axes) for x in found]


def all_finite(groups: Sequence[Sequence[Array]]) -> Array:
    """Are all numbers finite? Float arrays, in groups of one shape and sharding.

    (Counted, for a collective may lose a NaN.)
    """
    if one_device():  # arrays of one shape in one pass: fewer programs to compile
        by_shape: dict[tuple[int, ...], list[Array]] = {}
        for group in groups:
            for array in group:
                by_shape.setdefault(array.shape, []).append(array)
        groups = list(by_shape.values())
    odd = [
        counts(functools.reduce(jnp.logical_or, [~jnp.isfinite(x) for x in group]))[0]
        for group in groups
        if group
    ]
    return jnp.sum(jnp.stack(odd)) == 0 if odd else jnp.asarray(True)
