"""Sparse variational dropout: weights that are mostly noise are pruned."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from jaxsparse._dtypes import wide
from jaxsparse._sharding import explicit_sharding
from jaxsparse._tree import map_masks
from jaxsparse.base import (
    MaskAlgorithm,
    Masks,
    Memory,
    Params,
    ScalarOrSchedule,
    Where,
    always,
    evaluate,
)
from jaxsparse.layers import default_where
from jaxsparse.learned import learned, sparse_leaves, train_own, with_leaves
from jaxsparse.masks import map_kept

# Of the fit to the divergence from the log-uniform prior.
_K1, _K2, _K3 = 0.63576, 1.8732, 1.48695
# log alpha is kept in [-8, 8], and the square of a weight above this, where its logarithm is taken.
_CLIP, _TINY = 8.0, 1e-8
_WARM_UP, _ADAM = optax.linear_schedule(0.0, 1.0, 10_000), optax.adam(1e-3)


class VariationalDropout(NamedTuple):
    """What is trained besides the weights: log sigma^2, float32, like each sparse leaf."""

    log_variance: PyTree
    optimizer_state: optax.OptState

    def forward(self, key: chex.PRNGKey, params: Params, masks: Masks, training: bool) -> Params:
        """``w + sigma noise`` in training; afterwards ``w`` where kept, and zeros."""
        log_variances = jax.tree.leaves(self.log_variance)
        keys = [jax.random.fold_in(key, index) for index in range(len(log_variances))]

        def weight(w: Array, mask: Array, log_variance: Array, key: chex.PRNGKey) -> Array:
            if training:
                return _noisy(w, log_variance, key)
            return jnp.where(mask, w, jnp.zeros_like(w))

        return map_kept(weight, params, masks, log_variances, keys)


def variational_dropout(
    *,
    examples: int = 60_000,
    kl_weight: ScalarOrSchedule = _WARM_UP,
    threshold: float = 3.0,
    initial: float = -10.0,
    noise_optimizer: optax.GradientTransformation = _ADAM,
    where: Where = default_where,
) -> MaskAlgorithm:
    """Sparse variational dropout ("Sparse VD", Molchanov et al., 2017).

    ==================  ==========================================  ==============================
    sparsity over time  kept                                        trained
    ==================  ==========================================  ==============================
    learned             ``log sigma^2 - log w^2 < 3``               w and log sigma^2, by the loss
                                                                    at ``w + sigma noise`` and by
                                                                    ``kl_weight / examples`` KL
    ==================  ==========================================  ==============================

    Every weight has noise of its own, drawn anew at each step in training (with the step's key).
    Where its variance alpha, relative to the weight, has grown large the weight says nothing, and
    with ``forward_params(..., training=False)`` it is zero. There is no budget. A pretrained
    network and a rising ``kl_weight`` help.

    Args:
      examples: N: size of the training set, if the loss is a mean over examples.
      kl_weight: Weight of the divergence, 0 or more: a float or ``step -> float``; a warm-up ends
        at 1. By default it rises over 10,000 steps, a length that is not the paper's.
      threshold: Of log alpha: what reaches it is pruned; below 8. A dropout rate of 0.95.
      initial: log sigma^2 at the start.
      noise_optimizer: Trains log sigma^2; Adam (1e-3) in published code.
      where: ``(path, leaf) -> bool``: which leaves may be sparse.

    Returns:
      A ``MaskAlgorithm``, learned. Its memory holds log sigma^2, an array like each sparse leaf,
      and their optimizer's state.

    Raises:
      ValueError: if a number is out of range.

    Example:
      >>> import jax.numpy as jnp, optax, jaxsparse
      >>> method = variational_dropout(initial=0.0)
      >>> tx, params = jaxsparse.sparsify(optax.adam(1e-3), method), {"w": jnp.array([[1.0, 0.1]])}
      >>> state = tx.init(params)
      >>> jaxsparse.forward_params(params, state, training=False)["w"].tolist()
      [[1.0, 0.0]]

    Differences from the paper: noise is added to the weights, one draw a step for all examples,
    where the paper draws the outputs for each example (local reparameterization), so gradients
    are noisier; log alpha is clipped to [-8, 8] as in published code, and 1e-8 added to the squared
    weight in its logarithm; weights above the threshold stay in training (published code can cut
    them there too).

    References:
      Molchanov et al., `Variational Dropout Sparsifies Deep Neural Networks
      <https://arxiv.org/abs/1701.05369>`_, ICML 2017.
    """
    if examples < 1:
        raise ValueError(f"examples is {examples}; it must be at least 1: the training set's size")
    if not -_CLIP < threshold < _CLIP:
        raise ValueError(f"threshold is {threshold}; it must lie between -8 and 8, such as 3.0")
    if not (callable(kl_weight) or kl_weight >= 0):
        raise ValueError(f"kl_weight is {kl_weight}; it must be 0 or more, such as 1.0")

    def start(masks: Masks, params: Params) -> Memory:
        del params
        first = map_masks(lambda mask: jnp.full_like(mask, initial, jnp.float32), masks)
        return VariationalDropout(first, noise_optimizer.init(first))

    def rule(params: Params, masks: Masks, memory: Memory) -> Masks:
        kept = lambda mask, weight, spread: _log_alpha(weight, spread) < threshold
        return map_masks(kept, masks, params, memory.log_variance)

    def backward(
        key: chex.PRNGKey, masks: Masks, params: Params, grads: Params, step: Any, memory: Memory
    ) -> tuple[Params, Memory]:
        share = evaluate(kl_weight, step) / examples
        given, slopes = [], []
        rows = sparse_leaves(masks, params, grads, memory.log_variance)
        for index, (_, weight, grad, log_variance) in enumerate(rows):

            def parts(w: Array, log_variance: Array, index: int = index) -> tuple[Array, Array]:
                noisy = _noisy(w, log_variance, jax.random.fold_in(key, index))
                return noisy, _divergence(_log_alpha(w, log_variance))

            (noisy, divergence), pull = jax.vjp(parts, weight, log_variance)
            both = pull((grad.astype(noisy.dtype), share * jnp.ones_like(divergence)))
            given.append(both[0].astype(grad.dtype))
            slopes.append(both[1])
        new = train_own(
            noise_optimizer,
            with_leaves(masks, slopes, memory.log_variance),
            memory.optimizer_state,
            memory.log_variance,
        )
        return with_leaves(masks, given, grads), VariationalDropout(*new)

    return learned(rule, start=start, backward=backward, where=where, dense_gradients=always)


def _log_alpha(weight: Array, log_variance: Array) -> Array:
    """``log sigma^2 - log w^2``, in float32 or wider."""
    full = log_variance - jnp.log(wide(weight) ** 2 + _TINY)
    # The slope outside is chosen, not multiplied, to be 0: huge gradients overflow on the way.
    return jnp.where(jnp.abs(full) < _CLIP, full, jnp.sign(full) * _CLIP)


def _noisy(weight: Array, log_variance: Array, key: chex.PRNGKey) -> Array:
    """``w + sqrt(alpha w^2) noise``."""
    place = explicit_sharding(weight)
    noise = jax.random.normal(key, weight.shape, jnp.float32, out_sharding=place)
    deviation = jnp.exp(_log_alpha(weight, log_variance) / 2) * jnp.abs(weight)
    return (weight + deviation * noise).astype(weight.dtype)


def _divergence(log_alpha: Array) -> Array:
    """The fit, moved so that it is 0 where alpha is infinite."""
    fit = _K1 * jax.nn.sigmoid(_K2 + _K3 * log_alpha) - 0.5 * jnp.log1p(jnp.exp(-log_alpha))
    return _K1 - fit
