"""What algorithms carry from step to step: pairs of pure functions ``(start, remember)``."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxsparse import scores
from jaxsparse._tree import leaf_indices, map_masks
from jaxsparse.base import (
    Masks,
    Memory,
    Params,
    Schedule,
    remember_nothing,
    start_nothing,
)
from jaxsparse.schedules import check_fraction, within


class Moments(NamedTuple):
    """The running averages of a leaf's dense gradients and of their squares, as in Adam."""

    mean: Float[Array, "..."]
    square: Float[Array, "..."]


def gradient_window(
    update: Schedule, steps: int
) -> tuple[Callable[..., Memory], Callable[..., Memory]]:
    """The sum of the dense gradients of the last few steps before each update.

    Args:
      update: ``step -> bool``: when the sum is read; it starts anew after that.
      steps: Gradients in a sum, at least 1; with 1 there is nothing to carry.

    Returns:
      ``start(masks, params)`` and ``remember(memory, masks, params, grads, step)``; the memory is
      like the masks, float32 arrays.

    Raises:
      ValueError: if ``steps`` is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxsparse import at
      >>> start, remember = gradient_window(at(2), 2)
      >>> masks, grads = {"w": jnp.ones(1, bool)}, {"w": jnp.ones(1)}
      >>> memory = start(masks, grads)
      >>> for step in range(3):
      ...     memory = remember(memory, masks, grads, grads, step)
      >>> memory["w"].tolist()
      [2.0]
    """
    if steps < 1:
        raise ValueError(f"gradient_steps is {steps}; it must be at least 1")
    inside = within(update, steps)
    if steps == 1:
        return start_nothing, remember_nothing

    def start(masks: Masks, params: Params) -> Memory:
        del params
        return map_masks(lambda mask: jnp.zeros_like(mask, jnp.float32), masks)

    def remember(memory: Memory, masks: Masks, params: Params, grads: Params, step: Any) -> Memory:
        del params
        step = jnp.asarray(step)
        fresh = update(step - 1)

        def one(mask: Any, total: Any, grad: Any) -> Any:
            del mask
            total = jnp.where(fresh, 0.0, total)
            return total + jnp.where(inside(step), grad, 0.0).astype(jnp.float32)

        return map_masks(one, masks, memory, grads)

    return start, remember


def gradient_average(
    decay: float = 0.9, squares: float | None = None
) -> tuple[Callable[..., Memory], Callable[..., Memory]]:
    """The running average of the dense gradients: ``m = decay m + (1 - decay) g``.

    In proportion to the momentum that SGD would have of them.

    Args:
      decay: In [0, 1].
      squares: Decay of a second average, of the squared gradients; ``None``: there is none.

    Returns:
      ``start(masks, params)`` and ``remember(memory, masks, params, grads, step)``; the memory is
      like the masks: float32 arrays, or ``Moments`` of two with ``squares``.

    Raises:
      ValueError: if a decay is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> start, remember = gradient_average(0.5)
      >>> masks, grads = {"w": jnp.ones(1, bool)}, {"w": jnp.array([4.0])}
      >>> memory = remember(start(masks, grads), masks, grads, grads, 0)
      >>> remember(memory, masks, grads, grads, 1)["w"].tolist()
      [3.0]
    """
    check_fraction(decay, "momentum")
    if squares is not None:
        check_fraction(squares, "squares")

    def start(masks: Masks, params: Params) -> Memory:
        del params

        def one(mask: Any) -> Any:
            zeros = lambda: jnp.zeros_like(mask, jnp.float32)
            return zeros() if squares is None else Moments(zeros(), zeros())

        return map_masks(one, masks)

    def remember(memory: Memory, masks: Masks, params: Params, grads: Params, step: Any) -> Memory:
        del params, step

        def one(mask: Any, average: Any, grad: Any) -> Any:
            del mask
            grad = grad.astype(jnp.float32)

            mixed = lambda old, new, decay: decay * old + (1 - decay) * new
            if squares is None:
                return mixed(average, grad, decay)
            mean, square = mixed(average.mean, grad, decay), mixed(average.square, grad**2, squares)
            return Moments(mean, square)

        return map_masks(one, masks, memory, grads)

    return start, remember


class Threshold(NamedTuple):
    """A threshold that follows how much it drops: at the latest update, and at the next one."""

    now: Float[Array, "..."]
    next: Float[Array, "..."]


