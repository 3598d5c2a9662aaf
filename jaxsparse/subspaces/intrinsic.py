"""The intrinsic dimension: how many dimensions a problem needs."""

import statistics
from collections.abc import Sequence

from jaxsparse.schedules import check_fraction


def intrinsic_dimension(
    dimensions: Sequence[int],
    performances: Sequence[Sequence[float]],
    baseline: float,
    *,
    share: float = 0.9,
) -> int | None:
    """The smallest dimension, of those tried, whose mean performance reaches a share of a baseline.

    Args:
      dimensions: d of each trial, in any order.
      performances: Of each trial, a number a seed, higher is better, such as test accuracies.
      baseline: Performance of training all parameters.
      share: Of the baseline, in [0, 1]; 0.9 gives the paper's ``d_int90``.

    Returns:
      The dimension; ``None`` where none of them is enough.

    Raises:
      ValueError: if the two sequences differ in length, or ``share`` is out of range.

    Example:
      >>> intrinsic_dimension([100, 200, 300], [[0.7], [0.89], [0.91]], 0.98)
      200

    References:
      Li et al., `Measuring the Intrinsic Dimension of Objective Landscapes
      <https://arxiv.org/abs/1804.08838>`_, ICLR 2018, section 2.
    """
    check_fraction(share, "share")
    if len(dimensions) != len(performances):
        raise ValueError(
            f"{len(dimensions)} dimensions and {len(performances)} lists of performances; "
            "give one list a dimension"
        )
    enough = [
        d
        for d, values in zip(dimensions, performances, strict=True)
        if values and statistics.fmean(values) >= share * baseline
    ]
    return min(enough, default=None)
