"""The study of pruning at initialization on made-up images: exact counts, resuming, the page."""

import dataclasses
import io
import json
import pathlib
import signal
from typing import Any

import jax
import numpy as np
import pytest
from rich.console import Console

from experiments import data, records
from experiments.pruning_at_init import __main__ as command
from experiments.pruning_at_init import cells, claims, page, plot
from experiments.pruning_at_init.cells import METHODS, ONCE, Cell, Result, Study, Trainer
from experiments.stopping import INTERRUPTED

pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")

SMALL = Study(
    data="mnist",
    widths=((3,), (4,)),
    exponents=(1.0,),
    seeds=2,
    steps=4,
    batch_size=20,
    synflow_rounds=20,
    force_rounds=3,
    chunk_steps=2,
)
# 3x3x1x3, 3x3x3x4, and 1x1x4 features to ten classes.
SIZES = {"conv1_1/kernel": 27, "conv2_1/kernel": 108, "head/kernel": 40}


def fake(name: str, *_: Any) -> data.Dataset:
    """Ten blurred digits of 4 x 4 pixels."""
    rng = np.random.default_rng(0)
    labels = np.tile(np.arange(10), 25).astype(np.int32)
    centers = rng.integers(40, 216, (10, 4, 4, 1))
    images = np.clip(centers[labels] + rng.normal(0, 40, (250, 4, 4, 1)), 0, 255).astype(np.uint8)
    return data.Dataset(
        name, 10, images[:200], labels[:200], images[200:], labels[200:], (128.0,), (64.0,)
    )


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    return Trainer(SMALL, fake("mnist"))


def quiet() -> Console:
    return Console(file=io.StringIO(), width=120)


def counts(masks: Any) -> list[list[int]]:
    return [
        np.asarray(leaf).reshape(len(leaf), -1).sum(1).tolist() for leaf in jax.tree.leaves(masks)
    ]


def test_cells_are_all_there() -> None:
    found = cells.cells_of(Study())
    assert len({cell.name for cell in found}) == len(found) == 1 + 6 + 7 + 36
    assert [cell.exponent for cell in found if cell.trained][1] == 3.0
    assert {cell.method for cell in found if cell.trained} == {"dense", *METHODS}


@pytest.mark.parametrize("method", [*METHODS, ONCE])
def test_masks_keep_what_the_compression_says(trainer: Trainer, method: str) -> None:
    assert trainer.sizes == SIZES
    masks = trainer.masks(Cell(method, 1.0, False))
    kept = np.array(counts(masks))
    assert kept.sum(0).tolist() == [18, 18]  # 175 / 10, to even
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(masks)]
    assert any(not np.array_equal(leaf[0], leaf[1]) for leaf in leaves)


def test_magnitude_is_that_of_all_layers_together(trainer: Trainer) -> None:
    masks = trainer.masks(Cell("magnitude", 1.0, False))
    params = trainer._params  # as training starts from them
    for seed in range(2):
        weights = [
            np.abs(params[layer]["kernel"][seed]).ravel()
            for layer in ("conv1_1", "conv2_1", "head")
        ]
        least = np.sort(np.concatenate(weights))[-18]
        found = [np.asarray(leaf)[seed].ravel() for leaf in jax.tree.leaves(masks)]
        for mask, weight in zip(found, weights, strict=True):
            np.testing.assert_array_equal(mask, weight >= least)


def test_synflow_in_rounds_leaves_a_weight_in_each_layer(trainer: Trainer) -> None:
    kept = counts(trainer.masks(Cell("synflow", None, False)))
    assert kept == [[1, 1], [1, 1], [1, 1]]


def test_an_empty_layer_is_seen() -> None:
    row = result("snip", 3.0, kept={"a": [1, 0, 2], "b": [5, 6, 4]})
    assert row.collapsed == [False, True, False]


