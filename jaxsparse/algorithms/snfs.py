"""SNFS, sparse momentum: growth follows the momentum of dense gradients, in and across layers."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxsparse import distributions, scores
from jaxsparse._tree import map_masks
from jaxsparse.allocation import by_share
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
    always,
)
from jaxsparse.engine import drop_grow
from jaxsparse.layers import default_where
from jaxsparse.memories import gradient_average
from jaxsparse.schedules import every


class _Momentum(NamedTuple):
    """Of a leaf: the magnitude of its momentum, and its mean over the kept weights."""

    size: Float[Array, "..."]
    share: Float[Array, ""]


def snfs(
    sparsity: float,
    *,
    distribution: Distribution = distributions.uniform,
    update: Schedule = every(100, start=100, stop=75_000),
    drop_fraction: ScalarOrSchedule = optax.cosine_decay_schedule(0.5, 75_000, alpha=0.01),
    momentum: float = 0.9,
    squares: float | None = None,
    redistribute: bool = True,
    structure: Structure | None = None,
    where: Where = default_where,
) -> MaskAlgorithm:
    """Sparse networks from scratch ("SNFS", sparse momentum; Dettmers & Zettlemoyer, 2019).

    ===================  ==================  =========  ========================
    sparsity over time   swap                drop       grow
    ===================  ==================  =========  ========================
    constant in total    cosine to 0.005     magnitude  momentum magnitude
    ===================  ==================  =========  ========================

    A layer gets back what the update dropped, over all layers, in proportion to the mean magnitude
    of the momentum of the weights that it had; what does not fit goes to the others. The momentum
    is the running average of the dense gradients, at every step: the price of the method.

    The paper updates at the end of every epoch but the last: ``update=every(n, start=n)`` for
    epochs of n steps, with a cosine (or ``optax.linear_schedule(0.5, 0.005, steps)``) over all of
    training. RigL's SNFS is another one: ``redistribute=False``, ERK, every 100 steps.

    Args:
      sparsity: Fraction of zeros over the sparse leaves, in [0, 1).
      distribution: ``(params, sparsity, *, where) -> kept counts``, at first; uniform in the paper.
      update: ``step -> bool``.
      drop_fraction: Fraction of each layer's kept weights swapped, in [0, 1].
      momentum: Decay of the average, in [0, 1].
      squares: Decay of a second average, of squared gradients: growth then ranks
        ``|m| / (sqrt(v) + 1e-8)``, as published code does under Adam (0.999). ``None``: none.
      redistribute: Do budgets move between layers? If not, each layer keeps its own.
      structure: What is kept together; default: single weights.
      where: ``(path, leaf) -> bool``: which leaves may be sparse.

    Returns:
      A ``MaskAlgorithm``.

    Raises:
      ValueError: if a number is out of range, or budgets are to move and the structure has groups.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> method, params = snfs(0.9), {"a": jnp.ones((20, 10)), "b": jnp.ones((10, 20))}
      >>> masks = method.init(jax.random.key(0), params)
      >>> grads = {"a": jnp.ones((20, 10)), "b": 3 * jnp.ones((10, 20))}
      >>> memory = method.remember(method.start(masks, params), masks, params, grads, 0)
      >>> method.update(jax.random.key(1), masks, params, grads, 0, memory)[1].kept.tolist()
      [15, 25]

    Differences from the paper: the momentum is kept here and not read from the optimizer: it holds
    gradients of the loss alone, without weight decay, and the optimizer's own slots of grown
    weights start anew. Counts are exact: the swap rounds down, a layer may fill up, and there is no
    residual to smooth; layers of little sparsity swap the same fraction as others. Drop and grow
    come before the step's training, not after it.

    References:
      Dettmers & Zettlemoyer, `Sparse Networks from Scratch: Faster Training without Losing
      Performance <https://arxiv.org/abs/1907.04840>`_, 2019.
    """
    if redistribute and structure is not None and structure.group_axes is not None:
        raise ValueError(
            f"snfs moves budgets between layers, and {structure.name} fixes them in groups; "
            "use redistribute=False"
        )
    start, remember = gradient_average(momentum, squares)

    def measure(params: Params, masks: Masks, step: Any, memory: Memory) -> Masks:
        del step
        # (By hand, and without a memory: before the first gradient.)
        memory = memory if jax.tree.leaves(memory) else start(masks, params)
        return map_masks(_of_leaf, masks, memory)

    return drop_grow(
        sparsity=sparsity,
        distribution=distribution,
        update=update,
        drop_fraction=drop_fraction,
        drop=scores.magnitude,
        grow=_grows if redistribute else scores.momentum_magnitude,
        allocate=by_share if redistribute else None,
        measure=measure if redistribute else None,
        structure=structure,
        where=where,
        start=start,
        remember=remember,
        dense_gradients=always,
    )


def _of_leaf(mask: Array, average: Any) -> _Momentum:
    size = scores.momentum_magnitude(None, None, None, mask, average)
    total = jnp.sum(jnp.where(mask, size, 0.0))
    return _Momentum(size, total / jnp.maximum(jnp.sum(mask, dtype=jnp.int32), 1))


@scores.elementwise
def _grows(key: Any, weight: Any, grad: Any, mask: Any, memory: Any) -> Array:
    del key, weight, grad, mask
    return memory.size
