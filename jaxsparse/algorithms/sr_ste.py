"""SR-STE: N:M sparsity from scratch; what is hidden is pulled to zero."""

import math
from fractions import Fraction
from typing import Any

import chex
import jax.numpy as jnp
from jaxtyping import Array

from jaxsparse import distributions, scores
from jaxsparse._tree import map_masks
from jaxsparse.base import (
    Distribution,
    MaskAlgorithm,
    Masks,
    Memory,
    Params,
    ScalarOrSchedule,
    Schedule,
    Where,
    always,
)
from jaxsparse.engine import drop_grow
from jaxsparse.forward import MaskedForward
from jaxsparse.layers import default_where
from jaxsparse.structures import n_m, unstructured


def sr_ste(
    keep: int = 2,
    of: int = 4,
    *,
    sparsity: ScalarOrSchedule | None = None,
    decay: float = 2e-4,
    axis: int = -2,
    distribution: Distribution = distributions.uniform,
    update: Schedule = always,
    where: Where = default_where,
) -> MaskAlgorithm:
    """Sparse-refined straight-through estimator ("SR-STE", Zhou et al., 2021).

    ==================  ================  ==============================  ====================
    sparsity over time  chosen            forward                         trained
    ==================  ================  ==============================  ====================
    constant            anew, every step  the largest ``keep`` of ``of``  all weights, by
                                                                          ``g + decay (1-m) w``
    ==================  ================  ==============================  ====================

    The gradient g at the sparse weights goes straight through to the dense ones; weights that the
    mask m hides decay, so that they change places with kept ones less often. ``decay=0`` is the
    plain straight-through estimator.

    Args:
      keep: Weights kept in every group, in [1, of).
      of: Weights in a group: consecutive ones along the reduction axis.
      sparsity: Given, single weights are kept in place of groups, and ``keep``, ``of`` and
        ``axis`` are not read: fraction of zeros, in [0, 1); a float or ``step -> float``.
      decay: The paper's lambda_W, 0 or more.
      axis: The reduction axis: -2 for flax kernels; -1 for Equinox's ``Linear``.
      distribution: With ``sparsity``: ``(params, sparsity, *, where) -> kept counts``.
      update: ``step -> bool``: when masks are chosen; in the paper at every step.
      where: ``(path, leaf) -> bool``: which leaves may be sparse.

    Returns:
      A ``MaskAlgorithm``.

    Raises:
      ValueError: if a number is out of range; in ``init``, if ``of`` does not divide a leaf.

    Example:
      >>> import jax.numpy as jnp, optax, jaxsparse
      >>> tx = jaxsparse.sparsify(optax.sgd(1.0), sr_ste(1, 2, decay=0.5))
      >>> params = {"w": jnp.array([[3.0], [2.0]])}
      >>> state = tx.init(params)
      >>> updates, state = tx.update({"w": jnp.zeros((2, 1))}, state, params)
      >>> optax.apply_updates(params, updates)["w"].tolist()
      [[3.0], [1.0]]

    Differences from the paper: any optimizer, to which the decay is a part of the gradient (Adam
    rescales it); groups are along the input axis of every kernel, as in the paper's code for
    channels-last; equal magnitudes are ordered by a hash of the index.

    References:
      Zhou et al., `Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch
      <https://arxiv.org/abs/2102.04010>`_, ICLR 2021.
    """
    if not (decay >= 0 and math.isfinite(decay)):
        raise ValueError(f"decay is {decay}; it must be 0 (plain STE) or more, such as 2e-4")
    structure = unstructured()
    if sparsity is None:
        structure, distribution = n_m(keep=keep, of=of, axis=axis), distributions.uniform
        sparsity, zeros = 1 - keep / of, 1 - Fraction(keep, of)
        # Budgets round zeros down: 1/6 must not become the float below it.
        while Fraction(repr(sparsity)) < zeros:
            sparsity = math.nextafter(sparsity, 1)

    def backward(
        key: chex.PRNGKey, masks: Masks, params: Params, grads: Params, step: Any, memory: Memory
    ) -> tuple[Params, Memory]:
        del key, step

        def refine(mask: Array, grad: Array, weight: Array) -> Array:
            hidden = jnp.where(mask, jnp.zeros_like(weight), weight)
            return (grad + decay * hidden).astype(grad.dtype)

        return map_masks(refine, masks, grads, params, dense=lambda grad, weight: grad), memory

    return drop_grow(
        sparsity=sparsity,
        distribution=distribution,
        update=update,
        drop=None,
        grow=scores.magnitude,
        structure=structure,
        where=where,
        start=lambda masks, params: MaskedForward(),
        backward=backward if decay else None,
        dense_gradients=always,
        dense_weights=True,
    )
