"""Every method on MNIST LeNet-300-100, the same steps: ``python -m experiments.compare_methods``.

All methods of the registry at 90, 95 and 98 % (those without a sparsity once, with their own
penalty), 3 epochs, 5 seeds; the table and the figure go to ``experiments/results/``. Expected:
moving masks end above a fixed random one; a method below it is looked into, in the page. About
an hour on two CPU cores; a stopped run goes on with ``--resume``.
"""

import dataclasses
import pathlib
import statistics
import sys
from typing import Any

import tyro
from matplotlib.figure import Figure

import jaxsparse

from . import records, step_times, study
from .config import Config, preset
from .tables import aligned_markdown, percent_text, sparsity_text

BASE = "mnist-lenet-300-100"
# Test accuracy of LeNet-300-100, github.com/TimDettmers/sparse_learning: MNIST_sparse_summary.csv,
# and for SNIP the compression table beside it.
PUBLISHED = {
    ("dense", 0.0): 0.9869,
    ("dsr", 0.9): 0.9844,
    ("dsr", 0.95): 0.9832,
    ("dsr", 0.98): 0.9814,
    ("snfs", 0.9): 0.9867,
    ("snfs", 0.95): 0.9853,
    ("snfs", 0.98): 0.9820,
    ("set", 0.9): 0.9839,
    ("set", 0.95): 0.9814,
    ("set", 0.98): 0.9774,
    ("deep_r", 0.9): 0.9819,
    ("deep_r", 0.95): 0.9806,
    ("deep_r", 0.98): 0.9821,
    ("snip", 0.95): 0.984,
    ("snip", 0.98): 0.976,
}
CONTROL = "static"
# Of the methods that prune before training, SNIP stands for all.
_LEFT_OUT = ("iterative_snip", "force", "grasp", "synflow")
_HEADS = [
    "method", "sparsity", "accuracy (%)", "published", "kept", "training FLOPs", "R_s", "step time",
]  # fmt: skip


def configuration() -> Config:
    """The run: all methods but four, three epochs.

    Returns:
      A ``Config``.
    """
    base = preset(BASE)
    return dataclasses.replace(
        base,
        methods=tuple(name for name in jaxsparse.ALGORITHMS if name not in _LEFT_OUT),
        sparsities=(0.9, 0.95, 0.98),
        epochs=3,
        evaluate_every=3,
        exploration=True,
    )


def _row(result: records.Result, times: dict[str, float]) -> list[str]:
    known = PUBLISHED.get((result.method, result.sparsity))
    low, high = min(result.kept), max(result.kept)
    return [
        result.method,
        sparsity_text(result.sparsity) if result.sparsity else "",
        percent_text(result.test_accuracy),
        f"{100 * known:.2f}" if known else "",
        f"{low:,}" if low == high else f"{low:,} to {high:,}",
        f"{statistics.fmean(result.training_flops):.4f}",
        f"{statistics.fmean(result.exploration):.3f}" if result.exploration else "",
        f"{times[result.method]:.2f}" if result.method in times else "",
    ]


def below_control(results: list[records.Result]) -> list[str]:
    """The cells that end below static random pruning by more than two standard errors.

    Args:
      results: All cells.

    Returns:
      A line each.
    """
    control = {r.sparsity: r for r in results if r.method == CONTROL}
    lines = []
    for result in results:
        other = control.get(result.sparsity)
        if other is None or other is result:
            continue
        mean, error = study.difference(result, other)
        if mean < -2 * error:
            lines.append(
                f"- {result.method}, {sparsity_text(result.sparsity)}: {mean:+.2f} ± {error:.2f}"
            )
    return lines


def beside_published(results: list[records.Result]) -> list[list[str]]:
    """How far below dense each cell ends, here and where it was published: budgets differ less so.

    Args:
      results: All cells.

    Returns:
      Rows of a table: method, sparsity, both differences in percentage points.
    """
    mean = {r.cell: 100 * statistics.fmean(r.test_accuracy) for r in results}
    dense = next((mean[r.cell] for r in results if r.method == "dense"), None)
    rows = []
    for result in results:
        known = PUBLISHED.get((result.method, result.sparsity))
        if known is None or dense is None or result.method == "dense":
            continue
        gaps = mean[result.cell] - dense, 100 * (known - PUBLISHED["dense", 0.0])
        text = sparsity_text(result.sparsity)
        rows.append([result.method, text, *(f"{gap:+.2f}" for gap in gaps)])
    return rows


