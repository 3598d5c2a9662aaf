"""Products with a matrix whose columns keep equally many single weights (constant fan-in)."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxsparse._dtypes import wide_dtype


def condensed_matmul(
    x: Float[Array, "..."],
    values: Float[Array, "..."],
    indices: Int[Array, "..."],
) -> Float[Array, "..."]:
    """``x @ w`` for a matrix of which each column keeps the same number of single weights.

    The condensed form of SRigL, for small batches: a multiplication a kept weight, no block is
    needed, but every one fetches its own input. Slots come first, so that one slot of all columns
    is consecutive in memory: a CPU takes slots in turn and adds each to all outputs. Sums are in
    float32 also where the operands are of half precision. Differentiable in ``x`` and ``values``.

    Args:
      x: ``(*batch, inputs)``, any leading dimensions.
      values: ``(slots, outputs)``, the kept weights of each column.
      indices: int32 ``(slots, outputs)``, the row of each: in [0, inputs). An empty slot has
        ``inputs``, and zero for its value. Of a balanced ``Topology`` of single weights: its
        indices transposed, ``topology.indices.T``, and ``packed.T``.

    Returns:
      Array ``(*batch, outputs)``, in the wider type of both operands.

    Raises:
      ValueError: if shapes do not fit.

    Example:
      >>> x = jnp.array([[1.0, 2.0, 3.0, 4.0]])
      >>> values = jnp.array([[10.0, 1.0], [1.0, 1.0]])
      >>> condensed_matmul(x, values, jnp.array([[0, 1], [3, 2]])).tolist()
      [[14.0, 5.0]]

    References:
      Lasby et al., `Dynamic Sparse Training with Structured Sparsity
      <https://arxiv.org/abs/2305.02299>`_, ICLR 2024, section 4.4.
    """
    if values.ndim != 2 or indices.shape != values.shape or not x.ndim:
        raise ValueError(
            f"inputs of shape {x.shape}, values {values.shape}, indices {indices.shape}; give "
            "(..., inputs) and twice (slots, outputs)"
        )
    dtype = jnp.promote_types(x.dtype, values.dtype)
    features = x.astype(dtype).reshape(math.prod(x.shape[:-1]), x.shape[-1]).T
    out = _product(features, values.astype(dtype), indices)
    return out.T.reshape(*x.shape[:-1], values.shape[1])


@jax.custom_vjp
def _product(x: Array, values: Array, indices: Array) -> Array:
    """``(inputs, batch) -> (outputs, batch)``."""
    return lax.platform_dependent(x, values, indices, cpu=_in_turn, default=_together)


def _product_fwd(x: Array, values: Array, indices: Array) -> tuple[Array, tuple[Any, ...]]:
    return _product(x, values, indices), (x, values, indices)


def _product_bwd(saved: tuple[Any, ...], grad: Array) -> tuple[Array, Array, None]:
    x, values, indices = saved
    grad = grad.astype(wide_dtype(grad))

    def slot(total: Array, own: tuple[Array, Array]) -> tuple[Array, Array]:
        values, indices = own
        total = total.at[indices].add(values[:, None] * grad, mode="drop")
        # An empty slot points past the end: nothing is there.
        return total, (x.at[indices].get(mode="fill", fill_value=0) * grad).sum(-1)

    nothing = jnp.zeros(x.shape, grad.dtype)
    grad_x, grad_values = lax.scan(slot, nothing, (values, indices))
    return grad_x.astype(x.dtype), grad_values.astype(values.dtype), None


_product.defvjp(_product_fwd, _product_bwd)


def _terms(x: Array, values: Array, indices: Array) -> Array:
    wide = wide_dtype(x)
    return values[..., None].astype(wide) * x.at[indices].get(mode="clip").astype(wide)


def _in_turn(x: Array, values: Array, indices: Array) -> Array:
    add = lambda total, own: (total + _terms(x, *own), None)
    nothing = jnp.zeros((values.shape[1], x.shape[1]), wide_dtype(x))
    return lax.scan(add, nothing, (values, indices))[0].astype(x.dtype)


def _together(x: Array, values: Array, indices: Array) -> Array:
    return _terms(x, values, indices).sum(0).astype(x.dtype)
