"""The parameters that the loss is evaluated at, and those that training starts from."""

from typing import Any, NamedTuple

import chex
import jax
from jaxtyping import Array

from jaxsparse.base import Forward, Masks, Memory, Params
from jaxsparse.masks import apply_masks, dense_masks, masks_of, sparsity_states


class MaskedForward(NamedTuple):
    """``w m``: dense weights, of which the forward pass sees the kept ones."""

    def forward(self, key: chex.PRNGKey, params: Params, masks: Masks, training: bool) -> Params:
        """The weights that are kept, and zeros."""
        del key, training
        return apply_masks(params, masks)


def forward_params(params: Params, opt_state: Any, *, training: bool = True) -> Params:
    """What the loss is evaluated at, and differentiated with respect to.

    The identity for every method whose weights themselves carry the zeros. Where dense weights
    are trained behind a sparse forward pass (``dnw``, ``sr_ste``, ``l0``, ...) it is that pass's
    weights, exactly zero off the mask. ``sparsify`` takes the gradients at these weights.

    Args:
      params: Pytree of arrays.
      opt_state: State of an optimizer wrapped with ``sparsify``, at any depth.
      training: False: as the network is used later, without what is drawn anew at every step.

    Returns:
      Pytree like ``params``.

    Raises:
      ValueError: if there is no ``sparsify`` state inside ``opt_state``.

    Example:
      >>> import jax.numpy as jnp, optax, jaxsparse
      >>> params = {"kernel": jnp.ones((4, 4))}
      >>> tx = jaxsparse.sparsify(optax.sgd(0.1), jaxsparse.static(0.5))
      >>> forward_params(params, tx.init(params)) is params
      True
    """
    nowhere = dense_masks(masks_of(opt_state))
    for part in sparsity_states(opt_state):
        for memory in forwards(part.memory):
            own = masks_of([part, part._replace(masks=nowhere)])
            params = memory.forward(step_key(part.seed, part.sparse_step), params, own, training)
    return params


def initial_params(params: Params, opt_state: Any) -> Params:
    """What training starts from: zeros off the mask, where the weights carry the zeros.

    Args:
      params: Pytree of arrays, as they were initialized.
      opt_state: ``tx.init(params)``.

    Returns:
      Pytree like ``params``; where the weights stay dense (``forward_params``), as it is, or
      what the forward pass makes these weights of (``powerpropagation``).

    Raises:
      ValueError: if there is no ``sparsify`` state inside ``opt_state``.

    Example:
      >>> import jax.numpy as jnp, optax, jaxsparse
      >>> params = {"kernel": jnp.ones((4, 4))}
      >>> tx = jaxsparse.sparsify(optax.sgd(0.1), jaxsparse.static(0.5))
      >>> float(initial_params(params, tx.init(params))["kernel"].sum())
      8.0
    """
    nowhere = dense_masks(masks_of(opt_state))
    for part in sparsity_states(opt_state):
        own = masks_of([part, part._replace(masks=nowhere)])
        behind = forwards(part.memory)
        for memory in behind:
            initial = getattr(memory, "initial", None)
            params = initial(params, own) if initial else params
        params = params if behind else apply_masks(params, own)
    return params


def forwards(memory: Memory) -> list[Forward]:
    """The parts of a memory that say what the loss is evaluated at.

    Args:
      memory: Of an algorithm, or of several in one (``partition``, ``explored``).

    Returns:
      A list, empty for a method whose weights carry the zeros.

    Example:
      >>> forwards((MaskedForward(), ()))
      [MaskedForward()]
    """
    says = lambda node: isinstance(node, Forward)
    return [node for node in jax.tree.leaves(memory, is_leaf=says) if says(node)]


def step_key(seed: Array, step: Array) -> chex.PRNGKey:
    """The randomness of a step: the same on every host and every mesh.

    Args:
      seed: uint32 scalar.
      step: int32 or uint32 scalar.

    Returns:
      PRNG key.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> jax.random.key_data(step_key(jnp.uint32(0), jnp.int32(1))).shape
      (2,)
    """
    return jax.random.fold_in(jax.random.key(seed), step)
