"""The comparison's page and figure, of a made-up run; and what some methods need of a network."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("tyro", reason="the experiments extra is not installed")

from rich.console import Console

import jaxsparse
from experiments import build, compare_methods, config, data, models, records, step_times, study
from experiments.measures import measures_of

pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")

ACCURACIES = {
    ("dense", 0.0): 0.981,
    ("static", 0.9): 0.95,
    ("rigl", 0.9): 0.97,
    ("snip", 0.9): 0.93,
    ("static", 0.95): 0.94,
    ("set", 0.95): 0.9401,
}


@pytest.fixture
def run(tmp_path: pathlib.Path) -> pathlib.Path:
    """Six of seven cells, two seeds."""
    folder = tmp_path / "run"
    cells = [f"{method}-{sparsity:g}" for method, sparsity in ACCURACIES]
    about = {
        "cells": [*cells, "rigl-0.95"],
        "step_times": {"dense": 1.0, "rigl": 1.5},
        "config": json.loads(json.dumps(dataclasses.asdict(compare_methods.configuration()))),
        "environment": dict.fromkeys(
            ("hardware", "python", "jax", "flax", "optax", "commit", "date"), "x"
        ),
    }
    records.write_json(folder / "run.json", about)
    for cell, ((method, sparsity), mean) in zip(cells, ACCURACIES.items(), strict=True):
        kept = round(266_200 * (1 - sparsity))
        result = records.Result(
            cell, method, sparsity, [0, 1], 1800, 3.0, 9.0, [mean - 0.001, mean + 0.001],
            [0.1, 0.1], [0.1, 0.1], [kept, kept], 266_200, [0.1, 0.1], [0.1, 0.1], 9,
            [0, 0], [0, 0], [], [0.3, 0.3],
        )  # fmt: skip
        records.write_result(records.cell_folder(folder, cell), result)
    return folder


def test_the_page_of_a_run_that_is_not_finished(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    results = tmp_path / "results"
    assert compare_methods.main(study.Arguments(run=run, results=results)) == 2
    assert not results.exists()
    assert compare_methods.main(study.Arguments(run=run, results=results, partial=True)) == 0
    page = (results / "compare_methods.md").read_text()
    assert "2 seeds, 6 of 7 cells" in " ".join(page.split())
    row = next(line for line in page.splitlines() if line.startswith("| rigl"))
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells == ["rigl", "90 %", "97.00 ± 0.14", "", "26,620", "0.1000", "0.300", "1.50"]
    # The published number stands beside; SNIP is below the control, SET is not.
    assert " 98.14 |" in next(line for line in page.splitlines() if line.startswith("| set"))
    below = page.partition("## Below static random pruning")[2]
    assert "- snip, 90 %: -2.00" in below
    assert "set" not in below
    assert (results / "compare_methods.png").stat().st_size > 10_000
    numbers = json.loads((results / "compare_methods.json").read_text())
    assert len(numbers["results"]) == 6


def test_the_comparison_is_of_all_methods() -> None:
    methods = compare_methods.configuration().methods
    assert set(jaxsparse.ALGORITHMS) - set(methods) == set(compare_methods._LEFT_OUT)
    config.check(compare_methods.configuration())
    # Whatever has a published number is in it.
    assert {method for method, _ in compare_methods.PUBLISHED} <= set(jaxsparse.ALGORITHMS)


def test_measures_of_a_network() -> None:
    dataset, model = data.load("digits"), models.MLP((12, 10))
    found = measures_of(model, dataset)
    assert found.chain == ("Dense_0/kernel", "Dense_1/kernel")
    assert found.examples == len(dataset.train_images)
    params = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))["params"]
    norms = jax.tree.map(np.asarray, found.activation_norms(params))
    first = jax.tree.map(np.asarray, params["Dense_0"])
    scaled = (dataset.train_images[:256] - np.float32(dataset.mean)) / np.float32(dataset.std)
    flat = scaled.reshape(256, 64)
    hidden = np.maximum(flat @ first["kernel"] + first["bias"], 0)
    for name, x in (("Dense_0", flat), ("Dense_1", hidden)):
        np.testing.assert_allclose(
            norms[name]["kernel"], np.sqrt((x**2).sum(0)), rtol=1e-4, atol=1e-4
        )
    curvature = jax.jit(found.curvature)(params)
    assert jax.tree.map(jnp.shape, curvature) == jax.tree.map(jnp.shape, params)
    assert all((leaf >= 0).all() for leaf in jax.tree.leaves(curvature))
    assert float(curvature["Dense_1"]["kernel"].max()) > 0


def test_settings_reach_the_methods() -> None:
    """One-shot methods prune half way, but those before training at once; what is always stays."""
    base = config.preset("digits-mlp")
    measures = measures_of(models.MLP((12, 10)), data.load("digits"))

    def steps(name: str) -> list[int]:
        due = build.build_method(base, name, 0.9, 1000, measures).due
        assert due is not None
        return np.flatnonzero(due(jnp.arange(1000))).tolist()

    assert steps("magnitude") == steps("wanda") == steps("obd") == [500]
    assert steps("snip") == [0]
    assert steps("dnw") == list(range(1000))
    # Chosen at every step, as in the paper: rarer choices of `movement` diverge.
    assert steps("movement") == list(range(100, 1000))
    assert steps("rigl")[-1] < 750
    assert steps("mest_soft")[-1] == 750
    adam = build.build_optimizer(base, 1000, 10, "variational_dropout")
    assert len(jax.tree.leaves(adam.init({"w": jnp.ones(3)}))) > len(
        jax.tree.leaves(build.build_optimizer(base, 1000, 10, "rigl").init({"w": jnp.ones(3)}))
    )


def test_step_times_are_measured_once(tmp_path: pathlib.Path) -> None:
    small = dataclasses.replace(
        config.preset("digits-mlp"),
        model=config.Model(widths=(8,)),
        methods=("dense", "static"),
        sparsities=(0.5, 0.9),
        seeds=1,
    )
    records.write_json(tmp_path / "run.json", {"cells": []})
    step_times.measure(small, tmp_path, Console())
    about = records.read_json(tmp_path / "run.json")
    assert about is not None
    times = about["step_times"]
    assert set(times) == {"dense", "static"}
    assert all(time > 0 for time in times.values())
    step_times.measure(small, tmp_path, Console())
    assert records.read_json(tmp_path / "run.json") == about
