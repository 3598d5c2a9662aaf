"""What the study of pruning at initialization shows: its page, with the tables."""

import math
import textwrap
from collections.abc import Sequence
from typing import Any

from ..lottery_claims import HEADS
from ..tables import MISSING, aligned_markdown, mean_and_sd, percent_text
from .cells import METHODS, ONCE, Result, kept_count
from .claims import CHANCE, LAST, claim_rows, first_empty, of_method, power, sentences

LABELS = {
    "random": "random",
    "magnitude": "magnitude",
    "snip": "SNIP",
    "grasp": "GraSP",
    "force": "FORCE",
    "synflow": "SynFlow",
    ONCE: "SynFlow, 1 round",
}


def accuracy_table(results: Sequence[Result]) -> str:
    """A row a compression, a column a method; empty layers are marked.

    Args:
      results: Finished cells.

    Returns:
      Markdown.
    """
    trained = [r for r in results if r.trained and r.method != "dense"]
    by = {(r.method, r.exponent): r for r in trained}
    rows = []
    for exponent in sorted({r.exponent for r in trained}):
        mine = [by.get((method, exponent)) for method in METHODS]
        kept = next(sum(n[0] for n in r.kept.values()) for r in mine if r is not None)
        rows.append([power(exponent), f"{kept:,}", *map(_accuracy_text, mine)])
    return aligned_markdown(["compression", "kept", *(LABELS[m] for m in METHODS)], rows)


def _accuracy_text(result: Result | None) -> str:
    if result is None:
        return MISSING
    empty = sum(result.collapsed)
    mark = f" [{empty} of {len(result.seeds)} empty]" if empty else ""
    return percent_text(result.test_accuracy) + mark


def collapse_table(results: Sequence[Result]) -> str:
    """From which compression on a layer is empty, for each method.

    Args:
      results: Finished cells.

    Returns:
      Markdown.
    """
    rows = []
    for method, label in LABELS.items():
        mine = of_method(results, method)
        last = [r for r in mine if not r.trained]
        if not mine:
            continue
        first = [first_empty(results, method, enough) for enough in (any, all)]
        found = [MISSING if r is None else power(r.exponent) for r in first]
        empty = f"{sum(last[-1].collapsed)} of {len(last[-1].seeds)} seeds" if last else MISSING
        rows.append([label, *found, empty])
    heads = ["method", "in any seed from", "in every seed from", "at the highest compression"]
    return aligned_markdown(heads, rows)


def cut_off(results: Sequence[Result]) -> str:
    """Which networks stay at chance although each of their layers has weights.

    Args:
      results: Finished cells.

    Returns:
      A sentence.
    """
    found = []
    for result in (r for r in results if r.trained):
        pairs = zip(result.test_accuracy, result.collapsed, strict=True)
        number = sum(accuracy < CHANCE and not empty for accuracy, empty in pairs)
        if number:
            label = LABELS.get(result.method, result.method)
            found.append(
                f"{label} at {power(result.exponent)} ({number} seed{'s' * (number != 1)})"
            )
    listed = f": {', '.join(found)}" if found else ": none"
    return f"At chance after training, although no layer is empty{listed}."


def markdown(results: Sequence[Result], about: dict[str, Any]) -> str:
    """The page of the study.

    Args:
      results: Finished cells.
      about: What ``run.json`` holds.

    Returns:
      Markdown.
    """
    config, environment = about["config"], about["environment"]
    optimizer, seeds = config["optimizer"], config["seeds"]
    total = len(about["cells"])
    part = (
        f'**Unfinished: {len(results)} of {total} cells.** What is missing is "{MISSING}", or '
        "said to be not run.\n\n"
        if len(results) < total
        else ""
    )
    sizes = results[0].sizes if results else {}
    weights, layers = sum(sizes.values()), len(sizes)
    highest = power(math.log10(weights / layers)) if layers else MISSING
    blocks = ", ".join("-".join(map(str, block)) for block in config["widths"])
    dense = next((percent_text(r.test_accuracy) for r in results if r.method == "dense"), MISSING)
    rows = claim_rows(results)
    loss = max((mean_and_sd(r.test_loss)[0] for r in results if r.trained), default=math.nan)
    finite = "" if math.isfinite(loss) else " Some losses were not finite."
    minutes = sum(r.seconds for r in results) / 60
    said = "\n\n".join(sentences(rows, seeds))
    setting = _filled(f"""
`python -m experiments.pruning_at_init`: 3x3 convolutions of {blocks} channels with batch
normalization, max pooling after each block, and a linear layer: {layers} layers and {weights:,}
weights that compete for the budget (biases and normalization stay). Compression is weights over
weights kept, exact to the weight; the highest that can leave a weight in each layer is {highest}.
{config["steps"]} steps of {config["batch_size"]} images, SGD with Nesterov momentum
{optimizer["momentum"]}, learning rate {optimizer["learning_rate"]} with {optimizer["decay"]} decay,
L2 {optimizer["weight_decay"]}; {seeds} seeds, test accuracy at the last step, mean ± standard
deviation. Dense: {dense} %.{finite}""")
    differences = _filled(f"""
Differences from Tanaka et al. (2020): their networks are VGG-11, VGG-16 and ResNet-18 of 9 to 15
million weights on CIFAR-10, trained for 160 epochs (8,000,000 images; here
{config["steps"] * config["batch_size"]:,}); at 10^3 theirs keep thousands of weights, this one
{kept_count(weights, layers, LAST)}. FORCE (de Jorge et al., 2021) is
not among their methods. As in their code, all methods score in evaluation mode, with the batch
statistics of initialization; SNIP, GraSP and magnitude at once, SynFlow in
{config["synflow_rounds"]} rounds, and FORCE in {config["force_rounds"]}. SNIP, GraSP and FORCE see
ten training images of each class, the same for all seeds. The weights that are scored are those
that are trained.""")
    return f"""# Pruning at initialization: a small VGG on {config["data"]}

{part}{said}

{setting}

{differences}

![accuracy and the weights left in each layer](pruning_at_init.png)

## Test accuracy (%)

"[n of m empty]": in n seeds a layer has no weight left.

{accuracy_table(results)}
## Empty layers

From masks alone, trained or not; the highest compression is {highest}. Only compressions in the
table above and the highest were tried{_once_note(results)}.

{collapse_table(results)}
{cut_off(results)} Weights that are left need not form a path from the input to the output.

## Claims

Published: Tanaka et al., NeurIPS 2020, in the numbers of the authors' result files (CIFAR-10, 3
seeds): there SNIP and GraSP do **not** collapse up to 10^3, although that is often said. Below
{100 * CHANCE:g} % counts as chance. Differences are seed by seed, mean ± standard error; they hold
by the 95 % confidence interval of the mean (t, {seeds} seeds), without a correction for number.

{aligned_markdown(HEADS, rows)}
{environment["hardware"]}; Python {environment["python"]}, jax {environment["jax"]}, flax
{environment["flax"]}, optax {environment["optax"]}; commit {environment["commit"]},
{environment["date"]}; {minutes:.0f} minutes on one core of a busy machine.
"""


def _once_note(results: Sequence[Result]) -> str:
    return "; SynFlow in one round was not trained" if of_method(results, ONCE) else ""


def _filled(text: str) -> str:
    """A paragraph in lines of even length, whatever numbers it has."""
    return textwrap.fill(" ".join(text.split()), 110, break_on_hyphens=False)
