"""Where a traced model multiplies by its masked weights, and the model with other products."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxsparse._jaxprs import Operation, Program, apply_operation

# What leaves the numbers of a weight as they are, or rounds each of them.
_VIEWS = ("reshape", "transpose", "squeeze", "convert_element_type", "copy", "broadcast_in_dim")

Axes = tuple[int, ...]


class Product(NamedTuple):
    """One operation that multiplies by a weight; hashable, so that like ones share programs.

    Attributes:
      primitive: ``dot_general``, or a convolution with a window of one.
      params: Its parameters.
      side: Which of the two operands the weight is.
      rest: Axes of the other operand that stay.
      sums: Its axes that are summed over.
      steps: Its strides.
      inputs: Axes of the weight that are summed over.
      outputs: Those that stay.
      back: Axes of the result, from ``rest`` followed by ``outputs``.
    """

    primitive: Any
    params: tuple[tuple[str, Any], ...]
    side: int
    rest: Axes
    sums: Axes
    steps: Axes
    inputs: Axes
    outputs: Axes
    back: Axes

    def dense(self, x: Any, weight: Any) -> Any:
        """The operation as it was."""
        operands = (x, weight) if self.side else (weight, x)
        return self.primitive.bind(*operands, **dict(self.params))

    def matrix(self, weight: Any) -> Any:
        """The weight as ``(inputs, outputs)``."""
        rows = math.prod(weight.shape[axis] for axis in self.inputs)
        return weight.transpose(self.inputs + self.outputs).reshape(rows, weight.size // rows)

    def by(self, multiply: Callable[[Any], Any], x: Any, weight: Any) -> Any:
        """The same by a product of matrices.

        Args:
          multiply: ``(batch, inputs) -> (batch, outputs)``.
          x: What is multiplied.
          weight: Shape and type of the weight.

        Returns:
          The operation's result.
        """
        dtype = jax.eval_shape(self.dense, x, weight).dtype
        x = x[tuple(slice(None, None, step) for step in self.steps)]
        lead = tuple(x.shape[axis] for axis in self.rest)
        ends = tuple(weight.shape[axis] for axis in self.outputs)
        x = x.transpose(self.rest + self.sums).reshape(math.prod(lead), -1)
        return multiply(x).astype(dtype).reshape(lead + ends).transpose(self.back)


class Site(NamedTuple):
    """One product by one masked weight.

    Attributes:
      at: Position among the operations.
      leaf: Of the weight.
      view: What is done to the weight before.
      product: The operation.
      x: Value that is multiplied.
    """

    at: int
    leaf: int
    view: tuple[Operation, ...]
    product: Product
    x: int

    @property
    def key(self) -> tuple[Any, ...]:
        """The same for all uses of one matrix, whatever the batch."""
        views = tuple(f"{step.name} {sorted(step.params.items())}" for step in self.view)
        return self.leaf, views, self.product.inputs, self.product.outputs

    def operand(self, leaf: Any) -> Any:
        """What is multiplied, from the leaf; of a mask, a mask."""
        for step in self.view:
            if leaf.dtype != bool or step.name != "convert_element_type":
                (leaf,) = apply_operation(step, [leaf])
        return leaf


def sites_of(program: Program, leaves: Sequence[int]) -> tuple[list[Site], dict[int, list[str]]]:
    """The products by some leaves, and who else reads them.

    Args:
      program: Whose first inputs are the leaves.
      leaves: Those that have a mask.

    Returns:
      Sites in order; and by leaf, why further uses of it stay dense.
    """
    views: dict[int, tuple[int, tuple[Operation, ...]]] = {
        program.inputs[leaf]: (leaf, ()) for leaf in leaves
    }
    sites: list[Site] = []
    reasons: dict[int, list[str]] = {leaf: [] for leaf in leaves}
    for at, operation in enumerate(program.operations):
        sides = [side for side, value in enumerate(operation.inputs) if value in views]
        if not sides:
            continue
        leaf, view = views[operation.inputs[sides[0]]]
        if _is_view(program, operation):
            views[operation.outputs[0]] = leaf, (*view, operation)
            continue
        reason = _more_than_a_product(program, operation, sides)
        if reason:
            for side in sides:
                reasons[views[operation.inputs[side]][0]].append(reason)
        else:
            product = _product(program, operation, sides[0])
            sites.append(Site(at, leaf, view, product, operation.inputs[1 - sides[0]]))
    for value in program.outputs:
        if value in views:
            reasons[views[value][0]].append("a result of the function")
    return sites, reasons


def _is_view(program: Program, operation: Operation) -> bool:
    sizes = [math.prod(program.shapes[v]) for v in (*operation.inputs, *operation.outputs)]
    return operation.name in _VIEWS and len(sizes) == 2 and sizes[0] == sizes[1]


def _more_than_a_product(program: Program, operation: Operation, sides: Sequence[int]) -> str:
    """Why this is not a product of matrices; empty where it is one."""
    params = operation.params
    if operation.name not in ("dot_general", "conv_general_dilated"):
        return f"read by {operation.name}"
    if len(sides) > 1:
        return "multiplied by another masked weight"
    if params["precision"] is not None:
        return f"multiplied in a precision of its own ({params['precision']})"
    numbers = params["dimension_numbers"]
    if operation.name == "dot_general":
        return "a product for each of a batch of weights" if numbers[1][0] else ""
    window = [program.shapes[operation.inputs[1]][axis] for axis in numbers.rhs_spec[2:]]
    groups = params["feature_group_count"] * params["batch_group_count"]
    padded = any(low or high for low, high in params["padding"])
    if sides == [1] and groups == 1 and not padded and {1, *window, *params["lhs_dilation"]} == {1}:
        return ""
    return f"a convolution of {'x'.join(map(str, window))}: more than a product"


def _product(program: Program, operation: Operation, side: int) -> Product:
    x, weight = (program.shapes[operation.inputs[i]] for i in (1 - side, side))
    named = operation.primitive, tuple(operation.params.items()), side
    numbers = operation.params["dimension_numbers"]
    steps = [1] * len(x)
    if operation.name == "dot_general":
        sums, inputs = tuple(numbers[0][1 - side]), tuple(numbers[0][side])
        rest = tuple(axis for axis in range(len(x)) if axis not in sums)
        outputs = tuple(axis for axis in range(len(weight)) if axis not in inputs)
        order = [*range(len(rest) + len(outputs))]
        back = order if side else order[len(rest) :] + order[: len(rest)]
        return Product(*named, rest, sums, tuple(steps), inputs, outputs, tuple(back))
    (batch, features, *space), out = numbers.lhs_spec, numbers.out_spec
    for axis, step in zip(space, operation.params["window_strides"], strict=True):
        steps[axis] = step
    ends, *inputs = numbers.rhs_spec
    back = np.argsort([out[0], *out[2:], out[1]]).tolist()
    axes = (batch, *space), (features,), tuple(steps), tuple(inputs), (ends,), tuple(back)
    return Product(*named, *axes)


class Step(NamedTuple):
    """An operation that is done in another way.

    Attributes:
      x: The one value that it needs.
      compute: Its result from that.
    """

    x: int
    compute: Callable[[Any], Any]


def needs(
    program: Program, wanted: Sequence[int], steps: Mapping[int, Step]
) -> tuple[set[int], list[int]]:
    """Which values and operations the values wanted come from.

    Args:
      program: A program.
      wanted: Values.
      steps: By position, what is done in another way.

    Returns:
      Values, and positions in order. (Operations without results are there for their effects.)
    """
    values, positions = set(wanted), []
    for at in reversed(range(len(program.operations))):
        operation = program.operations[at]
        if values.isdisjoint(operation.outputs) and operation.outputs:
            continue
        positions.append(at)
        values.update((steps[at].x,) if at in steps else operation.inputs)
    return values, positions[::-1]


def evaluate(
    program: Program, given: Mapping[int, Any], wanted: Sequence[int], steps: Mapping[int, Step]
) -> list[Any]:
    """Some values of a program; only what they need is computed.

    Args:
      program: A program.
      given: Its inputs; those that nothing needs may be missing.
      wanted: Values.
      steps: By position, what is done in another way.

    Returns:
      The values wanted.
    """
    known = dict(program.constants) | dict(given)
    for at in needs(program, wanted, steps)[1]:
        operation = program.operations[at]
        if at in steps:
            results = [steps[at].compute(known[steps[at].x])]
        else:
            results = apply_operation(operation, [known[value] for value in operation.inputs])
        known.update(zip(operation.outputs, results, strict=True))
    return [known[value] for value in wanted]
