"""The report of a made-up run: self-contained, complete, and honest about what is missing."""

import base64
import functools
import io
import math
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="the experiments extra is not installed")

from PIL import Image

from experiments import plots, records, report
from experiments.report import cells, connections, costs, pictures
from tests.experiments.report.made_up import METHODS, SHAPES, cell_names, make_run
from tests.experiments.report.parsed import Page


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(report.write_report(make_run(tmp_path_factory.mktemp("run"))))


def test_page_is_self_contained(whole: Page):
    assert "script" not in whole.tags
    assert all(re.match(r"data:|#", address) for address in whole.addresses)
    assert not re.search(r"https?:|@import|url\((?!#)", whole.source)


def test_markup_is_balanced_and_ids_are_unique(whole: Page):
    assert not whole.open
    assert len(whole.ids) == len(set(whole.ids))
    used = {address[1:] for address in whole.addresses if address.startswith("#")}
    assert used <= set(whole.ids)
    assert set(re.findall(r"url\(#([^)]*)\)", whole.source)) <= set(whole.ids)


def test_every_figure_is_there(whole: Page):
    assert whole.labels == [
        "Learning curves: test accuracy (%), 90 % sparse",
        "Learning curves: train loss, 90 % sparse",
        "Test accuracy (%) against sparsity",
        "Test accuracy (%) against training FLOPs",
        "Reliability, 90 % sparse",
        *(f"Confidence of {cell}" for cell in cell_names(METHODS, (0.9,))),
        "Sparsity of each layer, 90 % sparse",
        "FLOPs of each layer, 90 % sparse",
        "Sparsity over training",
        "gradient norm, 90 % sparse",
        *(f"{what}, {path}, 90 % sparse" for path in SHAPES for what in ("fan-in", "fan-out")),
    ]
    inputs = 5 * connections.SNAPSHOTS  # dense is told in words
    masks = 3 * 3 * 5  # static and snip stay as they are
    assert whole.tags.count("img") == inputs + masks
    assert "Masks that stayed as they were: static-0.9, snip-0.9." in whole.text
    assert "Not recorded" not in whole.text
    assert "dense (300 each)" in whole.text
    assert plots.INK not in whole.source


def test_page_says_what_was_run(whole: Page):
    for text in (
        "digits with mlp",
        "config.model.widths",
        "300, 100",
        "0.10.2",
        "1 x cpu",
        "commit 0123456",
    ):
        assert text in whole.text
    assert "Masks simulate sparsity" in whole.text
    assert "Not finished" not in whole.text
    assert "prefers-color-scheme: dark" in whole.source


def test_unfinished_cells_are_named(tmp_path: pathlib.Path):
    run = make_run(tmp_path, unfinished=["rigl-0.9", "snip-0.9"])
    (records.cell_folder(run, "snip-0.9") / "metrics.jsonl").unlink()
    seen = Page(report.write_report(run))
    assert "Not finished, 2 of 6 cells: rigl-0.9 (step 1,100), snip-0.9 (not started)" in seen.text
    assert "Learning curves: train loss, 90 % sparse" in seen.labels
    assert "Confidence of set-0.9" in seen.labels
    assert "Confidence of rigl-0.9" not in seen.labels


def test_a_run_that_just_started(tmp_path: pathlib.Path):
    records.write_json(tmp_path / "run.json", {"cells": ["dense", "rigl-0.9"]})
    seen = Page(report.write_report(tmp_path))
    assert "2 of 2 cells" in seen.text
    assert seen.labels == []


@pytest.mark.parametrize("method", ["dense", "rigl"])
def test_one_cell_of_one_seed(tmp_path: pathlib.Path, method: str):
    run = make_run(tmp_path, methods=[method], seeds=1)
    seen = Page(report.write_report(run))
    assert "1 method" in seen.text
    assert "Test accuracy (%) against sparsity" in seen.labels


def test_a_run_of_before_masks_and_confidence_were_kept(tmp_path: pathlib.Path):
    run = make_run(tmp_path, methods=["dense", "set"], inputs=False, old=True)
    folder = records.cell_folder(run, "set-0.9")
    saved = records.read_json(folder / "result.json")
    del saved["evaluation"], saved["exploration"]
    for layer in saved["layers"]:
        del layer["flops"]
    records.write_json(folder / "result.json", saved)
    seen = Page(report.write_report(run))
    assert "img" not in seen.tags
    assert "input" not in seen.tags
    # Calibration, images of no class, FLOPs of each layer, inputs, masks, degrees.
    assert seen.text.count("Not recorded") == 6


def test_the_contents_link_to_every_section(whole: Page):
    sections = re.findall(r'<section id="([^"]*)"', whole.source)
    links = re.findall(r'href="#([^"]*)"', re.findall(r"<nav>.*?</nav>", whole.source)[0])
    assert links == sections
    assert len(links) == 12


