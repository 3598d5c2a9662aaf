"""What a study of lottery tickets shows: its page, with the tables."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from .claims import MARGIN, claims_table, differences, points_text
from .lottery_claims import CLAIMS, finder
from .rounds import Result
from .tables import MISSING, aligned_markdown, mean_and_sd, percent_text

ARMS = {
    "ticket": "ticket",
    "reinit": "random reinitialization",
    "random": "random mask",
    "one_shot": "one-shot",
    "continued": "not reset",
}


def line(result: Result) -> str:
    """A finished training in one line.

    Args:
      result: Its numbers.

    Returns:
      The line.
    """
    stop = statistics.fmean(result.best_step)
    return (
        f"{result.cell:30} {100 * result.density:5.1f} % kept  test accuracy "
        f"{100 * statistics.fmean(result.test_accuracy):.2f} % at {stop:.0f}  "
        f"({result.seconds:.0f} s)"
    )


def _stop_text(result: Result) -> str:
    """Iteration of least validation loss; how often that was the last one."""
    mean, sd = mean_and_sd(result.best_step)
    text = f"{mean:,.0f}" if sd is None else f"{mean:,.0f} ± {sd:,.0f}"
    late = sum(step == result.steps for step in result.best_step)
    return f"{text} ({late} at the end)" if late else text


def _arms_table(results: Sequence[Result], text: Callable[[Result], str]) -> str:
    """A row a density, a column an arm."""
    arms = [arm for arm in ARMS if any(r.arm == arm for r in results)]
    rows = []
    for number in sorted({r.round for r in results if r.arm in ("dense", *ARMS)}):
        mine = {r.arm: r for r in results if r.round == number}
        first = next(r for arm, r in mine.items() if arm in ("dense", *ARMS))
        cells = [text(mine[arm]) if arm in mine else "" for arm in arms]
        if number == 0:
            cells = [f"dense: {text(mine['dense'])}", *[""] * (len(arms) - 1)]
        rows.append([f"{100 * first.density:.1f} %", str(number), *cells])
    heads = ["kept", "round", *(ARMS[arm] for arm in arms)]
    return aligned_markdown(heads, rows) if arms else aligned_markdown(heads[:2], [])


def _transfer_table(results: Sequence[Result]) -> str:
    """Carried tickets beside those found on the data set itself, and random masks."""
    by = {(r.data, r.arm, r.round): r for r in results}
    rows = []
    for data, arm, number in by:
        if arm != "carried":
            continue
        carried = by[data, arm, number]
        others = [by.get((data, other, number)) for other in ("ticket", "random")]
        dense = by.get((data, "dense", 0))
        gaps = [
            _difference_text(other, carried, sign)
            for other, sign in zip(others, (1, -1), strict=True)
        ]
        cells = [percent_text(r.test_accuracy) if r else MISSING for r in (dense, *others)]
        accuracies = [cells[0], cells[1], percent_text(carried.test_accuracy), cells[2]]
        rows.append([data, f"{100 * carried.density:.1f} %", *accuracies, *gaps])
    heads = ["trained on", "kept", "dense", "own ticket", "carried ticket", "random mask"]
    return aligned_markdown([*heads, "own - carried", "carried - random"], rows) if rows else ""


def _difference_text(first: Result | None, second: Result, sign: int) -> str:
    if first is None:
        return MISSING
    pair = (first.test_accuracy, second.test_accuracy)[::sign]
    return points_text(differences(*pair))


def markdown(results: Sequence[Result], about: dict[str, Any]) -> str:
    """The page of the study.

    Args:
      results: Finished trainings.
      about: What ``run.json`` holds.

    Returns:
      Markdown.
    """
    config, environment = about["config"], about["environment"]
    own = [r for r in results if r.data == config["data"]]
    missing = len(about["cells"]) - len(results)
    minutes = sum(r.seconds for r in results) / 60
    loops = sum(map(sum, (r.nonfinite for r in results)))
    done = max((r.round for r in own if r.arm == "ticket"), default=0)
    part = (
        f"**Unfinished: {len(results)} of {len(about['cells'])} trainings, tickets of {done} of "
        f"{config['rounds']} rounds.** What is missing is blank, or said to be not run.\n\n"
        if missing
        else ""
    )
    seeds = f"{config['seeds']} seed{'s' * (config['seeds'] != 1)}"
    rewind = (
        f" Everything starts after {config['rewind_steps']} dense steps (late rewinding)."
        if config["rewind_steps"]
        else ""
    )
    rates = f"{config['fraction']:.0%} of the weights left"
    rates += (
        f" in each layer, {config['output_fraction']:.0%} in the output layer"
        if config["scope"] == "layer"
        else ", layers competing"
    )
    transfer = _transfer_table(results)
    carried = (
        f"""
