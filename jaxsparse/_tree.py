"""Private pytree helpers: paths, and maps over trees in which some leaves are dense."""

from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

import jax
import optax
from jaxtyping import PyTree


def is_dense(leaf: Any) -> bool:
    """Is this the mark of a leaf without a mask?"""
    return isinstance(leaf, optax.MaskedNode)


def path_string(path: Sequence[Any]) -> str:
    """``"Dense_0/kernel"``: the same for dicts, linen, nnx (whose leaves end in value), Equinox."""
    names = [
        str(next(getattr(key, a) for a in ("key", "name", "idx") if hasattr(key, a)))
        for key in path
    ]
    if len(names) > 1 and names[-1] == "value":
        names = names[:-1]
    return "/".join(name.strip(".") for name in names)


def flatten_with_paths(params: PyTree) -> tuple[list[tuple[str, Any]], Any]:
    """``[(path, leaf)]`` and the structure; a dense mark counts as a leaf: positions are kept."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(params, is_leaf=is_dense)
    return [(path_string(path), leaf) for path, leaf in leaves], structure


def map_masks(
    f: Callable[..., Any], masks: PyTree, *trees: PyTree, dense: Callable[..., Any] | None = None
) -> PyTree:
    """Map over masked leaves; dense ones become ``dense(*rest)``, or stay ``MaskedNode()``."""

    def one(mask: Any, *rest: Any) -> Any:
        if not is_dense(mask):
            return f(mask, *rest)
        return mask if dense is None else dense(*rest)

    return jax.tree.map(one, masks, *trees, is_leaf=is_dense)


def leaf_indices(masks: PyTree) -> PyTree:
    """Like the masks: the position of each leaf, dense ones counted, a part of its randomness."""
    tree = jax.tree.structure(masks, is_leaf=is_dense)
    return jax.tree.unflatten(tree, range(tree.num_leaves))


def join(items: Iterable[str], most: int = 8) -> str:
    """``a, b, c, ... (12 in all)``."""
    names = list(items)
    return ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")


def check_known(what: str, name: str, known: Iterable[str]) -> None:
    """Raise ``ValueError`` with the nearest names unless the name is known."""
    names = list(known)
    if name not in names:
        near = get_close_matches(name, names, n=3, cutoff=0.4)
        hint = f" did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"unknown {what} {name!r};{hint} All: {join(names, 12)}")


def match_globs(patterns: Sequence[str], paths: Sequence[str], what: str) -> list[int | None]:
    """Index of the first pattern that matches each path (``*`` crosses ``/``).

    Raises ``ValueError`` for a pattern that matches no path, unless there are no paths at all.
    """
    found = [
        next((i for i, pattern in enumerate(patterns) if fnmatchcase(path, pattern)), None)
        for path in paths
    ]
    for pattern in patterns:
        if paths and not any(fnmatchcase(path, pattern) for path in paths):
            near = get_close_matches(pattern, paths, n=3, cutoff=0.3) or paths
            raise ValueError(
                f"{what}: pattern {pattern!r} matches none of the {len(paths)} leaves; "
                f"nearest: {join(near)}"
            )
    return found
