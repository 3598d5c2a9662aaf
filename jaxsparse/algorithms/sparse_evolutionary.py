"""SET: drop the smallest weights, grow at random."""

from jaxsparse import distributions, scores
from jaxsparse.base import Distribution, MaskAlgorithm, ScalarOrSchedule, Schedule, Structure, Where
from jaxsparse.engine import drop_grow
from jaxsparse.layers import default_where
from jaxsparse.schedules import every


def sparse_evolutionary(
    sparsity: ScalarOrSchedule,
    *,
    distribution: Distribution = distributions.er,
    update: Schedule = every(100, start=100),
    drop_fraction: ScalarOrSchedule = 0.3,
    structure: Structure | None = None,
    regrow_dropped: bool = True,
    where: Where = default_where,
) -> MaskAlgorithm:
    """Sparse evolutionary training ("SET", Mocanu et al., 2018, Algorithm 1).

    ==================  =================  =========  ======
    sparsity over time  swap               drop       grow
    ==================  =================  =========  ======
    constant            constant fraction  magnitude  random
    ==================  =================  =========  ======

    The update step also trains: the masks first, then the weights that stay.

    Args:
      sparsity: Fraction of zeros over the sparse leaves, in [0, 1).
      distribution: ``(params, sparsity, *, where) -> kept counts``; Erdos-Renyi in the paper.
      update: ``step -> bool``. The paper's is the end of each epoch.
      drop_fraction: The paper's zeta, in [0, 1]; 0.3.
      structure: What is kept together; default: single weights.
      regrow_dropped: May a weight dropped by this update grow again at once?
      where: ``(path, leaf) -> bool``: which leaves may be sparse.

    Returns:
      A ``MaskAlgorithm``.

    Raises:
      ValueError: if a number is out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> evolve, params = sparse_evolutionary(0.9), {"kernel": jnp.ones((20, 10))}
      >>> masks = evolve.init(jax.random.key(0), params)
      >>> masks, info = evolve.update(jax.random.key(1), masks, params, params, 100)
      >>> int(info.kept[0])
      20

    Differences from the paper: the smallest weights by magnitude are dropped, as in RigL's SET,
    where the paper drops the smallest positive and the largest negative ones separately; updates
    come every 100 steps by default; grown weights start at zero with fresh optimizer slots.

    References:
      Mocanu et al., `Scalable training of artificial neural networks with adaptive sparse
      connectivity <https://arxiv.org/abs/1707.04780>`_, Nature Communications 9, 2018.
    """
    return drop_grow(
        sparsity=sparsity,
        distribution=distribution,
        update=update,
        drop_fraction=drop_fraction,
        drop=scores.magnitude,
        grow=scores.random,
        structure=structure,
        regrow_dropped=regrow_dropped,
        where=where,
    )
