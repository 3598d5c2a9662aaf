"""Parameters as sparse arrays of other libraries, and back."""

import math
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import PyTree

from jaxsparse._tree import flatten_with_paths
from jaxsparse.base import Masks, Params
from jaxsparse.export._named import host, kept_values, named_leaves, placed, with_zeros


def to_bcoo(params: Params, masks: Masks) -> PyTree:
    """Leaves with a mask as ``jax.experimental.sparse.BCOO``: coordinates and kept values.

    Kept weights are stored entries, also those that are zero: ``nse`` is the kept count. Indices
    are sorted and unique. Arrays of any number of dimensions keep their shape.

    ``.todense()`` is a sum over XLA's zeros: equal, but a kept -0.0 becomes 0.0 and, on a CPU, a
    subnormal number zero. ``from_sparse`` gives every bit back, and the masks.

    Args:
      params: One array, or a pytree of them; concrete.
      masks: Like ``params``: bool arrays, ``optax.MaskedNode()`` where dense (also for a whole
        subtree).

    Returns:
      Like ``params``; what has no mask stays as it is.

    Raises:
      ValueError: if masks do not fit, or an array is traced.

    Example:
      >>> import jax.numpy as jnp
      >>> weight = to_bcoo(jnp.array([[0.0, 2.0], [3.0, 4.0]]), jnp.array([[1, 1], [0, 0]]) > 0)
      >>> weight.nse, weight.data.tolist(), weight.indices.tolist()
      (2, [0.0, 2.0], [[0, 0], [0, 1]])
    """
    from jax.experimental.sparse import BCOO

    def one(path: str, array: np.ndarray, mask: np.ndarray) -> BCOO:
        values = placed(path, kept_values(array, mask))
        indices = jax.device_put(np.argwhere(mask).astype(np.int32))
        parts = (values, indices)
        return BCOO(parts, shape=array.shape, indices_sorted=True, unique_indices=True)

    return _map_masked(one, params, masks)


def to_bcsr(params: Params, masks: Masks, *, split: int = -1) -> PyTree:
    """Leaves with a mask as ``jax.experimental.sparse.BCSR``: matrices, row by row.

    Kept weights are stored entries, also those that are zero. Arrays of other than two
    dimensions become matrices: the dimensions before ``split`` are its rows, the others its
    columns. By default the last one makes columns, so that a kernel of Flax (height, width, in,
    out) becomes the matrix by which patches are multiplied; ``split=1`` does it for (out, in,
    height, width).

    JAX multiplies a BCSR from the left only, ``matrix @ x``: convert ``kernel.T`` for that. About
    ``.todense()``, see ``to_bcoo``; the way back is ``from_sparse``.

    Args:
      params: One array, or a pytree of them; concrete.
      masks: As for ``to_bcoo``.
      split: The first of the dimensions that make columns.

    Returns:
      Like ``params``; what has no mask stays as it is.

    Raises:
      ValueError: if masks do not fit, or an array is traced.

    Example:
      >>> import jax.numpy as jnp
      >>> weight = to_bcsr(jnp.array([[0.0, 2.0], [3.0, 4.0]]), jnp.array([[1, 1], [0, 1]]) > 0)
      >>> weight.indptr.tolist(), weight.indices.tolist(), weight.data.tolist()
      ([0, 2, 3], [0, 1, 1], [0.0, 2.0, 4.0])
    """
    from jax.experimental.sparse import BCSR

    def one(path: str, array: np.ndarray, mask: np.ndarray) -> BCSR:
        values, columns, starts, shape = _rows(array, mask, split)
        indices = [jax.device_put(part.astype(np.int32)) for part in (columns, starts)]
        parts = (placed(path, values), *indices)
        return BCSR(parts, shape=shape, indices_sorted=True, unique_indices=True)

    return _map_masked(one, params, masks)


def to_scipy(params: Params, masks: Masks, *, split: int = -1) -> PyTree:
    """Leaves with a mask as ``scipy.sparse.csr_array``.

    Kept weights are stored entries, also those that are zero: ``nnz`` is the kept count. Arrays
    of other than two dimensions become matrices, see ``to_bcsr``. ``.toarray()`` is a sum over
    zeros: equal, but a kept -0.0 becomes 0.0; ``from_sparse`` gives every bit back, and the
    masks.

    Args:
      params: One array, or a pytree of them; concrete; of bool, integers, float32 or float64.
      masks: As for ``to_bcoo``.
      split: The first of the dimensions that make columns.

    Returns:
      Like ``params``; what has no mask stays as it is.

    Raises:
      ValueError: if masks do not fit, an array is traced, or has a dtype that SciPy does not
        know (bfloat16, float16).

    Example:
      >>> import jax.numpy as jnp
      >>> weight = to_scipy(jnp.array([[0.0, 2.0], [3.0, 4.0]]), jnp.array([[1, 1], [0, 0]]) > 0)
      >>> weight.nnz, weight.toarray().tolist()
      (2, [[0.0, 2.0], [0.0, 0.0]])
    """
    from scipy.sparse import csr_array

    def one(path: str, array: np.ndarray, mask: np.ndarray) -> Any:
        if array.dtype.kind not in "biuf" or array.dtype == np.float16:
            raise ValueError(
                f"{path} is {array.dtype}, which scipy.sparse does not know; cast it first, with "
                "jax.tree.map(lambda w: w.astype('float32'), params)"
            )
        values, columns, starts, shape = _rows(array, mask, split)
        return csr_array((values, columns, starts), shape=shape)

    return _map_masked(one, params, masks)


