"""Budgets that move between leaves: whole numbers shared out by weights known only at run time."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxsparse.base import Rows
from jaxsparse.selection import top_k_mask


def share_out(
    total: Any, shares: Float[Array, " leaves"], room: Int[Array, " leaves"]
) -> Int[Array, " leaves"]:
    """Whole numbers in proportion to shares, none above its room, summing to the total.

    What does not fit goes to the others in the same proportion; the last ones go to the largest
    fractions.

    Args:
      total: How many in all: int32 scalar.
      shares: Float vector, 0 or more; where all are 0 or not finite, they count as equal.
      room: int32 vector: the most for each.

    Returns:
      int32 vector that sums to ``min(total, sum(room))``.

    Example:
      >>> import jax.numpy as jnp
      >>> share_out(10, jnp.array([3.0, 1.0, 1.0]), jnp.array([4, 9, 9])).tolist()
      [4, 3, 3]
    """
    shares = jnp.where(jnp.isfinite(shares), jnp.maximum(shares, 0), 0).astype(jnp.float32)
    total = jnp.minimum(jnp.asarray(total, jnp.int32), jnp.sum(room, dtype=jnp.int32))

    def once(given: Array) -> Array:
        left, free = total - jnp.sum(given, dtype=jnp.int32), room - given
        part = jnp.where(free > 0, shares, 0)
        part = jnp.where(jnp.sum(part) > 0, part, (free > 0).astype(jnp.float32))
        quota = left * (part / jnp.sum(part))
        over = quota > free
        # float32: whole numbers up to a thousand are met, and large ones are not exceeded.
        whole = jnp.floor(quota * (1 - 2.0**-20) + 2.0**-10).astype(jnp.int32)
        whole = jnp.minimum(whole, free)
        rest = left - jnp.sum(whole, dtype=jnp.int32)
        last = top_k_mask(quota - whole, rest, where=(whole < free) & (part > 0))
        # Those without the room first, then the others anew.
        return given + jnp.where(jnp.any(over), jnp.where(over, free, 0), whole + last)

    return jax.lax.while_loop(
        lambda given: jnp.sum(given, dtype=jnp.int32) < total, once, jnp.zeros_like(room)
    )


def by_survivors(budgets: Array, held: Array, rows: Rows) -> Int[Array, " leaves"]:
    """What was dropped comes back in proportion to the weights that are left in each leaf.

    DSR (Mostafa & Wang, 2019, section 3).

    Args:
      budgets: int32 vector: kept weights before the drop.
      held: int32 vector: after it.
      rows: Read for the leaves' sizes.

    Returns:
      int32 vector with the sum of ``budgets``.

    Example:
      >>> import jax.numpy as jnp
      >>> rows = Rows([], [], [], [], [10, 10])
      >>> by_survivors(jnp.array([4, 4]), jnp.array([3, 1]), rows).tolist()
      [6, 2]
    """
    total = jnp.sum(budgets - held, dtype=jnp.int32)
    room = jnp.asarray(rows.sizes, jnp.int32) - held
    return held + share_out(total, held.astype(jnp.float32), room)


def by_share(budgets: Array, held: Array, rows: Rows) -> Int[Array, " leaves"]:
    """What was dropped comes back in proportion to a number that the memory has for each leaf.

    Of sparse momentum (SNFS; Dettmers & Zettlemoyer, 2019, section 3): the mean magnitude of the
    momentum over the weights that were there.

    Args:
      budgets: int32 vector: kept weights before the drop.
      held: int32 vector: after it.
      rows: Read for the leaves' sizes, and for ``share`` of each leaf's memory: a float scalar.

    Returns:
      int32 vector with the sum of ``budgets``.

    Example:
      >>> import jax.numpy as jnp
      >>> from types import SimpleNamespace
      >>> memory = [SimpleNamespace(share=jnp.float32(x)) for x in (3.0, 1.0)]
      >>> rows = Rows([], [], [], memory, [10, 10])
      >>> by_share(jnp.array([4, 4]), jnp.array([2, 2]), rows).tolist()
      [5, 3]
    """
    total = jnp.sum(budgets - held, dtype=jnp.int32)
    shares = jnp.stack([memory.share for memory in rows.memory])
    room = jnp.asarray(rows.sizes, jnp.int32) - held
    return held + share_out(total, shares, room)
