"""The product on a TPU: indices are prefetched, and say which block the next copy brings.

What the XLA form gathers (an array of ``columns * slots`` input blocks) is never stored: a block of
the inputs goes from HBM to VMEM when the block of weights beside it does. Each of the three
products adds up in float32 scratch over the innermost grid axis, and writes once.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array

# Rows of the batch in one block: VMEM holds it three times, beside two blocks of weights.
_TILE = 512


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def product(x: Array, values: Array, indices: Array, interpret: bool) -> Array:
    """``(batch, inputs) -> (batch, outputs)``.

    Args:
      x: Inputs; the batch a multiple of the tile, or at most one.
      values: ``(columns, slots, height, width)``.
      indices: int32 ``(columns, slots)``.
      interpret: Run it as a program of XLA's, on any device?

    Returns:
      Array of the type of ``x``.

    Example:
      >>> values, x = jnp.ones((1, 1, 8, 128)), jnp.ones((8, 16))
      >>> float(product(x, values, jnp.array([[1]]), True)[0, 0])
      8.0
    """
    columns, slots, height, width = values.shape
    last, tile = x.shape[1] // height - 1, _tile(x)

    def kernel(_: Any, x: Any, values: Any, out: Any, total: Any) -> None:
        slot = pl.program_id(2)
        _add(total, slot == 0, _dot(x[...], values[0, 0], (1, 0)))
        _store(out, total, slot == slots - 1)

    rows = lambda b, c, s, indices: (b, jnp.minimum(indices[c, s], last))
    grid = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=1,
        grid=(x.shape[0] // tile, columns, slots),
        in_specs=[
            pl.BlockSpec((tile, height), rows),
            pl.BlockSpec((1, 1, height, width), lambda b, c, s, indices: (c, s, 0, 0)),
        ],
        out_specs=pl.BlockSpec((tile, width), lambda b, c, s, indices: (b, c)),
        scratch_shapes=[pltpu.VMEM((tile, width), jnp.float32)],
    )
    shape = jax.ShapeDtypeStruct((x.shape[0], columns * width), x.dtype)
    return pl.pallas_call(kernel, shape, grid_spec=grid, interpret=interpret)(indices, x, values)


def _forward(x: Array, values: Array, indices: Array, interpret: bool) -> tuple[Array, Any]:
    return product(x, values, indices, interpret), (x, values, indices)


def _backward(interpret: bool, saved: Any, grad: Array) -> tuple[Array, Array, None]:
    x, values, indices = saved
    grad_x = _inputs(grad, values, indices, x, interpret)
    return grad_x, _values(x, grad, values, indices, interpret), None


product.defvjp(_forward, _backward)


def _inputs(grad: Array, values: Array, indices: Array, x: Array, interpret: bool) -> Array:
    """The gradient of the inputs: kept blocks sorted by block row, each row added up in turn."""
    columns, slots, height, width = values.shape
    rows, tile = x.shape[1] // height, _tile(x)
    order = jnp.argsort(indices.reshape(-1)).astype(jnp.int32)
    # An empty slot has zeros for values: it may stand in any row.
    row = jnp.minimum(indices.reshape(-1)[order], rows - 1)
    number = columns * slots

    def kernel(order: Any, row: Any, grad: Any, values: Any, out: Any, total: Any) -> None:
        del order
        i = pl.program_id(1)
        first = (i == 0) | (row[i] != row[jnp.maximum(i - 1, 0)])
        last = (i == number - 1) | (row[i] != row[jnp.minimum(i + 1, number - 1)])
        _add(total, first, _dot(grad[...], values[0, 0], (1, 1)))
        _store(out, total, last)

    grid = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=2,
        grid=(x.shape[0] // tile, number),
        in_specs=[
            pl.BlockSpec((tile, width), lambda b, i, order, row: (b, order[i] // slots)),
            pl.BlockSpec(
                (1, 1, height, width),
                lambda b, i, order, row: (order[i] // slots, order[i] % slots, 0, 0),
            ),
        ],
        out_specs=pl.BlockSpec((tile, height), lambda b, i, order, row: (b, row[i])),
        scratch_shapes=[pltpu.VMEM((tile, height), jnp.float32)],
    )
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    call = pl.pallas_call(kernel, shape, grid_spec=grid, interpret=interpret)
    found = call(order, row, grad, values)
    # A row that no block is in was never written.
    written = jnp.zeros(rows, bool).at[row].set(True)
    return jnp.where(jnp.repeat(written, height)[None], found, jnp.zeros_like(found))


def _values(x: Array, grad: Array, values: Array, indices: Array, interpret: bool) -> Array:
    """The gradient of the kept blocks: each a product over the batch."""
    columns, slots, height, width = values.shape
    last, tile = x.shape[1] // height - 1, _tile(x)
    tiles = x.shape[0] // tile

    def kernel(_: Any, x: Any, grad: Any, out: Any, total: Any) -> None:
        b = pl.program_id(2)
        _add(total, b == 0, _dot(x[...], grad[...], (0, 0)))

        @pl.when(b == tiles - 1)
        def _() -> None:
            out[0, 0] = total[...].astype(out.dtype)

    grid = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=1,
        grid=(columns, slots, tiles),
        in_specs=[
            pl.BlockSpec(
                (tile, height), lambda c, s, b, indices: (b, jnp.minimum(indices[c, s], last))
            ),
            pl.BlockSpec((tile, width), lambda c, s, b, indices: (b, c)),
        ],
        out_specs=pl.BlockSpec((1, 1, height, width), lambda c, s, b, indices: (c, s, 0, 0)),
        scratch_shapes=[pltpu.VMEM((height, width), jnp.float32)],
    )
    shape = jax.ShapeDtypeStruct(values.shape, values.dtype)
    found = pl.pallas_call(kernel, shape, grid_spec=grid, interpret=interpret)(indices, x, grad)
    return jnp.where((indices <= last)[:, :, None, None], found, jnp.zeros_like(found))


def _tile(x: Array) -> int:
    """Rows of the batch in one block."""
    batch = x.shape[0]
    if batch <= _TILE:
        return batch
    if batch % _TILE:
        raise ValueError(
            f"a batch of {batch} in tiles of {_TILE}: pad it to a multiple, or use form='xla'"
        )
    return _TILE


def _dot(left: Array, right: Array, contract: tuple[int, int]) -> Array:
    a, b = contract
    dims = (((a,), (b,)), ((), ()))
    return jax.lax.dot_general(left, right, dims, preferred_element_type=jnp.float32)


def _add(total: Any, first: Array, part: Array) -> None:
    """Add to the scratch, which starts with the first part."""

    @pl.when(first)
    def _() -> None:
        total[...] = jnp.zeros_like(total)

    total[...] += part


def _store(out: Any, total: Any, last: Array) -> None:
    @pl.when(last)
    def _() -> None:
        out[...] = total[...].astype(out.dtype)
