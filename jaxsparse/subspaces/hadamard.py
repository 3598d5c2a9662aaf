"""The Walsh-Hadamard transform, as a few small matrix products."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# Of 64 by 64: large enough to keep a matrix unit busy, small against what is transformed.
_MOST = 6


def walsh_hadamard(x: Float[Array, "*rows n"]) -> Float[Array, "*rows n"]:
    """``x H``, with the n by n Hadamard matrix of Sylvester: entries 1 and -1, not normalized.

    H is the Kronecker product of small Hadamard matrices (equation 3 of the reference), so that the
    transform is one small matrix product a factor: 64 n multiplications for each 64 in n, where
    the matrix itself needs n squared and is never made.

    Args:
      x: Real array whose last dimension is a power of two.

    Returns:
      Like ``x``: the transform along the last dimension. Twice the transform is n times ``x``.

    Raises:
      ValueError: if the last dimension is no power of two.

    Example:
      >>> import jax.numpy as jnp
      >>> walsh_hadamard(jnp.array([1.0, 0, 1, 0, 0, 1, 1, 0])).astype(int).tolist()
      [4, 2, 0, -2, 0, 2, 0, 2]

    References:
      Le, Sarlos and Smola, `Fastfood: Approximate Kernel Expansions in Loglinear Time
      <https://arxiv.org/abs/1408.3060>`_, ICML 2013.
    """
    n = x.shape[-1]
    if n < 1 or n & (n - 1):
        raise ValueError(f"the last dimension is {n}; pad it to a power of two")
    left = n.bit_length() - 1
    flat = x.reshape(-1, n)
    rows = flat.shape[0]
    while left:
        bits = min(left, _MOST)
        # The last factor of what is left to do; the result goes to the front, in order.
        cube = flat.reshape(rows, n >> bits, 1 << bits)
        factor = jnp.asarray(_sylvester(bits), x.dtype)
        # (On some devices a product is less exact than its operands unless one asks.)
        cube = jnp.einsum("rab,bc->rca", cube, factor, precision=jax.lax.Precision.HIGHEST)
        flat = cube.reshape(rows, n)
        left -= bits
    return flat.reshape(x.shape)


def _sylvester(bits: int) -> np.ndarray:
    """``(-1)`` to the number of bits that row and column share."""
    index = np.arange(1 << bits, dtype=np.uint32)
    return np.where(np.bitwise_count(index[:, None] & index) % 2, -1.0, 1.0)
