"""Run folders like those of the runner, with plausible numbers."""

import math
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments import arrays, records
from experiments.snapshots import Snapshots

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
    old: bool = False,
    unfinished: Sequence[str] = (),
    config: dict[str, Any] | None = None,
) -> pathlib.Path:
    """A run folder like those of the runner; ``old`` ones have no masks and no confidence."""
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
            old=old,
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
    old: bool,
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
        arrays.write_inputs(folder, np.linspace(0, STEPS, 9).astype(int).tolist(), maps)
    if not old and method != "dense":
        make_masks(folder, method, sparsity, rng)
    if not finished:
        return
    dense = method == "dense"
    layers = []
    for index, (path, shape) in enumerate(SHAPES.items()):
        size = math.prod(shape)
        kept = [
            int(size * (1 - sparsity) * (1 + 0.3 * index)) + (method == "snip") * s for s in seeds
        ]
        flops = None if old else 2 * size
        layers.append(records.Layer(path, list(shape), size, None if dense else kept, flops))
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
        evaluation=None if old else make_confidence(folder, sparsity, seeds, rng),
    )
    records.write_result(folder, result)


def make_masks(
    folder: pathlib.Path, method: str, sparsity: float, rng: np.random.Generator
) -> None:
    """Masks drawn once, or of moving methods drawn anew and ever less evenly."""
    moving = method in ("set", "rigl", "gradual_magnitude")
    draws = {path: rng.random(shape) for path, shape in SHAPES.items()}
    log = Snapshots(folder, (8, 9, 1), 0)
    for share in np.linspace(0, 1, 5):
        if moving:
            draws = {path: rng.random(shape) for path, shape in SHAPES.items()}
        tilt = {path: share * moving * np.linspace(-0.1, 0.1, s[1]) for path, s in SHAPES.items()}
        masks = {path: (draws[path] + tilt[path])[None] < 1 - sparsity for path in SHAPES}
        log.add(round(share * STEPS), masks)
    log.save()


def make_confidence(
    folder: pathlib.Path, sparsity: float, seeds: list[int], rng: np.random.Generator
) -> records.Evaluation:
    """The confidence of networks the more sure of themselves the denser they are."""
    top = 0.2 + 0.8 * rng.beta(6 * (1.1 - sparsity), 0.5, (len(seeds), 360))
    right = rng.random(top.shape) < top - 0.05
    away = 0.2 + 0.8 * rng.beta(1, 1, top.shape)
    ones = np.ones_like(top)

    def bins(values: np.ndarray, n: int, weights: np.ndarray = ones) -> np.ndarray:
        edges = np.linspace(0, 1, n + 1)
        rows = zip(values, weights, strict=True)
        return np.stack([np.histogram(row, edges, weights=each)[0] for row, each in rows])

    saved = arrays.Confidence(
        bins(top, 15), bins(top, 15, top), bins(top, 15, 1.0 * right), bins(top, 40), bins(away, 40)
    )
    arrays.write_confidence(folder, saved)
    many = lambda center: rng.normal(center, 0.005, len(seeds)).tolist()
    return records.Evaluation(
        many(0.05), many(0.1), many(1.4), many(0.02), "noise", many(0.9), many(0.3)
    )
