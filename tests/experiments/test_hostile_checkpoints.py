"""Checkpoints that are damaged at random, or made to do harm: nothing loads that was not saved."""

import gc
import io
import itertools
import json
import os
import pathlib
import pickle
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("orbax.checkpoint", reason="the experiments extra is not installed")

from experiments import checkpoints, records
from experiments.checkpoints import Checkpoints

ABOUT = {"method": "rigl", "sparsity": 0.9}


def state_of(step: int) -> dict[str, Any]:
    rng = np.random.default_rng(step)
    return {
        "mask": jnp.asarray(rng.random((16, 8)) < 0.3),
        "weight": jnp.asarray(rng.normal(size=(16, 8)), jnp.float32),
    }


# Where TensorStore refuses one array, Orbax never asks for the next: Python says so when it
# collects the question, which is to be here and not in the next file.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
ABSTRACT = jax.eval_shape(lambda: state_of(0))


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    gc.collect()


def open_folder(cell: pathlib.Path, **options: Any) -> Checkpoints:
    return Checkpoints(cell / "checkpoints", ABOUT, log=cell / "metrics.jsonl", **options)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A cell with checkpoints of steps 1 to 3 and its log."""
    cell = tmp_path_factory.mktemp("written") / "cell"
    with open_folder(cell.absolute()) as saving:
        for step in range(1, 4):
            records.append_metrics(cell, [{"step": step, "loss": [0.25 / step]}])
            saving.save(step, state_of(step))
    return cell


@pytest.fixture
def cell(written: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of it to harm."""
    return pathlib.Path(shutil.copytree(written, tmp_path / "cell"))


