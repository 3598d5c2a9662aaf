"""Block-sparse kernels from the start: no dense one is ever made."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxsparse.accelerate.topology import Topology
from jaxsparse.schedules import check_sparsity
from jaxsparse.selection import top_k_mask
from jaxsparse.structures import block as block_structure


def block_sparse_kernel(
    key: chex.PRNGKey,
    shape: tuple[int, int],
    sparsity: float,
    block: tuple[int, int],
    initializer: Callable[..., Any] = jax.nn.initializers.lecun_normal(),
    dtype: Any = jnp.float32,
) -> tuple[Array, Topology]:
    """Random blocks, the same number in every block column, and their values.

    The initializer sees ``(kept inputs, outputs)``: every output sums over ``slots * height``
    inputs, and its variance is that of a dense layer with as many (Evci et al., 2022, eq. 3, where
    each output has its own number of inputs; here all have the same).

    Args:
      key: Of positions and values.
      shape: ``(inputs, outputs)``.
      sparsity: Fraction of zero blocks, in [0, 1); the kept ones of a column are rounded to the
        nearest whole number, at least one.
      block: Height and width.
      initializer: ``(key, shape, dtype) -> array``.
      dtype: Of the values.

    Returns:
      The values ``(columns, slots, height, width)`` and their topology.

    Raises:
      ValueError: if the block does not divide the shape, or the sparsity is out of range.

    Example:
      >>> values, topology = block_sparse_kernel(jax.random.key(0), (64, 32), 0.75, (8, 8))
      >>> values.shape, topology.indices.shape
      ((4, 2, 8, 8), (4, 2))

    References:
      Evci et al., `Gradient Flow in Sparse Neural Networks and How Lottery Tickets Win
      <https://arxiv.org/abs/2010.03533>`_, AAAI 2022.
    """
    check_sparsity(sparsity)
    block_structure(*block).check("kernel", shape)
    (inputs, outputs), (height, width) = shape, block
    rows, columns = inputs // height, outputs // width
    slots = max(int((1 - sparsity) * rows + 0.5), 1)
    place, value = jax.random.split(key)
    kept = top_k_mask(jax.random.uniform(place, (columns, rows)), slots, axis=1)
    found = jnp.nonzero(kept, size=columns * slots)[1]
    indices = found.reshape(columns, slots).astype(jnp.int32)
    values = initializer(value, (slots * height, outputs), dtype)
    values = values.reshape(slots, height, columns, width).transpose(2, 0, 1, 3)
    return values, Topology(indices, shape, block, balanced=True)
