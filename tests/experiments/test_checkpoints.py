"""Checkpoints: whole or not there, the newest that is whole, never another training's."""

import pathlib
import re
import shutil
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

pytest.importorskip("orbax.checkpoint", reason="the experiments extra is not installed")

from experiments import records
from experiments.checkpoints import CannotSaveError, Checkpoints, differences

ABOUT = {"method": "rigl", "sparsity": 0.9, "model": {"name": "mlp", "widths": (8, 4)}}


def state_of(step: int) -> dict[str, Any]:
    """Masks, numbers and counts, each of which says of which step it is."""
    rng = np.random.default_rng(step)
    return {
        "masks": {"a": jnp.asarray(rng.random((32, 24)) < 0.3)},
        "params": {
            "a": jnp.asarray(rng.normal(size=(32, 24)), jnp.float32),
            "b": jnp.asarray(rng.normal(size=7), jnp.bfloat16),
        },
        "step": jnp.int32(step),
    }


ABSTRACT = jax.eval_shape(lambda: state_of(0))


def same(found: Any, expected: Any) -> bool:
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    return all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in pairs)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Checkpoints of steps 1 to 5, of which three are kept."""
    folder = tmp_path_factory.mktemp("written") / "checkpoints"
    with Checkpoints(folder, ABOUT) as checkpoints:
        assert checkpoints.restore(ABSTRACT) is None
        for step in range(1, 6):
            checkpoints.save(step, state_of(step))
    return folder


@pytest.fixture
def folder(written: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of them to harm."""
    shutil.copytree(written.parent, tmp_path / "cell")
    return tmp_path / "cell" / "checkpoints"


def steps_in(folder: pathlib.Path) -> list[int]:
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def restored(folder: pathlib.Path, about: Any = ABOUT, abstract: Any = ABSTRACT) -> Any:
    with Checkpoints(folder, about) as checkpoints:
        return checkpoints.restore(abstract)


def test_the_last_ones_are_kept_and_the_newest_comes_back(folder: pathlib.Path) -> None:
    assert steps_in(folder) == [3, 4, 5]
    step, state = restored(folder)
    assert step == 5
    assert same(state, state_of(5))
    assert not (folder.parent / "damaged").exists()


def test_training_may_go_on_while_it_is_written(tmp_path: pathlib.Path) -> None:
    change = jax.jit(lambda w: w + 1, donate_argnums=0)
    state = {"w": jnp.arange(2_000_000.0)}
    with Checkpoints(tmp_path / "checkpoints", {}) as checkpoints:
        checkpoints.save(1, state)
        for _ in range(20):
            state = {"w": jax.block_until_ready(change(state["w"]))}
    step, found = restored(tmp_path / "checkpoints", {}, jax.eval_shape(lambda: state))
    assert step == 1
    np.testing.assert_array_equal(found["w"], np.arange(2_000_000.0))


def largest(step: pathlib.Path) -> pathlib.Path:
    return max((p for p in step.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def truncate(step: pathlib.Path) -> None:
    path = largest(step)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(step: pathlib.Path) -> None:
    path = largest(step)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(bytes(data))


def remove(step: pathlib.Path) -> None:
    largest(step).unlink()


def add(step: pathlib.Path) -> None:
    (step / "default" / "d" / "0123456789abcdef").write_bytes(b"\x00")


def forget_what_it_is(step: pathlib.Path) -> None:
    (step / "whole.json").write_text("{}")


def never_finish(step: pathlib.Path) -> None:
    (step / "whole.json").unlink()


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (truncate, "is not as it was written"),
        (flip, "is not as it was written"),
        (remove, "is missing"),
        (add, "does not belong there"),
        (forget_what_it_is, "whole.json is not as it was written"),
        (never_finish, "it was never finished"),
    ],
)
def test_a_damaged_one_is_put_aside_for_the_one_before(
    harm: Callable[[pathlib.Path], None], reason: str, folder: pathlib.Path
) -> None:
    harm(folder / "5")
    harm(folder / "4")
    names = rf"{re.escape(str(folder))}/\d is damaged: .*{reason}; going on from {folder}/3"
    with pytest.warns(UserWarning, match=names) as warned:
        step, state = restored(folder)
    assert len(warned) == 2
    assert step == 3
    assert same(state, state_of(3))
    assert steps_in(folder) == [3]
    assert steps_in(folder.parent / "damaged") == [4, 5]
    with Checkpoints(folder, ABOUT) as checkpoints:
        checkpoints.save(4, state_of(4))
    assert restored(folder).step == 4


