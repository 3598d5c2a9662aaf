"""No sparsity: the baseline, and the default of ``partition``."""

from typing import Any

from jaxsparse._report import report
from jaxsparse.base import MaskAlgorithm
from jaxsparse.masks import dense_masks


def dense() -> MaskAlgorithm:
    """Leave every weight as it is.

    Returns:
      A ``MaskAlgorithm`` whose masks are ``optax.MaskedNode()`` everywhere.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> dense().init(jax.random.key(0), {"kernel": jnp.ones((4, 4))})
      {'kernel': MaskedNode()}
    """

    def update(key: Any, masks: Any, params: Any, grads: Any, step: Any, memory: Any = ()) -> Any:
        del key, params, grads, step, memory
        return masks, report(masks, masks)

    return MaskAlgorithm(init=lambda key, params: dense_masks(params), update=update)
