"""The arrays of a cell, for the pictures of the report: ``inputs``, ``masks``, ``confidence``."""

import io
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import numpy as np

from . import records


class MaskView(NamedTuple):
    """What is left of a mask, or, with a leading axis, of its snapshots.

    A mask's matrix has a column a unit, and a row an input of the units, in the order of memory:
    for a convolution by height, width and channel.

    Attributes:
      density: Share of the weights kept in each block of the matrix, float16 [rows, columns].
      fan_in: Kept weights into each unit, int32 [units].
      fan_out: Kept weights from each input feature, at all places of a kernel, int32 [features].
    """

    density: np.ndarray
    fan_in: np.ndarray
    fan_out: np.ndarray


class Confidence(NamedTuple):
    """Histograms of the largest probability, over bins of equal width from 0 to 1, a row a seed.

    Attributes:
      count: Test images in each bin of a reliability diagram, int [seeds, bins].
      confidence: Sum of their confidences, float [seeds, bins].
      correct: How many of them are classified right, int [seeds, bins].
      inside: Test images in each bin of a finer histogram, int [seeds, fine bins].
      outside: Images from outside in each of those bins, int [seeds, fine bins].
    """

    count: np.ndarray
    confidence: np.ndarray
    correct: np.ndarray
    inside: np.ndarray
    outside: np.ndarray


def write_inputs(folder: pathlib.Path, steps: list[int], connections: list[np.ndarray]) -> None:
    """Save how many connections each input has over training.

    Args:
      folder: Folder of the cell.
      steps: Steps of the snapshots.
      connections: int arrays [height, width, channels], one a snapshot.
    """
    _write_arrays(folder / "inputs.npz", steps=steps, connections=connections)


def read_inputs(folder: pathlib.Path) -> tuple[list[int], np.ndarray] | None:
    """What ``write_inputs`` saved.

    Args:
      folder: Folder of the cell.

    Returns:
      Steps and int array [snapshots, height, width, channels]; None where there is none.
    """
    saved = _read_arrays(folder / "inputs.npz")
    return None if saved is None else (saved["steps"].tolist(), saved["connections"])


def write_masks(folder: pathlib.Path, steps: list[int], layers: Mapping[str, MaskView]) -> None:
    """Save what the layers' masks look like over training.

    Args:
      folder: Folder of the cell.
      steps: Steps of the snapshots.
      layers: By path, all snapshots of each.
    """
    arrays = {f"{i} {j}": x for i, view in enumerate(layers.values()) for j, x in enumerate(view)}
    _write_arrays(folder / "masks.npz", steps=steps, paths=[*layers], **arrays)


def read_masks(folder: pathlib.Path) -> tuple[list[int], dict[str, MaskView]] | None:
    """What ``write_masks`` saved.

    Args:
      folder: Folder of the cell.

    Returns:
      Steps, and by path all snapshots of each mask; None where there is none.
    """
    saved = _read_arrays(folder / "masks.npz")
    if saved is None:
        return None
    parts = range(len(MaskView._fields))
    layers = {
        str(path): MaskView(*(saved[f"{i} {j}"] for j in parts))
        for i, path in enumerate(saved["paths"])
    }
    return saved["steps"].tolist(), layers


def write_confidence(folder: pathlib.Path, confidence: Confidence) -> None:
    """Save the histograms of a finished cell's confidence.

    Args:
      folder: Folder of the cell.
      confidence: All seeds.
    """
    _write_arrays(folder / "confidence.npz", **confidence._asdict())


def read_confidence(folder: pathlib.Path) -> Confidence | None:
    """What ``write_confidence`` saved.

    Args:
      folder: Folder of the cell.

    Returns:
      The histograms, or None where there are none.
    """
    saved = _read_arrays(folder / "confidence.npz")
    return None if saved is None else Confidence(**saved)


def _write_arrays(path: pathlib.Path, **arrays: Any) -> None:
    buffer, save = io.BytesIO(), cast(Callable[..., None], np.savez_compressed)
    save(buffer, **{name: np.asarray(array) for name, array in arrays.items()})
    records.write_bytes(path, buffer.getvalue())


def _read_arrays(path: pathlib.Path) -> dict[str, np.ndarray] | None:
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as saved:
        return dict(saved)
