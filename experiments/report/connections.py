"""Which connections a mask keeps, over training."""

from collections.abc import Sequence

import numpy as np

from .. import arrays
from . import page, pictures
from .cells import Cell

SNAPSHOTS = 6


def inputs_section(cells: Sequence[Cell]) -> str:
    """How many connections each input has, over training.

    Args:
      cells: The cells of the run.

    Returns:
      Markup.
    """
    parts, whole = [], []
    for cell in cells:
        saved = arrays.read_inputs(cell.folder)
        if saved is None or not saved[0]:
            continue
        steps, connections = saved
        maps = connections.sum(axis=-1)
        if maps.min() == maps.max():
            whole.append(f"{cell.name} ({maps.max():,} each)")
            continue
        places = np.linspace(0, len(steps) - 1, min(SNAPSHOTS, len(steps))).round().astype(int)
        parts.append(pictures.strip(cell.name, [steps[place] for place in places], maps[places]))
    title = "Which inputs stay connected"
    if not parts and not whole:
        text = "Not recorded: the first layer of this network is no matrix over its inputs."
        text = text if any(cell.result for cell in cells) else "Nothing yet."
        return page.section("inputs", title, text, [])
    text = (
        "Connections from each input to the first layer, first seed, over training; channels are "
        "summed. Each cell has its own scale of color, the same at all of its steps."
    )
    if whole:
        text += f" All inputs alike throughout: {', '.join(whole)}."
    return page.section("inputs", title, text, [page.grid(parts, 12, "The other cells")])
