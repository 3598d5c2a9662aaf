"""Where other frameworks have their axes."""

from typing import Any

import numpy as np

from jaxsparse.export._named import host


def to_torch_layout(weight: Any) -> np.ndarray:
    """A kernel of Flax or Haiku, or its mask, with the axes of PyTorch.

    (in, out) becomes (out, in), and (height, width, in, out), with any number of spatial
    dimensions, becomes (out, in, height, width). Arrays of less than two dimensions stay as they
    are. Not for kernels that PyTorch keeps otherwise: transposed convolutions, attention with
    separate axes for heads, embeddings (whose axes agree).

    Args:
      weight: Concrete array [..., in, out], of any dtype.

    Returns:
      The same values on the host, row-major: what ``torch.from_numpy`` takes (of bfloat16 by a
      file, see the guide).

    Raises:
      ValueError: if the array is traced.

    Example:
      >>> import jax.numpy as jnp
      >>> to_torch_layout(jnp.array([[1, 2, 3], [4, 5, 6]])).tolist()
      [[1, 4], [2, 5], [3, 6]]
      >>> to_torch_layout(jnp.zeros((3, 5, 16, 32))).shape
      (32, 16, 3, 5)
    """
    array = host("the weight", weight)
    if array.ndim < 2:
        return array
    return np.ascontiguousarray(array.transpose(-1, -2, *range(array.ndim - 2)))
