"""What random masks show: claims, page and figure."""

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from .claims import MARGIN, POINTS, Claim, claims_table, conclusion
from .masked_page import (
    Find,
    accuracy_text,
    footer,
    gap,
    gap_text,
    name_lines,
    panels,
    results_of,
    training_text,
    unfinished,
)
from .plots import points, styles
from .tables import aligned_markdown, sparsity_text

RATIOS = {
    "erk": "ERK",
    "erk_plus": "ERK+",
    "uniform": "uniform",
    "uniform_plus": "uniform+",
    "snip_ratio": "SNIP ratio",
    "grasp_ratio": "GraSP ratio",
}
FOUND = {"snip": "SNIP's mask", "grasp": "GraSP's mask"}
# By how much the gap to dense is expected to shrink over a sweep, in percent.
_HALF = 50


def sweeps(config: dict[str, Any]) -> dict[str, list[str]]:
    """The networks of each sweep, from small to large.

    Args:
      config: The study.

    Returns:
      ``width`` and ``depth`` -> beginnings of the names of cells.
    """
    return {
        "width": [f"{width}x{config['depth']}" for width in config["widths"]],
        "depth": [f"{config['width']}x{depth}" for depth in config["depths"]],
    }


def shrinking(small: str, large: str, arm: str) -> Callable[[Find], list[float]]:
    """By how much the gap to dense is smaller in a large network.

    Args:
      small: A network.
      large: Another.
      arm: Of masks.

    Returns:
      From all results to percent of the small network's mean gap, an entry a seed; NaN where it
      has none.
    """

    def values(find: Find) -> list[float]:
        first, last = (gap(f"{net}-dense", f"{net}-{arm}")(find) for net in (small, large))
        mean = statistics.fmean(first)
        shrunk = [100 * (a - b) for a, b in zip(first, last, strict=True)]
        return [points / mean if mean > 0 else math.nan for points in shrunk]

    return values


def claims_of(config: dict[str, Any]) -> dict[str, list[Claim]]:
    """What the literature says.

    Args:
      config: The study.

    Returns:
      A statement -> the comparisons that it is made of.
    """
    swept = sweeps(config)
    said: dict[str, list[Claim]] = {}
    for sweep, nets in swept.items():
        said[f"H16, {sweep}, the gap to dense halves from {nets[0]} to {nets[-1]}"] = [
            Claim(
                "H16",
                f"{sweep}, {name}: gap to dense, {nets[0]} to {nets[-1]}",
                "halves",
                shrinking(nets[0], nets[-1], arm),
                _HALF,
                0,
                "{:.0f} ± {:.0f} % smaller",
            )
            for arm, name in RATIOS.items()
        ]
    said["H16, ERK is above uniform"] = [
        Claim("H16", f"{net}: ERK less uniform", "above", _over(net, "uniform"), 0, 0, POINTS)
        for net in dict.fromkeys(swept["width"] + swept["depth"])
    ]
    said["H18, random masks by ERK are not below masks of SNIP and GraSP"] = [
        Claim("H18", f"{net}: ERK less {name}", "0 to +0.5", _over(net, arm), None, 0, POINTS)
        for arm, name in FOUND.items()
        for net in swept["width"]
    ]
    return said


def _over(net: str, arm: str) -> Callable[[Find], list[float]]:
    return gap(f"{net}-erk", f"{net}-{arm}")


def sentences(numbers: dict[str, Any]) -> list[str]:
    """Whether each claim holds, computed from the numbers.

    Args:
      numbers: What the JSON file holds.

    Returns:
      Sentences in Markdown.
    """
    find = results_of(numbers)
    said = claims_of(numbers["run"]["config"]).items()
    return [conclusion(statement, claims, find) for statement, claims in said]


