"""What a unit is worth: one number each, the smallest go first."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxsparse._dtypes import wide
from jaxsparse.base import Params
from jaxsparse.units.groups import Member, UnitGroup, UnitGroups

UnitScores = list[Float[Array, " _"]]
"""One array a free group, in order."""


def unit_norm(groups: UnitGroups, params: Params, *, order: int = 2) -> UnitScores:
    """L1 or L2 norm of the weights that make a unit: a filter, a column of a matrix.

    Where several kernels make it (a residual connection), the norm is that of all of them together.

    Args:
      groups: Of the model.
      params: Pytree of arrays.
      order: 1 or 2.

    Returns:
      float32 ``(units,)`` (or wider) for each free group.

    Raises:
      ValueError: for another order.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxsparse.units import unit_groups
      >>> params = {"a": jnp.array([[3.0, 1.0], [-4.0, 0.0]]), "b": jnp.ones((2, 1))}
      >>> groups = unit_groups(lambda p, x: x @ p["a"] @ p["b"], params, jnp.ones((1, 2)))
      >>> unit_norm(groups, params)[0].tolist(), unit_norm(groups, params, order=1)[0].tolist()
      ([5.0, 1.0], [7.0, 1.0])

    References:
      Li et al., `Pruning filters for efficient ConvNets <https://arxiv.org/abs/1608.08710>`_,
      ICLR 2017: the L1 norm of filters.
    """
    if order not in (1, 2):
        raise ValueError(f"order is {order!r}; pass 1 or 2")
    size = jnp.abs if order == 1 else jnp.square
    sums = _sums(groups, params, lambda leaf, _: size(wide(leaf)), _makers)
    return sums if order == 1 else [jnp.sqrt(total) for total in sums]


def unit_taylor(groups: UnitGroups, params: Params, grads: Params) -> UnitScores:
    """``|sum of w g|`` over all that makes a unit: how much the loss would change without it.

    To first order, setting the filter, the bias and the scales of a unit to zero changes the loss
    by minus that sum.

    Args:
      groups: Of the model.
      params: Pytree of arrays.
      grads: Like ``params``: the gradient of the mean loss.

    Returns:
      float32 ``(units,)`` (or wider) for each free group.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxsparse.units import unit_groups
      >>> params = {"a": jnp.array([[3.0, 1.0], [-4.0, 0.0]]), "b": jnp.ones((2, 1))}
      >>> groups = unit_groups(lambda p, x: x @ p["a"] @ p["b"], params, jnp.ones((1, 2)))
      >>> grads = {"a": jnp.ones((2, 2)), "b": jnp.ones((2, 1))}
      >>> unit_taylor(groups, params, grads)[0].tolist()
      [1.0, 1.0]

    Differences from the paper: the absolute value in place of the square, which ranks alike; the
    sum is over kernels, biases and scales at once (the paper also has a variant that squares
    before it sums, and one at gates behind batch normalization).

    References:
      Molchanov et al., `Importance estimation for neural network pruning
      <https://arxiv.org/abs/1906.10771>`_, CVPR 2019: the first-order criterion of a group.
    """
    slopes = jax.tree.leaves(grads)
    product = lambda leaf, position: wide(leaf) * slopes[position]
    return [jnp.abs(total) for total in _sums(groups, params, product, _makers_and_along)]


def unit_scale(groups: UnitGroups, params: Params, *, name: str = "scale") -> UnitScores:
    """``|gamma|`` of batch normalization; where several scale a unit, their sum.

    Args:
      groups: Of the model.
      params: Pytree of arrays.
      name: Last name of the scales' paths.

    Returns:
      float32 ``(units,)`` (or wider) for each free group; infinite, so that nothing is removed,
      where a group has no scale.

    Raises:
      ValueError: if no group has one.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxsparse.units import unit_groups
      >>> params = {"a": jnp.ones((2, 2)), "bn": {"scale": jnp.array([0.5, -2.0])},
      ...           "c": jnp.ones((2, 1))}
      >>> model_fn = lambda p, x: x @ p["a"] * p["bn"]["scale"][None] @ p["c"]
      >>> unit_scale(unit_groups(model_fn, params, jnp.ones((1, 2))), params)[0].tolist()
      [0.5, 2.0]

    References:
      Liu et al., `Learning efficient convolutional networks through network slimming
      <https://arxiv.org/abs/1708.06519>`_, ICCV 2017.
    """
    scales = lambda group: [m for m in group.members if m.path.rsplit("/", 1)[-1] == name]
    if not any(scales(group) for group in groups.free):
        raise ValueError(
            f"no unit has a parameter {name!r}; pass name= as the model calls its scales, or use "
            "unit_norm"
        )
    sums = _sums(groups, params, lambda leaf, _: jnp.abs(wide(leaf)), scales)
    return [
        total if scales(group) else jnp.full(group.units, jnp.inf)
        for total, group in zip(sums, groups.free, strict=True)
    ]


def _makers(group: UnitGroup) -> list[Member]:
    return group.members_that("makes")


def _makers_and_along(group: UnitGroup) -> list[Member]:
    """(A statistic has no gradient, so it adds nothing.)"""
    return [member for member in group.members if member.role != "reads"]


def _sums(groups: UnitGroups, params: Params, value: Any, members: Any) -> UnitScores:
    """For each unit, the sum of values over the slices of some members."""
    leaves = jax.tree.leaves(params)
    scores = []
    for group in groups.free:
        total = jnp.zeros(group.units)
        for member in members(group):
            values = jnp.moveaxis(value(leaves[member.leaf], member.leaf), member.axis, 0)
            rows = jnp.sum(values.reshape(values.shape[0], -1), 1)
            mine = member.unit >= 0
            total = total + jnp.zeros(group.units, rows.dtype).at[member.unit[mine]].add(rows[mine])
        scores.append(total)
    return scores
