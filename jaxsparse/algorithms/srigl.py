"""SRigL: RigL with the same number of inputs for every neuron, and neurons that are given up."""

from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array

from jaxsparse import distributions, scores, structures
from jaxsparse.base import (
    Allocate,
    Distribution,
    MaskAlgorithm,
    Rows,
    ScalarOrSchedule,
    Schedule,
    Where,
    never,
)
from jaxsparse.engine import drop_grow
from jaxsparse.layers import default_where
from jaxsparse.memories import gradient_window
from jaxsparse.schedules import check_fraction, every, within
from jaxsparse.selection import tree_top_k_masks


def srigl(
    sparsity: float,
    *,
    distribution: Distribution = distributions.erk,
    update: Schedule = every(100, start=100, stop=75_000),
    drop_fraction: ScalarOrSchedule = optax.cosine_decay_schedule(0.3, 75_000),
    ablation: float = 0.3,
    trains_on_update: bool = False,
    gradient_steps: int = 1,
    where: Where = default_where,
) -> MaskAlgorithm:
    """Structured RigL ("SRigL", Lasby et al., 2024): constant fan-in, with neuron ablation.

    ==================  =============  ===================  ==================================
    sparsity over time  swap           drop                 grow
    ==================  =============  ===================  ==================================
    constant            cosine to 0    magnitude, over the  dense gradient magnitude, in every
                                       layer                neuron up to the common fan-in
    ==================  =============  ===================  ==================================

    A weight is salient if it survives the drop, or if its gradient is among the largest of the
    layer, as many as were dropped. A neuron with few salient weights is given up: it loses all of
    them, and the layer's weights are shared out equally among the other neurons. Each update
    decides anew, so that a neuron may come back.

    Args:
      sparsity: Fraction of zeros over the sparse leaves, in [0, 1).
      distribution: ``(params, sparsity, *, where) -> kept counts``, rounded to whole fan-ins.
      update: ``step -> bool``.
      drop_fraction: Fraction of a layer's kept weights swapped, in [0, 1].
      ablation: The paper's gamma_sal: salient weights that a neuron needs, as a fraction of the
        fan-in without ablation, rounded down, at least one weight; in [0, 1]. 0.3 in published
        commands; 0: no neuron is given up, and counts are fixed.
      trains_on_update: Does the step that updates the masks also train the weights?
      gradient_steps: Ranks the sum of this many dense gradients before the update; published
        commands sum 8.
      where: ``(path, leaf) -> bool``: which leaves may be sparse.

    Returns:
      A ``MaskAlgorithm``. Kernels are flax's: neurons along the last axis.

    Raises:
      ValueError: if a number is out of range.

    Example:
      >>> import jax
      >>> method, params = srigl(0.75), {"kernel": jnp.ones((8, 4))}
      >>> masks = method.init(jax.random.key(0), params)
      >>> grads = {"kernel": jnp.ones((8, 4)).at[:, 0].set(9.0)}
      >>> masks, info = jax.jit(method.update)(jax.random.key(1), masks, params, grads, 100)
      >>> masks["kernel"].sum(0).tolist()
      [2, 2, 2, 2]

    Differences from the paper: a layer's weights that do not divide by its neurons are left out,
    fewer than one a neuron, until they do; published code truncates, too. The drop is not aware
    of ablation: what a given-up neuron had kept grows elsewhere, by gradient. At least the neurons
    with the most salient weights stay.

    References:
      Lasby et al., `Dynamic Sparse Training with Structured Sparsity
      <https://arxiv.org/abs/2305.02299>`_, ICLR 2024.
    """
    check_fraction(ablation, "ablation")
    start, remember = gradient_window(update, gradient_steps)
    method = drop_grow(
        sparsity=sparsity,
        distribution=distribution,
        update=update,
        drop_fraction=drop_fraction,
        drop=scores.magnitude,
        grow=scores.gradient_magnitude,
        allocate=_give_up(ablation) if ablation else None,
        structure=structures.fan_in(),
        pauses=never if trains_on_update else update,
        start=start,
        remember=remember,
        where=where,
        dense_gradients=within(update, gradient_steps),
    )
    return method._replace(learned=ablation > 0)


def _give_up(ablation: float) -> Allocate:
    def allocate(budgets: list[Any], held: list[Array], rows: Rows) -> list[Array]:
        """The common fan-in of each layer's neurons, 0 for those that are given up."""
        totals = [k * kept.size for k, kept in zip(budgets, held, strict=True)]
        dropped = [n - jnp.sum(kept, dtype=jnp.int32) for n, kept in zip(totals, held, strict=True)]
        columns = zip(rows.grads, rows.masks, rows.memory, strict=True)
        steep = [scores.gradient_magnitude(None, None, g, m, memory) for g, m, memory in columns]
        rising = tree_top_k_masks(steep, dropped)
        found = []
        for k, n, size, mask, rises in zip(
            budgets, totals, rows.sizes, rows.masks, rising, strict=True
        ):
            salient = jnp.sum(mask | rises, axis=tuple(range(mask.ndim - 1)), dtype=jnp.int32)
            least = jnp.maximum(jnp.floor(ablation * jnp.float32(k)).astype(jnp.int32), 1)
            active = salient >= jnp.minimum(least, jnp.max(salient))
            each = jnp.minimum(n // jnp.sum(active, dtype=jnp.int32), size)
            found.append(jnp.where(active, each, 0).astype(jnp.int32))
        return found

    return allocate
