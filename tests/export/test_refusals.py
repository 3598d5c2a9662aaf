"""Files that are not what was saved: refused in one line, before memory is taken."""

import functools
import json
import pathlib
import resource
import struct
import tempfile
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import optax
import pytest
import safetensors.numpy

from jaxsparse.export import _format, load_safetensors, pack_mask, save_safetensors

MARK = optax.MaskedNode()
MASK = np.array([[True, False, False], [True, False, True]])
PARAMS = {"a": {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}, "b": np.array([7, 8], np.int8)}
MASKS = {"a": {"w": MASK}, "b": MARK}


@functools.cache
def saved(packed: bool) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "x"
        save_safetensors(path, PARAMS, MASKS, packed=packed, metadata={"step": "7"})
        return path.read_bytes()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("refusals") / "model.safetensors"


def refusal(path: pathlib.Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r".") as caught:
        load_safetensors(path)
    message = str(caught.value)
    assert message.startswith(str(path)), message
    assert message.isprintable(), message
    assert len(message) < 2000
    return message


def same(first: Any, second: Any) -> bool:
    return jax.tree.structure(first) == jax.tree.structure(second) and all(
        (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes())
        for x, y in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    )


def loaded(path: pathlib.Path, data: bytes) -> Any:
    """What is loaded, None where it is refused, in one line."""
    path.write_bytes(data)
    try:
        return load_safetensors(path)
    except ValueError as error:
        message = str(error)
    assert message.isprintable(), message
    return None


@pytest.mark.parametrize("packed", [False, True])
def test_every_truncation(path: pathlib.Path, packed: bool) -> None:
    data = saved(packed)
    for length in range(len(data)):
        assert "not a whole safetensors file" in refusal(path, data[:length])


@pytest.mark.parametrize("packed", [False, True])
def test_every_byte_matters(path: pathlib.Path, packed: bool) -> None:
    """One bit of each byte is flipped; only spaces of the header may differ in silence."""
    data = saved(packed)
    expected, silent = loaded(path, data), 0
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1 << at % 8
        found = loaded(path, bytes(changed))
        assert found is None or same(found, expected)
        silent += found is not None
    assert silent <= 8


@pytest.mark.parametrize("more", [b"\0", b"more", b"\0" * 4096])
def test_bytes_too_many(path: pathlib.Path, more: bytes) -> None:
    assert "not fully covered" in refusal(path, saved(True) + more)


@hypothesis.settings(max_examples=300)
@hypothesis.given(
    packed=st.booleans(),
    edits=st.lists(
        st.tuples(st.integers(0, 2000), st.integers(0, 30), st.binary(max_size=40)), min_size=1
    ),
)
def test_random_edits(path: pathlib.Path, packed: bool, edits: list[Any]) -> None:
    data = saved(packed)
    expected = loaded(path, data)
    for at, removed, inserted in edits:
        at %= len(data)
        data = data[:at] + inserted + data[at + removed :]
    found = loaded(path, data)
    assert found is None or same(found, expected)


@hypothesis.settings(max_examples=200)
@hypothesis.given(data=st.binary(max_size=200), length=st.integers(0, 400))
def test_random_bytes(path: pathlib.Path, data: bytes, length: int) -> None:
    refusal(path, data)
    refusal(path, struct.pack("<Q", length) + data)


def forged(arrays: dict[str, np.ndarray], description: Any) -> bytes:
    """A file of someone who knows the format, digest and all."""
    text = description if isinstance(description, str) else json.dumps(description)
    said = {"jaxsparse": text}
    said["jaxsparse.sha256"] = _format.digest(arrays, said)
    return safetensors.numpy.save(arrays, said)


VALUES = np.array([0, 3, 5], np.float32)
ROW = {"shape": [2, 3], "dtype": "float32", "kept": 3, "form": "packed"}
ARRAYS = {"w.values": VALUES, "w.mask": pack_mask(MASK)}


def described(**row: Any) -> dict[str, Any]:
    return {"version": 1, "tensors": {"w": {**ROW, **row}}}


def test_the_forger_knows_the_format(path: pathlib.Path) -> None:
    path.write_bytes(forged(ARRAYS, described()))
    params, masks = load_safetensors(path)
    assert params["w"].tolist() == [[0, 0, 0], [3, 0, 5]]
    np.testing.assert_array_equal(masks["w"], MASK)


