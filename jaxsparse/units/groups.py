"""Units and everything of the parameters that belongs to them."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from jaxsparse._jaxprs import flat_program
from jaxsparse._table import aligned
from jaxsparse._tree import flatten_with_paths
from jaxsparse.base import Params
from jaxsparse.units._axes import ALONG_AN_IMAGE, Analysis, analyse

Role = Literal["makes", "reads", "along"]


class Member(NamedTuple):
    """One axis of one parameter leaf, along which a group's units lie.

    Attributes:
      path: Of the leaf.
      leaf: Its position among the leaves.
      axis: Of the leaf.
      role: ``"makes"``: the axis of a kernel's outputs; ``"reads"``: that of its inputs;
        ``"along"``: a bias, a scale, a running mean, a depthwise kernel.
      unit: For each position of the axis, the unit of the group there; -1: none of them.
    """

    path: str
    leaf: int
    axis: int
    role: Role
    unit: Int[np.ndarray, " size"]


class UnitGroup(NamedTuple):
    """Units that have the same parameters: the outputs of a layer, or of coupled layers.

    Attributes:
      name: Path of the first kernel that makes them, else of the first leaf.
      units: How many.
      members: All axes that belong to them.
      held: Why they cannot be removed; ``None`` where they can.
    """

    name: str
    units: int
    members: tuple[Member, ...]
    held: str | None

    def members_that(self, role: Role) -> list[Member]:
        """The members of one role."""
        return [member for member in self.members if member.role == role]


class UnitGroups(NamedTuple):
    """All groups of a model; ``print`` them for a table.

    Attributes:
      groups: In the order of the leaves that make them.
    """

    groups: tuple[UnitGroup, ...]

    @property
    def free(self) -> tuple[UnitGroup, ...]:
        """Those whose units can be removed."""
        return tuple(group for group in self.groups if group.held is None)

    def __str__(self) -> str:
        """A row a group: who makes its units, who reads them, what goes along."""
        paths = lambda group, role: " ".join(m.path for m in group.members_that(role)) or "-"
        rows = [
            (
                group.name,
                f"{group.units:,}",
                paths(group, "makes"),
                paths(group, "reads"),
                paths(group, "along"),
                group.held or "",
            )
            for group in self.groups
        ]
        return aligned(rows, ("group", "units", "made by", "read by", "along", "held"))


def unit_groups(model_fn: Callable[..., Any], params: Params, *inputs: Any) -> UnitGroups:
    """Find the neurons, filters and channels of a model, and what belongs to each.

    The model is traced, not described. Two axes belong together where operations make them: a
    kernel's outputs with its bias, with the scale and the statistics of batch normalization, with
    the inputs of all kernels that read them (after flattening, several rows a unit), and, through
    a residual connection, with the outputs of the other branch. What operations need as a whole
    (the model's inputs and outputs, an axis that a norm sums over, grouped convolutions, loops)
    is held, and says why.

    Args:
      model_fn: ``(params, *inputs) -> outputs``, in evaluation mode.
      params: Pytree of arrays or ``ShapeDtypeStruct`` leaves; all variables, statistics too.
      *inputs: Arrays or ``ShapeDtypeStruct`` leaves.

    Returns:
      :class:`UnitGroups`.

    Example:
      >>> import jax.numpy as jnp
      >>> params = {"a": jnp.ones((3, 2)), "bias": jnp.ones(2), "c": jnp.ones((2, 1))}
      >>> model_fn = lambda p, x: jnp.tanh(x @ p["a"] + p["bias"][None]) @ p["c"]
      >>> print(unit_groups(model_fn, params, jnp.ones((5, 3))))
      group  units  made by  read by  along                 held
      a          2        a        c   bias
      a          3        -        a      -   input of the model
      c          1        c        -      -  output of the model

    References:
      Fang et al., `DepGraph: towards any structural pruning
      <https://arxiv.org/abs/2301.12900>`_, CVPR 2023, for coupling found by tracing.
    """
    structure = flatten_with_paths(params)[0]
    program = flat_program(model_fn, params, *inputs)
    return groups_of(analyse(program, len(structure)), [path for path, _ in structure])


def groups_of(analysis: Analysis, paths: list[str]) -> UnitGroups:
    """The same, of an analysis.

    Args:
      analysis: Of a program.
      paths: Of its parameters.

    Returns:
      The groups.
    """
    places: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    roles: dict[tuple[int, int], Role] = {}
    for leaf, at in enumerate(analysis.program.inputs[: len(paths)]):
        for axis, numbers in enumerate(analysis.axes[at]):
            roles[leaf, axis] = _role(analysis, numbers)
            for position, number in enumerate(numbers.tolist()):
                places[int(analysis.roots[number])].append((leaf, axis, position))
    # Units with the same axes, and the same reason to stay, are a group.
    alike: dict[Any, list[list[tuple[int, int, int]]]] = defaultdict(list)
    for root, found in places.items():
        axes = tuple(sorted({(leaf, axis) for leaf, axis, _ in found}))
        alike[axes, analysis.held.get(root)].append(found)
    groups = [
        _group(axes, units, held, paths, roles, analysis) for (axes, held), units in alike.items()
    ]
    # (Taps of a kernel are no units of anything.)
    groups = [group for group in groups if group.held != ALONG_AN_IMAGE]
    order = {path: i for i, path in enumerate(paths)}
    return UnitGroups(tuple(sorted(groups, key=lambda g: (order[g.name], g.held or ""))))


def _role(analysis: Analysis, numbers: np.ndarray) -> Role:
    if not len(numbers):
        return "along"
    first = int(numbers[0])
    return "reads" if first in analysis.read else "makes" if first in analysis.made else "along"


def _group(
    axes: tuple[tuple[int, int], ...],
    units: list[list[tuple[int, int, int]]],
    held: str | None,
    paths: list[str],
    roles: dict[tuple[int, int], Role],
    analysis: Analysis,
) -> UnitGroup:
    shapes = analysis.program.shapes
    owner = {pair: np.full(shapes[analysis.program.inputs[pair[0]]][pair[1]], -1) for pair in axes}
    for unit, found in enumerate(units):
        for leaf, axis, position in found:
            owner[leaf, axis][position] = unit
    members = tuple(
        Member(paths[leaf], leaf, axis, roles[leaf, axis], owner[leaf, axis]) for leaf, axis in axes
    )
    makers = [member.path for member in members if member.role == "makes"]
    return UnitGroup(makers[0] if makers else members[0].path, len(units), members, held)


def spread(member: Member, kept: Any, ndim: int) -> Any:
    """What holds for units, at the positions of a member's axis, broadcastable to its leaf.

    Args:
      member: Of a group.
      kept: bool ``(units,)``; positions without a unit of the group are True.
      ndim: Of the leaf.

    Returns:
      bool, of size 1 along the other axes.
    """
    values = jnp.where(member.unit >= 0, jnp.asarray(kept)[member.unit], True)
    return values.reshape([-1 if axis == member.axis else 1 for axis in range(ndim)])
