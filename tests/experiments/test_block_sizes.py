"""The study of block sizes: what is trained, resuming, step times, comparisons, the page."""

import dataclasses
import io
import json
import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from experiments import claims, data
from experiments.block_sizes import __main__ as command
from experiments.block_sizes import comparison, page, plot, times, training
from experiments.block_sizes.cells import (
    HIDDEN,
    Cell,
    Study,
    cells_of,
    check,
    kept_weights,
    training_flops,
)
from experiments.block_sizes.comparison import Found
from experiments.stopping import INTERRUPTED
from jaxsparse import accelerate

pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")

# 160 inputs and units: ten rows of blocks of 16, of which two are kept.
SMALL = Study(
    data="digits",
    seeds=2,
    steps=6,
    batch_size=50,
    image=(10, 16),
    width=160,
    blocks=(1, 4, 16),
    sparsities=(0.8,),
    wider=320,
    wider_blocks=(16,),
    dense_widths=(160, 20),
    controls=(),
    interval=2,
)
NAMES = ["20-dense", "160-16x16-0.8", "320-16x16-0.8", "160-4x4-0.8", "160-1x1-0.8", "160-dense"]
# What is run from end to end: compiling is what costs.
QUICK = dataclasses.replace(SMALL, blocks=(16,), wider_blocks=())
RUN = ["20-dense", "160-16x16-0.8", "160-dense"]


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    return data.load("digits")


@pytest.fixture(scope="module")
def trainer(digits: data.Dataset) -> training.Trainer:
    return training.Trainer(QUICK, digits)


def test_cells() -> None:
    assert list(cells_of(SMALL)) == NAMES
    cells = cells_of(Study())
    assert len(cells) == 5 + 15 + 2 + 2
    assert cells["160-dense-resized"] == Cell(160, control=True)
    assert cells["1280-32x32-0.95"] == Cell(1280, 32, 0.95)


