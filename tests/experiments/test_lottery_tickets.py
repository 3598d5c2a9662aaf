"""The study of lottery tickets on a made-up data set: resumed bit for bit, controls, the page."""

import dataclasses
import functools
import io
import json
import pathlib
import signal
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from experiments import claims, data, lottery_claims, lottery_page, lottery_tickets, records, rounds
from experiments import tickets as study_of
from experiments.rounds import Task
from experiments.stopping import Stopped
from experiments.tickets import Study, tasks_of

pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")

SMALL = Study(
    seeds=2,
    iterations=20,
    widths=(20, 10),
    batch_size=20,
    validation=100,
    evaluate_every=5,
    checkpoint_seconds=1e9,  # none but those of a stop
    data="mnist",
    other="fashion_mnist",
    rounds=2,
    control_rounds=(1, 2),
    transfer_rounds=(2,),
)


def fake(name: str) -> data.Dataset:
    """Ten blurred digits of 4 x 4 pixels, other ones for each name."""
    rng = np.random.default_rng(len(name))
    centers = rng.integers(40, 216, (10, 4, 4, 1))
    labels = rng.integers(0, 10, 500).astype(np.int32)
    images = np.clip(centers[labels] + rng.normal(0, 40, (500, 4, 4, 1)), 0, 255).astype(np.uint8)
    return data.Dataset(
        name, 10, images[:400], labels[:400], images[400:], labels[400:], (128.0,), (64.0,)
    )


@functools.cache
def trainer(study: Study, name: str) -> rounds.Trainer:
    """One program for all tests: what it depends on is the same in all of them."""
    return rounds.Trainer(study, fake(name))


