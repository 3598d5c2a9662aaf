"""Pruning before training, by any saliency: what GraSP, SynFlow and FORCE have in common."""

from typing import Any, Literal

import jax.numpy as jnp

from jaxsparse import distributions, scores
from jaxsparse._tree import map_masks
from jaxsparse.base import Distribution, MaskAlgorithm, Masks, Memory, Params, Scope, Where
from jaxsparse.engine import drop_grow
from jaxsparse.layers import default_where
from jaxsparse.saliency import Saliency
from jaxsparse.saliency.rounds import check_rounds, masks_in_rounds
from jaxsparse.schedules import at, check_sparsity, one_shot


def before_training(
    sparsity: float,
    *,
    saliency: Saliency,
    rounds: int = 1,
    path: Literal["exponential", "linear"] = "exponential",
    regrow: bool = False,
    scope: Scope = "global",
    distribution: Distribution = distributions.uniform,
    where: Where = default_where,
) -> MaskAlgorithm:
    """Prune at step 0 by a saliency, in rounds, within one update.

    =====================  ====  ========================  ====
    sparsity over time     swap  drop                      grow
    =====================  ====  ========================  ====
    0, then constant       0     ``saliency``, in rounds   none
    =====================  ====  ========================  ====

    The weights are those that training starts from; step 0 does not train them.

    Args:
      sparsity: Fraction of zeros over the sparse leaves, in [0, 1).
      saliency: ``(params, masks) -> scores``, of ``jaxsparse.saliency``. (In a ``partition`` it is
        given the leaves of its part only.)
      rounds: How often is scored, at least 1.
      path: See ``prune_in_rounds``.
      regrow: May what was pruned come back in a later round?
      scope: ``"global"``: leaves compete; ``"layer"``: each has its budget of ``distribution``.
      distribution: ``(params, sparsity, *, where) -> kept counts``; only its sum counts under
        ``"global"``.
      where: ``(path, leaf) -> bool``: which leaves may be sparse.

    Returns:
      A ``MaskAlgorithm``.

    Raises:
      ValueError: if a number or a choice is out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxsparse.saliency import by_score
      >>> method = before_training(0.5, saliency=by_score(scores.magnitude), rounds=2)
      >>> params = {"w": jnp.array([[1.0, -3.0, 2.0, 0.5]])}
      >>> masks = method.init(jax.random.key(0), params)
      >>> method.update(jax.random.key(1), masks, params, params, 0)[0]["w"].tolist()
      [[False, True, True, False]]
    """
    check_sparsity(sparsity)
    check_rounds(rounds, path)

    def measure(params: Params, masks: Masks, step: Any, memory: Memory) -> Masks:
        del step, memory
        chosen, finite = masks_in_rounds(
            saliency, params, sparsity, rounds, path, regrow, scope, distribution, where
        )
        # As many as the budget: they are its best. (Or NaN, which the update then reports.)
        score = lambda new: jnp.where(finite, new.astype(jnp.float32), jnp.nan)
        return map_masks(lambda mask, new: score(new), masks, chosen)

    return drop_grow(
        sparsity=one_shot(sparsity, 0),
        distribution=distribution,
        update=at(0),
        drop=scores.measured,
        measure=measure,
        pauses=at(0),
        scope=scope,
        where=where,
    )
