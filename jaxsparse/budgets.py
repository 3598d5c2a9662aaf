"""From a sparsity and a distribution to whole numbers of units for each leaf and step."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsparse._tree import is_dense
from jaxsparse.base import Distribution, Params, ScalarOrSchedule, Structure, Where, evaluate
from jaxsparse.layers import Layer, sparse_layers
from jaxsparse.schedules import check_sparsity

# A step by which every schedule has reached its last value.
_END = 2**31 - 1


class Leaf(NamedTuple):
    """The plan of one sparse leaf: its place in the tree, and its final budget.

    Attributes:
      index: Position among the tree's leaves (dense marks counted).
      shape: Shape of the weights.
      units: Units in each group.
      groups: Groups, each with the same budget.
      keep: Units to keep in each group at the end: a Python int, or a traced int32.
    """

    index: int
    shape: tuple[int, ...]
    units: int
    groups: int
    keep: Any


def final_sparsity(sparsity: ScalarOrSchedule) -> float:
    """The sparsity that a schedule ends with, as a checked Python float.

    Args:
      sparsity: Fraction of zeros, or ``step -> fraction``.

    Returns:
      The number in [0, 1).

    Raises:
      ValueError: if it is out of range.

    Example:
      >>> final_sparsity(lambda step: 0.5)
      0.5
    """
    if not callable(sparsity):
        check_sparsity(sparsity)
        return float(sparsity)
    with jax.ensure_compile_time_eval():
        last = np.float32(sparsity(_END))
    # The decimal that was typed, not its float32 neighbor: budgets round down.
    value = float(str(last))
    check_sparsity(value, "the last value of the sparsity schedule")
    return value


def plan(
    params: Params,
    sparsity: float,
    distribution: Distribution,
    structure: Structure,
    where: Where,
) -> tuple[list[Leaf], int, Any]:
    """The budget of every sparse leaf, from paths and shapes alone.

    Args:
      params: Pytree of arrays or ``ShapeDtypeStruct`` leaves.
      sparsity: The final fraction of zeros.
      distribution: ``(params, sparsity, *, where) -> kept counts``.
      structure: What is kept together. A count that is no whole number of units is rounded to
        the nearest one, at least one where the count is not 0.
      where: ``(path, leaf) -> bool``.

    Returns:
      The sparse leaves, the number of leaves in all, and the tree's structure.

    Raises:
      ValueError: if a structure does not fit a leaf, or its own density is another.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxsparse import default_where, uniform, unstructured
      >>> plan({"kernel": jnp.zeros((4, 5))}, 0.5, uniform, unstructured(), default_where)[0]
      [Leaf(index=0, shape=(4, 5), units=20, groups=1, keep=10)]
    """
    layers, tree = sparse_layers(params, where)
    if not any(layers):
        return [], len(layers), tree
    counts = tree.flatten_up_to(distribution(params, sparsity, where=where))
    leaves = [
        _plan_leaf(index, layer, count, structure)
        for index, (layer, count) in enumerate(zip(layers, counts, strict=True))
        if layer is not None and not is_dense(count)
    ]
    return leaves, len(layers), tree


def _plan_leaf(index: int, layer: Layer, count: Any, structure: Structure) -> Leaf:
    structure.check(layer.path, layer.shape)
    known = isinstance(count, int | np.integer)
    if known and not 0 <= count <= layer.size:
        raise ValueError(
            f"the distribution keeps {count} weights of {layer.path}, which has {layer.size}; "
            f"give 0 to {layer.size}"
        )
    prescribed = round((structure.density or 0) * layer.size)
    if structure.density is not None and not (known and count == prescribed):
        raise ValueError(
            f"{structure.name} keeps {structure.density:g} of every leaf, but {layer.path} is to "
            f"keep {count} of {layer.size} weights; use distribution=uniform and "
            f"sparsity={1 - structure.density:g}"
        )
    weights = jax.ShapeDtypeStruct(layer.shape, jnp.float32)
    pooled = jax.eval_shape(structure.pool, weights).shape
    axes = range(len(pooled)) if structure.group_axes is None else structure.group_axes(len(pooled))
    units = math.prod(pooled[axis] for axis in axes)
    groups = math.prod(pooled) // units
    each = structure.unit(layer.shape) * groups
    keep = (count + each // 2) // each
    keep = max(keep, min(count, 1)) if known else jnp.maximum(keep, jnp.minimum(count, 1))
    return Leaf(index, layer.shape, units, groups, keep)


def targets(leaves: list[Leaf], sparsity: ScalarOrSchedule, final: float, step: Any) -> list[Any]:
    """Units to keep in each group of each leaf at a step.

    Under a schedule, a group's zeros are ``round(final zeros * s(t) / s(end))``: at the end
    exactly the planned ones.

    Args:
      leaves: The plan.
      sparsity: Fraction of zeros, or its schedule.
      final: The last value of that schedule.
      step: int32 step.

    Returns:
      One number a leaf: a Python int, or int32 under a schedule.

    Example:
      >>> leaf = Leaf(index=0, shape=(4, 5), units=20, groups=1, keep=10)
      >>> [int(k) for k in targets([leaf], lambda step: step / 8, 0.5, 2)]
      [15]
    """
    if not callable(sparsity):
        return [leaf.keep for leaf in leaves]
    value = evaluate(sparsity, step)
    share = value / jnp.float32(final) if final else jnp.float32(1.0)
    kept = []
    for leaf in leaves:
        zeros = leaf.units - leaf.keep
        # The end does not go through float32, which has no odd integers above 2^24.
        now = jnp.clip(jnp.round(share * zeros).astype(jnp.int32), 0, leaf.units)
        # (Compared before the division, which under jit is by a rounded reciprocal.)
        kept.append(leaf.units - jnp.where(value == jnp.float32(final), zeros, now))
    return kept
