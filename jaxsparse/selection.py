"""Exact top-k masks by counting: the only file that ranks.

Floats become order-preserving integers, and the k-th largest is found by counting how many lie at
or above a few probes, pass by pass; ties at the threshold are searched in the same way by a
bijective hash of the index. No sort, no gather: a sharded array costs a few integers of
all-reduce a pass, and the same weights are kept on every mesh. Scores that are elementwise in
other arrays are computed anew in every pass, and never stored.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree

from jaxsparse._counting import one_device
from jaxsparse._keys import indices, ordered, scramble
from jaxsparse._layout import Layout, layout_of
from jaxsparse._search import Searches, search
from jaxsparse._sharding import is_split, like
from jaxsparse._tree import is_dense

# Groups of at most this many members are ranked by comparing all pairs.
_PAIRWISE = 32
_MOST = 2**31 - 1


def _given(score: Array) -> Array:
    return score


# (Jitted: outside of jit a loop would be compiled anew at every call.)
@functools.partial(jax.jit, static_argnames=("score", "layout", "outside", "together"))
def masks_by_score(
    score: Callable[..., Array],
    operands: Sequence[tuple[Any, ...]],
    k: Any,
    where: Sequence[Array | None],
    *,
    layout: Layout | None = None,
    outside: bool = False,
    together: bool = False,
) -> tuple[list[Array], Array]:
    """``top_k_mask`` of many leaves in one search, by a score of others that is never stored.

    Args:
      score: ``score(*operands[i])`` are the scores of array i; traced in every pass.
      operands: One tuple an array.
      k: How many: int32, one a leaf, or one for all of them ``together``.
      where: Bool array or ``None`` for each.
      layout: Where the leaves are in the arrays; default: each array is one.
      outside: Are the candidates where it is False?
      together: Do the leaves compete?

    Returns:
      A bool array for each, and how many are True: shaped like ``k``.

    Example:
      >>> import jax.numpy as jnp
      >>> rows = [(jnp.array([3.0, -4.0]),), (jnp.array([1.0, 2.0, 0.0]),)]
      >>> masks, kept = masks_by_score(jnp.abs, rows, jnp.array([1, 2]), [None, None])
      >>> [mask.tolist() for mask in masks], kept.tolist()
      ([[False, True], [True, True, False]], [1, 2])
    """
    shapes = jax.eval_shape(lambda: [score(*row) for row in operands])
    layout = layout or Layout(tuple(math.prod(s.shape) for s in shapes), packed=False)
    sizes = layout.sizes
    for size in [sum(sizes)] if together else sizes:
        _check_size(size)
    k = jnp.asarray(k, jnp.int32)
    if not sum(sizes):
        return [jnp.zeros(s.shape, bool) for s in shapes], jnp.zeros_like(k)
    common = jnp.result_type(*[s.dtype for s in shapes]) if together else None
    # The index of a leaf's first element, in all that it competes with.
    first = (
        np.cumsum([0, *sizes])[:-1].astype(np.uint32) if together else np.zeros(len(sizes), "u4")
    )

    def keys(given: tuple[Sequence[tuple[Any, ...]], Sequence[Array | None], Any]) -> list[Array]:
        found = []
        for row, candidates in zip(*given[:2], strict=True):
            scores = score(*row)
            candidates = ~candidates if outside and candidates is not None else candidates
            if layout.packed:
                column = jax.lax.broadcasted_iota(jnp.int32, scores.shape, 1)
                real = column < given[2]
                candidates = real if candidates is None else real & candidates
            key = ordered(scores if common is None else scores.astype(common), candidates)
            flat = not layout.packed and (one_device() or not key.ndim)
            found.append(key.reshape(-1) if flat else key)
        widest = functools.reduce(jnp.promote_types, [key.dtype for key in found])
        return [key.astype(widest) for key in found]

    if layout.packed:
        place = np.arange(len(layout.leaf), dtype=np.uint32) * np.uint32(layout.width)
        offsets = [jnp.asarray((first[layout.leaf] + layout.start - place)[:, None])]
        filled: Any = jnp.asarray(layout.filled[:, None])
    else:
        offsets, filled = [jnp.asarray(n) for n in first], ()
    masks, marked = search(
        keys,
        (operands, where, filled),
        offsets,
        k=k.reshape(1) if together else k,
        total=jnp.asarray([sum(sizes)] if together else sizes, jnp.int32),
        searches=_of_leaves(layout, together),
    )
    masks = [mask.reshape(shape.shape) for mask, shape in zip(masks, shapes, strict=True)]
    return masks, marked.reshape(k.shape)


def _of_leaves(layout: Layout, together: bool) -> Searches:
    """One search a leaf, or one for all ``together``."""

    def pick(values: list[Array], i: int) -> list[Array]:
        if together:
            return [x[0] for x in values]
        return layout.spread(values) if layout.packed else [x[i] for x in values]

    def join(found: list[list[Array]]) -> list[Array]:
        if layout.packed and not together:
            *above, least, most = found[0]
            return layout.join(above, least, most)
        columns = [
            jnp.concatenate([x.reshape(-1) for x in column]) for column in zip(*found, strict=True)
        ]
        if not together:
            return columns
        *above, least, most = columns
        return [*[jnp.sum(x, keepdims=True) for x in above], least.min()[None], most.max()[None]]

    axes = (lambda key: (1,)) if layout.packed else (lambda key: range(key.ndim))
    return Searches(axes, pick, join)


@functools.partial(jax.jit, static_argnames=("axes", "local"))
def top_k_of_groups(
    scores: Array, k: Any, where: Array | None, axes: tuple[int, ...], local: bool
) -> Bool[Array, "..."]:
    """``top_k_mask`` along axes, by one who knows where the groups are.

    Args:
      scores: Float or int32 array.
      k: int32, one number for all groups, or one for each.
      where: The candidates; ``None``: all.
      axes: Along which the groups are; not negative.
      local: Is no group spread over devices? Small ones are then ranked by comparing all pairs.

    Returns:
      Bool array like ``scores``.

    Example:
      >>> import jax.numpy as jnp
      >>> top_k_of_groups(jnp.array([[3.0, 1.0], [2.0, 5.0]]), 1, None, (1,), True).tolist()
      [[True, False], [False, True]]
    """
    k = jnp.asarray(k, jnp.int32)
    k = jnp.expand_dims(k, axes) if k.ndim else k
    size = math.prod(scores.shape[axis] for axis in axes)
    if size <= _PAIRWISE and len(axes) == 1 and local and not is_split(scores, axes[0]):
        return _by_pairs(scores, k, where, axes[0])
    groups = tuple(1 if i in axes else n for i, n in enumerate(scores.shape))
    # One number a group, placed as the groups are.
    place = jnp.max(scores, axes, keepdims=True)
    return search(
        lambda given: [ordered(*given)],
        (scores, where),
        offsets=[jnp.uint32(0)],
        k=like(jnp.broadcast_to(k, groups), place),
        total=like(jnp.full(groups, size, jnp.int32), place),
        searches=Searches(
            axes=lambda key: axes,
            pick=lambda values, i: values,
            join=lambda found: found[0],
        ),
    )[0][0]


def _by_pairs(scores: Array, k: Array, where: Array | None, axis: int) -> Array:
    """The same in one pass: those ahead of each member of a group are counted."""
    keys = ordered(scores, where)
    tie = scramble(indices(keys))
    ahead = jnp.zeros_like(keys, jnp.int32)
    for member in range(scores.shape[axis]):
        other = jax.lax.slice_in_dim(keys, member, member + 1, axis=axis)
        first = jax.lax.slice_in_dim(tie, member, member + 1, axis=axis) > tie
        ahead += (other > keys) | ((other == keys) & first)
    return (ahead < k) & (keys > 0)


def _check_size(size: int) -> None:
    if size > _MOST:
        raise ValueError(f"{size} scores at once; at most {_MOST} can be counted: split the tree")


def _check(k: Any, size: int) -> Any:
    if not isinstance(k, int | np.integer):
        return k
    if k < 0:
        raise ValueError(f"k is {k}; it must be 0 or more")
    return min(int(k), size)


def top_k_mask(
    scores: Array, k: Any, *, where: Array | None = None, axis: int | tuple[int, ...] | None = None
) -> Bool[Array, "..."]:
    """Mark the k largest scores, exactly.

    NaN ranks below -inf (taken only when nothing else is left), -0.0 equals 0.0, denormals count.
    Among equal scores a fixed hash of the index decides, so the count is exact and the choice is
    the same under any sharding.

    Args:
      scores: Float array of any shape (float16, bfloat16, float32, float64), or int32 (the two
        least values tie, and so do the three largest).
      k: How many: a Python int or a traced int32, cut to [0, candidates]. With ``axis``, one
        number or an array of them shaped like ``scores`` without these axes.
      where: Bool array like ``scores``: the candidates. Default: all.
      axis: Select along this axis, or these, in each group by itself; ``None``: over the whole
        array.

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
    if axis is not None and scores.size:
        _check_size(scores.size)
        axes = axis if isinstance(axis, tuple) else (axis,)
        # (Under Auto axes it is not known here whether the groups are spread.)
        axes = tuple(a % scores.ndim for a in axes)
        return top_k_of_groups(scores, k, where, axes, local=one_device())
    return masks_by_score(_given, [(scores,)], jnp.asarray(k)[None], [where])[0][0]


