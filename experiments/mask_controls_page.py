"""What the controls of masks show: the page and the figure."""

from typing import Any

from matplotlib.figure import Figure

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


def markdown(numbers: dict[str, Any]) -> str:
    """The number of finished cells."""
    return str(len(numbers["results"]))


def figure(numbers: dict[str, Any]) -> Figure:
    """An empty one."""
    return Figure()
