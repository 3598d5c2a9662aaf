"""One-shot magnitude pruning: dense before a step, sparse from it on."""

from jaxsparse import distributions, scores
from jaxsparse.base import Distribution, MaskAlgorithm, Scope, Structure, Where
from jaxsparse.engine import drop_grow
from jaxsparse.layers import default_where
from jaxsparse.schedules import at, check_sparsity, one_shot


def magnitude(
    sparsity: float,
    *,
    step: int = 0,
    distribution: Distribution = distributions.uniform,
    scope: Scope = "layer",
    structure: Structure | None = None,
    where: Where = default_where,
) -> MaskAlgorithm:
    """Keep the largest weights, once, and train on under that mask (Han et al., 2015).

    ================================  ====  =========  ====
    sparsity over time                swap  drop       grow
    ================================  ====  =========  ====
    0 before ``step``, then constant  0     magnitude  none
    ================================  ====  =========  ====

    Args:
      sparsity: Fraction of zeros over the sparse leaves from ``step`` on, in [0, 1).
      step: When to prune. 0 prunes the initialization; later, the steps that follow fine-tune.
      distribution: ``(params, sparsity, *, where) -> kept counts``.
      scope: ``"layer"``, or ``"global"``: leaves compete for the sum.
      structure: What is pruned together; default: single weights.
      where: ``(path, leaf) -> bool``: which leaves may be sparse.

    Returns:
      A ``MaskAlgorithm``.

    Raises:
      ValueError: if a number is out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> method, params = magnitude(0.9), {"kernel": jnp.arange(20.0).reshape(5, 4)}
      >>> masks = method.init(jax.random.key(0), params)
      >>> masks, info = method.update(jax.random.key(1), masks, params, params, 0)
      >>> jnp.flatnonzero(masks["kernel"]).tolist()
      [18, 19]

    Differences from the paper: a budget, where the paper prunes below a threshold in units of each
    layer's standard deviation; one round (several are ``iterative_magnitude``).

    References:
      Han et al., `Learning both Weights and Connections for Efficient Neural Networks
      <https://arxiv.org/abs/1506.02626>`_, NeurIPS 2015.
    """
    check_sparsity(sparsity)
    return drop_grow(
        sparsity=one_shot(sparsity, step),
        distribution=distribution,
        update=at(step),
        drop=scores.magnitude,
        scope=scope,
        structure=structure,
        where=where,
    )