def markdown(results: list[records.Result], about: dict[str, Any]) -> str:
    """The page of the study.

    Args:
      results: The finished cells.
      about: What ``run.json`` holds.

    Returns:
      Markdown.
    """
    ordered = sorted(results, key=lambda r: (r.sparsity, -statistics.fmean(r.test_accuracy)))
    config, environment = about["config"], about["environment"]
    optimizer, pruning = config["optimizer"], config["pruning"]
    minutes = sum(result.seconds for result in results) / 60
    lines = below_control(results) or ["None."]
    return f"""# Every method on MNIST, LeNet-300-100

`python -m experiments.compare_methods`: {config["epochs"]} epochs ({results[0].steps:,} steps of
{config["batch_size"]}), {optimizer["name"]} with Nesterov momentum {optimizer["momentum"]},
learning rate {optimizer["learning_rate"]} with {optimizer["decay"]} decay,
L2 {optimizer["weight_decay"]};
{pruning["distribution"].upper()} where layers have budgets; masks move every {pruning["interval"]}
steps until {pruning["stop"]:.0%} of the run; one-shot methods prune at {pruning["one_shot"]:.0%} of
it and train on. Nothing was tuned for any method; one that needs Adam (see `docs/methods.md`) has
it, with a learning rate of 0.001. {len(results[0].seeds)} seeds,
{len(results)} of {len(about["cells"])} cells. Accuracy at the last step on the 10,000 test images,
mean ± standard deviation; nothing was selected on them. Kept weights are exact counts, biases not
counted. Training FLOPs are fractions of dense training, counted from the masks and updates of the
run (Top-KAST's from its budgets: its gradients are those of a set twice as large). R_s: share of
the weights that were ever kept (Liu et al., 2021). Step time: relative to dense, in turns with it
(median of five stretches of 100 steps, updates included); masks simulate sparsity,
so it is the cost of the method.

{aligned_markdown(_HEADS, [_row(result, about.get("step_times", {})) for result in ordered])}
Published: TimDettmers/sparse_learning; another training budget, other layer-wise sparsities.

## Beside published numbers

Difference to the dense network of the same study (percentage points). The published training is
longer; [with 20 epochs](compare_checks.md) the distances shrink.

{aligned_markdown(["method", "sparsity", "here", "published"], beside_published(results))}
## Below static random pruning

By more than two standard errors of the paired differences (percentage points). Looked into in
[compare_checks.md](compare_checks.md).

{chr(10).join(lines)}

{environment["hardware"]}; Python {environment["python"]}, jax {environment["jax"]}, flax
{environment["flax"]}, optax {environment["optax"]}; commit {environment["commit"]},
{environment["date"]}; {minutes:.0f} minutes of training, on a machine that did other work too.
"""


def figure(run: pathlib.Path, path: pathlib.Path) -> None:
    """Accuracy of every method, a row each, a mark a sparsity.

    Args:
      run: Folder of the run.
      path: The PNG file.
    """
    results = records.read_results(run)
    sparsities = sorted({r.sparsity for r in results if r.sparsity})
    mean = lambda r: 100 * statistics.fmean(r.test_accuracy)
    best = {r.method: max(mean(o) for o in results if o.method == r.method) for r in results}
    methods = sorted(best, key=lambda name: best[name])
    drawn = Figure(figsize=(7, 1.2 + 0.24 * len(methods)), layout="constrained")
    axes = drawn.subplots()
    axes.set_axisbelow(True)
    axes.grid(axis="x", color="0.88")
    colors = dict(zip(sparsities, ("#2a6f97", "#e09f3e", "#9e2a2b", "#540b0e"), strict=False))
    for sparsity in [0.0, *sparsities]:
        cells = [r for r in results if r.sparsity == sparsity]
        spread = [100 * statistics.stdev(r.test_accuracy) for r in cells if len(r.seeds) > 1]
        axes.errorbar(
            [mean(r) for r in cells],
            [methods.index(r.method) for r in cells],
            xerr=spread or None,
            fmt="o",
            markersize=4,
            color=colors.get(sparsity, "0.35"),
            label=sparsity_text(sparsity) if sparsity else "own sparsity, or dense",
        )
    control = [mean(r) for r in results if r.method == CONTROL]
    low = min(control, default=90.0) - 3
    left = max(low, min(map(mean, results)) - 0.5)
    axes.set_xlim(left, 99)
    for row, method in enumerate(methods):
        off = [r for r in results if r.method == method and mean(r) < left]
        for place, result in enumerate(sorted(off, key=lambda r: r.sparsity)):
            at, color = (left + 0.55 * place, row), colors.get(result.sparsity, "0.35")
            axes.annotate(f"◂ {mean(result):.1f}", at, fontsize=7, va="center", color=color)
    axes.set_yticks(range(len(methods)), methods, fontsize=8)
    axes.set_xlabel("test accuracy (%), mean ± standard deviation")
    axes.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False)
    drawn.savefig(path, dpi=150, facecolor="white")


def main(arguments: study.Arguments) -> int:
    """Train and write the results.

    Args:
      arguments: The command line.

    Returns:
      Exit code.
    """
    name = "compare_methods"
    run, after = configuration(), step_times.measure
    return study.main(arguments, name, "compare-methods", run, markdown, figure, after)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(study.Arguments, description=__doc__)))
