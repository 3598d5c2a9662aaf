"""A masked model as the fastest function that gives the same: measured, layer by layer."""

import functools
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxsparse import units
from jaxsparse._table import aligned
from jaxsparse._tree import flatten_with_paths, is_dense
from jaxsparse.accelerate._planning import Choice, InferenceLayer, Measure, Model, layer_by_layer
from jaxsparse.accelerate.packing import bytes_of
from jaxsparse.base import Masks, Params
from jaxsparse.units.paths import masks_like

_NAMES = ("dense", "block-sparse", "condensed", "bcsr")
# Rounds of the clock: at least, at most, and the seconds after which no more are begun.
_LEAST, _MOST, _ENOUGH = 5, 50, 0.5


class CompiledInference(NamedTuple):
    """A function for inference, weights inside; ``print`` it for a table.

    Attributes:
      apply: ``(*inputs) -> outputs``, compiled; for batches of other sizes it is compiled again,
        and the choices stay.
      layers: One :class:`InferenceLayer` a masked weight.
      chosen: ``"dense"``, ``"layer by layer"``, or ``"compacted"``: units that do nothing were
        taken out first, then layer by layer.
      seconds: Of the whole function in each of these ways.
      bytes: Of the weights that it holds, and of the dense ones.
    """

    apply: Callable[..., Any]
    layers: tuple[InferenceLayer, ...]
    chosen: str
    seconds: dict[str, float]
    bytes: tuple[int, int]

    def __call__(self, *inputs: Any) -> Any:
        """The outputs.

        Args:
          *inputs: As the model's.

        Returns:
          As the model's.
        """
        return self.apply(*inputs)

    def __str__(self) -> str:
        """A row a weight with the time of each form, and the whole function's below."""
        ms = lambda seconds: "" if seconds is None else f"{1e3 * seconds:.3g} ms"
        rows = [
            (
                row.path,
                "x".join(map(str, row.shape)),
                f"{row.kept / max(math.prod(row.shape), 1):.1%}",
                row.chosen,
                *(ms(row.seconds.get(name)) for name in _NAMES),
                row.reason,
            )
            for row in self.layers
        ]
        table = aligned(rows, ("layer", "shape", "kept", "chosen", *_NAMES, "because"))
        times = ", ".join(f"{name} {ms(own)}" for name, own in self.seconds.items())
        held, dense = self.bytes
        return (
            f"{table}\nthe whole function: {self.chosen}{f' ({times})' if times else ''}\n"
            f"weights held: {held:,} bytes (dense: {dense:,})"
        )


def compile_inference(
    apply_fn: Callable[..., Any],
    params: Params,
    masks: Masks,
    *inputs: Any,
    margin: float = 0.05,
    measure: Measure | None = None,
) -> CompiledInference:
    """The fastest function of a masked model, weights inside, and a table of what was chosen.

    Every product by a masked weight (a matrix product, a projection of an attention layer, a
    convolution with a window of one) is measured on the inputs that it has in the example, in
    each form that fits its mask, and gets the fastest:

    ============  =============================================================================
    dense         as it was
    block-sparse  where the mask is made of blocks: ``block_sparse_matmul``
    condensed     where no column is fuller than half: ``condensed_matmul``
    bcsr          on a CPU: compressed rows of ``jax.experimental.sparse``
    ============  =============================================================================

    Then the whole function is, against the dense one and, where so many units do nothing that it
    may matter, against the smaller network of ``units.compact`` treated alike. What is not faster
    than dense by the margin is not chosen, so the result is as fast as dense or faster, but for
    the noise of the clock. It is compiled for one device.

    The model is traced, not described: linen, nnx (split), Equinox and plain functions will do,
    and what they call (jit, remat, custom rules). Weights that a loop, a gather or a larger
    convolution reads stay dense; the table says so.

    Args:
      apply_fn: ``(params, *inputs) -> outputs``, in evaluation mode.
      params: Pytree of concrete arrays.
      masks: Like ``params``: bool arrays, ``optax.MaskedNode()`` where dense (also for a whole
        subtree). What is not kept is zero in the result, whatever ``params`` hold there.
      *inputs: An example of the size that matters.
      margin: What part of the dense time must be saved for another form: in [0, 1).
      measure: How functions are timed: from a mapping of names to functions of no arguments to
        their seconds. Default: medians of rounds in which all take turns.

    Returns:
      A :class:`CompiledInference`: call it like the model, without the parameters.

    Raises:
      ValueError: if masks do not fit, nothing is masked, parameters are traced, or the margin is
        out of range.

    Example:
      >>> params = {"w": jnp.arange(64.0).reshape(8, 8)}
      >>> masks = {"w": jnp.arange(64).reshape(8, 8) < 8}
      >>> model = compile_inference(lambda p, x: x @ p["w"], params, masks, jnp.ones((2, 8)))
      >>> model(jnp.ones((3, 8)))[0].tolist()
      [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    """
    if not 0 <= margin < 1:
        raise ValueError(f"margin is {margin}; give a part of the dense time, in [0, 1)")
    named, structure = flatten_with_paths(params)
    marks = masks_like(masks, params)
    if all(map(is_dense, marks)):
        raise ValueError(f"none of the {len(named)} leaves has a mask; pass the masks of params")
    for path, leaf in named:
        if isinstance(leaf, Tracer):
            raise ValueError(f"{path} is traced, but its form is chosen now; call outside of jit")
    leaves = [leaf for _, leaf in named]
    model = Model(
        lambda flat, *rest: apply_fn(jax.tree.unflatten(structure, flat), *rest),
        [path for path, _ in named],
        [w if is_dense(m) else jnp.where(m, w, 0) for m, w in zip(marks, leaves, strict=True)],
        marks,
    )
    choice = Choice(margin, measure or medians)
    plans = {"layer by layer": layer_by_layer(model, inputs, choice)}
    layers = tuple(_as_dense(row) for row in plans["layer by layer"].layers)
    smaller = _compacted(apply_fn, params, masks, inputs, margin)
    if smaller is not None:
        plans["compacted"] = layer_by_layer(smaller, inputs, choice)
    dense, size = functools.partial(jax.jit(model.function), model.leaves), bytes_of(model.leaves)
    want = dense(*inputs)
    # (A plan without a change is the dense function.)
    plans = {
        name: plan
        for name, plan in plans.items()
        if (plan.changed or name == "compacted") and _agree(plan.apply(*inputs), want)
    }
    if not plans:
        return CompiledInference(dense, layers, "dense", {}, (size, size))
    ways = {"dense": dense} | {name: plan.apply for name, plan in plans.items()}
    calls = {name: functools.partial(way, *inputs) for name, way in ways.items()}
    seconds, best = choice.fastest(calls)
    if best == "dense":
        return CompiledInference(dense, layers, best, seconds, (size, size))
    plan = plans[best]
    return CompiledInference(plan.apply, plan.layers, best, seconds, (plan.bytes, size))


