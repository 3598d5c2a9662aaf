"""Effective sparsity: the weights that lie on a path from the input to the output."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from jaxsparse._jaxprs import Operation, dependent, flat_program
from jaxsparse._table import aligned
from jaxsparse._tree import flatten_with_paths, is_dense
from jaxsparse.base import Masks, Params
from jaxsparse.masks import pairs_of
from jaxsparse.units._support import evaluate


class EffectiveLayer(NamedTuple):
    """One masked leaf.

    Attributes:
      path: Of the leaf.
      size: Weights.
      kept: Weights that the mask keeps.
      effective: Kept weights on a path from an input to an output.
      dead: Units along the last axis (outputs) without an effective weight.
      units: All of them.
    """

    path: str
    size: int
    kept: int
    effective: int
    dead: int
    units: int


class EffectivePaths(NamedTuple):
    """What a masked network really uses; ``print`` it for a table.

    Attributes:
      masks: Like the masks: True where a kept weight is on a path from an input to an output.
      inputs: Like the inputs, of one example: True where some path starts.
      layers: One :class:`EffectiveLayer` a masked leaf.
    """

    masks: Masks
    inputs: PyTree
    layers: tuple[EffectiveLayer, ...]

    @property
    def sparsity(self) -> float:
        """Fraction of weights that are absent: what the masks say."""
        return 1 - sum(row.kept for row in self.layers) / sum(row.size for row in self.layers)

    @property
    def effective_sparsity(self) -> float:
        """Fraction of weights that are absent or on no path."""
        return 1 - sum(row.effective for row in self.layers) / sum(row.size for row in self.layers)

    @property
    def unreachable_inputs(self) -> int:
        """Numbers of the input from which no path reaches an output."""
        return sum(int(np.sum(~np.asarray(leaf))) for leaf in jax.tree.leaves(self.inputs))

    def __str__(self) -> str:
        """A row a leaf, and the inputs."""
        rows = [
            (
                row.path,
                f"{row.size:,}",
                f"{row.kept:,}",
                f"{row.effective:,}",
                f"{row.dead:,} of {row.units:,}",
            )
            for row in self.layers
        ]
        size, kept, effective = (
            sum(column) for column in zip(*[row[1:4] for row in self.layers], strict=True)
        )
        rows.append(("total", f"{size:,}", f"{kept:,}", f"{effective:,}", ""))
        inputs = sum(leaf.size for leaf in jax.tree.leaves(self.inputs))
        return "\n".join(
            [
                aligned(rows, ("layer", "weights", "kept", "effective", "dead units")),
                f"sparsity {self.sparsity:.4f}, effective {self.effective_sparsity:.4f}; "
                f"{self.unreachable_inputs:,} of {inputs:,} inputs reach no output",
            ]
        )


def effective_paths(
    model_fn: Callable[[Params, Any], Any], params: Params, masks: Masks, inputs: Any
) -> EffectivePaths:
    """Find the weights that no path uses, the units that are dead, the inputs nobody reads.

    A weight is effective if it is kept, its unit is reached from an input, and an output is
    reached from it, all through kept weights. The model is traced, not described: its operations
    are evaluated on zeros and ones, forward for what the input reaches, backward for what reaches
    an output, so convolutions (padding included), pooling and residual connections need no rule
    of their own. Biases and running statistics are no paths. A unit whose weights happen to
    cancel, or a ReLU that is never on, still counts as used.

    Args:
      model_fn: ``(params, inputs) -> outputs``, in evaluation mode.
      params: Pytree of arrays or ``ShapeDtypeStruct`` leaves; values are not looked at.
      masks: Like ``params``: bool arrays, ``optax.MaskedNode()`` where dense (also for a whole
        subtree).
      inputs: Arrays or ``ShapeDtypeStruct`` leaves, with a batch of 1.

    Returns:
      :class:`EffectivePaths`, with NumPy arrays.

    Raises:
      ValueError: for an operation on data that paths cannot be followed through (a loop, a
        gather), or if nothing is masked.

    Example:
      >>> import jax.numpy as jnp
      >>> params = {"a": jnp.ones((2, 2)), "b": jnp.ones((2, 1))}
      >>> masks = {"a": jnp.array([[True, True], [False, False]]),
      ...          "b": jnp.array([[True], [False]])}
      >>> paths = effective_paths(lambda p, x: x @ p["a"] @ p["b"], params, masks, jnp.ones((1, 2)))
      >>> print(paths)
      layer  weights  kept  effective  dead units
      a            4     2          1      1 of 2
      b            2     1          1      0 of 1
      total        6     3          2
      sparsity 0.5000, effective 0.6667; 1 of 2 inputs reach no output

    References:
      Vysogorets and Kempe, `Connectivity matters: neural network pruning through the lens of
      effective sparsity <https://arxiv.org/abs/2107.02306>`_, JMLR 2023.
    """
    marks = masks_like(masks, params)
    program = flat_program(model_fn, params, inputs)
    named = flatten_with_paths(params)[0]
    depends = dependent(program, program.inputs[len(named) :])
    given = [_shape_of(leaf) for leaf in jax.tree.leaves(inputs)]

    def reached(kept: list[Array], sources: list[Array]) -> Array:
        values = dict(zip(program.inputs, [*kept, *sources], strict=True))
        known = evaluate(program, values, depends, _cannot_follow)
        return sum((jnp.sum(known[at]) for at in program.outputs if depends[at]), jnp.float32(0))

    kept = [
        jnp.ones(leaf.shape, jnp.float32) if is_dense(mask) else jnp.asarray(mask, jnp.float32)
        for mask, (_, leaf) in zip(marks, named, strict=True)
    ]
    sources = [jnp.ones(shape, jnp.float32) for shape in given]
    slopes, ends = jax.jit(jax.grad(reached, (0, 1)))(kept, sources)
    used = [
        mask if is_dense(mask) else np.asarray(mask) & (np.asarray(slope) > 0)
        for mask, slope in zip(marks, slopes, strict=True)
    ]
    rows = [
        _row(path, np.asarray(mask), effective)
        for (path, _), mask, effective in zip(named, marks, used, strict=True)
        if not is_dense(mask)
    ]
    if not rows:
        raise ValueError(f"none of the {len(named)} leaves has a mask; pass the masks of params")
    structure = jax.tree.structure(params)
    return EffectivePaths(
        jax.tree.unflatten(structure, used),
        jax.tree.unflatten(jax.tree.structure(inputs), [np.asarray(end) > 0 for end in ends]),
        tuple(rows),
    )


def masks_like(masks: Masks, params: Params) -> list[Any]:
    """A mask, or the mark of none, for each leaf of the parameters.

    Args:
      masks: Like ``params``; a ``MaskedNode()`` may stand for a subtree.
      params: Pytree of arrays.

    Returns:
      A list in the order of the leaves.

    Raises:
      ValueError: if a mask has another shape than its leaf, or another number of leaves.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> params = {"params": {"w": jnp.ones(2)}, "stats": {"mean": jnp.ones(1)}}
      >>> masks = {"params": {"w": jnp.array([True, False])}, "stats": optax.MaskedNode()}
      >>> masks_like(masks, params)
      [Array([ True, False], dtype=bool), MaskedNode()]
    """
    if jax.tree.structure(masks, is_leaf=is_dense) != jax.tree.structure(params, is_leaf=is_dense):
        spread = lambda mask, part: jax.tree.map(lambda _: mask, part) if is_dense(mask) else mask
        masks = jax.tree.map(spread, masks, params, is_leaf=is_dense)
    return [mask for _, _, mask in pairs_of(params, masks)[0]]


def _shape_of(leaf: Any) -> tuple[int, ...]:
    return tuple(leaf.shape)


def _cannot_follow(operation: Operation) -> None:
    raise ValueError(
        f"cannot follow paths through {operation.name!r}; pass a model_fn without it, such as "
        "layers written out in place of a loop"
    )


def _row(path: str, mask: np.ndarray, effective: np.ndarray) -> EffectiveLayer:
    """Counts of one leaf."""
    units = mask.shape[-1] if mask.ndim else 1
    alive = effective.reshape(-1, units).any(0) if math.prod(mask.shape) else np.zeros(units, bool)
    return EffectiveLayer(
        path, mask.size, int(mask.sum()), int(effective.sum()), int((~alive).sum()), units
    )
