"""Private: the part of a tree that counts."""

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from jaxsparse._tree import is_dense
from jaxsparse.base import Masks
from jaxsparse.masks import apply_masks


def only_kept(tree: PyTree, masks: Masks, dense: bool) -> PyTree:
    """Zeros off the mask; dense leaves as they are, or all zeros if they shall not count."""
    masked = apply_masks(tree, masks)
    if dense:
        return masked
    leaves, structure = jax.tree.flatten(masked, is_leaf=is_dense)
    marks = jax.tree.leaves(masks, is_leaf=is_dense)
    counted = [
        jnp.zeros_like(leaf) if is_dense(mark) and not is_dense(leaf) else leaf
        for leaf, mark in zip(leaves, marks, strict=True)
    ]
    return jax.tree.unflatten(structure, counted)
