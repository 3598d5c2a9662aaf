"""What the controls of masks show: claims, page and figure."""

from collections.abc import Sequence
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
from .plots import INK, points, styles
from .tables import aligned_markdown, sparsity_text

METHODS = {
    "snip": "SNIP",
    "grasp": "GraSP",
    "synflow": "SynFlow",
    "magnitude": "magnitude after training",
}
CONTROLS = {
    "as_is": "as it is",
    "shuffled": "shuffled",
    "reinitialized": "reinitialized",
    "inverted": "inverted",
}
_TRAINED = "magnitude"
# What Frankle et al. say holds up to here; they note exceptions at the highest sparsities.
_CLAIMED = 0.95


def claims_of(method: str, control: str, sparsities: Sequence[float]) -> list[Claim]:
    """What the literature says of a control, at each sparsity.

    Args:
      method: A key of ``METHODS``.
      control: ``"shuffled"`` or ``"reinitialized"``.
      sparsities: At which.

    Returns:
      A claim each: nothing is lost; or for masks found after training, that the margin is lost.
    """
    claims = []
    for sparsity in sparsities:
        names = (f"{method}-{control}-{sparsity:g}", f"{method}-as_is-{sparsity:g}")
        text = f"{METHODS[method]}, {sparsity_text(sparsity)}: {CONTROLS[control]} less as it is"
        if method == _TRAINED:
            text = f"{METHODS[method]}, {sparsity_text(sparsity)}: as it is less {control}"
            claims.append(Claim("H13", text, "loses", gap(*reversed(names)), MARGIN, 0, POINTS))
            continue
        published = f"within {MARGIN}" if sparsity <= _CLAIMED else "exceptions noted"
        claims.append(Claim("H13", text, published, gap(*names), None, 0, POINTS))
    return claims


def sentences(numbers: dict[str, Any]) -> list[str]:
    """Whether each claim holds, computed from the numbers.

    Args:
      numbers: What the JSON file holds.

    Returns:
      Sentences in Markdown.
    """
    find, levels = results_of(numbers), numbers["run"]["config"]["sparsities"]
    claimed = [level for level in levels if level <= _CLAIMED]
    untrained = [method for method in METHODS if method != _TRAINED]
    said = []
    for control in ("shuffled", "reinitialized"):
        claims = [c for m in untrained for c in claims_of(m, control, claimed)]
        text = f"H13, masks found before training, {control}, nothing is lost up to 95 %"
        said.append(conclusion(text, claims, find))
        for method in untrained:
            text = f"{METHODS[method]} alone, {control}, nothing is lost up to 95 %"
            said.append(conclusion(text, claims_of(method, control, claimed), find))
    for control in ("shuffled", "reinitialized"):
        text = f"H13, masks of magnitudes after training, {control}, accuracy is lost"
        said.append(conclusion(text, claims_of(_TRAINED, control, levels), find))
    return said


def markdown(numbers: dict[str, Any]) -> str:
    """The page of the study.

    Args:
      numbers: What the JSON file holds.

    Returns:
      Markdown.
    """
    config, find = numbers["run"]["config"], results_of(numbers)
    levels = config["sparsities"]
    claims = [
        claim
        for method in METHODS
        for control in ("shuffled", "reinitialized")
        for claim in claims_of(method, control, levels)
    ]
    network = "-".join(map(str, config["widths"]))
    said = "\n".join(f"- {sentence}" for sentence in sentences(numbers))
    return f"""# Controls of masks: LeNet-{network} on {config["data"]}

{unfinished(numbers)}`python -m experiments.mask_controls`: {training_text(config)}

Masks of SNIP, GraSP (both by ten training images of each class) and SynFlow (100 rounds) are found
on the first weights, those of magnitudes on the trained dense network and put back on the first
weights; layers compete. Shuffled: as many weights in each layer, at random. Reinitialized: the same
mask, other first weights. Inverted: each layer keeps as many of the weights that are worth least to
the dense network. Random: the same sparsity in all layers.

{said}

"No loss" goes by the 95 % confidence interval of the mean difference (t, paired by seed, without a
correction for the number of comparisons): it has to lie within {MARGIN} points, or above 0.

![test error against sparsity](mask_controls.png)

## Test accuracy (%)

Mean ± standard deviation. Dense: {accuracy_text(find, "dense")}.

{_accuracies(levels, find)}
## Control less mask as it is

Percentage points, mean ± standard error over seeds.

{_differences(levels, find)}
## Weights kept in each layer (%)

Means over seeds, of the masks as they are; shuffled and inverted masks keep as many.

{_layers(levels, find)}
## Claims

{claims_table(claims, find)}
Published: Frankle, Dziugaite, Roy and Carbin, ICLR 2021. They train LeNet-300-100 on MNIST for 40
epochs and ResNets on CIFAR-10 and ImageNet; here training is {config["epochs"]} of their 40 epochs,
masks of magnitudes are found at once and put back on the first weights (not on weights of early
training), and inversion keeps the sparsity of each layer.

{footer(numbers)}"""


