"""What algorithms carry from step to step: pairs of pure functions ``(start, remember)``."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jaxsparse._tree import map_masks
from jaxsparse.base import Masks, Memory, Params, Schedule, remember_nothing, start_nothing
from jaxsparse.schedules import within


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
