"""Masks by hand: apply, find, count, compare, print."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from jaxsparse._tree import flatten_with_paths, is_dense, map_masks
from jaxsparse.base import Masks, Params


def apply_masks(params: Params, masks: Masks) -> Params:
    """Exact zeros off the mask.

    Args:
      params: Pytree of arrays.
      masks: Like ``params``: bool arrays, ``optax.MaskedNode()`` where dense.

    Returns:
      Like ``params``, same dtypes.

    Example:
      >>> import jax.numpy as jnp
      >>> apply_masks({"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([True, False])})["w"].tolist()
      [1.0, 0.0]
    """
    return map_kept(
        lambda weight, mask: jnp.where(mask, weight, jnp.zeros_like(weight)), params, masks
    )


def map_kept(f: Callable[..., Any], params: Params, masks: Masks, *trees: PyTree) -> Params:
    """Map over the weights that have a mask; the others stay as they are.

    Args:
      f: ``(weight, mask, *parts) -> weight``.
      params: Pytree of arrays.
      masks: Like ``params``, leaf by leaf; boxes may differ, as within an ``nnx.Optimizer``.
      *trees: Pytrees with a leaf for each mask.

    Returns:
      Like ``params``.

    Raises:
      ValueError: if leaves or shapes do not fit.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> params = {"bias": jnp.ones(1), "w": jnp.array([3.0])}
      >>> masks = {"bias": optax.MaskedNode(), "w": jnp.array([True])}
      >>> print(map_kept(lambda weight, mask, part: weight * part, params, masks, {"w": 2.0}))
      {'bias': Array([1.], dtype=float32), 'w': Array([6.], dtype=float32)}
    """
    pairs, structure = pairs_of(params, masks)
    rest = iter(zip(*[jax.tree.leaves(tree) for tree in trees], strict=True))
    row = lambda: next(rest) if trees else ()
    mapped = [w if is_dense(m) else f(w, m, *row()) for _, w, m in pairs]
    return jax.tree.unflatten(structure, mapped)


def pairs_of(params: Params, masks: Masks) -> tuple[list[tuple[str, Any, Any]], Any]:
    """``[(path, weight, mask)]``, by order: an nnx optimizer boxes masks unlike parameters."""
    leaves, structure = flatten_with_paths(params)
    marks = jax.tree.leaves(masks, is_leaf=is_dense)
    if len(leaves) != len(marks):
        raise ValueError(
            f"{len(leaves)} leaves of params, {len(marks)} of masks; pass the parameters that the "
            "masks were made for"
        )
    pairs = [(p, w, m) for (p, w), m in zip(leaves, marks, strict=True)]
    for path, weight, mask in pairs:
        # `where` would broadcast in silence.
        if not is_dense(weight) and not is_dense(mask) and weight.shape != mask.shape:
            raise ValueError(
                f"{path} has shape {weight.shape}, its mask {mask.shape}; pass the parameters that "
                "the masks were made for"
            )
    return pairs, structure


def masks_of(state: Any) -> Masks:
    """The masks inside an optimizer state or a train state, at any depth of wrappers.

    Where several ``sparsify`` states share the leaves (``optax.partition``, ``optax.masked``),
    their masks are merged.

    Args:
      state: Any pytree that holds what ``sparsify(...).init`` returned: optax's wrappers, flax's
        ``TrainState``, the ``opt_state`` of an ``nnx.Optimizer``.

    Returns:
      Pytree like the parameters: bool arrays, ``optax.MaskedNode()`` where dense.

    Raises:
      ValueError: if there is no such state inside.

    Example:
      >>> import jax.numpy as jnp, optax, jaxsparse
      >>> tx = optax.MultiSteps(jaxsparse.sparsify(optax.adam(1e-3), jaxsparse.static(0.5)), 4)
      >>> int(masks_of(tx.init({"kernel": jnp.ones((4, 4))}))["kernel"].sum())
      8
    """
    found = [part.masks for part in sparsity_states(state)]
    if not found:
        raise ValueError(
            f"no sparsify state inside {type(state).__name__}; pass the state of an optimizer "
            "that was wrapped with jaxsparse.sparsify"
        )
    return functools.reduce(_merge, found)


def _merge(first: Masks, second: Masks) -> Masks:
    """One tree of two in which a dense mark may stand for a whole subtree of the other."""
    if is_dense(first) or is_dense(second):
        return second if is_dense(first) else first
    one_level = lambda tree: jax.tree.flatten(tree, is_leaf=lambda node: node is not tree)
    children, structure = one_level(first)
    if children and children[0] is first:
        return first
    merged = [_merge(a, b) for a, b in zip(children, one_level(second)[0], strict=True)]
    return jax.tree.unflatten(structure, merged)


def sparsity_states(state: Any) -> list[Any]:
    """Every ``SparsityState`` inside a pytree, outermost first.

    Args:
      state: Any pytree.

    Returns:
      A list of ``SparsityState``; empty where there is none.

    Example:
      >>> sparsity_states({"step": 0})
      []
    """
    is_state = lambda node: isinstance(node, tuple) and hasattr(node, "sparse_step")
    return [node for node in jax.tree.leaves(state, is_leaf=is_state) if is_state(node)]


def density(masks: Masks) -> jax.Array:
    """Kept fraction over all masked leaves.

    Args:
      masks: Pytree of bool arrays and ``optax.MaskedNode()``.

    Returns:
      float32 scalar in [0, 1].

    Raises:
      ValueError: if no leaf has a mask.

    Example:
      >>> import jax.numpy as jnp
      >>> float(density({"a": jnp.array([True, False, False, False])}))
      0.25
    """
    leaves = jax.tree.leaves(masks)
    if not leaves:
        raise ValueError("no leaf of the tree has a mask, so it has no density")
    # Leaf by leaf: one float32 sum over all would not count above 2^24.
    kept = sum(jnp.sum(m, dtype=jnp.int32).astype(jnp.float32) for m in leaves)
    return jnp.asarray(kept / sum(m.size for m in leaves))


def overlap(first: Masks, second: Masks) -> jax.Array:
    """Jaccard overlap of two sets of kept weights: intersection over union.

    Args:
      first: Pytree of bool arrays and ``optax.MaskedNode()``.
      second: Like ``first``.

    Returns:
      float32 scalar in [0, 1]; 1 where neither keeps anything.

    Example:
      >>> import jax.numpy as jnp
      >>> a, b = jnp.array([True, True, False]), jnp.array([True, False, True])
      >>> round(float(overlap({"w": a}, {"w": b})), 3)
      0.333
    """
    count = lambda a: jnp.sum(a, dtype=jnp.int32).astype(jnp.float32)
    both = sum(jax.tree.leaves(map_masks(lambda a, b: count(a & b), first, second)))
    either = sum(jax.tree.leaves(map_masks(lambda a, b: count(a | b), first, second)))
    return jnp.where(either > 0, both / jnp.maximum(either, 1), 1.0)


class SummaryRow(NamedTuple):
    """One leaf of a summary: its path, its shape, kept weights (None: dense), and all weights."""

    path: str
    shape: tuple[int, ...]
    kept: int | None
    size: int


class Summary(NamedTuple):
    """What ``summary`` returns: rows to read, a table to print."""

    rows: tuple[SummaryRow, ...]

    @property
    def kept(self) -> int:
        """Weights kept in the leaves that have a mask."""
        return sum(row.kept for row in self.rows if row.kept is not None)

    @property
    def size(self) -> int:
        """Weights in the leaves that have a mask."""
        return sum(row.size for row in self.rows if row.kept is not None)

    def __str__(self) -> str:
        """The table, columns aligned."""
        cells = [("layer", "shape", "kept", "weights", "sparsity")]
        for row in self.rows:
            shape = "x".join(map(str, row.shape)) or "scalar"
            if row.kept is None:
                cells.append((row.path, shape, f"{row.size:,}", f"{row.size:,}", "dense"))
            else:
                share = 1 - row.kept / row.size
                cells.append((row.path, shape, f"{row.kept:,}", f"{row.size:,}", f"{share:.4f}"))
        if self.size:
            share = 1 - self.kept / self.size
            cells.append(("sparse layers", "", f"{self.kept:,}", f"{self.size:,}", f"{share:.4f}"))
        dense = sum(row.size for row in self.rows if row.kept is None)
        whole, kept = self.size + dense, self.kept + dense
        share = f"{1 - kept / whole:.4f}" if whole else "-"
        cells.append(("all parameters", "", f"{kept:,}", f"{whole:,}", share))
        widths = [max(len(row[i]) for row in cells) for i in range(5)]
        lines = [
            "  ".join(
                cell.ljust(width) if i < 2 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in cells
        ]
        rule = "-" * max(map(len, lines))
        totals = 2 if self.size else 1
        return "\n".join([lines[0], rule, *lines[1:-totals], rule, *lines[-totals:]])


def summary(params: Params, masks: Masks) -> Summary:
    """A table with a row a layer: path, shape, kept weights, sparsity; and the totals.

    Args:
      params: Pytree of arrays or ``ShapeDtypeStruct`` leaves.
      masks: Like ``params``: concrete bool arrays, ``optax.MaskedNode()`` where dense.

    Returns:
      A ``Summary``: print it, or read its ``rows``, ``kept`` and ``size``.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> params = {"bias": jnp.zeros(2), "kernel": jnp.zeros((4, 2))}
      >>> print(summary(params, {"bias": optax.MaskedNode(), "kernel": jnp.zeros((4, 2), bool)}))
      layer           shape  kept  weights  sparsity
      ----------------------------------------------
      bias            2         2        2     dense
      kernel          4x2       0        8    1.0000
      ----------------------------------------------
      sparse layers             0        8    1.0000
      all parameters            2       10    0.8000
    """
    rows = [
        SummaryRow(
            path=path,
            shape=tuple(weight.shape),
            kept=None if is_dense(mask) else int(jnp.sum(mask, dtype=jnp.int32)),
            size=math.prod(weight.shape),
        )
        for path, weight, mask in pairs_of(params, masks)[0]
        if not is_dense(weight)
    ]
    return Summary(tuple(rows))


def sparse_paths(masks: Masks) -> list[str]:
    """The paths of the leaves that have a mask: what the numbers of ``UpdateInfo.kept`` stand for.

    Args:
      masks: Pytree of arrays or ``ShapeDtypeStruct`` leaves, ``optax.MaskedNode()`` where dense.

    Returns:
      Paths like ``"Dense_0/kernel"``, in the order of ``jax.tree.leaves(masks)``.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> sparse_paths({"a": {"bias": optax.MaskedNode(), "kernel": jnp.ones((2, 2), bool)}})
      ['a/kernel']
    """
    return [path for path, mask in flatten_with_paths(masks)[0] if not is_dense(mask)]


def dense_masks(params: Params) -> PyTree:
    """Masks for a tree in which every leaf is dense.

    Args:
      params: Any pytree.

    Returns:
      Like ``params`` with ``optax.MaskedNode()`` at every leaf.

    Example:
      >>> dense_masks({"a": 1, "b": (2, 3)})
      {'a': MaskedNode(), 'b': (MaskedNode(), MaskedNode())}
    """
    return jax.tree.map(lambda leaf: optax.MaskedNode(), params)
