"""Gradual magnitude pruning: from dense to sparse along a cubic."""

from jaxsparse import distributions, scores
from jaxsparse.base import Distribution, MaskAlgorithm, Scope, Structure, Where
from jaxsparse.engine import drop_grow
from jaxsparse.layers import default_where
from jaxsparse.schedules import any_of, at, check_sparsity, every, polynomial_sparsity


def gradual_magnitude(
    sparsity: float,
    *,
    start: int = 0,
    stop: int = 50_000,
    interval: int = 500,
    initial: float = 0.0,
    power: float = 3.0,
    distribution: Distribution = distributions.uniform,
    scope: Scope = "layer",
    structure: Structure | None = None,
    where: Where = default_where,
) -> MaskAlgorithm:
    """Prune the smallest weights step by step while training (Zhu & Gupta, 2018, eq. 1).

    ======================  ====  =========  ====
    sparsity over time      swap  drop       grow
    ======================  ====  =========  ====
    cubic from ``initial``  0     magnitude  none
    ======================  ====  =========  ====

    Pruned weights stay pruned. There is always an update at ``stop``, so the final sparsity is
    reached exactly, whether or not the interval divides the span.

    Args:
      sparsity: Fraction of zeros over the sparse leaves at the end, in [0, 1).
      start: First pruning step.
      stop: Last pruning step, after ``start``.
      interval: Steps between prunings, at least 1.
      initial: Fraction of zeros before ``start``, in [0, 1).
      power: 3 in the paper.
      distribution: ``(params, sparsity, *, where) -> kept counts`` at the end; on the way each
        layer's zeros are in proportion. The paper's is uniform.
      scope: ``"layer"``, as in the paper, or ``"global"``: leaves compete for the sum.
      structure: What is pruned together; default: single weights.
      where: ``(path, leaf) -> bool``: which leaves may be sparse.

    Returns:
      A ``MaskAlgorithm``.

    Raises:
      ValueError: if a number is out of range, or ``stop`` comes before ``start``.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> method = gradual_magnitude(0.9, stop=100, interval=10)
      >>> params = {"kernel": jnp.arange(200.0).reshape(20, 10)}
      >>> masks = method.init(jax.random.key(0), params)
      >>> masks, info = method.update(jax.random.key(1), masks, params, params, 50)
      >>> int(info.kept[0])
      42

    Differences from the paper: ``floor`` of each layer's zeros at the end and ``round`` on the way,
    in whole numbers; zeros are exact at once.

    References:
      Zhu & Gupta, `To prune, or not to prune <https://arxiv.org/abs/1710.01878>`_, 2018.
    """
    check_sparsity(sparsity)
    return drop_grow(
        sparsity=polynomial_sparsity(sparsity, start, stop, initial=initial, power=power),
        distribution=distribution,
        update=any_of(every(interval, start, stop), at(stop)),
        drop=scores.magnitude,
        scope=scope,
        structure=structure,
        where=where,
    )
