"""A program once more, on arrays from which units are gone."""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np

from jaxsparse._jaxprs import Operation, Program, apply_operation
from jaxsparse.units._axes import Analysis

Kept = tuple[np.ndarray, ...]
"""bool, one array an axis."""


def run(program: Program, given: Sequence[Any]) -> dict[int, Any]:
    """Every value of a program.

    Args:
      program: A program.
      given: Its inputs.

    Returns:
      Arrays, by value.
    """
    known = dict(program.constants) | dict(zip(program.inputs, given, strict=True))
    for operation in program.operations:
        results = apply_operation(operation, [known[at] for at in operation.inputs])
        known.update(zip(operation.outputs, results, strict=True))
    return known


def kept_axes(analysis: Analysis, gone: Iterable[int]) -> list[Kept]:
    """Which positions of each axis are left.

    Args:
      analysis: Of a program.
      gone: Roots of the units that are gone.

    Returns:
      bool, for each axis of each value.
    """
    lost = np.zeros(len(analysis.roots), bool)
    lost[list(gone)] = True
    return [tuple(~lost[analysis.roots[numbers]] for numbers in axes) for axes in analysis.axes]


def take(array: Any, kept: Kept) -> Any:
    """What is left of an array."""
    for axis, mask in enumerate(kept):
        if not mask.all():
            array = array.take(np.flatnonzero(mask), axis)
    return array


def replay(program: Program, kept: Sequence[Kept], given: Sequence[Any]) -> list[Any]:
    """The program's outputs from smaller inputs.

    Args:
      program: A program.
      kept: Of each value, what is left along its axes.
      given: Its inputs, small ones.

    Returns:
      Its outputs, in the size they always have.
    """
    known: dict[int, Any] = dict(zip(program.inputs, given, strict=True))
    for at, value in program.constants.items():
        known[at] = take(np.asarray(value), kept[at]) if kept[at] else value
    for operation in program.operations:
        operands = [known[at] for at in operation.inputs]
        if all(mask.all() for at in (*operation.inputs, *operation.outputs) for mask in kept[at]):
            results = apply_operation(operation, operands)
        else:
            results = _smaller(operation, operands, kept)
        known.update(zip(operation.outputs, results, strict=True))
    return [known[at] for at in program.outputs]


def _smaller(op: Operation, operands: list[Any], kept: Sequence[Kept]) -> list[Any]:
    """One operation; some have sizes among their parameters."""
    out = op.outputs[0]
    shape = tuple(int(mask.sum()) for mask in kept[out])
    params = dict(op.params)
    if op.name == "broadcast_in_dim":
        return [jax.lax.broadcast_in_dim(operands[0], shape, params["broadcast_dimensions"])]
    if op.name == "reshape":
        return [jax.lax.reshape(operands[0], shape)]
    if op.name == "slice":
        sizes = zip(kept[out], shape, params["limit_indices"], strict=True)
        limits = [limit if mask.all() else size for mask, size, limit in sizes]
        return [jax.lax.slice(operands[0], params["start_indices"], limits, params["strides"])]
    if op.name == "pad":
        config = [
            (int(mask[:low].sum()), int(mask[len(mask) - high :].sum()), inner)
            for mask, (low, high, inner) in zip(kept[out], params["padding_config"], strict=True)
        ]
        return [jax.lax.pad(operands[0], operands[1], config)]
    if op.name == "conv_general_dilated" and params["feature_group_count"] > 1:
        channel = params["dimension_numbers"].lhs_spec[1]
        params["feature_group_count"] = operands[0].shape[channel]
    if not op.inputs:
        return [
            take(full, kept[at])
            for full, at in zip(apply_operation(op, operands), op.outputs, strict=True)
        ]
    return apply_operation(op._replace(params=params), operands)
