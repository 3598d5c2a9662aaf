"""Private: what an update did to the masks, and whether the numbers it went by were finite."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxsparse._counting import all_finite
from jaxsparse._layout import Layout, layout_of
from jaxsparse._tree import is_dense
from jaxsparse.base import Masks, UpdateInfo


def report(before: Masks, after: Masks, finite: Any = True) -> UpdateInfo:
    """What one update did to the masks.

    Args:
      before: Masks before it.
      after: Masks after it.
      finite: bool scalar: were all numbers finite? If not, the update was skipped.

    Returns:
      ``UpdateInfo`` with ``updates`` and ``skipped`` 0 or 1.

    Example:
      >>> import jax.numpy as jnp
      >>> info = report({"a": jnp.array([True, False])}, {"a": jnp.array([False, True])})
      >>> int(info.dropped), int(info.grown), int(info.kept[0])
      (1, 1, 1)
    """
    olds, news = jax.tree.leaves(before), jax.tree.leaves(after)
    layout = layout_of(news)
    return info_of(layout, layout.pack(olds), layout.pack(news), jnp.asarray(finite))


def info_of(layout: Layout, olds: list[Array], news: list[Array], finite: Array) -> UpdateInfo:
    """The same for arrays of a layout."""
    pairs = list(zip(olds, news, strict=True))
    gone, come = [old & ~new for old, new in pairs], [new & ~old for old, new in pairs]
    kept, dropped, grown = layout.counts(news, gone, come)
    return UpdateInfo(
        kept=kept if olds else jnp.zeros(1, jnp.int32),
        dropped=jnp.sum(dropped),
        grown=jnp.sum(grown),
        updates=finite.astype(jnp.int32),
        skipped=(~finite).astype(jnp.int32),
    )


def deciding(
    layout: Layout,
    score: Callable[..., Array],
    rows: Sequence[tuple[Any, ...]],
    among: Sequence[Array],
    outside: bool = False,
) -> list[Array]:
    """The scores of candidates, with zeros elsewhere: what others have is nobody's business.

    Args:
      layout: Of the leaves.
      score: ``score(*rows[i])`` are the scores of array i.
      rows: One tuple an array.
      among: Bool arrays of the layout: the candidates.
      outside: Are the candidates where they are False?

    Returns:
      An array for each.
    """
    found = []
    for row, candidates in zip(rows, among, strict=True):
        units = score(*row)
        candidates = ~candidates if outside else candidates
        if layout.packed:
            column = jax.lax.broadcasted_iota(jnp.int32, units.shape, 1)
            candidates &= column < jnp.asarray(layout.filled[:, None])
        found.append(jnp.where(candidates, units, jnp.zeros_like(units)))
    return found


def finite_numbers(
    dense: list[Any], weights: list[Array], gradients: list[Array], scores: Sequence[Array] = ()
) -> Array:
    """Are all gradients finite, the weights that are ranked, and the scores they are ranked by?

    (Scores are shaped like the weights, or fewer: of units.)
    """
    is_float = lambda x: not is_dense(x) and jnp.issubdtype(x.dtype, jnp.inexact)
    floating = lambda *arrays: [x for x in arrays if is_float(x)]
    dense = floating(*dense)
    groups = [[grad] for grad in layout_of(dense).pack(dense)]
    pairs = zip(weights, gradients, strict=True)
    ranked = [floating(score) for score in scores]
    finite = all_finite([*groups, *[floating(*pair) for pair in pairs], *ranked])
    # Stored, for else XLA would count anew for each leaf.
    return jax.lax.optimization_barrier(finite)
