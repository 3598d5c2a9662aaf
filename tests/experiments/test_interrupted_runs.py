"""Runs that are killed, interrupted or out of disk end with the numbers of one that was not."""

import dataclasses
import json
import multiprocessing
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("tyro", reason="the experiments extra is not installed")

from experiments import records, train

pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")

FLAGS = [
    *("--methods", "static", "rigl", "--seeds", "2", "--epochs", "8", "--batch-size", "120"),
    *("--model.widths", "16", "--chunk-steps", "4", "--checkpoint-seconds", "0"),
    *("--pruning.interval", "5"),
]
# Seconds, on a machine with much else to do.
PATIENCE = 600


def _start(folder: pathlib.Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.train", "digits-mlp", *FLAGS, *more],
        cwd=folder,
        env={
            **os.environ,
            "JAXSPARSE_DATA_DIR": str(folder),
            "PYTHONPATH": str(pathlib.Path(train.__file__).parent.parent),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_killed_or_interrupted_it_ends_with_the_same_results(
    number: signal.Signals, code: int, tmp_path: pathlib.Path, uninterrupted: list[Any]
) -> None:
    process = _start(tmp_path)
    log = tmp_path / "runs/digits-mlp/cells/static-0.9/metrics.jsonl"
    deadline = time.monotonic() + PATIENCE
    while len(records.read_metrics(log.parent)) < 3:
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, output
    resumed = _start(tmp_path, "--resume")
    output, _ = resumed.communicate(timeout=PATIENCE)
    assert resumed.returncode == 0, output
    assert "report:" in output
    assert (tmp_path / "runs/digits-mlp/report.html").exists()
    assert _results(tmp_path / "runs/digits-mlp") == uninterrupted


def train_quietly(folder: str, arguments: list[str]) -> None:
    """In a process of its own: the command line, from that folder, with what compiled before."""
    os.chdir(folder)
    os.environ["JAXSPARSE_DATA_DIR"] = folder
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    sys.exit(train.main(["digits-mlp", *FLAGS, *arguments]))


def test_killed_at_twenty_random_moments(tmp_path: pathlib.Path, uninterrupted: list[Any]) -> None:
    """Saving included: with a checkpoint after each call, most of the time is that."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["experiments.train"])
    rng, kills, run, finished = random.Random(0), 0, tmp_path / "run0", 0
    while kills < 20 or not finished:
        more = ["--out", str(run), *(["--resume"] if (run / "run.json").exists() else [])]
        process = processes.Process(target=train_quietly, args=(str(tmp_path), more))
        process.start()
        began = len(_rows(run))
        deadline = time.monotonic() + PATIENCE
        while process.is_alive() and len(_rows(run)) <= began and time.monotonic() < deadline:
            time.sleep(0.01)
        process.join(rng.expovariate(1 / 0.4) if kills < 20 else PATIENCE)
        if process.is_alive():
            process.kill()
            kills += 1
        process.join()
        if process.exitcode == 0:
            assert _results(run) == uninterrupted
            finished += 1
            run = tmp_path / f"run{finished}"
        else:
            assert process.exitcode == -signal.SIGKILL


def _rows(run: pathlib.Path) -> list[Any]:
    return [row for cell in sorted(run.glob("cells/*")) for row in records.read_metrics(cell)]


@pytest.fixture
def small_disk(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A file system of two megabytes."""
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(tmp_path)], capture_output=True
    )
    if made.returncode:
        pytest.skip("a small file system cannot be mounted here: that takes root")
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_a_full_disk_stops_it_cleanly(small_disk: pathlib.Path, uninterrupted: list[Any]) -> None:
    process = _start(small_disk)
    run, deadline = small_disk / "runs/digits-mlp", time.monotonic() + PATIENCE
    while not (run / "cells/static-0.9/checkpoints.json").exists():
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        assert time.monotonic() < deadline
        time.sleep(0.02)
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError:
            pass
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == train.CANNOT_SAVE, output
    # Threads of Orbax print what they raise; ours do not.
    assert f'File "{pathlib.Path(train.__file__).parent}' not in output
    # (They may do so after our last line.)
    assert any(line.startswith("error: ") for line in output.splitlines())
    ballast.unlink()
    resumed = _start(small_disk, "--resume")
    output, _ = resumed.communicate(timeout=PATIENCE)
    assert resumed.returncode == 0, output
    assert _results(run) == uninterrupted


def _results(run: pathlib.Path) -> list[Any]:
    return [dataclasses.replace(result, seconds=0.0) for result in records.read_results(run)]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    process = _start(folder)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    assert json.loads((folder / "runs/digits-mlp/run.json").read_text())["environment"]["jax"]
    return _results(folder / "runs/digits-mlp")
