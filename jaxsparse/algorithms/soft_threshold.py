"""STR: a learned soft threshold for each layer."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxsparse._dtypes import wide
from jaxsparse._tree import map_masks
from jaxsparse.base import MaskAlgorithm, Masks, Memory, Params, Where
from jaxsparse.layers import default_where
from jaxsparse.learned import learned, sparse_leaves, train_own, with_leaves
from jaxsparse.masks import map_kept

# Of the published configuration for 90 % on ImageNet.
_PAPERS = optax.chain(optax.add_decayed_weights(2.251757813e-5), optax.sgd(0.256, momentum=0.875))


class SoftThreshold(NamedTuple):
    """What is trained besides the weights: s of each sparse leaf; a single 0 if there is none."""

    thresholds: Float[Array, "... leaves"]
    optimizer_state: optax.OptState

    def forward(self, key: chex.PRNGKey, params: Params, masks: Masks, training: bool) -> Params:
        """``sign(w) relu(|w| - sigmoid(s))``."""
        del key
        (s,) = jax.tree.leaves(self.thresholds)

        def weight(w: Array, mask: Array, cut: Array) -> Array:
            left = _above(w, cut)
            seen = left > 0 if training else mask
            return jnp.where(seen, jnp.sign(w) * left, 0).astype(w.dtype)

        return map_kept(weight, params, masks, list(jax.nn.sigmoid(s)))


def soft_threshold(
    *,
    initial_threshold: float = -3200.0,
    threshold_optimizer: optax.GradientTransformation = _PAPERS,
    where: Where = default_where,
) -> MaskAlgorithm:
    """Soft threshold weight reparameterization ("STR", Kusupati et al., 2020).

    ==================  ==================================  ===================================
    sparsity over time  kept                                trained
    ==================  ==================================  ===================================
    learned             ``|w| > sigmoid(s)``, s of a layer  w and s, by the gradient where kept
    ==================  ==================================  ===================================

    The loss is taken at ``forward_params(params, opt_state)``, the weights pulled to zero by
    their layer's threshold ``sigmoid(s)``. There is no budget: weight decay of w, and of s by its
    own optimizer (which draws s up to 0, a threshold of 1/2, while the loss holds it down), with
    the initial s, decide how sparse the network ends.

    Args:
      initial_threshold: s of every layer at the start; so small that the threshold is 0 for a long
        time. Less negative for shorter training.
      threshold_optimizer: Trains s; give it the weights' own learning rates and decay. The default
        is the published one for 90 % on ImageNet, at its peak learning rate.
      where: ``(path, leaf) -> bool``: which leaves may be sparse.

    Returns:
      A ``MaskAlgorithm``, learned. Its memory holds one number a leaf, and their optimizer's state.

    Raises:
      ValueError: if ``initial_threshold`` is not finite.

    Example:
      >>> import jax.numpy as jnp, optax, jaxsparse
      >>> method = soft_threshold(initial_threshold=0.0, threshold_optimizer=optax.sgd(8.0))
      >>> tx, params = jaxsparse.sparsify(optax.sgd(0.0), method), {"w": jnp.array([[2.0, -0.25]])}
      >>> state = tx.init(params)
      >>> jaxsparse.forward_params(params, state)["w"].tolist()
      [[1.5, 0.0]]
      >>> _, state = tx.update({"w": jnp.array([[1.0, 1.0]])}, state, params)
      >>> state.memory.thresholds.tolist()
      [2.0]

    Differences from the paper: s has an optimizer of its own, by default with a constant learning
    rate, where published code trains all by one with a warm-up and a cosine.

    References:
      Kusupati et al., `Soft Threshold Weight Reparameterization for Learnable Sparsity
      <https://arxiv.org/abs/2002.03231>`_, ICML 2020.
    """
    if not jnp.isfinite(initial_threshold):
        raise ValueError(
            f"initial_threshold is {initial_threshold}; it must be a finite number, such as -5.0"
        )

    def start(masks: Masks, params: Params) -> Memory:
        del params
        s = jnp.full(max(len(jax.tree.leaves(masks)), 1), initial_threshold, jnp.float32)
        return SoftThreshold(s, threshold_optimizer.init(s))

    def cuts(masks: Masks, memory: SoftThreshold) -> Masks:
        return with_leaves(masks, list(jax.nn.sigmoid(memory.thresholds)), masks)

    def rule(params: Params, masks: Masks, memory: Memory) -> Masks:
        kept = lambda mask, weight, cut: _above(weight, cut) > 0
        return map_masks(kept, masks, params, cuts(masks, memory))

    def backward(
        key: chex.PRNGKey, masks: Masks, params: Params, grads: Params, step: Any, memory: Memory
    ) -> tuple[Params, Memory]:
        del key, step
        kept = rule(params, masks, memory)
        active = lambda mask, grad: jnp.where(mask, grad, 0).astype(grad.dtype)
        given = map_masks(active, kept, grads, dense=lambda grad: grad)
        pulls = [
            -jnp.sum(grad.astype(jnp.float32) * jnp.sign(weight).astype(jnp.float32))
            for _, grad, weight in sparse_leaves(masks, given, params)
        ]
        cut = jax.nn.sigmoid(memory.thresholds)
        slopes = jnp.stack(pulls) * cut * (1 - cut)
        trained = train_own(threshold_optimizer, slopes, memory.optimizer_state, memory.thresholds)
        return given, SoftThreshold(*trained)

    return learned(rule, start=start, backward=backward, where=where)


def _above(weight: Array, cut: Array) -> Array:
    """How far |w| is above the threshold, in float32 or wider."""
    return wide(jnp.abs(weight)) - cut
