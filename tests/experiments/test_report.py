"""The report of a made-up run: self-contained, complete, and honest about what is missing."""

import base64
import html.parser
import io
import math
import pathlib
import re
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="the experiments extra is not installed")

from PIL import Image

from experiments import curves, page, plots, records, report

METHODS = ("dense", "static", "set", "rigl", "gradual_magnitude", "snip")
SHAPES = {"Dense_0/kernel": (64, 300), "Dense_1/kernel": (300, 100), "Dense_2/kernel": (100, 10)}
STEPS = 2400
ROWS = 24


def cell_names(methods: Sequence[str], sparsities: Sequence[float]) -> list[str]:
    """Names as the runner gives them: dense once, the others at each sparsity."""
    names = ["dense"] if "dense" in methods else []
    return names + [f"{m}-{s}" for s in sparsities for m in methods if m != "dense"]


def make_run(
    run: pathlib.Path,
    *,
    methods: Sequence[str] = METHODS,
    sparsities: Sequence[float] = (0.9,),
    seeds: int = 5,
    inputs: bool = True,
    unfinished: Sequence[str] = (),
    config: dict[str, Any] | None = None,
) -> pathlib.Path:
    """A run folder like those of the runner, with plausible numbers."""
    cells = cell_names(methods, sparsities)
    about = {
        "cells": cells,
        "config": config or {"data": "digits", "model": {"name": "mlp", "widths": [300, 100]}},
        "environment": {"jax": "0.10.2", "commit": "0123456", "hardware": "1 x cpu, 2 cores"},
    }
    records.write_json(run / "run.json", about)
    for index, cell in enumerate(cells):
        method, _, text = cell.partition("-")
        rng = np.random.default_rng(index)
        make_cell(
            records.cell_folder(run, cell),
            method,
            float(text or 0),
            list(range(seeds)),
            rng,
            inputs=inputs,
            finished=cell not in unfinished,
        )
    return run


def make_cell(
    folder: pathlib.Path,
    method: str,
    sparsity: float,
    seeds: list[int],
    rng: np.random.Generator,
    *,
    inputs: bool,
    finished: bool,
) -> None:
    weights = sum(map(math.prod, SHAPES.values()))
    best = 0.98 - 0.02 * sparsity - 0.3 * sparsity**40 * (1 + (method == "static"))
    offset = rng.normal(0, 0.004, len(seeds))
    rows = []
    for step in np.linspace(0, STEPS, ROWS + 1).astype(int)[: None if finished else ROWS // 2]:
        share = step / STEPS
        now = sparsity * min(1, 1.4 * share) ** 0.4 if method == "gradual_magnitude" else sparsity
        noise = rng.normal(0, 0.003, len(seeds))
        accuracy = 0.1 + (best - 0.1) * (1 - math.exp(-9 * share)) + offset + noise
        loss = 2.3 * np.exp(-6 * share + noise * 10) + 0.03
        rows.append(
            {
                "step": int(step),
                "epoch": share * 60,
                "train_loss": loss.tolist(),
                "train_accuracy": (accuracy + 0.01).tolist(),
                "test_loss": (loss + 0.1).tolist(),
                "test_accuracy": accuracy.tolist(),
                "grad_norm": np.exp(noise).tolist(),
                "kept": [round(weights * (1 - now))] * len(seeds),
                "sparsity": [now] * len(seeds),
                "inference_flops": [1 - now] * len(seeds),
                "training_flops": [share * (1 - now)] * len(seeds),
                **{key: [0] * len(seeds) for key in ("dropped", "grown", "updates")},
                **{key: [0] * len(seeds) for key in ("skipped", "nonfinite")},
            }
        )
    records.append_metrics(folder, rows)
    if inputs:
        center = np.exp(-((np.indices((8, 8)) - 3.5) ** 2).sum(0) / 12)
        maps = []
        for share in np.linspace(0, 1, 9):
            drift = share if method in ("set", "rigl", "gradual_magnitude") else 0
            mean = 300 * (1 - sparsity) * ((1 - drift) + drift * 2 * (center - 0.15).clip(0))
            flat = np.full((8, 8), 300) if method == "dense" else rng.poisson(mean)
            maps.append(flat[:, :, None])
        records.write_inputs(folder, np.linspace(0, STEPS, 9).astype(int).tolist(), maps)
    if not finished:
        return
    dense = method == "dense"
    layers = []
    for index, (path, shape) in enumerate(SHAPES.items()):
        size = math.prod(shape)
        kept = [
            int(size * (1 - sparsity) * (1 + 0.3 * index)) + (method == "snip") * s for s in seeds
        ]
        layers.append(records.Layer(path, list(shape), size, None if dense else kept))
    cost = (1 - sparsity) * (1.0 if method != "gradual_magnitude" else 3.0)
    last = rows[-1]
    result = records.Result(
        cell=folder.name,
        method=method,
        sparsity=sparsity,
        seeds=seeds,
        steps=STEPS,
        epochs=60.0,
        seconds=21.4,
        test_accuracy=last["test_accuracy"],
        test_loss=last["test_loss"],
        train_loss=last["train_loss"],
        kept=last["kept"],
        weights=weights,
        inference_flops=last["inference_flops"],
        training_flops=[min(1.0, cost)] * len(seeds),
        updates=0,
        skipped=[0] * len(seeds),
        nonfinite=[0] * len(seeds),
        layers=layers,
    )
    records.write_result(folder, result)


class Page(html.parser.HTMLParser):
    """What a browser would make of the page: tags, addresses, ids, headings, figures, text."""

    def __init__(self, path: pathlib.Path) -> None:
        super().__init__()
        self.source = path.read_text()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.labels: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)
        self.addresses += [values[name] for name in ("src", "href", "data") if name in values]
        self.ids += [values["id"]] if "id" in values else []
        self.labels += [values["aria-label"]] if tag == "svg" and "aria-label" in values else []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data if "style" not in self.open else ""


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
        "Sparsity of each layer, 90 % sparse",
        "Sparsity over training",
    ]
    assert whole.tags.count("img") == 5 * report.SNAPSHOTS  # dense is told in words
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
    assert len(seen.labels) == 6


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


