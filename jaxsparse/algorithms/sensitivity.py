"""Sensitivity pruning: what the loss would lose with a weight, from how training moved it."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxsparse import distributions
from jaxsparse._tree import map_masks
from jaxsparse.base import (
    Distribution,
    MaskAlgorithm,
    Masks,
    Memory,
    Params,
    Scope,
    Structure,
    Where,
)
from jaxsparse.engine import drop_grow
from jaxsparse.layers import default_where
from jaxsparse.memories import initial_weights
from jaxsparse.schedules import any_of, at, check_sparsity, every, one_shot, polynomial_sparsity
from jaxsparse.scores import elementwise


class Path(NamedTuple):
    """How training has moved the weights of a leaf: float32 arrays like it.

    Attributes:
      initial: What they started from.
      latest: What they were before the latest step seen.
      squares: Sum of the squares of their steps.
    """

    initial: Float[Array, "..."]
    latest: Float[Array, "..."]
    squares: Float[Array, "..."]


def sensitivity(
    sparsity: float,
    *,
    step: int = 20_000,
    stop: int | None = None,
    interval: int = 500,
    distribution: Distribution = distributions.uniform,
    scope: Scope = "global",
    structure: Structure | None = None,
    where: Where = default_where,
) -> MaskAlgorithm:
    """Prune the weights that the loss is least sensitive to (Karnin, 1990).

    ===============================  ====  ================================  ====
    sparsity over time               swap  drop                              grow
    ===============================  ====  ================================  ====
    0, from ``step`` on constant;    0     S = sum (dw)^2 w / (w - w_0)      none
    or a cubic from it to ``stop``
    ===============================  ====  ================================  ====

    dw are the steps of training so far, w_0 the weight that it started from. Under gradient descent
    at a rate r, S / r is the loss that this weight has earned on its way from w_0, extended to a
    way that starts from 0: an estimate of what is lost with it. It may be negative; such weights go
    first. A weight that never moved has S = 0. It costs three arrays like the weights.

    Args:
      sparsity: Fraction of zeros over the sparse leaves at the end, in [0, 1).
      step: When to prune, at best at the end of training; before it the network is dense.
      stop: Prune gradually, from ``step`` to this step; ``None``: all at once, at ``step``.
      interval: Steps between prunings, with ``stop``.
      distribution: ``(params, sparsity, *, where) -> kept counts``; only its sum counts under
        ``"global"``.
      scope: ``"global"``: the sensitivities of all weights are compared; or ``"layer"``.
      structure: What is pruned together; default: single weights.
      where: ``(path, leaf) -> bool``: which leaves may be sparse.

    Returns:
      A ``MaskAlgorithm``.

    Raises:
      ValueError: if a number is out of range, or ``stop`` comes before ``step``.

    Example:
      >>> import jax.numpy as jnp, optax, jaxsparse
      >>> tx = jaxsparse.sparsify(optax.sgd(1.0), sensitivity(0.5, step=2))
      >>> params = {"w": jnp.array([[2.0, 1.0]])}
      >>> state = tx.init(params)
      >>> for grads in ([[0.25, -1.0]], [[0.25, -0.5]], [[0.0, 0.0]]):
      ...     updates, state = tx.update({"w": jnp.array(grads)}, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> params["w"].tolist()  # S = 2/16 * 1.5 / -0.5, and 1.25 * 2.5 / 1.5
      [[0.0, 2.5]]

    Differences from the paper: a budget; the rate is left out, because a constant one does not
    change the order; with another optimizer than gradient descent the steps are that optimizer's,
    and the reading as a loss is lost.

    References:
      Karnin, `A simple procedure for pruning back-propagation trained neural networks
      <https://doi.org/10.1109/72.80236>`_, IEEE Transactions on Neural Networks 1, 1990.
    """
    check_sparsity(sparsity)
    gradual = stop is not None
    return drop_grow(
        sparsity=polynomial_sparsity(sparsity, step, stop) if gradual else one_shot(sparsity, step),
        distribution=distribution,
        update=any_of(every(interval, step, stop), at(stop)) if gradual else at(step),
        drop=path_sensitivity,
        scope=scope,
        structure=structure,
        where=where,
        start=_standing,
        remember=_one_step_on,
    )


def _standing(masks: Masks, params: Params) -> Memory:
    """Leaves of ``Path``. (Copies, for no buffer may be donated twice.)"""
    zeros = lambda mask: jnp.zeros_like(mask, jnp.float32)
    rows = [initial_weights(masks, params), initial_weights(masks, params), map_masks(zeros, masks)]
    return map_masks(lambda mask, *row: Path(*row), masks, *rows)


def _one_step_on(memory: Memory, masks: Masks, params: Params, grads: Params, step: Any) -> Memory:
    del grads, step
    most = jnp.finfo(jnp.float32).max

    def one(mask: Array, weight: Array, path: Path) -> Path:
        del mask
        weight = weight.astype(jnp.float32)
        # (Weights that are not finite skip the update anyway, but must not stay in the sum.)
        square = jnp.square(weight - path.latest)
        square = jnp.where(jnp.isfinite(weight), jnp.minimum(square, most), 0.0)
        total = jnp.minimum(path.squares + square, most)
        return Path(path.initial, jnp.where(jnp.isfinite(weight), weight, path.latest), total)

    return map_masks(one, masks, params, memory)


@elementwise
def path_sensitivity(
    key: Any, weight: Any, grad: Any, mask: Any, memory: Path
) -> Float[Array, "..."]:
    """``sum (dw)^2 w / (w - w_0)``; 0 where training has not moved the weight.

    Args:
      key: Unused.
      weight: Array.
      grad: Unused.
      mask: Unused.
      memory: ``Path`` of this leaf.

    Returns:
      float32, shaped like ``weight``.

    Example:
      >>> import jax.numpy as jnp
      >>> memory = Path(jnp.array([1.0]), jnp.array([3.0]), jnp.array([2.0]))
      >>> path_sensitivity(None, jnp.array([3.0]), None, None, memory).tolist()  # 2 x 3 / 2
      [3.0]
    """
    del key, grad, mask
    way = weight.astype(jnp.float32) - memory.initial
    moved = way != 0
    return jnp.where(moved, memory.squares * weight / jnp.where(moved, way, 1.0), 0.0)
