"""A really smaller network: units that nothing needs are taken out of the arrays."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from jaxsparse._jaxprs import flat_program
from jaxsparse._table import aligned
from jaxsparse._tree import flatten_with_paths, is_dense
from jaxsparse.base import Masks, Params
from jaxsparse.units._axes import analyse
from jaxsparse.units._needed import unneeded
from jaxsparse.units._replay import kept_axes, replay, take
from jaxsparse.units.groups import groups_of
from jaxsparse.units.paths import masks_like


class CompactLayer(NamedTuple):
    """One parameter leaf: its path, its shape before and after."""

    path: str
    before: tuple[int, ...]
    after: tuple[int, ...]


class Left(NamedTuple):
    """Units that do nothing and stay all the same: of which group, how many, and why."""

    group: str
    units: int
    reason: str


class Compacted(NamedTuple):
    """A smaller network; ``print`` it for a table.

    Attributes:
      params: Like the parameters, smaller.
      masks: Like ``params``; ``None`` where no masks were given.
      apply: ``(params, *inputs) -> outputs``, as the model's own function, for smaller parameters:
        it can be jitted, differentiated and vmapped, for any batch size.
      layers: One :class:`CompactLayer` a leaf.
      left: What could not be removed though it does nothing.
    """

    params: Params
    masks: Masks | None
    apply: Callable[..., Any]
    layers: tuple[CompactLayer, ...]
    left: tuple[Left, ...]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Path to shape: widths to build the model with anew."""
        return {layer.path: layer.after for layer in self.layers}

    def __str__(self) -> str:
        """A row a leaf, totals, and what was left."""
        size = lambda shapes: sum(int(np.prod(shape)) for shape in shapes)
        before = size(layer.before for layer in self.layers)
        after = size(layer.after for layer in self.layers)
        rows = [(layer.path, str(layer.before), str(layer.after)) for layer in self.layers]
        rows.append(("total", f"{before:,}", f"{after:,}"))
        lines = [aligned(rows, ("layer", "before", "after"))]
        lines += [f"left: {row.units:,} of {row.group}, {row.reason}" for row in self.left]
        return "\n".join(lines)


def compact(
    model_fn: Callable[..., Any], params: Params, masks: Masks | None, *inputs: Any
) -> Compacted:
    """Take out of the arrays every unit that the outputs do not depend on.

    Three kinds: units that no kept weight reads; units that nothing reaches and whose value is
    therefore zero (``relu(0)``, a masked scale) or a constant that can go into the biases of
    those who read it; and what only such units read, or feed. With them go the columns, rows,
    biases, scales and statistics that are theirs, over residual connections and through
    flattening. Masks of whole units (``prune_units``) and single weights are treated alike. The
    outputs are the same but for the order of sums.

    The model is traced, not described, so linen, nnx, Equinox and plain functions will do; its
    own code still asks for the old shapes, so ``apply`` evaluates the traced operations on the
    smaller ones (custom derivatives are lost there, ReLU's is not). Where the model can be built
    with other widths, build it with those of ``shapes``: the parameters fit.

    Args:
      model_fn: ``(params, *inputs) -> outputs``, in evaluation mode.
      params: Pytree of arrays: all variables, statistics too.
      masks: Like ``params``: bool arrays, ``optax.MaskedNode()`` where dense (also for a whole
        subtree). ``None``: weights that are exactly zero are absent.
      *inputs: Arrays: an example batch.

    Returns:
      A :class:`Compacted`; what does nothing but stays (the model's inputs, an axis that a
      normalization sums over, a constant in front of a padded convolution) is listed in ``left``.

    Raises:
      ValueError: if masks do not fit.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> params = {"a": jnp.ones((2, 3)), "bias": jnp.ones(3), "c": jnp.array([[1.], [0.], [2.]])}
      >>> model_fn = lambda p, x: jax.nn.relu(x @ p["a"] + p["bias"][None]) @ p["c"]
      >>> x = jnp.ones((1, 2))
      >>> small = compact(model_fn, params, None, x)
      >>> print(small)
      layer  before   after
      a      (2, 3)  (2, 2)
      bias     (3,)    (2,)
      c      (3, 1)  (2, 1)
      total      12       8
      >>> float(model_fn(params, x)[0, 0]), float(small.apply(small.params, x)[0, 0])
      (9.0, 9.0)
    """
    named, structure = flatten_with_paths(params)
    paths = [path for path, _ in named]
    marks = [optax.MaskedNode()] * len(named) if masks is None else masks_like(masks, params)
    leaves = [
        np.asarray(leaf) if is_dense(mask) else np.where(mask, leaf, np.zeros_like(leaf))
        for mask, (_, leaf) in zip(marks, named, strict=True)
    ]
    there = [
        leaf != 0 if is_dense(mask) else np.asarray(mask)
        for mask, leaf in zip(marks, leaves, strict=True)
    ]
    trace = lambda values: flat_program(
        lambda flat, *rest: model_fn(jax.tree.unflatten(structure, flat), *rest), *values
    )
    analysis = analyse(trace((leaves, *inputs)), len(leaves))
    groups = groups_of(analysis, paths)
    found = unneeded(analysis, groups, leaves, there, jax.tree.leaves(inputs), marks)
    kept = kept_axes(analysis, found.gone)
    sources = analysis.program.inputs[: len(leaves)]
    small = [
        jnp.asarray(take(leaf, kept[at])) for leaf, at in zip(found.leaves, sources, strict=True)
    ]
    small_masks = [
        mask if is_dense(mask) else jnp.asarray(take(np.asarray(mask), kept[at]))
        for mask, at in zip(marks, sources, strict=True)
    ]
    lost = [
        (leaf, axis, np.flatnonzero(~mask))
        for leaf, at in enumerate(sources)
        for axis, mask in enumerate(kept[at])
        if not mask.all()
    ]
    shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]

    def apply(params: PyTree, *inputs: Any) -> Any:
        analysis = analyse(trace((shapes, *inputs)), len(shapes))
        program = analysis.program
        gone = {
            int(analysis.roots[number])
            for leaf, axis, positions in lost
            for number in analysis.axes[program.inputs[leaf]][axis][positions]
        }
        given = [*jax.tree.leaves(params), *jax.tree.leaves(inputs)]
        outputs = replay(program, kept_axes(analysis, gone), given)
        return jax.tree.unflatten(program.structure, outputs)

    return Compacted(
        jax.tree.unflatten(structure, small),
        None if masks is None else jax.tree.unflatten(structure, small_masks),
        apply,
        tuple(
            CompactLayer(path, tuple(leaf.shape), tuple(less.shape))
            for path, leaf, less in zip(paths, leaves, small, strict=True)
        ),
        tuple(Left(name, units, reason) for (name, reason), units in found.left.items()),
    )