def outcome(cell: pathlib.Path, **options: Any) -> tuple[Any, list[str]]:
    """What is restored, ``None`` where that is refused in one line; and the warnings."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        refusal, found = "", None
        try:
            with open_folder(cell, **options) as reading:
                found = reading.restore(ABSTRACT)
        except ValueError as error:
            refusal = str(error)
    assert (found is None) == bool(refusal)  # never a silent fresh start
    assert "\n" not in refusal
    return found, [str(each.message) for each in warned if each.category is UserWarning]


def is_as_saved(found: Any) -> bool:
    expected = state_of(found.step)
    return all(np.array_equal(found.state[name], expected[name]) for name in expected)


EDITS = st.tuples(
    st.floats(0, 1, exclude_max=True),  # which file
    st.sampled_from(["flip", "cut", "insert", "remove", "swap", "empty", "folder"]),
    st.floats(0, 1, exclude_max=True),  # where
    st.binary(min_size=1, max_size=30),
)


def harm(cell: pathlib.Path, which: float, how: str, where: float, data: bytes) -> None:
    files = sorted(path for path in cell.rglob("*") if path.is_file())
    if not files:
        return
    path = files[int(which * len(files))]
    content = path.read_bytes()
    at = int(where * len(content))
    if how == "remove":
        path.unlink()
    elif how == "folder":
        path.unlink()
        path.mkdir()
    elif how == "swap":
        other = files[int(where * len(files))]
        path.write_bytes(other.read_bytes())
    elif how == "empty":
        shutil.rmtree(path.parent) if path.parent != cell else path.write_bytes(b"")
    elif how == "flip" and content:
        flipped = content[at] ^ 1 << data[0] % 8
        path.write_bytes(content[:at] + bytes([flipped]) + content[at + 1 :])
    else:
        path.write_bytes(content[:at] + (data + content[at:] if how == "insert" else b""))


@hypothesis.settings(max_examples=30)
@hypothesis.given(edits=st.lists(EDITS, min_size=1, max_size=4))
def test_random_damage(written: pathlib.Path, edits: list[Any]) -> None:
    """What is loaded is what was saved; and if it is not the newest, a warning says so."""
    with tempfile.TemporaryDirectory() as folder:
        cell = pathlib.Path(shutil.copytree(written, pathlib.Path(folder) / "cell"))
        for edit in edits:
            harm(cell, *edit)
        found, warned = outcome(cell)
        if found is None:
            return
        assert is_as_saved(found)
        assert found.step == 3 or warned
        log = (written / "metrics.jsonl").read_bytes().splitlines()[: found.step]
        assert (cell / "metrics.jsonl").read_bytes().splitlines()[: found.step] == log


def test_a_checkpoint_that_is_gone_is_missed(cell: pathlib.Path) -> None:
    shutil.rmtree(cell / "checkpoints/3")
    found, warned = outcome(cell)
    assert found.step == 2
    (said,) = warned
    assert said == f"checkpoint {cell}/checkpoints/3 is gone; going on from {cell}/checkpoints/2"
    assert outcome(cell)[1] == []  # once


def test_killed_before_it_was_written_down_that_it_is_the_newest(cell: pathlib.Path) -> None:
    """Nothing is gone then."""
    for said in ({"newest": 2}, None):
        records.write_json(cell / "checkpoints.json", said)
        if said is None:
            (cell / "checkpoints.json").unlink()
        found, warned = outcome(cell)
        assert (found.step, warned) == (3, [])
        assert records.read_json(cell / "checkpoints.json") == {"newest": 3}


def test_a_log_that_was_changed_is_no_longer_that_of_the_checkpoint(cell: pathlib.Path) -> None:
    """Sums over steps go on from its last line."""
    lines = (cell / "metrics.jsonl").read_text().splitlines()
    (cell / "metrics.jsonl").write_text("\n".join([*lines[:2], lines[2].replace("0.08", "0.09")]))
    found, warned = outcome(cell)
    assert found.step == 2
    assert "metrics.jsonl is not as it was written" in warned[0]
    # What comes after the checkpoint does not matter.
    records.append_metrics(cell, [{"step": 9}])
    assert outcome(cell)[0].step == 2


def test_read_only_leaves_everything_as_it_is(cell: pathlib.Path) -> None:
    (cell / "checkpoints/3/whole.json").write_text("{}")
    (cell / "checkpoints/4.orbax-checkpoint-tmp-1").mkdir()
    before = contents(cell)
    found, warned = outcome(cell, read_only=True)
    assert found.step == 2
    assert len(warned) == 1
    assert contents(cell) == before


def contents(folder: pathlib.Path) -> dict[str, Any]:
    return {
        str(path): path.read_bytes() if path.is_file() else path.is_symlink()
        for path in folder.rglob("*")
        if path.name != "lock"
    }


def test_links_do_not_lead_outside(cell: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """The folder, a checkpoint, what is put aside, or a file: nothing there is read or changed."""
    outside = tmp_path / "outside"
    shutil.copytree(cell / "checkpoints", outside)
    before = contents(outside)
    folder, aside = cell / "checkpoints", cell / "damaged"

    def refused(path: pathlib.Path) -> None:
        with pytest.raises(ValueError, match=f"{path} is a link"):
            open_folder(cell)
        path.unlink()

    aside.symlink_to(outside)
    refused(aside)
    aside.mkdir()
    (aside / "3").symlink_to(outside / "3")
    refused(aside / "3")
    shutil.rmtree(folder / "3")
    (folder / "3").symlink_to(outside / "3")
    refused(folder / "3")
    link = next(path for path in (folder / "2").rglob("*") if path.is_file())
    link.unlink()
    link.symlink_to(outside / "1" / "whole.json")
    found, warned = outcome(cell)
    assert found.step == 1
    assert "is no plain file" in warned[0]
    shutil.rmtree(folder)
    folder.symlink_to(outside)
    refused(folder)
    assert contents(outside) == before


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(cell: pathlib.Path) -> None:
    path = cell / "checkpoints/3/default/_METADATA"
    path.unlink()
    os.mkfifo(path)
    found, warned = outcome(cell)
    assert found.step == 2
    assert "_METADATA is no plain file" in warned[0]


def sign(place: pathlib.Path, more: dict[str, str] | None = None) -> None:
    """As one who knows the format would, digests and all."""
    said = json.loads((place / "whole.json").read_bytes())
    del said["digest"]
    files = [path for path in place.rglob("*") if path.is_file() and path.name != "whole.json"]
    said["files"] = {str(p.relative_to(place)): checkpoints._digest(p) for p in files}
    said["files"] |= more or {}
    records.write_json(place / "whole.json", {**said, "digest": checkpoints._digest_of(said)})


def test_names_that_lead_upwards_are_no_files_of_it(cell: pathlib.Path) -> None:
    digest = checkpoints._digest(cell / "metrics.jsonl")
    for name in ("../../metrics.jsonl", str(cell / "metrics.jsonl"), "..", ""):
        sign(cell / "checkpoints/3", {name: digest})
        found, warned = outcome(cell, read_only=True)
        assert found.step == 2
        assert "is missing" in warned[0]


class Harmful:
    """Unpickled, it makes a file."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return pathlib.Path.touch, (self.path,)