def test_without_inputs(tmp_path: pathlib.Path):
    seen = Page(report.write_report(make_run(tmp_path, methods=["dense", "set"], inputs=False)))
    assert "img" not in seen.tags
    assert "Not recorded" in seen.text


def test_many_cells(tmp_path: pathlib.Path):
    sparsities = [0.5, 0.8, 0.9, 0.95, 0.98, 0.99]
    seen = Page(report.write_report(make_run(tmp_path, sparsities=sparsities, seeds=2)))
    assert seen.tags.count("details") == 4  # the facts, and what is beyond the first panels
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
    markup = page.strip("a <b>", [0, 1500], maps)
    assert "1<i " in markup
    assert "</i>100 (log)<b></b>none left" in markup
    assert "3 of 4 connected at step 1,500" in markup
    assert "a &lt;b&gt;, step 1500: 3 of 4 inputs connected" in markup
    assert "(log)" not in page.strip("a", [0], maps[:1])
    assert "0 of 4 connected" in page.strip("a", [0], 0 * maps[:1])
    pixels = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
        for data in re.findall(r'base64,([^"]*)"', markup)
    ]
    assert pixels[1][0, 1, 3] == 0  # no connection: transparent
    np.testing.assert_array_equal(pixels[0][0, 0], pixels[1][1, 1])
    assert (pixels[1][0, 0] != pixels[1][1, 0]).any()


def test_series_has_a_column_a_seed():
    rows = [{"step": 1, "a": [1.0, math.inf]}, {"step": 2}, {"step": 3, "a": [None, 2.0]}]
    steps, values = curves.series(curves.Cell("x", "x", 0.5, rows, None), "a")
    np.testing.assert_array_equal(steps, [1, 3])
    np.testing.assert_array_equal(values, [[1, np.nan], [np.nan, 2]])


def test_styles_differ():
    look = plots.styles(["dense", *(f"method {index}" for index in range(28)), "dense"])
    assert len(look) == 29
    assert len({(each.color, each.marker, each.dash) for each in look.values()}) == 29


def test_accuracy_figure_and_png(tmp_path: pathlib.Path):
    run = make_run(tmp_path, sparsities=(0.9, 0.99))
    axes = plots.accuracy_figure(records.read_results(run)).axes[0]
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
