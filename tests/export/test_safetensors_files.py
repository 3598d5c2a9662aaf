"""Files: their bytes by hand, every dtype and shape there and back, and nothing half written."""

import json
import os
import pathlib
import re
import struct
import subprocess
import sys
from typing import Any

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
import safetensors.numpy

from jaxsparse import apply_masks
from jaxsparse.export import load_safetensors, pack_mask, save_safetensors, unpack_mask

MARK = optax.MaskedNode()
KERNEL = np.array([[1.0, 2.0, 3.0], [-0.0, 5.0, 6.0]], np.float32)
KEPT = np.array([[True, False, False], [True, False, True]])
PARAMS = {"Dense_0": {"bias": np.array([7, 8], np.int8), "kernel": KERNEL}}
MASKS = {"Dense_0": {"bias": MARK, "kernel": KEPT}}


def bits(tree: Any) -> list[tuple[str, tuple[int, ...], bytes]]:
    """All that an array is: NaN with their payload, and the sign of zero."""
    return [(x.dtype.name, x.shape, np.asarray(x).tobytes()) for x in jax.tree.leaves(tree)]


def assert_same(first: Any, second: Any) -> None:
    assert jax.tree.structure(first) == jax.tree.structure(second)
    assert bits(first) == bits(second)


def header(path: pathlib.Path) -> tuple[dict[str, Any], bytes]:
    """As the format's specification says: 8 bytes of length, JSON, data."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "model.safetensors"


class TestBytes:
    """The format, worked by hand: 100101 and two zeros is 0x94."""

    def test_kept_values_and_packed_mask(self, path: pathlib.Path) -> None:
        save_safetensors(path, PARAMS, MASKS, packed=True, metadata={"step": "7"})
        found, data = header(path)
        said = found.pop("__metadata__")
        part = lambda name: data[slice(*found[name].pop("data_offsets"))]
        assert part("Dense_0/kernel.values") == struct.pack("<3f", 1.0, -0.0, 6.0)
        assert part("Dense_0/kernel.mask") == b"\x94"
        assert part("Dense_0/bias") == b"\x07\x08"
        assert found == {
            "Dense_0/kernel.values": {"dtype": "F32", "shape": [3]},
            "Dense_0/kernel.mask": {"dtype": "U8", "shape": [1]},
            "Dense_0/bias": {"dtype": "I8", "shape": [2]},
        }
        assert len(data) == 12 + 1 + 2
        assert said["step"] == "7"
        kernel = {"shape": [2, 3], "dtype": "float32", "kept": 3, "form": "packed"}
        bias = {"shape": [2], "dtype": "int8", "kept": None, "form": "dense"}
        assert json.loads(said["jaxsparse"]) == {
            "version": 1,
            "tensors": {"Dense_0/bias": bias, "Dense_0/kernel": kernel},
        }
        assert re.fullmatch("[0-9a-f]{64}", said["jaxsparse.sha256"])

    def test_other_readers_see_a_dense_model(self, path: pathlib.Path) -> None:
        save_safetensors(path, PARAMS, MASKS)
        found = safetensors.numpy.load_file(path)
        assert found.keys() == {"Dense_0/bias", "Dense_0/kernel", "Dense_0/kernel.mask"}
        assert_same(found["Dense_0/kernel"], np.array([[1, 0, 0], [-0.0, 0, 6]], np.float32))
        assert_same(found["Dense_0/bias"], PARAMS["Dense_0"]["bias"])
        assert found["Dense_0/kernel.mask"].tolist() == [0x94]

    def test_without_masks_there_is_nothing_else(self, path: pathlib.Path) -> None:
        save_safetensors(path, PARAMS)
        found = safetensors.numpy.load_file(path)
        assert_same(found, {f"Dense_0/{k}": v for k, v in PARAMS["Dense_0"].items()})

    def test_bfloat16_is_that_of_the_format(self, path: pathlib.Path) -> None:
        save_safetensors(path, {"w": jnp.array([1.0, -2.0], jnp.bfloat16)})
        found, data = header(path)
        assert found["w"]["dtype"] == "BF16"
        assert data == b"\x80\x3f\x00\xc0"

    def test_the_first_weight_is_the_highest_bit(self) -> None:
        mask = np.arange(9) % 8 == 0
        assert pack_mask(mask).tolist() == [0x80, 0x80]
        np.testing.assert_array_equal(unpack_mask(np.array([0x80, 0x80], np.uint8), (9,)), mask)
        np.testing.assert_array_equal(np.asarray(jnp.packbits(mask)), pack_mask(mask))


DTYPES = [
    np.dtype(name)
    for name in ("float32", "float16", "float64", "int32", "uint8", "bool", ml_dtypes.bfloat16)
]
SHAPES = [(), (1,), (8,), (3, 5), (0, 4), (2, 3, 4), (2, 1, 3, 2)]


@st.composite
def trees(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arrays of any bits, with masks that keep some, all or none, or without."""
    params, masks = {}, {}
    for index in range(draw(st.integers(0, 4))):
        dtype, shape = draw(st.sampled_from(DTYPES)), draw(st.sampled_from(SHAPES))
        size = int(np.prod(shape))
        if dtype.kind == "b":
            array = draw(hnp.arrays(bool, shape))
        else:
            raw = draw(st.binary(min_size=size * dtype.itemsize, max_size=size * dtype.itemsize))
            array = np.frombuffer(raw, dtype).reshape(shape)
        kinds = st.one_of(
            st.just(MARK),
            st.just(np.ones(shape, bool)),
            st.just(np.zeros(shape, bool)),
            hnp.arrays(bool, shape),
        )
        params[f"layer_{index}"] = {"w": array}
        masks[f"layer_{index}"] = {"w": draw(kinds)}
    return params, masks