def _as_dense(row: InferenceLayer) -> InferenceLayer:
    """The row where the whole function stays dense."""
    if row.chosen == "dense":
        return row
    return row._replace(chosen="dense", reason=f"{row.reason} alone, but not the whole function")


def _agree(found: Any, want: Any) -> bool:
    """Are the whole results the same but for rounding? (Integers may turn on it.)"""

    def same(found: Any, want: Any) -> bool:
        if not jnp.issubdtype(want.dtype, jnp.floating):
            return True
        eps, pair = float(jnp.finfo(want.dtype).eps), (found, want)
        found, want = (np.asarray(array, np.float64).ravel() for array in pair)
        return bool(np.linalg.norm(found - want) <= 10 * eps**0.5 * np.linalg.norm(want))

    return all(jax.tree.leaves(jax.tree.map(same, found, want)))


def _compacted(
    apply_fn: Callable[..., Any],
    params: Params,
    masks: Masks,
    inputs: Sequence[Any],
    margin: float,
) -> Model | None:
    """The smaller network, where enough of it is gone to be worth measuring."""
    if any(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in jax.tree.leaves(params)):
        return None
    small = units.compact(apply_fn, params, masks, *inputs)
    before, after = (
        sum(math.prod(shape) for shape in shapes)
        for shapes in zip(*[(layer.before, layer.after) for layer in small.layers], strict=True)
    )
    if after >= (1 - margin) * before:
        return None
    apply, structure = small.apply, jax.tree.structure(params)
    return Model(
        lambda flat, *rest: apply(jax.tree.unflatten(structure, flat), *rest),
        [layer.path for layer in small.layers],
        jax.tree.leaves(small.params),
        masks_like(small.masks, small.params),
    )


def medians(functions: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    """Median times of functions that take turns, so that all see the same machine.

    Args:
      functions: By name, of no arguments; each is called once before it counts.

    Returns:
      Seconds by name.

    Example:
      >>> list(medians({"nothing": lambda: None}))
      ['nothing']
    """

    def once(function: Callable[[], Any]) -> float:
        start = time.perf_counter()
        jax.block_until_ready(function())
        return time.perf_counter() - start

    for function in functions.values():
        once(function)
    rounds: list[list[float]] = []
    while len(rounds) < _LEAST or (len(rounds) < _MOST and sum(map(sum, rounds)) < _ENOUGH):
        rounds.append([once(function) for function in functions.values()])
    columns = zip(*rounds, strict=True)
    return {name: statistics.median(own) for name, own in zip(functions, columns, strict=True)}
