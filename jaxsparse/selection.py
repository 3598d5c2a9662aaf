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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree

from jaxsparse._counting import one_device, tally
from jaxsparse._keys import indices, ordered, scramble
from jaxsparse._tree import is_dense

# Groups of at most this many members are ranked by comparing all pairs.
_PAIRWISE = 32
_MOST = 2**31 - 1


class _Bracket(NamedTuple):
    """Where a threshold lies: one entry a search, all searches in step.

    Attributes:
      low: Unsigned; at least k digits are at or above it.
      high: Unsigned; at most k digits are, and all digits are below the largest integer.
      above_low: int32, digits at or above ``low``.
      above_high: int32, digits at or above ``high``.
      tied: bool: the digits are the hashes of the indices at which the key is ``value``.
      value: Unsigned, the tied key.
    """

    low: Array
    high: Array
    above_low: Array
    above_high: Array
    tied: Array
    value: Array

    def found(self, k: Array) -> Array:
        """``high <= 1``: there are fewer candidates than k. (At low = 0, all count, not they.)"""
        return ((self.above_low == k) & (self.low > 0)) | (self.above_high == k) | (self.high <= 1)

    def probes(self, k: Array) -> list[Array]:
        """Three where the k-th would be if the digits were uniform, and two that cut in thirds.

        Among m uniform digits the k-th misses its place by one standard deviation, of the order
        of sqrt(m) digits: m shrinks to that within two passes. The thirds bound the worst case.
        """
        between = jnp.maximum(self.above_low - self.above_high, 1).astype(jnp.float32)
        share = (self.above_low - k).astype(jnp.float32) / between
        miss = jnp.sqrt(jnp.maximum(share * (1 - share), 0.0) / between) + 1 / between
        width = self.high - self.low
        one = jnp.ones_like(width)

        def at(fraction: Array) -> Array:
            # Below 1, for the float32 of a width may be 2^32.
            step = jnp.clip(fraction, 0.0, 0.9999) * width.astype(jnp.float32)
            return self.low + jnp.clip(step.astype(width.dtype), one, width - one)

        third = jnp.full_like(share, 1 / 3)
        return [at(x) for x in (share - miss, share, share + miss, third, 2 * third)]

    def narrow(self, k: Array, probes: list[Array], found: list[Array]) -> "_Bracket":
        """Between the two probes around k, cut to the digits that are there."""
        *above, least, most = found
        low, high, above_low, above_high, tied, value = self
        # Counts fall as probes rise, whatever the probes' order.
        for probe, count in zip(probes, above, strict=True):
            enough = count >= k
            low = jnp.where(enough, jnp.maximum(low, probe), low)
            above_low = jnp.where(enough, jnp.minimum(above_low, count), above_low)
            high = jnp.where(enough, high, jnp.minimum(high, probe))
            above_high = jnp.where(enough, above_high, jnp.maximum(above_high, count))
        low, high = jnp.maximum(low, least), jnp.minimum(high, most + 1)
        # One key is left and some of its places are to be taken: search among their hashes.
        only = (high - low <= 1) & ~tied & (above_low != k) & (above_high != k) & (high > 1)
        after = _Bracket(
            low=jnp.where(only, jnp.ones_like(low), low),
            high=jnp.where(only, jnp.full_like(high, jnp.iinfo(high.dtype).max), high),
            above_low=above_low,
            above_high=above_high,
            tied=tied | only,
            value=jnp.where(only, low, value),
        )
        done = self.found(k)  # a search that is over waits for the others
        return jax.tree.map(lambda old, new: jnp.where(done, old, new), self, after)


def _digits(key: Array, offset: Array, one: _Bracket) -> Array:
    """What is compared with the threshold: keys, or under ties the hashes at the tied key."""
    most = key.dtype.type(jnp.iinfo(key.dtype).max)
    tie = scramble(indices(key, offset)).astype(key.dtype)
    among = jnp.where(key == one.value, tie, jnp.where(key > one.value, most, key.dtype.type(0)))
    return jnp.where(one.tied, among, key)


def _search(
    keys: Callable[[Any], list[Array]],
    operands: Any,
    offsets: Sequence[int],
    k: Array,
    total: Array,
    axes: Callable[[Array], Sequence[int]],
    pick: Callable[[Any, int], Any],
    join: Callable[[list[list[Array]]], list[Array]],
) -> tuple[list[Array], Array]:
    """All searches at once; ``keys`` is traced inside the loop, so what it computes is not stored.

    Args:
      keys: ``operands -> keys`` of all arrays, of one dtype.
      operands: Pytree of arrays.
      offsets: Index of each array's first element, for ties.
      k: int32, one a search.
      total: int32, elements of each search.
      axes: The axes an array is counted over.
      pick: The bracket of an array, in a shape that broadcasts against its keys.
      join: The counts of the arrays, as counts of the searches.

    Returns:
      The masks, and how many each search has marked.
    """
    k = jnp.clip(k, 0, total)
    dtype = jax.eval_shape(keys, operands)[0].dtype
    starts = jnp.asarray(offsets, jnp.uint32)
    zero = jnp.zeros(k.shape, dtype)
    start = _Bracket(
        low=zero,
        high=jnp.full(k.shape, jnp.iinfo(dtype).max, dtype),
        above_low=total,
        above_high=jnp.zeros_like(total),
        tied=jnp.zeros(k.shape, bool),
        value=zero,
    )

    def a_pass(bracket: _Bracket) -> _Bracket:
        # What does not depend on the pass, XLA would compute before the loop, and store.
        given, first, bracket = jax.lax.optimization_barrier((operands, starts, bracket))
        probes, found = bracket.probes(k), []
        for i, key in enumerate(keys(given)):
            one, limits = pick(bracket, i), [pick(p, i) for p in probes]
            digit = _digits(key, first[i], one)
            inside = (digit >= one.low) & (digit < one.high)
            least = jnp.where(inside, digit, dtype.type(jnp.iinfo(dtype).max))
            most = jnp.where(inside, digit, dtype.type(0))
            found.append(tally([digit >= p for p in limits], axes(key), least, most))
        return bracket.narrow(k, probes, join(found))

    end = jax.lax.while_loop(lambda b: jnp.any(~b.found(k)), a_pass, start)
    given, first, end = jax.lax.optimization_barrier((operands, starts, end))
    threshold = jnp.where(end.above_high == k, end.high, jnp.where(end.above_low == k, end.low, 0))
    masks = []
    for i, key in enumerate(keys(given)):
        one, limit = pick(end, i), pick(threshold, i)
        masks.append((_digits(key, first[i], one) >= limit) & (key > 0))
    return masks, jnp.where(end.high <= 1, end.above_high, k)


