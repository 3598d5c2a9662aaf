"""What a row of the table is, and how times are taken."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
      what: What was measured.
      ours: This library's number.
      theirs: The number it is compared with.
      unit: Of both: ``"ms"``, ``"s"`` or ``"MB"``.
      ratio: Of the two, as the bound has it.
      bound: ``"at least 40"``, ``"at most 1.05"``, or empty.
      note: What it is compared with, and anything else to know.
    """

    what: str
    ours: float
    theirs: float
    unit: str
    ratio: float
    bound: str
    note: str

    @property
    def kept(self) -> bool | None:
        """Does the ratio keep its bound? ``None`` where there is none."""
        if not self.bound:
            return None
        limit = float(self.bound.split()[-1])
        return self.ratio >= limit if self.bound.startswith("at least") else self.ratio <= limit


def faster(what: str, times: Sequence[float], bound: str, note: str) -> Row:
    """A row whose ratio says how many times faster this library is.

    Args:
      what: What was measured.
      times: Seconds of this library and of the baseline.
      bound: Bound of the ratio, or empty.
      note: The baseline.

    Returns:
      A row in milliseconds.
    """
    ours, theirs = times
    return Row(what, 1e3 * ours, 1e3 * theirs, "ms", theirs / ours, bound, note)


def costs(what: str, times: Sequence[float], bound: str, note: str) -> Row:
    """A row whose ratio says how much of the baseline's time this library takes.

    Args:
      what: What was measured.
      times: Seconds of this library and of the baseline.
      bound: Bound of the ratio, or empty.
      note: The baseline.

    Returns:
      A row in milliseconds.
    """
    ours, theirs = times
    return Row(what, 1e3 * ours, 1e3 * theirs, "ms", ours / theirs, bound, note)


def seconds(function: Callable[[], Any]) -> float:
    """Time of one call.

    Args:
      function: Returns JAX arrays, or nothing that need be waited for.

    Returns:
      Seconds.
    """
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start


def medians(functions: Sequence[Callable[[], Any]], repeats: int) -> list[float]:
    """Median time of each function, taken in turns so that all see the same machine.

    Args:
      functions: Each returns JAX arrays; each is called once before it counts.
      repeats: Runs of each.

    Returns:
      Seconds, one a function.
    """
    for function in functions:
        seconds(function)
    rounds = [[seconds(function) for function in functions] for _ in range(repeats)]
    return [statistics.median(own) for own in zip(*rounds, strict=True)]
