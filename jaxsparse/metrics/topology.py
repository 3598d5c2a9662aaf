"""Which connections there are: how they change over time, how units are connected, how far apart.

Leaves without a mask have no topology and never count. ``jaxsparse.overlap`` (Jaccard) compares two
sets of masks, ``jaxsparse.explored`` and ``jaxsparse.exploration_rate`` keep account during
training; here are pure functions of masks.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxsparse._tree import is_dense, map_masks
from jaxsparse.base import Masks, Params
from jaxsparse.units import effective_paths


class Churn(NamedTuple):
    """What ``churn`` found.

    Attributes:
      total: Share of all connections kept before that are gone, in [0, 1].
      layers: Like the masks: the share in each leaf; ``optax.MaskedNode()`` where dense.
    """

    total: Float[Array, ""]
    layers: PyTree


def churn(before: Masks, after: Masks) -> Churn:
    """The share of kept connections that were replaced.

    Where as many were grown as dropped, that is the share of new ones, too, and RigL's drop
    fraction if nothing that was dropped came back; with other counts, ``churn(after, before)`` is
    the share of new ones.

    Args:
      before: Pytree of bool arrays and ``optax.MaskedNode()``.
      after: Like ``before``, later.

    Returns:
      :class:`Churn`, float32; 0 where nothing was kept before.

    Example:
      >>> before = {"w": jnp.array([True, True, False, False])}
      >>> after = {"w": jnp.array([True, False, True, False])}
      >>> float(churn(before, after).total)
      0.5
    """
    gone = map_masks(lambda a, b: _count(a & ~b), before, after)
    kept = map_masks(_count, before)
    share = lambda part, whole: part / jnp.maximum(whole, 1)
    return Churn(share(_sum(gone), _sum(kept)), map_masks(share, gone, kept))


def union(first: Masks, second: Masks) -> Masks:
    """What either keeps; a leaf that is dense in one of them is dense.

    Folded over the masks of a training it is what was ever kept, and ``jaxsparse.density`` of that
    is ITOP's exploration rate R_s.

    Args:
      first: Pytree of bool arrays and ``optax.MaskedNode()``.
      second: Like ``first``.

    Returns:
      Like ``first``.

    Example:
      >>> union({"w": jnp.array([True, False])}, {"w": jnp.array([False, False])})["w"].tolist()
      [True, False]
    """
    either = lambda a, b: b if is_dense(b) else a | b
    return map_masks(either, first, second)


def exploration_rates(history: Masks) -> Float[Array, " steps"]:
    """Share of the weights kept at any step so far, after each step (R_s of ITOP).

    Args:
      history: Pytree of bool arrays (steps, ...), ``optax.MaskedNode()`` where dense: the masks of
        a training, stacked.

    Returns:
      float32, never falling; over all leaves that have a mask.

    Raises:
      ValueError: if no leaf has a mask.

    Example:
      >>> history = {"w": jnp.array([[True, False], [True, False], [False, True]])}
      >>> exploration_rates(history).tolist()
      [0.5, 0.5, 1.0]

    References:
      Liu et al., `Do We Actually Need Dense Over-Parameterization?
      <https://arxiv.org/abs/2102.02887>`_, ICML 2021, section 3.1.
    """
    masks = jax.tree.leaves(history)
    if not masks:
        raise ValueError("no leaf of the history has a mask, so nothing was explored")
    size = sum(math.prod(mask.shape[1:]) for mask in masks)

    def step(ever: list[Array], now: list[Array]) -> tuple[list[Array], Array]:
        ever = [a | b for a, b in zip(ever, now, strict=True)]
        return ever, _sum([_count(mask) for mask in ever]) / size

    _, rates = jax.lax.scan(step, [jnp.zeros_like(mask[0]) for mask in masks], masks)
    return rates


class Degrees(NamedTuple):
    """Connections of each unit of one kernel.

    Attributes:
      fan_in: Of each output unit, shaped like the axes of outputs.
      fan_out: Of each input unit, shaped like the axes of inputs.
    """

    fan_in: Int[Array, "..."]
    fan_out: Int[Array, "..."]


def degrees(
    mask: Bool[Array | np.ndarray, "..."],
    *,
    inputs: int | tuple[int, ...] = -2,
    outputs: int | tuple[int, ...] = -1,
) -> Degrees:
    """Kept connections into each output, and out of each input, of one kernel.

    The defaults are right for dense (in, out) and convolution (height, width, in, out) kernels;
    each tap of a filter is a connection. ``jax.tree.map(degrees, masks)`` does all leaves at once.

    Args:
      mask: bool, two dimensions at least.
      inputs: Axis of the inputs, or several: ``(0, 1)`` for an output projection of attention,
        (heads, size, out).
      outputs: Axis of the outputs, or several.

    Returns:
      :class:`Degrees`, int32.

    Raises:
      ValueError: for fewer than two dimensions, or if an axis is both or does not exist.

    Example:
      >>> found = degrees(jnp.array([[True, True], [True, False], [False, False]]))
      >>> found.fan_in.tolist(), found.fan_out.tolist()
      ([2, 1], [2, 1, 0])
    """
    ins, outs = (_axes(axes, mask.ndim) for axes in (inputs, outputs))
    if mask.ndim < 2 or set(ins) & set(outs):
        raise ValueError(
            f"inputs {inputs} and outputs {outputs} of a mask of shape {mask.shape}; they must be "
            "different axes of two or more"
        )
    others = lambda axes: tuple(axis for axis in range(mask.ndim) if axis not in axes)
    return Degrees(
        jnp.sum(mask, others(outs), dtype=jnp.int32), jnp.sum(mask, others(ins), dtype=jnp.int32)
    )


def degree_histogram(degree: Int[Array, "..."], largest: int) -> Int[Array, " bins"]:
    """How many units have 0, 1, ..., ``largest`` connections: the degree distribution.

    Args:
      degree: Of each unit, as from ``degrees``.
      largest: The last bin, static; units with more are counted there.

    Returns:
      int32 (largest + 1), its sum the number of units.

    Raises:
      ValueError: if ``largest`` is negative.

    Example:
      >>> degree_histogram(jnp.array([2, 0, 2, 7]), 3).tolist()
      [1, 0, 2, 1]
    """
    if largest < 0:
        raise ValueError(f"largest is {largest}; it must be at least 0")
    clipped = jnp.minimum(degree.reshape(-1), largest)
    return jnp.bincount(clipped, length=largest + 1).astype(jnp.int32)


def dead_units(
    model_fn: Callable[[Params, Any], Any], params: Params, masks: Masks, inputs: Any
) -> PyTree:
    """The units without any path from an input to an output through kept weights.

    Not to be compiled: the model is traced and masks are looked at
    (:func:`jaxsparse.units.effective_paths`, which counts them and finds unused weights, too).

    Args:
      model_fn: ``(params, inputs) -> outputs``, in evaluation mode.
      params: Pytree of arrays or ``ShapeDtypeStruct`` leaves; values are not looked at.
      masks: Like ``params``: bool arrays, ``optax.MaskedNode()`` where dense.
      inputs: Arrays or ``ShapeDtypeStruct`` leaves, with a batch of 1.

    Returns:
      Like ``masks``: bool NumPy vectors, one entry a unit along the last axis (outputs), True where
      it is dead.

    Raises:
      ValueError: for an operation that paths cannot be followed through, or if nothing is masked.

    Example:
      >>> params = {"a": jnp.ones((2, 2)), "b": jnp.ones((2, 1))}
      >>> masks = {"a": jnp.array([[True, True], [False, False]]),
      ...          "b": jnp.array([[True], [False]])}
      >>> dead = dead_units(lambda p, x: x @ p["a"] @ p["b"], params, masks, jnp.ones((1, 2)))
      >>> dead["a"].tolist(), dead["b"].tolist()  # nobody reads the second hidden unit
      ([False, True], [False])
    """
    used = effective_paths(model_fn, params, masks, inputs).masks
    return map_masks(lambda mask: ~mask.any(tuple(range(mask.ndim - 1))), used)


def _axes(axes: int | tuple[int, ...], ndim: int) -> tuple[int, ...]:
    """Not negative; what does not exist is refused."""
    given = (axes,) if isinstance(axes, int) else axes
    if any(not -ndim <= axis < ndim for axis in given):
        raise ValueError(f"axis {axes} of a mask of {ndim} dimensions; it must be one of them")
    return tuple(axis % ndim for axis in given)


def _count(mask: Any) -> Array:
    return jnp.sum(mask, dtype=jnp.int32).astype(jnp.float32)


def _sum(counts: PyTree) -> Array:
    return jnp.asarray(sum(jax.tree.leaves(counts)), jnp.float32)