def _given(score: Array) -> Array:
    return score


# (Jitted: outside of jit a loop would be compiled anew at every call.)
@functools.partial(jax.jit, static_argnames=("score", "outside", "together"))
def masks_by_score(
    score: Callable[..., Array],
    operands: Sequence[tuple[Any, ...]],
    k: Any,
    where: Sequence[Array | None],
    *,
    outside: bool = False,
    together: bool = False,
) -> tuple[list[Array], Array]:
    """``top_k_mask`` of many arrays in one search, by a score of others that is never stored.

    Args:
      score: ``score(*operands[i])`` are the scores of array i; traced in every pass.
      operands: One tuple an array.
      k: How many: int32, one an array, or one for all of them ``together``.
      where: Bool array or ``None`` for each.
      outside: Are the candidates where it is False?
      together: Do the arrays compete?

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
    common = jnp.result_type(*[s.dtype for s in shapes]) if together and shapes else None
    keep = [i for i, s in enumerate(shapes) if math.prod(s.shape)]
    sizes = [math.prod(shapes[i].shape) for i in keep]
    masks = [jnp.zeros(s.shape, bool) for s in shapes]
    for size in [sum(sizes)] if together else sizes:
        _check_size(size)
    k = jnp.asarray(k, jnp.int32)
    if not keep:
        return masks, jnp.zeros_like(k)

    def keys(given: list[tuple[tuple[Any, ...], Array | None]]) -> list[Array]:
        found = []
        for row, candidates in given:
            scores = score(*row)
            candidates = ~candidates if outside and candidates is not None else candidates
            key = ordered(scores if common is None else scores.astype(common), candidates)
            found.append(key.reshape(-1) if one_device() or not key.ndim else key)
        widest = functools.reduce(jnp.promote_types, [key.dtype for key in found])
        return [key.astype(widest) for key in found]

    def join(found: list[list[Array]]) -> list[Array]:
        columns = [
            jnp.stack([x.reshape(()) for x in column]) for column in zip(*found, strict=True)
        ]
        if not together:
            return columns
        *above, least, most = columns
        return [*[jnp.sum(x, keepdims=True) for x in above], least.min()[None], most.max()[None]]

    entry = (lambda i: 0) if together else (lambda i: i)
    chosen, marked = _search(
        keys,
        [(operands[i], where[i]) for i in keep],
        offsets=np.cumsum([0, *sizes])[:-1].tolist() if together else [0] * len(keep),
        k=k.reshape(1) if together else k[np.array(keep)],
        total=jnp.asarray([sum(sizes)] if together else sizes, jnp.int32),
        axes=lambda key: range(key.ndim),
        pick=lambda tree, i: jax.tree.map(lambda x: x[entry(i)], tree),
        join=join,
    )
    for i, mask in zip(keep, chosen, strict=True):
        masks[i] = mask.reshape(shapes[i].shape)
    if together:
        return masks, marked.reshape(())
    return masks, marked if len(keep) == len(shapes) else jnp.zeros_like(k).at[np.array(keep)].set(
        marked
    )


@functools.partial(jax.jit, static_argnames="axis")
def _top_k_along(scores: Array, k: Any, where: Array | None, axis: int) -> Array:
    """``k`` (one for each group, or one for all) along an axis."""
    k = jnp.asarray(k, jnp.int32)
    k = jnp.expand_dims(k, axis) if k.ndim else k
    size = scores.shape[axis]
    if size > _PAIRWISE:
        groups = tuple(1 if i == axis else n for i, n in enumerate(scores.shape))
        return _search(
            lambda given: [ordered(*given)],
            (scores, where),
            offsets=[0],
            k=jnp.broadcast_to(k, groups),
            total=jnp.full(groups, size, jnp.int32),
            axes=lambda key: (axis,),
            pick=lambda tree, i: tree,
            join=lambda found: found[0],
        )[0][0]
    keys = ordered(scores, where)
    tie = scramble(indices(keys))
    ahead = jnp.zeros(keys.shape, jnp.int32)
    for member in range(size):
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
    if axis is not None and scores.size:
        _check_size(scores.size)
        return _top_k_along(scores, k, where, axis % scores.ndim)
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
    rows = [(jnp.asarray(leaves[i]),) for i in chosen]
    among = [candidates[i] for i in chosen]
    found, _ = masks_by_score(_given, rows, number, among, together=together)
    for i, mask in zip(chosen, found, strict=True):
        leaves[i] = mask
    return jax.tree.unflatten(structure, leaves)
