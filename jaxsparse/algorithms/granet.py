"""GraNet: gradual magnitude pruning, with connections that grow back where the gradient is."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Int

from jaxsparse import distributions, scores
from jaxsparse._tree import map_masks
from jaxsparse.base import (
    Distribution,
    MaskAlgorithm,
    Masks,
    Memory,
    Params,
    Rows,
    ScalarOrSchedule,
    Scope,
    Structure,
    Where,
    evaluate,
)
from jaxsparse.budgets import Leaf, targets
from jaxsparse.engine import drop_grow
from jaxsparse.layers import default_where
from jaxsparse.schedules import any_of, at, check_sparsity, every, polynomial_sparsity
from jaxsparse.selection import tree_top_k_masks


class _Plan(NamedTuple):
    """Which weights of a leaf stay, and how many it has after growth."""

    stays: Bool[Array, "..."]
    budget: Int[Array, ""]


def granet(
    sparsity: float,
    *,
    initial: float = 0.5,
    start: int = 0,
    stop: int = 50_000,
    interval: int = 1_000,
    drop_fraction: ScalarOrSchedule = optax.cosine_decay_schedule(0.5, 100_000, alpha=0.01),
    scope: Scope = "global",
    distribution: Distribution = distributions.erk,
    structure: Structure | None = None,
    where: Where = default_where,
) -> MaskAlgorithm:
    """Gradual pruning with zero-cost neuroregeneration ("GraNet", Liu et al., 2021).

    =======================  =======================  =========  ========================
    sparsity over time       swap                     drop       grow
    =======================  =======================  =========  ========================
    cubic from ``initial``   cosine to 0.005          magnitude  dense gradient magnitude
    =======================  =======================  =========  ========================

    An update first prunes to the schedule's sparsity, over all layers together, and then swaps a
    fraction of what is left within each layer, as RigL does. After ``stop`` it only swaps.

    Args:
      sparsity: Fraction of zeros over the sparse leaves at the end, in [initial, 1).
      initial: Fraction of zeros at first, in [0, 1): 0.5 in the paper's sparse-to-sparse training,
        0 in its dense-to-sparse training.
      start: Step at which the cubic begins; the first update is one interval later.
      stop: Step at which it ends, after ``start``; there is always an update here.
      interval: Steps between updates, at least 1; published scripts have 1000 on CIFAR and 4000 on
        ImageNet. Updates go on to the end of training.
      drop_fraction: Fraction of a layer's kept weights swapped, in [0, 1]; give its cosine the
        length of training.
      scope: Of the pruning: ``"global"``, as in published code, where layers compete; or
        ``"layer"``: each layer's zeros stay in proportion to the distribution's.
      distribution: ``(params, sparsity, *, where) -> kept counts``: of ``initial`` with
        ``"global"``, of ``sparsity`` with ``"layer"``.
      structure: With ``"layer"``: what is kept together; default: single weights.
      where: ``(path, leaf) -> bool``: which leaves may be sparse.

    Returns:
      A ``MaskAlgorithm``.

    Raises:
      ValueError: if a number is out of range, or a structure meets ``"global"``.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> method = granet(0.9, stop=100, interval=10)
      >>> params = {"kernel": jnp.arange(200.0).reshape(20, 10)}
      >>> masks = method.init(jax.random.key(0), params)
      >>> masks, info = method.update(jax.random.key(1), masks, params, params, 50)
      >>> int(masks["kernel"].sum()), int(info.grown) > 0
      (30, True)

    Differences from the paper: counts are exact, where published code may prune a weight more and
    rounds the swap up; drop and grow come before the step's training, not after it; there is
    always an update at ``stop``. With ``"global"`` a layer may lose all its weights, as there.

    References:
      Liu et al., `Sparse Training via Boosting Pruning Plasticity with Neuroregeneration
      <https://arxiv.org/abs/2106.10404>`_, NeurIPS 2021.
    """
    check_sparsity(sparsity)
    schedule = polynomial_sparsity(sparsity, start, stop, initial=initial)
    if initial > sparsity:
        raise ValueError(f"initial is {initial}, above sparsity ({sparsity}); give initial <= it")
    if scope == "global" and structure is not None:
        raise ValueError(f"scope 'global' prunes single weights, not {structure.name}; use 'layer'")
    update = any_of(every(interval, start=start + interval), at(stop))
    common: dict[str, Any] = {
        "distribution": distribution,
        "update": update,
        "drop_fraction": drop_fraction,
        "where": where,
        "dense_gradients": update,
    }
    if scope != "global":
        return drop_grow(
            sparsity=schedule,
            grow=scores.gradient_magnitude,
            scope=scope,
            structure=structure,
            **common,
        )

    def measure(params: Params, masks: Masks, step: Any, memory: Memory) -> Masks:
        """Prune over all layers, then drop within each."""
        del memory
        final = sum(jax.tree.leaves(distribution(params, sparsity, where=where)))
        olds, tree = jax.tree.flatten(masks)
        whole = Leaf(0, (), sum(mask.size for mask in olds), 1, final)
        (total,) = targets([whole], schedule, sparsity, step)
        size = jax.tree.leaves(map_masks(lambda mask, weight: jnp.abs(weight), masks, params))
        left = tree_top_k_masks(size, total, where=olds)
        budgets = [jnp.sum(mask, dtype=jnp.int32) for mask in left]
        swap = [jnp.floor(evaluate(drop_fraction, step) * n).astype(jnp.int32) for n in budgets]
        stay = [n - k for n, k in zip(budgets, swap, strict=True)]
        stays = tree_top_k_masks(size, stay, where=left)
        return jax.tree.unflatten(tree, [_Plan(*pair) for pair in zip(stays, budgets, strict=True)])

    return drop_grow(
        sparsity=initial,
        stays=lambda key, weight, grad, mask, memory: memory.stays,
        grow=_gradient,
        allocate=_planned,
        measure=measure,
        **common,
    )


def _planned(budgets: Any, held: Any, rows: Rows) -> Int[Array, " leaves"]:
    del budgets, held
    return jnp.stack([plan.budget for plan in rows.memory])


def _gradient(key: Any, weight: Any, grad: Array, mask: Any, memory: Any) -> Array:
    return scores.gradient_magnitude(key, weight, grad, mask, None)
