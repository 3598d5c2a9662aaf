"""The study of subspaces: what its cells train, that they resume, and its page."""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import numpy as np
import pytest

pytest.importorskip("tyro", reason="the experiments extra is not installed")

from experiments import data, records, subspaces, subspaces_page

pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")

TINY = subspaces.Setting(data="digits", widths=(16,), epochs=4, batch_size=64, seeds=2)
CELLS = {cell.name: cell for cell in subspaces.CELLS}


def chosen(*names: str) -> list[subspaces.Cell]:
    return [CELLS[name] for name in names]


def test_cells_have_names_of_their_own() -> None:
    assert len(CELLS) == len(subspaces.CELLS)
    rates = {field.name for field in dataclasses.fields(subspaces.Setting)}
    assert all(cell.rate in rates for cell in subspaces.CELLS)


def test_what_the_control_without_sparse_weights_trains() -> None:
    cell = CELLS["extreme: DCT alone, 0"]
    params = {"Dense_0": {"bias": np.zeros(4, np.float32), "kernel": np.ones((6, 4), np.float32)}}
    subspace = cell.subspace(jax.random.key(0), params)
    labels = subspaces._frozen_kernels(subspace.init())
    assert labels == {
        "alpha": {"Dense_0/kernel": "rest"},
        "sparse": {"Dense_0": {"bias": "rest", "kernel": "kernel"}},
    }


def widths(setting: Any) -> list[int]:
    return [64, *setting.widths, 10]


def test_a_subspace_trains_and_so_does_all() -> None:
    digits = data.load("digits")
    whole, few = chosen("baseline: all weights, 1", "intrinsic: sparse, 100")
    setting = dataclasses.replace(TINY, weight_rate=1e-2)
    best, flops, parameters = subspaces.train(whole, setting, digits)
    assert len(best) == 2
    assert all(0.8 < accuracy <= 1 for accuracy in best)
    weights, units = np.prod([widths(setting)[:-1], widths(setting)[1:]], 0), widths(setting)[1:]
    steps = setting.epochs * (len(digits.train_images) // setting.batch_size)
    np.testing.assert_allclose(flops, 3 * steps * 2 * setting.batch_size * weights.sum(), rtol=1e-6)
    assert parameters == [weights.sum() + sum(units)] * 2
    accuracy, flops, parameters = subspaces.train(few, setting, digits)
    # No fewer operations: a subspace saves memory of the optimizer alone.
    np.testing.assert_allclose(flops, 3 * steps * 2 * setting.batch_size * weights.sum(), rtol=1e-6)
    assert parameters == [100, 100]
    assert all(0.4 < value < 0.98 for value in accuracy)
    assert accuracy[0] != accuracy[1]


def test_a_stopped_run_goes_on(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    setting = dataclasses.replace(TINY, epochs=1, seeds=1)
    arguments = subspaces.Arguments(setting=setting, results=tmp_path)
    names = ("extreme: DCT plus sparse, RigL, 0.01", "extreme: random sparse, 0.01")
    assert subspaces.main(arguments, chosen(names[0])) == 0
    path = tmp_path / "subspaces.json"
    about = json.loads(path.read_text())
    about["results"][names[0]]["test_accuracy"] = [0.123]  # not trained again: it stays
    records.write_json(path, about)
    assert subspaces.main(arguments, chosen(*names)) == 0
    results = json.loads(path.read_text())["results"]
    assert list(results) == list(names)
    assert results[names[0]]["test_accuracy"] == [0.123]
    # The DCT fills what the masks leave out: 3 f_D there, some 3 f_S here.
    filled, sparse = (results[name]["flops"][0] for name in names)
    assert sparse / filled == pytest.approx(0.01, rel=0.2)
    assert "12.30" in (tmp_path / "subspaces.md").read_text()
    assert (tmp_path / "subspaces.png").stat().st_size > 1000
    other = dataclasses.replace(arguments, setting=dataclasses.replace(setting, seeds=2))
    assert subspaces.main(other, chosen(names[0])) == 2
    assert "has another setting; add --anew" in capsys.readouterr().err


def page_of(intrinsic: dict[int, float], dct: float) -> str:
    row = lambda claim, arm, size, value: {
        "claim": claim,
        "arm": arm,
        "size": size,
        "test_accuracy": [value, value],
    }
    rows = [
        row("baseline", "all weights", 1, 0.98),
        *[row("intrinsic", "sparse", d, value) for d, value in intrinsic.items()],
        row("extreme", "random sparse", 0.001, 0.2),
        row("extreme", "DCT plus sparse", 0.001, dct),
        row("extreme", "DCT alone", 0, 0.3),
    ]
    environment = ("hardware", "python", "jax", "flax", "optax", "commit", "date")
    return subspaces_page.markdown(
        {
            "environment": dict.fromkeys(environment, "x"),
            "setting": dataclasses.asdict(TINY),
            "finished": "5 of 20 cells.",
            "results": {f"{r['claim']}: {r['arm']}, {r['size']:g}": r for r in rows},
        }
    )


def test_the_page_says_whether_the_claims_hold() -> None:
    page = page_of({500: 0.85, 750: 0.9}, dct=0.6)
    assert "750 with sparse projections (500 is not enough)" in page
    assert "**holds** here, over 2 seeds." in page
    assert "+40.0 points at 0.1 %" in page
    assert "DCT alone, with alphas and biases trained but no sparse weight: 30.00" in page
    rows = [[cell.strip() for cell in line.split("|")] for line in page.splitlines() if "|" in line]
    assert ["", "0.1 %", "20.00 ± 0.00", "60.00 ± 0.00", ""] in rows
    other = page_of({300: 0.9, 750: 0.95}, dct=0.25)
    assert "300 with sparse projections (the smallest tried)" in other
    assert other.count("**does not hold**") == 2
    assert "none of the dimensions tried is enough" in page_of({100: 0.3}, dct=0.3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs is 0; it must be at least 1"),
        ({"subspace_rate": float("inf")}, "subspace_rate is inf; it must be positive and finite"),
        ({"held_out": -1}, "held_out is -1; it must be 0 or more images"),
    ],
)
def test_numbers_out_of_range_end_with_one_line(
    change: dict[str, Any], message: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    setting = subspaces.Setting(data="digits", **change)
    assert subspaces.main(subspaces.Arguments(setting=setting, results=tmp_path)) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
    assert not list(tmp_path.iterdir())
