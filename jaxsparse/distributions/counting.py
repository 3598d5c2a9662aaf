"""Whole numbers of weights: of a layer, and of many that sum to a total."""

import math
from collections.abc import Sequence
from fractions import Fraction


def keep_count(size: int, sparsity: float) -> int:
    """``size - floor(sparsity * size)``, with the sparsity taken as the decimal that was typed.

    Args:
      size: Number of weights.
      sparsity: Fraction of zeros, in [0, 1).

    Returns:
      Number of weights to keep, at least 1 where ``size`` is.

    Example:
      >>> keep_count(100, 0.8), keep_count(1000, 0.999)
      (20, 1)
    """
    return size - math.floor(Fraction(repr(float(sparsity))) * size)


def apportion(ideal: Sequence[float], sizes: Sequence[int], total: int) -> list[int]:
    """Whole numbers near the ideal ones that sum to a total: largest remainders.

    Args:
      ideal: Wanted kept counts, one a layer, not negative.
      sizes: Most a layer can keep.
      total: The sum to reach, at most ``sum(sizes)``.

    Returns:
      One int a layer, in [1, size] (0 only where ``total`` is smaller than the number of layers).

    Example:
      >>> apportion([1.4, 2.4, 0.2], [4, 4, 4], 4)
      [1, 2, 1]
    """
    least = 1 if total >= len(sizes) else 0
    counts = [min(max(math.floor(x), least), n) for x, n in zip(ideal, sizes, strict=True)]
    while (gap := total - sum(counts)) != 0:
        sign = 1 if gap > 0 else -1
        room = [
            i for i, (c, n) in enumerate(zip(counts, sizes, strict=True)) if least <= c + sign <= n
        ]
        room.sort(key=lambda i: sign * (counts[i] - ideal[i]))
        for i in room[: abs(gap)]:
            counts[i] += sign
    return counts
