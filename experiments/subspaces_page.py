"""The page and the figure of the study of subspaces."""

import statistics
from typing import Any

from matplotlib.figure import Figure

from jaxsparse.subspaces import intrinsic_dimension

from .plots import INK, dress, styles
from .tables import aligned_markdown, percent_text

BASELINE = "baseline: all weights, 1"
PUBLISHED = 750
"""``d_int90`` of this network on MNIST: Li et al., 2018, table 1."""


def rows_of(about: dict[str, Any], claim: str) -> dict[str, dict[float, list[float]]]:
    """The results of one claim.

    Args:
      about: What the JSON file holds.
      claim: ``"intrinsic"`` or ``"extreme"``.

    Returns:
      Arm -> size -> test accuracies, a number a seed.
    """
    found: dict[str, dict[float, list[float]]] = {}
    for row in about["results"].values():
        if row["claim"] == claim:
            found.setdefault(row["arm"], {})[row["size"]] = row["test_accuracy"]
    return found


def intrinsic_dimensions(about: dict[str, Any]) -> dict[str, int | None]:
    """``d_int90`` of each projection, on the grid of the dimensions tried.

    Args:
      about: What the JSON file holds.

    Returns:
      Projection -> dimension, ``None`` where none is enough; empty without a baseline.
    """
    if BASELINE not in about["results"]:
        return {}
    baseline = statistics.fmean(about["results"][BASELINE]["test_accuracy"])
    return {
        arm: intrinsic_dimension([int(d) for d in sizes], list(sizes.values()), baseline)
        for arm, sizes in rows_of(about, "intrinsic").items()
    }


def markdown(about: dict[str, Any]) -> str:
    """The page.

    Args:
      about: What the JSON file holds.

    Returns:
      Markdown.
    """
    setting, place = about["setting"], about["environment"]
    intrinsic, extreme = rows_of(about, "intrinsic"), rows_of(about, "extreme")
    baseline = about["results"].get(BASELINE, {}).get("test_accuracy", [])
    dimensions = sorted({d for sizes in intrinsic.values() for d in sizes})
    densities = sorted({s for sizes in extreme.values() for s in sizes if s})
    first = aligned_markdown(
        ["dimensions d", *intrinsic],
        [
            [f"{d:,.0f}", *(percent_text(sizes.get(d, [])) for sizes in intrinsic.values())]
            for d in dimensions
        ],
    )
    second = aligned_markdown(
        ["kernel weights kept", *(arm for arm in extreme if arm != "DCT alone")],
        [
            [
                f"{100 * density:g} %",
                *(percent_text(s.get(density, [])) for arm, s in extreme.items() if 0 not in s),
            ]
            for density in densities
        ],
    )
    alone = extreme.get("DCT alone", {}).get(0, [])
    rates = (setting["weight_rate"], setting["sparse_rate"], setting["subspace_rate"])
    adam = "{:g} (all weights), {:g} (sparse networks) and {:g} (coordinates)".format(*rates)
    widths = " and ".join(map(str, setting["widths"]))
    return f"""# Training in subspaces

`python -m experiments.subspaces`: {setting["data"]}, a perceptron with {widths} hidden units,
{setting["epochs"]} epochs in batches of {setting["batch_size"]}, Adam with a cosine to 0 from
{adam};
{setting["seeds"]} seeds, test accuracy (%) after the last step, mean ± standard deviation. All
weights: {percent_text(baseline)}. {about["finished"]}

![Accuracy against dimensions and against density](subspaces.png)

## How many dimensions?

{first}
{_intrinsic_claim(about)}

No dense projections here: a step of them takes d multiplications a weight, forwards and backwards.

## So few weights that a random sparse network fails

{second}
Equally many weights in each layer; biases are trained in all arms, and one alpha a layer under a
DCT. The DCT alone, with alphas and biases trained but no sparse weight: {percent_text(alone)}.

{_extreme_claim(extreme, setting["seeds"])}

{place["hardware"]}; Python {place["python"]}, jax {place["jax"]}, flax {place["flax"]}, optax
{place["optax"]}; commit {place["commit"]}, {place["date"]}.
"""


