"""RigL: drop the smallest weights, grow where the dense gradient is largest."""

from typing import Literal

import optax

from jaxsparse import distributions, scores
from jaxsparse.base import (
    Distribution,
    MaskAlgorithm,
    ScalarOrSchedule,
    Schedule,
    Score,
    Structure,
    Where,
    never,
)
from jaxsparse.engine import drop_grow
from jaxsparse.layers import default_where
from jaxsparse.memories import gradient_window
from jaxsparse.schedules import every, within


def rigl(
    sparsity: ScalarOrSchedule,
    *,
    distribution: Distribution = distributions.erk,
    update: Schedule = every(100, start=100, stop=75_000),
    drop_fraction: ScalarOrSchedule = optax.cosine_decay_schedule(0.3, 75_000),
    trains_on_update: bool = False,
    regrow_dropped: bool = True,
    grown_values: Score | None = None,
    grown_slots: float | Literal["initial", "keep"] = "initial",
    gradient_steps: int = 1,
    structure: Structure | None = None,
    where: Where = default_where,
) -> MaskAlgorithm:
    """Rigged lottery ("RigL", Evci et al., 2020, Algorithm 1).

    ==================  ===================  =========  ========================
    sparsity over time  swap                 drop       grow
    ==================  ===================  =========  ========================
    constant            cosine to 0 (eq. 1)  magnitude  dense gradient magnitude
    ==================  ===================  =========  ========================

    Give ``update`` and ``drop_fraction`` the same end, about three quarters of training.

    ITOP's settings (Liu et al., 2021, published code) explore more weights, each for longer:
    ``update=every(4_000, start=4_000, stop=end)`` and ``optax.cosine_decay_schedule(0.5, end)`` in
    batches of 128 (SET: every 1,500 steps); ``explored(rigl(...))`` reports how many.

    Args:
      sparsity: Fraction of zeros over the sparse leaves, in [0, 1).
      distribution: ``(params, sparsity, *, where) -> kept counts``.
      update: ``step -> bool``; the paper's is ``every(100, ..., stop=T_end)``. First update at
        step 0, as in published code: ``every(100)``; end inclusive: ``every(..., inclusive=True)``.
      drop_fraction: The paper's f_decay: fraction of kept weights swapped, in [0, 1].
      trains_on_update: Does the step that updates the masks also train the weights? In the paper
        it does not, and the optimizer's own counters stand still too.
      regrow_dropped: May a weight dropped by this update grow again at once, keeping its value and
        slots? Published code: yes.
      grown_values: What grown weights start from, a function like a score; ``None``: zeros.
      grown_slots: Optimizer slots of grown weights: ``"initial"``; ``"keep"``; or a number c for
        initial + c times the gradient (``initial_acc_scale`` of published code).
      gradient_steps: Growth ranks the sum of this many dense gradients before the update (1: the
        update step's own). Costs one array like the weights.
      structure: What is kept together; default: single weights.
      where: ``(path, leaf) -> bool``: which leaves may be sparse.

    Returns:
      A ``MaskAlgorithm``.

    Raises:
      ValueError: if a number is out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> method, params = rigl(0.9), {"kernel": jnp.ones((20, 10))}
      >>> masks = method.init(jax.random.key(0), params)
      >>> masks, info = method.update(jax.random.key(1), masks, params, params, 100)
      >>> int(info.kept[0]), int(info.dropped) == int(info.grown)
      (20, True)

    Differences from the paper: equal magnitudes are ordered by a hash of the index, where published
    code adds noise of 1e-5; the first update is at step 100, not 0.

    References:
      Evci et al., `Rigging the Lottery: Making All Tickets Winners
      <https://arxiv.org/abs/1911.11134>`_, ICML 2020; Liu et al., `Do We Actually Need Dense
      Over-Parameterization? <https://arxiv.org/abs/2102.02887>`_, ICML 2021 (ITOP).
    """
    start, remember = gradient_window(update, gradient_steps)
    return drop_grow(
        sparsity=sparsity,
        distribution=distribution,
        update=update,
        drop_fraction=drop_fraction,
        drop=scores.magnitude,
        grow=scores.gradient_magnitude,
        pauses=never if trains_on_update else update,
        regrow_dropped=regrow_dropped,
        grown_values=grown_values,
        grown_slots=grown_slots,
        start=start,
        remember=remember,
        structure=structure,
        where=where,
        dense_gradients=within(update, gradient_steps),
    )
