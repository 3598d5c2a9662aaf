"""Private: integers that order like scores, and the order of those that are equal."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxsparse._sharding import explicit_sharding


def ordered(scores: Array, where: Array | None) -> Array:
    """Unsigned keys that order like the scores, in [1, max - 1]; 0 is no candidate, 1 is NaN."""
    if jnp.issubdtype(scores.dtype, jnp.floating):
        bits = jnp.finfo(scores.dtype).bits
        unsigned = jnp.dtype(f"uint{bits}")
        top = unsigned.type(1 << (bits - 1))
        raw = jax.lax.bitcast_convert_type(scores, unsigned)
        # By bits, not by comparison: XLA compares denormals as zeros.
        keys = jnp.where(raw > top, ~raw, raw | top)
        keys = jnp.where(jnp.isnan(scores), unsigned.type(1), keys)
    else:
        # The two least int32 share a key, and so do the three largest.
        keys = jax.lax.bitcast_convert_type(scores.astype(jnp.int32), jnp.uint32)
        keys = jnp.clip(keys ^ np.uint32(1 << 31), np.uint32(1), np.uint32(0xFFFFFFFE))
    keys = keys.astype(jnp.promote_types(keys.dtype, jnp.uint32))
    return keys if where is None else jnp.where(where, keys, keys.dtype.type(0))


def indices(keys: Array, offset: Any = 0) -> Array:
    """Row-major index of each element, uint32, from iotas (a reshape would gather shards)."""
    shape, place = keys.shape, explicit_sharding(keys)
    index = jnp.zeros_like(keys, jnp.uint32) + offset
    for axis in range(len(shape)):
        stride = np.uint32(math.prod(shape[axis + 1 :]))
        iota = jax.lax.broadcasted_iota(jnp.uint32, shape, axis, out_sharding=place)
        index = index + iota * stride
    return index


def scramble(index: Array) -> Array:
    """A bijection of uint32 ("lowbias32", C. Wellons, public domain), shifted by one.

    Of the indices below 2^31 none becomes 0 (no candidate) or the largest integer (out of range).
    """
    index = index + np.uint32(1)
    index = (index ^ (index >> 16)) * np.uint32(0x7FEB352D)
    index = (index ^ (index >> 15)) * np.uint32(0x846CA68B)
    return index ^ (index >> 16)
