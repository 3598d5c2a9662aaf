"""The claims of the lottery ticket literature, as numbers of each seed."""

from collections.abc import Callable, Sequence
from typing import Any

from .claims import POINTS, Claim, differences
from .rounds import Result

Find = Callable[[str, float], Any]
"""``(arm, weights kept in percent) -> result``; a KeyError where there is none."""


def _gap(first: str, second: str, density: float, second_density: float | None = None) -> Any:
    """Difference in test accuracy at the early stop, in percentage points, seed by seed."""

    def values(find: Find) -> list[float]:
        other = density if second_density is None else second_density
        return differences(find(first, density).test_accuracy, find(second, other).test_accuracy)

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
        POINTS,
    ),
    Claim(
        "H10",
        "ticket at 13.5 %: accuracy less that of dense",
        "more than +0.3",
        _gap("ticket", "dense", 13.5, 100),
        0.3,
        0,
        POINTS,
    ),
    Claim(
        "H10",
        "ticket at 3.6 %: accuracy less that of dense",
        "the same",
        _gap("ticket", "dense", 3.6, 100),
        None,
        0,
        POINTS,
    ),
    Claim(
        "H11",
        "at 21.1 %: ticket less reinitialized",
        "+0.5",
        _gap("ticket", "reinit", 21.1),
        0.5,
        0,
        POINTS,
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
        POINTS,
    ),
    Claim(
        "H11",
        "at 21.1 %: reinitialized less random mask",
        "above (appendix E)",
        _gap("reinit", "random", 21.1),
        0,
        0,
        POINTS,
    ),
    *(
        Claim(
            "H12",
            f"at {density} %: {text}",
            published,
            _gap("ticket", arm, density),
            0,
            0,
            POINTS,
        )
        for arm, text, published in (
            ("one_shot", "iterative less one-shot", "above, below 17 %"),
            ("continued", "reset less not reset", "above"),
        )
        for density in (13.5, 7.0, 3.6)
    ),
)


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
