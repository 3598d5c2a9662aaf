"""Powerpropagation: weights as powers of parameters, so that the rich get richer."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxsparse import distributions, scores
from jaxsparse._dtypes import wide
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
from jaxsparse.masks import map_kept
from jaxsparse.schedules import any_of, at, check_sparsity, every, one_shot, polynomial_sparsity


class Power(NamedTuple):
    """The exponent alpha, a float32 scalar."""

    alpha: Float[Array, "..."]

    def forward(self, key: chex.PRNGKey, params: Params, masks: Masks, training: bool) -> Params:
        """``phi |phi|^(alpha - 1)`` where kept, and zeros."""
        del key, training
        (alpha,) = jax.tree.leaves(self.alpha)

        def weight(phi: Array, mask: Array) -> Array:
            return jnp.where(mask, phi * _power(phi, alpha - 1), 0).astype(phi.dtype)

        return map_kept(weight, params, masks)

    def initial(self, params: Params, masks: Masks) -> Params:
        """``sign(w) |w|^(1 / alpha)``: the phi whose powers are the weights given."""
        (alpha,) = jax.tree.leaves(self.alpha)
        root = lambda w, mask: (jnp.sign(w) * _power(w, 1 / alpha)).astype(w.dtype)
        return map_kept(root, params, masks)


def powerpropagation(
    sparsity: float,
    *,
    start: int,
    stop: int | None = None,
    interval: int = 500,
    alpha: float = 2.0,
    distribution: Distribution = distributions.uniform,
    scope: Scope = "layer",
    structure: Structure | None = None,
    where: Where = default_where,
) -> MaskAlgorithm:
    """Train ``w = phi |phi|^(alpha - 1)``, then prune ("Powerpropagation", Schwarz et al., 2021).

    ============================  =====================  =====================================
    sparsity over time            pruned                 trained
    ============================  =====================  =====================================
    0; from ``start`` on, S       the smallest weights,  phi, by ``g alpha |phi|^(alpha - 1)``
    (or a cubic to ``stop``)      for good
    ============================  =====================  =====================================

    The parameters are phi; the loss is taken at ``forward_params(params, opt_state)``. Small
    weights learn slowly and large ones fast, so that more of them end near zero. Start from
    ``initial_params(params, opt_state)`` (``TrainState.create`` does), which leaves the network's
    weights as they were.

    Args:
      sparsity: Fraction of zeros over the sparse leaves at the end, in [0, 1).
      start: The step that prunes, or the first one that does.
      stop: Last pruning step; ``None``: all at ``start``, the paper's way (at the end of training).
      interval: Steps between prunings, at least 1; read with ``stop`` only.
      alpha: The exponent, at least 1, where 1 changes nothing; 2 to 5 in the paper on MNIST.
      distribution: ``(params, sparsity, *, where) -> kept counts`` at the end.
      scope: ``"layer"``, or ``"global"``: leaves compete for the sum.
      structure: What is pruned together; default: single weights. Its scores are sums of ``|phi|``.
      where: ``(path, leaf) -> bool``: which leaves may be sparse.

    Returns:
      A ``MaskAlgorithm``.

    Raises:
      ValueError: if a number is out of range.

    Example:
      >>> import jax.numpy as jnp, optax, jaxsparse
      >>> tx = jaxsparse.sparsify(optax.sgd(0.5), powerpropagation(0.5, start=0, alpha=2.0))
      >>> params = {"w": jnp.array([[9.0, -4.0]])}
      >>> state = tx.init(params)
      >>> params = jaxsparse.initial_params(params, state)
      >>> params["w"].tolist()
      [[3.0, -2.0]]
      >>> jaxsparse.forward_params(params, state)["w"].tolist()
      [[9.0, -4.0]]
      >>> updates, state = tx.update({"w": jnp.ones((1, 2))}, state, params)
      >>> params = optax.apply_updates(params, updates)
      >>> params["w"].tolist(), jaxsparse.forward_params(params, state)["w"].tolist()
      ([[0.0, -4.0]], [[0.0, -16.0]])

    Differences from the paper: nothing is rewound after pruning; gradual pruning is an addition;
    the combination with Top-KAST is not here. Weight decay inside the optimizer is on phi.

    References:
      Schwarz et al., `Powerpropagation: A sparsity inducing weight reparameterisation
      <https://arxiv.org/abs/2110.00296>`_, NeurIPS 2021.
    """
    check_sparsity(sparsity)
    _check_alpha(alpha)

    def backward(
        key: chex.PRNGKey, masks: Masks, params: Params, grads: Params, step: Any, memory: Memory
    ) -> tuple[Params, Memory]:
        del key, step

        def chain(mask: Array, grad: Array, phi: Array) -> Array:
            # By hand: automatic differentiation of a power is NaN at 0 for alpha below 2.
            slope = memory.alpha * _power(phi, memory.alpha - 1)
            return jnp.where(mask, grad * slope, 0).astype(grad.dtype)

        return map_masks(chain, masks, grads, params, dense=lambda grad, phi: grad), memory

    once = stop is None
    return drop_grow(
        sparsity=one_shot(sparsity, start) if once else polynomial_sparsity(sparsity, start, stop),
        distribution=distribution,
        update=at(start) if once else any_of(every(interval, start, stop), at(stop)),
        drop=scores.magnitude,
        scope=scope,
        structure=structure,
        where=where,
        start=lambda masks, params: Power(jnp.float32(alpha)),
        backward=backward,
        dense_weights=True,
    )


def _power(phi: Array, exponent: Any) -> Array:
    """``|phi|^exponent``, in float32 or wider: half precision loses small weights."""
    return wide(jnp.abs(phi)) ** exponent


def _check_alpha(alpha: float) -> None:
    if not 1 <= alpha < float("inf"):
        raise ValueError(f"alpha is {alpha}; it must be at least 1 (1: plain weights; 2 to 5)")