def test_many_cells(tmp_path: pathlib.Path):
    sparsities = [0.5, 0.8, 0.9, 0.95, 0.98, 0.99]
    run = make_run(tmp_path, methods=["dense", "set"], sparsities=sparsities, seeds=2)
    seen = Page(report.write_report(run))
    # The facts, and what is beyond the first: curves, reliability, confidence, layers and their
    # FLOPs, degrees.
    assert seen.tags.count("details") == 7
    assert seen.labels.count("Sparsity of each layer, 99 % sparse") == 1
    assert sum(label.startswith("Learning curves") for label in seen.labels) == 12


def test_not_finite_values_do_not_break_it(tmp_path: pathlib.Path):
    run = make_run(tmp_path, methods=["dense", "rigl", "set"], seeds=2)
    for cell, bad in (("rigl-0.9", math.nan), ("set-0.9", math.inf)):
        folder = records.cell_folder(run, cell)
        rows = records.read_metrics(folder)
        for row in rows[3:]:
            row["train_loss"] = [bad, bad]
            row["test_accuracy"] = [bad, row["test_accuracy"][1]]
        (folder / "metrics.jsonl").unlink()
        records.append_metrics(folder, rows)
        saved = records.read_json(folder / "result.json")
        saved.update(nonfinite=[1200, 1], skipped=[7, 0], test_accuracy=[bad, 0.5])
        records.write_json(folder / "result.json", saved)
    seen = Page(report.write_report(run))
    assert "rigl-0.9 (1,201 steps, 7 skipped mask updates)" in seen.text
    assert "50.00 (1 of 2 seeds)" in seen.text
    assert not re.search(r'd="[^"]*(nan|inf)', seen.source)


def test_everything_is_escaped(tmp_path: pathlib.Path):
    evil = "<script>alert('&\"')</script>"
    run = make_run(tmp_path, methods=["dense", "set"], config={"preset": evil, evil: [evil]})
    folder = records.cell_folder(run, "set-0.9")
    saved = records.read_json(folder / "result.json")
    saved["method"] = evil
    saved["layers"][0]["path"] = evil + "$x^$"
    records.write_json(folder / "result.json", saved)
    seen = Page(report.write_report(run))
    assert "script" not in seen.tags
    assert evil in seen.text


def test_strip_keeps_one_scale_and_counts_what_is_connected():
    maps = np.asarray([[[100, 100], [100, 100]], [[1, 0], [3, 100]]])
    words = lambda values: f"{(values > 0).sum()} of {values.size} connected"
    strip = functools.partial(pictures.strip, words=words)
    markup = strip("a <b>", [0, 1500], maps)
    assert "1<i " in markup
    assert "</i>100 (log)<b></b>none left" in markup
    assert "3 of 4 connected at step 1,500" in markup
    assert "a &lt;b&gt;, step 1500: 3 of 4 connected" in markup
    assert "(log)" not in strip("a", [0], maps[:1])
    assert "0 of 4 connected" in strip("a", [0], 0 * maps[:1])
    pixels = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
        for data in re.findall(r'base64,([^"]*)"', markup)
    ]
    assert pixels[1][0, 1, 3] == 0  # no connection: transparent
    np.testing.assert_array_equal(pixels[0][0, 0], pixels[1][1, 1])
    assert (pixels[1][0, 0] != pixels[1][1, 0]).any()


def test_series_has_a_column_a_seed():
    rows = [{"step": 1, "a": [1.0, math.inf]}, {"step": 2}, {"step": 3, "a": [None, 2.0]}]
    steps, values = cells.series(cells.Cell("x", "x", 0.5, pathlib.Path(), rows, None), "a")
    np.testing.assert_array_equal(steps, [1, 3])
    np.testing.assert_array_equal(values, [[1, np.nan], [np.nan, 2]])


def test_styles_differ():
    look = plots.styles(["dense", *(f"method {index}" for index in range(28)), "dense"])
    assert len(look) == 29
    assert len({(each.color, each.marker, each.dash) for each in look.values()}) == 29


def test_accuracy_figure_and_png(tmp_path: pathlib.Path):
    run = make_run(tmp_path, sparsities=(0.9, 0.99))
    _, known = cells.read_cells(run)
    axes = costs.accuracy_figure(cells.finished(known), cells.styles_of(known)).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["90 %", "99 %"]
    assert sorted(axes.get_legend_handles_labels()[1]) == sorted(METHODS)
    report.save_accuracy_png(run, tmp_path / "accuracy.png")
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")


def test_same_run_same_page(tmp_path: pathlib.Path):
    run = make_run(tmp_path, methods=["dense", "rigl"], seeds=2)
    first = report.write_report(run).read_bytes()
    assert report.write_report(run).read_bytes() == first


def test_command_line(tmp_path: pathlib.Path):
    command = [sys.executable, "-m", "experiments.report", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    make_run(tmp_path, methods=["dense"], seeds=1)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(tmp_path / "report.html")
