"""Two processes on one machine: the numbers of one, one killed, both resumed."""

import dataclasses
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
from typing import Any

import jax
import pytest

pytest.importorskip("tyro", reason="the experiments extra is not installed")

from experiments import cell, data, records, train
from experiments.mesh import Layout, mesh_of

pytestmark = pytest.mark.usefixtures("quick_compilation")

PATIENCE = 1200  # seconds; a busy machine compiles for minutes
CALLS, STEPS = 6, 5  # a checkpoint after each call
FLAGS = [
    *("--methods", "rigl", "--seeds", "1", "--epochs", str(CALLS), "--batch-size", "240"),
    *("--model.widths", "16", "--chunk-steps", str(STEPS), "--checkpoint-seconds", "0"),
    *("--pruning.interval", "3", "--evaluate-every", str(CALLS), "--mesh", "data=2"),
]
# The command line, which says what each process holds, and may kill itself as it is to save.
PROGRAM = """
import hashlib, os, pathlib, signal, sys
import jax
from experiments import checkpoints, train

save, said, last = checkpoints.Checkpoints.save, pathlib.Path(sys.argv[1]), int(sys.argv[2])

def save_or_die(self, step, state):
    if step == last:
        os.kill(os.getpid(), signal.SIGKILL)
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(state):
        digest.update(leaf.addressable_data(0))
    with said.open("a") as file:
        print(step, digest.hexdigest(), file=file)
    save(self, step, state)

checkpoints.Checkpoints.save = save_or_die
sys.exit(train.main(["digits-mlp", *sys.argv[3:]]))
"""


def start(folder: pathlib.Path, said: str, flags: list[str], last: int = -1, more: Any = ()) -> Any:
    environment = {
        **os.environ,
        "JAXSPARSE_DATA_DIR": str(folder),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_NUM_CPU_DEVICES": "1",
        "PYTHONPATH": str(pathlib.Path(train.__file__).parent.parent),
        **dict(more),
    }
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder / said), str(last), *FLAGS, *flags],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(pair: list[Any]) -> list[str]:
    """What they said, once both have ended; none is left behind."""
    try:
        return [process.communicate(timeout=PATIENCE)[0] for process in pair]
    finally:
        for process in pair:
            process.kill()


def free_port() -> int:
    """One of those that JAX takes under SLURM."""
    for port in range(61440, 65536):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise AssertionError("no port is free")


def results(run: pathlib.Path) -> list[Any]:
    return [dataclasses.replace(result, seconds=0.0) for result in records.read_results(run)]


def test_two_processes_one_of_them_killed_end_with_the_numbers_of_one(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a checkpoint of one process on two; one is killed, the other ends; then to the end."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    monkeypatch.setenv("JAXSPARSE_DATA_DIR", str(tmp_path))
    data.load("digits")
    two = Layout(mesh_of({"data": 2}, jax.devices()[:2]))
    monkeypatch.setattr(cell, "layout_of", lambda devices: two)
    assert train.main(["digits-mlp", *FLAGS, "--out", str(whole)]) == 0
    expected = results(whole)
    assert expected[0].updates > 5

    # The run as it was after the fourth call.
    shutil.copytree(whole, run)
    folder, kept = run / "cells/rigl-0.9", STEPS * (CALLS - 2)
    (folder / "result.json").unlink()
    for later in range(kept + STEPS, STEPS * CALLS + 1, STEPS):
        shutil.rmtree(folder / "checkpoints" / str(later))
    records.write_json(folder / "checkpoints.json", {"newest": kept})

    flags = ["--out", str(run), "--resume"]
    where = ["--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", "2", "--process-id"]
    pair = [
        start(tmp_path, "first-0", [*flags, *where, "0"]),
        start(tmp_path, "first-1", [*flags, *where, "1"], last=kept + STEPS),
    ]
    outputs = finish(pair)
    assert pair[1].returncode == -signal.SIGKILL, outputs
    # It may be JAX that ends it first.
    assert pair[0].returncode in (train.PROCESS_LOST, -signal.SIGABRT), outputs
    if pair[0].returncode == train.PROCESS_LOST:
        assert "error: another process is gone" in outputs[0]
    assert not (folder / "result.json").exists()

    # Again, now by what SLURM tells its tasks.
    slurm = {
        "SLURM_JOB_ID": str(free_port() - 61440),
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "SLURM_NTASKS": "2",
    }
    pair = [
        start(
            tmp_path,
            f"second-{i}",
            [*flags, "--distributed"],
            more={**slurm, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)},
        )
        for i in range(2)
    ]
    outputs = finish(pair)
    assert [process.returncode for process in pair] == [0, 0], outputs
    assert results(run) == expected
    # Each number once, and the report by process 0 alone.
    strip = lambda rows: [{**row, "seconds": 0.0} for row in rows]
    rows = [strip(records.read_metrics(each / "cells/rigl-0.9")) for each in (whole, run)]
    assert rows[0] == rows[1]
    assert "report:" in outputs[0]
    assert "report:" not in outputs[1]
    # Weights, masks and all else are the same in both, at each checkpoint.
    held = [(tmp_path / f"second-{i}").read_text().splitlines() for i in range(2)]
    assert held[0] == held[1]
    assert len(held[0]) == 2
