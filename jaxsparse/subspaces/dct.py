"""DCT plus sparse: a fixed dense offset that costs no parameters, and sparse weights on top."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from jaxsparse._dtypes import wide_dtype
from jaxsparse._sharding import like
from jaxsparse._tree import flatten_with_paths, is_dense, join
from jaxsparse.base import Params, Where
from jaxsparse.layers import default_where


class DctPlusSparse(NamedTuple):
    """``weight = alpha DCT + S`` for every kernel; other leaves are trained as they are. A pytree.

    Attributes:
      origin: The parameters at which training starts, zeros in place of every kernel.
      offsets: Like ``origin``: the DCT of each kernel, ``optax.MaskedNode()`` elsewhere.
    """

    origin: Params
    offsets: PyTree

    def init(self) -> dict[str, Any]:
        """What to train: ``{"alpha": {path: 1.0}, "sparse": like the parameters}``."""
        pairs, _ = flatten_with_paths(self.offsets)
        alpha = {
            path: jnp.ones((), wide_dtype(offset)) for path, offset in pairs if not is_dense(offset)
        }
        return {"alpha": alpha, "sparse": self.origin}

    def params(self, coordinates: dict[str, Any]) -> Params:
        """The parameters at some coordinates, in the dtypes of ``origin``."""
        pairs, structure = flatten_with_paths(self.offsets)
        leaves = structure.flatten_up_to(coordinates["sparse"])
        effective = [
            leaf if is_dense(offset) else _effective(coordinates["alpha"][path], offset, leaf)
            for (path, offset), leaf in zip(pairs, leaves, strict=True)
        ]
        return jax.tree.unflatten(structure, effective)


def dct_plus_sparse(params: Params, *, where: Where = default_where) -> DctPlusSparse:
    """Kernels as ``alpha DCT + S``: signals pass however few weights S has.

    S starts at zero and its mask is that of whatever ``jaxsparse.sparsify`` is given: default
    ``where`` finds the kernels below ``"sparse/"`` and leaves every alpha dense.

    Args:
      params: Pytree of arrays. Kernels end in their output dimension, the others are inputs:
        (in, out), (height, width, in, out).
      where: ``(path, leaf) -> bool``: which leaves are kernels, of two or more dimensions.

    Returns:
      A ``DctPlusSparse``: ``init()`` is what to train, ``params(coordinates)`` what the loss
      takes. Offsets are stored, one number a weight.

    Raises:
      ValueError: if no leaf is a kernel, or one has fewer than two dimensions or integers.

    Example:
      >>> import jax, jax.numpy as jnp, optax, jaxsparse
      >>> offset = dct_plus_sparse({"kernel": jnp.ones((20, 10)), "bias": jnp.zeros(10)})
      >>> tx = jaxsparse.sparsify(optax.adam(1e-3), jaxsparse.rigl(0.99))
      >>> trained = offset.init()
      >>> state = tx.init(trained)
      >>> loss = lambda trained: jnp.sum(offset.params(trained)["kernel"] ** 2)
      >>> updates, state = tx.update(jax.grad(loss)(trained), state, trained)
      >>> trained = optax.apply_updates(trained, updates)
      >>> int((trained["sparse"]["kernel"] != 0).sum()), float(trained["alpha"]["kernel"]) < 1
      (2, True)

    Differences from the paper: the offset is a matrix that is added to S, where a kernel of its own
    would make use of the fast transform; function and gradients are the same. Which weights S has,
    and that biases are not sparse, is up to ``sparsify``.

    References:
      Price and Tanner, `Dense for the Price of Sparse: Improved Performance of Sparsely Initialized
      Networks via a Subspace Offset <https://arxiv.org/abs/2102.07655>`_, ICML 2021.
    """
    pairs, structure = flatten_with_paths(params)
    kernels = [not is_dense(leaf) and where(path, leaf) for path, leaf in pairs]
    if not any(kernels):
        raise ValueError(
            f"where takes none of the leaves {join(path for path, _ in pairs) or '(no leaves)'}; "
            "it must take at least one kernel"
        )
    origin, offsets = [], []
    for (path, leaf), is_kernel in zip(pairs, kernels, strict=True):
        if not is_kernel:
            origin.append(leaf)
            offsets.append(optax.MaskedNode())
            continue
        if len(leaf.shape) < 2 or not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"{path} has shape {tuple(leaf.shape)} and dtype {leaf.dtype}; a kernel holds "
                "floats in two or more dimensions: leave it out with where="
            )
        origin.append(jnp.zeros_like(leaf))
        matrix = dct_matrix(math.prod(leaf.shape[:-1]), leaf.shape[-1])
        offsets.append(like(jnp.asarray(matrix, leaf.dtype).reshape(leaf.shape), leaf))
    return DctPlusSparse(
        jax.tree.unflatten(structure, origin), jax.tree.unflatten(structure, offsets)
    )


def dct_matrix(inputs: int, outputs: int) -> Float[np.ndarray, "inputs outputs"]:
    """The orthonormal DCT-II of size max(inputs, outputs), cropped: its first rows and columns.

    Args:
      inputs: Rows, at least 1.
      outputs: Columns, at least 1.

    Returns:
      float64; entry (i, k) is ``c_k cos(pi (2 i + 1) k / 2 n)``, c_0^2 = 1 / n, else 2 / n. All
      columns are orthonormal where there are at least as many rows, all rows where fewer.

    Raises:
      ValueError: if a number is less than 1.

    Example:
      >>> dct_matrix(2, 2).round(3).tolist()
      [[0.707, 0.707], [0.707, -0.707]]
    """
    if inputs < 1 or outputs < 1:
        raise ValueError(f"a matrix of {inputs} by {outputs} is empty; both must be at least 1")
    n = max(inputs, outputs)
    angles = (2 * np.arange(inputs)[:, None] + 1) * np.arange(outputs) % (4 * n)
    return np.cos(np.pi / (2 * n) * angles) * np.where(np.arange(outputs), 2 / n, 1 / n) ** 0.5


def _effective(alpha: Array, offset: Array, weight: Array) -> Array:
    """In the wide dtype, then back to that of the weight."""
    dtype = wide_dtype(weight)
    both = alpha.astype(dtype) * offset.astype(dtype) + weight.astype(dtype)
    return both.astype(weight.dtype)