FORGED: dict[str, tuple[dict[str, np.ndarray], Any, str]] = {
    "newer version": (ARRAYS, {"version": 2}, "format version 2, and this jaxsparse reads 1"),
    "no version": (ARRAYS, {"tensors": {}}, "no version and tensors"),
    "version true": (ARRAYS, {"version": True, "tensors": {}}, "its arrays are not those"),
    "no JSON": (ARRAYS, "{", "no JSON"),
    "a list": (ARRAYS, [], "no version"),
    "deep": (ARRAYS, "[" * 200_000, "no JSON"),
    "a long number": (ARRAYS, '{"version": 1' + "0" * 10_000 + "}", "no JSON"),
    "kept too few": (
        {**ARRAYS, "w.values": VALUES[:2]},
        described(kept=2),
        "keeps 3 weights, its description says 2",
    ),
    "values too few": ({**ARRAYS, "w.values": VALUES[:2]}, described(), "described as F32 (3,)"),
    "kept more than there are": (ARRAYS, described(kept=7), "kept count from 0 to 6"),
    "kept negative": (ARRAYS, described(kept=-1), "kept count from 0 to 6"),
    "kept a float": (ARRAYS, described(kept=3.0), "kept count"),
    "kept nothing": (ARRAYS, described(kept=None), "kept count"),
    "bits behind the last": (
        {**ARRAYS, "w.mask": np.array([0x95], np.uint8)},
        described(),
        "bits behind the last of 6 weights",
    ),
    "mask too long": (
        {**ARRAYS, "w.mask": np.zeros(2, np.uint8)},
        described(),
        "described as U8 (1,)",
    ),
    "mask of another type": (
        {**ARRAYS, "w.mask": np.zeros(1, np.int8)},
        described(),
        "w.mask is I8 (1,), and described as U8",
    ),
    "no mask": ({"w.values": VALUES}, described(), "not those it describes: w.mask"),
    "more arrays": ({**ARRAYS, "v": VALUES}, described(), "not those it describes: v"),
    "unknown dtype": (ARRAYS, described(dtype="float8_e4m3"), "no dtype of bool, "),
    "dtype a list": (ARRAYS, described(dtype=["float32"]), "no dtype of"),
    "another dtype": (ARRAYS, described(dtype="int32"), "described as I32"),
    "unknown form": (ARRAYS, described(form="coo"), "no form of dense, zeros, packed"),
    "shape negative": (ARRAYS, described(shape=[-2, -3]), "no shape of whole numbers"),
    "shape a number": (ARRAYS, described(shape=6), "no shape of whole numbers"),
    "shape of truths": (ARRAYS, described(shape=[True]), "no shape of whole numbers"),
    "too many dimensions": (ARRAYS, described(shape=[1] * 65), "no shape"),
    "a huge shape": (ARRAYS, described(shape=[2**40, 2**10]), "described as U8"),
    "a shape beyond numbers": (ARRAYS, described(shape=[10**3000, 6]), "than memory has"),
    "huge and empty": (ARRAYS, described(shape=[0, 2**62], kept=0), "than memory has addresses"),
    "a field more": (ARRAYS, described(more=1), "has not the fields shape, dtype, kept, form"),
    "a row of nothing": (ARRAYS, {"version": 1, "tensors": {"w": None}}, "has not the fields"),
    "weights off the mask": (
        {"w": np.ones((2, 3), np.float32), "w.mask": pack_mask(MASK)},
        described(form="zeros"),
        "weights off its mask that are not zero",
    ),
    "minus zero off the mask": (
        {"w": np.full((2, 3), -0.0, np.float32), "w.mask": pack_mask(MASK)},
        described(form="zeros"),
        "weights off its mask that are not zero",
    ),
    "path upwards": (
        {"../w.values": VALUES, "../w.mask": pack_mask(MASK)},
        {"version": 1, "tensors": {"../w": ROW}},
        "'../w' cannot be the path of a tensor",
    ),
    "path to clear the screen": (
        {"\x1b[2J": VALUES},
        {"version": 1, "tensors": {"\x1b[2J": ROW}},
        r"'\x1b[2J' cannot be the path",
    ),
    "path of a thousand folders": (
        ARRAYS,
        {"version": 1, "tensors": {"/".join("a" * 1000): ROW}},
        "cannot be the path",
    ),
    "a leaf that is a folder": (
        ARRAYS,
        {"version": 1, "tensors": {"w": ROW, "w/v": ROW}},
        "'w' is a leaf, and 'w/v' lies in it",
    ),
}


@pytest.mark.parametrize("name", FORGED)
def test_forgeries(path: pathlib.Path, name: str) -> None:
    arrays, description, part = FORGED[name]
    assert part in refusal(path, forged(arrays, description))


def test_files_of_other_programs(path: pathlib.Path) -> None:
    data = safetensors.numpy.save({"w": VALUES})
    assert "read files of other programs with safetensors.numpy.load_file" in refusal(path, data)


def test_another_digest(path: pathlib.Path) -> None:
    changed = saved(True).replace(b'"step":"7"', b'"step":"8"')
    assert "its digest is not that of its content" in refusal(path, changed)


def test_what_is_no_file(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="is not a file; pass what save_safetensors wrote"):
        load_safetensors(tmp_path)
    with pytest.raises(FileNotFoundError, match="No such file or directory"):
        load_safetensors(tmp_path / "nothing")


# Any JSON in any place of the description.
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)


@hypothesis.settings(max_examples=300)
@hypothesis.given(
    row=st.fixed_dictionaries({key: st.just(value) | JSON for key, value in ROW.items()}),
    path_of=st.sampled_from(["w", "", "w/v"]) | st.text(max_size=5),
)
def test_any_description(path: pathlib.Path, row: Any, path_of: str) -> None:
    arrays = {f"{path_of}.values": VALUES, f"{path_of}.mask": pack_mask(MASK)}
    try:
        data = forged(arrays, {"version": 1, "tensors": {path_of: row}})
    except ValueError:
        hypothesis.reject()  # no file can have such a name
    found = loaded(path, data)
    if found is not None:
        assert sum(x.size for x in jax.tree.leaves(found[0])) == 6
        assert sum(int(x.sum()) for x in jax.tree.leaves(found[1])) == 3


def test_no_memory_is_taken_for_claims(path: pathlib.Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    huge = {"dtype": "F32", "shape": [2**38], "data_offsets": [0, 2**40]}
    claims = json.dumps({"w": huge}).encode()
    refusal(path, struct.pack("<Q", len(claims)) + claims)
    refusal(path, struct.pack("<Q", 2**40) + claims)
    arrays = {"w.values": VALUES, "w.mask": pack_mask(MASK)}
    refusal(path, forged(arrays, described(shape=[2**34, 2**4])))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 50_000  # KiB
