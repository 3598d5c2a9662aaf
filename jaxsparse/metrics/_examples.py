"""Rows of examples: which class is right, and which rows can be meant."""

import jax.numpy as jnp
from jaxtyping import Array

from jaxsparse._dtypes import wide

# Rows of probabilities may sum to 1 up to this: softmax in half precision does, logits do not.
_SUM_TOLERANCE = 0.01


def in_range(labels: Array, rows: Array) -> Array:
    """Is the label a class?"""
    return (labels >= 0) & (labels < rows.shape[1])


def truth(labels: Array, rows: Array) -> Array:
    """True at the label."""
    return labels[:, None] == jnp.arange(rows.shape[1], dtype=labels.dtype)[None]


def distributions(probabilities: Array, labels: Array) -> Array:
    """Rows that cannot be meant become NaN: an error that no result hides."""
    values = wide(probabilities)
    fits = jnp.abs(jnp.sum(values, axis=1) - 1) <= _SUM_TOLERANCE
    good = fits & jnp.all(values >= 0, axis=1) & in_range(labels, values)
    return jnp.where(good[:, None], values, jnp.nan)
