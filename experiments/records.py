"""The files of a run: with ``arrays`` the only place that knows their names.

RUN/run.json                     what was run: configuration, versions, hardware, commit
RUN/cells/CELL/metrics.jsonl     a line a compiled call; each metric has an entry a seed
RUN/cells/CELL/inputs.npz        connections of each input over training, first seed
RUN/cells/CELL/masks.npz         what each layer's mask looks like over training, first seed
RUN/cells/CELL/confidence.npz    histograms of the finished networks' confidence
RUN/cells/CELL/result.json       the final numbers; there once the cell is finished
RUN/cells/CELL/failure.txt       the traceback of an unexpected error that ended it last
RUN/cells/CELL/lock              locked while a process is at work on the cell
RUN/cells/CELL/checkpoints/      Orbax; checkpoints.json beside it names the newest
RUN/cells/CELL/damaged/          checkpoints that were not whole when a run went on
RUN/report.html

Of several processes, process 0 writes them.
"""

import contextlib
import dataclasses
import io
import json
import os
import pathlib
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from . import processes

_DAMAGED = (zipfile.BadZipFile, zlib.error)


@dataclasses.dataclass(frozen=True)
class Layer:
    """One weight leaf of a finished cell; ``kept`` has an entry a seed, None where it is dense.

    ``flops`` are the operations of a dense forward pass over one image; None in older runs.
    """

    path: str
    shape: list[int]
    size: int
    kept: list[int] | None
    flops: int | None = None


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What the confidence of the finished networks is worth; lists have an entry a seed.

    Of test images: the expected calibration error (``ece``, bins of equal width) and the Brier
    score, in [0, 2]; the likelihood is the result's ``test_loss``. ``temperature`` is fitted to all
    of them, ``scaled_ece`` the error with each half scaled by the temperature of the other.
    ``auroc`` and ``fpr95`` tell test images from those of ``outside`` by the largest probability.
    """

    ece: list[float]
    brier: list[float]
    temperature: list[float]
    scaled_ece: list[float]
    outside: str
    auroc: list[float]
    fpr95: list[float]


@dataclasses.dataclass(frozen=True)
class Result:
    """The final numbers of a cell: one method at one sparsity, all seeds.

    Lists have an entry a seed. ``inference_flops`` and ``training_flops`` are fractions of the
    dense network's; ``kept`` and ``weights`` count the weights of all its layers, without biases.
    ``exploration`` is the share of the weights ever kept, where account was kept of it. ``flops``
    are all operations of training (None in older runs), ``average_parameters`` the mean over its
    steps of the parameters that its forward pass used, biases and normalization among them.
    """

    cell: str
    method: str
    sparsity: float
    seeds: list[int]
    steps: int
    epochs: float
    seconds: float
    test_accuracy: list[float]
    test_loss: list[float]
    train_loss: list[float]
    kept: list[int]
    weights: int
    inference_flops: list[float]
    training_flops: list[float]
    updates: int
    skipped: list[int]
    nonfinite: list[int]
    layers: list[Layer]
    exploration: list[float] | None = None
    flops: list[float] | None = None
    average_parameters: list[float] | None = None
    evaluation: Evaluation | None = None


def plain(settings: Any) -> Any:
    """Settings as JSON has them: tuples as lists, paths as strings, dataclasses as dictionaries.

    Args:
      settings: A dataclass, or anything made of what JSON can say and these.

    Returns:
      The same, of dictionaries, lists, strings and numbers.
    """

    def say(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return dataclasses.asdict(value)
        return str(value)

    return json.loads(json.dumps(settings, default=say))


def write_json(path: pathlib.Path, value: Any) -> None:
    """Write a JSON file whole or not at all.

    Args:
      path: The file; its folder is made.
      value: Anything that JSON can say.
    """
    write_bytes(path, (json.dumps(value, indent=1) + "\n").encode())


def write_bytes(path: pathlib.Path, data: bytes) -> None:
    """Write a file whole or not at all.

    Args:
      path: The file; its folder is made.
      data: Its content.
    """
    if not processes.writes():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def read_json(path: pathlib.Path) -> Any:
    """Read a JSON file.

    Args:
      path: The file.

    Returns:
      Its content, or None where there is no such file.

    Raises:
      ValueError: if it is no JSON.
    """
    try:
        return json.loads(path.read_text()) if path.exists() else None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not as it was written: {error}") from None


def cell_folder(run: pathlib.Path, cell: str) -> pathlib.Path:
    """Where one cell's files lie.

    Args:
      run: Folder of the run.
      cell: Name of the cell, such as ``rigl-0.9``.

    Returns:
      The folder.
    """
    return run / "cells" / cell


def append_metrics(folder: pathlib.Path, rows: list[dict[str, Any]]) -> None:
    """Add lines to a cell's metrics.

    Args:
      folder: Folder of the cell.
      rows: One dictionary a line.
    """
    if not processes.writes():
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def read_metrics(folder: pathlib.Path) -> list[dict[str, Any]]:
    """A cell's metrics so far.

    Args:
      folder: Folder of the cell.

    Returns:
      One dictionary a line; a last line cut short by a kill is left out.
    """
    path = folder / "metrics.jsonl"
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def truncate_metrics(folder: pathlib.Path, step: int) -> None:
    """Forget what was logged after a step: a resumed run logs it again.

    Args:
      folder: Folder of the cell.
      step: The last step to keep.
    """
    rows = [row for row in read_metrics(folder) if row["step"] <= step]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    write_bytes(folder / "metrics.jsonl", text.encode())


def write_leaves(path: pathlib.Path, tree: Any) -> None:
    """Save the arrays of a pytree.

    Args:
      path: The file.
      tree: Pytree of arrays.
    """
    buffer = io.BytesIO()
    np.savez_compressed(buffer, *map(np.asarray, jax.tree.leaves(tree)))
    write_bytes(path, buffer.getvalue())


def read_leaves(path: pathlib.Path, like: Any) -> Any:
    """What ``write_leaves`` saved.

    Args:
      path: The file.
      like: A pytree of the same structure.

    Returns:
      The pytree, of host arrays.

    Raises:
      ValueError: if the file is damaged, or of another pytree.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as saved:
            arrays = [saved[name] for name in saved.files]
    except (OSError, ValueError, EOFError, KeyError, NotImplementedError, *_DAMAGED) as error:
        raise ValueError(
            f"{path} is not as it was written ({error}); delete {path.parent} to train it anew"
        ) from None
    expected, structure = jax.tree.flatten(like)
    about = lambda leaves: [(tuple(leaf.shape), leaf.dtype) for leaf in leaves]
    if about(arrays) != about(expected):
        raise ValueError(f"{path} holds other arrays; delete {path.parent} to train it anew")
    return structure.unflatten(arrays)