def test_a_stopped_run_goes_on_to_the_same_numbers(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, trainer: Trainer
) -> None:
    monkeypatch.setattr(data, "load", fake)
    monkeypatch.setattr(command, "Trainer", lambda study, dataset: trainer)
    monkeypatch.setattr(cells, "METHODS", ("random",))
    flags = ["--data=mnist", "--exponents=1", "--seeds=2", "--steps=4", "--chunk-steps=2"]
    whole, stopped, results = tmp_path / "whole", tmp_path / "stopped", tmp_path / "results"

    def run(out: pathlib.Path, *more: str) -> int:
        return command.main([*flags, f"--out={out}", f"--results={results}", *more])

    assert run(whole) == 0
    train, done = Trainer.run, []

    def interrupted(self: Trainer, cell: Cell, progress: Any) -> Result:
        if len(done) == 3:
            signal.raise_signal(signal.SIGINT)
        done.append(cell.name)
        return train(self, cell, progress)

    monkeypatch.setattr(Trainer, "run", interrupted)
    assert run(stopped) == INTERRUPTED
    _, found = cells.read_results(stopped)
    assert [r.cell for r in found] == done[:3]
    assert run(stopped) == 2  # not again from the beginning
    assert run(stopped, "--resume", "--steps=5") == 2  # not another study
    assert run(stopped, "--resume") == 0
    assert len(done) == len(set(done)) + 1  # what was finished was not run again

    def numbers(out: pathlib.Path) -> list[Result]:
        return [dataclasses.replace(r, seconds=0.0) for r in cells.read_results(out)[1]]

    assert numbers(stopped) == numbers(whole)
    trained = [r for r in numbers(whole) if r.trained]
    assert [r.cell for r in trained] == ["dense", "random-1"]
    assert all(len(r.test_accuracy) == 2 and np.isfinite(r.test_loss).all() for r in trained)
    saved = json.loads((results / "pruning_at_init.json").read_text())
    assert len(saved["results"]) == len(saved["run"]["cells"]) == 5
    assert (results / "pruning_at_init.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": 0}, "seeds is 0"),
        ({"exponents": (-1.0,)}, "exponents holds -1.0"),
        ({"data": "minst"}, "unknown data set 'minst'"),
        ({"optimizer": dataclasses.replace(SMALL.optimizer, learning_rate=0.0)}, "learning_rate"),
    ],
)
def test_studies_that_cannot_run(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cells.check(dataclasses.replace(SMALL, **change))


def result(
    method: str, exponent: float, *, accuracy: float = 0.8, kept: Any = None, trained: bool = True
) -> Result:
    kept = kept or {"a": [3, 3, 3], "b": [7, 7, 7]}
    accuracies = [accuracy - 0.01, accuracy, accuracy + 0.01] if trained else []
    name = f"{method}-{exponent:g}"
    sizes = dict.fromkeys(kept, 1000)
    losses = [0.5] * len(accuracies)
    return Result(
        name, method, exponent, trained, [0, 1, 2], 4, 1.0, sizes, kept, accuracies, losses
    )


EMPTY = {"a": [0, 0, 0], "b": [9, 9, 9]}


def made_up(*, holds: bool) -> list[Result]:
    """What the papers say, or the opposite in every point."""
    gone = {"accuracy": 0.1, "kept": EMPTY}
    bad, good = (gone, {}) if holds else ({}, gone)
    found = [result("dense", 0.0, accuracy=0.9)]
    for exponent in (1.0, 2.0, 3.0):
        last = exponent == 3.0
        found += [
            result("random", exponent, **(bad if last else {})),
            result("magnitude", exponent, **(bad if exponent >= 2 else {})),
            result("snip", exponent, **(good if last else {})),
            result("grasp", exponent, **(good if last else {"accuracy": 0.75})),
            result("force", exponent),
            result("synflow", exponent, accuracy=0.89 if holds else 0.05, kept=good.get("kept")),
            result(ONCE, exponent, trained=False, kept=bad.get("kept") if last else None),
        ]
    return [*found, result("synflow", 3.3, trained=False, kept=good.get("kept"))]


def verdicts(results: list[Result]) -> list[str]:
    return [row[4] for row in claims.claim_rows(results)]


def test_claims_that_hold() -> None:
    rows = claims.claim_rows(made_up(holds=True))
    assert [row[4] for row in rows] == ["yes"] * 10
    first, second = claims.sentences(rows, 3)
    assert first == "**H14 holds here**: 8 of 8 statements, 3 seeds."
    assert second == "**H15 holds here**: 2 of 2 statements, 3 seeds."
    measured = {row[1]: row[3] for row in rows}
    assert measured["SynFlow: networks with an empty layer"] == "0 of 12 networks"
    assert measured["magnitude: at chance from"] == "10^2, a layer empty in 3 of 3 seeds there"
    assert measured["at 10^3: SynFlow less SNIP"] == "+9.00 ± 0.00 points"
    assert measured["SynFlow in 1 round: a layer empty in every seed"] == "from 10^3"


def test_claims_that_do_not() -> None:
    rows = claims.claim_rows(made_up(holds=False))
    assert all(row[4].startswith("no") for row in rows)
    first, second = claims.sentences(rows, 3)
    assert first.startswith("**H14 does not hold here**: 0 of 8 statements, 3 seeds. Not so: ")
    assert (
        "SNIP at 10^3: accuracy 10.00 ± 1.00 %, a layer empty in 3 of 3 seeds (published: " in first
    )
    assert "SynFlow less SNIP +0.00 ± 0.00 points, not resolved (published: +1.3 to" not in first
    assert second.startswith("**H15 does not hold here**: 0 of 2")


def test_claims_that_were_not_run_are_said_so() -> None:
    rows = claims.claim_rows([result("random", 3.0, accuracy=0.11)])
    assert [row[3] for row in rows].count("not run") == 9
    first, second = claims.sentences(rows, 3)
    assert first == "**H14 holds here**: 1 of 1 statements, 3 seeds. Not run yet: 7."
    assert second == "**H15 was not tested here**: 0 of 0 statements, 3 seeds. Not run yet: 2."


def test_networks_that_are_cut_off_are_named() -> None:
    rows = [
        result("snip", 3.0, accuracy=0.1, kept={"a": [1, 0, 2], "b": [5, 6, 4]}),
        result("force", 3.0, accuracy=0.5),
    ]
    text = "At chance after training, although no layer is empty: "
    assert page.cut_off(rows) == text + "SNIP at 10^3 (2 seeds)."
    assert page.cut_off(rows[1:]) == text + "none."


def test_the_page_marks_empty_layers(tmp_path: pathlib.Path) -> None:
    results = made_up(holds=True)
    environment = dict.fromkeys(
        ("hardware", "python", "jax", "flax", "optax", "commit", "date"), "x"
    )
    config = json.loads(json.dumps(dataclasses.asdict(SMALL)))
    about = {"config": config, "cells": [r.cell for r in results], "environment": environment}
    text = page.markdown(results, about)
    assert "Unfinished" not in text
    assert f"**Unfinished: {len(results) - 1} of {len(results)} cells.**" in page.markdown(
        results[:-1], about
    )
    by = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("|")}
    assert [cell.strip() for cell in by["10^3"].split("|")[2:-1]] == [
        "9",
        "10.00 ± 1.00 [3 of 3 empty]",
        "10.00 ± 1.00 [3 of 3 empty]",
        "80.00 ± 1.00",
        "80.00 ± 1.00",
        "80.00 ± 1.00",
        "89.00 ± 1.00",
    ]
    assert [cell.strip() for cell in by["SynFlow"].split("|")[2:-1]] == ["-", "-", "0 of 3 seeds"]
    assert [cell.strip() for cell in by["magnitude"].split("|")[2:-1]] == ["10^2", "10^2", "-"]
    records.write_bytes(tmp_path / "page.md", text.encode())
    plot.figure(results).savefig(tmp_path / "figure.png")
