"""The table of results: its numbers against ones worked out by hand, and its two forms."""

import dataclasses
import io
import math
import statistics

import pytest

pytest.importorskip("rich", reason="the experiments extra is not installed")

from rich.console import Console

from experiments import records, tables

DENSE = records.Result(
    cell="dense",
    method="dense",
    sparsity=0.0,
    seeds=[0, 1, 2],
    steps=100,
    epochs=2.0,
    seconds=9.53,
    test_accuracy=[0.97, 0.98, 0.99],
    test_loss=[0.1, 0.1, 0.1],
    train_loss=[0.1, 0.1, 0.1],
    kept=[26_600, 26_600, 26_600],
    weights=26_600,
    inference_flops=[1.0, 1.0, 1.0],
    training_flops=[1.0, 1.0, 1.0],
    updates=0,
    skipped=[0, 0, 0],
    nonfinite=[0, 0, 0],
    layers=[],
)
RIGL = dataclasses.replace(
    DENSE,
    cell="rigl-0.9",
    method="rigl",
    sparsity=0.9,
    seconds=250.4,
    test_accuracy=[0.95, 0.96, 0.985],
    kept=[2_660, 2_660, 2_660],
    inference_flops=[0.1, 0.1, 0.1],
    training_flops=[0.12, 0.13, 0.14],
)


def row(result: records.Result) -> dict[str, str]:
    return dict(zip(tables.headers([result]), tables.rows([result])[0], strict=True))


def printed(results: list[records.Result], width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(tables.summary_table(results))
    return console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def test_numbers_are_those_worked_out_by_hand():
    # Deviations from 0.965 are -0.015, -0.005, 0.02: squares sum to 6.5e-4, over 2, root 0.018028.
    assert row(RIGL) == {
        "method": "rigl",
        "sparsity": "90 %",
        "test accuracy (%)": "96.50 ± 1.80",
        "kept weights": "2,660",
        "inference FLOPs": "0.100",
        "training FLOPs": "0.130",
        "time": "4m 10s",
    }
    assert row(DENSE)["test accuracy (%)"] == "98.00 ± 1.00"
    assert row(DENSE)["time"] == "9.5 s"


def test_one_seed_has_no_spread():
    one = dataclasses.replace(RIGL, seeds=[0], test_accuracy=[0.5], kept=[7])
    assert row(one)["test accuracy (%)"] == "50.00"
    assert "1 seed" in tables.caption([one])
    assert "±" not in tables.caption([one])


def test_kept_is_a_range_where_seeds_differ():
    assert row(dataclasses.replace(RIGL, kept=[3000, 1000, 2000]))["kept weights"] == "1,000-3,000"


def test_trouble_has_columns_only_where_there_was_some():
    bad = dataclasses.replace(RIGL, skipped=[1, 0, 1], nonfinite=[1000, 2, 0])
    assert row(bad)["skipped updates"] == "2"
    assert row(bad)["non-finite steps"] == "1,002"
    assert [each[6:8] for each in tables.rows([DENSE, bad])] == [["0", "0"], ["2", "1,002"]]
    assert "skipped updates" not in tables.headers([DENSE, RIGL])


def test_not_finite_seeds_are_left_out_and_counted():
    some = dataclasses.replace(RIGL, test_accuracy=[0.5, math.nan, 0.7])
    assert row(some)["test accuracy (%)"] == "60.00 ± 14.14 (2 of 3 seeds)"
    none = dataclasses.replace(RIGL, test_accuracy=[math.nan, math.inf, math.nan])
    assert row(none)["test accuracy (%)"] == "not finite"


def test_spread_is_the_sample_standard_deviation():
    values = [0.1, 0.4, 0.2, 0.9]
    mean, sd = tables.mean_and_sd(values)
    assert mean == pytest.approx(0.4)
    assert sd == pytest.approx(statistics.stdev(values))
    assert tables.mean_and_sd([1.0]) == (1.0, None)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (59.96, "1m 00s"), (3599.6, "1h 00m"), (7500, "2h 05m")],
)
def test_durations(seconds: float, text: str):
    assert tables.seconds_text(seconds) == text


@pytest.mark.parametrize(("sparsity", "text"), [(0.9, "90 %"), (0.99, "99 %"), (0.998, "99.8 %")])
def test_sparsities(sparsity: float, text: str):
    assert tables.sparsity_text(sparsity) == text


def test_markdown_is_aligned():
    lines = tables.markdown_table([DENSE, RIGL]).splitlines()
    assert len(lines) == 4
    assert len(set(map(len, lines))) == 1
    bars = [[i for i, letter in enumerate(line) if letter == "|"] for line in lines]
    assert all(each == bars[0] for each in bars)
    assert "| rigl   |" in lines[3]
    assert "96.50 ± 1.80" in lines[3]
    assert tables.markdown_table([]).startswith("| method |")


def test_terminal_table_holds_the_same_numbers():
    text = printed([DENSE, RIGL])
    for value in ("rigl", "90 %", "96.50 ± 1.80", "2,660", "0.130", "4m 10s", "Masks simulate"):
        assert value in text
    assert "No cell" in printed([])


def test_terminal_table_fits_80_columns():
    long = dataclasses.replace(RIGL, method="gradual_magnitude", kept=[266_200] * 3)
    lines = [line.split() for line in printed([long]).splitlines()]
    values = "gradual_magnitude 90 % 96.50 ± 1.80 266,200 0.100 0.130 4m 10s"
    assert values.split() in lines


def test_names_are_not_taken_for_markup():
    odd = dataclasses.replace(RIGL, method="[red]x|y[/red]")
    assert "[red]x|y[/red]" in printed([odd])
    assert r"[red]x\|y[/red]" in tables.markdown_table([odd])


def test_numbers_over_seeds():
    assert tables.spread_text([1.0, 2.0]) == "1.500 ± 0.707"
    assert tables.spread_text([0.25]) == "0.250"
    assert tables.spread_text([math.nan]) == "not finite"
    assert tables.spread_text([]) == tables.MISSING
