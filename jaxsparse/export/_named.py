"""Pytrees as named arrays on the host: what all formats start from."""

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import PyTree

from jaxsparse._tree import check_known, flatten_with_paths, is_dense

_LONGEST, _DEEPEST = 1000, 64


class Named(NamedTuple):
    """One leaf: its path, what it is, and its mask on the host (None: dense)."""

    path: str
    leaf: Any
    mask: np.ndarray | None


def is_array(leaf: Any) -> bool:
    """Has it a shape and a dtype? An Equinox module also has leaves that are functions."""
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def named_leaves(params: PyTree, masks: PyTree | None) -> tuple[list[Named], Any]:
    """Every leaf with its mask, found by its path, and the structure.

    A ``MaskedNode()`` of the masks may stand for a subtree, and for no mask at all.
    """
    leaves, structure = flatten_with_paths(params)
    arrays = [path for path, leaf in leaves if is_array(leaf)]
    found = [] if masks is None else flatten_with_paths(masks)[0]
    marks = {path: mask for path, mask in found if not is_dense(mask)}
    for path in marks:
        check_known("path in masks (params have no such array)", path, arrays)
    rows = [Named(path, leaf, _mask(path, leaf, marks.get(path))) for path, leaf in leaves]
    return rows, structure


def _mask(path: str, leaf: Any, mask: Any) -> np.ndarray | None:
    if mask is None:
        return None
    shape = tuple(leaf.shape)
    if not is_array(mask) or tuple(mask.shape) != shape or mask.dtype != np.bool_:
        given = f"{mask.dtype} {tuple(mask.shape)}" if is_array(mask) else repr(mask)
        raise ValueError(
            f"{path} has shape {shape}, its mask is {given}; pass a bool mask of that shape, "
            "optax.MaskedNode() where there is none"
        )
    return host(f"the mask of {path}", mask)


def host(path: str, leaf: Any) -> np.ndarray:
    """A concrete array as NumPy has it: row-major, native byte order, gathered from its devices."""
    if isinstance(leaf, Tracer):
        raise ValueError(f"{path} is traced and has no numbers; export outside of jit")
    if not (getattr(leaf, "is_fully_addressable", True) or leaf.is_fully_replicated):
        raise ValueError(
            f"{path} lies partly on devices of other processes; gather it first, with "
            "jax.experimental.multihost_utils.process_allgather(params, tiled=True), and export "
            "from one process"
        )
    if not isinstance(leaf, np.ndarray | np.generic | jax.Array):
        raise ValueError(f"{path} is a {type(leaf).__name__} and has no numbers; pass arrays")
    array = np.asarray(leaf, order="C")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def kept_values(array: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The kept values in row-major order, bit for bit."""
    return array.reshape(-1)[mask.reshape(-1)]


def with_zeros(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The inverse: exact zeros off the mask."""
    array = np.zeros(mask.size, values.dtype)
    array[mask.reshape(-1)] = values
    return array.reshape(mask.shape)


def placed(path: str, array: np.ndarray, sharding: Any = None) -> jax.Array:
    """On a device, refused where JAX would narrow it."""
    found = jax.device_put(array, sharding)
    if found.dtype != array.dtype:
        raise ValueError(
            f"{path} is {array.dtype}, of which JAX would make {found.dtype}; set jax_enable_x64, "
            "or take NumPy arrays"
        )
    return found


def check_paths(paths: Iterable[str]) -> None:
    """Raise ``ValueError`` for paths that no nested dict could have, or that would do harm."""
    known = set()
    for path in paths:
        parts = path.split("/")
        if (
            len(path) > _LONGEST
            or len(parts) > _DEEPEST
            or not path.isprintable()
            or any(part in ("", ".", "..") for part in parts)
        ):
            short = path if len(path) <= 60 else f"{path[:60]}..."
            raise ValueError(
                f"{short!r} cannot be the path of a tensor: 1 to {_LONGEST} printable characters, "
                f"at most {_DEEPEST} names between '/', none of them empty, '.' or '..'; put "
                "arrays into a dict with such keys"
            )
        if path in known:
            raise ValueError(f"two leaves have the path {path!r}; rename one of the keys")
        known.add(path)
    for path in known:
        for slash in re.finditer("/", path):
            if path[: slash.start()] in known:
                raise ValueError(
                    f"{path[: slash.start()]!r} is a leaf, and {path!r} lies in it; rename one of "
                    "the keys"
                )


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    """``{"a/b": 1}`` as ``{"a": {"b": 1}}``."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *folders, name = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[name] = value
    return tree


def is_mark(leaf: Any) -> bool:
    """No array of the parameters: a function, a number of Python, or the mark of a dense leaf."""
    return is_dense(leaf) or not is_array(leaf)
