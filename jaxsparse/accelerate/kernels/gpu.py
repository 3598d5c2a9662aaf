"""The product on Hopper and later: Mosaic GPU, one block of each result a thread block.

Blocks of both operands come to shared memory by asynchronous copies, several in flight, while the
tensor cores multiply those before; what the XLA form gathers is never stored.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array

# Rows of the batch in one block, and copies in flight.
_TILE, _STAGES = 128, 4
# What one access of shared memory spreads over its banks, in bytes; both operands have 2 a number.
_SWIZZLE = 128
_TRANSFORMS = (plgpu.TilingTransform((8, _SWIZZLE // 2)), plgpu.SwizzleTransform(_SWIZZLE))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def product(x: Array, values: Array, indices: Array, interpret: Any) -> Array:
    """``(batch, inputs) -> (batch, outputs)``.

    Args:
      x: Inputs in half precision; the batch a multiple of 128.
      values: ``(columns, slots, height, width)``, sides multiples of 64.
      indices: int32 ``(columns, slots)``.
      interpret: Pallas' parameters for simulating the device on a CPU; ``None``: the device.

    Returns:
      Array of the type of ``x``.

    Raises:
      ValueError: if the device's units do not take these shapes or types.

    Example:
      >>> values, x = jnp.ones((1, 1, 64, 64), jnp.bfloat16), jnp.ones((128, 128), jnp.bfloat16)
      >>> jax.eval_shape(lambda *a: product(*a, None), x, values, jnp.array([[1]])).shape
      (128, 64)
    """
    _check(x, values)
    columns, slots, height, width = values.shape
    last = x.shape[1] // height - 1

    def kernel(x: Any, values: Any, indices: Any, out: Any, staged: Any) -> None:
        b, column = jax.lax.axis_index("a"), jax.lax.axis_index("b")
        pairs = _Pipeline(
            grid=slots,
            specs=(
                _spec((_TILE, height), lambda s: (b, jnp.minimum(indices[column, s], last))),
                _spec((1, 1, height, width), lambda s: (column, s, 0, 0)),
            ),
            multiply=lambda total, x, values: plgpu.wgmma(total, x, values.at[0, 0]),
        )
        _run(pairs, (x, values), staged, out.at[_rows(b, _TILE), _rows(column, width)])

    shape = jax.ShapeDtypeStruct((x.shape[0], columns * width), x.dtype)
    grid = (x.shape[0] // _TILE, columns)
    return _call(kernel, shape, (_TILE, width), grid, interpret)(x, values, indices)


def _forward(x: Array, values: Array, indices: Array, interpret: Any) -> tuple[Array, Any]:
    return product(x, values, indices, interpret), (x, values, indices)


def _backward(interpret: Any, saved: Any, grad: Array) -> tuple[Array, Array, None]:
    x, values, indices = saved
    grad_x = _inputs(grad, values, indices, x, interpret)
    return grad_x, _values(x, grad, values, indices, interpret), None


product.defvjp(_forward, _backward)


def _inputs(grad: Array, values: Array, indices: Array, x: Array, interpret: Any) -> Array:
    """The gradient of the inputs: kept blocks sorted by block row, each row a loop over its own."""
    _, slots, height, width = values.shape
    rows = x.shape[1] // height
    order = jnp.argsort(indices.reshape(-1)).astype(jnp.int32)
    # (Empty slots point past the last row: they are in none.)
    ends = jnp.searchsorted(indices.reshape(-1)[order], jnp.arange(rows + 1, dtype=jnp.int32))
    ends = ends.astype(jnp.int32)

    def kernel(grad: Any, values: Any, order: Any, ends: Any, out: Any, staged: Any) -> None:
        b, row = jax.lax.axis_index("a"), jax.lax.axis_index("b")
        first = ends[row]
        of = lambda i: order[first + i]
        pairs = _Pipeline(
            grid=ends[row + 1] - first,
            specs=(
                _spec((_TILE, width), lambda i: (b, of(i) // slots)),
                _spec((1, 1, width, height), lambda i: (of(i) // slots, of(i) % slots, 0, 0)),
            ),
            multiply=lambda total, grad, values: plgpu.wgmma(total, grad, values.at[0, 0]),
        )
        _run(pairs, (grad, values), staged, out.at[_rows(b, _TILE), _rows(row, height)])

    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    grid = (x.shape[0] // _TILE, rows)
    # (Transposed outside: the simulation knows no transposed operands.)
    across = values.swapaxes(2, 3)
    return _call(kernel, shape, (_TILE, height), grid, interpret)(grad, across, order, ends)


def _values(x: Array, grad: Array, values: Array, indices: Array, interpret: Any) -> Array:
    """The gradient of the kept blocks: each a product over the batch."""
    columns, slots, height, width = values.shape
    last = x.shape[1] // height - 1

    def kernel(x: Any, grad: Any, indices: Any, out: Any, staged: Any) -> None:
        column, slot = jax.lax.axis_index("a"), jax.lax.axis_index("b")
        pairs = _Pipeline(
            grid=x.shape[1] // _TILE,
            specs=(
                _spec((height, _TILE), lambda b: (jnp.minimum(indices[column, slot], last), b)),
                _spec((_TILE, width), lambda b: (b, column)),
            ),
            multiply=plgpu.wgmma,
        )
        _run(pairs, (x, grad), staged, out.at[column, slot])

    shape = jax.ShapeDtypeStruct(values.shape, values.dtype)
    call = _call(kernel, shape, (height, width), (columns, slots), interpret)
    found = call(x.T, grad, indices)
    return jnp.where((indices <= last)[:, :, None, None], found, jnp.zeros_like(found))


class _Pipeline(NamedTuple):
    """A loop of products that add up: how many, what is copied for each, how it is multiplied."""

    grid: Any
    specs: tuple[Any, Any]
    multiply: Callable[..., None]


def _run(pairs: _Pipeline, operands: Any, staged: Any, out: Any) -> None:
    """The sum of a loop's products, in float32 accumulators, to its place in the result."""

    def summed(total: Any) -> Array:
        plgpu.emit_pipeline(
            lambda _, left, right: pairs.multiply(total, left, right),
            grid=(pairs.grid,),
            in_specs=list(pairs.specs),
            max_concurrent_steps=_STAGES,
        )(*operands)
        return total[...]

    found = pl.run_scoped(summed, plgpu.WGMMAAccumulatorRef(staged.shape, jnp.float32))
    staged[...] = found.astype(staged.dtype)
    plgpu.commit_smem()
    plgpu.copy_smem_to_gmem(staged, out)
    plgpu.wait_smem_to_gmem(0)


