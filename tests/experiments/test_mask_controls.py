"""The study of the controls of masks: what its masks are, a run that was stopped, its page."""

import dataclasses
import io
import pathlib
from typing import Any

import jax
import numpy as np
import pytest
from rich.console import Console

from experiments import claims, data, jobs, mask_controls, mask_controls_page, masked, records
from experiments.mask_controls import Cell, Lab, Study, cells_of
from experiments.mask_controls_page import CONTROLS, METHODS

pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")

SMALL = Study(data="digits", seeds=2, batch_size=300, widths=(12, 8), sparsities=(0.8,))
TWO = {name: METHODS[name] for name in ("snip", "magnitude")}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(SMALL, data.load("digits"), tmp_path_factory.mktemp("run"))


def arrays(tree: Any) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize("method", METHODS)
def test_each_control_changes_what_it_says_and_no_more(lab: Lab, method: str) -> None:
    params, masks = lab.start(Cell(method, "as_is", 0.8))
    # 64 x 12, 12 x 8 and 8 x 10 weights are 944; the floor of 80 % are 755 zeros.
    assert [mask.shape for mask in arrays(masks)] == [(2, 64, 12), (2, 12, 8), (2, 8, 10)]
    assert [sum(mask[seed].sum() for mask in arrays(masks)) for seed in (0, 1)] == [189, 189]
    found = {control: lab.start(Cell(method, control, 0.8)) for control in CONTROLS}
    for control, (start, others) in found.items():
        for mask, other in zip(arrays(masks), arrays(others), strict=True):
            np.testing.assert_array_equal(mask.sum((1, 2)), other.sum((1, 2)), control)
        same_start = all(map(np.array_equal, arrays(params), arrays(start)))
        same_masks = all(map(np.array_equal, arrays(masks), arrays(others)))
        assert same_start == (control != "reinitialized")
        assert same_masks == (control in ("as_is", "reinitialized"))
    if method != "synflow":  # whose scores change from round to round
        for mask, other in zip(arrays(masks), arrays(found["inverted"][1]), strict=True):
            for seed in (0, 1):
                if 2 * mask[seed].sum() <= mask[seed].size:
                    assert not (mask[seed] & other[seed]).any()


def test_masks_of_magnitudes_are_those_of_the_trained_network(lab: Lab) -> None:
    _, masks = lab.start(Cell("magnitude", "as_is", 0.8))
    _, least = lab.start(Cell("magnitude", "inverted", 0.8))
    params, _ = lab.start(Cell("dense", "as_is", 0.0))
    trained = records.read_leaves(lab._trained, params)
    weights = [np.abs(leaf) for leaf in arrays(trained) if leaf.ndim == 3]
    for seed in (0, 1):
        everything = np.sort(np.concatenate([weight[seed].ravel() for weight in weights]))
        for weight, mask, low in zip(weights, arrays(masks), arrays(least), strict=True):
            np.testing.assert_array_equal(mask[seed], weight[seed] >= everything[-189])
            kept = int(mask[seed].sum())
            limit = np.sort(weight[seed].ravel())[kept - 1]
            np.testing.assert_array_equal(low[seed], weight[seed] <= limit)


def test_random_masks_have_the_same_sparsity_in_all_layers(lab: Lab) -> None:
    _, masks = lab.start(Cell("random", "as_is", 0.8))
    shares = [mask.mean((1, 2)) for mask in arrays(masks)]
    np.testing.assert_allclose(shares, 0.2, atol=0.01)
    assert not np.array_equal(*arrays(masks)[0])  # another one for each seed


def test_seeds_one_after_another_are_seeds_at_once() -> None:
    model = mask_controls.Model("mlp", widths=SMALL.widths)
    ends = []
    for lanes in (1, 2):
        trainer = masked.Trainer(SMALL, model, data.load("digits"), lanes)
        result, trained = trainer.train("x", *trainer.initial(), lambda *_: None)
        assert result.steps == 4  # 1,437 images of 1,797 are for training
        ends.append((result, arrays(trained)))
    (one, first), (both, second) = ends
    np.testing.assert_allclose(one.test_accuracy, both.test_accuracy, atol=0.01)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_a_stopped_study_goes_on_to_the_same_numbers(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mask_controls, "METHODS", TWO)
    given = mask_controls.Arguments(
        study=SMALL, out=tmp_path / "whole", results=tmp_path / "pages", backwards=True
    )
    assert mask_controls.main(given) == 0
    whole = masked.numbers_of(tmp_path / "whole")["results"]
    assert [each["cell"] for each in whole] == list(cells_of(SMALL))
    assert len(whole) == 2 + 2 * len(CONTROLS)

    train, calls = masked.Trainer.train, []

    def some(self: Any, cell: str, *rest: Any) -> Any:
        calls.append(cell)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return train(self, cell, *rest)

    again = dataclasses.replace(given, out=tmp_path / "parts", backwards=False)
    monkeypatch.setattr(masked.Trainer, "train", some)
    assert mask_controls.main(again) == 130
    assert "Unfinished: 3 of 10 cells" in (tmp_path / "pages" / "mask_controls.md").read_text()
    assert mask_controls.main(again) == 0
    assert len(calls) == 4 + 7  # the stopped cell is trained again, finished ones are not
    parts = masked.numbers_of(tmp_path / "parts")["results"]
    assert [{**each, "seconds": 0} for each in parts] == [{**each, "seconds": 0} for each in whole]

    capsys.readouterr()
    other = dataclasses.replace(again, study=dataclasses.replace(SMALL, seeds=3))
    assert mask_controls.main(other) == 2
    assert "seeds: 2 there, 3 here" in capsys.readouterr().err.splitlines()
    wrong = dataclasses.replace(again, study=dataclasses.replace(SMALL, sparsities=(1.5,)))
    assert mask_controls.main(wrong) == 2
    missing = dataclasses.replace(again, out=tmp_path / "none", page_only=True)
    assert mask_controls.main(missing) == 2
    assert "holds no run" in capsys.readouterr().err


