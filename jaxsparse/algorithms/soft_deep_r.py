"""Soft Deep R: dense parameters of which the positive ones are connections, and a random walk."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxsparse import distributions, scores
from jaxsparse._tree import leaf_indices, map_masks
from jaxsparse.algorithms.deep_r import noise_like
from jaxsparse.base import Distribution, MaskAlgorithm, Masks, Memory, Params, Where
from jaxsparse.engine import drop_grow
from jaxsparse.layers import default_where
from jaxsparse.learned import learned
from jaxsparse.masks import map_kept


class SoftRewiring(NamedTuple):
    """What makes the paper's parameter of a weight: ``theta = sign w - origin``.

    Attributes:
      positive: Pytree like the masks, bool: the sign of each place, for good.
      origin: Pytree like the masks, float32: 0 where there was a connection at first.
    """

    positive: Masks
    origin: Params

    def forward(self, key: chex.PRNGKey, params: Params, masks: Masks, training: bool) -> Params:
        """``sign theta`` where theta is positive, elsewhere 0."""
        del key, training

        def one(weight: Array, mask: Array, positive: Array, origin: Array) -> Array:
            value = _theta(weight, positive, origin)
            value = jnp.where(positive, value, -value).astype(weight.dtype)
            return jnp.where(mask & (_theta(weight, positive, origin) > 0), value, 0)

        return map_kept(one, params, masks, self.positive, self.origin)


def soft_deep_r(
    sparsity: float,
    *,
    distribution: Distribution = distributions.er,
    l1: float = 1e-5,
    noise: float = 1e-5,
    depth: float = 5e-5,
    where: Where = default_where,
) -> MaskAlgorithm:
    """Soft deep rewiring ("soft-Deep R", Bellec et al., 2018, Algorithm 2).

    ==================  =======================  =======================================
    sparsity over time  connected                trained
    ==================  =======================  =======================================
    free                where theta > 0          theta: gradient, L1 and noise where it is
                                                 connected; noise alone elsewhere
    ==================  =======================  =======================================

    A parameter theta and a fixed sign for every place: the weight is ``sign max(theta, 0)``.
    Nothing keeps the number of connections; L1 and noise do, in the long run. The loss is taken at
    ``forward_params``. For plain SGD: under an optimizer that normalizes, noise is no longer small.

    Args:
      sparsity: Fraction of places that are not connected at first, in [0, 1).
      distribution: ``(params, sparsity, *, where) -> kept counts``, at first.
      l1: L1 coefficient of connections, 0 or more; published code: 1e-5.
      noise: Standard deviation of the noise in the gradient, 0 or more; published code: 1e-5.
      depth: How far below zero theta goes, where it is clipped, positive; where there is no
        connection it starts anywhere down to there. Published code has
        ``(1 - p) / p * rate * noise**2 / (2 l1)``, with p the fraction of connections: 5e-5 with
        its own numbers.
      where: ``(path, leaf) -> bool``: which leaves may be sparse.

    Returns:
      A ``MaskAlgorithm``; its memory holds five bytes a weight.

    Raises:
      ValueError: if a number is out of range.

    Example:
      >>> import optax, jaxsparse
      >>> tx = jaxsparse.sparsify(optax.sgd(0.5), soft_deep_r(0.5))
      >>> params = {"kernel": jnp.array([[0.3, -0.3], [-0.4, 0.4]])}
      >>> state = tx.init(params)
      >>> seen = jaxsparse.forward_params(params, state)["kernel"]
      >>> int((seen != 0).sum()), bool((seen == params["kernel"])[seen != 0].all())
      (2, True)

    Differences from the paper: the number of places connected at first is exact. Theta is clipped
    at the beginning of the next step, which nothing sees. Where there is no connection, what theta
    starts from is drawn alike for all seeds.

    References:
      Bellec et al., `Deep Rewiring: Training very sparse deep networks
      <https://arxiv.org/abs/1711.05136>`_, ICLR 2018.
    """
    for name, value in (("l1", l1), ("noise", noise)):
        if value < 0:
            raise ValueError(f"{name} is {value}; it must be 0 or more")
    if depth <= 0:
        raise ValueError(f"depth is {depth}; it must be positive")

    def start(masks: Masks, params: Params) -> Memory:
        def below(mask: Array, index: int, weight: Array) -> Array:
            drawn = scores.random(jax.random.key(index), weight, None, None, None)
            down = depth * (drawn.astype(jnp.float32) + 1) * 2.0**-31
            return jnp.where(mask, 0.0, jnp.abs(weight).astype(jnp.float32) + down)

        positive = map_masks(lambda mask, weight: weight >= 0, masks, params)
        return SoftRewiring(positive, map_masks(below, masks, leaf_indices(masks), params))

    def rule(params: Params, masks: Masks, memory: Any) -> Masks:
        theta = lambda mask, *parts: _theta(*parts) > 0
        return map_masks(theta, masks, params, memory.positive, memory.origin)

    def backward(
        key: chex.PRNGKey, masks: Masks, params: Params, grads: Params, step: Any, memory: Any
    ) -> tuple[Params, Memory]:
        del step

        def clipped(mask: Array, weight: Array, positive: Array, origin: Array) -> Array:
            # theta + origin, of what came out of the step before.
            del mask
            return jnp.minimum(origin, _theta(weight, positive, jnp.zeros_like(origin)) + depth)

        def one(mask: Array, index: int, positive: Array, grad: Array) -> Array:
            connected = grad.astype(jnp.float32) + jnp.where(positive, l1, -l1)
            push = noise * noise_like(key, index, grad)
            return (jnp.where(mask, connected, 0.0) + push).astype(grad.dtype)

        positive, origin = memory
        origin = map_masks(clipped, masks, params, positive, origin)
        dense = lambda index, positive, grad: grad
        given = map_masks(one, masks, leaf_indices(masks), positive, grads, dense=dense)
        return given, SoftRewiring(positive, origin)

    first = drop_grow(sparsity=sparsity, distribution=distribution, where=where)
    return learned(rule, start=start, backward=backward, where=where)._replace(
        init=first.init, choose=first.choose
    )


def _theta(weight: Array, positive: Array, origin: Array) -> Array:
    weight = weight.astype(jnp.float32)
    return jnp.where(positive, weight, -weight) - origin
