"""Which connections a mask keeps, over training: of each input, and in each layer."""

from collections.abc import Sequence

import numpy as np

from .. import arrays
from . import page, pictures
from .cells import Cell

SNAPSHOTS = 6
LAYERS = 4  # of each cell; those between are left out where there are more
CELLS = 6  # at once; the others are behind a click


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
        places = _some(len(steps), SNAPSHOTS)
        words = lambda values: f"{int((values > 0).sum()):,} of {values.size:,} connected"
        found = pictures.strip(cell.name, [steps[i] for i in places], maps[places], words=words)
        parts.append(found)
    title = "Which inputs stay connected"
    if not parts and not whole:
        text = "Not recorded: the first layer of this network is no matrix over its inputs."
        return page.section("inputs", title, text if _any_done(cells) else "Nothing yet.", [])
    text = (
        "Connections from each input to the first layer, first seed, over training; channels are "
        "summed. Each cell has its own scale of color, the same at all of its steps."
    )
    if whole:
        text += f" All inputs alike throughout: {', '.join(whole)}."
    content = [pictures.player(), page.grid(parts, 2 * CELLS, "The other cells")] if parts else []
    return page.section("inputs", title, text, content)


def masks_section(cells: Sequence[Cell]) -> str:
    """Where the kept weights of each layer lie, over training.

    Args:
      cells: The cells of the run.

    Returns:
      Markup.
    """
    parts, still, left_out = [], [], 0
    for cell in cells:
        saved = arrays.read_masks(cell.folder)
        if saved is None:
            continue
        steps, layers = saved
        if all((view.density == view.density[:1]).all() for view in layers.values()):
            still.append(cell.name)
            continue
        paths = chosen_layers(layers)
        left_out = max(left_out, len(layers) - len(paths))
        places = _some(len(steps), SNAPSHOTS)
        rows = [
            pictures.strip(
                path,
                [steps[i] for i in places],
                layers[path].density[places].astype(np.float32),
                words=lambda density: f"{_percent(density.mean())} kept",
                number=_percent,
                heading="h4",
            )
            for path in paths
        ]
        name = page.element("h3", cell.name)
        parts.append(f'<section class="film">{name}{"".join(rows)}</section>')
    title = "How masks move"
    if not parts and not still:
        text = "Not recorded." if _any_done(cells) else "Nothing yet."
        return page.section("masks", title, text, [])
    text = (
        "Density of each layer's mask, first seed, over training: a column a unit, a row an input "
        "of the units (of a convolution by height, width and channel), in blocks where the layer "
        "has more than 32 of either, drawn as a square. Each strip has its own scale of color."
    )
    if left_out:
        text += f" {LAYERS} layers of each cell are shown, {left_out} between them are not."
    if still:
        text += f" Masks that stayed as they were: {', '.join(still)}."
    content = [pictures.player(), page.grid(parts, CELLS, "The other cells")] if parts else []
    return page.section("masks", title, text, content)


def chosen_layers(layers: Sequence[str] | dict) -> list[str]:
    """At most LAYERS of a network's layers, evenly over its depth, the first and the last too.

    Args:
      layers: Paths, from input to output.

    Returns:
      Some of them.
    """
    paths = list(layers)
    return [paths[i] for i in _some(len(paths), LAYERS)]


def _some(length: int, most: int) -> np.ndarray:
    return np.linspace(0, length - 1, min(most, length)).round().astype(int)


def _any_done(cells: Sequence[Cell]) -> bool:
    return any(cell.result for cell in cells)


def _percent(share: float) -> str:
    return f"{100 * share:.{0 if share >= 0.1 else 1}f} %"
