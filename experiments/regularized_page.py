"""The page and the figure of the study of penalties."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from .plots import DENSE, INK, panel, styles
from .tables import aligned_markdown, mean_and_sd, percent_text


def markdown(about: dict[str, Any], kinds: Mapping[str, str]) -> str:
    """The page.

    Args:
      about: What the JSON file holds.
      kinds: Name of each row -> what it penalizes.

    Returns:
      Markdown.
    """
    training, results, environment = about["training"], about["results"], about["environment"]
    dense, rows = results.get(DENSE), []
    four = ("regularized", "tuned", "magnitude", "norm")
    accuracies = lambda row: [percent_text(row[key]) if key in row else "" for key in four]
    if dense:
        rows.append(["dense", "100", "all", *accuracies(dense)])
    for name, row in results.items():
        if name in kinds:
            density = np.array(row["kept"]) / row["weights"]
            units = "-".join(f"{n:.0f}" for n in np.mean(row["units"], axis=0))
            rows.append([name, f"{100 * density.mean():.1f}", units, *accuracies(row)])
    heads = ["penalty, strength", "weights kept (%)", "inputs and units", "with the penalty (%)"]
    heads += ["fine-tuned (%)", "largest weights (%)", "largest groups (%)"]
    return f"""# Regularized, pruned, fine-tuned

`python -m experiments.regularized`: LeNet-{"-".join(map(str, training["widths"]))} on
{training["data"]}, {training["epochs"]} epochs with a proximal step, then
{training["tuning_epochs"]} under the masks of its exact zeros without the penalty; SGD with
Nesterov momentum 0.9, batches of {training["batch_size"]}, learning rates
{training["learning_rate"]:g} and {training["tuning_rate"]:g}, cosine to 0, no weight decay;
{training["seeds"]} seeds, test accuracy at the last step, mean ± standard deviation. Group lasso
weighs groups by the root of their size; "channels" are the weights out of an input or a unit,
"filters" those into a unit. Trained: {len(rows)} of {len(kinds) + 1} rows.

{aligned_markdown(heads, rows)}
"Largest weights": as many weights of the dense network, over all layers, by size, fine-tuned alike.
"Largest groups": as many inputs and units in each layer, by norm. Units count that are fed and
read; one that is not fed still adds its bias.

{_said(results, kinds)}

No strength was tuned for accuracy, all trainings are short, and the dense network that the controls
start from has the same number of steps. "Channels" alone leave the weights into units that nobody
reads: they count as kept, and are of no use.

![accuracy](regularized.png)

{environment["hardware"]}; Python {environment["python"]}, jax {environment["jax"]}, flax
{environment["flax"]}, optax {environment["optax"]}; commit {environment["commit"]},
{environment["date"]}.
"""


def _said(results: dict[str, Any], kinds: Mapping[str, str]) -> str:
    """How the penalties end against their controls, seed by seed."""
    parts = []
    for key, label in (("magnitude", "largest weights"), ("norm", "largest groups")):
        gaps = {
            name: 100 * (np.array(row["tuned"]) - np.array(row[key]))
            for name, row in results.items()
            if name in kinds and key in row
        }
        if gaps:
            each = "; ".join(f"{name}: {gap.mean():+.2f}" for name, gap in gaps.items())
            parts.append(f"Fine-tuned minus {label}, mean over seeds, in points: {each}.")
    return "\n\n".join(parts)


def figure(about: dict[str, Any], kinds: Mapping[str, str]) -> Figure:
    """Accuracy after fine-tuning against the weights kept.

    Args:
      about: What the JSON file holds.
      kinds: Name of each row -> what it penalizes.

    Returns:
      The figure.
    """
    drawing, axes = panel("test accuracy after fine-tuning (%)", (6.4, 4.0))
    results, lines = about["results"], {}
    for name, kind in kinds.items():
        row = results.get(name)
        if row:
            x = 100 * float(np.mean(row["kept"])) / row["weights"]
            lines.setdefault(kind, []).append((x, row["tuned"]))
            lines.setdefault("largest weights", []).append((x, row["magnitude"]))
            if "norm" in row:
                lines.setdefault("largest groups", []).append((x, row["norm"]))
    look = styles(sorted(lines))
    for label, points in sorted(lines.items()):
        points.sort()
        axes.errorbar(
            [x for x, _ in points],
            [100 * mean_and_sd(y)[0] for _, y in points],
            yerr=[100 * (mean_and_sd(y)[1] or 0) for _, y in points],
            color=look[label].color,
            marker=look[label].marker,
            linestyle=look[label].line if "lasso" in label or label == "L1" else "none",
            capsize=2.5,
            label=label,
        )
    if DENSE in results:
        mean = 100 * float(np.mean(results[DENSE]["tuned"]))
        axes.axhline(mean, color=INK, linewidth=1.2, label="dense")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("weights kept (%)")
    drawing.legend(loc="outside lower center", ncols=2, frameon=False, labelcolor=INK, fontsize=9)
    return drawing
