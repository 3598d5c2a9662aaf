"""Private: layers one after another: which leaves they are, and norms between neighbors."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxsparse._sharding import explicit_sharding
from jaxsparse._tree import flatten_with_paths, is_dense, join, match_globs
from jaxsparse.base import Params


def places(globs: Sequence[str | None], params: Params, what: str) -> list[int | None]:
    """The position among the leaves of the one that each glob matches; ``None`` stays."""
    rows, _ = flatten_with_paths(params)
    paths = [path for path, _ in rows]
    found: list[int | None] = []
    for glob in globs:
        if glob is None:
            found.append(None)
            continue
        hits = [i for i, hit in enumerate(match_globs([glob], paths, what)) if hit is not None]
        if len(hits) != 1:
            names = join(paths[i] for i in hits)
            raise ValueError(
                f"{what}: {glob!r} matches {len(hits)} leaves ({names}); name one for each place"
            )
        if is_dense(rows[hits[0]][1]):
            raise ValueError(
                f"{what}: {paths[hits[0]]} is out of reach, in another part of a partition or left "
                "out by a wrapper; give all of it to one method"
            )
        found.append(hits[0])
    return found


def check_neighbors(rows: Sequence[tuple[str, tuple[int, ...]]]) -> None:
    """Raise ``ValueError`` where the outputs of a kernel are not the inputs of the next one."""
    for path, shape in rows:
        if len(shape) < 2:
            raise ValueError(
                f"chain: {path} has shape {shape}; kernels have two or more dimensions"
            )
    for (path, shape), (other, after) in itertools.pairwise(rows):
        outputs, inputs = shape[-1], after[-2]
        flattened = len(shape) > 2 and len(after) == 2 and inputs % outputs == 0
        if inputs != outputs and not flattened:
            raise ValueError(
                f"chain: {path} {shape} has {outputs} outputs, {other} {after} has {inputs} "
                "inputs; name the kernels in the order of the network"
            )


def norms_in(before: Array, scale: Array | None, inputs: int) -> Float[Array, " inputs"]:
    """For each input of a layer: the norm of all weights that feed it, in the layer before."""
    norms = jnp.sqrt(jnp.sum(jnp.square(before), tuple(range(before.ndim - 1))))
    norms = _scaled(_everywhere(norms), scale)
    # After a flattening (NHWC) every position has all channels, one after another.
    return jnp.tile(norms, inputs // norms.size)


def norms_out(after: Array, scale: Array | None, outputs: int) -> Float[Array, " outputs"]:
    """For each output of a layer: the norm of all weights that use it, in the layer after."""
    axes = tuple(axis for axis in range(after.ndim) if axis != after.ndim - 2)
    squares = _everywhere(jnp.sum(jnp.square(after), axes))
    return _scaled(jnp.sqrt(jnp.sum(squares.reshape(-1, outputs), 0)), scale)


def along(vector: Array, axis: int, ndim: int) -> Array:
    """A vector as an array of ``ndim`` dimensions, along an axis counted from the end."""
    return jax.lax.broadcast_in_dim(
        vector, [vector.size if i == ndim + axis else 1 for i in range(ndim)], (ndim + axis,)
    )


def scale_factors(
    scales: Sequence[str | None] | Callable[[Params], Sequence[Any]] | None,
    params: Params,
    layers: Sequence[tuple[str, Any]],
) -> list[Array | None]:
    """What multiplies the outputs of each layer: vectors, or ``None``."""
    if scales is None:
        return [None] * len(layers)
    if callable(scales):
        found = list(scales(params))
    else:
        leaves = [leaf for _, leaf in flatten_with_paths(params)[0]]
        found = [None if i is None else leaves[i] for i in places(scales, params, "scales")]
    if len(found) != len(layers):
        raise ValueError(
            f"{len(found)} scales for the {len(layers)} kernels of chain; give None where there is "
            "no normalization"
        )
    for (path, weight), scale in zip(layers, found, strict=True):
        if scale is not None and jnp.shape(scale) != (weight.shape[-1],):
            raise ValueError(
                f"scales: {path} has {weight.shape[-1]} outputs, its scale has shape "
                f"{jnp.shape(scale)}; give one number an output"
            )
    return found


def _scaled(norms: Array, scale: Any) -> Array:
    if scale is None:
        return norms
    return norms * _everywhere(jnp.abs(jnp.asarray(scale).astype(jnp.float32)))


def _everywhere(vector: Array) -> Array:
    """The same on every device: it meets the other axis of the neighbor's mesh."""
    sharding = explicit_sharding(vector)
    if sharding is None:
        return vector
    whole = jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
    return jax.sharding.reshard(vector, whole)