def test_none_whole_is_an_error_and_nothing_is_lost(folder: pathlib.Path) -> None:
    for step in steps_in(folder):
        flip(folder / str(step))
    with pytest.raises(ValueError, match=r"up to step 5 and none is whole \(step 5: .*delete") as e:
        restored(folder)
    assert "\n" not in str(e.value)
    assert steps_in(folder) == [3, 4, 5]


def test_a_first_one_that_was_never_finished_is_no_loss(folder: pathlib.Path) -> None:
    """Killed after Orbax was done and before that was written down."""
    for name in ("3", "4"):
        shutil.rmtree(folder / name)
    (folder.parent / "checkpoints.json").unlink()
    never_finish(folder / "5")
    with pytest.warns(UserWarning, match="never finished; going on from the beginning"):
        assert restored(folder) is None


def test_checkpoints_that_are_gone_are_missed(folder: pathlib.Path) -> None:
    shutil.rmtree(folder)
    with pytest.raises(ValueError, match=r"up to step 5 and none is whole \(they are gone\)"):
        restored(folder)


def test_what_a_kill_left_half_written_is_no_checkpoint(folder: pathlib.Path) -> None:
    shutil.copytree(folder / "5", folder / "6.orbax-checkpoint-tmp-1")
    assert restored(folder).step == 5
    assert steps_in(folder) == [3, 4, 5]


def test_any_flipped_byte_is_found(folder: pathlib.Path) -> None:
    """In every file: nothing that is not as it was written is ever read by Orbax."""
    for name in ("3", "4"):
        shutil.rmtree(folder / name)
    rng = np.random.default_rng(0)
    files = sorted(p for p in (folder / "5").rglob("*") if p.is_file())
    assert len(files) > 5
    for path in files:
        before = path.read_bytes()
        data = bytearray(before)
        data[rng.integers(0, len(before))] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(data))
        with pytest.raises(ValueError, match="none is whole"):
            restored(folder)
        path.write_bytes(before)
    assert restored(folder).step == 5


def test_another_training_is_refused_with_a_line_for_each_difference(folder: pathlib.Path) -> None:
    other = {"method": "set", "sparsity": 0.9, "model": {"name": "mlp", "widths": (8, 5)}, "x": 1}
    with pytest.raises(ValueError, match="is of another training") as error:
        restored(folder, other)
    assert str(error.value).splitlines() == [
        f"{folder / '5'} is of another training:",
        "method: 'rigl' there, 'set' here",
        "model.widths: [8, 4] there, [8, 5] here",
        "x: nothing there, 1 here",
    ]
    assert differences(ABOUT, ABOUT) == []


def test_restored_onto_other_meshes(tmp_path: pathlib.Path) -> None:
    """From eight devices to two, from two to one."""

    def spread(count: int) -> Any:
        mesh = jax.make_mesh((count,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        place = lambda leaf: NamedSharding(mesh, P("data") if leaf.ndim == 2 else P())
        return jax.tree.map(place, ABSTRACT)

    expected = state_of(9)
    state = jax.tree.map(jax.device_put, expected, spread(8))
    for number, count in enumerate((2, 1), 1):
        folder = tmp_path / str(count) / "checkpoints"
        with Checkpoints(folder, ABOUT) as checkpoints:
            checkpoints.save(number, state)
        target = jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            ABSTRACT,
            spread(count),
        )
        _, state = restored(folder, ABOUT, target)
        assert same(state, expected)
        for leaf, place in zip(jax.tree.leaves(state), jax.tree.leaves(spread(count)), strict=True):
            assert leaf.sharding.is_equivalent_to(place, leaf.ndim)


def test_restored_onto_another_device(tmp_path: pathlib.Path) -> None:
    """Where JAX puts new arrays, wherever they were: a sweep gives a cell any free device."""
    first, second = jax.devices()[3], jax.devices()[1]
    with Checkpoints(tmp_path / "checkpoints", ABOUT) as checkpoints:
        checkpoints.save(1, jax.device_put(state_of(1), first))
    with jax.default_device(second):
        _, state = restored(tmp_path / "checkpoints")
    assert same(state, state_of(1))
    assert all(leaf.devices() == {second} for leaf in jax.tree.leaves(state))


def test_a_disk_that_refuses_is_told_of_and_the_last_one_stays(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: pathlib.Path, value: Any) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(records, "write_json", refuse)
    said = r"step 6 .*No space.* step 5 is whole: make room"
    with pytest.raises(CannotSaveError, match=said), Checkpoints(folder, ABOUT) as checkpoints:
        checkpoints.save(6, state_of(6))
    monkeypatch.undo()
    with pytest.warns(UserWarning, match="never finished"):
        assert restored(folder).step == 5