def figure(numbers: dict[str, Any]) -> Figure:
    """Test error over sparsity: a panel a method, a line a control.

    Args:
      numbers: What the JSON file holds.

    Returns:
      The figure, on a transparent ground.
    """
    find, levels = results_of(numbers), numbers["run"]["config"]["sparsities"]
    titles = [f"{name}: test error (%)" for name in METHODS.values()]
    drawing, grid = panels(titles, (8.4, 6.2), rows=2)
    look = styles([*CONTROLS, "random"])
    for axes, method in zip(grid, METHODS, strict=True):
        rows = {c: [f"{method}-{c}-{level:g}" for level in levels] for c in CONTROLS}
        rows["random"] = [f"random-as_is-{level:g}" for level in levels]
        if "dense" in find:
            errors = [100 * (1 - accuracy) for accuracy in find["dense"].test_accuracy]
            axes.axhline(sum(errors) / len(errors), color=INK, linestyle=(0, (4, 2)), label="dense")
        for index, (control, cells) in enumerate(rows.items()):
            shown = [(i, find[cell]) for i, cell in enumerate(cells) if cell in find]
            points(
                axes,
                [i + 0.06 * (index - 2) for i, _ in shown],
                [[100 * (1 - accuracy) for accuracy in r.test_accuracy] for _, r in shown],
                look[control],
                CONTROLS.get(control, "random, uniform"),
            )
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(FixedLocator([1, 2, 3, 4, 5, 7, 10, 20, 50, 90]))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.tick_params(labelleft=True)
        axes.set_xticks(range(len(levels)), [sparsity_text(level) for level in levels])
        axes.set_xlim(-0.4, len(levels) - 0.6)
    name_lines(drawing, grid[0], 6)
    return drawing


def _rows(levels: Sequence[float]) -> list[tuple[str, float]]:
    return [(method, level) for level in levels for method in METHODS]


def _accuracies(levels: Sequence[float], find: Find) -> str:
    body = [
        [
            METHODS[method],
            sparsity_text(level),
            *(accuracy_text(find, f"{method}-{control}-{level:g}") for control in CONTROLS),
            accuracy_text(find, f"random-as_is-{level:g}"),
        ]
        for method, level in _rows(levels)
    ]
    return aligned_markdown(["mask", "sparsity", *CONTROLS.values(), "random"], body)


def _differences(levels: Sequence[float], find: Find) -> str:
    body = []
    for method, level in _rows(levels):
        base = f"{method}-as_is-{level:g}"
        cells = [f"{method}-{control}-{level:g}" for control in CONTROLS if control != "as_is"]
        others = [gap_text(find, cell, base) for cell in [*cells, f"random-as_is-{level:g}"]]
        body.append([METHODS[method], sparsity_text(level), *others])
    names = [name for control, name in CONTROLS.items() if control != "as_is"]
    return aligned_markdown(["mask", "sparsity", *names, "random"], body)


def _layers(levels: Sequence[float], find: Find) -> str:
    whole = find["dense"].kept if "dense" in find else {}
    body = []
    for method, level in _rows(levels):
        result = find.get(f"{method}-as_is-{level:g}")
        if result is not None:
            shares = [100 * sum(result.kept[p]) / sum(whole[p]) for p in whole]
            body.append([METHODS[method], sparsity_text(level), *(f"{x:.2f}" for x in shares)])
    return aligned_markdown(["mask", "sparsity", *whole], body)
