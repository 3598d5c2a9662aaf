"""flax's ``TrainState``, sparse from the first step. (flax is imported here and nowhere else.)"""

from typing import Any

import jax
from flax import struct
from flax.training import train_state

from jaxsparse.base import Masks, Params, UpdateInfo
from jaxsparse.forward import forward_params, initial_params
from jaxsparse.masks import masks_of, sparsity_states


class TrainState(train_state.TrainState):
    """``flax.training.train_state.TrainState`` whose parameters obey the masks from ``create`` on.

    (Under a method that trains dense weights, ``forward_params`` obeys them.)

    ``tx`` must be wrapped with ``jaxsparse.sparsify`` (at any depth of optax wrappers).

    Example:
      >>> import jax.numpy as jnp, optax, jaxsparse
      >>> params = {"kernel": jnp.ones((20, 10))}
      >>> tx = jaxsparse.sparsify(optax.sgd(0.1), jaxsparse.rigl(0.9))
      >>> state = jaxsparse.TrainState.create(apply_fn=None, params=params, tx=tx)
      >>> int((state.params["kernel"] != 0).sum())
      20
      >>> state = state.apply_gradients(grads=params)
      >>> int((state.params["kernel"] != 0).sum()), int(state.sparsity_info.kept[0])
      (20, 20)
    """

    # Any pytree and any function; flax's own annotations are narrower than what it takes.
    step: Any
    apply_fn: Any = struct.field(pytree_node=False)
    params: Params = struct.field(pytree_node=True)

    @classmethod
    def create(cls, *, apply_fn: Any, params: Params, tx: Any, **kwargs: Any) -> "TrainState":
        """Make the state and mask its parameters.

        Args:
          apply_fn: Usually ``model.apply``.
          params: Pytree of arrays.
          tx: An optimizer with ``sparsify`` inside.
          **kwargs: Further fields of a subclass.

        Returns:
          A ``TrainState``.

        Raises:
          ValueError: if ``params`` has no leaves, or ``tx`` holds no ``sparsify``.
        """
        if not jax.tree.leaves(params):
            raise ValueError("params is an empty tree; pass the model's initialized parameters")
        state = super().create(apply_fn=apply_fn, params=params, tx=tx, **kwargs)
        return state.replace(params=initial_params(params, state.opt_state))

    @property
    def masks(self) -> Masks:
        """Like ``params``: bool arrays, ``optax.MaskedNode()`` where dense."""
        return masks_of(self.opt_state)

    @property
    def forward_params(self) -> Params:
        """What the loss is evaluated at."""
        return forward_params(self.params, self.opt_state)

    @property
    def sparsity_info(self) -> UpdateInfo:
        """The report of the (first) ``sparsify`` inside: kept, dropped, grown, updates, skipped."""
        return sparsity_states(self.opt_state)[0].info
