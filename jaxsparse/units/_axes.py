"""Which positions of which axes are the same unit, read off a model's operations.

Each position of each axis has a number. Operations make numbers equal: adding two arrays, or
contracting an axis of a kernel with the channels that it reads. What is then one number is one
unit: a column of a kernel, its bias, its statistics, the rows of all kernels that read it.
Operations that look across an axis (a sum over channels, a loop) hold its units fast.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxsparse._jaxprs import Operation, Program, dependent
from jaxsparse.units._moves import (
    Axes,
    Product,
    Work,
    broadcast_axes,
    concatenate_axes,
    each,
    elementwise,
    pad_axes,
    reduce_axes,
    reshape_axes,
    slice_axes,
    squeeze_axes,
    transpose_axes,
    unknown,
    window_axes,
)
from jaxsparse.units._numbers import Numbers

ALONG_AN_IMAGE = "along an image"
"""Why positions and taps stay: they are no units."""


class Analysis(NamedTuple):
    """What a program says of its units.

    Attributes:
      program: The program.
      axes: Of each value.
      roots: For each number, the one that stands for its unit.
      held: Why a unit cannot be removed, by root.
      read: Numbers (of parameters) that are contracted with data: inputs of a layer.
      made: Numbers that a contraction leaves: outputs of a layer.
      products: Those with a parameter.
      depends: Which values depend on the model's input.
    """

    program: Program
    axes: list[Axes]
    roots: np.ndarray
    held: dict[int, str]
    read: set[int]
    made: set[int]
    products: list[Product]
    depends: np.ndarray


def analyse(program: Program, parameters: int) -> Analysis:
    """Follow units through a program.

    Args:
      program: A model.
      parameters: How many of its inputs, the first ones, are parameters.

    Returns:
      The analysis.
    """
    sources = program.inputs
    work = Work(
        program,
        dependent(program, sources[parameters:]),
        dependent(program, sources[:parameters]),
        Numbers(),
        [()] * len(program.shapes),
        set(),
        set(),
        [],
    )
    for place, at in enumerate(sources):
        work.set_fresh(at, "input of the model" if place >= parameters else None)
    for at in program.constants:
        work.set_fresh(at)
    for place, operation in enumerate(program.operations):
        _RULES.get(operation.name, unknown)(work, place, operation)
    for at in program.outputs:
        work.hold(at, "output of the model")
    return Analysis(
        program,
        work.axes,
        work.numbers.roots(),
        work.numbers.reasons(),
        work.read,
        work.made,
        work.products,
        work.depends,
    )


def _dot(work: Work, place: int, op: Operation) -> None:
    (contracted, batch), (out,) = op.params["dimension_numbers"], op.outputs
    pair = [work.axes[at] for at in op.inputs]
    for i, j in zip(*contracted, strict=True):
        work.numbers.unite(pair[0][i], pair[1][j])
    for i, j in zip(*batch, strict=True):
        work.numbers.unite(pair[0][i], pair[1][j])
    free = [
        [a for i, a in enumerate(axes) if i not in contracted[side] and i not in batch[side]]
        for side, axes in enumerate(pair)
    ]
    work.axes[out] = (*[pair[0][i] for i in batch[0]], *free[0], *free[1])
    data = _data_side(work, op)
    if data is None or len(contracted[0]) != 1:
        for side, axes in enumerate(pair):
            for i in contracted[side]:
                work.numbers.hold(
                    axes[i], "read by a product over several axes, or of data with data"
                )
        return
    kernel = 1 - data
    work.read.update(pair[kernel][contracted[kernel][0]].tolist())
    for numbers in free[kernel]:
        work.made.update(numbers.tolist())
    axes = (contracted[data][0], contracted[kernel][0])
    work.products.append(Product(place, data, axes, padded=False))


def _data_side(work: Work, op: Operation) -> int | None:
    """Which operand is data, where the other is not."""
    sides = [bool(work.depends[at]) for at in op.inputs[:2]]
    return sides.index(True) if sum(sides) == 1 else None


def _conv(work: Work, place: int, op: Operation) -> None:
    numbers, (out,) = op.params["dimension_numbers"], op.outputs
    lhs, rhs = (work.axes[at] for at in op.inputs)
    (batch, channel, *_), (made, read, *taps) = numbers.lhs_spec, numbers.rhs_spec
    groups, depthwise = op.params["feature_group_count"], len(rhs[read]) == 1
    if op.params["batch_group_count"] != 1 or _data_side(work, op) != 0:
        unknown(work, place, op)
        return
    axes = [work.numbers.fresh(size, ALONG_AN_IMAGE) for size in work.shape(out)]
    axes[numbers.out_spec[0]] = lhs[batch]
    axes[numbers.out_spec[1]] = rhs[made]
    work.axes[out] = tuple(axes)
    for axis in taps:
        work.numbers.hold(rhs[axis], ALONG_AN_IMAGE)
    for axis in numbers.lhs_spec[2:]:
        work.numbers.hold(lhs[axis], ALONG_AN_IMAGE)
    if groups == 1:
        work.numbers.unite(lhs[channel], rhs[read])
        work.read.update(rhs[read].tolist())
        work.made.update(rhs[made].tolist())
        padded = any(low or high for low, high in op.params["padding"])
        work.products.append(Product(place, 0, (channel, read), padded))
    elif depthwise and groups == len(lhs[channel]) == len(rhs[made]):
        work.numbers.unite(lhs[channel], rhs[made])
        work.numbers.hold(rhs[read], "an axis of one")
    else:
        work.numbers.hold(lhs[channel], "read by a grouped convolution")
        work.numbers.hold(rhs[made], "made by a grouped convolution")
        work.numbers.hold(rhs[read], "read by a grouped convolution")


_ELEMENTWISE = (
    "neg sign floor ceil round abs exp exp2 log log1p expm1 tanh sin cos tan asin acos atan sinh "
    "cosh asinh acosh atanh sqrt rsqrt cbrt square integer_pow logistic erf erfc erf_inv lgamma "
    "digamma relu convert_element_type copy copy_p stop_gradient reduce_precision name is_finite "
    "not add add_any sub mul div max min pow rem atan2 nextafter eq ne lt le gt ge and or xor "
    "select_n clamp real imag"
)
_RULES: dict[str, Callable[[Work, int, Operation], None]] = {
    **dict.fromkeys(_ELEMENTWISE.split(), elementwise),
    **dict.fromkeys(("reduce_sum", "reduce_max", "reduce_min", "reduce_prod"), reduce_axes),
    **dict.fromkeys(("reduce_or", "reduce_and", "argmax", "argmin"), reduce_axes),
    **dict.fromkeys(("reduce_window_sum", "reduce_window_max", "reduce_window_min"), window_axes),
    "broadcast_in_dim": broadcast_axes,
    "transpose": transpose_axes,
    "squeeze": squeeze_axes,
    "reshape": reshape_axes,
    "slice": slice_axes,
    "pad": pad_axes,
    "concatenate": concatenate_axes,
    "dot_general": _dot,
    "conv_general_dilated": _conv,
    "optimization_barrier": each,
    "device_put": each,
}
