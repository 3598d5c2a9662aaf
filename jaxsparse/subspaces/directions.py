"""Random subspaces: the parameters move along d random directions."""

import functools
import math
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxsparse._dtypes import wide_dtype
from jaxsparse._sharding import like
from jaxsparse._tree import check_known, flatten_with_paths, is_dense
from jaxsparse.base import Params, Where
from jaxsparse.subspaces.projections import PROJECTIONS, Projection


def floating(path: str, leaf: Any) -> bool:
    """Every leaf of floats that has a weight, biases too.

    Args:
      path: ``"/"``-joined key names; not read.
      leaf: An array or a ``ShapeDtypeStruct``.

    Returns:
      Does the leaf move?

    Example:
      >>> import jax.numpy as jnp
      >>> floating("bias", jnp.zeros(3)), floating("step", jnp.zeros((), int))
      (True, False)
    """
    del path
    return bool(jnp.issubdtype(leaf.dtype, jnp.floating) and math.prod(leaf.shape))


class Fixed(NamedTuple):
    """The rows of P that belong to a leaf which does not move: none."""


class RandomSubspace(NamedTuple):
    """``theta = theta_0 + P d``. A pytree: hand it to ``jit`` as an argument.

    (What a compiled function closes over becomes a constant of the program, P with it.)

    Attributes:
      origin: theta_0, the parameters at which training starts.
      projections: The rows of P, an entry a leaf of ``origin``.
      scale: float (d,), what makes the columns of P unit vectors.
    """

    origin: Params
    projections: tuple[Any, ...]
    scale: Float[Array, " d"]

    def init(self) -> Float[Array, " d"]:
        """The coordinates at which training starts: zeros (d,)."""
        return jnp.zeros_like(self.scale)

    def params(self, coordinates: Float[Array, " d"]) -> Params:
        """The parameters at some coordinates (d,): like ``origin``, in its dtypes."""
        if coordinates.shape != self.scale.shape:
            raise ValueError(
                f"coordinates have the shape {coordinates.shape}; give {self.scale.shape}, "
                "as init() does"
            )
        scaled = coordinates * self.scale
        leaves, structure = jax.tree.flatten(self.origin, is_leaf=is_dense)
        moved = [
            leaf if isinstance(projection, Fixed) else _moved(projection, leaf, scaled)
            for leaf, projection in zip(leaves, self.projections, strict=True)
        ]
        return jax.tree.unflatten(structure, moved)


def random_subspace(
    key: chex.PRNGKey,
    params: Params,
    dimension: int,
    *,
    projection: str = "dense",
    where: Where = floating,
) -> RandomSubspace:
    """d random directions through the parameters, in which training takes place.

    ============  ===========================================  =================================
    projection    P                                            numbers stored, for D weights
    ============  ===========================================  =================================
    ``dense``     normal entries                               d D floats
    ``sparse``    1 and -1 at one in sqrt(D) entries           d sqrt(D) (8 bytes and a sign)
    ``fastfood``  ``H G Pi H B``, square blocks stacked        D (8 bytes and a sign)
    ============  ===========================================  =================================

    Columns are unit vectors over all leaves together: up to rounding for ``dense`` and ``sparse``.
    For ``fastfood`` exactly where every leaf fills its blocks (of d, rounded up to a power of two,
    rows), else up to the part that is cut off: squared norms stray by some
    ``sqrt(2 rows cut into) / D``, never more than those of independent normal entries would.

    Args:
      key: A PRNG key; the leaf's index is folded in.
      params: Pytree of arrays: theta_0.
      dimension: d, from 1 to the number D of weights that move.
      projection: ``"dense"``, ``"sparse"`` or ``"fastfood"``.
      where: ``(path, leaf) -> bool``: which leaves move; default: all floating ones.

    Returns:
      A ``RandomSubspace``: ``init()`` is what to train, ``params(coordinates)`` what the loss
      takes. Coordinates are float32, wider where a leaf is.

    Raises:
      ValueError: if ``dimension`` is out of range, the projection is unknown, or a leaf that is
        to move is not floating.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> params = {"kernel": jnp.ones((20, 10)), "bias": jnp.zeros(10)}
      >>> subspace = random_subspace(jax.random.key(0), params, 5, projection="fastfood")
      >>> loss = lambda params: jnp.sum((params["kernel"] - 2) ** 2)
      >>> grads = jax.grad(lambda d: loss(subspace.params(d)))(subspace.init())
      >>> grads.shape, bool((subspace.params(subspace.init())["kernel"] == 1).all())
      ((5,), True)

    Differences from the paper: Fastfood's blocks are as wide as d needs (Le et al.), where the
    published code takes one block of all D, and like it leaves out the matrix S, which would vary
    the lengths of rows and leave columns without their unit norm. The number of entries of a sparse
    P is fixed, where the paper draws each by itself.

    References:
      Li et al., `Measuring the Intrinsic Dimension of Objective Landscapes
      <https://arxiv.org/abs/1804.08838>`_, ICLR 2018, equation 2; Li, Hastie and Church, `Very
      Sparse Random Projections <https://doi.org/10.1145/1150402.1150436>`_, KDD 2006; Le, Sarlos
      and Smola, `Fastfood <https://arxiv.org/abs/1408.3060>`_, ICML 2013.
    """
    check_known("projection", projection, PROJECTIONS)
    found, _ = flatten_with_paths(params)
    moves = [not is_dense(leaf) and where(path, leaf) for path, leaf in found]
    for (path, leaf), moving in zip(found, moves, strict=True):
        if moving and not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(f"{path} has dtype {leaf.dtype}; leave it out with where=")
    moving = [leaf for (_, leaf), moves_it in zip(found, moves, strict=True) if moves_it]
    total = sum(math.prod(leaf.shape) for leaf in moving)
    whole = isinstance(dimension, int | np.integer) and not isinstance(dimension, bool)
    if not whole or not 1 <= dimension <= total:
        raise ValueError(
            f"dimension is {dimension}; give a whole number in [1, {total}], the weights that move"
        )
    dtype = jnp.result_type(*[wide_dtype(leaf) for leaf in moving])
    shapes = tuple(
        tuple(leaf.shape) if moves_it else None
        for (_, leaf), moves_it in zip(found, moves, strict=True)
    )
    drawn, scale = _draw(key, shapes, int(dimension), total, projection, dtype)
    return RandomSubspace(params, drawn, scale)


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4, 5))
def _draw(
    key: chex.PRNGKey, shapes: Any, dimension: int, total: int, projection: str, dtype: Any
) -> tuple[tuple[Any, ...], Array]:
    """All leaves and the scale. (Jitted: one program where there is no jit around it.)"""
    parts: list[Any] = []
    squares = jnp.zeros(dimension, dtype)
    for index, shape in enumerate(shapes):
        if shape is None:
            parts.append(Fixed())
            continue
        own = jax.random.fold_in(key, index)
        drawn, more = PROJECTIONS[projection](own, shape, dimension, total, dtype)
        parts.append(drawn)
        squares = squares + more
    # A sparse column of a tiny tree may be empty: its coordinate then moves nothing.
    scale = jnp.where(squares > 0, jax.lax.rsqrt(jnp.maximum(squares, 1e-30)), 0)
    return tuple(parts), scale


def _moved(projection: Projection, leaf: Array, coordinates: Array) -> Array:
    """In the wide dtype, then back: half precision would lose small steps twice."""
    change = like(projection.project(coordinates, leaf.shape), leaf)
    return (leaf.astype(change.dtype) + change).astype(leaf.dtype)
