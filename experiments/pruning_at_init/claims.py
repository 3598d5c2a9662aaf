"""The claims about pruning at initialization, beside what was measured."""

import itertools
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..lottery_claims import NOT_RUN, Claim, Find, row_of
from ..tables import percent_text
from .cells import ONCE, Result

# An accuracy below this counts as chance, with ten classes.
CHANCE = 0.15
LAST = 3.0
"""log10 of the highest compression that was published."""


class Fact(NamedTuple):
    """A statement of the literature that holds or does not, without an interval.

    Attributes:
      name: Its number in the project's list of claims.
      text: What is measured.
      published: What was published.
      look: ``results -> (what was measured, does it hold)``; None where that was not run.
    """

    name: str
    text: str
    published: str
    look: Callable[[Sequence[Result]], tuple[str, bool] | None]


def power(exponent: float) -> str:
    """A compression, such as ``10^2.5``.

    Args:
      exponent: Its log10.

    Returns:
      The text, with two decimals at most.
    """
    return f"10^{round(exponent, 2):g}"


def of_method(results: Sequence[Result], method: str) -> list[Result]:
    """The cells of a method.

    Args:
      results: Finished cells.
      method: Its name.

    Returns:
      Its cells, the densest first.
    """
    return sorted((r for r in results if r.method == method), key=lambda r: r.exponent)


def first_empty(
    results: Sequence[Result], method: str, enough: Callable[[Sequence[bool]], bool]
) -> Result | None:
    """The lowest compression at which a layer is empty.

    Args:
      results: Finished cells.
      method: The method.
      enough: ``any`` or ``all`` seeds.

    Returns:
      The cell, or None where there is none.
    """
    return next((r for r in of_method(results, method) if enough(r.collapsed)), None)


def _at(results: Sequence[Result], method: str, exponent: float) -> Result | None:
    found = (r for r in of_method(results, method) if r.trained and r.exponent == exponent)
    return next(found, None)


def _empty_text(result: Result) -> str:
    return f"a layer empty in {sum(result.collapsed)} of {len(result.seeds)} seeds"


def _never_empty(results: Sequence[Result]) -> tuple[str, bool] | None:
    mine = of_method(results, "synflow")
    masks = list(itertools.chain.from_iterable(r.collapsed for r in mine))
    text = f"{sum(masks)} of {len(masks)} networks"
    return (text, not any(masks)) if masks else None


def _random_at_chance(results: Sequence[Result]) -> tuple[str, bool] | None:
    cell = _at(results, "random", LAST)
    if cell is None:
        return None
    text = f"{percent_text(cell.test_accuracy)} %, {_empty_text(cell)}"
    return text, statistics.fmean(cell.test_accuracy) < CHANCE


def _magnitude_collapses(results: Sequence[Result]) -> tuple[str, bool] | None:
    mine = [r for r in of_method(results, "magnitude") if r.trained]
    if not mine:
        return None
    at_chance = (r for r in mine if statistics.fmean(r.test_accuracy) < CHANCE)
    cell = next(at_chance, None)
    if cell is None:
        return f"not up to {power(mine[-1].exponent)}", False
    return f"{power(cell.exponent)}, {_empty_text(cell)} there", cell.exponent <= 2.5


def _survives(method: str) -> Callable[[Sequence[Result]], tuple[str, bool] | None]:
    def look(results: Sequence[Result]) -> tuple[str, bool] | None:
        cell = _at(results, method, LAST)
        if cell is None:
            return None
        text = f"{percent_text(cell.test_accuracy)} %, {_empty_text(cell)}"
        return text, not any(cell.collapsed) and statistics.fmean(cell.test_accuracy) >= CHANCE

    return look


def _best_everywhere(results: Sequence[Result]) -> tuple[str, bool] | None:
    others = ("random", "magnitude", "snip", "grasp")
    ahead, compared = [], 0
    for mine in of_method(results, "synflow"):
        rivals = [_at(results, method, mine.exponent) for method in others]
        if not mine.trained or None in rivals:
            continue
        best = max(statistics.fmean(r.test_accuracy) for r in rivals if r is not None)
        compared += 1
        if statistics.fmean(mine.test_accuracy) > best:
            ahead.append(power(mine.exponent))
    if not compared:
        return None
    return f"{len(ahead)} of {compared}: {', '.join(ahead) or 'none'}", len(ahead) == compared