def made_up_data(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(data, "load", lambda name, *_: fake(name))
    patch.setattr(lottery_tickets, "Trainer", lambda study, dataset: trainer(SMALL, dataset.name))


@pytest.fixture(autouse=True)
def _made_up_data(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up_data(monkeypatch)


def console() -> Console:
    return Console(file=io.StringIO(), width=120)


def numbers(run: pathlib.Path) -> list[rounds.Result]:
    _, results = lottery_tickets.read_results(run)
    return [dataclasses.replace(result, seconds=0.0) for result in results]


def weights(run: pathlib.Path, name: str) -> list[np.ndarray]:
    with np.load(records.cell_folder(run, name) / "trained.npz") as saved:
        return [saved[key] for key in saved.files]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run from its beginning to its end; what each training was given lies beside it."""
    run = lottery_tickets.open_run(SMALL, tmp_path_factory.mktemp("whole") / "run", False)
    with pytest.MonkeyPatch.context() as patch:
        made_up_data(patch)
        lottery_tickets.run_study(SMALL, run, None, console())
    return run


@pytest.fixture(scope="module")
def given() -> dict[str, tuple[Any, Any]]:
    """What each training of the study starts from, with a training that only rounds."""
    found: dict[str, tuple[Any, Any]] = {}
    trainers = {name: trainer(SMALL, name) for name in ("mnist", "fashion_mnist")}

    def lab(program: Any, task: Task, params: Any, masks: Any, steps: int | None = None) -> Any:
        found[task.name] = (params, masks)
        kernel = lambda w: w * (1.5 if task.data == "mnist" else np.cos(40 * w))
        return {
            layer: {"kernel": kernel(leaf["kernel"]), "bias": leaf["bias"]}
            for layer, leaf in params.items()
        }

    study_of.run_procedures(SMALL, trainers, lab)
    return found


def masks_in(masks: Any) -> list[np.ndarray]:
    return [np.asarray(masks[f"Dense_{i}"]["kernel"]) for i in range(3)]


def counts(masks: Any) -> list[list[int]]:
    return [mask.sum((1, 2)).tolist() for mask in masks_in(masks)]


def kernels(params: Any) -> list[np.ndarray]:
    return [np.asarray(params[f"Dense_{i}"]["kernel"]) for i in range(3)]


def test_every_training_is_announced_and_done(whole: pathlib.Path, given: Any) -> None:
    about, results = lottery_tickets.read_results(whole)
    names = [task.name for task in tasks_of(SMALL)]
    assert about["cells"] == names == [result.cell for result in results]
    assert sorted(given) == sorted(names)
    assert len(set(names)) == len(names) == 16
    for result in results:
        assert result.steps == 20
        assert set(result.best_step) <= {5, 10, 15, 20}
        assert all(0 < accuracy <= 1 for accuracy in result.test_accuracy)
        assert result.nonfinite == [0, 0]


def test_the_rounds_have_the_counts_of_the_schedule(whole: pathlib.Path) -> None:
    found = {(r.data, r.arm, r.round): r for r in numbers(whole)}
    # 16 x 20, 20 x 10, 10 x 10; a fifth goes, in the output layer a tenth:
    # 320 - 64 - 51 (floor(51.2)), 200 - 40 - 32, 100 - 10 - 9.
    expected = {0: [320, 200, 100], 1: [256, 160, 90], 2: [205, 128, 81]}
    for (_, _, number), result in found.items():
        assert [kept for kept, _ in result.kept.values()] == expected[number]
        assert [kept for _, kept in result.kept.values()] == expected[number]
        assert result.weights == 620
    assert found["mnist", "ticket", 2].density == pytest.approx(414 / 620)


def test_a_ticket_has_its_first_weights(given: Any) -> None:
    first, everything = given["mnist-dense-0"]
    assert all(mask.all() for mask in masks_in(everything))
    for number in (1, 2):
        start, masks = given[f"mnist-ticket-{number}"]
        triples = zip(kernels(start), kernels(first), masks_in(masks), strict=True)
        for ours, theirs, mask in triples:
            np.testing.assert_array_equal(ours, np.where(mask, theirs, 0))
    # Not reset, round 1 starts from what round 0 ended with.
    start, masks = given["mnist-continued-1"]
    triples = zip(kernels(start), kernels(first), masks_in(masks), strict=True)
    for ours, theirs, mask in triples:
        np.testing.assert_array_equal(ours, np.where(mask, 1.5 * theirs, 0))


def test_other_weights_under_the_same_mask(given: Any) -> None:
    first, _ = given["mnist-dense-0"]
    for number in (1, 2):
        params, masks = given[f"mnist-reinit-{number}"]
        for ours, theirs in zip(
            masks_in(masks), masks_in(given[f"mnist-ticket-{number}"][1]), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)
        for ours, theirs in zip(kernels(params), kernels(first), strict=True):
            assert (ours != theirs).mean() > 0.99
            # Glorot normal both.
            assert ours.std() == pytest.approx(theirs.std(), rel=0.2)
    assert not np.array_equal(kernels(given["mnist-reinit-1"][0])[0], kernels(params)[0])


@pytest.mark.parametrize("arm", ["random", "one_shot"])
def test_the_same_counts_elsewhere(arm: str, given: Any) -> None:
    first, _ = given["mnist-dense-0"]
    params, masks = given[f"mnist-{arm}-2"]
    _, ticket = given["mnist-ticket-2"]
    assert counts(masks) == counts(ticket) == [[205] * 2, [128] * 2, [81] * 2]
    for ours, theirs in zip(kernels(params), kernels(first), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    if arm == "one_shot":
        # Training keeps the order here: pruned at once or in rounds, the same weights are left.
        for ours, theirs in zip(masks_in(masks), masks_in(ticket), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        return
    for ours, theirs in zip(masks_in(masks), masks_in(ticket), strict=True):
        assert not np.array_equal(ours, theirs)
        assert not np.array_equal(ours[0], ours[1])  # nor are those of two seeds


def test_a_carried_ticket_is_that_of_the_other_data(given: Any) -> None:
    for here, there in (("fashion_mnist", "mnist"), ("mnist", "fashion_mnist")):
        start, masks = given[f"{here}-carried-2"]
        found, own = given[f"{there}-ticket-2"], given[f"{here}-ticket-2"]
        for ours, theirs, other in zip(
            masks_in(masks), masks_in(found[1]), masks_in(own[1]), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)
            assert not np.array_equal(ours, other)
        for ours, theirs in zip(kernels(start), kernels(found[0]), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("calls", [2, 9])
def test_a_stopped_run_goes_on_bit_for_bit(
    calls: int, whole: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Within the dense training, and within the last round: four questions a training.
    less = dataclasses.replace(SMALL, controls=(), transfer_rounds=())
    run = lottery_tickets.open_run(less, tmp_path / "run", False)
    asked = iter(range(1, 1000))

    class Stopping(lottery_tickets.Signals):
        """Says stop at one question."""

        stopping = property(lambda self: next(asked) == calls, lambda self, value: None)

    monkeypatch.setattr(lottery_tickets, "Signals", Stopping)
    with pytest.raises(Stopped):
        lottery_tickets.run_study(less, run, None, console())
    assert len(numbers(run)) == (calls - 1) // 4
    assert lottery_tickets.open_run(less, run, True) == run
    lottery_tickets.run_study(less, run, None, console())
    assert numbers(run) == numbers(whole)[:3]
    for task in tasks_of(less):
        pairs = zip(weights(run, task.name), weights(whole, task.name), strict=True)
        for ours, theirs in pairs:
            np.testing.assert_array_equal(ours, theirs)
        folders = (records.cell_folder(each, task.name) for each in (run, whole))
        ours, theirs = (records.read_metrics(folder) for folder in folders)
        for row in (*ours, *theirs):
            del row["seconds"]
        assert ours == theirs
        assert not (records.cell_folder(run, task.name) / "checkpoints").exists()


def test_the_early_stop_is_the_least_validation_loss(whole: pathlib.Path) -> None:
    for result in numbers(whole):
        rows = records.read_metrics(records.cell_folder(whole, result.cell))
        losses = np.array([row["validation_loss"] for row in rows])
        assert result.best_step == [rows[i]["step"] for i in losses.argmin(0)]
        assert result.validation_loss == losses.min(0).tolist()
        for seed in range(2):
            if result.best_step[seed] == 20:
                assert result.test_accuracy[seed] == result.last_test_accuracy[seed]


def test_late_rewinding(tmp_path: pathlib.Path) -> None:
    late = dataclasses.replace(
        SMALL, rewind_steps=5, rounds=1, control_rounds=(1,), transfer_rounds=()
    )
    run = lottery_tickets.open_run(late, tmp_path / "run", False)
    lottery_tickets.run_study(late, run, None, console())
    names = [result.cell for result in numbers(run)]
    assert names[:2] == ["mnist-warm_up-0", "mnist-dense-0"]
    assert "mnist-reinit_warm_up-1" in names
    found = {result.arm: result for result in numbers(run)}
    assert found["warm_up"].steps == found["reinit_warm_up"].steps == 5
    assert found["ticket"].steps == 20


def test_layers_compete_under_global_pruning(given: Any) -> None:
    study = dataclasses.replace(SMALL, scope="global", transfer_rounds=())
    found: dict[str, Any] = {}

    def lab(program: Any, task: Task, params: Any, masks: Any, steps: int | None = None) -> Any:
        found[task.name] = masks
        return params

    study_of.run_procedures(study, {"mnist": trainer(SMALL, "mnist")}, lab)
    # 620 - 124 = 496, less 99 (floor(99.2)) = 397, for both seeds.
    for name in ("mnist-ticket-2", "mnist-one_shot-2", "mnist-random-2"):
        assert np.sum(counts(found[name]), 0).tolist() == [397, 397]
    assert counts(found["mnist-ticket-2"]) != counts(given["mnist-ticket-2"][1])


def test_the_page_of_a_finished_run(whole: pathlib.Path, tmp_path: pathlib.Path) -> None:
    page = lottery_tickets.write_page(whole, tmp_path / "results")
    folder = tmp_path / "results"
    assert (folder / "lottery_tickets.md").read_text() == page
    saved = json.loads((folder / "lottery_tickets.json").read_text())
    assert len(saved["results"]) == 16
    assert saved["run"]["config"]["rounds"] == 2
    with Image.open(folder / "lottery_tickets.png") as picture:
        assert picture.width > 1000
    assert "Unfinished" not in page
    assert "2 seeds" in page
    assert "| 66.8 %  |" in page
    assert "carried ticket" in page
    assert "nan" not in page
    # None of the densities of the claims was reached.
    assert page.count("not run") == len(lottery_claims.CLAIMS)


def test_the_page_of_an_unfinished_run(whole: pathlib.Path, tmp_path: pathlib.Path) -> None:
    about = records.read_json(whole / "run.json")
    records.write_json(tmp_path / "run" / "run.json", about)
    assert "Unfinished: 0 of 16 trainings" in lottery_tickets.write_page(tmp_path / "run", tmp_path)
    for cell in about["cells"][:2]:
        saved = records.read_json(records.cell_folder(whole, cell) / "result.json")
        records.write_json(records.cell_folder(tmp_path / "run", cell) / "result.json", saved)
    page = lottery_tickets.write_page(tmp_path / "run", tmp_path)
    assert "Unfinished: 2 of 16 trainings, tickets of 1 of 2 rounds" in page


def made_up(arm: str, number: int, accuracy: list[float], steps: list[int]) -> rounds.Result:
    kept = [235_200, 30_000, 1_000]
    for _ in range(number):
        kept = [k - k // part for k, part in zip(kept, (5, 5, 10), strict=True)]
    return rounds.Result(
        cell=f"mnist-{arm}-{number}",
        data="mnist",
        arm=arm,
        round=number,
        seeds=[0, 1, 2],
        steps=6000,
        seconds=60.0,
        best_step=steps,
        validation_loss=[0.1] * 3,
        test_accuracy=accuracy,
        last_test_accuracy=accuracy,
        train_loss=[0.1] * 3,
        nonfinite=[0] * 3,
        weights=266_200,
        kept={str(i): [k] * 3 for i, k in enumerate(kept)},
    )


def test_claims_by_hand() -> None:
    results = [
        made_up("dense", 0, [0.970, 0.972, 0.974], [4000, 5000, 4000]),
        made_up("ticket", 7, [0.975, 0.977, 0.979], [2000, 3000, 2400]),
        made_up("reinit", 7, [0.969, 0.971, 0.974], [6000, 6000, 6000]),
        made_up("ticket", 9, [0.971, 0.971, 0.975], [2000, 3000, 2400]),
    ]
    find = lottery_claims.finder(results, "mnist")
    by_text = {claim.text: claim for claim in lottery_claims.CLAIMS}
    earlier = by_text["ticket at 21.1 %: least validation loss earlier than dense"]
    # 1 - 2000/4000, 1 - 3000/5000, 1 - 2400/4000.
    assert earlier.values(find) == pytest.approx([50, 40, 40])
    mean, error, half = claims.interval([50, 40, 40])
    # Deviations 6.67, -3.33, -3.33: variance 33.3, over 3, root 3.333; t of 2 degrees 4.303.
    assert (mean, error, half) == pytest.approx((43.333, 3.3333, 14.342), rel=1e-4)
    assert claims.verdict(earlier, [50, 40, 40]) == "yes"
    assert claims.verdict(earlier, [20, 21, 20]) == "direction yes, size no"
    assert claims.verdict(earlier, [50, -40, 40]) == "not resolved"
    assert claims.verdict(earlier, [-20, -21, -20]) == "no, the reverse"
    assert claims.verdict(earlier, [50]) == "one seed: not tested"
    same = by_text["ticket at 3.6 %: accuracy less that of dense"]
    assert claims.verdict(same, [0.05, 0.0, -0.05]) == "yes, within 0.3"
    assert claims.verdict(same, [0.5, 0.51, 0.5]) == "yes, above"
    assert claims.verdict(same, [-0.5, -0.51, -0.5]) == "no, below"
    ratio = by_text["at 21.1 %: iterations of reinitialized over ticket"]
    assert ratio.values(find) == pytest.approx([3, 2, 2.5])
    gap = by_text["at 21.1 %: ticket less reinitialized"]
    assert gap.values(find) == pytest.approx([0.6, 0.6, 0.5])
    table = claims.claims_table(lottery_claims.CLAIMS, find)
    assert "43 ± 3 % earlier |" in table
    assert "+0.57 ± 0.03 points |" in table
    # Missing: three arms at 13.5, 7.0 and 3.6 %, the random mask, and what 3.6 % needs.
    assert table.count("not run") == 9
    about = {"cells": [r.cell for r in results], "config": json.loads(json.dumps(CONFIG))}
    page = lottery_page.markdown(results, {**about, "environment": ENVIRONMENT})
    assert "3 of 3 seeds were still at their least loss" in page.replace("\n", " ")


CONFIG = dataclasses.asdict(Study())
ENVIRONMENT = {
    name: "x" for name in ("hardware", "python", "jax", "flax", "optax", "commit", "date")
}


def test_the_full_study_has_the_densities_of_the_paper() -> None:
    tasks = tasks_of(Study())
    assert len(tasks) == len({task.name for task in tasks}) == 75
    arms = {task.round for task in tasks if task.arm == "reinit"}
    assert arms == {1, 2, 3, 7, 9, 12, 15, 16}
    # After one round a ticket is what is pruned at once.
    assert {task.round for task in tasks if task.arm == "one_shot"} == arms - {1}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--iterations", "150"], ["iterations is 150", "multiple of evaluate_every (100)"]),
        (["--seeds", "0"], ["seeds is 0", "at least 1"]),
        (["--rounds", "0"], ["rounds is 0", "at least 1"]),
        (["--fraction", "1"], ["fraction is 1.0", "(0, 1)"]),
        (["--output-fraction", "0"], ["output_fraction is 0.0", "(0, 1)"]),
        (["--rewind-steps", "50"], ["rewind_steps is 50", "multiple of evaluate_every (100)"]),
        (["--control-rounds", "0"], ["control_rounds holds 0", "from 1"]),
        (["--learning-rate", "0"], ["learning_rate is 0.0", "positive"]),
        (["--data", "mnits"], ["mnist"]),
        (["--other", "mnist"], ["both 'mnist'", "transfer_rounds"]),
        (["--resume"], ["no run to resume"]),
        (["--run", "nowhere"], ["nowhere holds no run.json"]),
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
    assert lottery_tickets.main(arguments) == 2
    message = capsys.readouterr().err.strip()
    assert message.startswith("error: ")
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_run_is_neither_written_over_nor_gone_on_with_by_another_study(
    tmp_path: pathlib.Path,
) -> None:
    run = lottery_tickets.open_run(SMALL, tmp_path / "run", False)
    with pytest.raises(ValueError, match="holds a run; add --resume"):
        lottery_tickets.open_run(SMALL, run, False)
    other = dataclasses.replace(SMALL, rounds=3, checkpoint_seconds=9.0)
    with pytest.raises(ValueError, match="rounds: 2 there, 3 here"):
        lottery_tickets.open_run(other, run, True)


def test_help_explains_each_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        lottery_tickets.main(["--help"])
    text = capsys.readouterr().out
    for flag in ("--iterations", "--rewind-steps", "--transfer-rounds", "--resume", "--run"):
        assert flag in text


FLAGS = [
    *("--seeds", "2", "--iterations", "20", "--widths", "20", "10", "--batch-size", "20"),
    *("--validation", "100", "--evaluate-every", "5", "--checkpoint-seconds", "0"),
    *("--rounds", "2", "--controls", "random", "--control-rounds", "2", "--transfer-rounds"),
]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_goes_on_with_resume(
    number: signal.Signals,
    whole: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    flags, line = [*FLAGS, "--results", "results"], lottery_page.line

    def interrupted(result: rounds.Result) -> str:
        signal.raise_signal(number)
        return line(result)

    with monkeypatch.context() as patch:
        patch.setattr(lottery_page, "line", interrupted)
        assert lottery_tickets.main(flags) == 128 + number
    assert "--resume" in capsys.readouterr().out
    run = tmp_path / "runs/lottery-tickets"
    assert [result.cell for result in numbers(run)] == ["mnist-dense-0"]
    # A page of what is there; another run is not begun over it.
    assert lottery_tickets.main(["--run", str(run), "--results", "results"]) == 0
    assert "Unfinished: 1 of 4" in (tmp_path / "results/lottery_tickets.md").read_text()
    assert lottery_tickets.main(flags) == 2
    assert lottery_tickets.main([*flags, "--resume"]) == 0
    assert "# Lottery tickets" in capsys.readouterr().out
    assert "Unfinished" not in (tmp_path / "results/lottery_tickets.md").read_text()
    expected = {result.cell: result for result in numbers(whole)}
    found = numbers(run)
    assert len(found) == 4
    assert found == [expected[result.cell] for result in found]
