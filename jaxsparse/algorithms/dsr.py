"""DSR: a threshold for all layers drops weights, and they grow back where others survived."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxsparse import distributions, scores
from jaxsparse._tree import map_masks
from jaxsparse.allocation import by_survivors
from jaxsparse.base import Distribution, MaskAlgorithm, Masks, Memory, Params, Schedule, Where
from jaxsparse.engine import drop_grow
from jaxsparse.layers import default_where
from jaxsparse.memories import adaptive_threshold
from jaxsparse.schedules import every
from jaxsparse.selection import tree_top_k_masks


def dsr(
    sparsity: float,
    *,
    distribution: Distribution = distributions.uniform,
    update: Schedule = every(100, start=100),
    drop_fraction: float = 0.1,
    threshold: float = 1e-3,
    tolerance: float = 0.1,
    regrow_dropped: bool = False,
    where: Where = default_where,
) -> MaskAlgorithm:
    """Dynamic sparse reparameterization ("DSR", Mostafa & Wang, 2019, Algorithm 1).

    ==================  ===========================  ==================  ======
    sparsity over time  swap                         drop                grow
    ==================  ===========================  ==================  ======
    constant in total   what the threshold finds     magnitude below H   random
    ==================  ===========================  ==================  ======

    An update drops every weight of magnitude below H, in all layers, though the largest of a layer
    stays. Where fewer than the target went, H is doubled for the next update; where more did, it is
    halved. As many grow again, each layer's share being in proportion to the weights that it has
    left. Layers so find their own sparsity; FLOPs are not fixed.

    Args:
      sparsity: Fraction of zeros over the sparse leaves, in [0, 1).
      distribution: ``(params, sparsity, *, where) -> kept counts``, at first.
      update: ``step -> bool``.
      drop_fraction: The target, as a fraction of all kept weights, in [0, 1]. The paper's is a
        number of weights, N_p.
      threshold: H at the first update, positive; 0.001 in published code.
      tolerance: How far from the target, as a fraction of it, H is left as it is: the paper's
        delta, in [0, 1]; 0.1 in published code.
      regrow_dropped: May a weight dropped by this update grow again at once? Published code: no.
      where: ``(path, leaf) -> bool``: which leaves may be sparse.

    Returns:
      A ``MaskAlgorithm``.

    Raises:
      ValueError: if a number is out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> method, large = dsr(0.9), jnp.ones((20, 10))
      >>> params = {"a": large, "b": large.at[:10].set(1e-4)}
      >>> masks = method.init(jax.random.key(0), params)
      >>> kept = method.update(jax.random.key(1), masks, params, params, 100)[1].kept
      >>> int(kept.sum()), bool(kept[0] > kept[1])
      (40, True)

    Differences from the paper: of a layer that would lose all weights, the largest stays (published
    code: whichever comes last); counts are exact. An update that is skipped because a number is not
    finite adapts H as well. Kernels are not dropped whole, as an option of published code does.

    References:
      Mostafa & Wang, `Parameter Efficient Training of Deep Convolutional Neural Networks by Dynamic
      Sparse Reparameterization <https://arxiv.org/abs/1902.05967>`_, ICML 2019.
    """
    start, remember = adaptive_threshold(update, threshold, drop_fraction, tolerance)

    def survivors(params: Params, masks: Masks, step: Any, memory: Memory) -> Masks:
        least = memory.now if jax.tree.leaves(memory) else threshold
        olds, tree = jax.tree.flatten(masks)
        size = jax.tree.leaves(map_masks(lambda mask, weight: jnp.abs(weight), masks, params))
        above = [mask & (x >= least) for mask, x in zip(olds, size, strict=True)]
        one = [jnp.where(jnp.any(mask), 0, 1) for mask in above]
        last = tree_top_k_masks(size, one, where=olds)
        return jax.tree.unflatten(tree, [a | b for a, b in zip(above, last, strict=True)])

    return drop_grow(
        sparsity=sparsity,
        distribution=distribution,
        update=update,
        stays=scores.measured,
        measure=survivors,
        grow=scores.random,
        allocate=by_survivors,
        regrow_dropped=regrow_dropped,
        where=where,
        start=start,
        remember=remember,
    )
