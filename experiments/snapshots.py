"""How masks look over training, for the report: small enough to be kept at every evaluation."""

import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxsparse.metrics import degrees

from . import arrays
from .arrays import MaskView

BLOCKS = 32


def view_mask(mask: np.ndarray) -> MaskView:
    """Reduce a mask to what the report shows of it.

    Args:
      mask: bool [..., features, units].

    Returns:
      Densities of blocks, and degrees.
    """
    matrix = mask.reshape(-1, mask.shape[-1])
    starts = [np.arange(min(n, BLOCKS)) * n // min(n, BLOCKS) for n in matrix.shape]
    rows, columns = (np.diff(each, append=n) for each, n in zip(starts, matrix.shape, strict=True))
    kept = np.add.reduceat(matrix, starts[0], axis=0, dtype=np.int32)
    kept = np.add.reduceat(kept, starts[1], axis=1)
    density = (kept / (rows[:, None] * columns[None])).astype(np.float16)
    fan_in, fan_out = map(np.asarray, degrees(jnp.asarray(mask)))
    return MaskView(density, fan_in, fan_out)


class Snapshots:
    """The first seed's masks on their way to the cell's files."""

    def __init__(self, folder: pathlib.Path, image_shape: tuple[int, ...], step: int) -> None:
        """Go on from what the files hold up to this step; from nothing at step 0."""
        self._folder, self._image_shape = folder, image_shape
        self._inputs: list[tuple[int, np.ndarray]] = []
        self._masks: list[tuple[int, dict[str, MaskView]]] = []
        if step and (inputs := arrays.read_inputs(folder)):
            self._inputs = [each for each in zip(*inputs, strict=True) if each[0] <= step]
        if step and (masks := arrays.read_masks(folder)):
            steps, layers = masks
            views = [
                {path: MaskView(*(part[i] for part in parts)) for path, parts in layers.items()}
                for i in range(len(steps))
            ]
            self._masks = [each for each in zip(steps, views, strict=True) if each[0] <= step]

    def add(self, step: int, masks: Mapping[str, Any]) -> None:
        """Look at the masks of a step.

        Args:
          step: The step.
          masks: By path in the network's order, bool with a leading seed axis; None where dense.
        """
        first = next(iter(masks.values()))
        if first is not None and first.ndim == 3 and first.shape[1] == math.prod(self._image_shape):
            counts = np.asarray(first[0]).sum(axis=1).reshape(self._image_shape)
            self._inputs.append((step, counts.astype(np.int32)))
        views = {
            path: view_mask(np.asarray(mask[0]))
            for path, mask in masks.items()
            if mask is not None and mask.ndim > 2
        }
        if views:
            self._masks.append((step, views))

    def save(self) -> None:
        """Write the files, unless there is nothing to write."""
        if self._inputs:
            steps, counts = zip(*self._inputs, strict=True)
            arrays.write_inputs(self._folder, list(steps), list(counts))
        if self._masks:
            steps, views = zip(*self._masks, strict=True)
            layers = {
                path: MaskView(*map(np.stack, zip(*(each[path] for each in views), strict=True)))
                for path in views[0]
            }
            arrays.write_masks(self._folder, list(steps), layers)
