"""MEST: weights that are small and have small gradients go, random ones come, ever fewer."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from jaxsparse import distributions, scores
from jaxsparse.base import (
    Distribution,
    MaskAlgorithm,
    ScalarOrSchedule,
    Schedule,
    Structure,
    Where,
    evaluate,
)
from jaxsparse.budgets import final_sparsity
from jaxsparse.engine import drop_grow
from jaxsparse.layers import default_where
from jaxsparse.schedules import check_fraction, check_sparsity, every

# 0.2 up to epoch 90 of 160, 0.1 up to 120, then 0; an epoch is 391 steps.
_FALLING = optax.piecewise_constant_schedule(0.2, {35_000: 0.5, 47_000: 0.0})


def mest(
    sparsity: float,
    *,
    distribution: Distribution = distributions.uniform,
    update: Schedule = every(2_000, start=2_000),
    drop_fraction: ScalarOrSchedule = _FALLING,
    soft_bound: bool = False,
    gradient_weight: float = 0.01,
    structure: Structure | None = None,
    where: Where = default_where,
) -> MaskAlgorithm:
    """Memory-economic sparse training ("MEST", Yuan et al., 2021): MEST+EM, or MEST+EM&S.

    ==============================  ========================  ===================  ======
    sparsity over time              swap                      drop                 grow
    ==============================  ========================  ===================  ======
    constant; with ``soft_bound``   falls in steps to 0       ``|w| + c |g|``      random
    rises to its end                (Elastic Mutation)
    ==============================  ========================  ===================  ======

    Elastic Mutation is the fraction that falls over training. The hard bound drops that fraction
    and grows as much. With the soft bound (EM&S) an update drops down to the bound and grows that
    fraction above it, to be trained until the next one: more weights than the bound between
    updates, and exactly the bound once the fraction is 0. No gradient of an absent weight is read.

    Published scripts update every fifth of 160 epochs; at 90 % sparsity the fraction is 0.2 up to
    epoch 90, 0.1 up to 120, then 0 (the default, in batches of 128), and 0.5, 0.25 and 0 with the
    soft bound: ``optax.piecewise_constant_schedule(0.5, {35_000: 0.5, 47_000: 0.0})``.

    Args:
      sparsity: Fraction of zeros over the sparse leaves, in [0, 1); with ``soft_bound`` at the end.
      distribution: ``(params, sparsity, *, where) -> kept counts``.
      update: ``step -> bool``; with ``soft_bound`` one has to come after the fraction is 0.
      drop_fraction: Fraction of the bound's weights swapped, in [0, 1]; a float or
        ``step -> float``. With ``soft_bound`` it has to end at 0.
      soft_bound: Grow before dropping, above the bound (the paper's &S)?
      gradient_weight: The factor c of the gradient in the drop score, the paper's lambda, 0 or
        more; 0 in the published scripts, 0.01 in a later comparison by others (CHTs).
      structure: What is kept together; default: single weights.
      where: ``(path, leaf) -> bool``: which leaves may be sparse.

    Returns:
      A ``MaskAlgorithm``.

    Raises:
      ValueError: if a number is out of range, or the soft bound would never be met.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> params, falling = {"kernel": jnp.ones((20, 10))}, optax.linear_schedule(0.5, 0.0, 100)
      >>> for soft in (False, True):
      ...     method = mest(0.9, drop_fraction=falling, soft_bound=soft)
      ...     masks, update = method.init(jax.random.key(0), params), jax.jit(method.update)
      ...     print([int(update(jax.random.key(1), masks, params, params, step)[1].kept[0])
      ...            for step in (0, 50, 100)])
      [20, 20, 20]
      [30, 25, 20]

    Differences from the paper: with the soft bound, what an update drops to is the bound to within
    a weight a layer, until the end; the data-efficient part (training examples left out) is not
    here; of its structures, blocks and channels are, kernel patterns are not.

    References:
      Yuan et al., `MEST: Accurate and Fast Memory-Economic Sparse Training Framework on the Edge
      <https://arxiv.org/abs/2110.14032>`_, NeurIPS 2021.
    """
    check_sparsity(sparsity)
    if not callable(drop_fraction):
        check_fraction(drop_fraction, "drop_fraction")

    def above(step: Any) -> Array:
        """Sparsity with what has grown above the bound; at the end the number that was given."""
        extra = evaluate(drop_fraction, step)
        return jnp.where(extra > 0, jnp.maximum(1 - (1 - sparsity) * (1 + extra), 0), sparsity)

    def of_all(step: Any) -> Array:
        extra = evaluate(drop_fraction, step)
        return extra / (1 + extra)

    if soft_bound and (last := final_sparsity(above)) < float(str(np.float32(sparsity))):
        raise ValueError(
            f"with soft_bound the sparsity would end at {last:g}, short of {sparsity:g}; give a "
            "drop_fraction that falls to 0"
        )
    return drop_grow(
        sparsity=above if soft_bound else sparsity,
        distribution=distribution,
        update=update,
        drop_fraction=of_all if soft_bound else drop_fraction,
        drop=scores.magnitude_and_gradient(gradient_weight),
        grow=scores.random,
        structure=structure,
        where=where,
    )
