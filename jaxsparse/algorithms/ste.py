"""STE: a sparse forward pass, straight-through gradients, dense weights."""

from jaxsparse import distributions, scores
from jaxsparse.base import (
    Distribution,
    MaskAlgorithm,
    ScalarOrSchedule,
    Schedule,
    Scope,
    Score,
    Structure,
    Where,
    always,
)
from jaxsparse.engine import drop_grow
from jaxsparse.forward import MaskedForward
from jaxsparse.layers import default_where


def ste(
    sparsity: ScalarOrSchedule,
    *,
    score: Score = scores.magnitude,
    distribution: Distribution = distributions.uniform,
    update: Schedule = always,
    scope: Scope = "layer",
    structure: Structure | None = None,
    where: Where = default_where,
) -> MaskAlgorithm:
    """Pruning with a straight-through estimator (JaxPruner, Lee et al., 2023; Bengio et al., 2013).

    ==================  ==========  =======================  =============================
    sparsity over time  chosen      forward                  trained
    ==================  ==========  =======================  =============================
    any                 at updates  the best by ``score``    all weights, straight through
    ==================  ==========  =======================  =============================

    ``score=scores.magnitude`` is magnitude pruning: a weight that was hidden comes back as soon as
    it is large enough. With a constant sparsity and an update at every step this is ``dnw``; here
    sparsity may rise, and updates may be rare. ``score=scores.random`` draws the masks anew at
    every update: the control.

    Args:
      sparsity: Fraction of zeros in the forward pass, over the sparse leaves, in [0, 1); a float
        or ``step -> float``, for instance ``polynomial_sparsity(0.9, 0, 50_000)``.
      score: What is kept, ``(key, weight, grad, mask, memory) -> score``; ``scores.random``: masks
        drawn anew at updates.
      distribution: ``(params, sparsity, *, where) -> kept counts``; JaxPruner's is uniform.
      update: ``step -> bool``: when masks are chosen; by JaxPruner at every step.
      scope: ``"layer"``, or ``"global"``: leaves compete for the sum.
      structure: What is kept together; default: single weights.
      where: ``(path, leaf) -> bool``: which leaves may be sparse.

    Returns:
      A ``MaskAlgorithm``.

    Raises:
      ValueError: if ``sparsity`` is out of range.

    Example:
      >>> import jax.numpy as jnp, optax, jaxsparse
      >>> method = ste(jaxsparse.polynomial_sparsity(0.75, 0, 8), update=jaxsparse.every(2))
      >>> tx, params = jaxsparse.sparsify(optax.sgd(0.0), method), {"w": jnp.arange(4.0)[None]}
      >>> state, kept = tx.init(params), []
      >>> for step in range(10):
      ...     _, state = tx.update(params, state, params)
      ...     kept.append(int(state.info.kept[0]))
      >>> print(kept)
      [4, 4, 2, 2, 1, 1, 1, 1, 1, 1]

    Differences from the paper: counts are whole numbers from shapes (JaxPruner rounds a density);
    masks follow the training step instead of preceding the forward pass, which is the same order
    of events; JaxPruner has no global scope for it.

    References:
      Lee et al., `JaxPruner: A concise library for sparsity research
      <https://arxiv.org/abs/2304.14082>`_, 2023; Bengio et al., `Estimating or Propagating
      Gradients Through Stochastic Neurons <https://arxiv.org/abs/1308.3432>`_, 2013.
    """
    return drop_grow(
        sparsity=sparsity,
        distribution=distribution,
        update=update,
        drop=None,
        grow=score,
        scope=scope,
        structure=structure,
        where=where,
        start=lambda masks, params: MaskedForward(),
        dense_gradients=always,
        dense_weights=True,
    )
