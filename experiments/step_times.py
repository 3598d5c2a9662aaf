"""Step times of methods relative to dense: both run in turns, so that other load falls on both."""

import dataclasses
import pathlib
import statistics
import time
from typing import Any

import jax.numpy as jnp
from rich.console import Console

from . import data, records
from .cell import Cell, Order, Stretches, program_of
from .config import Config
from .train import cells_of, progress_bars

_STEPS, _ROUNDS = 100, 5


def _seconds(training: Stretches) -> float:
    """How long the next steps take."""
    began = time.monotonic()
    training.run(_STEPS)
    return time.monotonic() - began


def measure(config: Config, run: pathlib.Path, console: Console) -> None:
    """Add to ``run.json`` what is not there yet: ``step_times``, method -> time relative to dense.

    The median of five ratios, each of 100 steps of the method, updates included, to 100 of dense
    that follow at once; methods at the run's first sparsity, without account of exploration.

    Args:
      config: The run.
      run: Its folder.
      console: Where the progress goes.
    """
    about: dict[str, Any] = records.read_json(run / "run.json") or {}
    times = about.setdefault("step_times", {})
    cells = {cell.method: cell for cell in reversed(cells_of(config))}
    missing = [cell for method, cell in sorted(cells.items()) if method not in times]
    if not missing:
        return
    dataset = data.load(config.data, config.data_dir)
    config, examples = dataclasses.replace(config, exploration=False), len(dataset.train_images)

    def begin(cell: Cell) -> Stretches:
        program, seeds = program_of(config, cell, dataset), jnp.arange(config.seeds)
        order = Order(config.seeds, examples, config.batch_size)
        return Stretches(program, order, program.init(seeds.astype(jnp.uint32)))

    dense = begin(Cell("dense", "dense", 0.0))
    dense.run(_STEPS)  # compiles
    with progress_bars(console) as bars:
        bar = bars.add_task("step times", total=len(missing), note="")
        for cell in missing:
            bars.update(bar, note=cell.method)
            method = begin(cell)
            method.run(_STEPS)
            ratios = [_seconds(method) / _seconds(dense) for _ in range(_ROUNDS)]
            times[cell.method] = statistics.median(ratios)
            records.write_json(run / "run.json", about)
            bars.advance(bar)
