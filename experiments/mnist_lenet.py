"""MNIST LeNet-300-100: does moving the mask pay? ``python -m experiments.mnist_lenet``.

Claim (Mocanu et al., 2018; Evci et al., 2020): at the same number of weights, networks whose mask
moves during training end above those with a fixed random mask, the more so the sparser they are.
Dense, static, SET, RigL and gradual pruning at 90, 95, 98 and 99 %, 20 epochs, 5 seeds; the
table goes to ``experiments/results/``. Expected at 98 and 99 %: SET and RigL above static by more
than the spread. About 35 minutes on two CPU cores; a stopped run goes on with ``--resume``.
"""

import statistics
import sys
from typing import Any

import tyro

from . import records, study
from .config import preset
from .report import save_accuracy_png
from .tables import aligned_markdown, percent_text, sparsity_text

PRESET = "mnist-lenet-300-100"
# Test accuracy of LeNet-300-100, github.com/TimDettmers/sparse_learning,
# results/MNIST_sparse_summary.csv.
PUBLISHED = {
    ("dense", 0.0): 0.9869,
    ("set", 0.9): 0.9839,
    ("set", 0.95): 0.9814,
    ("set", 0.98): 0.9774,
    ("set", 0.99): 0.9580,
}


def markdown(results: list[records.Result], about: dict[str, Any]) -> str:
    """The page of the study.

    Args:
      results: All cells of the run.
      about: What ``run.json`` holds.

    Returns:
      Markdown.
    """
    by_cell = {(r.method, r.sparsity): r for r in results}
    sparsities = sorted({r.sparsity for r in results if r.sparsity})
    heads = ["method", "sparsity", "accuracy (%)", "published", "kept", "FLOPs", "training FLOPs"]
    rows = []
    for r in results:
        known = PUBLISHED.get((r.method, r.sparsity))
        costs = (statistics.fmean(cost) for cost in (r.inference_flops, r.training_flops))
        rows.append(
            [
                r.method,
                sparsity_text(r.sparsity) if r.sparsity else "",
                percent_text(r.test_accuracy),
                f"{100 * known:.2f}" if known else "",
                f"{r.kept[0]:,}",
                *(f"{cost:.4f}" for cost in costs),
            ]
        )
    pairs = (("set", "static"), ("rigl", "static"), ("rigl", "set"))
    gaps = []
    for sparsity in sparsities:
        found = [study.difference(by_cell[a, sparsity], by_cell[b, sparsity]) for a, b in pairs]
        texts = [f"{mean:+.2f} ± {error:.2f}" for mean, error in found]
        gaps.append([sparsity_text(sparsity), *texts])
    config, environment = about["config"], about["environment"]
    optimizer, pruning = config["optimizer"], config["pruning"]
    minutes = sum(result.seconds for result in results) / 60
    return f"""# MNIST, LeNet-300-100

`python -m experiments.mnist_lenet`: {config["epochs"]} epochs, batches of {config["batch_size"]},
{optimizer["name"]} with Nesterov momentum {optimizer["momentum"]}, learning rate
{optimizer["learning_rate"]} with {optimizer["decay"]} decay, L2 {optimizer["weight_decay"]},
{pruning["distribution"].upper()}, masks updated every {pruning["interval"]} steps until
{pruning["stop"]:.0%} of the run. {config["seeds"]} seeds. Accuracy at the last step on the 10,000
test images, mean ± standard deviation over seeds; nothing was selected on them. FLOPs are
fractions of the dense network's; training FLOPs are counted from the masks and updates of the run.

{aligned_markdown(heads, rows)}
Differences in percentage points, seed by seed, mean ± standard error:

{aligned_markdown(["sparsity", "SET - static", "RigL - static", "RigL - SET"], gaps)}
Published: TimDettmers/sparse_learning, `results/MNIST_sparse_summary.csv`: other layer-wise
sparsities and another training budget. RigL's own LeNet-300-100 (Evci et al., 2020, appendix B:
99 %, 89 % and 0 % in its three layers, 200 epochs) ends at 1.48 % error.

{environment["hardware"]}; Python {environment["python"]}, jax {environment["jax"]}, flax
{environment["flax"]}, optax {environment["optax"]}; commit {environment["commit"]},
{environment["date"]}; {minutes:.0f} minutes of training, on a machine that did other work too.
"""


def main(arguments: study.Arguments) -> int:
    """Train and write the results.

    Args:
      arguments: The command line.

    Returns:
      Exit code.
    """
    return study.main(
        arguments, "mnist_lenet_300_100", PRESET, preset(PRESET), markdown, save_accuracy_png
    )


if __name__ == "__main__":
    sys.exit(main(tyro.cli(study.Arguments, description=__doc__)))
