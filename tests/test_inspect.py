"""The table of a file or a checkpoint, and one line for everything else."""

import json
import pathlib
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx

import jaxsparse
from jaxsparse.export import save_safetensors
from jaxsparse.inspect import main, report

pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")

PARAMS = {
    "first": {"bias": jnp.zeros(4), "kernel": jnp.ones((8, 4), jnp.bfloat16)},
    "second": {"kernel": jnp.ones((4, 2))},
}
WHERE = jaxsparse.rigl(0.75, distribution=jaxsparse.uniform)
# 75 % of 32 and of 8 weights; bfloat16 has 2 bytes.
TABLE = """\
leaf           shape     dtype  kept  weights  sparsity  bytes
first/bias         4   float32     4        4     dense     16
first/kernel     8x4  bfloat16     8       32    0.7500     64
second/kernel    4x2   float32     2        8    0.7500     32
sparse leaves                     10       40    0.7500     96
all leaves                        14       44    0.6818    112"""


def sparse(inner: Any = None) -> Any:
    return jaxsparse.sparsify(inner or optax.adam(1e-3), WHERE)


def save(folder: pathlib.Path, tree: Any) -> pathlib.Path:
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder, tree)
    return folder


def refused(capsys: pytest.CaptureFixture[str], path: pathlib.Path) -> str:
    assert main([str(path)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    return err


class TestFiles:
    """What save_safetensors writes."""

    @pytest.mark.parametrize("packed", [False, True])
    def test_table(self, tmp_path: pathlib.Path, packed: bool) -> None:
        masks = sparse().init(PARAMS).masks
        said = {"step": "7", "two": "lines\n\x1b[2J"}
        save_safetensors(tmp_path / "x", PARAMS, masks, packed=packed, metadata=said)
        found = report(tmp_path / "x").splitlines()
        assert found[-2:] == ["step: 7", "two: lines ?[2J"]
        assert [line.split()[:-1] for line in found[:-2]] == [
            line.split()[:-1] for line in TABLE.splitlines()
        ]
        # 32 bits are 4 bytes, 8 are one; packed: 8 values of 2 bytes, 2 of 4.
        sizes = [int(line.split()[-1]) for line in found[1:-2]]
        assert sizes == ([16, 20, 9, 29, 45] if packed else [16, 68, 33, 101, 117])

    def test_a_scalar_and_an_empty_array(self, tmp_path: pathlib.Path) -> None:
        params = {"a": np.float32(1), "b": np.zeros((0, 3), np.int8)}
        save_safetensors(tmp_path / "x", params, {"b": np.zeros((0, 3), bool)})
        assert [line.split() for line in report(tmp_path / "x").splitlines()[1:]] == [
            ["a", "scalar", "float32", "1", "1", "dense", "4"],
            ["b", "0x3", "int8", "0", "0", "-", "0"],
            ["sparse", "leaves", "0", "0", "-", "0"],
            ["all", "leaves", "1", "1", "0.0000", "4"],
        ]

    def test_what_is_wrong(
        self, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "x"
        assert "No such file or directory" in refused(capsys, path)
        path.write_bytes(b"")
        assert "not a whole safetensors file" in refused(capsys, path)
        path.write_bytes(b"\x80\x04pickled" * 100)
        assert "not a whole safetensors file" in refused(capsys, path)


class TestCheckpoints:
    """What Orbax writes, with masks at any depth of the optimizer's state."""

    def test_the_latest_step(self, tmp_path: pathlib.Path) -> None:
        tx = optax.MultiSteps(optax.chain(optax.clip(1.0), sparse()), 2)
        state = {"params": PARAMS, "opt_state": tx.init(PARAMS), "step": jnp.array(2)}
        with ocp.CheckpointManager(tmp_path) as manager:
            old = {**state, "opt_state": optax.adam(1e-3).init(PARAMS)}
            manager.save(9, args=ocp.args.StandardSave(old))
            manager.save(10, args=ocp.args.StandardSave(state))
            manager.wait_until_finished()
        where = "parameters: params; masks: opt_state/inner_opt_state/1/masks\n"
        for folder in ("", "10", "10/default"):
            assert report(tmp_path / folder) == where + TABLE

    def test_experiments(self, tmp_path: pathlib.Path) -> None:
        """With a seed axis, one level down, and what else there is."""
        params = jax.tree.map(lambda x: jnp.stack([x] * 3), PARAMS)
        axes = jaxsparse.vmap_axes(jax.eval_shape(sparse().init, PARAMS))
        states = jax.vmap(sparse().init, out_axes=axes)(params)
        learner = {"seed": jnp.arange(3), "params": params, "opt_state": states}
        found = report(save(tmp_path / "c", {"learner": learner, "best": {"params": params}}))
        first, *table = found.splitlines()
        assert first == "parameters: learner/params; masks: learner/opt_state/masks"
        assert table[2].split() == [
            "first/kernel",
            "3x8x4",
            "bfloat16",
            "24",
            "96",
            "0.7500",
            "192",
        ]

    def test_nnx(self, tmp_path: pathlib.Path) -> None:
        model = nnx.Linear(8, 4, rngs=nnx.Rngs(0))
        optimizer = nnx.Optimizer(model, sparse(), wrt=nnx.Param)
        tree = {"model": nnx.state(model), "optimizer": nnx.state(optimizer)}
        first, _, bias, kernel, *_ = report(save(tmp_path / "c", tree)).splitlines()
        assert first == "parameters: model; masks: optimizer/opt_state/masks"
        assert bias.split() == ["bias", "4", "float32", "4", "4", "dense", "16"]
        assert kernel.split() == ["kernel", "8x4", "float32", "8", "32", "0.7500", "128"]

    def test_masks_of_several_states_are_one_table(self, tmp_path: pathlib.Path) -> None:
        labels = {"first": {"bias": "a", "kernel": "a"}, "second": {"kernel": "b"}}
        tx = optax.partition({"a": sparse(), "b": sparse(optax.sgd(0.1))}, labels)
        with ocp.CheckpointManager(tmp_path) as manager:
            items = {"params": PARAMS, "optimizer": tx.init(PARAMS)}
            saved = {name: ocp.args.StandardSave(item) for name, item in items.items()}
            manager.save(3, args=ocp.args.Composite(**saved))
            manager.wait_until_finished()
        first, table = report(tmp_path).split("\n", 1)
        assert first.startswith("parameters: params; masks: optimizer/inner_states/a/")
        assert table == TABLE

    def test_two_networks_are_two_tables(self, tmp_path: pathlib.Path) -> None:
        one = {"params": PARAMS, "opt_state": sparse().init(PARAMS)}
        small = {"w": jnp.ones((4, 4))}
        two = {"params": small, "opt_state": sparse().init(small)}
        first, second = report(save(tmp_path / "c", {"one": one, "two": two})).split("\n\n")
        assert first == "parameters: one/params; masks: one/opt_state/masks\n" + TABLE
        row = second.splitlines()[2].split()
        assert row == ["w", "4x4", "float32", "4", "16", "0.7500", "64"]

    def test_masks_alone(self, tmp_path: pathlib.Path) -> None:
        found = report(save(tmp_path / "c", jaxsparse.sparsify(optax.sgd(0.1), WHERE).init(PARAMS)))
        assert found.startswith("parameters: none saved; masks: masks\n")
        assert "first/kernel     8x4      -     8       32    0.7500      -" in found

    def test_what_is_wrong(
        self, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert "holds no checkpoint of Orbax" in refused(capsys, tmp_path)
        whole = save(tmp_path / "c", {"params": PARAMS})
        assert "holds no masks; save the optimizer's state" in refused(capsys, whole)
        whole = save(tmp_path / "d", sparse().init(PARAMS))
        text = (whole / "_METADATA").read_text()
        for damaged in ("", "{}", "[]", text[:-100], json.dumps({"tree_metadata": {"x": 1}})):
            (whole / "_METADATA").write_text(damaged)
            assert str(whole) in refused(capsys, whole)
        (whole / "_METADATA").write_text(text)
        for part in (whole / "d").iterdir():
            part.write_bytes(part.read_bytes()[:-5])
        for part in (whole / "ocdbt.process_0" / "d").glob("*"):
            part.write_bytes(b"")
        assert "cannot be read as a checkpoint of Orbax" in refused(capsys, whole)


def test_the_command(tmp_path: pathlib.Path) -> None:
    """A process of its own: nothing but the table on its output."""
    save_safetensors(tmp_path / "x", {"w": np.ones(2, np.float32)})
    run = lambda *words: subprocess.run(
        [sys.executable, "-m", "jaxsparse.inspect", *map(str, words)],
        capture_output=True,
        text=True,
    )
    done = run(tmp_path / "x")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == report(tmp_path / "x") + "\n"
    done = run(tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("error: ")


def test_help_and_no_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, status in (["--help"], 0), ([], 2):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == status
    out, err = capsys.readouterr()
    assert "python -m jaxsparse.inspect [-h] FILE" in out
    assert "arguments are required: FILE" in err