def _once_collapses(results: Sequence[Result]) -> tuple[str, bool] | None:
    if not of_method(results, ONCE):
        return None
    cell = first_empty(results, ONCE, all)
    return ("not at all", False) if cell is None else (f"from {power(cell.exponent)}", True)


def _to_the_end(results: Sequence[Result]) -> tuple[str, bool] | None:
    mine = [r for r in of_method(results, "synflow") if not r.trained]
    if not mine:
        return None
    cell = mine[-1]
    return f"{_empty_text(cell)} at {power(cell.exponent)}", not any(cell.collapsed)


FACTS = (
    Fact("H14", "SynFlow: networks with an empty layer", "none", _never_empty),
    Fact("H14", "random at 10^3: accuracy", "10.0 to 13.5 % (chance)", _random_at_chance),
    Fact(
        "H14",
        "magnitude: at chance from",
        "10^1.5 (ResNet-18), 10^2.5 (VGG)",
        _magnitude_collapses,
    ),
    Fact("H14", "SNIP at 10^3: accuracy", "65.4 to 78.6 %, no collapse", _survives("snip")),
    Fact("H14", "GraSP at 10^3: accuracy", "63.8 to 71.4 %, no collapse", _survives("grasp")),
    Fact(
        "H14",
        "SynFlow above random, magnitude, SNIP, GraSP at",
        "all (VGG-11)",
        _best_everywhere,
    ),
    Fact("H15", "SynFlow in 1 round: a layer empty in every seed", "collapse", _once_collapses),
    Fact("H15", "SynFlow in 100 rounds, a weight a layer", "no collapse", _to_the_end),
)


def _gap(other: str) -> Callable[[Find], list[float]]:
    """SynFlow less another method at 10^3, in percentage points, seed by seed."""

    def values(find: Find) -> list[float]:
        pair = find("synflow", LAST).test_accuracy, find(other, LAST).test_accuracy
        return [100 * (a - b) for a, b in zip(*pair, strict=True)]

    return values


_POINTS = "{:+.2f} ± {:.2f} points"
GAPS = (
    Claim(
        "H14", "at 10^3: SynFlow less SNIP", "+1.3 to +11.5", _gap("snip"), 1.3, 0, _POINTS
    ),
    Claim(
        "H14", "at 10^3: SynFlow less GraSP", "+8.5 to +13.1", _gap("grasp"), 8.5, 0, _POINTS
    ),
)  # fmt: skip


def claim_rows(results: Sequence[Result]) -> list[list[str]]:
    """Every claim with what was measured.

    Args:
      results: Finished cells.

    Returns:
      Rows of a table, under ``lottery_claims.HEADS``.
    """
    trained = {(r.method, r.exponent): r for r in results if r.trained}
    find = lambda method, exponent: trained[method, exponent]
    rows = []
    for fact in FACTS:
        seen = fact.look(results)
        text, holds = (NOT_RUN, "") if seen is None else (seen[0], "yes" if seen[1] else "no")
        rows.append([fact.name, fact.text, fact.published, text, holds])
    rows += [row_of(claim, find) for claim in GAPS]
    return sorted(rows, key=lambda row: row[0])


def sentences(rows: Sequence[Sequence[str]], seeds: int) -> list[str]:
    """What became of each claim, in words.

    Args:
      rows: From ``claim_rows``.
      seeds: Their number.

    Returns:
      A sentence or two for each claim.
    """
    said = []
    for name in dict.fromkeys(row[0] for row in rows):
        mine = [row for row in rows if row[0] == name and row[4]]
        missing = sum(row[0] == name for row in rows) - len(mine)
        held = [row for row in mine if row[4].startswith("yes")]
        how = " in part" if len(held) < len(mine) else ""
        what = (
            "was not tested here"
            if not mine
            else f"holds here{how}"
            if held
            else "does not hold here"
        )
        text = f"**{name} {what}**: {len(held)} of {len(mine)} statements, {seeds} seeds."
        others = [
            f"{row[1]} {row[3]}{'' if row[4] == 'no' else f', {row[4]}'} (published: {row[2]})"
            for row in mine
            if row not in held
        ]
        if others:
            text += f" Not so: {'; '.join(others)}."
        if missing:
            text += f" Not run yet: {missing}."
        said.append(text)
    return said
