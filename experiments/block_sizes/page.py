"""The page of the study of block sizes."""

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..claims import NOT_RUN, Claim, claims_table, conclusion, points_text, verdict
from ..tables import MISSING, aligned_markdown, percent_text, seconds_text, sparsity_text
from .cells import Cell, Study, cells_of
from .comparison import (
    AXES,
    Find,
    block_claims,
    dense_claims,
    found_of,
    gap,
    time_of_equals,
)


def study_of(about: dict[str, Any]) -> Study:
    """The study that numbers are of.

    Args:
      about: What its JSON file holds.

    Returns:
      The study.
    """
    tuples: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in about["config"].items()
    }
    return Study(**tuples)


def label(cell: Cell) -> str:
    """What a network is called on the page.

    Args:
      cell: The network.

    Returns:
      Such as ``1280 wide, 16x16, 90 %``.
    """
    kind = f"{cell.block}x{cell.block}, {sparsity_text(cell.sparsity)}" if cell.block else "dense"
    kind += ", resized images" * cell.control
    return f"{cell.width} wide, {kind}"


def answer(find: Find, cells: Mapping[str, Cell]) -> str:
    """Is a sparse network the better use of an hour than a dense one? For which it is.

    Args:
      find: All cells.
      cells: Their networks.

    Returns:
      A paragraph of Markdown.
    """
    said: dict[str, list[str]] = {}
    for claim in dense_claims(cells, "time"):
        try:
            words = verdict(claim, claim.values(find)).split(",")[0]
        except KeyError:
            words = NOT_RUN
        said.setdefault(words, []).append(label(cells[claim.name]))
    heads = {
        "yes": "More accurate than the dense network that takes no longer",
        "no": "Less accurate than it",
        "not resolved": "Not resolved",
        "one seed: not tested": "One seed, not tested",
        NOT_RUN: "Not run, or faster than every dense network",
    }
    number = sum(map(len, said.values()))
    parts = [
        f"{head} ({len(said[words])} of {number}): {'; '.join(said[words])}."
        for words, head in heads.items()
        if words in said
    ]
    return "**The better use of an hour?** " + "\n".join(parts)


def markdown(about: dict[str, Any]) -> str:
    """The page.

    Args:
      about: What the JSON file of the study holds.

    Returns:
      Markdown.
    """
    study = study_of(about)
    cells = cells_of(study)
    find = found_of(about, cells)
    total = len(cells) * study.seeds
    done = len(about["results"])
    part = (
        f'**Unfinished: {done} of {total} trainings.** What is missing is "{MISSING}", or said to '
        "be not run.\n\n"
        if done < total
        else ""
    )
    blocks = block_claims(cells, study.width)
    cost = conclusion("Blocks cost accuracy, at the same number of weights", blocks, find)
    return f"""# Block sizes: what they cost in accuracy and buy in time, on {study.data}

{part}{cost}

{answer(find, cells)}

{setting_text(study)}

![accuracy over kept weights, FLOPs and step time](block_sizes.png)

## Accuracy, and what it took

Training FLOPs and step time are relative to the dense network of {study.dense_widths[0]} units.
Single weights and 4x4 are packed too, which saves memory; their products are dense.

{accuracy_table(find, cells)}
## Against dense networks that cost the same

Accuracy less that of a dense network of equal cost, in points, mean ± standard error of the
differences seed by seed; the dense accuracy is interpolated between widths over the logarithm of
the cost; what costs more than the widest is compared with the widest. Last column: how long a dense
network as accurate trains, over the time of this one (inf: none here is as accurate; 0: all are).
{control_text(find, cells)}

{dense_table(find, cells)}
## What blocks cost

Seed by seed, mean ± standard error; a claim holds by the 95 % confidence interval of the mean (t),
without a correction for number.

{claims_table(blocks, find)}
## Step times

{times_text(about)}

{times_table(about, cells)}
{footer(about)}"""


def setting_text(study: Study) -> str:
    """How networks are trained.

    Args:
      study: The study.

    Returns:
      A paragraph of Markdown.
    """
    height, width = study.image
    return textwrap.fill(
        f"`python -m experiments.block_sizes`: two hidden layers of {study.width} units and a "
        f"dense last one; {study.steps} steps of {study.batch_size} images, Adam at "
        f"{study.learning_rate:g} with warm-up and cosine decay. RigL drops and grows every "
        f"{study.interval} steps until {100 * study.stop:g} % of them, {study.drop_fraction:g} of "
        "the weights at first. Each hidden layer keeps the same share of its weights, and in "
        "blocks each block column as many. Sparse networks take images resized to "
        f"{height} x {width}, which all blocks divide; dense ones take them as they are. First "
        f"weights are He's, scaled by the inputs that are kept. {study.seeds} seeds; test accuracy "
        "at the last step, nothing was selected on the test images; mean ± standard deviation. "
        "With a seed all networks see the same batches.",
        100,
    )


