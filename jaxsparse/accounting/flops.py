"""Floating-point operations of one call, dense and sparse, counted from the jaxpr."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from .._table import aligned
from .._tree import check_known, match_globs
from ._jaxpr import ACTIVATION, MACS, NO_LEAF, OUTPUTS, Costs, Counting, Origin, count
from ._leaves import Leaf, array_leaves, is_array
from .conventions import CONVENTIONS, Convention


class LayerFlops(NamedTuple):
    """The products that one parameter leaf feeds, summed over all its uses.

    Attributes:
      path: Of the leaf, or ``"(activations)"`` for products without a parameter operand.
      shape: Of the leaf; ``()`` for activations.
      kept: Weights kept in the leaf; 0 for activations.
      dense: Operations with all weights present.
      sparse: Operations that the kept weights need.
      fixed: Of both, the operations that no mask saves: ``micronet``'s biases and activations, and
        products of activations.
    """

    path: str
    shape: tuple[int, ...]
    kept: int
    dense: int
    sparse: int
    fixed: int = 0


class FlopsReport(NamedTuple):
    """Operations of one call; ``print`` it for a table.

    Attributes:
      layers: One :class:`LayerFlops` a parameter leaf, in order of first use.
    """

    layers: tuple[LayerFlops, ...]

    @property
    def dense(self) -> int:
        """Operations with all weights present."""
        return sum(layer.dense for layer in self.layers)

    @property
    def sparse(self) -> int:
        """Operations that the kept weights need."""
        return sum(layer.sparse for layer in self.layers)

    @property
    def ratio(self) -> float:
        """``sparse / dense``; 1 for a call without any product."""
        return self.sparse / self.dense if self.dense else 1.0

    def share(self, kept: Mapping[str, Any]) -> Any:
        """Operations where other numbers of weights are kept, as a fraction of dense.

        Args:
          kept: Path of a leaf -> its kept weights: an int or an int array, traced or not. A leaf
            that is not named keeps all its weights.

        Returns:
          float32, of the arrays' shape.

        Raises:
          ValueError: If a leaf is named that feeds no product.

        Example:
          >>> import jax.numpy as jnp
          >>> params, x = {"w": jnp.ones((4, 4))}, jnp.ones((1, 4))
          >>> report = flops(lambda p, x: x @ p["w"] @ x.T, params, x)
          >>> round(float(report.share({"w": jnp.int32(4)})), 6), (2 * 4 + 2 * 4) / (2 * 16 + 2 * 4)
          (0.4, 0.4)
        """
        for path in kept:
            check_known("leaf", path, [layer.path for layer in self.layers])
        saved = 0.0
        for layer in self.layers:
            if layer.path in kept:
                zeros = 1 - kept[layer.path] / math.prod(layer.shape)
                saved += (layer.dense - layer.fixed) / self.dense * zeros
        return jnp.float32(1) - saved

    def __str__(self) -> str:
        """A row a layer, and the totals."""
        rows = [
            (row.path, str(row.shape), f"{row.kept:,}", f"{row.dense:,}", f"{row.sparse:,}")
            for row in self.layers
        ]
        ratios = [row.sparse / row.dense if row.dense else 1.0 for row in self.layers]
        rows.append(("total", "", "", f"{self.dense:,}", f"{self.sparse:,}"))
        return aligned(
            [
                (*row, f"{ratio:.4f}")
                for row, ratio in zip(rows, [*ratios, self.ratio], strict=True)
            ],
            ("layer", "shape", "kept", "dense flops", "sparse flops", "ratio"),
        )


def flops(
    apply_fn: Callable[..., Any],
    params: PyTree,
    *inputs: Any,
    masks: PyTree | None = None,
    convention: str | Convention = "multiply-add",
    while_steps: int | None = None,
) -> FlopsReport:
    """Count the operations of ``apply_fn(params, *inputs)``, dense and with masks.

    The function is traced, not run: nothing is allocated, and any function of arrays will do
    (linen, nnx, Equinox, Haiku, plain). A product is charged to the parameter leaf that feeds it,
    through reshapes, casts, slices and multiplications by a mask, and costs ``kept / size`` of its
    dense cost when that leaf is masked. Products between activations (attention scores) cost the
    same either way, and so do those with sums of different leaves, which fill each other's zeros.
    Kernels concatenated for one product share it by size. A ``cond`` costs as much as its dearest
    branch, a ``scan`` its length times its body, and what custom calls do outside JAX is not seen.
    For the cost of a training step, see :func:`jaxsparse.accounting.step_training_flops`.

    Args:
      apply_fn: Called as ``apply_fn(params, *inputs)``.
      params: Pytree of arrays or ``jax.ShapeDtypeStruct`` leaves: what ``apply_fn`` takes first.
      *inputs: Arrays or ``ShapeDtypeStruct`` leaves; the report is for this batch, not per sample.
        Leaves that are no arrays (a bool, a string) are passed on as they are.
      masks: Pytree like ``params``: bool arrays, or Python ints, which are kept counts (what a
        distribution returns). ``optax.MaskedNode()``, or nothing, where a leaf is dense.
      convention: ``"multiply-add"``: 2 for each multiply-accumulate of a matrix product or a
        convolution (taps that fall on padding included), and nothing else. ``"micronet"``, or
        :func:`jaxsparse.accounting.micronet` with options: as RigL's published numbers count, a
        bias and an activation of each output besides.
      while_steps: Trip count of every ``while`` loop that holds products.

    Returns:
      A :class:`FlopsReport` with ``dense``, ``sparse``, ``ratio`` and ``layers``, all exact ints
      but the ratio.

    Raises:
      ValueError: If the convention is unknown, if one of its globs matches no leaf, if ``masks`` do
        not fit ``params``, if a ``while`` loop with products has no declared trip count, or if
        products hide in a primitive whose body cannot be read (a Pallas kernel).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> params = {"w": jax.ShapeDtypeStruct((784, 10), jnp.float32)}
      >>> x = jax.ShapeDtypeStruct((32, 784), jnp.float32)
      >>> report = flops(lambda p, x: x @ p["w"], params, x, masks={"w": 784})
      >>> report.dense, report.sparse, report.ratio
      (501760, 50176, 0.1)

    References:
      Evci et al., `Rigging the Lottery <https://arxiv.org/abs/1911.11134>`_, ICML 2020,
      Appendix H, for the use of such counts.
    """
    if isinstance(convention, str):
        check_known("convention", convention, CONVENTIONS)
        convention = CONVENTIONS[convention]
    leaves = {leaf.position: leaf for leaf in array_leaves(params, masks)}
    counting = Counting(
        {position: leaf.size for position, leaf in leaves.items()},
        while_steps,
        _padded_as_image(convention, leaves),
        convention.depthwise_as_one,
    )
    costs = _costs(apply_fn, params, inputs, counting)
    return FlopsReport(
        tuple(
            _layer(
                None if position == NO_LEAF else leaves[position],
                costs[position, MACS],
                costs[position, OUTPUTS],
                convention,
            )
            for position, what in costs
            if what == MACS
        )
    )


def _layer(leaf: Leaf | None, macs: int, outputs: int, convention: Convention) -> LayerFlops:
    """The operations of a leaf, or of the products that have none, from their sums."""
    if leaf is None:
        both = 2 * macs + convention.each_sum * outputs
        return LayerFlops("(activations)", (), 0, both, both, both)
    fixed = convention.each_output * outputs
    # Exact whenever all of a leaf is used; a slice of one is rounded to the nearest integer.
    kept = (4 * macs * leaf.kept + leaf.size) // (2 * leaf.size) if leaf.size else 0
    return LayerFlops(leaf.path, leaf.shape, leaf.kept, 2 * macs + fixed, kept + fixed, fixed)


def _padded_as_image(convention: Convention, leaves: dict[int, Leaf]) -> frozenset[int]:
    """Positions of the leaves that the convention's globs name."""
    paths = [leaf.path for leaf in leaves.values()]
    hits = match_globs(convention.padded_as_image, paths, "padded_as_image")
    return frozenset(at for at, hit in zip(leaves, hits, strict=True) if hit is not None)


def _costs(
    apply_fn: Callable[..., Any], params: PyTree, inputs: tuple[Any, ...], counting: Counting
) -> Costs:
    """Multiply-accumulates and outputs, by position of the parameter leaf that feeds them."""
    values, structure = jax.tree.flatten((params, *inputs))
    traced = [i for i, value in enumerate(values) if is_array(value)]

    def call(arrays: list[Any]) -> Any:
        filled = list(values)
        for i, array in zip(traced, arrays, strict=True):
            filled[i] = array
        out = apply_fn(*jax.tree.unflatten(structure, filled))
        # A jaxpr returns arrays only; what else a function returns costs nothing.
        return [leaf for leaf in jax.tree.leaves(out) if is_array(leaf)]

    jaxpr = jax.make_jaxpr(call)([values[i] for i in traced])
    # Parameters come first, so a leaf's position there is its position in the flat call.
    origins = [Origin((i,)) if i in counting.sizes else ACTIVATION for i in traced]
    return count(jaxpr.jaxpr, origins, counting)[1]