def zeroed(params: Any, masks: Any) -> Any:
    """By bits: `where` of JAX would change the NaN that it selects."""

    def one(mask: Any, array: np.ndarray) -> np.ndarray:
        if isinstance(mask, optax.MaskedNode):
            return array
        array = array.copy()
        array[np.logical_not(mask)] = 0
        return array

    return jax.tree.map(one, masks, params, is_leaf=lambda m: isinstance(m, optax.MaskedNode))


@hypothesis.settings(max_examples=200)
@hypothesis.given(tree=trees(), packed=st.booleans())
def test_there_and_back(tmp_path_factory: Any, tree: Any, packed: bool) -> None:
    params, masks = tree
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    save_safetensors(path, params, masks, packed=packed)
    for like in (None, params):
        found = load_safetensors(path, like=like)
        assert_same(found[0], zeroed(params, masks))
        assert_same(found[1], masks)


@pytest.mark.parametrize("packed", [False, True])
class TestLike:
    """What comes back is as the given tree is."""

    def test_types_and_shardings(self, path: pathlib.Path, packed: bool) -> None:
        mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
        sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
        weight = jax.device_put(jnp.arange(16.0).reshape(8, 2), sharding)
        mask = jax.device_put(weight > 3, sharding)
        params = [weight, np.arange(3), weight.astype(jnp.bfloat16)]
        save_safetensors(path, params, [mask, MARK, mask], packed=packed)
        abstract = jax.ShapeDtypeStruct((8, 2), jnp.bfloat16, sharding=sharding)
        found, masks = load_safetensors(path, like=[weight, np.zeros(3, int), abstract])
        assert [type(leaf) for leaf in found] == [type(weight), np.ndarray, type(weight)]
        assert all(found[i].sharding == masks[i].sharding == sharding for i in (0, 2))
        assert_same(found, apply_masks(params, [mask, MARK, mask]))
        assert_same(masks, [mask, MARK, mask])

    def test_functions_stay(self, path: pathlib.Path, packed: bool) -> None:
        model = {"activation": jax.nn.relu, "rate": 0.5, "w": jnp.array([1.0, 2.0])}
        masks = {"w": jnp.array([False, True])}
        save_safetensors(path, model, masks, packed=packed)
        found, kept = load_safetensors(path, like={**model, "w": jnp.zeros(2)})
        assert found["activation"] is jax.nn.relu
        assert found["rate"] == 0.5
        assert found["w"].tolist() == [0.0, 2.0]
        assert (kept["activation"], kept["rate"]) == (MARK, MARK)
        np.testing.assert_array_equal(kept["w"], masks["w"])

    def test_one_mark_for_a_subtree(self, path: pathlib.Path, packed: bool) -> None:
        variables = {"params": PARAMS, "batch_stats": {"mean": np.ones(2)}}
        save_safetensors(path, variables, {"params": MASKS, "batch_stats": MARK}, packed=packed)
        _, masks = load_safetensors(path)
        assert_same(masks, {"params": MASKS, "batch_stats": {"mean": MARK}})

    def test_columns_first_and_big_endian(self, path: pathlib.Path, packed: bool) -> None:
        array = np.arange(6, dtype=">f4").reshape(2, 3)
        save_safetensors(path, {"b": array, "t": array.T, "s": array[:, ::2]}, packed=packed)
        found, _ = load_safetensors(path)
        np.testing.assert_array_equal(found["b"], array)
        np.testing.assert_array_equal(found["t"], array.T)
        np.testing.assert_array_equal(found["s"], array[:, ::2])


