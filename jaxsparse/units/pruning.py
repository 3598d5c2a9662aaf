"""Masks that take whole units away, with everything that belongs to them."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool

from jaxsparse._tree import join
from jaxsparse.base import Masks, Params
from jaxsparse.selection import top_k_mask, tree_top_k_masks
from jaxsparse.units.groups import UnitGroups, spread
from jaxsparse.units.scores import UnitScores


def kept_units(
    groups: UnitGroups,
    scores: UnitScores,
    sparsity: float,
    *,
    scope: str = "layer",
) -> list[Bool[Array, " _"]]:
    """The units of the largest scores, exactly as many as asked; never none of a group.

    Args:
      groups: Of the model.
      scores: One array a free group.
      sparsity: Fraction of units to remove, in [0, 1).
      scope: ``"layer"``: of each group; ``"global"``: of all free groups together, by the scores'
        own scale, the best of each group being kept in any case.

    Returns:
      bool ``(units,)`` for each free group; ``units - floor(sparsity * units)`` are True.

    Raises:
      ValueError: if the sparsity is outside [0, 1), or the scores do not fit the groups.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxsparse.units import unit_groups
      >>> params = {"a": jnp.ones((2, 4)), "b": jnp.ones((4, 1))}
      >>> groups = unit_groups(lambda p, x: x @ p["a"] @ p["b"], params, jnp.ones((1, 2)))
      >>> kept_units(groups, [jnp.array([0.3, 0.1, 0.4, 0.2])], 0.5)[0].tolist()
      [True, False, True, False]
    """
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity is {sparsity}, outside [0, 1); pass the fraction to remove")
    sizes = [group.units for group in groups.free]
    if [score.shape for score in scores] != [(size,) for size in sizes]:
        raise ValueError(
            f"scores of {[score.shape for score in scores]} for groups of {sizes} units; pass one "
            "array for each group of groups.free"
        )
    keep = lambda units: units - math.floor(sparsity * units)
    if scope == "layer":
        return [top_k_mask(score, keep(size)) for score, size in zip(scores, sizes, strict=True)]
    if scope != "global":
        raise ValueError(f"scope is {scope!r}; pass 'layer' or 'global'")
    best = [top_k_mask(score, 1) for score in scores]
    rest = max(keep(sum(sizes)) - len(sizes), 0)
    open_to = [~mask for mask in best]
    chosen = tree_top_k_masks(list(scores), rest, where=open_to)
    return [first | more for first, more in zip(best, chosen, strict=True)]


def unit_masks(groups: UnitGroups, params: Params, kept: list[Any]) -> Masks:
    """Masks that are False on all that belongs to units that go.

    Kernels that make a unit and kernels that read it, its biases, its scales: the unit is zero,
    and nobody looks. ``jaxsparse.fixed`` trains under such masks, ``compact`` takes the units away.

    Args:
      groups: Of the model.
      params: Pytree of arrays or ``ShapeDtypeStruct`` leaves.
      kept: bool ``(units,)`` for each free group.

    Returns:
      Like ``params``: bool arrays; ``optax.MaskedNode()`` for a leaf that no group touches.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxsparse.units import unit_groups
      >>> params = {"a": jnp.ones((2, 2)), "bias": jnp.ones(2), "c": jnp.ones((2, 1))}
      >>> model_fn = lambda p, x: (x @ p["a"] + p["bias"][None]) @ p["c"]
      >>> groups = unit_groups(model_fn, params, jnp.ones((1, 2)))
      >>> masks = unit_masks(groups, params, [jnp.array([True, False])])
      >>> masks["a"].tolist(), masks["bias"].tolist(), masks["c"].tolist()
      ([[True, False], [True, False]], [True, False], [[True], [False]])
    """
    leaves, structure = jax.tree.flatten(params)
    masks: list[Any] = [optax.MaskedNode()] * len(leaves)
    for group, mask in zip(groups.free, kept, strict=True):
        for member in group.members:
            leaf = leaves[member.leaf]
            before = masks[member.leaf]
            if isinstance(before, optax.MaskedNode):
                before = jnp.ones(leaf.shape, bool)
            masks[member.leaf] = before & spread(member, mask, len(leaf.shape))
    return jax.tree.unflatten(structure, masks)


def prune_units(
    groups: UnitGroups,
    params: Params,
    scores: UnitScores,
    sparsity: float,
    *,
    scope: str = "layer",
) -> Masks:
    """Masks without the units of the smallest scores: ``kept_units``, then ``unit_masks``.

    Args:
      groups: Of the model.
      params: Pytree of arrays.
      scores: One array a free group.
      sparsity: Fraction of units to remove, in [0, 1).
      scope: ``"layer"`` or ``"global"``.

    Returns:
      Like ``params``: bool arrays; ``optax.MaskedNode()`` for a leaf that no group touches.

    Raises:
      ValueError: as ``kept_units``, and if no units of the model can be removed.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxsparse.units import unit_groups, unit_norm
      >>> params = {"a": jnp.array([[3.0, 1.0]]), "c": jnp.ones((2, 1))}
      >>> groups = unit_groups(lambda p, x: x @ p["a"] @ p["c"], params, jnp.ones((1, 1)))
      >>> prune_units(groups, params, unit_norm(groups, params), 0.5)["c"].tolist()
      [[True], [False]]
    """
    if not groups.free:
        reasons = sorted({group.held for group in groups.groups if group.held})
        raise ValueError(f"no units of this model can be removed ({join(reasons)})")
    return unit_masks(groups, params, kept_units(groups, scores, sparsity, scope=scope))
