"""How far apart two sparse networks are as graphs: hidden units have no names, so match them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int


class GraphDistance(NamedTuple):
    """What ``graph_distance`` found.

    Attributes:
      total: Mean over layers, in [0, 1].
      layers: Of each layer: the mean over its units.
      matches: Of each layer: for each unit of the first network, the one of the second.
    """

    total: float
    layers: Float[np.ndarray, " layers"]
    matches: tuple[Int[np.ndarray, " units"], ...]


def graph_distance(
    first: Sequence[Bool[Array | np.ndarray, "..."]],
    second: Sequence[Bool[Array | np.ndarray, "..."]],
    *,
    match_outputs: bool = False,
) -> GraphDistance:
    r"""The distance of two topologies of one network, whatever the order of its hidden units.

    Layer by layer, from the input: the distance of two units is the number of incoming connections
    that only one of them has, divided by the number that either has (0 if neither has any), and
    units are matched one to one so that the sum over pairs is least. Then the next layer reads the
    second network's units in the order of their matches. 0 for networks that are the same but for
    the order of their hidden units, if no two units of a layer have the same inputs; 1 where
    nothing is shared.

    Of masks that keep a fraction d at random, units that are not matched have a distance of
    :math:`1 - d / (2 - d)`; matching lowers it.

    Not to be compiled: NumPy and ``scipy.optimize.linear_sum_assignment``, of cubic time in the
    units of a layer.

    Args:
      first: Masks of the layers in the order of the network, not a pytree: bool, dense (in, out) or
        convolution (height, width, in, out). A layer may read several rows for each unit before
        it, units last: a flattened image.
      second: Like ``first``.
      match_outputs: May the units of the last layer, the classes, change places, too?

    Returns:
      :class:`GraphDistance`.

    Raises:
      ValueError: if layers differ in number or shape, or do not follow one another.

    Example:
      >>> a = [np.array([[1, 0], [1, 0], [0, 1]], bool), np.array([[1], [0]], bool)]
      >>> b = [np.array([[0, 1], [0, 0], [1, 0]], bool), np.array([[0], [1]], bool)]
      >>> found = graph_distance(a, b)  # the units changed places, and one connection is missing
      >>> found.total, found.layers.tolist(), found.matches[0].tolist()
      (0.125, [0.25, 0.0], [1, 0])

    Differences from the paper: its code matches the units of the last layer as those of any other
    (``match_outputs=True``), and takes dense layers only.

    References:
      Liu et al., `Topological Insights into Sparse Neural Networks
      <https://arxiv.org/abs/2006.14085>`_, ECML PKDD 2020: Neural Network Sparse Topology Distance
      (NNSTD), as in its code.
    """
    pairs = _pairs(first, second)
    from scipy.optimize import linear_sum_assignment  # half a second, which only this needs

    match = np.arange(pairs[0][0].shape[-2])
    layers, matches = [], []
    for number, (a, b) in enumerate(pairs):
        before, units = len(match), a.shape[-1]
        if a.shape[-2] % before:
            raise ValueError(
                f"layer {number} has shape {a.shape}, the one before it {before} units; pass the "
                "layers of a chain in the order of the network"
            )
        reordered = b.reshape(-1, before, units)[:, match]
        costs = _distances(a.reshape(-1, units), reordered.reshape(-1, units))
        match = np.arange(units)
        if number < len(pairs) - 1 or match_outputs:
            _, match = linear_sum_assignment(costs)
        matches.append(match)
        layers.append(costs[np.arange(units), match].mean())
    return GraphDistance(float(np.mean(layers)), np.array(layers), tuple(matches))


def _pairs(first: Sequence[Any], second: Sequence[Any]) -> list[tuple[np.ndarray, np.ndarray]]:
    """The masks of each layer, side by side."""
    pairs = [[np.asarray(mask) for mask in masks] for masks in (first, second)]
    shapes = [[mask.shape for mask in masks] for masks in pairs]
    if not shapes[0] or shapes[0] != shapes[1] or min(map(len, shapes[0])) < 2:
        raise ValueError(
            f"layers of shapes {shapes[0]} and {shapes[1]}; they must be the same, one or more, of "
            "two dimensions at least"
        )
    return list(zip(*pairs, strict=True))


def _distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """One minus the Jaccard overlap of each column of one with each of the other."""
    both = first.astype(np.float32).T @ second.astype(np.float32)
    either = first.sum(0)[:, None] + second.sum(0)[None, :] - both
    return np.where(either > 0, 1 - both / np.maximum(either, 1), 0.0)
