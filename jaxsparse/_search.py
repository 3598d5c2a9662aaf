"""Private: the thresholds of a top-k, found by counting."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxsparse._counting import tally
from jaxsparse._keys import indices, scramble


class Bracket(NamedTuple):
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

    def narrow(self, k: Array, probes: list[Array], found: list[Array]) -> "Bracket":
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
        # Stored, for else XLA would do all this again for each field.
        low, high, above_low, above_high = jax.lax.optimization_barrier(
            (low, high, above_low, above_high)
        )
        # One key is left and some of its places are to be taken: search among their hashes.
        only = (high - low <= 1) & ~tied & (above_low != k) & (above_high != k) & (high > 1)
        after = Bracket(
            low=jnp.where(only, jnp.ones_like(low), low),
            high=jnp.where(only, jnp.full_like(high, jnp.iinfo(high.dtype).max), high),
            above_low=above_low,
            above_high=above_high,
            tied=tied | only,
            value=jnp.where(only, low, value),
        )
        done = self.found(k)  # a search that is over waits for the others
        return jax.tree.map(lambda old, new: jnp.where(done, old, new), self, after)


def _digits(key: Array, offset: Array, tied: Array, value: Array) -> Array:
    """What is compared with the threshold: keys, or under ties the hashes at the tied key."""
    most = key.dtype.type(jnp.iinfo(key.dtype).max)
    tie = scramble(indices(key, offset)).astype(key.dtype)
    among = jnp.where(key == value, tie, jnp.where(key > value, most, key.dtype.type(0)))
    return jnp.where(tied, among, key)


class Searches(NamedTuple):
    """How arrays of keys and searches belong together: by default, an array is a search.

    Attributes:
      axes: The axes an array is counted over.
      pick: ``(values, i)``: of arrays with an entry a search, what array i is compared with, in
        shapes that broadcast against its keys.
      join: The counts of the arrays, as counts of the searches: some sums, a minimum, a maximum.
    """

    axes: Callable[[Array], Sequence[int]]
    pick: Callable[[list[Array], int], list[Array]]
    join: Callable[[list[list[Array]]], list[Array]]


def search(
    keys: Callable[[Any], list[Array]],
    operands: Any,
    offsets: Sequence[Array],
    k: Array,
    total: Array,
    searches: Searches,
) -> tuple[list[Array], Array]:
    """All searches at once; ``keys`` is traced inside the loop, so what it computes is not stored.

    Args:
      keys: ``operands -> keys`` of all arrays, of one dtype.
      operands: Pytree of arrays.
      offsets: uint32, for ties: what is added to the row-major indices of each array.
      k: int32, one a search.
      total: int32, elements of each search.
      searches: Which array is of which search.

    Returns:
      The masks, and how many each search has marked.
    """
    axes, pick, join = searches
    k = jnp.clip(k, 0, total)
    dtype = jax.eval_shape(keys, operands)[0].dtype
    zero = jnp.zeros_like(k, dtype)
    start = Bracket(
        low=zero,
        high=jnp.full_like(k, jnp.iinfo(dtype).max, dtype),
        above_low=total,
        above_high=jnp.zeros_like(total),
        tied=jnp.zeros_like(k, bool),
        value=zero,
    )

    if jax.sharding.get_abstract_mesh().manual_axes:
        # In shard_map the start of a loop has to vary among the devices as what it reads does.
        nothing = jnp.stack([jnp.max(key, initial=0) & 0 for key in keys(operands)]).sum() > 0
        start = jax.tree.map(lambda x: x | nothing.astype(x.dtype), start)

    def a_pass(bracket: Bracket) -> Bracket:
        # What does not depend on the pass, XLA would compute before the loop, and store.
        given, first, bracket = jax.lax.optimization_barrier((operands, offsets, bracket))
        probes, found = bracket.probes(k), []
        values = [bracket.tied, bracket.value, bracket.low, bracket.high, *probes]
        for i, key in enumerate(keys(given)):
            tied, value, low, high, *limits = pick(values, i)
            digit = _digits(key, first[i], tied, value)
            inside = (digit >= low) & (digit < high)
            least = jnp.where(inside, digit, dtype.type(jnp.iinfo(dtype).max))
            most = jnp.where(inside, digit, dtype.type(0))
            found.append(tally([digit >= p for p in limits], axes(key), least, most))
        return bracket.narrow(k, probes, join(found))

    end = jax.lax.while_loop(lambda b: jnp.any(~b.found(k)), a_pass, start)
    given, first, end = jax.lax.optimization_barrier((operands, offsets, end))
    threshold = jnp.where(end.above_high == k, end.high, jnp.where(end.above_low == k, end.low, 0))
    masks = []
    for i, key in enumerate(keys(given)):
        tied, value, limit = pick([end.tied, end.value, threshold], i)
        masks.append((_digits(key, first[i], tied, value) >= limit) & (key > 0))
    return masks, jnp.where(end.high <= 1, end.above_high, k)
