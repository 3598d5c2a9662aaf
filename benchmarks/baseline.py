"""The field's usual way, in a few lines: a full argsort, float counts, masks multiplied in."""

import jax
import jax.numpy as jnp


def argsort_mask(scores: jax.Array, density: float) -> jax.Array:
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
