"""The three programs that are read, compiled from abstract shapes: nothing is allocated or run."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import jaxsparse
from benchmarks import baseline

from .collectives import Collective, collectives
from .transformer import Decoder, gradient_of, placed

# Two passes of XLA's are left out. One writes out what is summed, to sum it in a tree: for CPUs
# alone. The other merges the second gathering of a weight, for the backward pass, with the first.
_TREE, _MERGE = "tree_reduction_rewriter", "tree_reduction_rewriter,cse"
_TOKENS = 8


class Program(NamedTuple):
    """What is read of a compiled program.

    Attributes:
      exchanged: Its collectives.
      arguments: Bytes of its arguments on one device.
      temporaries: Bytes on one device beyond arguments and results.
    """

    exchanged: list[Collective]
    arguments: int
    temporaries: int


def mesh_of(devices: int, *others: int) -> jax.sharding.Mesh:
    """A mesh of this process's first devices, Auto axes.

    Args:
      devices: Along ``"data"``.
      *others: Along ``"model"``, if it has a second axis.

    Returns:
      The mesh.
    """
    shape = (devices, *others)
    names = ("data", "model")[: len(shape)]
    kinds = (jax.sharding.AxisType.Auto,) * len(shape)
    return jax.make_mesh(shape, names, axis_types=kinds, devices=jax.devices()[: math.prod(shape)])


def read(function: Any, mesh: jax.sharding.Mesh, *arguments: Any, left_out: str = _TREE) -> Program:
    """Compile a jitted function for a mesh, and read the program.

    Args:
      function: With ``lower``.
      mesh: Where it would run.
      *arguments: Its arguments, abstract or not.
      left_out: Passes of XLA's that are not run.

    Returns:
      The program.
    """
    with jax.set_mesh(mesh):
        compiled = function.lower(*arguments).compile({"xla_disable_hlo_passes": left_out})
    memory = compiled.memory_analysis()
    return Program(
        exchanged=collectives(compiled.as_text(), mesh.size),
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
    )


def gradient(decoder: Decoder, mesh: jax.sharding.Mesh) -> Program:
    """Forward and backward pass of one training step.

    Args:
      decoder: The shapes.
      mesh: Of one axis.

    Returns:
      The program.
    """
    words = jax.ShapeDtypeStruct((mesh.size, _TOKENS), jnp.int32)
    params = placed(decoder.params(), mesh)
    return read(jax.jit(gradient_of(decoder, mesh)), mesh, params, words, left_out=_MERGE)


def optimizer(method: str, sparsity: float) -> optax.GradientTransformationExtraArgs:
    """Adam, wrapped.

    Args:
      method: A key of ``jaxsparse.ALGORITHMS``.
      sparsity: Fraction of zeros.

    Returns:
      An optax transformation.

    Raises:
      ValueError: if there is no such method.
    """
    if method not in jaxsparse.ALGORITHMS:
        known = ", ".join(jaxsparse.ALGORITHMS)
        raise ValueError(f"method is {method!r}; give one of {known}")
    algorithm = jaxsparse.ALGORITHMS[method].factory(sparsity)
    return jaxsparse.sparsify(optax.adam(1e-3), algorithm)


def state_of(tx: Any, decoder: Decoder, mesh: jax.sharding.Mesh) -> Any:
    """The optimizer's state, abstract, each leaf where its parameter is.

    Args:
      tx: The optimizer.
      decoder: The shapes.
      mesh: Where it lies.

    Returns:
      Pytree of ``ShapeDtypeStruct``.
    """
    return placed(jax.eval_shape(tx.init, decoder.params()), mesh)


def update(tx: Any, decoder: Decoder, mesh: jax.sharding.Mesh) -> Program:
    """The optimizer's part of a step, with the drop and the growth in it if one is due.

    Args:
      tx: The optimizer.
      decoder: The shapes.
      mesh: Where everything lies.

    Returns:
      The program. Its collectives are in no loop if they are of every step, in one if they are of
      every update, in two if they are of every pass of a search.
    """
    params, state = placed(decoder.params(), mesh), state_of(tx, decoder, mesh)

    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return read(jax.jit(step, donate_argnums=(0, 1)), mesh, params, state, params)


def argsort_update(
    tx: Any, decoder: Decoder, mesh: jax.sharding.Mesh, largest: bool = False
) -> Program:
    """The same by sorting: ``baseline.drop_grow`` of every matrix, masks of bools.

    Args:
      tx: The optimizer whose masks they are.
      decoder: The shapes.
      mesh: Where everything lies.
      largest: The largest matrix alone? Its temporaries are the least that there can be.

    Returns:
      The program.
    """
    masks = jaxsparse.masks_of(state_of(tx, decoder, mesh))
    is_dense = lambda leaf: isinstance(leaf, optax.MaskedNode)
    pairs = zip(
        jax.tree.leaves(masks, is_leaf=is_dense),
        jax.tree.leaves(placed(decoder.params(), mesh)),
        strict=True,
    )
    rows = [(mask, weight, weight) for mask, weight in pairs if not is_dense(mask)]

    if largest:
        rows = [max(rows, key=lambda row: row[0].size)]

    def sort_all(rows: Any, fraction: jax.Array) -> Any:
        one = lambda m, w, g: baseline.drop_grow(m.astype(w.dtype), w, g, fraction) > 0
        return [one(*row) for row in rows]

    fraction = jax.ShapeDtypeStruct((), jnp.float32)
    where = [mask.sharding for mask, _, _ in rows]
    return read(jax.jit(sort_all, out_shardings=where), mesh, rows, fraction)
