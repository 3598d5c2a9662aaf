"""The study of penalties: its controls, by hand, and a small run of it that goes on."""

import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest

pytest.importorskip("tyro", reason="the experiments extra is not installed")

from experiments import records, regularized

pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")


def tree(kernel: Any) -> Any:
    return {"bias": optax.MaskedNode(), "kernel": jnp.asarray(kernel)[None]}


def test_controls_have_as_many_weights_and_groups() -> None:
    masks = tree(np.array([[1, 0, 1], [0, 0, 0], [1, 0, 1]], bool))  # rows 0, 2; columns 0, 2
    weight = np.float32([[1, 2, 9], [5, 6, 4], [0.1, 8, 0.2]])
    params = {"bias": jnp.zeros((1, 3)), "kernel": jnp.asarray(weight)[None]}
    largest = regularized.largest_weights(params, masks)["kernel"][0]
    np.testing.assert_array_equal(largest, weight >= 5)  # 9, 8, 6, 5: as many as 4
    # Norms of rows 9.3, 8.8, 8.0, of columns 5.1, 10.2, 9.9: one each goes.
    groups = regularized.largest_groups(params, masks, ("channels", "filters"))["kernel"][0]
    np.testing.assert_array_equal(groups, [[False, True, True], [False, True, True], [False] * 3])
    rows = regularized.largest_groups(params, masks, ("channels",))["kernel"][0]
    np.testing.assert_array_equal(rows, [[True] * 3, [True] * 3, [False] * 3])


def test_units_count_that_are_fed_and_read() -> None:
    first = np.array([[1, 1, 0], [0, 0, 0]], bool)  # input 1 is not read, unit 2 is not fed
    second = np.array([[0, 0], [1, 0], [1, 1]], bool)  # unit 0 is not read
    masks = {"a": tree(first), "b": tree(second)}
    assert regularized.alive(masks) == [[1, 1]]


def test_a_small_study_goes_on_where_it_stopped(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = regularized.Training(
        data="digits", widths=(8,), seeds=2, batch_size=100, epochs=4, tuning_epochs=1
    )
    arguments = regularized.Arguments(training=small, results=tmp_path)
    arm = regularized.ARMS[2]
    assert len(arm.groups) == 2
    assert regularized.main(arguments, [arm]) == 0
    about = records.read_json(tmp_path / "regularized.json")
    assert about
    assert set(about["results"]) == {"dense", arm.name}
    row = about["results"][arm.name]
    assert row["weights"] == 64 * 8 + 8 * 10
    for key in ("regularized", "tuned", "magnitude", "norm"):
        assert len(row[key]) == 2
        assert all(0.2 < accuracy <= 1 for accuracy in row[key])
    # Four epochs of the whole network; one under its masks, biases whole.
    cost, kept = row["cost"], np.array(row["kept"])
    np.testing.assert_allclose(cost["regularized"]["average_parameters"], 592 + 18)
    np.testing.assert_allclose(cost["tuned"]["average_parameters"], kept + 18)
    share = np.divide(cost["tuned"]["flops"], cost["regularized"]["flops"])
    np.testing.assert_allclose(share, kept / 592 / 4, rtol=1e-5)
    assert set(cost) == {"regularized", "tuned", "magnitude", "norm"}
    # Nothing is trained again, and another configuration is another study.
    assert regularized.main(arguments, [arm]) == 0
    assert records.read_json(tmp_path / "regularized.json") == about
    page = (tmp_path / "regularized.md").read_text()
    assert f"| {arm.name} " in page
    assert f"2 of {len(regularized.ARMS) + 1} rows" in page
    assert (tmp_path / "regularized.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": 0}, "seeds is 0; it must be at least 1"),
        ({"tuning_epochs": -1}, "tuning_epochs is -1; it must be at least 1"),
        ({"tuning_rate": 0.0}, "tuning_rate is 0.0; it must be positive and finite"),
    ],
)
def test_numbers_out_of_range_end_with_one_line(
    change: dict[str, Any], message: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training = regularized.Training(data="digits", **change)
    assert regularized.main(regularized.Arguments(training=training, results=tmp_path)) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
    assert not list(tmp_path.iterdir())
