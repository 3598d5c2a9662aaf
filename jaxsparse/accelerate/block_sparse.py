"""Products with the kept blocks of a matrix alone: the work follows the kept weights.

The matrix ``(inputs, outputs)`` is cut into blocks; every block column keeps the same number of
them, so that ``values`` is one array ``(columns, slots, height, width)`` and ``indices[c, s]``
says which block row each one is from. Inside, features come first and the batch last: taking a
block row is then a copy of consecutive memory, and a block column is one matrix product.

Two forms of the same sums: all block columns in one batched product, or one after another. On one
CPU device it is the latter, since its operands stay in the cache; a few columns are in each turn
of the loop, so that no core waits for another at the end of a product. On several devices and on
accelerators, columns go together. For a batch of a few, a CPU reads the values at the speed of
memory only if they are the right operand; for a single example the columns then go together.
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
# Block columns a turn of a loop.
_AT_ONCE = 4

Form: TypeAlias = Literal["xla", "pallas"]
"""What a product is made of: XLA's operations, or a kernel of this platform's."""


def block_sparse_matmul(
    x: Float[Array, "..."],
    values: Float[Array, "..."],
    indices: Int[Array, "..."],
    *,
    bias: Float[Array, "..."] | None = None,
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
      bias: ``(columns * width,)``, added to every output. Given here, its gradient is summed up
        where the products of the backward pass read anyway.
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
        return add_bias(out.reshape(*x.shape[:-1], columns * width), bias)
    # No axes are merged before features come first: elementwise functions between two products
    # are then computed in this order, too, and nothing is transposed.
    features = jnp.moveaxis(x.astype(dtype), -1, 0).reshape(rows, height, batch)
    if bias is not None:
        _check_bias(bias, columns * width)
        bias = bias.astype(dtype).reshape(columns, width)
    out = _product(features, values.astype(dtype), indices, bias)
    return jnp.moveaxis(out.reshape(columns * width, *x.shape[:-1]), 0, -1)


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


def add_bias(out: Float[Array, "..."], bias: Float[Array, "..."] | None) -> Float[Array, "..."]:
    """``out + bias``, in the type of ``out``.

    Args:
      out: ``(*batch, outputs)``.
      bias: ``(outputs,)`` or ``None``, which adds nothing.

    Returns:
      Array like ``out``.

    Raises:
      ValueError: if the bias has another shape.

    Example:
      >>> add_bias(jnp.zeros((2, 2)), jnp.array([1.0, 2.0])).tolist()
      [[1.0, 2.0], [1.0, 2.0]]
    """
    if bias is None:
        return out
    _check_bias(bias, out.shape[-1])
    return out + bias.astype(out.dtype).reshape((1,) * (out.ndim - 1) + (-1,))


def _check_bias(bias: Array, outputs: int) -> None:
    if bias.shape != (outputs,):
        raise ValueError(f"a bias of shape {bias.shape} does not fit outputs; give ({outputs},)")


@jax.custom_vjp
def _product(x: Array, values: Array, indices: Array, bias: Array | None) -> Array:
    """``(rows, height, batch) -> (columns, width, batch)``."""
    batch = x.shape[-1]
    in_turn = _forward_few if batch <= _FEW else _forward_in_turn
    if batch == 1:
        out = _forward_right(x, values, indices)
    else:
        out = _by_platform(in_turn, _forward_together, x, values, indices)
    return out if bias is None else out + bias[..., None]


def _product_fwd(x: Array, values: Array, indices: Array, bias: Array | None) -> tuple[Array, Any]:
    return _product(x, values, indices, bias), (x, values, indices, bias)


def _product_bwd(saved: Any, grad: Array) -> tuple[Array, Array, None, Array | None]:
    x, values, indices, bias = saved
    back = _by_platform(_back_in_turn, _back_together, x, values, indices, grad)
    grad_x, grad_values, grad_bias = back
    # An empty slot points past the end, where taking rows takes the last one.
    present = (indices < x.shape[0])[:, :, None, None]
    grad_values = jnp.where(present, grad_values.reshape(values.shape), 0).astype(values.dtype)
    grad_bias = None if bias is None else grad_bias.astype(bias.dtype)
    return grad_x.astype(x.dtype), grad_values, None, grad_bias


_product.defvjp(_product_fwd, _product_bwd)


def _by_platform(in_turn: Any, together: Any, *operands: Array) -> Any:
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


def _forward_together(x: Array, values: Array, indices: Array) -> Array:
    return _dot(_tall(values), _taken(x, indices), (0, 0)).astype(x.dtype)


def _forward_right(x: Array, values: Array, indices: Array) -> Array:
    """The same with the values as the right operand, of one column or of each."""
    return _dot(_taken(x, indices), _tall(values), (0, 0)).astype(x.dtype).swapaxes(-2, -1)


def _forward_in_turn(x: Array, values: Array, indices: Array) -> Array:
    column = lambda _, own: (None, _forward_right(x, *own))
    return lax.scan(column, None, (values, indices), unroll=_AT_ONCE)[1]


def _forward_few(x: Array, values: Array, indices: Array) -> Array:
    rows = x.swapaxes(1, 2)

    def column(_: None, own: tuple[Array, Array]) -> tuple[None, Array]:
        values, indices = own
        taken = rows.at[indices].get(mode="clip").swapaxes(0, 1)
        taken = taken.reshape(x.shape[-1], values.shape[0] * values.shape[1])
        return None, _dot(taken, _tall(values), (1, 0)).astype(x.dtype)

    return lax.scan(column, None, (values, indices))[1].swapaxes(1, 2)


def _back_products(x: Array, values: Array, indices: Array, grad: Array) -> tuple[Array, Array]:
    """Of one column or of each: to be added up into rows of the inputs, and of the values."""
    return _dot(_tall(values), grad, (1, 0)), _dot(_taken(x, indices), grad, (1, 1))


def _added(total: Array, indices: Array, found: Array) -> Array:
    """With the products of some columns added to the block rows that they are of."""
    rows = found.reshape(indices.size, *total.shape[1:])
    return total.at[indices.reshape(-1)].add(rows, mode="drop")


def _back_together(x: Array, values: Array, indices: Array, grad: Array) -> tuple[Array, ...]:
    of_rows, of_values = _back_products(x, values, indices, grad)
    nothing = jnp.zeros(x.shape, wide_dtype(x))
    return _added(nothing, indices, of_rows), of_values, _summed(grad)


def _back_in_turn(x: Array, values: Array, indices: Array, grad: Array) -> tuple[Array, ...]:
    # A few columns a turn, whose products do not wait for one another, and one sum into rows.
    few = math.gcd(len(values), _AT_ONCE)
    turns = len(values) // few
    apart = lambda a: a.reshape(turns, few, *a.shape[1:])
    together = lambda a: a.reshape(turns * few, *a.shape[2:])

    def columns(found: tuple[Array, Array], own: tuple[Array, ...]) -> Any:
        (total, of_values), turn, own = found, own[0], own[1:]
        of_rows, of_own = zip(
            *(_back_products(x, *one) for one in zip(*own, strict=True)), strict=True
        )
        _, indices, grad = own
        total = _added(total, indices, jnp.concatenate(of_rows))
        return (total, of_values.at[turn].set(jnp.stack(of_own))), _summed(grad)

    # Zeros of this product alone: those that all loops share, XLA copies into each of them.
    zero = jnp.any(indices < 0).astype(wide_dtype(x))
    empty = jnp.broadcast_to(zero, x.shape), jnp.broadcast_to(zero, apart(_tall(values)).shape)
    operands = jnp.arange(turns), apart(values), apart(indices), apart(grad)
    (total, of_values), of_bias = lax.scan(columns, empty, operands)
    return total, together(of_values), together(of_bias)


def _summed(grad: Array) -> Array:
    """The gradient of the bias (XLA leaves it out where there is none)."""
    return grad.sum(-1, dtype=wide_dtype(grad))
