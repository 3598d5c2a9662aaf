"""Movement pruning: keep the weights that move away from zero."""

from typing import Any, NamedTuple

import chex
import jax.numpy as jnp

from jaxsparse import distributions, scores
from jaxsparse._tree import map_masks
from jaxsparse.base import (
    Distribution,
    MaskAlgorithm,
    Masks,
    Memory,
    Params,
    Scope,
    Structure,
    Where,
    always,
)
from jaxsparse.engine import drop_grow
from jaxsparse.layers import default_where
from jaxsparse.masks import apply_masks
from jaxsparse.memories import initial_weights
from jaxsparse.schedules import any_of, at, check_sparsity, every, polynomial_sparsity


class Movement(NamedTuple):
    """How far weights have moved away from zero, and a forward pass ``w m``.

    Attributes:
      importance: ``-sum w g`` over the steps so far: like the masks, float32.
    """

    importance: Any

    def forward(self, key: chex.PRNGKey, params: Params, masks: Masks, training: bool) -> Params:
        """The weights that are kept, and zeros."""
        del key, training
        return apply_masks(params, masks)


def movement(
    sparsity: float,
    *,
    start: int = 5_000,
    stop: int = 40_000,
    interval: int = 1,
    initial: float = 0.0,
    power: float = 3.0,
    from_initial: bool = False,
    distribution: Distribution = distributions.uniform,
    scope: Scope = "layer",
    structure: Structure | None = None,
    where: Where = default_where,
) -> MaskAlgorithm:
    """Hard movement pruning (Sanh et al., 2020, section 4): keep the top v by -sum w g.

    ======================  ================  ==============================  ================
    sparsity over time      chosen            score                           trained
    ======================  ================  ==============================  ================
    cubic from ``initial``  anew, at updates  S = -sum of w g over all steps  what is seen
    ======================  ================  ==============================  ================

    Made for fine-tuning. The loss is taken at ``forward_params(params, opt_state)``. Its gradient
    there is dense: a weight off the mask keeps its value and does not train, but its score goes on
    (straight through the mask), and brings it back once it is among the best.

    Args:
      sparsity: Fraction of zeros in the forward pass at the end, over the sparse leaves, in [0, 1).
      start: Step at which pruning begins; scores are summed from step 0.
      stop: Step at which the final sparsity is reached; masks go on changing after it.
      interval: Steps between choices of the masks, at least 1; 1 in the paper. In between, scores
        of absent weights pile up, and many come back at once: with 100, LeNet-300-100 on MNIST
        (90 %, 3 epochs) ends at 47 %, with 1 at 98 %.
      initial: Fraction of zeros up to ``start``, in [0, 1).
      power: Of the polynomial; 3 in the paper.
      from_initial: Rank by ``|w - w_0|``, the distance from the initialization, instead. Ordinary
        masks: pruned weights are zeros and stay pruned, pruning ends at ``stop``, and no gradient
        of an absent weight is read.
      distribution: ``(params, sparsity, *, where) -> kept counts`` at the end; the paper's is
        uniform.
      scope: ``"layer"``, or ``"global"``: leaves compete for the sum.
      structure: What is kept together; default: single weights.
      where: ``(path, leaf) -> bool``: which leaves may be sparse.

    Returns:
      A ``MaskAlgorithm``.

    Raises:
      ValueError: if a number is out of range, or ``stop`` comes before ``start``.

    Example:
      >>> import jax.numpy as jnp, optax, jaxsparse
      >>> tx = jaxsparse.sparsify(optax.sgd(0.1), movement(0.5, start=0, stop=1))
      >>> params = {"w": jnp.array([[3.0, 1.0]])}
      >>> state = tx.init(params)
      >>> for _ in range(2):  # 3 falls, 1 rises
      ...     updates, state = tx.update({"w": jnp.array([[1.0, -1.0]])}, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> [round(w, 3) for w in jaxsparse.forward_params(params, state)["w"][0].tolist()]
      [0.0, 1.2]

    Differences from the paper: S is a plain sum, as in the paper's equation, where published code
    trains it with Adam at its own learning rate; the masks of a forward pass have the sparsity of
    the step before; the soft version (a learned threshold) is left out. Weight decay and momentum
    in the inner optimizer reach weights off the mask, as in published code.

    References:
      Sanh et al., `Movement Pruning: Adaptive Sparsity by Fine-Tuning
      <https://arxiv.org/abs/2005.07683>`_, NeurIPS 2020; ``from_initial``: Zhou et al.,
      `Deconstructing Lottery Tickets <https://arxiv.org/abs/1905.01067>`_, NeurIPS 2019.
    """
    check_sparsity(sparsity)
    schedule = polynomial_sparsity(sparsity, start, stop, initial=initial, power=power)
    if from_initial:
        return drop_grow(
            sparsity=schedule,
            distribution=distribution,
            update=any_of(every(interval, start, stop), at(stop)),
            drop=scores.distance,
            scope=scope,
            structure=structure,
            where=where,
            start=initial_weights,
        )
    return drop_grow(
        sparsity=schedule,
        distribution=distribution,
        update=any_of(every(interval, start), at(stop)),
        drop=None,
        grow=scores.measured,
        measure=lambda params, masks, step, memory: memory.importance,
        scope=scope,
        structure=structure,
        where=where,
        start=_no_movement,
        remember=_away_from_zero,
        backward=_seen,
        dense_gradients=always,
        dense_weights=True,
    )


def _no_movement(masks: Masks, params: Params) -> Movement:
    del params
    return Movement(map_masks(lambda mask: jnp.zeros_like(mask, jnp.float32), masks))


def _away_from_zero(memory: Memory, masks: Masks, params: Params, grads: Params, step: Any) -> Any:
    """One more term of the sum; what is not finite adds nothing, and the sum stays so."""
    del step
    most = jnp.finfo(jnp.float32).max

    def one(mask: Any, importance: Any, weight: Any, grad: Any) -> Any:
        del mask
        term = weight.astype(jnp.float32) * grad.astype(jnp.float32)
        return jnp.clip(importance - jnp.where(jnp.isfinite(term), term, 0.0), -most, most)

    return Movement(map_masks(one, masks, memory.importance, params, grads))


def _seen(
    key: chex.PRNGKey, masks: Masks, params: Params, grads: Params, step: Any, memory: Memory
) -> tuple[Params, Memory]:
    """Weights off the mask have no gradient: the mask is a factor of theirs."""
    del key, params, step
    seen = lambda mask, grad: jnp.where(mask, grad, jnp.zeros_like(grad))
    return map_masks(seen, masks, grads, dense=lambda grad: grad), memory