def _intrinsic_claim(about: dict[str, Any]) -> str:
    found = intrinsic_dimensions(about)
    if not found:
        return "The baseline is not trained yet."
    tried = {arm: sorted(sizes) for arm, sizes in rows_of(about, "intrinsic").items()}
    texts = [
        f"with {arm} projections none of the dimensions tried is enough"
        if d is None
        else f"{d:,} with {arm} projections ({_below(tried[arm], d)})"
        for arm, d in found.items()
    ]
    near = [d is not None and abs(d - PUBLISHED) <= 0.2 * PUBLISHED for d in found.values()]
    verdict = "holds" if all(near) else "holds in part" if any(near) else "does not hold"
    return f"""The smallest dimension tried that reaches 90 % of the accuracy of all weights:
{"; ".join(texts)}.
Published: {PUBLISHED} ([Li et al., 2018](https://arxiv.org/abs/1804.08838), table 1). To within a
fifth, that **{verdict}** here, over {about["setting"]["seeds"]} seeds."""


def _below(tried: list[float], d: int) -> str:
    lower = [other for other in tried if other < d]
    return f"{lower[-1]:,.0f} is not enough" if lower else "the smallest tried"


def _extreme_claim(extreme: dict[str, Any], seeds: int) -> str:
    random, dct = extreme.get("random sparse", {}), extreme.get("DCT plus sparse", {})
    both = sorted(set(random) & set(dct))
    if not both:
        return "Not trained yet."
    gains = {s: 100 * (statistics.fmean(dct[s]) - statistics.fmean(random[s])) for s in both}
    texts = [f"{gain:+.1f} points at {100 * s:g} %" for s, gain in gains.items()]
    verdict = "holds" if gains[both[0]] >= 10 else "does not hold"
    return f"""DCT plus sparse against random sparse: {", ".join(texts)}.
That it trains where a random sparse network fails
([Price and Tanner, 2021](https://arxiv.org/abs/2102.07655), on convolutional networks), by ten
points or more at the lowest density, **{verdict}** here, over {seeds} seeds."""


def figure(about: dict[str, Any]) -> Figure:
    """Accuracy against dimensions, and against density.

    Args:
      about: What the JSON file holds.

    Returns:
      The figure, on a transparent ground.
    """
    drawing = Figure(figsize=(9.6, 4.1), layout="constrained")
    drawing.patch.set_alpha(0)
    panels = drawing.subplots(1, 2)
    baseline = about["results"].get(BASELINE, {}).get("test_accuracy", [])
    titles = ("test accuracy (%), d dimensions", "test accuracy (%), share of weights kept (%)")
    for axes, claim, title in zip(panels, ("intrinsic", "extreme"), titles, strict=True):
        arms = rows_of(about, claim)
        look = styles(list(arms))
        for arm, sizes in arms.items():
            places = sorted(s for s in sizes if s)
            style = look[arm]
            if not places:
                axes.axhline(100 * statistics.fmean(sizes[0]), color=style.color, ls=":", label=arm)
                continue
            values = [[100 * value for value in sizes[s]] for s in places]
            axes.errorbar(
                [100 * s if claim == "extreme" else s for s in places],
                [statistics.fmean(each) for each in values],
                [statistics.stdev(each) if len(each) > 1 else 0 for each in values],
                color=style.color,
                marker=style.marker,
                ls=style.line,
                capsize=3,
                label=arm,
            )
        if baseline:
            whole = 100 * statistics.fmean(baseline)
            axes.axhline(whole, color=INK, lw=1, label="all weights")
            if claim == "intrinsic":
                axes.axhline(0.9 * whole, color=INK, lw=1, ls=(0, (5, 2)), label="90 % of it")
        if claim == "extreme":
            axes.set_xscale("log")
        dress(axes, title)
        if arms or baseline:
            axes.legend(frameon=False, labelcolor=INK, fontsize=8, loc="lower right")
    return drawing