def tree_top_k_masks(scores: PyTree, k: Any, *, where: PyTree | None = None) -> PyTree:
    """Mark the k largest scores of a whole pytree, without concatenating it.

    Equal to ``top_k_mask`` on the concatenation of the leaves (in a common dtype), ties included.
    With one k a leaf, equal to ``top_k_mask`` on each, in a single search over all of them.

    Args:
      scores: Pytree of float arrays; ``optax.MaskedNode()`` leaves are passed through.
      k: How many over all leaves: a Python int or a traced int32. Or a pytree like ``scores`` of
        such numbers: how many in each.
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
      >>> print(tree_top_k_masks(tree, {"a": 0, "b": 2}))
      {'a': Array([False, False], dtype=bool), 'b': Array([ True,  True], dtype=bool)}
    """
    leaves, structure = jax.tree.flatten(scores, is_leaf=is_dense)
    chosen = [i for i, leaf in enumerate(leaves) if not is_dense(leaf)]
    together = jax.tree.structure(k) == jax.tree.structure(0)
    candidates = [None] * len(leaves) if where is None else structure.flatten_up_to(where)
    if together:
        number = _check(k, sum(jnp.size(leaves[i]) for i in chosen))
    else:
        numbers = structure.flatten_up_to(k)
        each = [_check(numbers[i], jnp.size(leaves[i])) for i in chosen]
        number = jnp.stack([jnp.asarray(n, jnp.int32) for n in each])
    arrays = [jnp.asarray(leaves[i]) for i in chosen]
    layout = layout_of(arrays)
    rows = [(array,) for array in layout.pack(arrays)]
    among: list[Any] = [None] * len(rows)
    if where is not None:
        among = layout.pack([jnp.asarray(candidates[i]) for i in chosen])
    found, _ = masks_by_score(_given, rows, number, among, layout=layout, together=together)
    shapes = [array.shape for array in arrays]
    for i, mask in zip(chosen, layout.unpack(found, shapes), strict=True):
        leaves[i] = mask
    return jax.tree.unflatten(structure, leaves)
