"""Products with the kept blocks of a matrix alone: the work follows the kept weights.

The matrix ``(inputs, outputs)`` is cut into blocks; every block column keeps the same number of
them, so that ``values`` is one array ``(columns, slots, height, width)`` and ``indices[c, s]``
says which block row each one is from. Inside, features come first and the batch last: taking a
block row is then a copy of consecutive memory, and a block column is one matrix product.

Two forms of the same sums: all block columns in one batched product, or one after another. On one
CPU device the latter is up to four times as fast for small blocks (its operands stay in the cache);
for large ones, on several devices, and on accelerators, columns go together. For a batch
of a few, a CPU reads the values at the speed of memory only if they are the right operand; for a
single example the columns then go together.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxsparse._counting import one_device
from jaxsparse._dtypes import wide_dtype

# Examples a batch up to which the values are the right operand on a CPU.
_FEW = 32
# Weights in a block from which on a CPU, too, takes columns together; with sums into rows, four
# times as many.
_LARGE = 64 * 64

Form: TypeAlias = Literal["xla", "pallas"]
"""What a product is made of: XLA's operations, or a kernel of this platform's."""


def block_sparse_matmul(
    x: Float[Array, "..."],
    values: Float[Array, "..."],
    indices: Int[Array, "..."],
    *,
    form: Form = "xla",
) -> Float[Array, "..."]:
    """``x @ w`` for a matrix of which only some blocks are kept; nothing else is multiplied.

    Neither in the forward pass nor in the two products of the backward pass. Sums are in float32
    also where the operands are of half precision. Differentiable in ``x`` and ``values``; works
    under ``jit``, ``vmap``, ``jax.checkpoint`` and with block columns spread over devices.

    Args:
      x: ``(*batch, inputs)``, any leading dimensions; ``inputs`` is a multiple of ``height``.
      values: ``(columns, slots, height, width)``, the kept blocks of each block column.
      indices: int32 ``(columns, slots)``, the block row of each: in [0, inputs / height), no two
        alike in a column. An empty slot has ``inputs / height``, and zeros for values.
      form: ``"xla"`` runs everywhere. ``"pallas"``: the kernels in ``accelerate.kernels``, on a GPU
        (Hopper and later, half precision) or a TPU. They have been simulated only, not yet
        measured on a device: until they are, nothing chooses them by itself.

    Returns:
      Array ``(*batch, columns * width)``, in the wider type of both operands.

    Raises:
      ValueError: if shapes do not fit, or there is no such form.

    Example:
      >>> x = jnp.array([[1.0, 2.0, 3.0, 4.0]])
      >>> values = jnp.ones((1, 1, 2, 1))  # a (4, 1) matrix in blocks of (2, 1), of which one
      >>> block_sparse_matmul(x, values, jnp.array([[1]])).tolist()  # the lower one, is kept
      [[7.0]]

    References:
      The layout is that of the constant fan-in of Lasby et al., `Dynamic Sparse Training with
      Structured Sparsity <https://arxiv.org/abs/2305.02299>`_, ICLR 2024, in units of blocks.
    """
    check_operands(x.shape, values.shape, indices.shape)
    columns, _, height, width = values.shape
    rows = x.shape[-1] // height
    dtype = jnp.promote_types(x.dtype, values.dtype)
    batch = math.prod(x.shape[:-1])
    if form != "xla":
        product = _kernel(form)
        flat = x.astype(dtype).reshape(batch, rows * height)
        out = product(flat, values.astype(dtype), indices)
        return out.reshape(*x.shape[:-1], columns * width)
    features = x.astype(dtype).reshape(batch, rows * height).T.reshape(rows, height, batch)
    out = _product(features, values.astype(dtype), indices)
    return out.reshape(columns * width, batch).T.reshape(*x.shape[:-1], columns * width)


def check_operands(x: tuple[int, ...], values: tuple[int, ...], indices: tuple[int, ...]) -> None:
    """Raise unless the shapes belong to one product.

    Args:
      x: Shape of the inputs.
      values: Shape of the kept blocks.
      indices: Shape of their block rows.

    Raises:
      ValueError: if they do not.

    Example:
      >>> check_operands((8, 4), (1, 1, 2, 1), (1, 1))
    """
    if len(values) != 4 or indices != values[:2]:
        raise ValueError(
            f"values have shape {values}, indices {indices}; give (columns, slots, height, width) "
            "and (columns, slots), as pack makes them"
        )
    if not x or x[-1] % values[2]:
        raise ValueError(
            f"inputs of shape {x} cannot be cut into blocks {values[2]} high; the last dimension "
            "must be a multiple"
        )


def _kernel(form: str) -> Callable[..., Array]:
    """The kernel of this platform."""
    platform = jax.default_backend()
    if form != "pallas" or platform not in ("gpu", "tpu"):
        raise ValueError(
            f"form is {form!r} on a {platform}; give 'xla', or 'pallas' on a GPU or a TPU"
        )
    # (Mosaic is imported where it is used: not every installation can.)
    if platform == "gpu":
        from jaxsparse.accelerate.kernels import gpu

        return functools.partial(gpu.product, interpret=None)
    from jaxsparse.accelerate.kernels import tpu

    return functools.partial(tpu.product, interpret=False)


@jax.custom_vjp
def _product(x: Array, values: Array, indices: Array) -> Array:
    """``(rows, height, batch) -> (columns, width, batch)``."""
    batch = x.shape[-1]
    if batch == 1:
        return _forward_one(x, values, indices)
    large = _area(values) >= _LARGE
    in_turn = _forward_few if batch <= _FEW else _forward_batched if large else _forward_scan
    return _by_platform(in_turn, _forward_batched, x, values, indices)


def _product_fwd(x: Array, values: Array, indices: Array) -> tuple[Array, tuple[Any, ...]]:
    return _product(x, values, indices), (x, values, indices)


def _product_bwd(saved: tuple[Any, ...], grad: Array) -> tuple[Array, Array, None]:
    x, values, indices = saved
    area = _area(values)
    in_turn = _inputs_batched if area >= 4 * _LARGE else _inputs_scan
    in_turn = functools.partial(in_turn, rows=x.shape[0])
    together = functools.partial(_inputs_batched, rows=x.shape[0])
    grad_x = _by_platform(in_turn, together, grad, values, indices)
    in_turn = _values_batched if area >= _LARGE else _values_scan
    grad_values = _by_platform(in_turn, _values_batched, x, grad, indices)
    # An empty slot points past the end, where taking rows takes the last one.
    present = (indices < x.shape[0])[:, :, None, None]
    grad_values = jnp.where(present, grad_values.reshape(values.shape), 0)
    return grad_x.astype(x.dtype), grad_values.astype(values.dtype), None


_product.defvjp(_product_fwd, _product_bwd)


def _area(values: Array) -> int:
    """Weights in a block."""
    return values.shape[2] * values.shape[3]


def _by_platform(in_turn: Any, together: Any, *operands: Array) -> Array:
    if not one_device():
        return together(*operands)
    return lax.platform_dependent(*operands, cpu=in_turn, default=together)


def _dot(left: Array, right: Array, contract: tuple[int, int]) -> Array:
    """One product, or one for each leading index of two arrays of three dimensions."""
    batch = tuple(range(left.ndim - 2))
    a, b = contract
    dims = ((len(batch) + a,), (len(batch) + b,)), (batch, batch)
    return lax.dot_general(left, right, dims, preferred_element_type=wide_dtype(left))


def _tall(values: Array) -> Array:
    """``(..., slots, height, width) -> (..., slots * height, width)``."""
    *lead, slots, height, width = values.shape
    return values.reshape(*lead, slots * height, width)


def _taken(x: Array, indices: Array) -> Array:
    """The block rows of one column, or of each: ``(..., slots * height, batch)``."""
    return _tall(x.at[indices].get(mode="clip"))


def _forward_batched(x: Array, values: Array, indices: Array) -> Array:
    return _dot(_tall(values), _taken(x, indices), (0, 0)).astype(x.dtype)


def _forward_scan(x: Array, values: Array, indices: Array) -> Array:
    column = lambda _, own: (None, _forward_batched(x, *own))
    return lax.scan(column, None, (values, indices))[1]


def _forward_one(x: Array, values: Array, indices: Array) -> Array:
    return _dot(_taken(x, indices), _tall(values), (0, 0)).astype(x.dtype).swapaxes(1, 2)


def _forward_few(x: Array, values: Array, indices: Array) -> Array:
    rows = x.swapaxes(1, 2)

    def column(_: None, own: tuple[Array, Array]) -> tuple[None, Array]:
        values, indices = own
        taken = rows.at[indices].get(mode="clip").swapaxes(0, 1)
        taken = taken.reshape(x.shape[-1], -1)
        return None, _dot(taken, _tall(values), (1, 0)).astype(x.dtype)

    return lax.scan(column, None, (values, indices))[1].swapaxes(1, 2)


def _inputs_batched(grad: Array, values: Array, indices: Array, rows: int) -> Array:
    found = _dot(_tall(values), grad, (1, 0))
    columns, slots, height, _ = values.shape
    found = found.reshape(columns * slots, height, grad.shape[-1])
    return _nothing(rows, values, grad).at[indices.reshape(-1)].add(found, mode="drop")


def _inputs_scan(grad: Array, values: Array, indices: Array, rows: int) -> Array:
    def column(total: Array, own: tuple[Array, ...]) -> tuple[Array, None]:
        grad, values, indices = own
        found = _dot(_tall(values), grad, (1, 0))
        found = found.reshape(*values.shape[:2], grad.shape[-1])
        return total.at[indices].add(found, mode="drop"), None

    return lax.scan(column, _nothing(rows, values, grad), (grad, values, indices))[0]


def _nothing(rows: int, values: Array, grad: Array) -> Array:
    return jnp.zeros((rows, values.shape[2], grad.shape[-1]), wide_dtype(grad))


def _values_batched(x: Array, grad: Array, indices: Array) -> Array:
    return _dot(_taken(x, indices), grad, (1, 1))


def _values_scan(x: Array, grad: Array, indices: Array) -> Array:
    column = lambda _, own: (None, _values_batched(x, *own))
    return lax.scan(column, None, (grad, indices))[1]
