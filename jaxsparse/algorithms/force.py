"""FORCE and iterative SNIP: connection sensitivity in rounds, before training."""

from typing import Any

from jaxsparse import distributions
from jaxsparse.algorithms.before_training import before_training
from jaxsparse.base import Distribution, MaskAlgorithm, Scope, Where
from jaxsparse.layers import default_where
from jaxsparse.saliency import LossFn, connection_sensitivity


def force(
    sparsity: float,
    *,
    loss_fn: LossFn | None = None,
    batches: Any = None,
    rounds: int = 60,
    regrow: bool = True,
    scope: Scope = "global",
    distribution: Distribution = distributions.uniform,
    where: Where = default_where,
) -> MaskAlgorithm:
    """Foresight connection sensitivity ("FORCE", de Jorge et al., 2021, equations 7 to 9).

    =====================  ====  ===========================================  ====
    sparsity over time     swap  drop                                         grow
    =====================  ====  ===========================================  ====
    0, then constant       0     abs(w g) at the masked weights, in rounds    none
    =====================  ====  ===========================================  ====

    Weights that a round prunes may come back in a later one, with the value they had; with
    ``regrow=False``, "iterative SNIP", they do not.

    Args:
      sparsity: Fraction of zeros over the sparse leaves, in [0, 1).
      loss_fn: ``(params, batch) -> scalar``, for instance ``saliency.cross_entropy(model_fn)``.
      batches: Pytree of arrays (batches, examples, ...), all of them in every round.
      rounds: At least 1; published code takes 60 in its examples, and with 1 both are SNIP.
      regrow: False: iterative SNIP.
      scope: ``"global"``, as in the paper, or ``"layer"``.
      distribution: ``(params, sparsity, *, where) -> kept counts``; only its sum counts under
        ``"global"``.
      where: ``(path, leaf) -> bool``: which leaves may be sparse.

    Returns:
      A ``MaskAlgorithm``.

    Raises:
      ValueError: if ``loss_fn`` or ``batches`` is missing, or a number is out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> loss_fn = lambda params, batch: jnp.sum(batch * params["w"][0])
      >>> method = force(0.5, loss_fn=loss_fn, batches=jnp.array([[1.0, -3.0]]), rounds=2)
      >>> params = {"w": jnp.array([[2.0, 1.0]])}
      >>> masks = method.init(jax.random.key(0), params)
      >>> method.update(jax.random.key(1), masks, params, params, 0)[0]["w"].tolist()
      [[False, True]]

    Differences from the paper: the same batches in every round, where published code may draw new
    ones; counts are exact.

    References:
      de Jorge et al., `Progressive Skeletonization: Trimming more fat from a network at
      initialization <https://arxiv.org/abs/2006.09081>`_, ICLR 2021.
    """
    if loss_fn is None or batches is None:
        raise ValueError(
            "force needs loss_fn= and batches=: (params, batch) -> scalar, and arrays (batches, "
            "examples, ...); see jaxsparse.saliency.cross_entropy"
        )
    return before_training(
        sparsity,
        saliency=connection_sensitivity(loss_fn, batches),
        rounds=rounds,
        regrow=regrow,
        scope=scope,
        distribution=distribution,
        where=where,
    )
