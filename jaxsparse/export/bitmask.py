"""Masks at one bit a weight."""

import math
from typing import Any

import numpy as np


def pack_mask(mask: Any) -> np.ndarray:
    """Pack a mask, one bit a weight, in row-major order.

    Args:
      mask: bool array of any shape.

    Returns:
      uint8 [ceil(size / 8)]: the first weight is the highest bit of the first byte; what is left
      of the last byte is zeros.

    Raises:
      ValueError: if the mask is not of booleans.

    Example:
      >>> import jax.numpy as jnp
      >>> pack_mask(jnp.array([[True, False, False], [False, False, True]])).tolist()
      [132]
    """
    bits = np.asarray(mask)
    if bits.dtype != np.bool_:
        raise ValueError(f"a mask has booleans, this one {bits.dtype}; pass mask != 0")
    return np.packbits(bits.reshape(-1))


def unpack_mask(packed: Any, shape: tuple[int, ...]) -> np.ndarray:
    """The mask that ``pack_mask`` packed.

    Args:
      packed: uint8 [ceil(size / 8)].
      shape: Of the mask.

    Returns:
      bool array of that shape.

    Raises:
      ValueError: if the bytes are too many or too few for the shape, or bits behind the last
        weight are set.

    Example:
      >>> import numpy as np
      >>> unpack_mask(np.array([132], np.uint8), (2, 3)).tolist()
      [[True, False, False], [False, False, True]]
    """
    packed, size = np.asarray(packed), math.prod(shape)
    if packed.dtype != np.uint8 or packed.shape != (-(-size // 8),):
        raise ValueError(
            f"a packed mask of shape {shape} is uint8 of shape ({-(-size // 8)},), this one "
            f"{packed.dtype} of shape {packed.shape}; pass the bytes and the shape of one mask"
        )
    if size % 8 and int(packed[-1]) & (0xFF >> size % 8):
        raise ValueError(
            f"bits behind the last of {size} weights are set (last byte {int(packed[-1])}, they "
            "must be 0); pass what pack_mask made"
        )
    return np.unpackbits(packed, count=size).astype(bool).reshape(shape)
