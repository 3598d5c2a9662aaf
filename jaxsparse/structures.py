"""Granularity: which weights are kept or dropped together, and in which groups.

A structure pools a leaf's scores into units, and expands a mask of units again. Selection along
``group_axes`` gives every group the same count (N:M, constant fan-in); without, the leaf is one
group. Kernels are flax's: ``(..., in, out)``, the reduction axis second to last.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Bool

from jaxsparse._dtypes import wide
from jaxsparse._sharding import merge, split
from jaxsparse.base import Structure


def unstructured() -> Structure:
    """Every weight by itself.

    Returns:
      A ``Structure``.

    Example:
      >>> unstructured().unit((3, 4))
      1
    """
    return _UNSTRUCTURED


_UNSTRUCTURED = Structure(
    name="unstructured",
    check=lambda path, shape: None,
    unit=lambda shape: 1,
    pool=lambda score: score,
    expand=lambda mask, shape: mask,
)


def n_m(*, keep: int, of: int, axis: int = -2) -> Structure:
    """``keep`` of every ``of`` consecutive weights along the reduction axis ("N:M", "2:4").

    What sparse matrix units need: zeros spread along the axis that is summed over. (Peers differ
    in which of N and M counts the zeros, and some group along the output axis.)

    Args:
      keep: Weights kept in a group, in [1, of).
      of: Weights in a group, at least 2.
      axis: The reduction axis: -2 for flax kernels (in, out) and (h, w, in, out); -1 for Equinox's
        ``Linear`` (out, in).

    Returns:
      A ``Structure`` of density ``keep / of``.

    Raises:
      ValueError: if ``keep`` or ``of`` is out of range.

    Example:
      >>> n_m(keep=2, of=4).density
      0.5
    """
    if of < 2 or not 1 <= keep < of:
        raise ValueError(f"n_m(keep={keep}, of={of}): keep must lie in [1, of), of at least 2")
    if axis >= 0:
        raise ValueError(f"axis is {axis}; count it from the end: -2 for flax kernels")
    name = f"n_m(keep={keep}, of={of})"

    def check(path: str, shape: tuple[int, ...]) -> None:
        if len(shape) < -axis or shape[axis] % of:
            raise ValueError(
                f"{name} does not divide axis {axis} of {path} {shape}; "
                "leave that leaf out with where=, or give it another structure with partition"
            )

    return Structure(
        name=name,
        check=check,
        unit=lambda shape: 1,
        pool=lambda score: split(score, {score.ndim + axis: of}),
        expand=lambda mask, shape: merge(mask, shape, (len(shape) + axis,)),
        group_axes=lambda ndim: (ndim + axis,),
        density=keep / of,
        local=True,  # `split` sees to that
    )


def block(height: int, width: int, *, balanced: bool = False) -> Structure:
    """Blocks over the last two dimensions (in, out) of kernels of any rank.

    Args:
      height: Rows of a block, along the input axis, at least 1.
      width: Columns, along the output axis, at least 1.
      balanced: Does every block column (the outputs of a block) keep the same number of blocks?
        What ``accelerate.block_sparse_matmul`` asks for.

    Returns:
      A ``Structure``; a block's score is the sum over its weights.

    Raises:
      ValueError: if a side is smaller than 1.

    Example:
      >>> block(4, 4).unit((3, 3, 16, 16))
      16
    """
    name = f"block({height}, {width}{', balanced=True' if balanced else ''})"
    if height < 1 or width < 1:
        raise ValueError(f"{name}: both sides must be at least 1")

    def check(path: str, shape: tuple[int, ...]) -> None:
        if len(shape) < 2 or shape[-2] % height or shape[-1] % width:
            raise ValueError(
                f"{name} does not divide the last two dimensions of {path} "
                f"{shape}; leave that leaf out with where=, or choose other sides"
            )

    def pool(score: Array) -> Array:
        blocks = split(score, {score.ndim - 2: height, score.ndim - 1: width})
        return wide(blocks).sum(axis=(-3, -1))

    def expand(mask: Bool[Array, "..."], shape: tuple[int, ...]) -> Bool[Array, "..."]:
        *lead, rows, columns = mask.shape
        units = mask[..., :, None, :, None]
        wide = jnp.broadcast_to(units, (*lead, rows, height, columns, width))
        return merge(wide, shape, (len(shape) - 2, len(shape) - 1))

    return Structure(
        name=name,
        check=check,
        unit=lambda shape: height * width,
        pool=pool,
        expand=expand,
        group_axes=_all_but_the_last if balanced else None,
    )


def _all_but_the_last(ndim: int) -> tuple[int, ...]:
    return tuple(range(ndim - 1))


def channel() -> Structure:
    """Whole output channels (the last axis): all weights into a unit or a filter.

    Returns:
      A ``Structure``; a channel's score is the sum over its weights.

    Example:
      >>> channel().unit((3, 3, 16, 32))
      144
    """

    def check(path: str, shape: tuple[int, ...]) -> None:
        if len(shape) < 2:
            raise ValueError(f"channel needs two or more dimensions; {path} is {shape}")

    return Structure(
        name="channel",
        check=check,
        unit=lambda shape: math.prod(shape[:-1]),
        pool=lambda score: wide(score).sum(axis=tuple(range(score.ndim - 1))),
        expand=lambda mask, shape: jnp.broadcast_to(mask, shape),
    )


def fan_in() -> Structure:
    """The same number of inputs for every output unit: constant fan-in (Lasby et al., 2024).

    Returns:
      A ``Structure`` whose groups run over all axes but the last.

    Example:
      >>> fan_in().group_axes(4)
      (0, 1, 2)
    """

    def check(path: str, shape: tuple[int, ...]) -> None:
        if len(shape) < 2:
            raise ValueError(f"fan_in needs two or more dimensions; {path} is {shape}")

    return Structure(
        name="fan_in",
        check=check,
        unit=lambda shape: 1,
        pool=lambda score: score,
        expand=lambda mask, shape: mask,
        group_axes=_all_but_the_last,
    )