def test_nothing_is_unpickled(cell: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """In the place of each file of a checkpoint, with digests that are right; and in an archive."""
    made = tmp_path / "made"
    harmful = pickle.dumps(Harmful(made))
    array, archive = io.BytesIO(), io.BytesIO()
    np.save(array, np.array([Harmful(made)], object), allow_pickle=True)
    place = cell / "checkpoints/3"
    files = [path for path in place.rglob("*") if path.is_file() and path.name != "whole.json"]
    for path, data in zip(files, itertools.cycle((harmful, array.getvalue())), strict=False):
        whole = path.read_bytes()
        path.write_bytes(data)
        sign(place)
        outcome(cell, read_only=True)
        assert not made.exists()
        path.write_bytes(whole)
    gc.collect()
    sign(place)
    assert outcome(cell)[0].step == 3
    np.savez(archive, np.array([Harmful(made)], object), allow_pickle=True)
    (tmp_path / "trained.npz").write_bytes(archive.getvalue())
    with pytest.raises(ValueError, match="is not as it was written"):
        records.read_leaves(tmp_path / "trained.npz", [np.zeros(1)])
    assert not made.exists()
    pickle.loads(harmful)
    assert made.exists()  # had it been


@hypothesis.settings(max_examples=8)
@hypothesis.given(which=st.floats(0, 1, exclude_max=True), at=st.floats(0, 1, exclude_max=True))
def test_a_forger_gets_an_error_at_most(written: pathlib.Path, which: float, at: float) -> None:
    """Bytes that are changed and signed anew are read by Orbax, which may refuse them."""
    with tempfile.TemporaryDirectory() as folder:
        cell = pathlib.Path(shutil.copytree(written, pathlib.Path(folder) / "cell"))
        place = cell / "checkpoints/3"
        harm(place / "default", which, "flip", at, b"\1")
        sign(place)
        outcome(cell)
        gc.collect()


def test_weights_between_rounds_are_read_whole_or_not_at_all(tmp_path: pathlib.Path) -> None:
    """Any flipped bit of the archive, and another network's."""
    like = {"a": np.zeros((3, 2), np.float32), "b": np.zeros(2, np.float32)}
    tree = jax.tree.map(lambda leaf: leaf + 1.5, like)
    path = tmp_path / "trained.npz"
    records.write_leaves(path, tree)
    data = path.read_bytes()
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        try:
            found = records.read_leaves(path, like)
        except ValueError as error:
            refusal, found = str(error), tree
        else:
            refusal = str(path)
        assert str(path) in refusal
        jax.tree.map(np.testing.assert_array_equal, found, tree)
    path.write_bytes(data)
    with pytest.raises(ValueError, match="holds other arrays"):
        records.read_leaves(path, {**like, "b": np.zeros(3, np.float32)})


def test_a_file_of_numbers_that_was_changed_is_one_line(tmp_path: pathlib.Path) -> None:
    for text in ('{"newest": ', "[" * 100_000, '"\udc80"', "{}", "[]", '{"layers": [{}]}'):
        (tmp_path / "result.json").write_bytes(text.encode(errors="surrogateescape"))
        with pytest.raises(ValueError, match=r"result\.json is not as it was written"):
            records.read_result(tmp_path)
