"""GraSP: prune before training what the gradient's norm does without."""

from collections.abc import Callable
from typing import Any

from jaxsparse import distributions
from jaxsparse.algorithms.before_training import before_training
from jaxsparse.base import Distribution, MaskAlgorithm, Scope, Where
from jaxsparse.layers import default_where
from jaxsparse.saliency import cross_entropy, gradient_flow


def grasp(
    sparsity: float,
    *,
    model_fn: Callable[..., Any] | None = None,
    batches: Any = None,
    temperature: float = 200.0,
    absolute: bool = False,
    scope: Scope = "global",
    distribution: Distribution = distributions.uniform,
    where: Where = default_where,
) -> MaskAlgorithm:
    """Gradient signal preservation ("GraSP", Wang et al., 2020, equation 8).

    =====================  ====  ========  ====
    sparsity over time     swap  drop      grow
    =====================  ====  ========  ====
    0, then constant       0     w (H g)   none
    =====================  ====  ========  ====

    Args:
      sparsity: Fraction of zeros over the sparse leaves, in [0, 1).
      model_fn: ``(params, inputs) -> logits``; the loss is their cross-entropy. (For any other
        loss: ``before_training(sparsity, saliency=gradient_flow(loss_fn, batches))``.)
      batches: ``(inputs, labels)``, arrays (batches, examples, ...); in published code ten examples
        of each class.
      temperature: Logits are divided by it; 200 in published code.
      absolute: Rank by ``|w (H g)|``.
      scope: ``"global"``, as in the paper, or ``"layer"``.
      distribution: ``(params, sparsity, *, where) -> kept counts``; only its sum counts under
        ``"global"``.
      where: ``(path, leaf) -> bool``: which leaves may be sparse.

    Returns:
      A ``MaskAlgorithm``.

    Raises:
      ValueError: if ``model_fn`` or ``batches`` is missing, or a number is out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> model_fn = lambda params, inputs: inputs @ params["w"]
      >>> batches = (jnp.array([[[1.0, 0.1]]]), jnp.array([[0]]))  # one batch of one example
      >>> method, params = grasp(0.5, model_fn=model_fn, batches=batches), {"w": jnp.eye(2)}
      >>> masks = method.init(jax.random.key(0), params)
      >>> method.update(jax.random.key(1), masks, params, params, 0)[0]["w"].sum().item()
      2

    Differences from the paper: see ``saliency.gradient_flow``.

    References:
      Wang et al., `Picking Winning Tickets Before Training by Preserving Gradient Flow
      <https://arxiv.org/abs/2002.07376>`_, ICLR 2020.
    """
    if model_fn is None or batches is None:
        raise ValueError(
            "grasp needs model_fn= and batches=: (params, inputs) -> logits, and (inputs, labels), "
            "arrays (batches, examples, ...)"
        )
    return before_training(
        sparsity,
        saliency=gradient_flow(cross_entropy(model_fn, temperature), batches, absolute=absolute),
        scope=scope,
        distribution=distribution,
        where=where,
    )