def write_result(folder: pathlib.Path, result: Result) -> None:
    """Save a cell's final numbers: the cell counts as finished from then on.

    Args:
      folder: Folder of the cell.
      result: The numbers.
    """
    write_json(folder / "result.json", dataclasses.asdict(result))


def read_result(folder: pathlib.Path) -> Result | None:
    """A cell's final numbers.

    Args:
      folder: Folder of the cell.

    Returns:
      The numbers, or None while the cell is not finished.

    Raises:
      ValueError: if the file is damaged.
    """
    saved: Mapping[str, Any] | None = read_json(folder / "result.json")
    if saved is None:
        return None
    try:
        layers = [Layer(**layer) for layer in saved["layers"]]
        evaluation = saved.get("evaluation")
        evaluation = Evaluation(**evaluation) if evaluation else None
        return Result(**{**saved, "layers": layers, "evaluation": evaluation})
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / 'result.json'} is not as it was written: {error!r}") from None


def read_results(run: pathlib.Path) -> list[Result]:
    """The finished cells of a run, in the order in which it names them.

    Args:
      run: Folder of the run.

    Returns:
      The final numbers of each.

    Raises:
      FileNotFoundError: if the folder holds no run.
    """
    about = read_json(run / "run.json")
    if about is None:
        raise FileNotFoundError(f"{run} holds no run.json; give the folder of a run")
    found = [read_result(cell_folder(run, cell)) for cell in about["cells"]]
    return [result for result in found if result is not None]
