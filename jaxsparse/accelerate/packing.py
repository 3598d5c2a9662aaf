"""Parameters as their kept values, topologies beside them, and back; exact both ways."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jaxtyping import Array, PyTree

from jaxsparse._tree import check_known, flatten_with_paths, is_dense, path_string
from jaxsparse.accelerate.topology import Topology, gathered, mask_of, spread, topology_of
from jaxsparse.base import Masks, Params
from jaxsparse.masks import pairs_of


def pack(
    params: Params,
    masks: Masks,
    *,
    block: tuple[int, int] = (1, 1),
    balanced: bool | None = None,
) -> tuple[Params, PyTree]:
    """Kept values in the place of masked weights, and where they belong.

    Gradients, optimizer slots and checkpoints of packed parameters shrink with them. Bit for bit
    undone by ``unpack``.

    Args:
      params: Pytree of concrete arrays.
      masks: Like ``params``: bool arrays, ``optax.MaskedNode()`` where dense.
      block: Height and width of the blocks that masks are made of (``structures.block``). Single
        weights give the memory alone, larger blocks memory and time.
      balanced: Does every block column keep the same number of blocks (``block(...,
        balanced=True)``, ``fan_in()``), so that ``block_sparse_matmul`` can be used? Default: if
        the masks of all leaves are so. Where columns differ, the shorter ones have empty slots.

    Returns:
      ``(packed, topology)``: like ``params``, with arrays of kept values; and like ``masks``, with
      a ``Topology`` a masked leaf.

    Raises:
      ValueError: if masks do not fit the parameters or the blocks, or are traced.

    Example:
      >>> params = {"bias": jnp.ones(2), "kernel": jnp.array([[1.0, 2.0], [3.0, 4.0]])}
      >>> masks = {"bias": optax.MaskedNode(), "kernel": jnp.array([[True, False], [True, True]])}
      >>> packed, topology = pack(params, masks)
      >>> packed["kernel"].tolist(), topology["kernel"].indices.tolist()
      ([1.0, 3.0, 4.0], [0, 2, 3])
    """
    pairs, structure = pairs_of(params, masks)
    in_blocks = [(p, w, m) for p, w, m in pairs if not is_dense(m)]
    for path, weight, _ in in_blocks:
        if isinstance(weight, Tracer):
            raise ValueError(f"{path} is traced, but kept weights are counted; pack outside of jit")
    if balanced is None:
        columns = [topology_of(path, mask, block, balanced=True) for path, _, mask in in_blocks]
        balanced = all(bool(topology.present.all()) for topology in columns)
    found = [m if is_dense(m) else topology_of(path, m, block, balanced) for path, _, m in pairs]
    values = [
        weight if is_dense(topology) else _gathered(topology, jnp.asarray(weight))
        for (_, weight, _), topology in zip(pairs, found, strict=True)
    ]
    marks = jax.tree.structure(masks, is_leaf=is_dense)
    return jax.tree.unflatten(structure, values), jax.tree.unflatten(marks, found)


# (One program, also where there is no jit around it.)
_gathered = jax.jit(gathered)


def unpack(packed: Params, topology: PyTree) -> Params:
    """Dense parameters with exact zeros; differentiable, and the identity where nothing is packed.

    Args:
      packed: Pytree of arrays, from ``pack``.
      topology: Beside it.

    Returns:
      Pytree of arrays.

    Raises:
      ValueError: if the two do not belong together.

    Example:
      >>> topology = {"kernel": Topology(jnp.array([0, 3]), (2, 2), (1, 1), balanced=False)}
      >>> unpack({"kernel": jnp.array([5.0, 7.0])}, topology)["kernel"].tolist()
      [[5.0, 0.0], [0.0, 7.0]]
    """
    return map_packed(lambda topology, values: spread(topology, values), topology, packed)


def pack_like(params: Params, topology: PyTree) -> Params:
    """What of dense arrays (weights, gradients) belongs to a topology.

    Args:
      params: Pytree of dense arrays.
      topology: Pytree with a ``Topology`` a packed leaf.

    Returns:
      Packed parameters.

    Raises:
      ValueError: if shapes differ.

    Example:
      >>> topology = {"kernel": Topology(jnp.array([0, 3]), (2, 2), (1, 1), balanced=False)}
      >>> pack_like({"kernel": jnp.array([[1.0, 2.0], [3.0, 4.0]])}, topology)["kernel"].tolist()
      [1.0, 4.0]
    """
    return map_packed(gathered, topology, params)


def masks_of_topology(topology: PyTree) -> Masks:
    """The masks.

    Args:
      topology: Pytree with a ``Topology`` a packed leaf, ``optax.MaskedNode()`` elsewhere.

    Returns:
      Masks like the dense parameters.

    Example:
      >>> topology = {"kernel": Topology(jnp.array([0, 3]), (2, 2), (1, 1), balanced=False)}
      >>> masks_of_topology(topology)["kernel"].tolist()
      [[True, False], [False, True]]
    """
    return jax.tree.map(
        lambda leaf: leaf if is_dense(leaf) else mask_of(leaf), topology, is_leaf=is_leaf
    )


def no_topology(topology: PyTree) -> PyTree:
    """The same tree for dense parameters: nothing is packed.

    Args:
      topology: Pytree with a ``Topology`` a packed leaf.

    Returns:
      ``optax.MaskedNode()`` everywhere.

    Example:
      >>> no_topology({"kernel": Topology(jnp.array([0]), (2, 2), (1, 1), balanced=False)})
      {'kernel': MaskedNode()}
    """
    return jax.tree.map(lambda leaf: optax.MaskedNode(), topology, is_leaf=is_leaf)


def complete(packed: Params, topology: PyTree) -> PyTree:
    """One topology or mark for each leaf, of a tree that names only the packed ones.

    Args:
      packed: Pytree of arrays.
      topology: Pytree with a ``Topology`` at the paths of packed leaves: a collection of linen's.

    Returns:
      Pytree like ``packed``.

    Raises:
      ValueError: if a topology stands at a path that has no leaf.

    Example:
      >>> topology = {"kernel": Topology(jnp.array([0]), (2, 2), (1, 1), balanced=False)}
      >>> complete({"bias": jnp.ones(2), "kernel": jnp.ones(1)}, topology)["bias"]
      MaskedNode()
    """
    named, _ = jax.tree_util.tree_flatten_with_path(topology, is_leaf=is_leaf)
    known = {path_string(path): leaf for path, leaf in named}
    leaves, structure = flatten_with_paths(packed)
    for path in known:
        check_known("packed leaf", path, [path for path, _ in leaves])
    return jax.tree.unflatten(
        structure, [known.get(path, optax.MaskedNode()) for path, _ in leaves]
    )


def is_leaf(node: Any) -> bool:
    """Is this a topology, or the mark of a dense leaf?

    Args:
      node: Anything.

    Returns:
      Whether a tree of topologies ends here.

    Example:
      >>> is_leaf(optax.MaskedNode())
      True
    """
    return is_dense(node) or isinstance(node, Topology)


def map_packed(f: Any, topology: PyTree, *trees: PyTree) -> PyTree:
    """Map over packed leaves; of the others, those of the first tree stay.

    Args:
      f: ``(topology, *parts) -> result``.
      topology: Pytree with a ``Topology`` a packed leaf.
      *trees: Pytrees of arrays, leaf by leaf.

    Returns:
      Pytree like the first of ``trees``.

    Raises:
      ValueError: if the numbers of leaves differ.

    Example:
      >>> map_packed(lambda t, x: x + 1, {"bias": optax.MaskedNode()}, {"bias": 1.0})
      {'bias': 1.0}
    """
    marks = jax.tree.leaves(topology, is_leaf=is_leaf)
    leaves, structure = flatten_with_paths(trees[0])
    rest = [jax.tree.leaves(tree, is_leaf=is_dense) for tree in trees[1:]]
    if any(len(marks) != len(own) for own in (leaves, *rest)):
        raise ValueError(
            f"{len(marks)} leaves of topologies, {len(leaves)} of parameters; pass the two that "
            "pack returned together"
        )
    rows = zip(marks, [leaf for _, leaf in leaves], *rest, strict=True)
    mapped = [first if is_dense(mark) else f(mark, first, *more) for mark, first, *more in rows]
    return jax.tree.unflatten(structure, mapped)


def bytes_of(tree: PyTree) -> int:
    """Bytes of all arrays of a pytree.

    Args:
      tree: Arrays or ``ShapeDtypeStruct`` leaves.

    Returns:
      Their bytes.

    Example:
      >>> bytes_of({"a": jnp.ones(3), "b": jnp.ones(3, bool)})
      15
    """
    size = lambda x: math.prod(jnp.shape(x)) * jnp.result_type(x).itemsize
    arrays: list[Array] = jax.tree.leaves(tree)
    return sum(size(array) for array in arrays)