def accuracy_table(find: Find, cells: Mapping[str, Cell]) -> str:
    """Every network: accuracy and cost.

    Args:
      find: All cells.
      cells: Their networks.

    Returns:
      Markdown.
    """
    heads = ["network", "test accuracy (%)", *AXES.values()]
    body = []
    for name, cell in _in_order(cells):
        row = find.get(name)
        if row is None:
            body.append([label(cell), *[MISSING] * 4])
            continue
        accuracy = percent_text(list(row.accuracy.values()))
        body.append([label(cell), accuracy, f"{row.kept:,}", _number(row.flops), _number(row.time)])
    return aligned_markdown(heads, body)


def dense_table(find: Find, cells: Mapping[str, Cell]) -> str:
    """Every sparse network against dense ones of equal cost.

    Args:
      find: All cells.
      cells: Their networks.

    Returns:
      Markdown.
    """
    heads = ["network", *[f"at equal {what}" for what in AXES.values()], "dense time for equal"]
    by = {axis: {claim.name: claim for claim in dense_claims(cells, axis)} for axis in AXES}
    body = [
        [
            label(cell),
            *[_measured(claims[name], find) for claims in by.values()],
            _number(time_of_equals(find, name)) if name in find else MISSING,
        ]
        for name, cell in _in_order(cells)
        if cell.block
    ]
    return aligned_markdown(heads, body)


def control_text(find: Find, cells: Mapping[str, Cell]) -> str:
    """What resized images do by themselves.

    Args:
      find: All cells.
      cells: Their networks.

    Returns:
      A sentence of Markdown; nothing where no dense network was trained on them.
    """
    said = [
        f"{points_text(gap(name, Cell(cell.width).name)(find))} points at {cell.width} units"
        for name, cell in cells.items()
        if cell.control and {name, Cell(cell.width).name} <= find.keys()
    ]
    return f"Resized images alone change a dense network by {' and '.join(said)}." if said else ""


def times_text(about: dict[str, Any]) -> str:
    """How step times were measured.

    Args:
      about: What the JSON file of the study holds.

    Returns:
      A paragraph of Markdown.
    """
    if "times" not in about:
        return "Not measured."
    found = about["times"]
    return (
        "`python -m experiments.block_sizes --times-only`: in each of "
        f"{found['rounds']} rounds every network takes a few steps\nright after as many of the "
        "dense one; medians of the ratios, and the quartiles of their mean over a\ntraining, steps "
        f"at which masks move in their share. {_where(found['environment'])}."
    )


def times_table(about: dict[str, Any], cells: Mapping[str, Cell]) -> str:
    """Step times between updates of the masks, and at them.

    Args:
      about: What the JSON file of the study holds.
      cells: All networks.

    Returns:
      Markdown; nothing where there are none.
    """
    times = about.get("times", {}).get("cells", {})
    body = []
    for name, cell in _in_order(cells):
        if name in times:
            row = times[name]
            spread = " to ".join(map(_number, row["quartiles"]))
            move = _number(row["move"]) if cell.block else MISSING
            body.append([label(cell), _number(row["between"]), move, _number(row["ratio"]), spread])
    heads = ["network", "between updates", "at an update", "mean", "quartiles"]
    return aligned_markdown(heads, body) if body else ""


def footer(about: dict[str, Any]) -> str:
    """Versions, hardware, commits, minutes.

    Args:
      about: What the JSON file of the study holds.

    Returns:
      The last lines of the page.
    """
    rows = about["results"].values()
    commits = ", ".join(dict.fromkeys(row["commit"] for row in rows)) or "none"
    minutes = seconds_text(sum(row["seconds"] for row in rows))
    bad = sum(row["nonfinite"] for row in rows)
    return (
        f"\nSteps with a loss that was not finite: {bad}. Trained: {_where(about['environment'])}; "
        f"commits of the\nresults {commits}; {minutes} on a machine that did other work too.\n"
    )


def _where(environment: dict[str, Any]) -> str:
    return (
        f"{environment['hardware']}; Python {environment['python']}, jax {environment['jax']}, "
        f"optax {environment['optax']};\ncommit {environment['commit']}, {environment['date']}"
    )


def _in_order(cells: Mapping[str, Cell]) -> list[tuple[str, Cell]]:
    """Dense networks from the widest down, then sparse ones by width, sparsity and block."""
    key: Callable[[Any], Any] = lambda item: (
        item[1].control + 2 * (item[1].block > 0),
        item[1].width if item[1].block else -item[1].width,
        item[1].sparsity,
        item[1].block,
    )
    return sorted(cells.items(), key=key)


def _measured(claim: Claim, find: Find) -> str:
    try:
        values: Sequence[float] = claim.values(find)
    except KeyError:
        return MISSING
    return points_text(values)


def _number(value: float) -> str:
    return MISSING if math.isnan(value) else f"{value:.3g}"
