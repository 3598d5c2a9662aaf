"""The study of random masks: what its masks are, a run from end to end, its page."""

import dataclasses
import math
import pathlib
from typing import Any

import jax
import numpy as np
import pytest

from experiments import claims, data, masked, random_pruning, random_pruning_page
from experiments.random_pruning import Cell, Lab, Study, cells_of
from experiments.random_pruning_page import FOUND, RATIOS

pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")

SMALL = Study(
    data="digits", seeds=2, batch_size=300, width=4, depth=2, widths=(4,), depths=(2,), sparsity=0.7
)


@pytest.fixture(scope="module")
def lab() -> Lab:
    return Lab(SMALL, data.load("digits"))


def counts(masks: Any) -> dict[str, list[int]]:
    leaves = jax.tree_util.tree_leaves_with_path(masks)
    return {path[0].key: np.asarray(x).reshape(2, -1).sum(1).tolist() for path, x in leaves}


def test_cells() -> None:
    cells = cells_of(Study())
    # Five networks, three of them with the masks of SNIP and GraSP too: 5 x 7 + 3 x 2.
    assert len(cells) == 41
    assert cells["16x4-erk"] == Cell(16, 4, "erk")
    assert ("32x4-snip" in cells, "16x8-snip" in cells) == (True, False)


@pytest.mark.parametrize(
    ("arm", "known"),
    [
        # 36, 144 and 40 weights: 220, of which floor(0.7 * 220) = 154 are zero and 66 kept.
        ("dense", [36, 144, 40]),
        # 30 % of each: 10.8, 43.2, 12.
        ("uniform", [11, 43, 12]),
        # Linear layer dense; 26 are left for shares 3+3+1+4 = 11 and 3+3+4+4 = 14.
        ("erk_plus", [11, 15, 40]),
        # First layer dense; 30 are left: less than 20 % of 184, so 8 in the linear layer.
        ("uniform_plus", [36, 22, 8]),
        # Shares 11, 14 and 14 of 66.
        ("erk", [19, 24, 23]),
    ],
)
def test_weights_kept_in_each_layer(lab: Lab, arm: str, known: list[int]) -> None:
    found = counts(lab.masks(Cell(4, 2, arm)))
    kept = [found[name] for name in ("conv1", "conv2", "head")]
    for each, number in zip(kept, known, strict=True):
        assert each[0] == each[1]
        assert abs(each[0] - number) <= 1  # what is left over by rounding goes somewhere
    assert sum(each[0] for each in kept) == sum(known)


@pytest.mark.parametrize("method", FOUND)
def test_a_ratio_has_the_counts_of_the_mask_and_other_places(lab: Lab, method: str) -> None:
    mask, ratio = (lab.masks(Cell(4, 2, arm)) for arm in (method, f"{method}_ratio"))
    assert counts(mask) == counts(ratio)
    assert [sum(each) for each in zip(*counts(mask).values(), strict=True)] == [66, 66]
    pairs = zip(jax.tree.leaves(mask), jax.tree.leaves(ratio), strict=True)
    assert not all(np.array_equal(a, b) for a, b in pairs)


