"""Cells as jobs: shared, each done once, whoever dies or fails; the exit codes."""

import dataclasses
import functools
import io
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import jax
import pytest
from rich.console import Console

from experiments import cell, config, data, jobs, records, stopping, train
from experiments.nonfinite import NotFiniteError

ROOT = pathlib.Path(jobs.__file__).parent.parent


def test_shares_are_all_jobs_and_none_twice() -> None:
    for count in (1, 2, 3, 7):
        found = [name for index in range(count) for name in jobs.share("abcde", index, count)]
        assert sorted(found) == list("abcde")
    assert jobs.share("abc", None, None) == ["a", "b", "c"]
    for index, count in ((3, None), (-1, None), (2, 2), (0, 0)):
        with pytest.raises(ValueError, match=r"job_index is .*\[0, \d\)"):
            jobs.share("abc", index, count)
    with pytest.raises(ValueError, match="without a job_index"):
        jobs.share("abc", None, 2)


def test_a_failed_one_is_reported_and_the_rest_go_on(tmp_path: pathlib.Path) -> None:
    done: list[str] = []

    def fail() -> None:
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory\nwith details")

    def refuse() -> None:
        raise ValueError("b: sparsity is 2")

    todo: dict[str, Any] = {"a": fail, "b": refuse, "c": lambda: done.append("c")}
    with pytest.raises(stopping.FailedCellsError) as error:
        jobs.do_all(tmp_path, todo)
    assert done == ["c"]
    assert str(error.value).splitlines() == [
        "a: RuntimeError: RESOURCE_EXHAUSTED: out of memory",
        "b: sparsity is 2",
    ]
    assert stopping.exit_code(error.value) == stopping.FAILED
    told = records.cell_folder(tmp_path, "a") / "failure.txt"
    assert "in fail\n" in told.read_text()
    assert not (told.parent.parent / "b/failure.txt").exists()
    assert jobs.state_of(tmp_path, "a").startswith("failed: see ")
    todo["a"] = lambda: done.append("a")
    with pytest.raises(stopping.FailedCellsError):
        jobs.do_all(tmp_path, todo)
    assert not told.exists()


def test_as_many_at_a_time_as_devices(tmp_path: pathlib.Path) -> None:
    devices, found = jax.devices()[2:4], {}
    both = threading.Barrier(2, timeout=60)

    def job(name: str) -> None:
        both.wait()
        found[name] = jax.numpy.zeros(()).devices()
        both.wait()

    todo = {name: functools.partial(job, name) for name in "abcd"}
    jobs.do_all(tmp_path, todo, devices)
    for pair in ("ab", "cd"):
        assert set.union(*[found[name] for name in pair]) == set(devices)


@pytest.mark.parametrize("error", [stopping.Stopped(signal.SIGTERM), OSError(28, "full")])
def test_what_would_end_all_begins_no_other(error: Exception, tmp_path: pathlib.Path) -> None:
    def end() -> None:
        raise error

    def begun() -> None:
        raise AssertionError

    with pytest.raises(type(error)):
        jobs.do_all(tmp_path, {"a": end, "b": begun})


def test_exit_codes() -> None:
    of = lambda *errors: stopping.exit_code(
        stopping.FailedCellsError({str(i): error for i, error in enumerate(errors)})
    )
    assert (of(NotFiniteError("")), of(ValueError("")), of(KeyError())) == (3, 2, 1)
    assert (of(NotFiniteError(""), NotFiniteError("")), of(ValueError(""), KeyError())) == (3, 1)
    code = stopping.exit_code
    assert (code(stopping.Stopped(signal.SIGTERM)), code(stopping.Stopped())) == (143, 130)
    assert (code(KeyboardInterrupt()), code(OSError(28, "full"))) == (130, 74)
    assert code(FileNotFoundError("no such file")) == 2


def test_a_second_sigterm_waits_for_the_checkpoint_and_a_second_ctrl_c_does_not() -> None:
    with stopping.Signals() as signals:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert signals.stopping == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


WORKER = """
import pathlib, sys, time
from experiments import jobs, records
run, name = pathlib.Path(sys.argv[1]), sys.argv[2]
def job(cell):
    folder = records.cell_folder(run, cell)
    if (folder / "result.json").exists():
        return
    with (run / "log").open("a") as log:
        print(f"{name} begins {cell}", file=log)
    time.sleep(60 if name == "dies" and cell == "b" else 0.3)
    records.write_json(folder / "result.json", {})
    with (run / "log").open("a") as log:
        print(f"{name} ends {cell}", file=log)
jobs.do_all(run, {cell: lambda cell=cell: job(cell) for cell in "abcdef"})
"""