def markdown(numbers: dict[str, Any]) -> str:
    """The page of the study.

    Args:
      numbers: What the JSON file holds.

    Returns:
      Markdown.
    """
    config, find = numbers["run"]["config"], results_of(numbers)
    claims = [claim for each in claims_of(config).values() for claim in each]
    said = "\n".join(f"- {sentence}" for sentence in sentences(numbers))
    nets = list(dict.fromkeys(name for each in sweeps(config).values() for name in each))
    arms = {**RATIOS, **FOUND}
    accuracies = [
        [net, *(accuracy_text(find, f"{net}-{arm}") for arm in ("dense", *arms))] for net in nets
    ]
    gaps = [
        [net, *(gap_text(find, f"{net}-{arm}", f"{net}-dense") for arm in arms)] for net in nets
    ]
    sparsity = sparsity_text(config["sparsity"])
    return f"""# Random pruning over width and depth: {config["data"]}, {sparsity} zeros

{unfinished(numbers)}`python -m experiments.random_pruning`: {training_text(config)}

Networks are called WIDTHxDEPTH: so many 3x3 convolutions of so many channels, with batch
normalization and ReLU, the first two with stride 2; then the mean over the image and a linear
layer. Masks are drawn anew for each seed and arm. ERK+ keeps the linear layer dense, uniform+ the
first convolution and 20 % of the linear layer. SNIP's and GraSP's masks are found on the first
weights of the seed, layers competing, by ten training images of each class, with batch
normalization as it is at initialization; "SNIP ratio" and "GraSP ratio" keep their number of
weights in each layer, at random.

{said}

By the 95 % confidence interval of the mean over seeds (t, paired by seed, without a correction for
the number of comparisons). Accuracies within {MARGIN} points count as the same.

![gap to dense over width and over depth](random_pruning.png)

## Test accuracy (%)

Mean ± standard deviation over seeds.

{aligned_markdown(["network", "dense", *arms.values()], accuracies)}
## Sparse less dense of the same network

Percentage points, mean ± standard error over seeds.

{aligned_markdown(["network", *arms.values()], gaps)}
## Size of the networks

{_sizes(nets, find)}
## Claims

{claims_table(claims, find)}
Published: Liu et al., ICLR 2022 (H16: figures only; ResNet-20 with 8 to 32 channels, depths 20 to
110, CIFAR-10, 160 epochs). Here networks are small and have no shortcuts, images are of
Fashion-MNIST, and training is {config["epochs"]} epoch{"s" * (config["epochs"] != 1)} long. The
paper draws each weight of a mask by itself and finds ratios on weights that are drawn anew with
Xavier's initialization; here counts are exact, and ratios are of the weights that are trained.

{footer(numbers)}"""


def figure(numbers: dict[str, Any]) -> Figure:
    """Gap to dense over width and over depth, a line a ratio.

    Args:
      numbers: What the JSON file holds.

    Returns:
      The figure, on a transparent ground.
    """
    config, find = numbers["run"]["config"], results_of(numbers)
    look = styles(list(RATIOS))
    titles = [f"gap to dense over {sweep} (points)" for sweep in ("width", "depth")]
    drawing, grid = panels(titles, (9.2, 4.2))
    labels = {
        "width": f"channels ({config['depth']} convolutions)",
        "depth": f"convolutions ({config['width']} channels)",
    }
    for axes, (sweep, nets) in zip(grid, sweeps(config).items(), strict=True):
        for index, (arm, name) in enumerate(RATIOS.items()):
            cells = [(i, f"{net}-{arm}", f"{net}-dense") for i, net in enumerate(nets)]
            shown = [c for c in cells if c[1] in find and c[2] in find]
            places = [i + 0.07 * (index - 2.5) for i, _, _ in shown]
            values = [gap(dense, cell)(find) for _, cell, dense in shown]
            points(axes, places, values, look[arm], name)
        axes.set_xticks(range(len(nets)), [str(size) for size in config[f"{sweep}s"]])
        axes.set_xlim(-0.4, len(nets) - 0.6)
        axes.set_xlabel(labels[sweep])
        axes.set_yscale("symlog", linthresh=1)  # linear between -1 and 1
        axes.yaxis.set_major_locator(FixedLocator([-1, 0, 1, 2, 5, 10, 20, 50]))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.tick_params(labelleft=True)
    name_lines(drawing, grid[0], 6)
    return drawing


def _sizes(nets: Sequence[str], find: Find) -> str:
    body = []
    for net in nets:
        dense, erk = find.get(f"{net}-dense"), find.get(f"{net}-erk")
        if dense is not None and erk is not None:
            kept = sum(counts[0] for counts in erk.kept.values())
            body.append([net, f"{dense.weights:,}", f"{kept:,}"])
    return aligned_markdown(["network", "weights", "kept"], body)
