"""Top-KAST: a sparse forward pass, a less sparse backward pass, no dense gradient ever."""

import math
from typing import Any, Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jaxsparse import distributions, scores
from jaxsparse._tree import map_masks
from jaxsparse.base import (
    Distribution,
    MaskAlgorithm,
    Masks,
    Memory,
    Params,
    Schedule,
    Structure,
    Where,
    never,
)
from jaxsparse.engine import drop_grow
from jaxsparse.layers import default_where
from jaxsparse.masks import apply_masks
from jaxsparse.schedules import check_sparsity, every


class TopKast(NamedTuple):
    """What is trained: ``trained`` is like the masks, True in the backward set."""

    trained: PyTree

    def forward(self, key: chex.PRNGKey, params: Params, masks: Masks, training: bool) -> Params:
        """The forward set's weights, and zeros."""
        del key, training
        return apply_masks(params, masks)


def top_kast(
    sparsity: float,
    *,
    backward_sparsity: float | None = None,
    decay: float = 1e-4,
    penalty: Literal["l2", "l1"] = "l2",
    distribution: Distribution = distributions.uniform,
    update: Schedule = every(100),
    structure: Structure | None = None,
    where: Where = default_where,
) -> MaskAlgorithm:
    """Top-k always sparse training ("Top-KAST", Jayakumar et al., 2020).

    ==================  ==========  =====================  ==================================
    sparsity over time  chosen      forward                trained
    ==================  ==========  =====================  ==================================
    constant            at updates  A: the largest,        B: the largest, A and those next,
                                    ``1 - sparsity``       ``1 - backward_sparsity`` in all
    ==================  ==========  =====================  ==================================

    Gradients outside B are never read. What is in B but not in A explores: it learns what the
    gradient says, and decays faster than A by 1 / D, where D is the density of A.

    Args:
      sparsity: Fraction of zeros in the forward pass, in [0, 1): 1 - D.
      backward_sparsity: Fraction of weights that are not trained, in [0, sparsity]: 1 - (D + M);
        ``None``: twice as many are trained as are seen.
      decay: Weight of the penalty in the gradient, 0 or more: on A as it is, on the rest of B
        divided by D.
      penalty: ``"l2"``: the gradient of w^2 / 2; ``"l1"``: of ``|w|``, as it is sometimes written.
      distribution: ``(params, sparsity, *, where) -> kept counts``, of A and of B.
      update: ``step -> bool``: when A and B are chosen anew.
      structure: What is kept together; default: single weights.
      where: ``(path, leaf) -> bool``: which leaves may be sparse.

    Returns:
      A ``MaskAlgorithm``. Its memory holds B: a bool array like each sparse leaf.

    Raises:
      ValueError: if a number is out of range.

    Example:
      >>> import jax.numpy as jnp, optax, jaxsparse
      >>> tx = jaxsparse.sparsify(optax.sgd(1.0), top_kast(0.75, decay=0.0))
      >>> params = {"w": jnp.array([[4.0, 3.0, 2.0, 1.0]])}
      >>> state = tx.init(params)
      >>> jaxsparse.forward_params(params, state)["w"].tolist()
      [[4.0, 0.0, 0.0, 0.0]]
      >>> updates, _ = tx.update({"w": jnp.ones((1, 4))}, state, params)
      >>> optax.apply_updates(params, updates)["w"].tolist()
      [[3.0, 2.0, 2.0, 1.0]]

    Weights outside B keep their values, whatever momentum, Adam's moments and decoupled weight
    decay would make of them.

    Differences from the paper: D in the penalty is that of the whole network, which is the
    layer's own under ``uniform``. Sets are chosen by the weights after a training step. The arrays
    are dense; counted is what a step needs (``jaxsparse.accounting.step_cost``): twice the forward
    pass over A, and once that over B, for the gradients.

    References:
      Jayakumar et al., `Top-KAST: Top-K Always Sparse Training
      <https://arxiv.org/abs/2106.03517>`_, NeurIPS 2020.
    """
    check_sparsity(sparsity)
    density = 1 - sparsity
    wide = max(0.0, 1 - 2 * density) if backward_sparsity is None else backward_sparsity
    if not 0 <= wide <= sparsity:
        raise ValueError(
            f"backward_sparsity is {wide}; it must lie in [0, sparsity], and sparsity is {sparsity}"
        )
    if not (decay >= 0 and math.isfinite(decay)):
        raise ValueError(f"decay is {decay}; it must be 0 or more, such as 1e-4")
    if penalty not in ("l2", "l1"):
        raise ValueError(f"penalty is {penalty!r}; it must be 'l2' or 'l1'")
    choices: dict[str, Any] = {
        "distribution": distribution,
        "drop": None,
        "grow": scores.magnitude,
        "structure": structure,
        "where": where,
    }
    wider = drop_grow(sparsity=wide, **choices)

    def remember(memory: Memory, masks: Masks, params: Params, grads: Params, step: Any) -> Memory:
        """B is chosen at the step after A was, by the same weights."""
        del grads
        if not jax.tree.leaves(masks):
            return memory

        def choose() -> PyTree:
            found, _ = wider.update(jax.random.key(0), memory.trained, params, params, step)
            # Budgets of layers are rounded: A is part of B in any case.
            return map_masks(jnp.logical_or, found, masks)

        now = update(jnp.asarray(step) - 1) | (jnp.asarray(step) == 0)
        return TopKast(jax.lax.cond(now, choose, lambda: memory.trained))

    def backward(
        key: chex.PRNGKey, masks: Masks, params: Params, grads: Params, step: Any, memory: Memory
    ) -> tuple[Params, Memory]:
        del key, step

        def within(mask: Array, trained: Array, grad: Array, weight: Array) -> Array:
            pull = weight if penalty == "l2" else jnp.sign(weight)
            full = grad + jnp.where(mask, decay, decay / density) * pull
            return jnp.where(trained, full, 0).astype(grad.dtype)

        keep = lambda trained, grad, weight: grad
        return map_masks(within, masks, memory.trained, grads, params, dense=keep), memory

    return drop_grow(
        sparsity=sparsity,
        update=update,
        # B is chosen at step 0, before it is read.
        start=lambda masks, params: TopKast(masks),
        remember=remember,
        backward=backward,
        trains=lambda masks, params, memory: memory.trained,
        dense_gradients=never,
        dense_weights=True,
        **choices,
    )
