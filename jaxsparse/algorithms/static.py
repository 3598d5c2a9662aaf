"""Static random pruning: a fixed random mask."""

from jaxsparse import distributions
from jaxsparse.base import Distribution, MaskAlgorithm, Structure, Where
from jaxsparse.engine import drop_grow
from jaxsparse.layers import default_where


def static(
    sparsity: float,
    *,
    distribution: Distribution = distributions.erk,
    structure: Structure | None = None,
    where: Where = default_where,
) -> MaskAlgorithm:
    """Draw a random mask once and train under it: the control for every other method.

    ==================  ====  ====  ====
    sparsity over time  swap  drop  grow
    ==================  ====  ====  ====
    constant            0     none  none
    ==================  ====  ====  ====

    Args:
      sparsity: Fraction of zeros over the sparse leaves, in [0, 1).
      distribution: ``(params, sparsity, *, where) -> kept counts``.
      structure: What is kept together; default: single weights.
      where: ``(path, leaf) -> bool``: which leaves may be sparse.

    Returns:
      A ``MaskAlgorithm``.

    Raises:
      ValueError: if ``sparsity`` is out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> masks = static(0.9).init(jax.random.key(0), {"kernel": jnp.ones((20, 10))})
      >>> int(masks["kernel"].sum())
      20

    Differences from the paper: exact counts, where published code draws each weight by itself
    (Liu et al.). google-research/rigl calls this ``scratch``; its ``static`` also sets the
    smallest weights to zero at every update, which is not done here.

    References:
      Liu et al., `The Unreasonable Effectiveness of Random Pruning
      <https://arxiv.org/abs/2202.02643>`_, ICLR 2022.
    """
    return drop_grow(sparsity=sparsity, distribution=distribution, structure=structure, where=where)
