"""Sparse networks beside dense ones that cost the same, seed by seed."""

import bisect
import math
import statistics
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..claims import POINTS, Claim, differences
from .cells import Cell

AXES = {"kept": "kept weights", "flops": "training FLOPs", "time": "step time"}


class Found(NamedTuple):
    """The numbers of a cell.

    Attributes:
      cell: The network.
      accuracy: Seed to test accuracy.
      kept: Weights.
      flops: Operations of the training, relative to the first dense network.
      time: Time of a step, relative to its; NaN where it was not measured.
    """

    cell: Cell
    accuracy: dict[int, float]
    kept: float
    flops: float
    time: float


Find = Mapping[str, Found]


def found_of(about: dict[str, Any], cells: Mapping[str, Cell]) -> dict[str, Found]:
    """The cells with a finished training.

    Args:
      about: What the JSON file of the study holds.
      cells: All cells; the first dense network is the widest of them.

    Returns:
      Name -> numbers, in the order of the cells.
    """
    rows: dict[str, dict[int, dict[str, Any]]] = {}
    for key, row in about["results"].items():
        name, _, seed = key.rpartition("/")
        rows.setdefault(name, {})[int(seed)] = row
    times = about.get("times", {}).get("cells", {})
    dense = [cell for cell in cells.values() if not cell.resizes]
    widest = max(dense, key=lambda cell: cell.width)
    whole = next(iter(rows.get(widest.name, {0: {"flops": math.nan}}).values()))["flops"]
    found = {}
    for name, cell in cells.items():
        if name in rows:
            first = next(iter(rows[name].values()))
            found[name] = Found(
                cell=cell,
                accuracy={seed: row["test_accuracy"] for seed, row in sorted(rows[name].items())},
                kept=first["kept"],
                flops=first["flops"] / whole,
                time=times.get(name, {}).get("ratio", math.nan),
            )
    return found


def gap(first: str, second: str) -> Callable[[Find], list[float]]:
    """How much more accurate one cell is than another.

    Args:
      first: Name of a cell.
      second: Name of another.

    Returns:
      From all cells to percentage points, an entry a seed that both have; a KeyError where a cell
      is missing.
    """

    def values(find: Find) -> list[float]:
        ours, others = find[first].accuracy, find[second].accuracy
        both = [seed for seed in ours if seed in others]
        return differences([ours[s] for s in both], [others[s] for s in both])

    return values


def over_dense(name: str, axis: str) -> Callable[[Find], list[float]]:
    """How much more accurate a sparse network is than a dense one that costs as much.

    The dense one lies between two that were trained: accuracy is interpolated over the logarithm
    of the cost. What costs more than all of them is compared with the most expensive one.

    Args:
      name: Of the sparse network.
      axis: What the cost is: a key of ``AXES``.

    Returns:
      From all cells to percentage points, an entry a seed that all three have; a KeyError where
      cells are missing, or the cost is below that of all dense networks.
    """

    def values(find: Find) -> list[float]:
        ours, dense = find[name], dense_by(find, axis)
        cost = getattr(ours, axis)
        costs = [getattr(each, axis) for each in dense]
        if len(costs) < 2 or not cost >= costs[0]:
            raise KeyError(name)
        above = min(max(bisect.bisect_left(costs, cost), 1), len(costs) - 1)
        low, high = dense[above - 1 : above + 1]
        whole = math.log(costs[above] / costs[above - 1])
        share = min(math.log(cost / costs[above - 1]) / whole, 1.0)
        both = [s for s in ours.accuracy if s in low.accuracy and s in high.accuracy]
        mixed = [(1 - share) * low.accuracy[s] + share * high.accuracy[s] for s in both]
        return differences([ours.accuracy[s] for s in both], mixed)

    return values


def dense_by(find: Find, axis: str) -> list[Found]:
    """Dense networks whose cost is known, the cheapest first.

    Args:
      find: All cells.
      axis: A key of ``AXES``.

    Returns:
      Their numbers.
    """
    dense = [each for each in find.values() if not each.cell.resizes]
    known = [each for each in dense if math.isfinite(getattr(each, axis))]
    return sorted(known, key=lambda each: getattr(each, axis))


def time_of_equals(find: Find, name: str) -> float:
    """What a dense network as accurate takes, relative to a sparse one: above 1, it is slower.

    The accuracies are means over seeds; between two dense networks the logarithm of the time is
    interpolated, from the widest one down.

    Args:
      find: All cells.
      name: Of the sparse network.

    Returns:
      The ratio; infinite where no dense network is as accurate, 0 where all are, NaN where a time
      is missing.
    """
    ours, dense = find[name], dense_by(find, "time")
    if not dense or not math.isfinite(ours.time):
        return math.nan
    mean = lambda each: statistics.fmean(each.accuracy.values())
    wanted, means = mean(ours), [mean(each) for each in dense]
    first = next((i for i, accuracy in enumerate(means) if accuracy >= wanted), None)
    if first is None:
        return math.inf
    if first == 0:
        return 0.0
    share = (wanted - means[first - 1]) / (means[first] - means[first - 1])
    low, high = dense[first - 1].time, dense[first].time
    return low * (high / low) ** share / ours.time


def block_claims(cells: Mapping[str, Cell], width: int) -> list[Claim]:
    """Single weights are more accurate than blocks, at the same number of weights.

    Args:
      cells: All cells.
      width: Of the networks compared.

    Returns:
      A comparison for each size of block and sparsity.
    """
    sparse = [cell for cell in cells.values() if cell.block > 1 and cell.width == width]
    rows = sorted(sparse, key=lambda cell: (cell.sparsity, cell.block))
    return [
        Claim(
            f"{cell.block}x{cell.block}",
            f"{100 * cell.sparsity:g} %: single weights less {cell.block}x{cell.block}",
            "above",
            gap(Cell(width, 1, cell.sparsity).name, cell.name),
            0,
            0,
            POINTS,
        )
        for cell in rows
    ]


def dense_claims(cells: Mapping[str, Cell], axis: str) -> list[Claim]:
    """A sparse network is more accurate than a dense one that costs as much.

    Args:
      cells: All cells.
      axis: What the cost is: a key of ``AXES``.

    Returns:
      A comparison for each sparse network.
    """
    return [
        Claim(name, f"{name} less dense", "-", over_dense(name, axis), 0, 0, POINTS)
        for name, cell in cells.items()
        if cell.block
    ]