def test_two_processes_do_each_job_once_and_one_may_die(tmp_path: pathlib.Path) -> None:
    """The first hangs in a job; the other does the rest, and that one once the first is dead."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    log = tmp_path / "log"

    def start(name: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path), name], env=environment
        )

    def wait_for(line: str) -> None:
        deadline = time.monotonic() + 120
        while not log.exists() or line not in log.read_text().splitlines():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    first = start("dies")
    wait_for("dies begins b")
    second = start("lives")
    wait_for("lives begins c")
    assert jobs.state_of(tmp_path, "b") == "in work"
    first.kill()
    first.wait()
    assert second.wait(timeout=120) == 0
    lines = log.read_text().splitlines()
    ended = sorted(line.split()[-1] for line in lines if " ends " in line)
    assert ended == list("abcdef")
    assert len([line for line in lines if " begins " in line]) == 7  # b twice
    assert lines[-1] == "lives ends b"
    assert jobs.state_of(tmp_path, "b") == "finished"


SMALL = config.Config(
    model=config.Model(widths=(16,)),
    methods=("dense", "static", "rigl"),
    sparsities=(0.5, 0.9),
    seeds=1,
    epochs=1,
    batch_size=120,
)


@pytest.fixture
def trained(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[str, Any]]:
    """Cells that are finished at once, and on which device; one with "0.9" and "static" fails."""
    digits, found = data.load("digits", tmp_path_factory.mktemp("data")), []
    monkeypatch.setattr(data, "load", lambda *_: digits)

    def run_cell(what: Any, one: cell.Cell, dataset: Any, folder: Any, *rest: Any) -> Any:
        device = jax.numpy.zeros(()).devices()
        found.append((one.name, *device))
        if one.name == "static-0.9":
            raise NotFiniteError(f"{one.name}: too many")
        result = records.Result(
            cell=one.name,
            method=one.method,
            sparsity=one.sparsity,
            seeds=[0],
            steps=1,
            epochs=1,
            seconds=1.0,
            test_accuracy=[0.5],
            test_loss=[1.0],
            train_loss=[1.0],
            kept=[1],
            weights=2,
            inference_flops=[0.5],
            training_flops=[0.5],
            updates=0,
            skipped=[0],
            nonfinite=[0],
            layers=[],
        )
        records.write_result(folder, result)
        return result

    monkeypatch.setattr(train, "run_cell", run_cell)
    monkeypatch.setattr(train, "write_report", lambda run: run / "report.html")
    return found


FLAGS = [
    *("--methods", "dense", "static", "rigl", "--sparsities", "0.5", "0.9", "--seeds", "1"),
    *("--epochs", "1", "--batch-size", "120"),
]
CELLS = ["dense", "static-0.5", "rigl-0.5", "static-0.9", "rigl-0.9"]


def test_a_job_array_shares_one_run(
    trained: list[tuple[str, Any]],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    job = lambda index, *more: train.main([*FLAGS, "--job-index", str(index), *more])
    assert job(1, "--job-count", "2") == 3  # static-0.5, static-0.9
    assert "error: static-0.9: too many" in capsys.readouterr().err
    assert [name for name, _ in trained] == ["static-0.5", "static-0.9"]
    assert train.main([*FLAGS, "--list-jobs"]) == 0
    listed = [line.split(maxsplit=2)[1:] for line in capsys.readouterr().out.splitlines()]
    assert [name for name, _ in listed] == CELLS
    assert [state for _, state in listed] == [
        *("not begun", "finished", "not begun", "begun", "not begun")
    ]
    trained.clear()
    # One job for each cell; what is finished is not trained again.
    assert [job(index) for index in range(5)] == [0, 0, 0, 3, 0]
    assert [name for name, _ in trained] == ["dense", "rigl-0.5", "static-0.9", "rigl-0.9"]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["digits-mlp"]
    assert job(5) == 2
    assert "job_index is 5" in capsys.readouterr().err
    assert job(0, "--epochs", "2") == 2
    assert "epochs: 1 there, 2 here" in capsys.readouterr().err


def test_the_rest_of_a_run_goes_on_after_a_failure(
    trained: list[tuple[str, Any]],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train.main(FLAGS) == stopping.NOT_FINITE
    assert [name for name, _ in trained] == CELLS
    said = capsys.readouterr()
    assert said.err.strip() == "error: static-0.9: too many"
    assert "4 of 5 cells are finished" in said.out
    trained.clear()
    assert train.main([*FLAGS, "--resume"]) == stopping.NOT_FINITE
    assert [name for name, _ in trained] == ["static-0.9"]


def test_one_cell_on_each_device(
    trained: list[tuple[str, Any]], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[2:5])
    chosen = dataclasses.replace(SMALL, per_device=True, sparsities=(0.5, 0.8))
    run = train.open_run("digits-mlp", chosen, tmp_path)
    results = train.train(chosen, run, Console(file=io.StringIO()))
    names = [each.name for each in train.cells_of(chosen)]
    assert [result.cell for result in results] == names
    assert sorted(name for name, _ in trained) == sorted(names)
    assert {device for _, device in trained} <= set(jax.devices()[2:5])