## Tickets on another data set

A mask found on one data set, trained on the other from the same first weights as the ticket found
there: {"only the masks differ" if not rewind else "masks and rewound weights differ"}. Differences
in percentage points, seed by seed, mean ± standard error.

{transfer}"""
        if transfer
        else ""
    )
    return f"""# Lottery tickets: {_network(config)} on {config["data"]}

{part}`python -m experiments.lottery_tickets`: {config["iterations"]:,} iterations a training (the
paper: 50,000), batches of {config["batch_size"]}, Adam at {config["learning_rate"]:g}, Glorot
normal, {config["rounds"]} rounds that prune {rates}. {seeds},
mean ± standard deviation.{rewind} The early stop is the iteration of least loss on
{config["validation"]:,} training images held out, evaluated every {config["evaluate_every"]};
nothing was selected on the test images. In a round all arms see the same batches.

Ticket: reset to its first weights. Random reinitialization: its mask, other first weights. Random
mask: its count in each layer, its first weights. One-shot: its counts, pruned at once from the
trained dense network, reset. Not reset: pruned round by round, going on from the trained weights.

![accuracy and early stop against the weights kept](lottery_tickets.png)

## Test accuracy at the early stop (%)

{_arms_table(own, lambda r: percent_text(r.test_accuracy))}
## Iteration of the early stop

"n at the end": in n seeds the least loss was the last one evaluated, so the number is too small.

{_arms_table(own, _stop_text)}
## Test accuracy at the last iteration (%)

{_arms_table(own, lambda r: percent_text(r.last_test_accuracy))}
## Claims

Accuracy is that at the early stop; differences and ratios are seed by seed, mean ± standard error.
"Holds" goes by the 95 % confidence interval of the mean (t, {seeds}), without a correction for the
number of claims; accuracies within {MARGIN} points count as the same.

{claims_table(CLAIMS, finder(results, config["data"]))}{_bound(own)}{carried}
Published: Frankle & Carbin, ICLR 2019 (50,000 iterations, 60,000 images less 5,000).
{f"Steps with a loss or gradient that was not finite, over all seeds: {loops}." if loops else ""}
{environment["hardware"]}; Python {environment["python"]}, jax {environment["jax"]}, flax
{environment["flax"]}, optax {environment["optax"]}; commit {environment["commit"]},
{environment["date"]}; {minutes:.0f} minutes of training.
"""


def _bound(results: Sequence[Result]) -> str:
    """Says so where a ratio of iterations is only a bound."""
    late = {
        f"{100 * r.density:.1f} %": sum(step == r.steps for step in r.best_step)
        for r in results
        if r.arm == "reinit"
    }
    number = late.get("21.1 %", 0)
    return (
        f"\nReinitialized at 21.1 %, {number} of {len(results[0].seeds)} seeds were still at their "
        "least loss when training ended: that ratio of iterations is a lower bound.\n"
        if number
        else ""
    )


def _network(config: dict[str, Any]) -> str:
    return "LeNet-" + "-".join(map(str, config["widths"]))
