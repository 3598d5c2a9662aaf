"""Deep R: a weight that crosses zero is cut, and another is connected at random, at every step."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxsparse import distributions, scores
from jaxsparse._sharding import explicit_sharding
from jaxsparse._tree import leaf_indices, map_masks
from jaxsparse.base import (
    Distribution,
    MaskAlgorithm,
    Masks,
    Memory,
    Params,
    Schedule,
    Where,
    always,
)
from jaxsparse.engine import drop_grow
from jaxsparse.layers import default_where
from jaxsparse.memories import fixed_signs

# The randomness of a leaf's noise, beside that of the engine's parts; and what reconnects at.
_NOISE, _REACTIVATED = 3, 1e-12


def deep_r(
    sparsity: float,
    *,
    distribution: Distribution = distributions.er,
    l1: float = 1e-5,
    noise: float = 1e-5,
    update: Schedule = always,
    where: Where = default_where,
) -> MaskAlgorithm:
    """Deep rewiring ("Deep R", Bellec et al., 2018, Algorithm 1).

    ==================  ==================  =======================  ==============
    sparsity over time  swap                drop                     grow
    ==================  ==================  =======================  ==============
    constant            what crosses zero   sign is not its own      random, 1e-12
    ==================  ==================  =======================  ==============

    Every place has a sign of its own, that of its weight at first, for good. Gradients get an L1
    term, which pulls towards zero, and noise; a weight that reaches zero is cut, and as many
    are connected at random, at 1e-12 of their sign. The paper trains with plain SGD: under an
    optimizer that normalizes, L1 and noise are no longer small.

    Args:
      sparsity: Fraction of zeros over the sparse leaves, in [0, 1).
      distribution: ``(params, sparsity, *, where) -> kept counts``; the paper's are given by hand.
      l1: L1 coefficient, added to the gradient, 0 or more; published code: 1e-5.
      noise: Standard deviation of the noise in the gradient, 0 or more; published code: 1e-5.
      update: ``step -> bool``; the paper's is every step.
      where: ``(path, leaf) -> bool``: which leaves may be sparse.

    Returns:
      A ``MaskAlgorithm``; its memory holds the signs, a byte a weight.

    Raises:
      ValueError: if a number is out of range.

    Example:
      >>> import jax.numpy as jnp, optax, jaxsparse
      >>> tx = jaxsparse.sparsify(optax.sgd(0.5), deep_r(0.5))
      >>> params = {"kernel": jnp.array([[0.3, -0.3], [-0.4, 0.4]])}
      >>> state = tx.init(params)
      >>> for _ in range(2):  # across zero at first, and cut by the next step
      ...     updates, state = tx.update(params, state, jax.tree.map(lambda w: -w, params))
      >>> int(state.masks["kernel"].sum()), int(state.info.dropped)
      (2, 2)

    Differences from the paper: a weight that has crossed zero is cut at the beginning of the next
    step, so that one forward pass still sees it; one that was cut does not come back in the same
    step, unless nothing else is left (published code lets it). Weights that are 0 at first have
    signs drawn alike for all seeds. The noise is that of published code, a fixed number times the
    learning rate, and not written by a temperature. Float16 has no 1e-12: its least normal number.

    References:
      Bellec et al., `Deep Rewiring: Training very sparse deep networks
      <https://arxiv.org/abs/1711.05136>`_, ICLR 2018.
    """
    for name, value in (("l1", l1), ("noise", noise)):
        if value < 0:
            raise ValueError(f"{name} is {value}; it must be 0 or more")

    def backward(
        key: chex.PRNGKey, masks: Masks, params: Params, grads: Params, step: Any, memory: Memory
    ) -> tuple[Params, Memory]:
        del params, step

        def one(mask: Array, index: int, positive: Array, grad: Array) -> Array:
            del mask
            drift = jnp.where(positive, l1, -l1)
            return grad + (drift + noise * noise_like(key, index, grad)).astype(grad.dtype)

        dense = lambda index, positive, grad: grad
        return map_masks(one, masks, leaf_indices(masks), memory, grads, dense=dense), memory

    return drop_grow(
        sparsity=sparsity,
        distribution=distribution,
        update=update,
        stays=_on_its_side,
        grow=scores.random,
        regrow_dropped=False,
        grown_values=_reactivated,
        where=where,
        start=fixed_signs,
        remember=lambda memory, masks, params, grads, step: memory,
        backward=backward,
    )


def noise_like(key: chex.PRNGKey, index: int, grad: Array) -> Float[Array, "..."]:
    """Independent standard normal numbers of a step and a leaf, float32, shaped as the gradient.

    Args:
      key: Of the step.
      index: Of the leaf.
      grad: Read for its shape and sharding.

    Returns:
      float32 array.

    Example:
      >>> noise_like(jax.random.key(0), 1, jnp.zeros((2, 3))).shape
      (2, 3)
    """
    own = jax.random.fold_in(jax.random.fold_in(key, index), _NOISE)
    return jax.random.normal(own, grad.shape, out_sharding=explicit_sharding(grad))


def _on_its_side(key: Any, weight: Array, grad: Any, mask: Any, memory: Any) -> Bool[Array, "..."]:
    del key, grad, mask
    return weight != 0 if memory is None else jnp.where(memory, weight > 0, weight < 0)


def _reactivated(key: Any, weight: Array, grad: Any, mask: Any, memory: Any) -> Float[Array, "..."]:
    del key, grad, mask
    least = max(_REACTIVATED, float(jnp.finfo(weight.dtype).tiny))
    return jnp.where(memory, least, -least).astype(weight.dtype)
