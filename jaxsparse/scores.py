"""What to drop and what to grow: ``(key, weight, grad, mask, memory) -> score``, a leaf at a time.

Larger is kept, or grown. A score is any function with this signature.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxsparse._sharding import explicit_sharding
from jaxsparse.base import Score


def elementwise(score: Score) -> Score:
    """Mark a score each of whose numbers depends on one weight alone, and cheaply.

    Such a score is computed anew in every pass of the selection and never stored; any other one
    is computed once, and costs an array like the weights.

    Args:
      score: ``(key, weight, grad, mask, memory) -> score`` without reductions, sorts or
        randomness.

    Returns:
      The same function.

    Example:
      >>> import jax.numpy as jnp
      >>> square = elementwise(lambda key, weight, grad, mask, memory: weight**2)
      >>> is_elementwise(square), is_elementwise(random)
      (True, False)
    """
    score.elementwise = True  # type: ignore[attr-defined]
    return score


def is_elementwise(score: Score) -> bool:
    """Was the score marked with ``elementwise``?

    Args:
      score: Any score.

    Returns:
      Whether it was.

    Example:
      >>> is_elementwise(magnitude)
      True
    """
    return getattr(score, "elementwise", False)


@elementwise
def magnitude(key: Any, weight: Any, grad: Any, mask: Any, memory: Any) -> Float[Array, "..."]:
    """``|w|``: what small-weight pruning keeps (Han et al., 2015).

    Args:
      key: Unused.
      weight: Float array.
      grad: Unused.
      mask: Unused.
      memory: Unused.

    Returns:
      Array like ``weight``.

    Example:
      >>> import jax.numpy as jnp
      >>> magnitude(None, jnp.array([-2.0, 1.0]), None, None, None).tolist()
      [2.0, 1.0]
    """
    del key, grad, mask, memory
    return jnp.abs(weight)


@elementwise
def gradient_magnitude(
    key: Any, weight: Any, grad: Any, mask: Any, memory: Any
) -> Float[Array, "..."]:
    """``|g|`` of the dense gradient, or of its sum in the memory where the method keeps one.

    RigL's growth criterion (Evci et al., 2020, Algorithm 1).

    Args:
      key: Unused.
      weight: Unused.
      grad: Dense gradient, a float array.
      mask: Unused.
      memory: ``None``, or an accumulated gradient like ``grad`` that is ranked in its place.

    Returns:
      Array like ``grad``.

    Example:
      >>> import jax.numpy as jnp
      >>> gradient_magnitude(None, None, jnp.array([-2.0, 1.0]), None, None).tolist()
      [2.0, 1.0]
    """
    del key, weight, mask
    return jnp.abs(grad if memory is None else memory)


@elementwise
def saliency(key: Any, weight: Any, grad: Any, mask: Any, memory: Any) -> Float[Array, "..."]:
    """``|w g|``: connection sensitivity (SNIP; Lee et al., 2019, eq. 4 without the normalizer).

    Args:
      key: Unused.
      weight: Float array.
      grad: Dense gradient like ``weight``.
      mask: Unused.
      memory: Unused.

    Returns:
      Array like ``weight``, float32 or wider: products of half-precision numbers underflow.

    Example:
      >>> import jax.numpy as jnp
      >>> saliency(None, jnp.array([-2.0, 1.0]), jnp.array([1.0, 3.0]), None, None).tolist()
      [2.0, 3.0]
    """
    del key, mask, memory
    wide = jnp.promote_types(weight.dtype, jnp.float32)
    return jnp.abs(weight.astype(wide) * grad.astype(wide))


def random(key: Any, weight: Any, grad: Any, mask: Any, memory: Any) -> Int[Array, "..."]:
    """An independent uniform integer a weight: every choice is equally likely.

    Args:
      key: PRNG key.
      weight: Read for its shape and sharding only: a ``ShapeDtypeStruct`` will do.
      grad: Unused.
      mask: Unused.
      memory: Unused.

    Returns:
      int32 array in [0, 2^31), shaped and sharded like ``weight``.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> random(jax.random.key(0), jnp.zeros((2, 3)), None, None, None).shape
      (2, 3)
    """
    del grad, mask, memory
    bits = jax.random.bits(key, weight.shape, jnp.uint32, out_sharding=explicit_sharding(weight))
    return (bits >> 1).astype(jnp.int32)
