"""What a file says of itself: a description of each tensor, and a digest of everything."""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxsparse.export._named import check_paths

VERSION = 1
DESCRIPTION, DIGEST = "jaxsparse", "jaxsparse.sha256"

# NumPy's name (bfloat16 is that of ml_dtypes), and that of the file.
DTYPES = {
    "bool": "BOOL", "uint8": "U8", "uint16": "U16", "uint32": "U32", "uint64": "U64",
    "int8": "I8", "int16": "I16", "int32": "I32", "int64": "I64",
    "float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64",
}  # fmt: skip

# dense: all values, no mask. zeros: all values, zeros off the mask. packed: the kept values.
FORMS = ("dense", "zeros", "packed")


class Entry(NamedTuple):
    """One tensor of a description; ``kept`` is None where it has no mask."""

    shape: tuple[int, ...]
    dtype: str
    kept: int | None
    form: str

    @property
    def size(self) -> int:
        """Weights, kept or not."""
        return math.prod(self.shape)

    def arrays(self, path: str) -> dict[str, tuple[str, tuple[int, ...]]]:
        """The arrays of the file that hold it: name -> (dtype, shape)."""
        whole = {path: (self.dtype, self.shape)}
        if self.kept is None:
            return whole
        values = {f"{path}.values": (self.dtype, (self.kept,))}
        bits = {f"{path}.mask": ("uint8", (-(-self.size // 8),))}
        return {**(values if self.form == "packed" else whole), **bits}


def describe(entries: Mapping[str, Entry]) -> str:
    """The description, as JSON."""
    tensors = {path: entry._asdict() for path, entry in entries.items()}
    return json.dumps({"version": VERSION, "tensors": tensors})


def parse(text: str) -> dict[str, Entry]:
    """The inverse of ``describe``; raises ``ValueError`` for anything else."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its description is no JSON ({error})") from None
    version = found.get("version") if isinstance(found, dict) else None
    if type(version) is int and version != VERSION:
        raise ValueError(
            f"it has format version {version}, and this jaxsparse reads {VERSION}; install the "
            "jaxsparse that wrote it, or a newer one"
        )
    if not (version == VERSION and isinstance(found.get("tensors"), dict)):
        raise ValueError("its description has no version and tensors")
    check_paths(found["tensors"])
    return {path: _entry(path, row) for path, row in found["tensors"].items()}


def _entry(path: str, row: Any) -> Entry:
    if not isinstance(row, dict) or set(row) != set(Entry._fields):
        raise ValueError(f"its description of {path} has not the fields {', '.join(Entry._fields)}")
    shape, dtype, kept, form = (row[name] for name in Entry._fields)
    natural = lambda value: type(value) is int and value >= 0
    if not (isinstance(shape, list) and len(shape) <= 64 and all(map(natural, shape))):
        raise ValueError(f"its description of {path} has no shape of whole numbers")
    # Refused before anything is allocated; NumPy refuses such shapes even where one size is 0.
    if math.prod(max(n, 1) for n in shape) * 8 > np.iinfo(np.int64).max:
        raise ValueError(f"its description of {path} has more weights than memory has addresses")
    if dtype not in list(DTYPES):
        raise ValueError(f"its description of {path} has no dtype of {', '.join(DTYPES)}")
    if form not in FORMS:
        raise ValueError(f"its description of {path} has no form of {', '.join(FORMS)}")
    whole = form == "dense"
    if not (kept is None if whole else natural(kept) and kept <= math.prod(shape)):
        raise ValueError(
            f"its description of {path} has no kept count from 0 to {math.prod(shape)}"
            + (" but null, where the form is dense" if whole else "")
        )
    return Entry(tuple(shape), dtype, kept, form)


def digest(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    """SHA-256 of all arrays, their names, dtypes and shapes, and the metadata."""
    said = {key: value for key, value in metadata.items() if key != DIGEST}
    found = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        found.update(json.dumps([name, array.dtype.name, array.shape]).encode())
        found.update(array.reshape(-1).view(np.uint8).data)
    return found.hexdigest()
