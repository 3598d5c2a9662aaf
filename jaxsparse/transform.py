"""``sparsify``: an algorithm and an optimizer, as one optax gradient transformation."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int

from jaxsparse._counting import all_finite
from jaxsparse._held import held_update
from jaxsparse._report import report
from jaxsparse._tree import is_dense, map_masks
from jaxsparse.base import (
    MaskAlgorithm,
    Masks,
    Memory,
    Params,
    Regrowth,
    UpdateInfo,
    never,
    remember_nothing,
)
from jaxsparse.forward import step_key
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
            masks = algorithm.init(step_key(number, jnp.uint32(_INIT)), params)
        else:
            masks = dense_masks(params)
        inner_state = inner.init(params)
        zero = lambda: jnp.zeros((), jnp.int32)
        memory = algorithm.start(masks, params)
        if algorithm.dense_weights and jax.tree.leaves(masks):
            # The masks of the first forward pass are by the weights as they are.
            key = step_key(number, jnp.uint32(_INIT))
            # (Jitted: one program where there is no jit around it.)
            first = jax.jit(algorithm.update)
            masks, _ = first(key, masks, params, params, jnp.int32(-1), memory)
            memory = algorithm.start(masks, params)
        elif algorithm.due is not None and jax.tree.leaves(masks):
            warn_of_slots(inner, inner_state, params, masks)
        info = report(masks, masks)._replace(updates=zero(), skipped=zero())
        return SparsityState(zero(), number, masks, memory, info, inner_state)

    def update(
        updates: Params, state: Any, params: Params | None = None, **extra: Any
    ) -> tuple[Params, SparsityState]:
        grads = updates
        if params is None:
            raise ValueError("sparsify needs the parameters: call tx.update(grads, state, params)")
        step, before = state.sparse_step, state.masks
        memory = state.memory
        if algorithm.remember is not remember_nothing:
            memory = algorithm.remember(memory, before, params, jax.tree.map(_finite, grads), step)
        due, moves = algorithm.due, bool(algorithm.due and jax.tree.leaves(before))
        key = lambda: step_key(state.seed, step)
        # What ranks are the gradients as they come; what trains may be others.
        given = grads
        if algorithm.backward is not None and jax.tree.leaves(before):
            given, learned = algorithm.backward(key(), before, params, grads, step, memory)
            sound = all_finite([[grad] for grad in jax.tree.leaves(grads)])
            memory = jax.tree.map(lambda new, old: jnp.where(sound, new, old), learned, memory)

        def moved(old: Masks, info: UpdateInfo, weights: Params) -> tuple[Masks, UpdateInfo]:
            new, latest = algorithm.update(key(), old, weights, grads, step, memory)
            return new, _accumulate(info, latest)

        def behind_a_forward_pass() -> tuple[Params, Masks, UpdateInfo, Any]:
            """Dense weights are trained; then the masks follow the weights that come out."""
            updates, inner_state = inner.update(given, state.inner_state, params, **extra)
            if algorithm.trains is not None:
                may = algorithm.trains(before, params, memory)
                updates = map_masks(_masked, may, updates, dense=lambda update: update)
            masks, info = before, state.info
            if due and moves:
                after = optax.apply_updates(params, updates)
                follow = lambda old, info: moved(old, info, after)
                masks, info = _if_due(due(step), follow, (before, info))
            return updates, masks, info, inner_state

        # Every update pauses training, or some step trains what has just grown.
        pauses = moves and algorithm.pauses is not never
        mixed = moves and algorithm.pauses is not due

        def regrown() -> Regrowth | None:
            regrow = algorithm.regrow
            return regrow(key(), before, params, grads, memory) if regrow else None

        def fresh(inner_state: Any, old: Masks, new: Masks) -> Any:
            regrowth, grown = regrown(), map_masks(_grown, new, old)
            added = map_masks(_where_grown, grown, regrowth.slots) if regrowth else _zeros(new)
            kept = map_masks(jnp.logical_not, grown)
            return reset_slots(inner, inner_state, params, kept, added)

        def move(old: Masks, info: UpdateInfo, inner_state: Any) -> tuple[Any, ...]:
            new, info = moved(old, info, params)
            return new, info, inner_state if mixed else fresh(inner_state, old, new)

        def masked() -> tuple[Params, Masks, UpdateInfo, Any]:
            """First the topology, by the weights and gradients as they come; then what is left and
            was there before is trained, and what has grown starts at zero."""
            masks, info, inner_state = before, state.info, state.inner_state
            if due and moves:
                masks, info, inner_state = _if_due(due(step), move, (masks, info, inner_state))
            updated = info.updates > state.info.updates
            # (Where every update pauses, nothing asks which weights were there before.)
            trained = map_masks(jnp.logical_and, masks, before) if mixed else masks
            kept_grads = map_masks(_masked, trained, given, dense=lambda grad: grad)
            train = lambda inner_state: inner.update(kept_grads, inner_state, params, **extra)
            if pauses:
                paused = algorithm.pauses(step) & updated
                updates, inner_state = held_update(train, inner_state, paused)
            else:
                updates, inner_state = train(inner_state)
            if mixed:
                again = lambda inner_state: (fresh(inner_state, before, masks),)
                (inner_state,) = _if_due(updated, again, (inner_state,))
            updates = map_masks(_exact, trained, updates, params, dense=lambda u, p: u)
            regrowth = regrown() if moves else None
            if regrowth:
                grown = map_masks(_grown, masks, before)
                start = lambda u, p, value: u
                updates = map_masks(_started, grown, updates, params, regrowth.values, dense=start)
            return updates, masks, info, inner_state

        trained = behind_a_forward_pass if algorithm.dense_weights else masked
        updates, masks, info, inner_state = trained()
        return updates, SparsityState(
            jnp.asarray(optax.safe_increment(step)), state.seed, masks, memory, info, inner_state
        )

    return optax.GradientTransformationExtraArgs(init, update)


def vmap_axes(state: Any, axis: int | None = 0) -> Any:
    """Axes for ``jax.vmap`` over seeds: everything on ``axis``, but the sparse step shared.

    With these as ``in_axes`` and ``out_axes`` drop/grow is one loop of the program, run only when
    due and in place. A step with a seed axis runs it where any seed is due, and selects the masks
    of each at every step.

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


