"""Claims of the literature as numbers of each seed, and whether they hold."""

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from scipy.special import stdtrit

from .tables import MISSING, aligned_markdown

# Accuracies closer than this count as the same, in percentage points.
MARGIN = 0.3
POINTS = "{:+.2f} ± {:.2f} points"
NOT_RUN = "not run"
HEADS = ("claim", "what", "published", "measured", "holds")


class Claim(NamedTuple):
    """One statement of the literature as a number of each seed.

    Attributes:
      name: Its number in the project's list of claims.
      text: What is measured.
      published: What was published.
      values: From what finds results to the number, an entry a seed; a KeyError where a result is
        missing.
      least: What it must reach; None: it must lie within ``MARGIN`` of ``null``.
      null: What it would be if there were no effect.
      form: How a number is written.
    """

    name: str
    text: str
    published: str
    values: Callable[[Any], list[float]]
    least: float | None
    null: float
    form: str


def differences(ours: Sequence[float], others: Sequence[float]) -> list[float]:
    """How much higher accuracies are than others, seed by seed.

    Args:
      ours: Accuracies, as fractions, an entry a seed.
      others: Likewise.

    Returns:
      Percentage points, an entry a seed.
    """
    return [100 * (a - b) for a, b in zip(ours, others, strict=True)]


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, its standard error, and half the width of its 95 % confidence interval.

    Args:
      values: An entry a seed.

    Returns:
      The three numbers; the last two are NaN for one seed, or where a value is not finite.
    """
    mean = statistics.fmean(values)
    if len(values) < 2 or not math.isfinite(mean):
        return mean, math.nan, math.nan
    error = statistics.stdev(values) / math.sqrt(len(values))
    return mean, error, error * float(stdtrit(len(values) - 1, 0.975))


def points_text(values: Sequence[float]) -> str:
    """Differences over seeds, such as ``+0.31 ± 0.08``.

    Args:
      values: Percentage points, an entry a seed.

    Returns:
      Mean and standard error; without the latter for one seed.
    """
    mean, error, _ = interval(values)
    return f"{mean:+.2f}" if math.isnan(error) else f"{mean:+.2f} ± {error:.2f}"


def verdict(claim: Claim, values: Sequence[float]) -> str:
    """Does a claim hold, by the 95 % confidence interval over seeds?

    Args:
      claim: The claim.
      values: Its number of each seed.

    Returns:
      A few words.
    """
    mean, error, half = interval(values)
    if len(values) < 2:
        return "one seed: not tested"
    if math.isnan(error):
        return "not resolved"
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


def row_of(claim: Claim, find: Any) -> list[str]:
    """A claim with what was measured.

    Args:
      claim: The claim.
      find: What its ``values`` are given.

    Returns:
      Name, text, what was published, what was measured, and whether it holds: under ``HEADS``.
    """
    try:
        values = claim.values(find)
    except KeyError:
        return [claim.name, claim.text, claim.published, NOT_RUN, ""]
    mean, error, _ = interval(values)
    text = claim.form.format(mean, error).replace(" ± nan", "")
    measured = MISSING if math.isnan(mean) else text
    return [claim.name, claim.text, claim.published, measured, verdict(claim, values)]


def claims_table(claims: Sequence[Claim], find: Any) -> str:
    """Every claim with what was measured.

    Args:
      claims: The claims.
      find: What their ``values`` are given.

    Returns:
      Markdown.
    """
    return aligned_markdown(HEADS, [row_of(claim, find) for claim in claims])


def conclusion(statement: str, claims: Sequence[Claim], find: Any) -> str:
    """A sentence that says whether claims hold, of how many comparisons, with how many seeds.

    Args:
      statement: What they say together, such as ``H13, shuffled: nothing is lost``.
      claims: The comparisons.
      find: What their ``values`` are given.

    Returns:
      The sentence, in Markdown.
    """
    words, seeds = [], set()
    for claim in claims:
        try:
            values = claim.values(find)
        except KeyError:
            continue
        words.append(verdict(claim, values).split(",")[0])
        seeds.add(len(values))
    if not words or seeds == {1}:
        return f"**{statement}: not tested** ({len(words)} of {len(claims)} comparisons run)."
    counts = {word: words.count(word) for word in ("yes", "direction yes", "no", "not resolved")}
    if counts["yes"] == len(words):
        found = "holds here" if len(words) == len(claims) else "holds here as far as it was run"
    elif counts["yes"] + counts["direction yes"] == 0:
        found = "does not hold here" if counts["no"] else "is not resolved here"
    else:
        found = "holds here in part"
    names = {"direction yes": "in direction but not in size"}
    listed = ", ".join(f"{names.get(word, word)} {n}" for word, n in counts.items() if n)
    missing = len(claims) - len(words)
    rest = f"; {missing} not run" if missing else ""
    number = " or ".join(map(str, sorted(seeds)))
    return f"**{statement}: {found}**, with {number} seeds ({listed} of {len(words)}{rest})."
