"""From a finished cell to a training of another kind: its network, and whether that fits.

A checkpoint of another method, sparsity or schedule cannot be gone on with: its state means nothing
there. Its network does, and that is what is taken: the weights as they are used, zeros included,
and the batch statistics. Masks, method state, optimizer and step begin anew.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import jax

import jaxsparse
from jaxsparse._tree import flatten_with_paths

from . import records
from .cell import Cell, about_of, program_of
from .checkpoints import Checkpoints, differences
from .config import FREE, Config
from .data import Dataset
from .loop import Learner

Settings = TypeVar("Settings")


class Network(NamedTuple):
    """A network, with a leading seed axis."""

    params: Any
    batch_stats: Any


def read_network(folder: pathlib.Path, dataset: Dataset) -> Network:
    """The network of a finished cell, as it is used: ``forward_params`` of its last checkpoint.

    Args:
      folder: ``RUN/cells/CELL``; nothing in it is changed.
      dataset: The data that it will be trained on, of the same shape.

    Returns:
      The network.

    Raises:
      ValueError: if the folder is no finished cell, no checkpoint is whole, or it is of another
        version, with a line for each difference.
    """
    run, result = folder.parent.parent, records.read_result(folder)
    about = records.read_json(run / "run.json")
    if result is None or about is None:
        raise ValueError(f"{folder} is no finished cell; give RUN/cells/CELL of one (--start-from)")
    config = from_plain(Config(), about["config"])
    cell = Cell(result.cell, result.method, result.sparsity)
    program, metrics = program_of(config, cell, dataset), folder / "metrics.jsonl"
    there = {**about_of(config, cell), "jaxsparse": about["environment"]["jaxsparse"]}
    different = differences(there, about_of(config, cell))
    if different:
        raise ValueError("\n".join([f"{folder} cannot be started from:", *different]))
    options: Any = {"log": metrics, "read_only": True}
    with Checkpoints(folder / "checkpoints", there, **options) as checkpoints:
        saved = checkpoints.restore(program.abstract)
    if saved is None:
        raise ValueError(f"{folder} has no checkpoint; give a cell that has (--start-from)")
    learner: Learner = saved.state
    used = lambda params, state: jaxsparse.forward_params(params, state, training=False)
    axes = jaxsparse.vmap_axes(learner.opt_state)
    used = jax.jit(jax.vmap(used, in_axes=(0, axes)))
    return Network(used(learner.params, learner.opt_state), learner.batch_stats)


def fitted(network: Network, abstract: Learner) -> Network:
    """As many seeds of a network as a training has, if it is of the same model.

    Args:
      network: The network.
      abstract: Shapes of the training's learner.

    Returns:
      The network of the first seeds.

    Raises:
      ValueError: if there are fewer seeds, or another model, with a line for each difference.
    """
    seeds = len(abstract.seed)
    shapes = lambda tree: {path: list(leaf.shape[1:]) for path, leaf in flatten_with_paths(tree)[0]}
    here = Network(abstract.params, abstract.batch_stats)
    different = differences(*(shapes(each._asdict()) for each in (network, here)))
    there = len(jax.tree.leaves(network.params)[0])
    if there < seeds:
        different = [f"seeds: {there} there, {seeds} here", *different]
    if different:
        raise ValueError("\n".join(["the network to start from is another one:", *different]))
    return jax.tree.map(lambda leaf: leaf[:seeds], network)


def from_plain(default: Settings, saved: Mapping[str, Any]) -> Settings:
    """The inverse of ``records.plain``.

    Args:
      default: A dataclass; what a run is free in stays as it is here.
      saved: What JSON had of another one.

    Returns:
      The other one.

    Raises:
      ValueError: if it has other fields.
    """

    def value_of(name: str, value: Any) -> Any:
        before = getattr(default, name)
        if dataclasses.is_dataclass(before) and not isinstance(before, type):
            return from_plain(before, value)
        return tuple(value) if isinstance(value, list) else value

    changes = {name: value for name, value in saved.items() if name not in FREE}
    known = {field.name for field in dataclasses.fields(default)}  # type: ignore[arg-type]
    if set(changes) - known:
        raise ValueError(f"unknown settings {sorted(set(changes) - known)}: of another version")
    changes = {name: value_of(name, value) for name, value in changes.items()}
    return dataclasses.replace(default, **changes)  # type: ignore[type-var]
