"""The field's usual way, in a few lines: a full argsort, float counts, masks multiplied in."""

from typing import Any

import jax
import jax.numpy as jnp
import optax


def argsort_mask(scores: jax.Array, density: jax.Array | float) -> jax.Array:
    """Keep a fraction of the scores by sorting all of them.

    Args:
      scores: Float array of any shape.
      density: Fraction to keep.

    Returns:
      Bool array like ``scores``.
    """
    flat = scores.reshape(-1)
    kept = jnp.round(flat.size * density).astype(int)
    order = jnp.argsort(-flat)
    mask = jnp.zeros(flat.size, bool).at[order].set(jnp.arange(flat.size) < kept)
    return mask.reshape(scores.shape)


def drop_grow(
    mask: jax.Array, weight: jax.Array, grad: jax.Array, fraction: jax.Array
) -> jax.Array:
    """One RigL update of a layer, with the density measured on the mask.

    Args:
      mask: Float array of zeros and ones.
      weight: Like ``mask``.
      grad: Dense gradient, like ``mask``.
      fraction: Of the kept weights that are swapped.

    Returns:
      The new mask, like ``mask``.
    """
    density = mask.mean()
    kept = argsort_mask(jnp.abs(weight) * mask, density * (1 - fraction)).astype(mask.dtype)
    grown = argsort_mask(jnp.where(kept > 0, -jnp.inf, jnp.abs(grad)), density * fraction)
    return kept + grown.astype(mask.dtype)


def multiplied(
    inner: optax.GradientTransformation, every: int, fraction: float
) -> optax.GradientTransformation:
    """RigL around an optimizer: masks multiplied into gradients and weights at every step.

    Args:
      inner: The optimizer.
      every: Steps between updates.
      fraction: Of the kept weights that are swapped.

    Returns:
      A transformation with state ``(step, masks, inner state)``; leaves of fewer than two
      dimensions have masks of ones.
    """

    def init(params: Any) -> Any:
        one = lambda p: argsort_mask(p, 0.1).astype(p.dtype) if p.ndim > 1 else jnp.ones_like(p)
        return jnp.int32(0), jax.tree.map(one, params), inner.init(params)

    def update(grads: Any, state: Any, params: Any) -> Any:
        step, masks, inner_state = state
        one = lambda m, p, g: drop_grow(m, p, g, jnp.float32(fraction)) if m.ndim > 1 else m
        move = lambda: jax.tree.map(one, masks, params, grads)
        masks = jax.lax.cond((step > 0) & (step % every == 0), move, lambda: masks)
        updates, inner_state = inner.update(
            jax.tree.map(jnp.multiply, grads, masks), inner_state, params
        )
        updates = jax.tree.map(lambda u, p, m: (p + u) * m - p, updates, params, masks)
        return updates, (step + 1, masks, inner_state)

    return optax.GradientTransformation(init, update)