class Elsewhere:
    """An array with a part on another process, as far as the library looks."""

    shape, dtype = (2,), np.dtype("float32")
    is_fully_addressable = is_fully_replicated = False


ONE = {"w": np.ones(2, np.float32)}
SAVE = {
    "mask of another shape": (ONE, {"w": np.ones(3, bool)}, ["w has shape (2,)", "bool (3,)"]),
    "mask of numbers": (ONE, {"w": np.ones(2, int)}, ["int64 (2,)", "pass a bool mask"]),
    "mask that is a number": (ONE, {"w": True}, ["its mask is True", "MaskedNode"]),
    "mask of nothing": (ONE, {"w2": np.ones(2, bool)}, ["'w2'", "did you mean w"]),
    "abstract": ({"w": jax.ShapeDtypeStruct((2,), "float32")}, None, ["w is a ShapeDtypeStruct"]),
    "elsewhere": ({"w": Elsewhere()}, None, ["w lies partly on devices of other", "allgather"]),
    "a key": ({"k": jax.eval_shape(lambda: jax.random.key(0))}, None, ["key<fry>", "key_data"]),
    "complex": ({"w": np.ones(2, complex)}, None, ["w has dtype complex128", "bfloat16"]),
    "same path": ({"a": ONE, "a/w": np.ones(1)}, None, ["two leaves have the path 'a/w'"]),
    "leaf in a leaf": ({"a": np.ones(1), "a/b": np.ones(1)}, None, ["'a' is a leaf", "'a/b'"]),
    "name taken": (
        {"w": ONE["w"], "w.mask": ONE["w"]},
        {"w": np.ones(2, bool)},
        ["two arrays", "'w.mask'"],
    ),
    "no name": (np.ones(2), None, ["'' cannot be the path", "dict"]),
    "dots": ({"a/../b": np.ones(2)}, None, ["'a/../b' cannot be the path"]),
    "control characters": ({"a\x1b[2J": np.ones(2)}, None, ["'a\\x1b[2J' cannot be"]),
    "too deep": ({"/".join("a" * 65): np.ones(2)}, None, ["at most 64 names"]),
}


@pytest.mark.parametrize("name", SAVE)
def test_what_cannot_be_saved_is_refused(path: pathlib.Path, name: str) -> None:
    params, masks, parts = SAVE[name]
    with pytest.raises(ValueError, match=r".") as caught:
        save_safetensors(path, params, masks)
    message = str(caught.value)
    assert all(part in message for part in parts), message
    assert message.isprintable()
    assert not list(path.parent.iterdir())


def test_traced_arrays_are_refused(path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match=r"w is traced and has no numbers; export outside of jit"):
        jax.jit(lambda w: save_safetensors(path, {"w": w}))(jnp.ones(2))


