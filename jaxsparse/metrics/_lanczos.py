"""Private: the ends of the spectrum of a symmetric operator on a pytree."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree


class RitzPairs(NamedTuple):
    """What ``lanczos`` found, the largest first; NaN past the dimension of the space.

    Attributes:
      values: Ritz values.
      residuals: Norms of ``A v - value v``.
      vectors: Pytree of Ritz vectors, stacked.
    """

    values: Array
    residuals: Array
    vectors: PyTree


class _Basis(NamedTuple):
    """Lanczos vectors so far (zeros after them), and the tridiagonal matrix between them."""

    vectors: PyTree
    diagonal: Array
    beside: Array


def lanczos(
    product: Callable[[PyTree], PyTree],
    draw: Callable[[chex.PRNGKey], PyTree],
    key: chex.PRNGKey,
    dimension: Array,
    iterations: int,
    k: int,
) -> RitzPairs:
    """Lanczos, each vector orthogonalised against all before it, twice.

    Args:
      product: A times a vector, within a space of ``dimension``.
      draw: A random vector of that space.
      key: PRNG key.
      dimension: Of the space; may be traced.
      iterations: Products with A.
      k: Pairs wanted.
    """
    start = draw(jax.random.fold_in(key, 0))
    dtype = jnp.result_type(*jax.tree.leaves(start))
    empty = _Basis(
        jax.tree.map(lambda x: jnp.zeros((iterations, *x.shape), x.dtype), start),
        jnp.zeros(iterations, dtype),
        jnp.zeros(iterations, dtype),
    )

    def step(number: Array, carry: tuple[_Basis, PyTree]) -> tuple[_Basis, PyTree]:
        basis, vector = carry
        vectors = jax.tree.map(lambda b, v: b.at[number].set(v), basis.vectors, vector)
        image = product(vector)
        rest = _rest(vectors, image)
        size = _norm(rest)
        # The vectors so far span a space that A does not leave: go on from anywhere else in it.
        closed = size <= 10 * jnp.finfo(dtype).eps * _norm(image)
        rest = jax.lax.cond(
            closed, lambda: _rest(vectors, draw(jax.random.fold_in(key, number + 1))), lambda: rest
        )
        # Nothing is left once the whole space is spanned.
        left = number + 1 < dimension
        basis = _Basis(
            vectors,
            basis.diagonal.at[number].set(_dot(vector, image)),
            basis.beside.at[number].set(jnp.where(closed | ~left, 0, size)),
        )
        return basis, jax.tree.map(lambda v: jnp.where(left, v, 0), _unit(rest))

    basis, _ = jax.lax.fori_loop(0, iterations, step, (empty, _unit(start)))
    return _ritz_pairs(basis, jnp.minimum(dimension, iterations), k)


def _ritz_pairs(basis: _Basis, dimension: Array, k: int) -> RitzPairs:
    """Eigenpairs of the tridiagonal matrix, back in the space."""
    found = jnp.arange(len(basis.diagonal)) < dimension
    # What is not there is decoupled, and given a value below all others.
    below = -(1 + 3 * jnp.max(jnp.abs(basis.diagonal)) + 3 * jnp.max(basis.beside))
    diagonal = jnp.where(found, basis.diagonal, below)
    beside = basis.beside[:-1]
    matrix = jnp.diag(diagonal) + jnp.diag(beside, 1) + jnp.diag(beside, -1)
    values, turned = jnp.linalg.eigh(matrix)
    values, turned = values[::-1][:k], turned[:, ::-1][:, :k]
    there = jnp.arange(k) < dimension
    combine = lambda b: jnp.tensordot(turned.T.astype(b.dtype), b, 1, precision="highest")
    return RitzPairs(
        jnp.where(there, values, jnp.nan),
        jnp.where(there, basis.beside[-1] * jnp.abs(turned[-1]), jnp.nan),
        jax.tree.map(combine, basis.vectors),
    )


def _rest(vectors: PyTree, vector: PyTree) -> PyTree:
    """The part that is orthogonal to all vectors; once leaves rounding behind, twice does not."""
    for _ in range(2):
        along = sum(
            jnp.tensordot(b, v, v.ndim, precision="highest")
            for b, v in zip(jax.tree.leaves(vectors), jax.tree.leaves(vector), strict=True)
        )
        remove = lambda v, b, along=along: v - jnp.tensordot(along, b, 1, precision="highest")
        vector = jax.tree.map(remove, vector, vectors)
    return vector


def _dot(first: PyTree, second: PyTree) -> Array:
    """Sum of products over all leaves."""
    parts = jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum(a * b), first, second))
    return jnp.sum(jnp.stack(parts))


def _norm(vector: PyTree) -> Array:
    return jnp.sqrt(_dot(vector, vector))


def _unit(vector: PyTree) -> PyTree:
    """Of length one, or zero."""
    norm = _norm(vector)
    factor = 1 / jnp.where(norm > 0, norm, 1)
    return jax.tree.map(lambda v: v * factor.astype(v.dtype), vector)
