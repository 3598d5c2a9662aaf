"""Operations that move axes, or work along them, and what they do to the units there."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxsparse._jaxprs import Operation, Program
from jaxsparse.units._numbers import Numbers

Axes = tuple[np.ndarray, ...]
"""The numbers along each axis of a value."""


class Product(NamedTuple):
    """A matrix product or convolution of data with a parameter.

    Attributes:
      operation: Its place in the program.
      data: Position of the data among the operands.
      contracted: Axis of the data that is summed over, and that of the kernel.
      padded: Does it read beyond the data's border?
    """

    operation: int
    data: int
    contracted: tuple[int, int]
    padded: bool


class Work(NamedTuple):
    """An analysis while it is being made."""

    program: Program
    depends: np.ndarray
    parameters: np.ndarray
    numbers: Numbers
    axes: list[Axes]
    read: set[int]
    made: set[int]
    products: list[Product]

    def shape(self, at: int) -> tuple[int, ...]:
        return self.program.shapes[at]

    def set_fresh(self, at: int, reason: str | None = None) -> None:
        self.axes[at] = tuple(self.numbers.fresh(size, reason) for size in self.shape(at))

    def hold(self, at: int, reason: str) -> None:
        for numbers in self.axes[at]:
            self.numbers.hold(numbers, reason)


def unknown(work: Work, place: int, op: Operation) -> None:
    """Nothing is known of it: all that it touches stays."""
    del place
    for at in op.inputs:
        work.hold(at, f"read by {op.name}")
    for at in op.outputs:
        work.set_fresh(at, f"made by {op.name}")


def elementwise(work: Work, place: int, op: Operation) -> None:
    del place
    (out,) = op.outputs
    arrays = [at for at in op.inputs if work.shape(at)]
    if not arrays:
        work.set_fresh(out)
        return
    # Data keeps its own numbers, and so do kernels next to constants: they tell the two apart.
    arrays.sort(key=lambda at: (work.depends[at], work.parameters[at]), reverse=True)
    axes = []
    for axis, size in enumerate(work.shape(out)):
        parts = [work.axes[at][axis] for at in arrays]
        wide = [part for part in parts if len(part) == size]
        for part in parts:
            if len(part) == size:
                work.numbers.unite(wide[0], part)
            else:
                work.numbers.hold(part, "an axis of one")
        axes.append(wide[0])
    work.axes[out] = tuple(axes)


def each(work: Work, place: int, op: Operation) -> None:
    del place
    for at, out in zip(op.inputs, op.outputs, strict=True):
        work.axes[out] = work.axes[at]


def broadcast_axes(work: Work, place: int, op: Operation) -> None:
    del place
    at, (out,) = op.inputs[0], op.outputs
    axes = [work.numbers.fresh(size) for size in work.shape(out)]
    for axis, to in enumerate(op.params["broadcast_dimensions"]):
        if work.shape(at)[axis] == work.shape(out)[to]:
            axes[to] = work.axes[at][axis]
    work.axes[out] = tuple(axes)


def transpose_axes(work: Work, place: int, op: Operation) -> None:
    del place
    work.axes[op.outputs[0]] = tuple(work.axes[op.inputs[0]][i] for i in op.params["permutation"])


def squeeze_axes(work: Work, place: int, op: Operation) -> None:
    del place
    gone, axes = op.params["dimensions"], work.axes[op.inputs[0]]
    for axis in gone:
        work.numbers.hold(axes[axis], "an axis of one")
    work.axes[op.outputs[0]] = tuple(a for i, a in enumerate(axes) if i not in gone)


def reshape_axes(work: Work, place: int, op: Operation) -> None:
    del place
    at, (out,) = op.inputs[0], op.outputs
    axes: list[np.ndarray | None] = [None] * len(work.shape(out))
    for olds, news in blocks(work.shape(at), work.shape(out)):
        olds_wide = [i for i in olds if work.shape(at)[i] > 1] or olds[-1:]
        news_wide = [i for i in news if work.shape(out)[i] > 1] or news[-1:]
        parts = [work.axes[at][i] for i in olds_wide]
        if len(parts) == 1 and len(news_wide) == 1:
            axes[news_wide[0]] = parts[0]
        elif len(news_wide) == 1:
            axes[news_wide[0]] = _merged(work, parts)
        elif len(parts) == 1:
            for i, part in zip(
                news_wide,
                _split(work, parts[0], [work.shape(out)[i] for i in news_wide]),
                strict=True,
            ):
                axes[i] = part
        else:
            for part in parts:
                work.numbers.hold(part, "reshaped")
    work.axes[out] = tuple(
        work.numbers.fresh(size, "reshaped" if size > 1 else None) if axis is None else axis
        for axis, size in zip(axes, work.shape(out), strict=True)
    )


def _merged(work: Work, parts: list[np.ndarray]) -> np.ndarray:
    """Flattened axes, of which one may have units: a position is the unit it comes from."""
    free = [i for i, part in enumerate(parts) if not work.numbers.is_held(part)]
    chosen = free[-1] if free else len(parts) - 1
    for i in free[:-1]:
        work.numbers.hold(parts[i], "flattened with another axis of units")
    shape = [len(part) for part in parts]
    view = [-1 if i == chosen else 1 for i in range(len(parts))]
    return np.broadcast_to(parts[chosen].reshape(view), shape).reshape(-1)


def _split(work: Work, whole: np.ndarray, sizes: list[int]) -> list[np.ndarray]:
    """What a flattened axis was made of, where that can be seen; else its units stay."""
    roots = np.array([work.numbers.find(int(n)) for n in whole]).reshape(sizes)
    for i in range(len(sizes)):
        moved = np.moveaxis(roots, i, -1).reshape(-1, sizes[i])
        if (moved == moved[0]).all() and len(set(moved[0])) == sizes[i]:
            numbers = np.moveaxis(whole.reshape(sizes), i, -1).reshape(-1, sizes[i])[0]
            return [
                numbers if j == i else work.numbers.fresh(size, "reshaped")
                for j, size in enumerate(sizes)
            ]
    work.numbers.hold(whole, "split into several axes")
    return [work.numbers.fresh(size, "split into several axes") for size in sizes]


def blocks(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Groups of neighbouring axes of the same product, before and after a reshape.

    Args:
      old: Shape before.
      new: Shape after.

    Returns:
      ``[(axes before, axes after)]``.

    Example:
      >>> blocks((2, 7, 7, 3), (2, 147)), blocks((5,), (1, 1, 5))
      ([([0], [0]), ([1, 2, 3], [1])], [([0], [0, 1, 2])])
    """
    found: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        olds, news = [], []
        if i < len(old):
            olds, i = [i], i + 1
        if j < len(new):
            news, j = [j], j + 1
        size = lambda axes, shape: math.prod(shape[axis] for axis in axes)
        while size(olds, old) != size(news, new):
            if size(olds, old) < size(news, new):
                olds, i = [*olds, i], i + 1
            else:
                news, j = [*news, j], j + 1
        found.append((olds, news))
    return [pair for pair in found if pair[0] and pair[1]]


