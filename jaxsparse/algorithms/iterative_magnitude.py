"""Iterative magnitude pruning: a fraction of what is left, again and again, training in between."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from jaxsparse import distributions, scores
from jaxsparse.base import Distribution, MaskAlgorithm, Schedule, Scope, Structure, Where
from jaxsparse.engine import drop_grow
from jaxsparse.layers import default_where
from jaxsparse.schedules import at, check_sparsity


def iterative_magnitude(
    sparsity: float,
    *,
    steps: Sequence[int] = range(5_000, 50_001, 5_000),
    distribution: Distribution = distributions.uniform,
    scope: Scope = "layer",
    structure: Structure | None = None,
    where: Where = default_where,
) -> MaskAlgorithm:
    """Prune, fine-tune, prune again, within one training run (Han et al., 2015, section 3).

    =======================================  ====  =========  ====
    sparsity over time                       swap  drop       grow
    =======================================  ====  =========  ====
    1 - (1 - p)^n after n prunings, from 0   0     magnitude  none
    =======================================  ====  =========  ====

    Every pruning takes the same fraction p = 1 - (1 - sparsity)^(1 / len(steps)) of the weights
    that are left: to prune 20 % ten times, ask for ``1 - 0.8**10`` in ten steps. Weights go on from
    where they are; for whole training runs, with or without rewinding, see ``jaxsparse.pruning``.

    Args:
      sparsity: Fraction of zeros over the sparse leaves after the last pruning, in [0, 1).
      steps: When to prune: rising steps, 0 or larger.
      distribution: ``(params, sparsity, *, where) -> kept counts`` at the end; on the way each
        layer's zeros are in proportion. Under uniform, each pruning takes p of each layer.
      scope: ``"layer"``, or ``"global"``: leaves compete for the sum.
      structure: What is pruned together; default: single weights.
      where: ``(path, leaf) -> bool``: which leaves may be sparse.

    Returns:
      A ``MaskAlgorithm``.

    Raises:
      ValueError: if a number is out of range, or ``steps`` do not rise.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> method = iterative_magnitude(0.75, steps=[10, 20])
      >>> params = {"kernel": jnp.arange(20.0).reshape(5, 4)}
      >>> masks, kept = method.init(jax.random.key(0), params), []
      >>> for step in (10, 20):
      ...     masks, info = method.update(jax.random.key(1), masks, params, params, step)
      ...     kept.append(int(info.kept[0]))
      >>> kept
      [10, 5]

    Differences from the paper: a budget, where the paper prunes below a threshold in units of each
    layer's standard deviation; learning rate and dropout between the prunings are the optimizer's
    and the model's affair; optimizer slots of the weights that stay are kept.

    References:
      Han et al., `Learning both Weights and Connections for Efficient Neural Networks
      <https://arxiv.org/abs/1506.02626>`_, NeurIPS 2015.
    """
    check_sparsity(sparsity)
    due = at(list(steps))
    if sorted(set(steps)) != list(steps):
        raise ValueError(f"steps is {list(steps)}; give rising steps, each of them once")
    return drop_grow(
        sparsity=_staircase(sparsity, list(steps)),
        distribution=distribution,
        update=due,
        drop=scores.magnitude,
        scope=scope,
        structure=structure,
        where=where,
    )


def _staircase(final: float, steps: list[int]) -> Schedule:
    """``1 - (1 - final) ** (n / rounds)``, where n steps of them are over."""
    levels = [1 - (1 - final) ** (n / len(steps)) for n in range(len(steps))] + [final]

    def schedule(step: Any) -> Any:
        step = jnp.asarray(step)
        over = sum((step >= one).astype(jnp.int32) for one in steps)
        return jnp.asarray(levels, jnp.float32)[over]

    return schedule
