"""SET: drop the smallest weights, grow at random."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxsparse import distributions, scores
from jaxsparse._tree import map_masks
from jaxsparse.base import (
    Distribution,
    MaskAlgorithm,
    Masks,
    Memory,
    Params,
    ScalarOrSchedule,
    Schedule,
    Structure,
    Where,
    evaluate,
)
from jaxsparse.engine import drop_grow
from jaxsparse.layers import default_where
from jaxsparse.schedules import every
from jaxsparse.selection import tree_top_k_masks


def sparse_evolutionary(
    sparsity: ScalarOrSchedule,
    *,
    distribution: Distribution = distributions.er,
    update: Schedule = every(100, start=100),
    drop_fraction: ScalarOrSchedule = 0.3,
    by_sign: bool = False,
    structure: Structure | None = None,
    regrow_dropped: bool = True,
    where: Where = default_where,
) -> MaskAlgorithm:
    """Sparse evolutionary training ("SET", Mocanu et al., 2018, Algorithm 1).

    ==================  =================  ============================  ======
    sparsity over time  swap               drop                          grow
    ==================  =================  ============================  ======
    constant            constant fraction  magnitude, or magnitude in    random
                                           each sign with ``by_sign``
    ==================  =================  ============================  ======

    The update step also trains: the masks first, then the weights that stay. Two methods go by this
    name. With ``by_sign=True`` it is the paper's. Without, it is the SET of RigL's tables and of
    most comparisons since, which ranks positive and negative weights together: the default, because
    that is what published numbers of SET are about.

    The paper updates at the end of every epoch but the last: ``update=every(n, start=n)`` for
    epochs of n steps. An update at step t sees the weights after t training steps, so the end of
    the last epoch is the step after the last one, which never comes.

    Args:
      sparsity: Fraction of zeros over the sparse leaves, in [0, 1).
      distribution: ``(params, sparsity, *, where) -> kept counts``; Erdos-Renyi in the paper.
      update: ``step -> bool``. The paper's is the end of each epoch.
      drop_fraction: The paper's zeta, in [0, 1]; 0.3.
      by_sign: Drop the fraction zeta of the positive weights, the smallest ones, and zeta of the
        negative ones, those nearest 0, each rounded down (the paper's rule); weights that are 0,
        such as those grown and never trained, go as well.
      structure: What is kept together; default: single weights.
      regrow_dropped: May a weight dropped by this update grow again at once?
      where: ``(path, leaf) -> bool``: which leaves may be sparse.

    Returns:
      A ``MaskAlgorithm``.

    Raises:
      ValueError: if a number is out of range, or ``by_sign`` meets a structure or a sparsity
        schedule.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> evolve, params = sparse_evolutionary(0.9), {"kernel": jnp.ones((20, 10))}
      >>> masks = evolve.init(jax.random.key(0), params)
      >>> masks, info = evolve.update(jax.random.key(1), masks, params, params, 100)
      >>> int(info.kept[0])
      20

    Differences from the paper: by default the smallest weights by magnitude are dropped, whatever
    their sign; updates come every 100 steps by default; grown weights start at zero with fresh
    optimizer slots (the authors' Keras code, too, starts them at zero, and all slots anew; their
    SciPy code draws them from a normal distribution: ``drop_grow(grown_values=...)``).

    References:
      Mocanu et al., `Scalable training of artificial neural networks with adaptive sparse
      connectivity <https://arxiv.org/abs/1707.04780>`_, Nature Communications 9, 2018.
    """
    if by_sign and (structure is not None or callable(sparsity)):
        raise ValueError(
            "by_sign drops single weights at a constant sparsity: leave structure out and give a "
            "number, or by_sign=False"
        )
    return drop_grow(
        sparsity=sparsity,
        distribution=distribution,
        update=update,
        drop_fraction=drop_fraction,
        drop=scores.magnitude,
        grow=scores.random,
        stays=scores.measured if by_sign else None,
        measure=_largest_of_each_sign(drop_fraction) if by_sign else None,
        structure=structure,
        regrow_dropped=regrow_dropped,
        where=where,
    )


def _largest_of_each_sign(drop_fraction: ScalarOrSchedule) -> Callable[..., Masks]:
    def stays(params: Params, masks: Masks, step: Any, memory: Memory) -> Masks:
        del memory
        olds, tree = jax.tree.flatten(masks)
        weights = jax.tree.leaves(map_masks(lambda mask, weight: weight, masks, params))
        pairs = list(zip(olds, weights, strict=True))
        # One search for all of them.
        sides = [mask & (w > 0) for mask, w in pairs] + [mask & (w < 0) for mask, w in pairs]
        numbers = [jnp.sum(side, dtype=jnp.int32) for side in sides]
        fraction = evaluate(drop_fraction, step)
        stay = [n - jnp.floor(fraction * n).astype(jnp.int32) for n in numbers]
        chosen = tree_top_k_masks([jnp.abs(w) for w in weights] * 2, stay, where=sides)
        halves = zip(chosen[: len(olds)], chosen[len(olds) :], strict=True)
        return jax.tree.unflatten(tree, [positive | negative for positive, negative in halves])

    return stays
