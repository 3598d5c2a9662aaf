"""``sparsify``: an algorithm and an optimizer, as one optax gradient transformation."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int

from jaxsparse._tree import map_masks
from jaxsparse.base import MaskAlgorithm, Masks, Memory, Params, Regrowth, UpdateInfo, never
from jaxsparse.engine import report
from jaxsparse.masks import dense_masks, sparsity_states
from jaxsparse.slots import reset_slots, warn_of_slots

# No step has this number, so the first masks share no randomness with any update.
_INIT = 2**32 - 1


class SparsityState(NamedTuple):
    """What ``sparsify`` carries, beside the inner optimizer's state.

    Attributes:
      sparse_step: int32 scalar, calls of ``update`` so far.
      seed: uint32 scalar; all randomness is a fold of it, the step and the leaf's index.
      masks: Like the parameters: bool arrays, ``optax.MaskedNode()`` where dense.
      memory: The algorithm's own memory; ``()`` for most.
      info: The latest ``UpdateInfo``; ``updates`` and ``skipped`` are sums since the start.
      inner_state: State of the inner optimizer.
    """

    sparse_step: Int[Array, ""]
    seed: Int[Array, "..."]
    masks: Masks
    memory: Memory
    info: UpdateInfo
    inner_state: optax.OptState


def sparsify(
    inner: optax.GradientTransformation, algorithm: MaskAlgorithm, *, seed: Any = 0
) -> optax.GradientTransformationExtraArgs:
    """Train sparse: wrap an optimizer, keep everything else as it is.

    Dense gradients go in; after ``optax.apply_updates`` the weights off the mask are exactly
    zero. Put it outermost: a transformation after it would break the zeros (clipping, weight
    decay and schedules go inside). True in a mask is kept, the opposite of ``optax.freeze``.

    Args:
      inner: Any optax optimizer. It sees gradients that are zero off the mask.
      algorithm: A ``MaskAlgorithm``: ``rigl(0.9)``, ``static(0.9)``, ``partition(...)``, ...
      seed: Whole number in [0, 2^32), or a traced one: a ``vmap`` over seeds is one program.

    Returns:
      ``optax.GradientTransformationExtraArgs`` with state ``SparsityState``. Extra arguments are
      passed on to ``inner``.

    Raises:
      ValueError: if ``seed`` is out of range; in ``init``, if nothing may be sparse or a budget
        does not fit; in ``update``, if ``params`` is missing.

    Example:
      >>> import jax, jax.numpy as jnp, optax, jaxsparse
      >>> tx = jaxsparse.sparsify(optax.adamw(1e-3), jaxsparse.rigl(0.9))
      >>> params = {"kernel": jnp.ones((20, 10)), "bias": jnp.zeros(10)}
      >>> state = tx.init(params)
      >>> updates, state = tx.update(jax.tree.map(jnp.ones_like, params), state, params)
      >>> int((optax.apply_updates(params, updates)["kernel"] != 0).sum())
      20
    """
    inner = optax.with_extra_args_support(inner)
    if isinstance(seed, float) or (isinstance(seed, int | np.integer) and not 0 <= seed < 2**32):
        raise ValueError(f"seed is {seed}; give a whole number in [0, 2**32)")

    def init(params: Params) -> SparsityState:
        known = isinstance(seed, int | np.integer)  # half of them do not fit the default int32
        number = jnp.asarray(np.uint32(seed) if known else seed).astype(jnp.uint32)
        if jax.tree.leaves(params):
            masks = algorithm.init(_step_key(number, jnp.uint32(_INIT)), params)
        else:
            masks = dense_masks(params)
        inner_state = inner.init(params)
        if algorithm.due is not None and jax.tree.leaves(masks):
            warn_of_slots(inner, inner_state, params, masks)
        zero = lambda: jnp.zeros((), jnp.int32)
        info = report(masks, masks)._replace(updates=zero(), skipped=zero())
        return SparsityState(
            zero(), number, masks, algorithm.start(masks, params), info, inner_state
        )

    def update(
        updates: Params, state: Any, params: Params | None = None, **extra: Any
    ) -> tuple[Params, SparsityState]:
        grads = updates
        if params is None:
            raise ValueError("sparsify needs the parameters: call tx.update(grads, state, params)")
        step, masks, info = state.sparse_step, state.masks, state.info
        memory = algorithm.remember(state.memory, masks, params, grads, step)
        kept_grads = map_masks(
            lambda mask, grad: jnp.where(mask, grad, jnp.zeros_like(grad)),
            masks,
            grads,
            dense=lambda grad: grad,
        )
        updates, inner_state = inner.update(kept_grads, state.inner_state, params, **extra)
        values = _zeros(masks)
        if algorithm.due is not None and jax.tree.leaves(masks):
            key = _step_key(state.seed, step)
            pausing = algorithm.pauses(step)

            def move() -> tuple[Masks, UpdateInfo]:
                # Ranked is what this step's training leaves, if it trains.
                step_taken = jax.tree.map(lambda u: jnp.where(pausing, 0, u), updates)
                weights = optax.apply_updates(params, step_taken)
                return _accumulate(
                    info, *algorithm.update(key, state.masks, weights, grads, step, memory)
                )

            masks, info = jax.lax.cond(algorithm.due(step), move, lambda: (state.masks, info))
            if algorithm.pauses is not never:
                paused = pausing & (info.updates > state.info.updates)
                updates = jax.tree.map(lambda u: jnp.where(paused, jnp.zeros_like(u), u), updates)
                inner_state = jax.tree.map(
                    lambda old, new: jnp.where(paused, old, new), state.inner_state, inner_state
                )
            regrowth = Regrowth(values, _zeros(masks))
            if algorithm.regrow is not None:
                regrowth = algorithm.regrow(key, state.masks, params, grads)
            values = regrowth.values
            grown = map_masks(lambda new, old: new & ~old, masks, state.masks)
            inner_state = reset_slots(inner, inner_state, params, grown, regrowth.slots)
        updates = _exact_zeros(masks, state.masks, updates, params, values)
        return updates, SparsityState(
            jnp.asarray(optax.safe_increment(step)), state.seed, masks, memory, info, inner_state
        )

    return optax.GradientTransformationExtraArgs(init, update)


def vmap_axes(state: Any, axis: int | None = 0) -> Any:
    """Axes for ``jax.vmap`` over seeds: everything on ``axis``, but the sparse step shared.

    A step with a seed axis would turn the update's ``cond`` into a ``select``, and drop/grow
    would run at every step. With these as ``in_axes`` and ``out_axes`` it runs only when due.

    Args:
      state: An optimizer state or train state with one or several ``SparsityState`` inside, for
        instance from ``jax.eval_shape``.
      axis: The seed axis.

    Returns:
      Pytree of axes like ``state``.

    Example:
      >>> import jax, jax.numpy as jnp, optax, jaxsparse
      >>> make = lambda seed: jaxsparse.sparsify(optax.sgd(0.1), jaxsparse.rigl(0.5), seed=seed)
      >>> init = lambda seed: make(seed).init({"kernel": jnp.ones((4, 4))})
      >>> axes = vmap_axes(jax.eval_shape(init, 0))
      >>> states = jax.vmap(init, out_axes=axes)(jnp.arange(3))
      >>> states.sparse_step.shape, states.masks["kernel"].shape
      ((), (3, 4, 4))
    """
    steps = {id(part.sparse_step) for part in sparsity_states(state)}
    return jax.tree.map(lambda leaf: None if id(leaf) in steps else axis, state)


def _step_key(seed: Array, step: Array) -> Array:
    return jax.random.fold_in(jax.random.key(seed), step)


def _zeros(masks: Masks) -> Any:
    return map_masks(lambda mask: 0.0, masks)


def _accumulate(before: UpdateInfo, masks: Masks, info: UpdateInfo) -> tuple[Masks, UpdateInfo]:
    """The carried report: counts add up, the rest is the latest update that took place."""
    latest = jax.tree.map(lambda new, old: jnp.where(info.updates > 0, new, old), info, before)
    return masks, latest._replace(
        updates=before.updates + info.updates, skipped=before.skipped + info.skipped
    )


def _exact_zeros(masks: Masks, before: Masks, updates: Any, params: Params, values: Any) -> Any:
    """``where(mask, u, -p)``, and ``value - p`` where a weight has just grown."""

    def one(mask: Array, old: Array, update: Array, weight: Array, value: Any) -> Array:
        # Gradients in half precision: -p in it would not take all of p away.
        dtype = jnp.promote_types(update.dtype, weight.dtype)
        held = jnp.where(mask & old, update.astype(dtype), -weight.astype(dtype))
        if isinstance(value, float) and value == 0:
            return held
        grown = (jnp.asarray(value) - weight).astype(dtype)
        return jnp.where(mask & ~old, grown, held)

    return map_masks(one, masks, before, updates, params, values, dense=lambda old, u, p, v: u)
