"""Step times of methods relative to dense: both run in turns, so that other load falls on both."""

import dataclasses
import pathlib
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console

from . import data, records
from .cell import Cell, Order, program_of
from .config import Config
from .train import cells_of, progress_bars

_STEPS, _ROUNDS = 100, 5


class _Runner:
    """A method in training, a stretch of steps at a time."""

    def __init__(self, config: Config, cell: Cell, dataset: data.Dataset) -> None:
        config = dataclasses.replace(config, exploration=False)
        self._program = program_of(config, cell, dataset)
        self._order = Order(config.seeds, len(dataset.train_images), config.batch_size)
        self._learner = self._program.init(jnp.arange(config.seeds, dtype=jnp.uint32))
        self._step = 0

    def seconds(self) -> float:
        """How long the next steps take."""
        rows = self._order.steps(self._step, self._step + _STEPS)
        began = time.monotonic()
        self._learner, _ = jax.block_until_ready(self._program.run(self._learner, rows))
        self._step += _STEPS
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
    dense = _Runner(config, Cell("dense", "dense", 0.0), dataset)
    dense.seconds()  # compiles
    with progress_bars(console) as bars:
        bar = bars.add_task("step times", total=len(missing), note="")
        for cell in missing:
            bars.update(bar, note=cell.method)
            runner = _Runner(config, cell, dataset)
            runner.seconds()
            ratios = [runner.seconds() / dense.seconds() for _ in range(_ROUNDS)]
            times[cell.method] = statistics.median(ratios)
            records.write_json(run / "run.json", about)
            bars.advance(bar)