def test_a_cell_in_work_elsewhere_is_left_alone(tmp_path: pathlib.Path) -> None:
    trained = []

    def train(cell: str, show: masked.Show) -> masked.Result:
        trained.append(cell)
        return made_up(cell, [0.5])

    quiet = Console(file=io.StringIO())
    with jobs.alone(records.cell_folder(tmp_path, "a")) as alone:
        assert alone
        masked.run_cells(tmp_path, ["a", "b"], train, "x", quiet)
    masked.run_cells(tmp_path, ["a", "b"], train, "x", quiet)
    assert trained == ["b", "a"]


def made_up(cell: str, accuracies: list[float]) -> masked.Result:
    return masked.Result(
        cell=cell,
        steps=1,
        seconds=60.0,
        test_accuracy=accuracies,
        test_loss=[1.0] * len(accuracies),
        nonfinite=[0] * len(accuracies),
        weights=100,
        kept={"w": [10] * len(accuracies)},
        commit="abc",
    )


def numbers(loss_of_shuffled: float, loss_after_training: float) -> dict[str, Any]:
    """Shuffled masks lose that much; reinitialized ones nothing before training."""
    results = [made_up("dense", [0.98, 0.98, 0.98])]
    for sparsity in (0.9, 0.99):
        results.append(made_up(f"random-as_is-{sparsity}", [0.9, 0.9, 0.9]))
        for method in METHODS:
            loss = loss_after_training if method == "magnitude" else loss_of_shuffled
            other = loss_after_training if method == "magnitude" else 0
            for control, off in zip(CONTROLS, (0, loss, other, 5), strict=True):
                value = [0.95 + noise - off / 100 for noise in (0.001, 0.0, -0.001)]
                if control == "shuffled":  # not the same in each seed
                    value[0] += 0.0002
                results.append(made_up(f"{method}-{control}-{sparsity}", value))
    names = ("hardware", "python", "jax", "flax", "optax", "commit", "date")
    config = dataclasses.asdict(dataclasses.replace(SMALL, seeds=3, sparsities=(0.9, 0.99)))
    about = {
        "config": config,
        "cells": [result.cell for result in results],
        "environment": dict.fromkeys(names, "x"),
    }
    return {"run": about, "results": [dataclasses.asdict(result) for result in results]}


def test_sentences_say_what_the_numbers_say() -> None:
    holds = mask_controls_page.sentences(numbers(0.1, 1.0))
    assert len(holds) == 10
    assert all("holds here**, with 3 seeds" in sentence for sentence in holds)
    fails = mask_controls_page.sentences(numbers(1.0, 0.0))
    assert "does not hold here**, with 3 seeds (no 3 of 3)" in fails[0]
    assert "reinitialized" in fails[4]
    assert "holds here**" in fails[4]
    assert "does not hold here**" in fails[8] or "not resolved" in fails[8]
    assert "holds here**" not in fails[8]
    part = numbers(0.1, 1.0)
    part["results"] = part["results"][:4]  # dense, random, SNIP as it is, and shuffled
    first = mask_controls_page.sentences(part)[0]
    assert "holds here as far as it was run**, with 3 seeds (yes 1 of 1; 2 not run)" in first
    part["results"] = part["results"][:1]
    assert "not tested" in mask_controls_page.sentences(part)[0]


def test_the_page_and_the_figure() -> None:
    page = mask_controls_page.markdown(numbers(1.0, 1.0))
    rows = [[cell.strip() for cell in line.split("|")] for line in page.splitlines()]
    accuracies = ["95.00 ± 0.10", "94.01 ± 0.11", "95.00 ± 0.10", "90.00 ± 0.10", "90.00 ± 0.00"]
    assert ["", "SNIP", "90 %", *accuracies, ""] in rows
    # Shuffled: -1 point, and 0.02 more in one of three seeds: mean -0.993, error 0.0067.
    differences = ["-0.99 ± 0.01", "+0.00 ± 0.00", "-5.00 ± 0.00", "-5.00 ± 0.06"]
    assert ["", "SNIP", "99 %", *differences, ""] in rows
    assert "Unfinished" not in page
    assert "commit abc" in page
    figure = mask_controls_page.figure(numbers(1.0, 1.0))
    assert [len(axes.containers) for axes in figure.axes] == [5, 5, 5, 5]
    empty = {**numbers(1.0, 1.0), "results": []}
    assert "Unfinished: 0 of 35 cells" in mask_controls_page.markdown(empty)
    mask_controls_page.figure(empty)


def test_a_conclusion_of_mixed_comparisons() -> None:
    claim = claims.Claim("H", "x", "y", lambda find: find["x"], 0, 0, claims.POINTS)
    said = lambda *each: claims.conclusion(
        "It", [claim._replace(values=lambda find, v=v: v) for v in each], {}
    )
    yes, no, open_ = [1.0, 1.1, 0.9], [-1.0, -1.1, -0.9], [1.0, -1.0, 0.5]
    assert "holds here**" in said(yes, yes)
    assert said(yes, no, open_) == (
        "**It: holds here in part**, with 3 seeds (yes 1, no 1, not resolved 1 of 3)."
    )
    assert "does not hold here**" in said(no, open_)
    assert "is not resolved here**" in said(open_)
    assert "not tested" in said([1.0])
