"""Sparsities that are given: by path, or by masks."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import PyTree

from jaxsparse._tree import is_dense, match_globs
from jaxsparse.base import Distribution, Masks, Params, Where
from jaxsparse.distributions.by_size import uniform
from jaxsparse.distributions.counting import keep_count
from jaxsparse.layers import Layer, default_where, sparse_layers
from jaxsparse.schedules import check_sparsity


def by_path(
    params: Params,
    sparsity: float,
    *,
    rules: Mapping[str, Any],
    otherwise: Distribution = uniform,
    where: Where = default_where,
) -> PyTree:
    """Explicit layers: globs to sparsities or kept counts.

    Layers that no glob names share ``sparsity`` by ``otherwise`` among themselves: nothing is
    compensated, as in ``custom_sparsity_map`` of google-research/rigl.

    Args:
      params: Pytree of arrays or ``ShapeDtypeStruct`` leaves.
      sparsity: Fraction of zeros in the layers that no rule names, in [0, 1).
      rules: Glob -> a float in [0, 1), the layer's fraction of zeros, or an int (also a traced
        int32: then a sweep over budgets is one ``vmap``), the number of weights it keeps. The
        first glob that matches a path holds.
      otherwise: The distribution of the other layers.
      where: ``(path, leaf) -> bool``: may the leaf be sparse?

    Returns:
      Pytree of ints like ``params``, ``optax.MaskedNode()`` where dense.

    Raises:
      ValueError: if a glob matches nothing, or a count is larger than its layer.

    Example:
      >>> import functools, jax.numpy as jnp
      >>> params = {"a": jnp.zeros((100, 50)), "b": jnp.zeros((50, 10))}
      >>> functools.partial(by_path, rules={"a": 0.99, "b": 20})(params, 0.9)
      {'a': 50, 'b': 20}
    """
    found, structure = sparse_layers(params, where)
    named = [layer for layer in found if layer is not None]
    hits = match_globs(list(rules), [layer.path for layer in named], "by_path")
    rule = {
        x.path: list(rules.values())[i] for x, i in zip(named, hits, strict=True) if i is not None
    }
    if not named or any(layer.path not in rule for layer in named):
        others = otherwise(
            params, sparsity, where=lambda path, leaf: where(path, leaf) and path not in rule
        )
    else:
        others = jax.tree.unflatten(structure, [optax.MaskedNode()] * len(found))
    counts = [
        count if layer is None or layer.path not in rule else _explicit(layer, rule[layer.path])
        for layer, count in zip(found, structure.flatten_up_to(others), strict=True)
    ]
    return jax.tree.unflatten(structure, counts)


def from_masks(masks: Masks) -> Distribution:
    """The layer-wise sparsities of masks, for other masks: any method's ratios for any other.

    SNIP's and GraSP's ratios (Liu et al., 2022): prune with the method, keep the counts alone, and
    draw random masks: ``static(0.9, distribution=from_masks(masks))``.

    Args:
      masks: Pytree of bool arrays, ``optax.MaskedNode()`` where dense.

    Returns:
      A distribution; it refuses another sparsity than that of the masks.

    Raises:
      ValueError: when it is called, if the masks do not fit the parameters or the sparsity.

    Example:
      >>> import jax.numpy as jnp
      >>> masks = {"a": jnp.array([[True, False]]), "b": jnp.array([[False, False]])}
      >>> from_masks(masks)({"a": jnp.zeros((1, 2)), "b": jnp.zeros((1, 2))}, 0.75)
      {'a': 1, 'b': 0}
    """
    marks = jax.tree.leaves(masks, is_leaf=is_dense)
    kept = [mark if is_dense(mark) else int(np.sum(np.asarray(mark))) for mark in marks]

    def distribution(params: Params, sparsity: float, *, where: Where = default_where) -> PyTree:
        check_sparsity(sparsity)
        layers, structure = sparse_layers(params, where)
        if len(layers) != len(marks):
            raise ValueError(
                f"{len(layers)} leaves of params, {len(marks)} of masks; give masks made for them"
            )
        for layer, mark in zip(layers, marks, strict=True):
            if (layer is None) != is_dense(mark) or (layer and layer.shape != mark.shape):
                name = layer.path if layer else "a dense leaf"
                shape = "no mask" if is_dense(mark) else f"a mask of shape {mark.shape}"
                raise ValueError(f"{name} has {shape}; give masks made for these parameters")
        size = sum(layer.size for layer in layers if layer)
        total = sum(count for count in kept if not is_dense(count))
        if size and total != keep_count(size, sparsity):
            raise ValueError(
                f"the masks keep {total} of {size} weights, sparsity {sparsity} "
                f"{keep_count(size, sparsity)}; give sparsity={1 - total / size:.6g}"
            )
        return jax.tree.unflatten(structure, kept)

    return distribution


def _explicit(layer: Layer, rule: Any) -> Any:
    if isinstance(rule, float):
        check_sparsity(rule, f"sparsity of {layer.path}")
        return keep_count(layer.size, rule)
    if isinstance(rule, int | np.integer) and not 0 <= rule <= layer.size:
        raise ValueError(
            f"{layer.path} is to keep {rule} weights; it has {layer.size}: give 0 to {layer.size}"
        )
    return rule
