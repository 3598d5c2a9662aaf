"""Configurations drawn at random: a valid one trains two steps, any other one is one line."""

import dataclasses
import math
import pathlib
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from experiments import build, config, data, train

pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")

ODD = (0, -1, 1, 2, 7, 10**12)
REALS = (0.0, -0.5, 1e-45, 0.5, 0.9, 1.0, 1.5, 90.0, 1e30, math.nan, math.inf, -math.inf)
METHODS = ("dense", "static", "set", "rigl", "gradual_magnitude", "ste", "sensitivity", "rigel", "")
# Where a valid one need not train long, and what it is with: all else is drawn.
TINY = config.Config(
    model=config.Model(widths=(4,)),
    pruning=config.Pruning(interval=1),
    methods=("rigl",),
    seeds=1,
    epochs=1,
    batch_size=60,
)


def _fields(kind: Any, **choices: Any) -> dict[tuple[str, str], Any]:
    return {(kind, name): st.sampled_from(values) for name, values in choices.items()}


FIELDS = {
    **_fields(
        "",
        data=("digits", "mnits", "", "DIGITS"),
        methods=[(), *[(m,) for m in METHODS], ("rigl", "rigl"), ("rigl", "set")],
        sparsities=[(), *[(s,) for s in REALS], (0.5, 0.5), (0.9, 0.9000000001), (0.5, 0.9)],
        seeds=ODD[:5],
        epochs=(0, -1, 1, 2, 10**12),
        batch_size=ODD,
        evaluate_every=ODD,
        chunk_steps=ODD,
        checkpoint_seconds=REALS,
        max_nonfinite=(None, *ODD),
        augment=(True, False),
        exploration=(True, False),
    ),
    **_fields(
        "model",
        name=("mlp", "lenet-5", "plain-conv", "cifar-resnet", "wide-resnet", "vgg"),
        widths=((), (0,), (-1,), (3,), (5, 2), (10**12,)),
        depth=(0, -1, 1, 3, 4, 8, 11, 12, 10**12),
        width=(0, -1, 1, 10**12),
    ),
    **_fields(
        "optimizer",
        name=("sgd", "adam"),
        learning_rate=REALS,
        momentum=REALS,
        weight_decay=REALS,
        decay=("cosine", "steps"),
        boundaries=(
            (),
            (0.5,),
            (1.0, 0.5),
            (1.0, 1.0),
            (-1.0,),
            (math.nan,),
            (math.inf,),
            (1.0, 2.0),
        ),
        factor=REALS,
    ),
    **_fields(
        "pruning",
        distribution=("erk", "er", "uniform"),
        interval=ODD,
        stop=REALS,
        drop_fraction=REALS,
        prune_start=REALS,
        one_shot=REALS,
    ),
}


def _with(base: config.Config, drawn: dict[tuple[str, str], Any]) -> config.Config:
    for (part, name), value in drawn.items():
        inner = dataclasses.replace(getattr(base, part), **{name: value}) if part else None
        base = dataclasses.replace(base, **({part: inner} if part else {name: value}))
    return base


def configurations(most: int) -> st.SearchStrategy[config.Config]:
    """A small training with up to so many of its settings drawn anew."""
    names = st.lists(st.sampled_from(sorted(FIELDS)), min_size=1, max_size=most, unique=True)
    draw = lambda chosen: st.fixed_dictionaries({name: FIELDS[name] for name in chosen})
    return names.flatmap(draw).map(lambda drawn: _with(TINY, drawn))


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> data.Dataset:
    """As many digits as two steps of sixty need."""
    whole = data.load("digits", tmp_path_factory.mktemp("data"))
    return dataclasses.replace(
        whole,
        train_images=whole.train_images[:120],
        train_labels=whole.train_labels[:120],
        test_images=whole.test_images[:50],
        test_labels=whole.test_labels[:50],
    )


def _refusal(drawn: config.Config) -> str | None:
    """What is wrong with it, or ``None``; nothing but a ValueError may say so."""
    try:
        config.check(drawn)
    except ValueError as error:
        return str(error)
    return None


@hypothesis.settings(max_examples=500)
@hypothesis.given(configurations(most=4))
def test_a_refusal_is_one_line(drawn: config.Config) -> None:
    said = _refusal(drawn)
    assert said is None or (said and "\n" not in said and len(said) < 250)


@hypothesis.settings(max_examples=60)
@hypothesis.given(configurations(most=6))
def test_what_is_not_refused_can_be_built(few: data.Dataset, drawn: config.Config) -> None:
    """Network, optimizer and method, of any length of the run; nothing is traced."""
    hypothesis.assume(_refusal(drawn) is None)
    for steps in (1, 2, 3, 50):
        build.build_optimizer(drawn, steps, 1, drawn.methods[0])
        for cell in train.cells_of(drawn):
            method = build.build_method(drawn, cell.method, cell.sparsity, steps)
            if method.due is not None:
                np.broadcast_to(method.due(np.arange(steps)), steps)


@hypothesis.settings(max_examples=8, suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(drawn=configurations(most=3))
def test_a_valid_one_trains_two_steps(
    few: data.Dataset,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    drawn: config.Config,
) -> None:
    """To the end, unless the data or the run say otherwise: then that is one line too."""
    hypothesis.assume(_refusal(drawn) is None)
    folder = tmp_path / str(len(list(tmp_path.iterdir())))
    drawn = dataclasses.replace(drawn, out=folder, epochs=1, seeds=min(drawn.seeds, 2))
    monkeypatch.setattr(data, "load", lambda *_: few)
    monkeypatch.setattr(train.tyro, "cli", lambda *_, **__: drawn)
    code, message = train.main([]), capsys.readouterr().err.strip()
    if code == 0:
        assert not message
        return
    # A batch larger than the data; or a loss that is not finite, where none may be.
    refused = drawn.batch_size > 120 or code == 3
    assert refused
    assert code in (2, 3)
    lines = message.splitlines()
    assert lines[0].startswith("error: ")
    assert len(lines) <= len(drawn.methods) * len(drawn.sparsities)  # one for each that failed