@pytest.mark.parametrize("metadata", [{"a": 1}, {"jaxsparse": "x"}, {"jaxsparse.sha256": "x"}])
def test_metadata_is_text_of_ones_own(path: pathlib.Path, metadata: Any) -> None:
    # Without the type checker of the tests, which would be the first to refuse a number.
    with pytest.raises(Exception, match="metadata") as caught:
        save_safetensors(path, ONE, metadata=metadata)
    assert not path.exists(), caught


LIKE = {
    "missing": ({"v": np.ones(2), **PARAMS}, ["the file has no v"]),
    "more": ({}, ["like has no Dense_0/bias, like has no Dense_0/kernel"]),
    "shape": (
        {"Dense_0": {**PARAMS["Dense_0"], "kernel": KERNEL.T}},
        ["Dense_0/kernel is float32 (2, 3) in the file, float32 (3, 2) in like"],
    ),
    "dtype": (
        jax.tree.map(lambda x: x.astype(np.float16), PARAMS),
        ["int8 (2,) in the file, float16 (2,) in like", "float32 (2, 3) in the file"],
    ),
    "two of a path": ({"a": {"b": KERNEL}, "a/b": KERNEL}, ["two leaves have the path"]),
}


@pytest.mark.parametrize("name", LIKE)
def test_another_tree_is_refused(path: pathlib.Path, name: str) -> None:
    like, parts = LIKE[name]
    save_safetensors(path, PARAMS, MASKS)
    with pytest.raises(ValueError, match=r".") as caught:
        load_safetensors(path, like=like)
    message = str(caught.value)
    assert all(part in message for part in parts), message
    assert message.isprintable()


def test_what_jax_would_narrow_is_refused(path: pathlib.Path) -> None:
    save_safetensors(path, {"w": np.ones(2)})
    assert load_safetensors(path)[0]["w"].dtype == np.float64
    with pytest.raises(ValueError, match=r"w is float64, .* float32; set jax_enable_x64"):
        load_safetensors(path, like={"w": jax.ShapeDtypeStruct((2,), np.dtype("float64"))})


class TestAtomic:
    """A failure leaves the old file whole, and nothing else."""

    @pytest.mark.parametrize("call", ["replace", "fsync", "open"])
    def test_the_old_file_stays(
        self, path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, call: str
    ) -> None:
        save_safetensors(path, PARAMS, MASKS)
        before = path.read_bytes()

        def fail(*args: Any) -> None:
            raise OSError("no space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail)
            with pytest.raises(OSError, match="no space"):
                save_safetensors(path, ONE)
        assert path.read_bytes() == before
        assert list(path.parent.iterdir()) == [path]

    def test_writing_fails(self, path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
        save_safetensors(path, PARAMS, MASKS)
        before = path.read_bytes()

        def fail(arrays: Any, file: pathlib.Path, metadata: Any) -> None:
            assert file.parent == path.parent
            file.write_bytes(b"half")
            raise OSError("no space left on device")

        monkeypatch.setattr(safetensors.numpy, "save_file", fail)
        with pytest.raises(OSError, match="no space"):
            save_safetensors(path, ONE)
        assert path.read_bytes() == before
        assert list(path.parent.iterdir()) == [path]

    def test_a_file_is_replaced(self, path: pathlib.Path) -> None:
        save_safetensors(path, PARAMS, MASKS)
        save_safetensors(path, ONE)
        assert_same(load_safetensors(path)[0], ONE)
        assert list(path.parent.iterdir()) == [path]

    def test_no_folder(self, path: pathlib.Path) -> None:
        with pytest.raises(OSError, match=r"No such file or directory.*nowhere"):
            save_safetensors(path.parent / "nowhere" / "x.safetensors", ONE)


def test_the_library_does_without_safetensors(tmp_path: pathlib.Path) -> None:
    program = """
import sys
sys.modules["safetensors"] = None
import jaxsparse.export, jaxsparse.inspect
try:
    jaxsparse.export.save_safetensors("x", {})
except ImportError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "safetensors is not installed; pip install 'jaxsparse[export]'\n"