def test_weights_and_operations_by_hand() -> None:
    # 160 x 160 twice, a fifth of it; and 160 x 10.
    assert kept_weights(Cell(160, 4, 0.8), 160, 10) == 10_240 + 1_600
    assert kept_weights(Cell(160), 64, 10) == 10_240 + 25_600 + 1_600
    sparse, dense = 2 * 50 * 11_840, 2 * 50 * 52_800
    found = training_flops(SMALL, Cell(160, 4, 0.8), 160, 10, moves=2)
    assert found == 4 * 3 * sparse + 2 * (2 * sparse + dense)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": 0}, "seeds is 0"),
        ({"data": "minst"}, "unknown data set 'minst'"),
        ({"sparsities": (0.85,)}, "160-16x16-0.85 of 160 inputs: blocks of 16 at 0.85"),
        ({"image": (10, 15)}, "of 150 inputs"),
        ({"drop_fraction": 1.5}, "drop_fraction"),
        ({"learning_rate": 0.0}, "learning_rate"),
    ],
)
def test_studies_that_cannot_run(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(dataclasses.replace(SMALL, **change))


def test_images_grow_by_interpolation() -> None:
    rows = np.arange(4, dtype=np.uint8).reshape(1, 4, 1, 1) * 40
    found = training.resized(np.broadcast_to(rows, (1, 4, 2, 1)), (8, 4))
    # Centers of the new pixels lie at a quarter and three quarters of the old ones.
    assert found[0, :, 0, 0].tolist() == [0, 10, 30, 50, 70, 90, 110, 120]
    assert (found == found[:, :, :1]).all()


def whole_blocks(masks: Any, block: int) -> bool:
    """A fifth of the blocks, as many in each block column; the last layer is dense."""
    for name in HIDDEN:
        side = 160 // block
        mask = np.asarray(masks[name]["kernel"]).reshape(side, block, side, block)
        units = mask.sum((1, 3))
        assert set(np.unique(units)) == {0, block**2}
        assert set((units > 0).sum(0)) == {side // 5}
    return not isinstance(masks["head"]["kernel"], jax.Array)


def test_small_blocks_are_packed_without_columns(trainer: training.Trainer) -> None:
    packed, state = trainer.network(Cell(160, 4, 0.8)).start(1)
    assert whole_blocks(accelerate.masks_of_topology(state.topology), 4)
    assert [packed[name]["kernel"].shape for name in HIDDEN] == [(320, 4, 4)] * 2


def test_blocks_move(trainer: training.Trainer) -> None:
    network = trainer.network(Cell(160, 16, 0.8))
    packed, state = network.start(0)
    first = accelerate.masks_of_topology(state.topology)
    assert whole_blocks(first, 16)
    assert packed["hidden1"]["kernel"].shape == (10, 2, 16, 16)
    assert [network.due(step) for step in range(6)] == [False, False, True, False, False, False]
    batch = network.train_images[:50], trainer.labels[:50]
    _, state, _ = network.step(packed, state, *batch, moves=True)
    masks = accelerate.masks_of_topology(state.topology)
    assert whole_blocks(masks, 16)
    for name in HIDDEN:
        assert not np.array_equal(masks[name]["kernel"], first[name]["kernel"])


def test_first_weights_are_those_of_the_width_but_for_their_scale() -> None:
    dense, sparse = (
        training.first_weights(0, cell, 160, 10) for cell in (Cell(160), Cell(160, 4, 0.75))
    )
    for name, factor in {"hidden1": 2.0, "hidden2": 2.0, "head": 1.0}.items():
        np.testing.assert_allclose(
            sparse[name]["kernel"], factor * dense[name]["kernel"], rtol=1e-6
        )
    assert float(jnp.std(dense["hidden2"]["kernel"])) == pytest.approx((2 / 160) ** 0.5, rel=0.05)


def test_a_study_from_end_to_end_and_again(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, trainer: training.Trainer
) -> None:
    monkeypatch.setattr(command, "Trainer", lambda study, dataset: trainer)
    given = command.Arguments(study=QUICK, rounds=2, results=tmp_path)
    train, done = training.Trainer.train, []

    def interrupted(self: training.Trainer, cell: Cell, seed: int) -> dict[str, Any]:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(cell.name)
        return train(self, cell, seed)

    monkeypatch.setattr(training.Trainer, "train", interrupted)
    assert command.main(given) == INTERRUPTED
    path = tmp_path / "block_sizes.json"
    part = json.loads(path.read_text())
    assert list(part["results"]) == [f"{name}/0" for name in RUN[:2]]
    assert "Unfinished: 2 of 6 trainings" in (tmp_path / "block_sizes.md").read_text()
    done.append("again")
    assert command.main(given) == 0
    assert len(done) == 7  # what was finished was not trained again
    whole = json.loads(path.read_text())
    assert list(whole["results"]) == [f"{name}/{seed}" for seed in (0, 1) for name in RUN]
    assert {key: whole["results"][key] for key in part["results"]} == part["results"]
    again = train(trainer, Cell(20), 0)
    assert {**again, "seconds": 0} == {
        **{k: v for k, v in whole["results"]["20-dense/0"].items() if k != "commit"},
        "seconds": 0,
    }
    assert (tmp_path / "block_sizes.png").read_bytes().startswith(b"\x89PNG")

    assert set(whole["times"]["cells"]) == set(RUN)
    assert command.main(dataclasses.replace(given, times_only=True, rounds=3)) == 0
    timed = json.loads(path.read_text())
    assert (timed["times"]["rounds"], timed["results"]) == (3, whole["results"])
    other = dataclasses.replace(given, study=dataclasses.replace(QUICK, steps=7))
    assert command.main(other) == 2
    assert json.loads(path.read_text()) == timed


def test_times_weigh_the_steps_at_which_masks_move(
    trainer: training.Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = {"160-16x16-0.8": Cell(160, 16, 0.8)}
    monkeypatch.setattr(times, "cells_of", lambda study: cells)
    taken = {True: 8.0, False: 2.0}

    def seconds(self: Any, steps: int, moves: bool) -> float:
        return taken[moves] if self._moves else 4.0

    monkeypatch.setattr(times._Clock, "_seconds", seconds)
    found = times.measure(SMALL, trainer, 3, Console(file=io.StringIO()))["cells"]
    # One step in six moves masks.
    row = {"between": 0.5, "move": 2.0, "ratio": 0.75, "quartiles": [0.75, 0.75]}
    assert found == {"160-16x16-0.8": row}


def dense_and_one(accuracies: list[float], cost: float, ours: list[float]) -> dict[str, Found]:
    """Dense networks at costs 1, 4, 16; and a sparse one."""
    by_seed = lambda values: dict(enumerate(values))
    find = {
        f"d{i}": Found(Cell(10 * (i + 1)), by_seed([a, a + 0.01]), 4**i, 4**i, 4**i)
        for i, a in enumerate(accuracies)
    }
    return find | {"ours": Found(Cell(40, 16, 0.8), by_seed(ours), cost, cost, cost)}


def test_against_a_dense_network_of_equal_cost() -> None:
    find = dense_and_one([0.7, 0.8, 0.9], 8.0, [0.84, 0.88])
    # Half way between 4 and 16 by its logarithm: 0.85 and 0.86.
    for axis in comparison.AXES:
        values = comparison.over_dense("ours", axis)(find)
        assert values == pytest.approx([-1.0, 2.0])
    over = comparison.over_dense("ours", "time")
    for cost, off in ((1.0, 14.0), (20.0, -6.0)):
        beside = dense_and_one([0.7, 0.8, 0.9], cost, [0.84])
        assert over(beside) == pytest.approx([off])
    for unknown in (0.5, math.nan):  # faster than all, or not measured
        with pytest.raises(KeyError):
            over(dense_and_one([0.7, 0.8, 0.9], unknown, [0.8]))
    assert comparison.gap("ours", "d1")(find) == pytest.approx([4.0, 7.0])
    one = dense_and_one([0.7, 0.8, 0.9], 8.0, [0.84])
    assert comparison.gap("ours", "d1")(one) == pytest.approx([4.0])  # the seed that both have


@pytest.mark.parametrize(
    ("ours", "known"),
    [
        # Means of the dense ones: 0.705, 0.805, 0.905; half way from 4 to 16 is 8, over 2.
        ([0.855, 0.855], 4.0),
        ([0.805, 0.805], 2.0),
        ([0.6, 0.6], 0.0),
        ([0.99, 0.99], math.inf),
    ],
)
def test_time_of_a_dense_network_as_accurate(ours: list[float], known: float) -> None:
    find = dense_and_one([0.7, 0.8, 0.9], 2.0, ours)
    assert comparison.time_of_equals(find, "ours") == pytest.approx(known)


def made_up(time: float) -> dict[str, Any]:
    """4x4 loses a point, 16x16 two, single weights none; all sparse ones take ``time``."""
    results, cells = {}, cells_of(SMALL)
    for name, cell in cells.items():
        off = {0: 0.0, 1: 0.0, 4: 1.0, 16: 2.0}[cell.block] + 3.0 * (cell.width == 20)
        for seed in range(2):
            results[f"{name}/{seed}"] = {
                "test_accuracy": 0.9 - (off + 0.001 * seed * (cell.block + 1)) / 100,
                "kept": kept_weights(cell, 160, 10),
                "flops": 1e9 * (cell.width if not cell.block else 80),
                "nonfinite": 1,
                "seconds": 30.0,
                "commit": "abc",
            }
    rows = {n: time if c.block else c.width / 160 for n, c in cells.items()}
    where = dict.fromkeys(("hardware", "python", "jax", "optax", "commit", "date"), "x")
    measured = {
        n: {"ratio": x, "between": x, "move": 2 * x, "quartiles": [x, x]} for n, x in rows.items()
    }
    return {
        "environment": where,
        "config": json.loads(json.dumps(dataclasses.asdict(SMALL))),
        "results": results,
        "times": {"environment": where, "rounds": 3, "cells": measured},
    }


def test_sentences_say_what_the_numbers_say() -> None:
    cells = cells_of(SMALL)
    find = comparison.found_of(made_up(0.125), cells)
    cost = claims.conclusion("x", comparison.block_claims(cells, 160), find)
    assert cost == "**x: holds here**, with 2 seeds (yes 2 of 2)."
    # As fast as the narrow dense network, which is three points below the wide one.
    text = page.answer(find, cells)
    assert (
        "More accurate than the dense network that takes no longer (4 of 4): 160 wide, 16x16"
        in text
    )
    # Half way between both by the logarithm: 1.5 points below.
    text = page.answer(comparison.found_of(made_up(0.125**0.5), cells), cells)
    assert "(2 of 4): 160 wide, 4x4, 80 %; 160 wide, 1x1, 80 %." in text
    assert "Less accurate than it (2 of 4): 160 wide, 16x16, 80 %; 320 wide, 16x16, 80 %." in text
    # Slower than all of them: beside the wide one, which single weights equal.
    text = page.answer(comparison.found_of(made_up(2.0), cells), cells)
    assert "Less accurate than it (3 of 4)" in text
    assert "Not resolved (1 of 4): 160 wide, 1x1, 80 %." in text
    text = page.answer(comparison.found_of(made_up(0.1), cells), cells)
    assert "faster than every dense network (4 of 4)" in text


def test_the_page_and_the_figure() -> None:
    about = made_up(0.125)
    text = page.markdown(about)
    rows = [[cell.strip() for cell in line.split("|")] for line in text.splitlines()]
    row = ["", "160 wide, 16x16, 80 %", "87.99 ± 0.01", "11,840", "0.5", "0.125", ""]
    assert row in rows
    assert ["", "160 wide, 16x16, 80 %", "0.125", "0.25", "0.125", "0.125 to 0.125", ""] in rows
    assert "not finite: 12." in text
    assert "Unfinished" not in text
    control = cells_of(dataclasses.replace(SMALL, controls=(20,)))
    find = comparison.found_of(about, cells_of(SMALL))
    assert page.control_text(find, control) == ""
    find["20-dense-resized"] = Found(Cell(20, control=True), {0: 0.8, 1: 0.9}, 1, 1, 1)
    assert "+5.00 ± 5.00 points at 20" not in page.control_text(find, control)
    figure = plot.figure(about)
    # Dense, three block sizes, and the wider network.
    assert [len(axes.containers) for axes in figure.axes] == [5, 5, 5]
    del about["times"]
    about["results"] = {"20-dense/0": about["results"]["20-dense/0"]}
    text = page.markdown(about)
    assert "Unfinished: 1 of 12 trainings" in text
    assert "Not measured." in text
    assert [len(axes.containers) for axes in plot.figure(about).axes] == [1, 0, 0]
