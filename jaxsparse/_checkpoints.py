"""Masks in a folder that Orbax wrote, found without the model: only masks are read."""

import pathlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxsparse._tree import flatten_with_paths

# The fields by which a SparsityState is known once it is a dict.
_FIELDS = {"sparse_step", "masks", "inner_state"}

Place = tuple[Any, ...]
"""Keys from the root of a checkpoint."""


class MaskedLeaf(NamedTuple):
    """One leaf: dtype None where only its mask is in the checkpoint, kept None where dense."""

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype | None
    kept: int | None


class MaskedParams(NamedTuple):
    """The leaves of one set of parameters, where they are, and where their masks are."""

    params: str
    masks: list[str]
    leaves: list[MaskedLeaf]


def read_checkpoint(folder: pathlib.Path) -> list[MaskedParams]:
    """Parameters and kept counts of a checkpoint; ``folder`` may hold steps, one step, or one item.

    Raises ``ValueError`` where there is no checkpoint, or none with masks in it.
    """
    try:
        import orbax.checkpoint as ocp
    except ImportError:
        raise ImportError("reading checkpoints takes Orbax; pip install orbax-checkpoint") from None
    items = _items(folder)
    if not items:
        raise ValueError(
            f"{folder} holds no checkpoint of Orbax; give a folder of steps, or one step"
        )
    handler = ocp.PyTreeCheckpointHandler()
    try:
        found = _read_items(ocp, handler, [item.absolute() for item in items])
    except Exception as error:  # whatever Orbax and TensorStore make of a damaged folder
        raise ValueError(
            f"{folder} cannot be read as a checkpoint of Orbax "
            f"({type(error).__name__}: {str(error)[:200]}); give another step"
        ) from None
    finally:
        handler.close()
    if not found:
        raise ValueError(
            f"{folder} holds no masks; save the optimizer's state, that of "
            "jaxsparse.sparsify, with the parameters"
        )
    return found


def _items(folder: pathlib.Path) -> list[pathlib.Path]:
    """The folders with one saved pytree each: of the latest step, where there are several."""
    if (folder / "_METADATA").is_file():
        return [folder]
    folders = sorted(part for part in folder.iterdir() if part.is_dir())
    items = [part for part in folders if (part / "_METADATA").is_file()]
    steps = {part: re.fullmatch(r"(?:.*_)?(\d{1,18})", part.name, re.ASCII) for part in folders}
    ordered = sorted((int(match[1]), part) for part, match in steps.items() if match)
    return items or (_items(ordered[-1][1]) if ordered else [])


def _read_items(ocp: Any, handler: Any, items: list[pathlib.Path]) -> list[MaskedParams]:
    for item in items:
        _try_to_read(item)
    # Parameters and optimizer may be items of their own: one tree, with the items' names on top.
    tree = {item.name: handler.metadata(item).tree for item in items}
    states = [place for place, node in _nodes(tree) if _is_state(node)]
    masks = {state: flatten_with_paths(_at(tree, (*state, "masks")))[0] for state in states}
    restored = {item.name: _restore_masks(ocp, handler, item, tree[item.name]) for item in items}
    groups: dict[Place | None, list[Place]] = {}
    for state, leaves in masks.items():
        shapes = {path: tuple(mask.shape) for path, mask in leaves}
        groups.setdefault(_params_of(tree, state, shapes), []).append(state)
    text = lambda place: "/".join(map(str, place[1:] if len(items) == 1 else place)) or "/"
    found = []
    for params, places in groups.items():
        counts = {
            path: int(np.count_nonzero(mask))
            for place in places
            for path, mask in flatten_with_paths(_at(restored, (*place, "masks")))[0]
        }
        leaves = [leaf for place in places for leaf in masks[place]]
        dtype: Any = lambda _: None
        if params is not None:
            leaves, dtype = flatten_with_paths(_at(tree, params))[0], lambda leaf: leaf.dtype
        rows = [MaskedLeaf(p, tuple(x.shape), dtype(x), counts.get(p)) for p, x in leaves]
        name = "none saved" if params is None else text(params)
        found.append(MaskedParams(name, [text((*place, "masks")) for place in places], rows))
    return found


def _try_to_read(item: pathlib.Path) -> None:
    """Raise here where the description of an array, or a mask, cannot be read.

    Orbax reads all at once, and at the first failure closes the event loop that the others are
    still to report to: each would leave a traceback on standard error.
    """
    import tensorstore

    store: Any = tensorstore.KvStore.open({"driver": "ocdbt", "base": f"{item.as_uri()}/"}).result()
    for name in store.list().result():  # none where the arrays are plain files
        if re.search(rb"/(\.zarray|zarr\.json)$|(^|\.)masks[./]", name):
            store.read(name).result()


def _restore_masks(ocp: Any, handler: Any, item: pathlib.Path, tree: Any) -> Any:
    """One item; everything in it that is no mask stays on the disk."""
    states = [place for place, node in _nodes(tree) if _is_state(node)]
    within = lambda place: any(place[: len(s) + 1] == (*s, "masks") for s in states)
    keys = lambda path: tuple(getattr(key, "key", getattr(key, "idx", None)) for key in path)
    target = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf if within(keys(path)) else ocp.PLACEHOLDER, tree
    )
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), target)
    return handler.restore(item, args=ocp.args.PyTreeRestore(item=target, restore_args=as_numpy))


def _params_of(tree: Any, state: Place, masks: dict[str, tuple[int, ...]]) -> Place | None:
    """Where the parameters of these masks are: a subtree with the same paths and shapes.

    Gradients and moments have them, too: the name decides, then what is nearest to the state, or
    (without the name) to the root.
    """
    found = []
    for place, node in _nodes(tree):
        shapes = {path: tuple(leaf.shape) for path, leaf in flatten_with_paths(node)[0]}
        named = place[-1:] == ("params",)
        if (masks or named) and masks.items() <= shapes.items():
            near = sum(a == b for a, b in zip(place, state, strict=False)) if named else 0
            found.append((named, near, -len(place), place))
    return max(found, key=lambda row: row[:3])[3] if found else None


def _nodes(tree: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Every dict and list, a ``SparsityState`` but not what is inside."""
    if isinstance(tree, dict | list | tuple):
        yield place, tree
        if not _is_state(tree):
            pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
            for key, node in pairs:
                yield from _nodes(node, (*place, key))


def _is_state(node: Any) -> bool:
    return isinstance(node, dict) and node.keys() >= _FIELDS


def _at(tree: Any, place: Place) -> Any:
    for key in place:
        tree = tree[key]
    return tree
