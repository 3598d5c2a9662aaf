"""What training costs, from the cost of forward passes."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp


def step_training_flops(dense: Any, sparse: Any, dense_gradients: Any) -> Any:
    """The operations of one training step, from those of its forward pass.

    Forward and the gradient of the activations use kept weights only, ``2 sparse``. The gradient
    of the weights costs as much again, unless absent weights' gradients are read at this step
    (RigL at an update, sparse momentum always): then it is that of the dense network. Selecting
    what to drop and grow, the optimizer and normalization are not counted.

    Args:
      dense: Operations of a dense forward pass, ``FlopsReport.dense``; a number or an array.
      sparse: Operations of the sparse forward pass at this step; a number or an array.
      dense_gradients: Whether the step reads gradients of absent weights,
        ``algorithm.dense_gradients(step)``; a bool or a bool array, traced or not.

    Returns:
      ``2 sparse + (dense if dense_gradients else sparse)``: an array if any argument is one.

    Example:
      >>> step_training_flops(1000, 100, False), step_training_flops(1000, 100, True)
      (300, 1200)

    References:
      Evci et al., `Rigging the Lottery <https://arxiv.org/abs/1911.11134>`_, ICML 2020,
      Appendix H.
    """
    if isinstance(dense_gradients, bool):
        return 2 * sparse + (dense if dense_gradients else sparse)
    return 2 * sparse + jnp.where(dense_gradients, dense, sparse)


def training_flops(
    dense: int | float,
    sparse: int | float | Callable[[int], int | float],
    dense_gradients: Callable[[int], Any],
    *,
    steps: int,
) -> int | float:
    """The operations of a whole training run.

    Args:
      dense: Operations of a dense forward pass over one batch.
      sparse: Operations of the sparse forward pass, or ``step -> operations`` where the sparsity
        changes (gradual pruning).
      dense_gradients: ``step -> bool``: the steps that read gradients of absent weights,
        ``algorithm.dense_gradients``; called once a step.
      steps: Number of training steps.

    Returns:
      The sum of :func:`step_training_flops` over ``range(steps)``; divide by ``3 * dense * steps``
      to compare with dense training.

    Example:
      >>> training_flops(1000, 100, lambda step: step % 100 == 0, steps=200)  # RigL
      61800

    References:
      Evci et al., `Rigging the Lottery <https://arxiv.org/abs/1911.11134>`_, ICML 2020,
      Appendix H.
    """
    return sum(
        step_training_flops(
            dense, sparse(step) if callable(sparse) else sparse, bool(dense_gradients(step))
        )
        for step in range(steps)
    )
