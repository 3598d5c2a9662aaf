"""The claims of the lottery ticket literature, as numbers of each seed."""

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from scipy.special import stdtrit

from .rounds import Result
from .tables import aligned_markdown

# Accuracies closer than this count as the same, in percentage points.
MARGIN = 0.3
NOT_RUN = "not run"
HEADS = ("claim", "what", "published", "measured", "holds")

Find = Callable[[str, float], Any]
"""``(arm, weights kept in percent) -> result``; a KeyError where there is none."""


class Claim(NamedTuple):
    """One statement of the literature as a number of each seed.

    Attributes:
      name: Its number in the project's list of claims.
      text: What is measured.
      published: What was published.
      values: The number, an entry a seed.
      least: What it must reach; None: it must lie within ``MARGIN`` of ``null``.
      null: What it would be if there were no effect.
      form: How a number is written.
    """

    name: str
    text: str
    published: str
    values: Callable[[Find], list[float]]
    least: float | None
    null: float
    form: str


def _gap(first: str, second: str, density: float, second_density: float | None = None) -> Any:
    """Difference in test accuracy at the early stop, in percentage points, seed by seed."""

    def values(find: Find) -> list[float]:
        other = density if second_density is None else second_density
        pairs = zip(
            find(first, density).test_accuracy, find(second, other).test_accuracy, strict=True
        )
        return [100 * (a - b) for a, b in pairs]

    return values


def _ratio(first: str, first_density: float, second: str, second_density: float) -> Any:
    """Early-stop iteration of one arm over that of another, seed by seed."""

    def values(find: Find) -> list[float]:
        steps = (find(first, first_density).best_step, find(second, second_density).best_step)
        return [a / b for a, b in zip(*steps, strict=True)]

    return values


def _earlier(find: Find) -> list[float]:
    return [100 * (1 - ratio) for ratio in _ratio("ticket", 21.1, "dense", 100)(find)]


def _widening(find: Find) -> list[float]:
    gaps = (_gap("ticket", "reinit", density)(find) for density in (3.6, 21.1))
    return [sparse - dense for sparse, dense in zip(*gaps, strict=True)]


_POINTS = "{:+.2f} ± {:.2f} points"
CLAIMS = (
    Claim(
        "H10",
        "ticket at 21.1 %: least validation loss earlier than dense",
        "38 % earlier; at least 25 %",
        _earlier,
        25,
        0,
        "{:.0f} ± {:.0f} % earlier",
    ),
    Claim(
        "H10",
        "ticket at 21.1 %: accuracy less that of dense",
        "not below",
        _gap("ticket", "dense", 21.1, 100),
        None,
        0,
        _POINTS,
    ),
    Claim(
        "H10",
        "ticket at 13.5 %: accuracy less that of dense",
        "more than +0.3",
        _gap("ticket", "dense", 13.5, 100),
        0.3,
        0,
        _POINTS,
    ),
    Claim(
        "H10",
        "ticket at 3.6 %: accuracy less that of dense",
        "the same",
        _gap("ticket", "dense", 3.6, 100),
        None,
        0,
        _POINTS,
    ),
    Claim(
        "H11",
        "at 21.1 %: ticket less reinitialized",
        "+0.5",
        _gap("ticket", "reinit", 21.1),
        0.5,
        0,
        _POINTS,
    ),
    Claim(
        "H11",
        "at 21.1 %: iterations of reinitialized over ticket",
        "2.51",
        _ratio("reinit", 21.1, "ticket", 21.1),
        2.5,
        1,
        "{:.2f} ± {:.2f}",
    ),
    Claim(
        "H11",
        "that gap in accuracy, at 3.6 % less at 21.1 %",
        "grows",
        _widening,
        0,
        0,
        _POINTS,
    ),
    Claim(
        "H11",
        "at 21.1 %: reinitialized less random mask",
        "above (appendix E)",
        _gap("reinit", "random", 21.1),
        0,
        0,
        _POINTS,
    ),
    *(
        Claim(
            "H12",
            f"at {density} %: {text}",
            published,
            _gap("ticket", arm, density),
            0,
            0,
            _POINTS,
        )
        for arm, text, published in (
            ("one_shot", "iterative less one-shot", "above, below 17 %"),
            ("continued", "reset less not reset", "above"),
        )
        for density in (13.5, 7.0, 3.6)
    ),
)


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, its standard error, and half the width of its 95 % confidence interval.

    Args:
      values: An entry a seed.

    Returns:
      The three numbers; the last two are NaN for one seed.
    """
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, math.nan, math.nan
    error = statistics.stdev(values) / math.sqrt(len(values))
    return mean, error, error * float(stdtrit(len(values) - 1, 0.975))


def verdict(claim: Claim, values: Sequence[float]) -> str:
    """Does a claim hold, by the 95 % confidence interval over seeds?

    Args:
      claim: The claim.
      values: Its number of each seed.

    Returns:
      A few words.
    """
    mean, error, half = interval(values)
    if math.isnan(error):
        return "one seed: not tested"
    low, high = mean - half, mean + half
    if claim.least is None:
        if claim.null - MARGIN < low and high < claim.null + MARGIN:
            return f"yes, within {MARGIN}"
        if low > claim.null:
            return "yes, above"
        return "no, below" if high < claim.null else "not resolved"
    if low > claim.null:
        return "yes" if mean >= claim.least else "direction yes, size no"
    return "no, the reverse" if high < claim.null else "not resolved"


def finder(results: Sequence[Result], data: str) -> Find:
    """Find results of one data set by arm and density.

    Args:
      results: Finished trainings.
      data: Name of the data set.

    Returns:
      A function of the arm and the weights kept in percent, to one decimal.
    """
    table = {(r.arm, f"{100 * r.density:.1f}"): r for r in results if r.data == data}
    return lambda arm, density: table[arm, f"{density:.1f}"]


def row_of(claim: Claim, find: Find) -> list[str]:
    """A claim with what was measured.

    Args:
      claim: The claim.
      find: Finds the results that it is about.

    Returns:
      Name, text, what was published, what was measured, and whether it holds.
    """
    try:
        values = claim.values(find)
    except KeyError:
        return [claim.name, claim.text, claim.published, NOT_RUN, ""]
    mean, error, _ = interval(values)
    measured = claim.form.format(mean, error).replace(" ± nan", "")
    return [claim.name, claim.text, claim.published, measured, verdict(claim, values)]


def claims_table(results: Sequence[Result], data: str) -> str:
    """Every claim with what was measured.

    Args:
      results: Finished trainings.
      data: The data set of the study.

    Returns:
      Markdown.
    """
    find = finder(results, data)
    return aligned_markdown(HEADS, [row_of(claim, find) for claim in CLAIMS])