def from_sparse(sparse: PyTree, *, like: PyTree = None) -> tuple[Params, Masks]:
    """Parameters and masks of what ``to_bcoo``, ``to_bcsr`` or ``to_scipy`` returned, bit for bit.

    Args:
      sparse: One sparse array, or a pytree of them and of other leaves, which stay as they are.
      like: A pytree like the parameters, for the shapes of those that became matrices;
        ``None``: they stay matrices.

    Returns:
      ``(params, masks)``: NumPy arrays with exact zeros, and bool arrays; stored entries are
      kept. ``optax.MaskedNode()`` where a leaf was not sparse.

    Raises:
      ValueError: if an entry is stored twice, or shapes do not fit ``like``.

    Example:
      >>> import jax.numpy as jnp
      >>> weight = to_scipy(jnp.array([[-0.0, 2.0]]), jnp.array([[True, False]]))
      >>> from_sparse(weight)
      (array([[-0.,  0.]], dtype=float32), array([[ True, False]]))
    """
    leaves, structure = jax.tree.flatten(sparse, is_leaf=_is_sparse)
    named = [("the array", None)] * len(leaves) if like is None else flatten_with_paths(like)[0]
    if len(named) != len(leaves):
        raise ValueError(
            f"{len(leaves)} leaves of sparse, {len(named)} of like; pass the parameters that were "
            "exported"
        )
    both = [_dense(*pair, leaf) for pair, leaf in zip(named, leaves, strict=True)]
    return structure.unflatten([p for p, _ in both]), structure.unflatten([m for _, m in both])


def _map_masked(one: Any, params: Params, masks: Masks) -> PyTree:
    rows, structure = named_leaves(params, masks)
    name = lambda row: row.path or "the array"
    new: Any = lambda row: (
        row.leaf if row.mask is None else one(name(row), host(name(row), row.leaf), row.mask)
    )
    return structure.unflatten([new(row) for row in rows])


def _rows(
    array: np.ndarray, mask: np.ndarray, split: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[int, int]]:
    """Values, their columns, where each row starts, and the shape of the matrix."""
    before, after = array.shape[:split], array.shape[split:]
    matrix = mask.reshape(math.prod(before), math.prod(after))
    starts = np.append(0, np.cumsum(matrix.sum(1)))
    return kept_values(array, mask), np.nonzero(matrix)[1], starts, matrix.shape


def _is_sparse(leaf: Any) -> bool:
    """BCOO, BCSR and SciPy's arrays know their number of stored entries; no other array does."""
    return hasattr(leaf, "nse") or hasattr(leaf, "nnz")


def _dense(path: str, like: Any, leaf: Any) -> tuple[Any, Any]:
    if not _is_sparse(leaf):
        return leaf, optax.MaskedNode()
    pieces = leaf.tocsr() if hasattr(leaf, "nnz") else leaf
    data, indices = host(path, pieces.data), host(path, pieces.indices)
    if hasattr(pieces, "indptr"):
        rows = np.repeat(np.arange(leaf.shape[0]), np.diff(host(path, pieces.indptr)))
        indices = np.stack([rows, indices], -1)
    if (indices >= np.asarray(leaf.shape, np.int64)).any():
        raise ValueError(f"{path} stores entries outside of its shape {tuple(leaf.shape)}")
    steps = [math.prod(leaf.shape[axis + 1 :]) for axis in range(len(leaf.shape))]
    where = indices.astype(np.int64) @ np.asarray(steps, np.int64)
    mask = np.zeros(math.prod(leaf.shape), bool)
    mask[where] = True
    if np.count_nonzero(mask) != where.size:
        raise ValueError(f"{path} stores an entry twice; sum duplicates first")
    shape = leaf.shape if like is None else tuple(like.shape)
    if math.prod(shape) != mask.size:
        raise ValueError(
            f"{path} has shape {tuple(leaf.shape)}, and {shape} in like; pass the parameters that "
            "were exported"
        )
    order = np.argsort(where)
    return with_zeros(data[order], mask.reshape(shape)), mask.reshape(shape)
