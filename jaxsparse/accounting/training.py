"""What training costs, from the cost of forward passes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..base import MaskAlgorithm, Masks, Params, gradients_read
from ..masks import sparse_paths
from ..transform import SparsityState
from .flops import FlopsReport


class StepCost(NamedTuple):
    """What one training step cost; float32 scalars.

    Attributes:
      inference: Operations of a forward pass with the masks after the step, as a fraction of dense.
      training: Operations of the step, in dense forward passes; 3 for a dense step.
      parameters: Parameters of its forward pass: the kept ones, and all that no mask covers. Their
        mean over training is the size that scaling laws of sparse pretraining hold in.
    """

    inference: Float[Array, ""]
    training: Float[Array, ""]
    parameters: Float[Array, ""]


def step_cost(
    report: FlopsReport,
    algorithm: MaskAlgorithm,
    before: SparsityState,
    after: SparsityState,
    params: Params,
) -> StepCost:
    """The cost of the step that led from one state to the next, by the method's own definition.

    It follows from what the step did: the masks that it started with are those of the forward pass
    and of the gradient of the activations; the gradient of the weights is that of the same weights,
    of all at steps that read gradients of absent weights (``algorithm.dense_gradients``), and of
    the trained ones where a method trains more than it sees (``algorithm.trains``: Top-KAST); under
    ``partition``, each layer as its own method says. Call it inside the compiled step. As in the
    papers, what selecting and pruning before training take is not counted, nor are the optimizer
    and normalization.

    Args:
      report: :func:`jaxsparse.flops` of the forward pass, whose first argument is ``params``; for
        any batch.
      algorithm: What ``sparsify`` was given.
      before: The state that ``update`` was given.
      after: The state that it returned.
      params: The parameters that it was given.

    Returns:
      A :class:`StepCost`.

    Example:
      >>> import jax, jax.numpy as jnp, optax, jaxsparse
      >>> method = jaxsparse.rigl(0.9)
      >>> tx, params = jaxsparse.sparsify(optax.sgd(0.1), method), {"w": jnp.ones((40, 10))}
      >>> report = jaxsparse.flops(lambda p, x: x @ p["w"], params, jnp.ones((1, 40)))
      >>> before = tx.init(params)
      >>> _, after = tx.update(params, before, params)
      >>> cost = step_cost(report, method, before, after, params)
      >>> [round(float(x), 3) for x in cost]  # no update at step 0
      [0.1, 0.3, 40.0]

    References:
      Evci et al., `Rigging the Lottery <https://arxiv.org/abs/1911.11134>`_, ICML 2020,
      Appendix H; Jin et al., `The Journey Matters: Average Parameter Count over Pre-training
      Unifies Sparse and Dense Scaling Laws <https://arxiv.org/abs/2501.12486>`_, ICLR 2025.
    """
    paths = sparse_paths(before.masks)
    kept = dict(zip(paths, before.info.kept, strict=False))
    used = report.share(_fed(report, kept))
    left = report.share(_fed(report, dict(zip(paths, after.info.kept, strict=False))))
    step, read = before.sparse_step, used
    dense_gradients = algorithm.dense_gradients(step)
    if paths and (algorithm.reads or algorithm.trains):
        masks = gradients_read(algorithm, before.masks, params, after.memory, step)
        read, dense_gradients = report.share(_fed(report, _counts(masks))), False
    training = step_training_flops(1.0, used, dense_gradients, trained=read)
    dense = sum(leaf.size for leaf in jax.tree.leaves(params)) - sum(
        mask.size for mask in jax.tree.leaves(before.masks)
    )
    number = jnp.float32(dense) + sum(count.astype(jnp.float32) for count in kept.values())
    return StepCost(left, jnp.asarray(training, jnp.float32), number)


def _counts(masks: Masks) -> dict[str, Array]:
    flags = zip(sparse_paths(masks), jax.tree.leaves(masks), strict=True)
    return {path: jnp.sum(mask, dtype=jnp.float32) for path, mask in flags}


def _fed(report: FlopsReport, kept: dict[str, Any]) -> dict[str, Any]:
    """Without leaves that feed no product."""
    known = {layer.path for layer in report.layers}
    return {path: count for path, count in kept.items() if path in known}


def step_training_flops(
    dense: Any, sparse: Any, dense_gradients: Any, *, trained: Any = None
) -> Any:
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
      trained: Operations of a forward pass with the weights whose gradients are read, where these
        are others than the sparse pass has and not all (Top-KAST's B); ``None``: ``sparse``.

    Returns:
      ``2 sparse + (dense if dense_gradients else trained)``: an array if any argument is one.

    Example:
      >>> step_training_flops(1000, 100, False), step_training_flops(1000, 100, True)
      (300, 1200)
      >>> step_training_flops(1000, 100, False, trained=200)
      400

    References:
      Evci et al., `Rigging the Lottery <https://arxiv.org/abs/1911.11134>`_, ICML 2020,
      Appendix H.
    """
    read = sparse if trained is None else trained
    if isinstance(dense_gradients, bool):
        return 2 * sparse + (dense if dense_gradients else read)
    return 2 * sparse + jnp.where(dense_gradients, dense, read)


def training_flops(
    dense: int | float,
    sparse: int | float | Callable[[int], int | float],
    dense_gradients: Callable[[int], Any],
    *,
    steps: int,
    trained: int | float | Callable[[int], int | float] | None = None,
) -> int | float:
    """The operations of a whole training run.

    =====================  ===================  ====================  =============================
    method                 ``sparse``           ``dense_gradients``   a step costs, on average
    =====================  ===================  ====================  =============================
    dense                  f_D                  never                 3 f_D
    static, SET, SNIP      f_S                  never                 3 f_S
    RigL                   f_S                  each ΔT + 1 steps     (3 f_S ΔT + 2 f_S + f_D)
                                                                      / (ΔT + 1)
    SNFS                   f_S                  always                2 f_S + f_D
    Top-KAST               f_A, trained f_B     never                 2 f_A + f_B
    gradual pruning        f of the schedule    never                 E_t[3 f_D (1 - s_t)]
    the same, second form  f of the schedule    always                E_t[2 f_D (1 - s_t) + f_D]
    =====================  ===================  ====================  =============================

    Gradual pruning's first form is RigL's appendix, the second that of its reproducibility report,
    which has the gradients of all weights read throughout.

    Args:
      dense: Operations of a dense forward pass over one batch.
      sparse: Operations of the sparse forward pass, or ``step -> operations`` where the sparsity
        changes (gradual pruning).
      dense_gradients: ``step -> bool``: the steps that read gradients of absent weights,
        ``algorithm.dense_gradients``; called once a step.
      steps: Number of training steps.
      trained: Operations of a forward pass with the weights that are trained, where these are more
        than the sparse pass has (Top-KAST's B), or ``step -> operations``.

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
    at = lambda value, step: value(step) if callable(value) else value
    return sum(
        step_training_flops(
            dense, at(sparse, step), bool(dense_gradients(step)), trained=at(trained, step)
        )
        for step in range(steps)
    )
