"""The runner: what it writes, that a stopped run ends with the same numbers, what it refuses."""

import dataclasses
import inspect
import io
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

import jaxsparse
from experiments import arrays, build, cell, config, data, evaluate, records, stopping, train
from experiments.measures import Measures

pytestmark = pytest.mark.usefixtures("quick_compilation")

SMALL = config.Config(
    model=config.Model(widths=(16,)),
    pruning=config.Pruning(interval=4),
    methods=("dense", "set", "rigl", "gradual_magnitude", "snip"),
    seeds=2,
    epochs=4,
    batch_size=120,
    evaluate_every=2,
    chunk_steps=4,
    checkpoint_seconds=0.0,
)
STEPS = 4 * (1437 // 120)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> data.Dataset:
    return data.load("digits", tmp_path_factory.mktemp("data"))


def _run(
    what: config.Config,
    dataset: data.Dataset,
    folder: pathlib.Path,
    stop_after: int | None = None,
    method: str = "rigl",
) -> records.Result:
    """One cell, asked to stop after so many compiled calls."""
    calls = iter(range(1000))
    asked = lambda: 15 * (stop_after is not None and next(calls) + 1 >= stop_after)
    trained = cell.Cell(f"{method}-0.9", method, 0.9)
    outside = evaluate.images_outside(dataset, None)
    return cell.run_cell(what, trained, dataset, folder, lambda *_: None, asked, outside)


def _comparable(folder: pathlib.Path) -> list[dict[str, Any]]:
    rows = records.read_metrics(folder)
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def _timeless(result: records.Result) -> records.Result:
    return dataclasses.replace(result, seconds=0.0)


@pytest.fixture(scope="module")
def whole(
    digits: data.Dataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[pathlib.Path, records.Result]:
    folder = tmp_path_factory.mktemp("whole")
    return folder, _run(SMALL, digits, folder)


@pytest.mark.parametrize("calls", [1, 5])
def test_a_stopped_cell_goes_on_bit_for_bit(
    calls: int, digits: data.Dataset, whole: Any, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(stopping.Stopped):
        _run(SMALL, digits, tmp_path, stop_after=calls)
    assert records.read_result(tmp_path) is None
    result = _run(SMALL, digits, tmp_path)
    folder, expected = whole
    assert _comparable(tmp_path) == _comparable(folder)
    for ours, theirs in zip(
        arrays.read_inputs(tmp_path) or [], arrays.read_inputs(folder) or [], strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    jax.tree.map(
        np.testing.assert_array_equal, arrays.read_masks(tmp_path), arrays.read_masks(folder)
    )
    assert _timeless(result) == _timeless(expected)


def test_the_numbers_of_a_cell(whole: Any) -> None:
    folder, result = whole
    assert result.steps == STEPS
    kept = jaxsparse.uniform({"w": np.zeros((64 * 16 + 16 * 10, 1), np.float32)}, 0.9)["w"]
    assert result.kept == [kept, kept]
    assert result.weights == 64 * 16 + 16 * 10
    assert [layer.path for layer in result.layers] == ["Dense_0/kernel", "Dense_1/kernel"]
    assert all(0.2 < value <= 1 for value in result.test_accuracy)
    assert [row["step"] for row in _comparable(folder)] == list(range(4, STEPS + 1, 4))
    # Updates at 4, 8, ... below three quarters of the run; each reads the dense gradient.
    due = range(4, int(0.75 * STEPS), 4)
    assert result.updates == len(due)
    sparse = sum(
        2 * layer.shape[0] * layer.shape[1] * layer.kept[0] / layer.size for layer in result.layers
    )
    share = sparse / (2 * result.weights)
    expected = (3 * share * (STEPS - len(due)) + (2 * share + 1) * len(due)) / (3 * STEPS)
    np.testing.assert_allclose(result.training_flops, expected, rtol=1e-5)
    np.testing.assert_allclose(result.inference_flops, share, rtol=1e-5)
    # In operations, of all batches; and the parameters of all forward passes.
    assert [layer.flops for layer in result.layers] == [2 * 64 * 16, 2 * 16 * 10]
    forward = 2 * result.weights * SMALL.batch_size * STEPS
    np.testing.assert_allclose(result.flops or 0, 3 * forward * expected, rtol=1e-5)
    np.testing.assert_allclose(result.average_parameters or 0, kept + 16 + 10, rtol=1e-6)


def test_parameters_of_a_growing_sparsity_are_averaged(
    digits: data.Dataset, tmp_path: pathlib.Path
) -> None:
    result = _run(SMALL, digits, tmp_path, method="gradual_magnitude")
    # Masks move in the first step of a line of four, whose own forward pass came before.
    after = np.array([row["kept"][0] for row in _comparable(tmp_path)])
    before = np.array([result.weights, *after[:-1]])
    assert after[-1] < before[0] / 5
    average = (before + 3 * after).mean() / 4 + 16 + 10
    np.testing.assert_allclose(result.average_parameters or 0, average, rtol=1e-6)


def test_every_connection_is_in_the_input_picture(whole: Any) -> None:
    folder, result = whole
    steps, connections = arrays.read_inputs(folder) or ([], np.zeros(0))
    # At the start, and at each evaluation.
    assert steps[0] == 0
    assert steps[-1] == STEPS
    assert connections.shape[1:] == (8, 8, 1)
    np.testing.assert_array_equal(connections.sum((1, 2, 3)), result.layers[0].kept[0])


def test_every_connection_is_in_the_degrees_of_its_layer(whole: Any) -> None:
    folder, result = whole
    steps, views = arrays.read_masks(folder) or ([], {})
    assert steps == (arrays.read_inputs(folder) or ([], None))[0]
    for layer in result.layers:
        assert views[layer.path].fan_in.sum(1).tolist() == [layer.kept[0]] * len(steps)
        assert views[layer.path].fan_out.sum(1).tolist() == [layer.kept[0]] * len(steps)


def test_confidence_is_that_of_the_test_set(whole: Any, digits: data.Dataset) -> None:
    folder, result = whole
    saved = arrays.read_confidence(folder)
    assert saved is not None
    right = [round(len(digits.test_labels) * share) for share in result.test_accuracy]
    assert saved.correct.sum(1).tolist() == right
    assert saved.count.sum(1).tolist() == [360, 360]
    assert saved.outside.sum(1).tolist() == [360, 360]
    assert result.evaluation.outside == "digits with shuffled pixels"
    assert all(0.5 < value < 1 for value in result.evaluation.auroc)


@pytest.mark.parametrize("method", jaxsparse.ALGORITHMS)
def test_every_method_takes_the_settings_of_a_run(method: str) -> None:
    nothing = lambda params: params
    inputs = jax.ShapeDtypeStruct((1, 1), "float32")
    measures = Measures(
        nothing, nothing, ("Dense_0/kernel",), 100, nothing, nothing, ((), ()), inputs
    )
    algorithm = build.build_method(SMALL, method, 0.9, 1000, measures)
    assert isinstance(algorithm, jaxsparse.MaskAlgorithm)
    if algorithm.due is not None:
        due = np.flatnonzero(algorithm.due(np.arange(1000)))
        assert due.size
        # What is given a condition keeps to it; others go on choosing.
        given = inspect.signature(jaxsparse.ALGORITHMS[method].factory).parameters
        assert due.max() <= 750 or due.size == 1000 or "update" not in given


@pytest.mark.parametrize("name", config.PRESETS)
def test_every_preset_trains_two_steps(name: str, tmp_path: pathlib.Path) -> None:
    chosen = config.preset(name)
    config.check(chosen)
    shape = {"digits": (8, 8, 1), "cifar10": (32, 32, 3)}.get(chosen.data, (28, 28, 1))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, *shape), dtype=np.uint8)
    labels = np.arange(8, dtype=np.int32)
    channel = (128.0,) * shape[-1]
    fake = data.Dataset("fake", 10, images, labels, images, labels, channel, channel)
    # The smallest member of each family, to compile quickly.
    model = dataclasses.replace(
        chosen.model,
        widths=(8,) * len(chosen.model.widths),
        depth={"cifar-resnet": 8, "wide-resnet": 10}.get(chosen.model.name, 0),
        width=1 if chosen.model.name == "wide-resnet" else 4,
    )
    shrunk = dataclasses.replace(
        chosen, model=model, seeds=1, epochs=2, batch_size=8, pruning=config.Pruning(interval=1)
    )
    result = _run(shrunk, fake, tmp_path)
    assert result.steps == 2
    assert np.isfinite(result.train_loss).all()
    assert result.kept[0] < 0.2 * result.weights


def test_what_is_not_finite_is_counted_and_moves_no_mask(
    digits: data.Dataset, tmp_path: pathlib.Path
) -> None:
    wild = dataclasses.replace(
        SMALL, optimizer=config.Optimizer(learning_rate=1e30), chunk_steps=44, checkpoint_seconds=99
    )
    result = _run(wild, digits, tmp_path)
    assert min(result.nonfinite) > 10
    assert min(result.skipped) > 3
    assert result.kept == [119, 119]


def test_too_many_steps_that_are_not_finite_stop_the_run(
    digits: data.Dataset,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Weights are NaN after step 13: a checkpoint of step 12, none after it."""
    monkeypatch.setattr(data, "load", lambda *_: digits)
    monkeypatch.chdir(tmp_path)
    whole, bad = build.build_optimizer, [12]

    def poisoned(*args: Any) -> optax.GradientTransformation:
        poison = lambda count: jnp.where(count == bad[0], jnp.nan, 1.0)
        return optax.chain(whole(*args), optax.scale_by_schedule(poison))

    monkeypatch.setattr(build, "build_optimizer", poisoned)
    flags = [
        *("--methods", "static", "--seeds", "1", "--epochs", "8", "--batch-size", "120"),
        *("--model.widths", "16", "--chunk-steps", "2", "--checkpoint-seconds", "0"),
    ]
    assert train.main([*flags, "--max-nonfinite", "3"]) == 3
    message = capsys.readouterr().err.strip()
    # Losses are NaN from step 14 on; the call of steps 17 and 18 has the fourth and fifth.
    assert message.startswith("error: static-0.9: 5 steps with a loss or gradient that is not fin")
    assert "in steps 17 to 18 of seeds 0, where --max-nonfinite is 3" in message
    assert "the newest checkpoint is of step 12." in message
    for word in ("--optimizer.learning-rate", "--resume", "\n"):
        assert (word in message) == (word != "\n")
    folder = tmp_path / "runs/digits-mlp/cells/static-0.9"
    assert max(int(path.name) for path in (folder / "checkpoints").iterdir()) == 12
    assert [sum(row["nonfinite"]) for row in records.read_metrics(folder)][5:] == [0, 1, 3, 5]
    # The same trouble from there, of which more is allowed; then to the end without it.
    assert train.main([*flags, "--resume", "--max-nonfinite", "5"]) == 3
    assert "in steps 19 to 20" in capsys.readouterr().err
    assert max(int(path.name) for path in (folder / "checkpoints").iterdir()) == 12
    bad[0] = -1
    assert train.main([*flags, "--resume", "--max-nonfinite", "0"]) == 0
    result = records.read_result(folder)
    assert result
    assert result.nonfinite == [0]


def test_the_learning_rate_falls_where_it_should() -> None:
    steps = dataclasses.replace(
        SMALL, optimizer=config.Optimizer(decay="steps", boundaries=(1.0,), weight_decay=0.0)
    )
    tx = build.build_optimizer(steps, steps=100, steps_per_epoch=10)
    params = {"w": np.ones(1, np.float32)}
    state, sizes = tx.init(params), []
    for _ in range(12):
        updates, state = tx.update({"w": np.ones(1, np.float32)}, state, params)
        sizes.append(-float(optax.tree.get(updates, "w")[0]))
    # Nesterov momentum 0.9 tends to 1 / (1 - 0.9) from below; the fall is by ten.
    assert sizes[10] == pytest.approx(0.1 * sizes[9], rel=0.1)


@pytest.mark.parametrize(
    ("steps", "most", "expected"), [(4400, 400, 400), (12000, 600, 600), (97, 50, 50), (3, 50, 3)]
)
def test_chunks_divide_the_run_where_they_can(steps: int, most: int, expected: int) -> None:
    assert cell.chunk_length(steps, most) == expected


def test_a_new_run_never_writes_over_another(tmp_path: pathlib.Path) -> None:
    first = train.open_run("digits-mlp", SMALL, tmp_path)
    second = train.open_run("digits-mlp", SMALL, tmp_path)
    assert (first.name, second.name) == ("digits-mlp", "digits-mlp-2")
    again = train.open_run("digits-mlp", dataclasses.replace(SMALL, resume=True), tmp_path)
    assert again == second
    with pytest.raises(ValueError, match="holds a run; add --resume"):
        train.open_run("digits-mlp", dataclasses.replace(SMALL, out=first), tmp_path)


def test_a_run_of_another_configuration_is_not_gone_on_with(tmp_path: pathlib.Path) -> None:
    train.open_run("digits-mlp", SMALL, tmp_path)
    other = dataclasses.replace(
        SMALL, resume=True, epochs=5, pruning=config.Pruning(interval=7), checkpoint_seconds=5.0
    )
    with pytest.raises(ValueError, match="was begun with other settings; resume with") as error:
        train.open_run("digits-mlp", other, tmp_path)
    lines = str(error.value).splitlines()
    assert lines[1:] == ["epochs: 4 there, 5 here", "pruning.interval: 4 there, 7 here"]


def test_a_run_of_another_version_is_not_gone_on_with(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train.open_run("digits-mlp", SMALL, tmp_path)
    monkeypatch.setattr(jaxsparse, "__version__", "9.9.9")
    with pytest.raises(ValueError, match=r"jaxsparse: '[0-9.]+' there, '9\.9\.9' here"):
        train.open_run("digits-mlp", dataclasses.replace(SMALL, resume=True), tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["digit-mlp"], ["unknown preset 'digit-mlp'", "digits-mlp"]),
        (["--sparsities", "1.0"], ["sparsity is 1.0", "[0, 1)"]),
        (["--sparsities", "90"], ["sparsity is 90.0", "give 0.9"]),
        (["--methods", "rigel"], ["unknown method 'rigel'", "rigl"]),
        (["--epochs", "0"], ["epochs is 0", "at least 1"]),
        (["--optimizer.learning-rate", "0"], ["learning_rate is 0.0", "positive"]),
        (["--pruning.stop", "1.5"], ["pruning.stop is 1.5", "(0, 1]"]),
        (["--pruning.prune-start", "0.9"], ["pruning.prune_start is 0.9", "before pruning.stop"]),
        (["--pruning.drop-fraction", "2"], ["pruning.drop_fraction is 2", "[0, 1]"]),
        (["--batch-size", "5000"], ["batch_size"]),
        (["--max-nonfinite", "-1"], ["max_nonfinite is -1", "at least 0", "leave it out"]),
        (["--data", "mnits"], ["mnist"]),
        (["--per-device", "--mesh", "data=2"], ["a cell on each device", "leave one of them out"]),
        (["--job-count", "2"], ["job_count is 2", "give both"]),
        (["--start-from", "runs/x/cells/y"], ["runs/x/cells/y is no finished cell"]),
        (["--resume"], ["no run to resume"]),
        (["mnist-lenet-300-100"], ["python -m experiments.prepare mnist"]),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str],
    words: list[str],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAXSPARSE_DATA_DIR", str(tmp_path / "empty"))
    assert train.main(arguments) == 2
    message = capsys.readouterr().err.strip()
    assert message.startswith("error: ")
    assert "\n" not in message
    for word in words:
        assert word in message


def test_help_explains_each_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train.main(["--help"])
    text = capsys.readouterr().out
    for flag in ("--sparsities", "--pruning.interval", "--optimizer.learning-rate", "--resume"):
        assert flag in text
    for name in config.PRESETS:
        assert name in text
    assert "Steps between updates of the masks" in text


def test_cells_name_methods_without_a_sparsity_once() -> None:
    chosen = dataclasses.replace(SMALL, methods=("dense", "rigl"), sparsities=(0.9, 0.98))
    assert [c.name for c in train.cells_of(chosen)] == ["dense", "rigl-0.9", "rigl-0.98"]


def test_the_whole_run_in_one_process(
    digits: data.Dataset, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "load", lambda *_: digits)
    chosen = dataclasses.replace(SMALL, epochs=1, chunk_steps=11)
    run = train.open_run("digits-mlp", chosen, tmp_path)
    console = Console(file=io.StringIO(), width=100)
    results = train.train(chosen, run, console)
    assert [result.cell for result in results] == [c.name for c in train.cells_of(chosen)]
    assert results == records.read_results(run)
    # Everything but dense keeps a tenth; a finished cell is not trained again.
    assert [result.kept[0] for result in results] == [1184, 119, 119, 119, 119]
    assert train.train(chosen, run, console) == results