def _spec(shape: tuple[int, ...], index: Callable[..., Any]) -> Any:
    # A product may still read what it was given while the next one starts.
    return plgpu.BlockSpec(shape, index, transforms=_TRANSFORMS, delay_release=1)


def _rows(block: Any, size: int) -> Any:
    return pl.ds(block * size, size)


def _call(
    kernel: Any, shape: Any, staged: tuple[int, int], grid: tuple[int, int], interpret: Any
) -> Callable[..., Array]:
    return plgpu.kernel(
        kernel,
        out_type=shape,
        scratch_types=[plgpu.SMEM(staged, shape.dtype, transforms=_TRANSFORMS)],
        grid=grid,
        grid_names=("a", "b"),
        interpret=interpret,
    )


def _check(x: Array, values: Array) -> None:
    """Raise unless the tensor cores take these operands."""
    height, width = values.shape[2:]
    if x.dtype != values.dtype or x.dtype.itemsize != 2:
        raise ValueError(
            f"the kernel multiplies half precision, not {x.dtype} by {values.dtype}; cast both, or "
            "use form='xla'"
        )
    if x.shape[0] % _TILE or height % 64 or width % 64:
        raise ValueError(
            f"a batch of {x.shape[0]} and blocks of {height} x {width}: the kernel takes multiples "
            f"of {_TILE} and of 64; pad them, or use form='xla'"
        )
