"""What a training step takes, as a share of the dense one's time: both in turns, many rounds."""

import statistics
import time
from typing import Any

import jax
from rich.console import Console

from ..train import environment, progress_bars
from .cells import Cell, Study, cells_of
from .training import Trainer

_STEPS, _MOVES = 5, 2


class _Clock:
    """A network in training on one batch, and how long its steps take."""

    def __init__(self, study: Study, trainer: Trainer, cell: Cell) -> None:
        self._network, self._moves = trainer.network(cell), cell.block > 0
        rows = trainer.rows()[0, 0]
        self._batch = self._network.train_images[rows], trainer.labels[rows]
        self._learner = self._network.start(0)
        steps = range(study.steps)
        self._share = sum(map(self._network.due, steps)) / len(steps)
        self.step(1)  # compiles, as the next does
        self.move(1)

    def _seconds(self, steps: int, moves: bool) -> float:
        began = time.perf_counter()
        for _ in range(steps):
            *learner, _ = self._network.step(*self._learner, *self._batch, moves=moves)
            self._learner = learner
        jax.block_until_ready(self._learner)
        return (time.perf_counter() - began) / steps

    def step(self, steps: int = _STEPS) -> float:
        """Seconds of a step between updates of the masks."""
        return self._seconds(steps, False)

    def move(self, steps: int = _MOVES) -> float:
        """Seconds of a step at which masks move; of a dense network, of any."""
        return self._seconds(steps, self._moves) if self._moves else 0.0

    def mean(self, between: float, move: float) -> float:
        """Of all steps of a training."""
        return (1 - self._share) * between + self._share * move


def measure(study: Study, trainer: Trainer, rounds: int, console: Console) -> dict[str, Any]:
    """Time every network's step relative to that of the first dense one.

    In each round every network takes a few steps, right after as many of the dense one: other load
    of the machine falls on both. Steps at which masks move are timed apart and weighed by their
    share of the training.

    Args:
      study: The study.
      trainer: Of its networks.
      rounds: Number of rounds, at least 2.
      console: Where the progress goes.

    Returns:
      Where it was measured, the rounds, and for each cell the median ``ratio``, its ``quartiles``
      over rounds, and the medians ``between`` updates and at a ``move``; ratios to the dense step.
    """
    cells, reference = cells_of(study), Cell(study.dense_widths[0])
    ratios: dict[str, list[tuple[float, float, float]]] = {name: [] for name in cells}
    with progress_bars(console) as bars:
        bar = bars.add_task("step times", total=rounds + 1, note="compiling")
        clocks = {name: _Clock(study, trainer, cell) for name, cell in cells.items()}
        dense = _Clock(study, trainer, reference)
        for _ in range(rounds):
            bars.update(bar, advance=1, note="")
            for name, clock in clocks.items():
                unit = dense.step()
                between, move = clock.step() / unit, clock.move() / unit
                ratios[name].append((clock.mean(between, move), between, move))
        bars.advance(bar)
    return {"environment": environment(), "rounds": rounds, "cells": _medians(ratios)}


def _medians(ratios: dict[str, list[tuple[float, float, float]]]) -> dict[str, Any]:
    found = {}
    for name, rows in ratios.items():
        means, between, moves = zip(*rows, strict=True)
        low, _, high = statistics.quantiles(means, n=4)
        found[name] = {
            "ratio": statistics.median(means),
            "quartiles": [low, high],
            "between": statistics.median(between),
            "move": statistics.median(moves),
        }
    return found
