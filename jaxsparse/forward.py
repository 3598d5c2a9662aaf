"""The parameters that the loss is evaluated at."""

from typing import Any

from jaxsparse.base import Params
from jaxsparse.masks import masks_of


def forward_params(params: Params, opt_state: Any) -> Params:
    """What the loss is evaluated at, and differentiated with respect to.

    The identity for every method whose weights themselves carry the zeros: those of this
    version. A loop written with it will also fit methods that train dense weights behind a
    sparse forward pass.

    Args:
      params: Pytree of arrays.
      opt_state: State of an optimizer wrapped with ``sparsify``, at any depth.

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
    masks_of(opt_state)
    return params
