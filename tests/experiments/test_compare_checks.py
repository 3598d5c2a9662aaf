"""The trainings that look into the comparison: what they train, and their page."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("tyro", reason="the experiments extra is not installed")

from experiments import compare_checks, compare_methods, config, data
from jaxsparse import MaskAlgorithm


def test_every_arm_is_a_method_with_a_name_and_a_question() -> None:
    run = compare_methods.configuration()
    assert len(compare_checks.named_arms()) == len(compare_checks.ARMS)
    for arm in compare_checks.ARMS:
        assert isinstance(arm.method(run, 1800), MaskAlgorithm)
        assert arm.question in compare_checks.QUESTIONS


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("ste_random: drawn until 37.5 %", [100, 200, 300, 400, 500, 600]),
        ("ste_random: drawn once more, after 100 steps", [100]),
        ("movement: chosen every 100 steps", [*range(180, 1800, 100), 1350]),
        ("sensitivity: at once, by its absolute value", [900]),
    ],
)
def test_when_masks_move(name: str, steps: list[int]) -> None:
    arm = compare_checks.named_arms()[name]
    due = arm.method(compare_methods.configuration(), 1800).due
    assert due is not None
    assert np.flatnonzero(due(np.arange(1800))).tolist() == sorted({*steps})


def test_an_arm_trains() -> None:
    small = dataclasses.replace(
        config.preset("digits-mlp"), model=config.Model(widths=(16,)), batch_size=64
    )
    arm = dataclasses.replace(compare_checks.named_arms()["movement: chosen every step"], epochs=2)
    found = compare_checks.train(arm, small, data.load("digits"))
    assert len(found) == 3
    assert all(0.3 < accuracy <= 1 for accuracy in found)


def test_the_page_of_some_results() -> None:
    names = ("hardware", "python", "jax", "flax", "optax", "commit", "date")
    results = {
        "published: dense": [0.98, 0.98, 0.98],
        "published: set": [0.975, 0.976, 0.974],
        "movement: chosen every step": [0.9, 0.91, 0.92],
    }
    about = {"environment": dict.fromkeys(names, "x"), "results": results}
    page = compare_checks.markdown(about)
    rows = [[cell.strip() for cell in line.split("|")] for line in page.splitlines() if "|" in line]
    assert ["", "set", "97.50 ± 0.10", "-0.50", "-0.55", ""] in rows
    assert ["", "chosen every step", "91.00 ± 1.00", ""] in rows
    assert f"3 of {len(compare_checks.ARMS)} trainings" in page
    assert "What does it cost to choose masks rarely" in page