def test_a_study_from_end_to_end_and_again(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {name: RATIOS[name] for name in ("erk", "snip_ratio")}
    monkeypatch.setattr(random_pruning, "RATIOS", few)
    monkeypatch.setattr(random_pruning, "FOUND", {})
    given = random_pruning.Arguments(study=SMALL, out=tmp_path / "run", results=tmp_path)
    assert random_pruning.main(given) == 0
    first = masked.numbers_of(tmp_path / "run")
    assert [each["cell"] for each in first["results"]] == ["4x2-dense", "4x2-erk", "4x2-snip_ratio"]
    assert sum(counts[0] for counts in first["results"][1]["kept"].values()) == 66
    (tmp_path / "run" / "cells" / "4x2-erk" / "result.json").unlink()
    assert random_pruning.main(given) == 0
    again = masked.numbers_of(tmp_path / "run")
    for old, new in zip(first["results"], again["results"], strict=True):
        assert {**old, "seconds": 0} == {**new, "seconds": 0}
    assert (tmp_path / "random_pruning.png").read_bytes().startswith(b"\x89PNG")
    wrong = dataclasses.replace(given, study=dataclasses.replace(SMALL, widths=(8, 4)))
    assert random_pruning.main(wrong) == 2


def made_up(gaps: dict[str, float], uniform: float, found: float) -> dict[str, Any]:
    """Gaps to dense of each network under ERK; uniform and found masks are so much below it."""
    results = []
    for net, gap in gaps.items():
        arms = {"dense": 0.0, **dict.fromkeys(RATIOS, gap), "uniform": gap + uniform}
        arms |= dict.fromkeys(FOUND, gap + found)
        for arm, off in arms.items():
            noise = (0.0, 0.0, 0.0) if arm == "dense" else (-0.05, 0.0, 0.05)
            if arm in ("uniform", *FOUND):
                noise = (-0.04, 0.01, 0.03)
            accuracies = [0.9 + (n - off) / 100 for n in noise]
            results.append(
                masked.Result(
                    cell=f"{net}-{arm}",
                    steps=1,
                    seconds=60.0,
                    test_accuracy=accuracies,
                    test_loss=[1.0] * 3,
                    nonfinite=[0, 1, 0],
                    weights=100,
                    kept={"w": [10] * 3},
                    commit="abc",
                )
            )
    names = ("hardware", "python", "jax", "flax", "optax", "commit", "date")
    study = Study(seeds=3, width=16, depth=4, widths=(8, 32), depths=(2, 8))
    about = {
        "config": dataclasses.asdict(study),
        "cells": [result.cell for result in results],
        "environment": dict.fromkeys(names, "x"),
    }
    return {"run": about, "results": [dataclasses.asdict(result) for result in results]}


def test_sentences_say_what_the_numbers_say() -> None:
    gaps = {"8x4": 4.0, "32x4": 1.0, "16x2": 3.0, "16x8": 2.0}
    width, depth, above, masks = random_pruning_page.sentences(made_up(gaps, 1.0, 0.0))
    assert "width" in width
    assert "holds here**, with 3 seeds (yes 6 of 6)" in width
    assert "holds here in part**, with 3 seeds (in direction but not in size 6 of 6)" in depth
    assert "holds here**, with 3 seeds (yes 4 of 4)" in above
    assert "holds here**, with 3 seeds (yes 4 of 4)" in masks
    gaps = {"8x4": 1.0, "32x4": 4.0, "16x2": 1.0, "16x8": 4.0}
    for sentence in random_pruning_page.sentences(made_up(gaps, -1.0, -1.0)):
        assert "does not hold here**, with 3 seeds (no" in sentence
    nothing = {**made_up(gaps, 0, 0), "results": []}
    assert all("not tested" in each for each in random_pruning_page.sentences(nothing))


def test_shrinking_by_hand() -> None:
    gaps = {"8x4": 4.0, "32x4": 1.0, "16x2": 3.0, "16x8": 2.0}
    find = random_pruning_page.results_of(made_up(gaps, 1.0, 0.0))
    # Gaps of the seeds: 4.05, 4, 3.95 and 1.05, 1, 0.95.
    known = [75.0, 75.0, 75.0]
    assert random_pruning_page.shrinking("8x4", "32x4", "erk")(find) == pytest.approx(known)
    # Uniform: 5.04, 4.99, 4.97 and 2.04, 1.99, 1.97, in percent of 5.
    known = [60.0, 60.0, 60.0]
    assert random_pruning_page.shrinking("8x4", "32x4", "uniform")(find) == pytest.approx(known)
    # SNIP's ratio, 3.05, 3, 2.95 and 2.05, 2, 1.95, in percent of 3.
    known = [100 / 3] * 3
    assert random_pruning_page.shrinking("16x2", "16x8", "snip_ratio")(find) == pytest.approx(known)
    without = random_pruning_page.results_of(made_up({**gaps, "8x4": 0.0}, 0.0, 0.0))
    values = random_pruning_page.shrinking("8x4", "32x4", "dense")(without)
    assert all(map(math.isnan, values))
    claim = random_pruning_page.claims_of(made_up(gaps, 0, 0)["run"]["config"])
    first = next(iter(claim.values()))[0]
    assert claims.verdict(first, values) == "not resolved"


def test_the_page_and_the_figure() -> None:
    gaps = {"8x4": 4.0, "32x4": 1.0, "16x2": 3.0, "16x8": 2.0}
    numbers = made_up(gaps, 1.0, 0.0)
    page = random_pruning_page.markdown(numbers)
    rows = [[cell.strip() for cell in line.split("|")] for line in page.splitlines()]
    body = ["-4.00 ± 0.03"] * 2 + ["-5.00 ± 0.02"] + ["-4.00 ± 0.03"] * 3 + ["-4.00 ± 0.02"] * 2
    assert ["", "8x4", *body, ""] in rows
    assert "not finite: 36." in page  # one in each cell
    figure = random_pruning_page.figure(numbers)
    assert [len(axes.containers) for axes in figure.axes] == [6, 6]
    part = {**numbers, "results": numbers["results"][:2]}
    assert "Unfinished: 2 of 36 cells" in random_pruning_page.markdown(part)
    random_pruning_page.figure(part)
