"""What the pages and figures of studies of masks share."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .claims import differences, points_text
from .masked import Result
from .plots import INK, dress
from .tables import MISSING, percent_text

Find = Mapping[str, Result]


def results_of(numbers: dict[str, Any]) -> dict[str, Result]:
    """The finished cells of a study by their names.

    Args:
      numbers: What its JSON file holds.

    Returns:
      Name -> result, in the order of training.
    """
    return {each["cell"]: Result(**each) for each in numbers["results"]}


def gap(first: str, second: str) -> Callable[[Find], list[float]]:
    """How much more accurate one cell is than another.

    Args:
      first: Name of a cell.
      second: Name of another.

    Returns:
      From all results to percentage points, an entry a seed; a KeyError where one is missing.
    """
    return lambda find: differences(find[first].test_accuracy, find[second].test_accuracy)


def accuracy_text(find: Find, cell: str) -> str:
    """Accuracy of a cell in percent, mean and standard deviation.

    Args:
      find: All results.
      cell: Name of the cell, finished or not.

    Returns:
      The text.
    """
    return percent_text(find[cell].test_accuracy) if cell in find else MISSING


def gap_text(find: Find, first: str, second: str) -> str:
    """How much more accurate one cell is than another, mean and standard error.

    Args:
      find: All results.
      first: Name of a cell, finished or not.
      second: Name of another.

    Returns:
      The text.
    """
    return points_text(gap(first, second)(find)) if first in find and second in find else MISSING


def unfinished(numbers: dict[str, Any]) -> str:
    """A warning where cells are missing.

    Args:
      numbers: What the JSON file of a study holds.

    Returns:
      A paragraph of Markdown, or nothing.
    """
    done, cells = len(numbers["results"]), len(numbers["run"]["cells"])
    text = f"**Unfinished: {done} of {cells} cells.** What is missing is blank, or said to be "
    return "" if done == cells else f"{text}not run.\n\n"


def training_text(config: dict[str, Any]) -> str:
    """How networks were trained.

    Args:
      config: The study.

    Returns:
      A sentence.
    """
    epochs = f"{config['epochs']} epoch{'s' * (config['epochs'] != 1)}"
    return (
        f"{epochs} of batches of {config['batch_size']}, SGD with\nNesterov momentum 0.9, "
        f"learning rate {config['learning_rate']:g} with cosine decay, L2 "
        f"{config['weight_decay']:g};\n{config['seeds']} seeds. Test accuracy at the last step; "
        "nothing was selected on the test images. With a seed\nall arms of a network start from "
        "the same weights, where nothing else is said, and see the same\nbatches."
    )


def footer(numbers: dict[str, Any]) -> str:
    """Versions, hardware, commits, minutes.

    Args:
      numbers: What the JSON file of a study holds.

    Returns:
      The last lines of a page.
    """
    environment, results = numbers["run"]["environment"], numbers["results"]
    commits = ", ".join(dict.fromkeys(each["commit"] for each in results)) or "none"
    minutes = sum(each["seconds"] for each in results) / 60
    bad = sum(sum(each["nonfinite"]) for each in results)
    loops = f"Steps with a loss or gradient that was not finite: {bad}.\n" if bad else ""
    return (
        f"{loops}{environment['hardware']}; Python {environment['python']}, jax "
        f"{environment['jax']}, flax {environment['flax']},\noptax {environment['optax']}; commit "
        f"{commits}; {environment['date']}; {minutes:.0f} minutes of training, on a machine that "
        "did\nother work too.\n"
    )


def panels(titles: Sequence[str], size: tuple[float, float], rows: int = 1) -> Any:
    """A figure with panels in the ink, on a transparent ground.

    Args:
      titles: One a panel.
      size: Width and height in inches.
      rows: Of panels.

    Returns:
      The figure and its panels.
    """
    figure = Figure(figsize=size, layout="constrained")
    figure.patch.set_alpha(0)
    grid = figure.subplots(rows, -(-len(titles) // rows), sharey=True, squeeze=False)
    for axes, title in zip(grid.flat, titles, strict=True):
        dress(axes, title)
    return figure, list(grid.flat)


def name_lines(figure: Figure, axes: Axes, columns: int) -> None:
    """A legend of one panel's lines below all panels.

    Args:
      figure: The figure.
      axes: The panel.
      columns: Of the legend.
    """
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=columns,
            frameon=False,
            labelcolor=INK,
            fontsize=9,
        )
