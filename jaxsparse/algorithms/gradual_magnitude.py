"""Gradual magnitude pruning: from dense to sparse along a curve."""

from typing import Any, Literal

import jax.numpy as jnp

from jaxsparse import distributions, scores
from jaxsparse.base import Distribution, MaskAlgorithm, Schedule, Scope, Structure, Where
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
    curve: Literal["polynomial", "exponential"] = "polynomial",
    stretch: float = 1.0,
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
      power: Of the polynomial: 3 in the paper, 1 is linear.
      curve: ``"polynomial"``, the paper's; or ``"exponential"``: each step prunes the same fraction
        of what is left (de Jorge et al., 2021); ``power`` is then not read.
      stretch: Multiplies ``start``, ``stop`` and ``interval``, larger than 0. 1.5, in a run that
        trains 1.5 times as long, is the "Pruning 1.5x" of Evci et al. (2020).
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
    in whole numbers; zeros are exact at once. Stretched steps are rounded to whole ones.

    References:
      Zhu & Gupta, `To prune, or not to prune <https://arxiv.org/abs/1710.01878>`_, 2018;
      Gale et al., `The State of Sparsity <https://arxiv.org/abs/1902.09574>`_, 2019; Evci et al.,
      `Rigging the Lottery <https://arxiv.org/abs/1911.11134>`_, ICML 2020 (1.5x); de Jorge et al.,
      `Progressive Skeletonization <https://arxiv.org/abs/2006.09081>`_, ICLR 2021 (exponential).
    """
    check_sparsity(sparsity)
    if curve not in ("polynomial", "exponential"):
        raise ValueError(f"curve is {curve!r}; it must be 'polynomial' or 'exponential'")
    if stretch <= 0:
        raise ValueError(f"stretch is {stretch}; it must be positive (1 leaves the steps alone)")
    if stretch != 1:
        start, stop, interval = (round(stretch * number) for number in (start, stop, interval))
    schedule = polynomial_sparsity(sparsity, start, stop, initial=initial, power=power)
    if curve == "exponential":
        schedule = _exponential(sparsity, start, stop, initial)
    return drop_grow(
        sparsity=schedule,
        distribution=distribution,
        update=any_of(every(interval, start, stop), at(stop)),
        drop=scores.magnitude,
        scope=scope,
        structure=structure,
        where=where,
    )


def _exponential(final: float, start: int, stop: int, initial: float) -> Schedule:
    """What is kept falls by the same factor at every step."""

    def schedule(step: Any) -> Any:
        done = jnp.clip((jnp.asarray(step, jnp.float32) - start) / (stop - start), 0, 1)
        kept = (1 - initial) * jnp.float32((1 - final) / (1 - initial)) ** done
        # At the ends exactly the given numbers.
        return jnp.where(done >= 1, final, jnp.where(done <= 0, initial, 1 - kept))

    return schedule
