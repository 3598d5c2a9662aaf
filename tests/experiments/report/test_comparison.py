"""One page over several runs."""

import dataclasses
import pathlib
import re
import subprocess
import sys

import pytest

pytest.importorskip("matplotlib", reason="the experiments extra is not installed")

from experiments import records, report
from experiments.report import cells, comparison
from experiments.report.__main__ import Arguments, main
from tests.experiments.report.made_up import make_run
from tests.experiments.report.parsed import Page


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[pathlib.Path]:
    """Two runs of one name, and a third one of before masks and confidence were kept."""
    folder = tmp_path_factory.mktemp("runs")
    model = {"name": "mlp", "widths": [300, 100]}
    settings = [
        ("a/digits", ["dense", "set", "rigl"], {"model": model, "optimizer": {"rate": 0.1}}),
        ("b/digits", ["dense", "rigl"], {"model": model, "optimizer": {"rate": 0.05}}),
        ("old", ["set"], {"model": model}),
    ]
    return [
        make_run(
            folder / name,
            methods=methods,
            sparsities=(0.9, 0.98),
            seeds=2,
            config=config,
            old=name == "old",
            unfinished=["rigl-0.98"] if name == "b/digits" else (),
        )
        for name, methods, config in settings
    ]


@pytest.fixture(scope="module")
def seen(runs: list[pathlib.Path]) -> Page:
    path = report.write_comparison(runs)
    assert path == runs[0].parent / "comparison.html"
    return Page(path)


def test_runs_of_one_name_are_told_apart(seen: Page) -> None:
    for label in ("dense · a/digits", "dense · b/digits", "set · runs0/old"):
        assert label in seen.text
    assert "b/digits (2 of 3 cells finished)" in seen.text


def test_all_finished_cells_are_in_the_table(seen: Page) -> None:
    table = re.search(r'<section id="results">.*?</section>', seen.source, re.DOTALL)
    assert table is not None
    assert table[0].count("<tr>") == 1 + 5 + 2 + 2


def test_only_what_differs_is_shown(seen: Page) -> None:
    table = re.search(r'<section id="differences">.*?</section>', seen.source, re.DOTALL)
    assert table is not None
    assert re.findall(r"<tr><th>(.*?)</th>", table[0]) == ["", "optimizer.<wbr>rate"]
    assert re.findall(r"<td>(.*?)</td>", table[0]) == ["0.1", "0.05", "-"]


def test_figures_and_markup(seen: Page) -> None:
    assert seen.labels == [
        "Test accuracy (%) against sparsity",
        "Test accuracy (%) against training FLOPs",
        "Calibration error (%) against sparsity",
        "gradient norm, 90 % sparse",
        "gradient norm, 98 % sparse",
    ]
    assert not seen.open
    assert "script" not in seen.tags
    assert len(seen.ids) == len(set(seen.ids))
    assert all(re.match(r"data:|#", address) for address in seen.addresses)


def test_every_method_and_run_has_a_style_of_its_own(runs: list[pathlib.Path]) -> None:
    known = [(run.parent.name, cell) for run in runs for cell in cells.read_cells(run)[1]]
    look = cells.styles_of([dataclasses.replace(cell, run=name) for name, cell in known])
    assert len(look) == 6
    assert len({(each.color, each.marker, each.dash) for each in look.values()}) == 6
    assert look["rigl · a"].color == look["rigl · b"].color != look["set · a"].color
    assert look["rigl · a"].dash == look["set · a"].dash != look["rigl · b"].dash


def test_styles_differ_among_many_runs_too() -> None:
    place = pathlib.Path()
    many = [
        cells.Cell("x", method, 0.9, place, [], None, run)
        for run in "abcdef"
        for method in ("dense", "set", "rigl", "snip")
    ]
    look = cells.styles_of(many)
    sparse = [style for label, style in look.items() if not label.startswith("dense")]
    assert len({(each.color, each.marker, each.dash) for each in sparse}) == 18


def test_equal_runs_and_no_results(tmp_path: pathlib.Path) -> None:
    for name in ("a", "b"):
        records.write_json(tmp_path / name / "run.json", {"cells": ["dense"]})
    page = report.write_comparison([tmp_path / "a", tmp_path / "b"], tmp_path / "c.html")
    seen = Page(page)
    assert page == tmp_path / "c.html"
    assert "the same configuration" in seen.text
    assert "No cell is finished" in seen.text


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["a/digits", "a/../a/digits"], "are one run"),
        (["a/digits", "nowhere"], "nowhere holds no run.json"),
        ([], "no run given"),
    ],
)
def test_errors_are_one_line(
    runs: list[pathlib.Path], given: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(Arguments(tuple(runs[2].parent / each for each in given)))
    assert re.fullmatch(f"error: .*{words}.*", str(stopped.value))
    assert not capsys.readouterr().out


def test_short_names() -> None:
    paths = [pathlib.Path(each) for each in ("/x/a/run", "/y/a/run", "/y/b/other")]
    assert comparison.short_names(paths) == ["x/a/run", "y/a/run", "y/b/other"]
    assert comparison.short_names(paths[1:]) == ["run", "other"]


def test_command_line(runs: list[pathlib.Path], tmp_path: pathlib.Path) -> None:
    out = tmp_path / "page.html"
    command = [sys.executable, "-m", "experiments.report", *map(str, runs[:2]), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(out)
    assert "2 runs" in out.read_text()
