"""Exact top-k masks by counting: the only file that ranks.

Floats become order-preserving integers; the k-th largest is found by counting how many lie at or
above a threshold, and ties at the threshold are resolved by a bijective hash of the index. No
sort, no gather: a sharded array costs one integer of all-reduce a pass, and the same weights are
kept on every mesh.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree

from jaxsparse._tree import is_dense

# Groups of at most this many members are ranked by comparing all pairs.
_PAIRWISE = 32
_MOST = 2**31 - 1


def _ordered(scores: Array, where: Array | None) -> Array:
    """Unsigned keys that order like the scores, in [1, max - 1]; 0 is no candidate, 1 is NaN."""
    if jnp.issubdtype(scores.dtype, jnp.floating):
        bits = jnp.finfo(scores.dtype).bits
        unsigned = jnp.dtype(f"uint{bits}")
        top = unsigned.type(1 << (bits - 1))
        raw = jax.lax.bitcast_convert_type(scores, unsigned)
        # By bits, not by comparison: XLA compares denormals as zeros.
        keys = jnp.where(raw > top, ~raw, raw | top)
        keys = jnp.where(jnp.isnan(scores), unsigned.type(1), keys)
    else:
        # The two least int32 share a key, and so do the three largest.
        keys = jax.lax.bitcast_convert_type(scores.astype(jnp.int32), jnp.uint32)
        keys = jnp.clip(keys ^ np.uint32(1 << 31), np.uint32(1), np.uint32(0xFFFFFFFE))
    keys = keys.astype(jnp.promote_types(keys.dtype, jnp.uint32))
    return keys if where is None else jnp.where(where, keys, keys.dtype.type(0))


def _indices(shape: tuple[int, ...], offset: int = 0) -> Array:
    """Row-major index of each element, uint32, from iotas (a reshape would gather shards)."""
    index = jnp.full(shape, offset, jnp.uint32)
    for axis in range(len(shape)):
        stride = np.uint32(math.prod(shape[axis + 1 :]))
        index = index + jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * stride
    return index


def _scramble(index: Array) -> Array:
    """A bijection of uint32 ("lowbias32", C. Wellons, public domain), shifted by one.

    Of the indices below 2^31 none becomes 0 (no candidate) or the largest integer (out of range).
    """
    index = index + np.uint32(1)
    index = (index ^ (index >> 16)) * np.uint32(0x7FEB352D)
    index = (index ^ (index >> 15)) * np.uint32(0x846CA68B)
    return index ^ (index >> 16)


def _count(conditions: Sequence[Array]) -> Array:
    return sum((jnp.sum(c, dtype=jnp.int32) for c in conditions), jnp.int32(0))


def _threshold(keys: Sequence[Array], k: Array, total: Array) -> tuple[Array, Array]:
    """The largest t with ``count(keys >= t) >= k``, and that count; 1 <= k <= total.

    Any t that counts exactly k ends the search early. Interpolation between the counts at both
    ends alternates with bisection, so that no distribution of keys is slow.
    """
    dtype = keys[0].dtype

    def unfinished(state: tuple[Array, ...]) -> Array:
        low, high, above_low, _, _ = state
        return (high - low > 1) & (above_low != k)

    def narrow(state: tuple[Array, ...]) -> tuple[Array, ...]:
        low, high, above_low, above_high, turn = state
        between = jnp.maximum(above_low - above_high, 1).astype(jnp.float32)
        share = (above_low - k).astype(jnp.float32) / between
        share = jnp.where(turn % 2 == 0, share, 0.5)
        width = high - low
        step = (share * width.astype(jnp.float32)).astype(dtype)
        middle = low + jnp.clip(step, dtype.type(1), width - dtype.type(1))
        count = _count([key >= middle for key in keys])
        enough = count >= k
        return (
            jnp.where(enough, middle, low),
            jnp.where(enough, high, middle),
            jnp.where(enough, count, above_low),
            jnp.where(enough, above_high, count),
            turn + 1,
        )

    # From the least candidate to beyond the largest: half the passes of the whole range.
    most = functools.reduce(jnp.maximum, [jnp.max(key) for key in keys])
    present = [jnp.where(key > 0, key, dtype.type(jnp.iinfo(dtype).max)) for key in keys]
    low = functools.reduce(jnp.minimum, [most, *[jnp.min(key) for key in present]])
    start = (low, most + dtype.type(1), total, jnp.zeros_like(total), jnp.zeros_like(total))
    low, _, above_low, _, _ = jax.lax.while_loop(unfinished, narrow, start)
    return low, above_low


@jax.jit  # outside of jit a loop would be compiled anew at every call
def _top_k(keys: Sequence[Array], indices: Sequence[Array], k: Any) -> list[Array]:
    """Exactly ``min(k, candidates)`` True over all the arrays together."""
    candidates = _count([key > 0 for key in keys])
    k = jnp.clip(jnp.asarray(k, jnp.int32), 0, candidates)
    threshold, above = _threshold(keys, jnp.maximum(k, 1), candidates)

    def all_ties() -> list[Array]:
        return [key >= threshold for key in keys]

    def some_ties() -> list[Array]:
        ties = [key == threshold for key in keys]
        order = [
            jnp.where(tie, _scramble(index), np.uint32(0))
            for tie, index in zip(ties, indices, strict=True)
        ]
        tied = _count(ties)
        cut, _ = _threshold(order, jnp.maximum(k - (above - tied), 1), tied)
        return [(key > threshold) | (o >= cut) for key, o in zip(keys, order, strict=True)]

    masks = jax.lax.cond(above == k, all_ties, some_ties)
    return [mask & (k > 0) for mask in masks]


def _top_k_along(keys: Array, k: Any, axis: int) -> Array:
    """``k`` (one for each group, or one for all) along an axis."""
    index = _indices(keys.shape)
    k = jnp.asarray(k, jnp.int32)
    k = jnp.expand_dims(k, axis) if k.ndim else k
    size = keys.shape[axis]
    if size > _PAIRWISE:
        keys, index = jnp.moveaxis(keys, axis, -1), jnp.moveaxis(index, axis, -1)
        groups = keys.shape[:-1]
        k = jnp.broadcast_to(jnp.moveaxis(k, axis, -1)[..., 0] if k.ndim else k, groups)
        select = lambda key, i, n: _top_k([key], [i], n)[0]
        for _ in groups:
            select = jax.vmap(select)
        return jnp.moveaxis(select(keys, index, k), -1, axis)
    tie = _scramble(index)
    ahead = jnp.zeros(keys.shape, jnp.int32)
    for member in range(size):
        other = jax.lax.slice_in_dim(keys, member, member + 1, axis=axis)
        first = jax.lax.slice_in_dim(tie, member, member + 1, axis=axis) > tie
        ahead += (other > keys) | ((other == keys) & first)
    return (ahead < k) & (keys > 0)


def _check(k: Any, size: int) -> Any:
    if size > _MOST:
        raise ValueError(f"{size} scores at once; at most {_MOST} can be counted: split the tree")
    if not isinstance(k, int | np.integer):
        return k
    if k < 0:
        raise ValueError(f"k is {k}; it must be 0 or more")
    return min(int(k), size)


def top_k_mask(
    scores: Array, k: Any, *, where: Array | None = None, axis: int | None = None
) -> Bool[Array, "..."]:
    """Mark the k largest scores, exactly.

    NaN ranks below -inf (taken only when nothing else is left), -0.0 equals 0.0, denormals count.
    Among equal scores a fixed hash of the index decides, so the count is exact and the choice is
    the same under any sharding.

    Args:
      scores: Float array of any shape (float16, bfloat16, float32, float64), or int32 (the two
        least values tie, and so do the three largest).
      k: How many: a Python int or a traced int32, cut to [0, candidates]. With ``axis``, one
        number or an array of them shaped like ``scores`` without that axis.
      where: Bool array like ``scores``: the candidates. Default: all.
      axis: Select along this axis, in each group by itself; ``None``: over the whole array.

    Returns:
      Bool array like ``scores`` with exactly ``min(k, candidates)`` True (in each group).

    Raises:
      ValueError: if ``k`` is a negative Python int, or there are more than 2^31 - 1 scores.

    Example:
      >>> import jax.numpy as jnp
      >>> print(top_k_mask(jnp.array([3.0, 1.0, jnp.nan, 2.0]), 2))
      [ True False False  True]
    """
    scores = jnp.asarray(scores)
    k = _check(k, scores.size)
    if not scores.size:
        return jnp.zeros(scores.shape, bool)
    keys = _ordered(scores, where)
    if axis is not None:
        return _top_k_along(keys, k, axis % scores.ndim)
    return _top_k([keys], [_indices(scores.shape)], k)[0]


def tree_top_k_masks(scores: PyTree, k: Any, *, where: PyTree | None = None) -> PyTree:
    """Mark the k largest scores of a whole pytree, without concatenating it.

    Equal to ``top_k_mask`` on the concatenation of the leaves (in a common dtype), ties included.

    Args:
      scores: Pytree of float arrays; ``optax.MaskedNode()`` leaves are passed through.
      k: How many over all leaves: a Python int or a traced int32.
      where: Pytree of bool arrays like ``scores``: the candidates. Default: all.

    Returns:
      Pytree of bool arrays like ``scores``, exactly ``min(k, candidates)`` True in all.

    Raises:
      ValueError: if ``k`` is a negative Python int, or there are more than 2^31 - 1 scores.

    Example:
      >>> import jax.numpy as jnp
      >>> tree = {"a": jnp.array([3.0, 1.0]), "b": jnp.array([2.0, 5.0])}
      >>> print(tree_top_k_masks(tree, 2))
      {'a': Array([ True, False], dtype=bool), 'b': Array([False,  True], dtype=bool)}
    """
    leaves, structure = jax.tree.flatten(scores, is_leaf=is_dense)
    candidates = [None] * len(leaves) if where is None else structure.flatten_up_to(where)
    chosen = [i for i, leaf in enumerate(leaves) if not is_dense(leaf) and jnp.size(leaf)]
    k = _check(k, sum(jnp.size(leaves[i]) for i in chosen))
    masks = [leaf if is_dense(leaf) else jnp.zeros(jnp.shape(leaf), bool) for leaf in leaves]
    if not chosen:
        return jax.tree.unflatten(structure, masks)
    dtype = jnp.result_type(*[leaves[i] for i in chosen])
    offsets = np.cumsum([0] + [jnp.size(leaves[i]) for i in chosen])
    keys = [_ordered(jnp.asarray(leaves[i], dtype), candidates[i]) for i in chosen]
    indices = [
        _indices(jnp.shape(leaves[i]), int(o)) for i, o in zip(chosen, offsets, strict=False)
    ]
    for i, mask in zip(chosen, _top_k(keys, indices, k), strict=True):
        masks[i] = mask
    return jax.tree.unflatten(structure, masks)
