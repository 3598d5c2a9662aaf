"""Which units the outputs do not depend on."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsparse._tree import is_dense
from jaxsparse.units._axes import Analysis, Product
from jaxsparse.units._replay import run
from jaxsparse.units._support import evaluate
from jaxsparse.units.groups import UnitGroups


class Unneeded(NamedTuple):
    """What can go.

    Attributes:
      gone: Roots of the units that go.
      leaves: The parameters, constants of units that go added to biases.
      left: ``(group, reason)`` of what does nothing and stays, to how many units.
    """

    gone: set[int]
    leaves: list[Any]
    left: Counter[tuple[str, str]]


def unneeded(
    analysis: Analysis,
    groups: UnitGroups,
    leaves: list[Any],
    there: list[np.ndarray],
    inputs: Sequence[Any],
    marks: Sequence[Any],
) -> Unneeded:
    """Find the units that go.

    Args:
      analysis: Of the model.
      groups: Its groups.
      leaves: Parameters with exact zeros where weights are absent.
      there: bool, like each: the weights that are present.
      inputs: An example.
      marks: Masks of the parameters, or marks of none.

    Returns:
      The units, and parameters that do without them.
    """
    there = [present.copy() for present in there]
    leaves, stuck = _without_constants(analysis, list(leaves), there, inputs, marks)
    gone: set[int] = set()
    left: Counter[tuple[str, str]] = Counter()
    members: list[tuple[int, Any, int, list[Any]]] = []
    for group in groups.groups:
        for unit in range(group.units):
            slices = [(m, np.flatnonzero(m.unit == unit)) for m in group.members]
            members.append((_root(analysis, slices[0]), group, unit, slices))
    changed = True
    while changed:
        changed = False
        for root, group, _, slices in members:
            made_or_read = any(member.role != "along" for member, _ in slices)
            held = group.held is not None or not made_or_read
            if root in gone or held or _is_read(there, slices):
                continue
            gone.add(root)
            for member, positions in slices:
                np.moveaxis(there[member.leaf], member.axis, 0)[positions] = False
            changed = True
    for group in groups.groups:
        mine = [row for row in members if row[1] is group]
        if group.held is None and all(row[0] in gone for row in mine):
            # An axis of no units at all is more than most programs are ready for.
            gone.remove(mine[0][0])
            left[group.name, "so that the layer is not empty"] += 1
        elif group.held is not None:
            idle = sum(not _is_read(there, row[3]) for row in mine if _reads(row[3]))
            if idle:
                left[group.name, f"not read, but {group.held}"] += idle
    left.update(
        (group.name, "a constant that is not zero")
        for root, group, _, _ in members
        if root in stuck and root not in gone and group.held is None
    )
    return Unneeded(gone, leaves, left)


def _root(analysis: Analysis, place: tuple[Any, np.ndarray]) -> int:
    member, positions = place
    numbers = analysis.axes[analysis.program.inputs[member.leaf]][member.axis]
    return int(analysis.roots[numbers[positions[0]]])


def _reads(slices: list[Any]) -> bool:
    return any(member.role == "reads" for member, _ in slices)


def _is_read(there: list[np.ndarray], slices: list[Any]) -> bool:
    """Is some weight present that reads the unit?"""
    return any(
        np.moveaxis(there[member.leaf], member.axis, 0)[positions].any()
        for member, positions in slices
        if member.role == "reads"
    )


def _without_constants(
    analysis: Analysis,
    leaves: list[Any],
    there: list[np.ndarray],
    inputs: Sequence[Any],
    marks: Sequence[Any],
) -> tuple[list[Any], set[int]]:
    """Nobody has to read what is always the same: zero adds nothing, the rest goes into a bias."""
    program = analysis.program
    ones = [jnp.ones(program.shapes[at], jnp.float32) for at in program.inputs[len(leaves) :]]
    support = [jnp.asarray(present, jnp.float32) for present in there]
    given = dict(zip(program.inputs, [*support, *ones], strict=True))
    # (What is not understood may reach everything.)
    varies = jax.jit(lambda given: evaluate(program, given, analysis.depends, lambda _: None))(
        given
    )
    across = lambda product: tuple(
        axis
        for axis in range(len(program.shapes[_data(analysis, product)]))
        if axis != product.contracted[0]
    )
    fixed = {
        product: np.asarray(~np.any(varies[_data(analysis, product)] > 0, across(product)))
        for product in analysis.products
    }
    stuck: set[int] = set()
    if not any(mask.any() for mask in fixed.values()):
        return leaves, stuck
    read = sorted({_data(analysis, product) for product in fixed})
    evaluated = jax.jit(lambda given: [run(program, given)[at] for at in read])
    values = dict(zip(read, evaluated([*leaves, *inputs]), strict=True))
    for product, constant in fixed.items():
        kernel = _parameter(analysis, _operand(analysis, product, 1 - product.data))
        if kernel is None or not constant.any():
            continue
        along, across_kernel = product.contracted
        rows = np.moveaxis(np.asarray(values[_data(analysis, product)]), along, 0)
        rows = rows.reshape(len(constant), -1)
        same = constant & (rows == rows[:, :1]).all(1)
        unread = same & (rows[:, 0] == 0)
        bias = None if product.padded else _bias_leaf(analysis, product, marks)
        if bias is not None:
            move = same & ~unread
            weights = np.moveaxis(np.asarray(leaves[kernel]), across_kernel, 0)[move]
            sums = np.tensordot(rows[move, 0], weights, 1)
            added = sums.reshape(-1, sums.shape[-1]).sum(0)
            leaves[bias] = leaves[bias] + added.astype(leaves[bias].dtype)
            unread = same
        np.moveaxis(there[kernel], across_kernel, 0)[unread] = False
        # (Should the unit stay for another reader's sake, it is not to be counted twice.)
        shape = [-1 if axis == across_kernel else 1 for axis in range(leaves[kernel].ndim)]
        leaves[kernel] = np.where(unread.reshape(shape), 0, leaves[kernel])
        numbers = analysis.axes[program.inputs[kernel]][across_kernel]
        stuck.update(analysis.roots[numbers[constant & ~unread]].tolist())
    return leaves, stuck


def _operand(analysis: Analysis, product: Product, side: int) -> int:
    return analysis.program.operations[product.operation].inputs[side]


def _data(analysis: Analysis, product: Product) -> int:
    return _operand(analysis, product, product.data)


def _parameter(analysis: Analysis, at: int) -> int | None:
    """The parameter that a value is, cast or with axes of one added, where nobody else reads it."""
    program = analysis.program
    moves = ("convert_element_type", "reshape", "broadcast_in_dim")
    size = lambda value: int(np.prod(program.shapes[value]))
    while True:
        if sum(at in op.inputs for op in program.operations) != 1 or analysis.depends[at]:
            return None
        if at in program.inputs:
            return program.inputs.index(at)
        made = [op for op in program.operations if at in op.outputs and op.name in moves]
        if not made or size(made[0].inputs[0]) != size(at):
            return None
        at = made[0].inputs[0]


def _bias_leaf(analysis: Analysis, product: Product, marks: Sequence[Any]) -> int | None:
    """A dense vector that is added to the product, and to nothing else."""
    program = analysis.program
    out = program.operations[product.operation].outputs[0]
    readers = [op for op in program.operations if out in op.inputs]
    if len(readers) != 1 or readers[0].name != "add" or out in program.outputs:
        return None
    (other, *_) = [*[at for at in readers[0].inputs if at != out], out]
    leaf = _parameter(analysis, other)
    if leaf is None or not is_dense(marks[leaf]) or len(program.shapes[program.inputs[leaf]]) != 1:
        return None
    numbers = analysis.axes[program.inputs[leaf]][0]
    matches = np.array_equal(analysis.roots[numbers], analysis.roots[analysis.axes[out][-1]])
    return leaf if matches else None