def adaptive_threshold(
    update: Schedule, initial: float, drop_fraction: float, tolerance: float
) -> tuple[Callable[..., Memory], Callable[..., Memory]]:
    """A magnitude below which weights go: doubled where too few do, halved where too many.

    Args:
      update: ``step -> bool``: when it is used, and then adapted.
      initial: The first threshold, positive.
      drop_fraction: The fraction of all kept weights that is to go at an update, in [0, 1].
      tolerance: What may lie between, as a fraction of that: 0.1 is 10 % more or less.

    Returns:
      ``start(masks, params)`` and ``remember(memory, masks, params, grads, step)``; the memory is
      a ``Threshold``.

    Raises:
      ValueError: if a number is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxsparse.base import always
      >>> start, remember = adaptive_threshold(always, 1.0, 0.5, 0.1)
      >>> params, masks = {"w": jnp.array([3.0, 4.0])}, {"w": jnp.ones(2, bool)}
      >>> memory = start(masks, params)
      >>> for step in range(4):
      ...     memory = remember(memory, masks, params, params, step)
      ...     print(float(memory.now), float(memory.next))
      1.0 2.0
      2.0 4.0
      4.0 4.0
      4.0 4.0
    """
    check_fraction(drop_fraction, "drop_fraction")
    check_fraction(tolerance, "tolerance")
    if initial <= 0:
        raise ValueError(f"threshold is {initial}; it must be positive")

    def start(masks: Masks, params: Params) -> Memory:
        del masks, params
        first = lambda: jnp.full((), initial, jnp.float32)
        return Threshold(first(), first())

    def remember(memory: Memory, masks: Masks, params: Params, grads: Params, step: Any) -> Memory:
        del grads

        def adapted(memory: Any) -> Any:
            def small(mask: Array, weight: Array) -> tuple[Array, Array]:
                kept = jnp.sum(mask, dtype=jnp.int32)
                gone = jnp.sum(mask & (jnp.abs(weight) < memory.next), dtype=jnp.int32)
                return kept, jnp.minimum(gone, jnp.maximum(kept - 1, 0))

            counts = jax.tree.leaves(map_masks(small, masks, params))
            target = drop_fraction * sum(counts[::2], jnp.int32(0))
            gone = sum(counts[1::2], jnp.int32(0))
            few, many = gone < (1 - tolerance) * target, gone > (1 + tolerance) * target
            factor = jnp.where(few, 2.0, jnp.where(many, 0.5, 1.0))
            # Never 0, from which no doubling leads.
            least, most = jnp.finfo(jnp.float32).tiny, jnp.finfo(jnp.float32).max / 2
            return Threshold(memory.next, jnp.clip(memory.next * factor, least, most))

        return jax.lax.cond(update(step), adapted, lambda memory: memory, memory)

    return start, remember


def fixed_signs(masks: Masks, params: Params) -> Memory:
    """Which weights are positive at first, for good; where one is 0, a draw the same for all seeds.

    Args:
      masks: Read for their places.
      params: Initial weights.

    Returns:
      Pytree of bool arrays like the masks.

    Example:
      >>> import jax.numpy as jnp
      >>> fixed_signs({"w": jnp.ones(2, bool)}, {"w": jnp.array([2.0, -1.0])})["w"].tolist()
      [True, False]
    """

    def one(mask: Array, index: int, weight: Array) -> Array:
        del mask
        drawn = scores.random(jax.random.key(index), weight, None, None, None)
        return jnp.where(weight == 0, drawn % 2 == 0, weight > 0)

    return map_masks(one, masks, leaf_indices(masks), params)


def initial_weights(masks: Masks, params: Params) -> Memory:
    """A ``start``: a copy of the weights as they are, in float32.

    (A copy, because a program that donates the parameters and the state cannot donate one buffer
    twice.)

    Args:
      masks: Says which leaves are copied.
      params: Pytree of arrays.

    Returns:
      Like the masks: float32 arrays.

    Example:
      >>> import jax.numpy as jnp
      >>> initial_weights({"w": jnp.ones(2, bool)}, {"w": jnp.array([1.0, 2.0])})
      {'w': Array([1., 2.], dtype=float32)}
    """
    return map_masks(lambda mask, w: jnp.array(w, jnp.float32, copy=True), masks, params)