def _if_due(due: Any, move: Callable[..., Any], carry: Any) -> Any:
    """``cond(due, move, keep)`` as a loop of one pass or none: that is done in place.

    (XLA copies what a branch of a conditional hands through: here all masks, at every step.)
    """
    wait = (jnp.asarray(due), carry)
    _, carry = jax.lax.while_loop(
        lambda state: state[0], lambda state: (jnp.zeros_like(state[0]), move(*state[1])), wait
    )
    return carry


def _zeros(masks: Masks) -> Any:
    return map_masks(lambda mask: 0.0, masks)


def _accumulate(before: UpdateInfo, info: UpdateInfo) -> UpdateInfo:
    """The carried report: counts add up, the rest is the latest update that took place."""
    latest = jax.tree.map(lambda new, old: jnp.where(info.updates > 0, new, old), info, before)
    return latest._replace(
        updates=before.updates + info.updates, skipped=before.skipped + info.skipped
    )


def _finite(grad: Array) -> Array:
    """Zeros for numbers that are not finite: memory would never get rid of them."""
    return jnp.where(jnp.isfinite(grad), grad, jnp.zeros_like(grad))


def _grown(new: Array, old: Array) -> Array:
    return new & ~old


def _masked(mask: Array, grad: Array) -> Array:
    return jnp.where(mask, grad, jnp.zeros_like(grad))


def _exact(mask: Array, update: Array, weight: Array) -> Array:
    """``where(mask, u, -p)``, in the wider dtype: half precision would lose some of p."""
    dtype = jnp.promote_types(update.dtype, weight.dtype)
    return jnp.where(mask, update.astype(dtype), -weight.astype(dtype))


def _started(grown: Array, update: Array, weight: Array, value: Any) -> Array:
    """What takes a grown weight to the value that it starts from."""
    return jnp.where(grown, (jnp.asarray(value) - weight).astype(update.dtype), update)


def _where_grown(grown: Array, slot: Any) -> Any:
    plain = is_dense(slot) or (isinstance(slot, float) and slot == 0)
    return slot if plain else jnp.where(grown, slot, 0.0)
