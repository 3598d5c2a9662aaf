"""What to drop and what to grow: ``(key, weight, grad, mask, memory) -> score``, a leaf at a time.

Larger is kept, or grown. A score is any function with this signature.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxsparse._dtypes import wide, wide_dtype
from jaxsparse._sharding import explicit_sharding, like
from jaxsparse.base import Score


def elementwise(score: Score) -> Score:
    """Mark a score each of whose numbers depends on one weight alone, and cheaply.

    Such a score is computed anew in every pass of the selection and never stored, if one operation
    at most rounds (``|w|``, ``|w g|``): a product and a sum, as in ``|w| + c |g|``, may come out
    otherwise from one pass to the next, and the count would not be exact. Any other one is
    computed once, and costs an array like the weights.

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
    dtype = wide_dtype(weight)
    return jnp.abs(weight.astype(dtype) * grad.astype(dtype))


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


@elementwise
def distance(key: Any, weight: Any, grad: Any, mask: Any, memory: Any) -> Float[Array, "..."]:
    """``|w - w_0|``: how far a weight has come (Zhou et al., 2019, "movement").

    Args:
      key: Unused.
      weight: Float array.
      grad: Unused.
      mask: Unused.
      memory: What the weight started from, a float32 array like ``weight``.

    Returns:
      Array like ``weight``, float32 or wider.

    Example:
      >>> import jax.numpy as jnp
      >>> distance(None, jnp.array([2.0, -1.0]), None, None, jnp.array([1.5, 1.0])).tolist()
      [0.5, 2.0]
    """
    del key, grad, mask
    return jnp.abs(wide(weight) - memory)


@elementwise
def momentum_magnitude(
    key: Any, weight: Any, grad: Any, mask: Any, memory: Any
) -> Float[Array, "..."]:
    """``|m|`` of the gradients' running average, or ``|m| / (sqrt(v) + 1e-8)`` with their squares'.

    The growth criterion of sparse momentum (SNFS; Dettmers & Zettlemoyer, 2019).

    Args:
      key: Unused.
      weight: Unused.
      grad: Dense gradient, which stands for the average where there is none.
      mask: Unused.
      memory: ``None``, an average like ``grad``, or its ``memories.Moments``.

    Returns:
      Array like ``grad``.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxsparse.memories import Moments
      >>> moments = Moments(jnp.array([-2.0, 1.0]), jnp.array([16.0, 1.0]))
      >>> momentum_magnitude(None, None, None, None, moments).tolist()
      [0.5, 1.0]
    """
    del key, weight, mask
    if memory is None:
        return jnp.abs(grad)
    if isinstance(memory, tuple):
        mean, square = memory
        return jnp.abs(mean) / (jnp.sqrt(square) + 1e-8)
    return jnp.abs(memory)


@elementwise
def measured(key: Any, weight: Any, grad: Any, mask: Any, memory: Any) -> Any:
    """What ``measure`` found, as it is: a score, or which weights stay.

    Args:
      key: Unused.
      weight: Unused.
      grad: Unused.
      mask: Unused.
      memory: Array like the weight.

    Returns:
      ``memory``.

    Example:
      >>> measured(None, None, None, None, 3.0)
      3.0
    """
    del key, weight, grad, mask
    return memory


def magnitude_and_gradient(gradient_weight: float) -> Score:
    """``|w| + c |g|``: MEST's importance (Yuan et al., 2021), which spares weights on the move.

    Args:
      gradient_weight: The factor c, the paper's lambda, 0 or more.

    Returns:
      A score.

    Raises:
      ValueError: if the factor is negative.

    Example:
      >>> import jax.numpy as jnp
      >>> score = magnitude_and_gradient(0.5)
      >>> score(None, jnp.array([-2.0, 1.0]), jnp.array([1.0, -4.0]), None, None).tolist()
      [2.5, 3.0]
    """
    if gradient_weight < 0:
        raise ValueError(f"gradient_weight is {gradient_weight}; it must be 0 or more")

    @elementwise
    def score(key: Any, weight: Any, grad: Any, mask: Any, memory: Any) -> Float[Array, "..."]:
        del key, mask, memory
        dtype = wide_dtype(weight)
        return jnp.abs(weight).astype(dtype) + gradient_weight * jnp.abs(grad).astype(dtype)

    return score


def length_three_paths(kind: Literal["ch2", "ch3", "l3"] = "ch2") -> Score:
    """Link prediction from the mask alone: how many paths of length three join the ends of a link.

    A layer is a graph between its inputs and its outputs (a convolution is one for each position of
    the kernel). A path from input u to output v goes over an output z1 of u and an input z2 of v.
    With di links of z to the other end's neighbors, and de links elsewhere:

    - ``"ch2"``: sum of (1 + di) / (1 + de) over all such z, CH2-L3 by nodes (Zhang et al., 2025);
    - ``"ch3"``: sum of 1 / (1 + de), CH3-L3 by nodes;
    - ``"l3"``: sum of 1 / sqrt(k(z1) k(z2)) over paths, k the number of links (Kovacs, 2019).

    Terms are rounded to 2^-10, so that sums come out the same on every mesh, and equal scores are
    ordered at random. Costs matrix products of the mask, gathered on every device of an explicit
    mesh.

    Args:
      kind: Which of these.

    Returns:
      A score; what it says of links that are there means nothing.

    Raises:
      ValueError: if there is no such kind; at an update, if a leaf has less than two dimensions.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> mask = jnp.array([[1, 0, 0], [1, 1, 0], [0, 0, 1]], bool)
      >>> score = length_three_paths("l3")(jax.random.key(0), mask * 1.0, None, mask, None)
      >>> round(float(score[0, 1]), 2)  # over output 0 and input 1, of two links each
      0.5
    """
    if kind not in ("ch2", "ch3", "l3"):
        raise ValueError(f"kind is {kind!r}; it must be 'ch2', 'ch3' or 'l3'")

    def product(a: Array, b: Array) -> Array:
        return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)

    def rounded(terms: Array) -> Array:
        return jnp.round(terms * 1024) / 1024

    def over(links: Array) -> Array:
        """The sum over the nodes of the first side that neighbor v: from u, of the same side."""
        shared = product(links, links.mT)
        common = shared > 0
        elsewhere = jnp.maximum(jnp.sum(links, -1)[..., None, :] - shared - 1, 0)
        terms = (1 + shared if kind == "ch2" else 1.0) / (1 + elsewhere)
        return product(rounded(jnp.where(common, terms, 0)), links)

    def score(key: Any, weight: Any, grad: Any, mask: Any, memory: Any) -> Float[Array, "..."]:
        if mask.ndim < 2:
            raise ValueError(f"paths need two dimensions or more, not {mask.shape}; use where=")
        links, sharding = mask, explicit_sharding(mask)
        if sharding is not None:
            everywhere = jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
            links = jax.sharding.reshard(mask, everywhere)
        links = links.astype(jnp.float32)
        if kind == "l3":
            rows, columns = jnp.sum(links, -1, keepdims=True), jnp.sum(links, -2, keepdims=True)
            least = lambda degree: jnp.sqrt(jnp.maximum(degree, 1))
            paths = product(rounded(links / least(columns)), links.mT)
            found = product(paths, rounded(links / least(rows)))
        else:
            found = over(links) + over(links.mT).mT
        chance = random(key, weight, grad, mask, memory).astype(jnp.float32) * 2.0**-42
        return like(found, mask) + chance

    return score