def slice_axes(work: Work, place: int, op: Operation) -> None:
    """Axes that are taken whole keep their units."""
    del place
    at, (out,) = op.inputs[0], op.outputs
    axes = []
    for axis, numbers in enumerate(work.axes[at]):
        size = work.shape(out)[axis]
        if size == len(numbers):
            axes.append(numbers)
        else:
            work.numbers.hold(numbers, "sliced")
            axes.append(work.numbers.fresh(size, "sliced"))
    work.axes[out] = tuple(axes)


def pad_axes(work: Work, place: int, op: Operation) -> None:
    """Padding at the ends of an axis may go with the channels that it is added to."""
    del place
    at, (out,) = op.inputs[0], op.outputs
    axes = []
    for axis, (numbers, (low, high, inner)) in enumerate(
        zip(work.axes[at], op.params["padding_config"], strict=True)
    ):
        if inner or low < 0 or high < 0:
            work.numbers.hold(numbers, "padded")
            axes.append(work.numbers.fresh(work.shape(out)[axis], "padded"))
        else:
            before, after = (work.numbers.fresh(int(size)) for size in (low, high))
            axes.append(np.concatenate([before, numbers, after]))
    work.axes[out] = tuple(axes)


def concatenate_axes(work: Work, place: int, op: Operation) -> None:
    del place
    (out,), along = op.outputs, op.params["dimension"]
    parts = [work.axes[at] for at in op.inputs]
    for other in parts[1:]:
        for axis, (mine, its) in enumerate(zip(parts[0], other, strict=True)):
            if axis != along:
                work.numbers.unite(mine, its)
    work.axes[out] = tuple(
        np.concatenate([part[axis] for part in parts]) if axis == along else parts[0][axis]
        for axis in range(len(parts[0]))
    )


def reduce_axes(work: Work, place: int, op: Operation) -> None:
    """A sum over units needs all of them."""
    del place
    at, gone = op.inputs[0], op.params["axes"]
    for axis in gone:
        work.numbers.hold(work.axes[at][axis], f"read by {op.name}")
    kept = tuple(a for i, a in enumerate(work.axes[at]) if i not in gone)
    for out in op.outputs:
        work.axes[out] = kept


def window_axes(work: Work, place: int, op: Operation) -> None:
    """Pooling: units lie along the axes whose window is 1."""
    del place
    at, (out,) = op.inputs[0], op.outputs
    axes = []
    for axis, numbers in enumerate(work.axes[at]):
        if op.params["window_dimensions"][axis] == 1 and len(numbers) == work.shape(out)[axis]:
            axes.append(numbers)
        else:
            work.numbers.hold(numbers, f"read by {op.name}")
            axes.append(work.numbers.fresh(work.shape(out)[axis], f"made by {op.name}"))
    work.axes[out] = tuple(axes)
