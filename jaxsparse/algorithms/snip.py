"""SNIP: prune once, before training, by connection sensitivity."""

from jaxsparse import distributions, scores
from jaxsparse.base import Distribution, MaskAlgorithm, Scope, Structure, Where
from jaxsparse.engine import drop_grow
from jaxsparse.layers import default_where
from jaxsparse.schedules import at, check_sparsity, one_shot


def snip(
    sparsity: float,
    *,
    step: int = 0,
    scope: Scope = "global",
    distribution: Distribution = distributions.uniform,
    structure: Structure | None = None,
    where: Where = default_where,
) -> MaskAlgorithm:
    """Keep the connections whose removal would change the loss most (Lee et al., 2019, eq. 4-5).

    ================================  ====  ========  ====
    sparsity over time                swap  drop      grow
    ================================  ====  ========  ====
    0 before ``step``, then constant  0     saliency  none
    ================================  ====  ========  ====

    The first step's gradient, on its batch, at the dense initialization, decides; that step does
    not train.

    Args:
      sparsity: Fraction of zeros over the sparse leaves, in [0, 1).
      step: When to prune; 0 in the paper.
      scope: ``"global"``, as in the paper; ``"layer"`` with a ``distribution`` is RigL's baseline.
      distribution: ``(params, sparsity, *, where) -> kept counts``; only its sum counts under
        ``"global"``.
      structure: What is pruned together; default: single weights.
      where: ``(path, leaf) -> bool``: which leaves may be sparse.

    Returns:
      A ``MaskAlgorithm``.

    Raises:
      ValueError: if a number is out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> method, params = snip(0.5), {"kernel": jnp.array([[1.0, 2.0], [3.0, 4.0]])}
      >>> grads = {"kernel": jnp.array([[9.0, -8.0], [0.1, 0.1]])}
      >>> masks = method.init(jax.random.key(0), params)
      >>> masks, info = method.update(jax.random.key(1), masks, params, grads, 0)
      >>> masks["kernel"].tolist()
      [[True, True], [False, False]]

    Differences from the paper: published code also prunes biases, which here stay dense unless
    ``where`` takes them, and trains another initialization than the one it scored: for that, use
    ``before_training`` with ``saliency.of_weights``.

    References:
      Lee et al., `SNIP: Single-shot Network Pruning based on Connection Sensitivity
      <https://arxiv.org/abs/1810.02340>`_, ICLR 2019.
    """
    check_sparsity(sparsity)
    return drop_grow(
        sparsity=one_shot(sparsity, step),
        distribution=distribution,
        update=at(step),
        drop=scores.saliency,
        pauses=at(step),
        scope=scope,
        structure=structure,
        where=where,
    )
