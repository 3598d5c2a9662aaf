"""How a sparsity is shared out over layers: paths and shapes in, integer kept counts out.

With ``exact=True`` (the default) the counts sum to the global budget
``total - floor(sparsity * total)`` to the weight, by largest remainders, and no layer is left
without a weight. ``exact=False`` rounds as the papers' own code does, layer by layer.
"""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import PyTree

from jaxsparse._tree import join, match_globs
from jaxsparse.base import Distribution, Params, Where
from jaxsparse.layers import Layer, default_where, sparse_layers
from jaxsparse.schedules import check_sparsity


def keep_count(size: int, sparsity: float) -> int:
    """``size - floor(sparsity * size)``, with the sparsity taken as the decimal that was typed.

    Args:
      size: Number of weights.
      sparsity: Fraction of zeros, in [0, 1).

    Returns:
      Number of weights to keep, at least 1 where ``size`` is.

    Example:
      >>> keep_count(100, 0.8), keep_count(1000, 0.999)
      (20, 1)
    """
    return size - math.floor(Fraction(repr(float(sparsity))) * size)


def apportion(ideal: Sequence[float], sizes: Sequence[int], total: int) -> list[int]:
    """Whole numbers near the ideal ones that sum to a total: largest remainders.

    Args:
      ideal: Wanted kept counts, one a layer, not negative.
      sizes: Most a layer can keep.
      total: The sum to reach, at most ``sum(sizes)``.

    Returns:
      One int a layer, in [1, size] (0 only where ``total`` is smaller than the number of layers).

    Example:
      >>> apportion([1.4, 2.4, 0.2], [4, 4, 4], 4)
      [1, 2, 1]
    """
    least = 1 if total >= len(sizes) else 0
    counts = [min(max(math.floor(x), least), n) for x, n in zip(ideal, sizes, strict=True)]
    while (gap := total - sum(counts)) != 0:
        sign = 1 if gap > 0 else -1
        room = [
            i for i, (c, n) in enumerate(zip(counts, sizes, strict=True)) if least <= c + sign <= n
        ]
        room.sort(key=lambda i: sign * (counts[i] - ideal[i]))
        for i in room[: abs(gap)]:
            counts[i] += sign
    return counts


def _share(
    params: Params, sparsity: float, where: Where, exact: bool, densities: Any, name: str
) -> PyTree:
    """Run ``densities(layers) -> floats`` over the sparse layers and round to counts."""
    check_sparsity(sparsity)
    found, structure = sparse_layers(params, where)
    layers = [layer for layer in found if layer is not None]
    if not layers:
        if found:
            return jax.tree.unflatten(structure, [optax.MaskedNode()] * len(found))
        raise ValueError(f"{name} needs a tree with at least one array; it got an empty one")
    sizes = [layer.size for layer in layers]
    wanted = densities(layers)
    if exact:
        ideal = [density * size for density, size in zip(wanted, sizes, strict=True)]
        counts = apportion(ideal, sizes, keep_count(sum(sizes), sparsity))
    else:
        # 12 digits: 1 - (1 - 0.1) is 0.09999999999999998, which would floor to one zero less.
        zeros = [round(min(max(1 - density, 0.0), 1.0), 12) for density in wanted]
        counts = [keep_count(n, share) for n, share in zip(sizes, zeros, strict=True)]
    left = iter(counts)
    return jax.tree.unflatten(
        structure, [optax.MaskedNode() if layer is None else next(left) for layer in found]
    )


def uniform(
    params: Params, sparsity: float, *, where: Where = default_where, exact: bool = True
) -> PyTree:
    """The same sparsity in every layer.

    To keep the first layer dense, as RigL's uniform does, leave it out with ``where``.

    Args:
      params: Pytree of arrays or ``ShapeDtypeStruct`` leaves.
      sparsity: Fraction of zeros over all sparse layers, in [0, 1).
      where: ``(path, leaf) -> bool``: may the leaf be sparse?
      exact: Sum to the global budget; ``False``: ``floor(sparsity * size)`` zeros in each layer,
        as google-research/rigl has it.

    Returns:
      Pytree of Python ints like ``params``, ``optax.MaskedNode()`` where dense.

    Raises:
      ValueError: if ``sparsity`` is out of range, or no leaf may be sparse.

    Example:
      >>> import jax.numpy as jnp
      >>> params = {"a": jnp.zeros((10, 7)), "b": jnp.zeros((7, 3)), "bias": jnp.zeros(3)}
      >>> uniform(params, 0.9)
      {'a': 7, 'b': 3, 'bias': MaskedNode()}
    """
    density = 1 - sparsity
    return _share(params, sparsity, where, exact, lambda layers: [density] * len(layers), "uniform")


def er(
    params: Params, sparsity: float, *, where: Where = default_where, exact: bool = True
) -> PyTree:
    """Erdos-Renyi: density in proportion to (n_in + n_out) / (n_in n_out); Mocanu et al., 2018.

    Kernels of convolutions count by their last two dimensions only. Layers whose density would
    pass 1 are kept whole and the rest is shared out again (Evci et al., 2020).

    Args:
      params: Pytree of arrays or ``ShapeDtypeStruct`` leaves.
      sparsity: Fraction of zeros over all sparse layers, in [0, 1).
      where: ``(path, leaf) -> bool``: may the leaf be sparse?
      exact: Sum to the global budget; ``False``: zeros rounded down in each layer.

    Returns:
      Pytree of Python ints like ``params``, ``optax.MaskedNode()`` where dense.

    Raises:
      ValueError: if ``sparsity`` is out of range, or no leaf may be sparse.

    Example:
      >>> import jax.numpy as jnp
      >>> er({"a": jnp.zeros((100, 50)), "b": jnp.zeros((50, 10))}, 0.9)
      {'a': 393, 'b': 157}
    """
    raw = lambda layer: sum(layer.shape[-2:]) / math.prod(layer.shape[-2:])
    return _share(params, sparsity, where, exact, _proportional(raw, sparsity), "er")


def erk(
    params: Params,
    sparsity: float,
    *,
    where: Where = default_where,
    power: float = 1.0,
    exact: bool = True,
) -> PyTree:
    """Erdos-Renyi kernel: density in proportion to sum(shape) / prod(shape); Evci et al., 2020.

    Layers whose density would pass 1 are kept whole and the rest is shared out again.

    Args:
      params: Pytree of arrays or ``ShapeDtypeStruct`` leaves.
      sparsity: Fraction of zeros over all sparse layers, in [0, 1).
      where: ``(path, leaf) -> bool``: may the leaf be sparse?
      power: Exponent of the raw densities, ``erk_power_scale``: 0 is uniform, 1 is ERK.
      exact: Sum to the global budget; ``False``: zeros rounded down in each layer.

    Returns:
      Pytree of Python ints like ``params``, ``optax.MaskedNode()`` where dense.

    Raises:
      ValueError: if ``sparsity`` is out of range, or no leaf may be sparse.

    Example:
      >>> import jax.numpy as jnp
      >>> erk({"a": jnp.zeros((3, 3, 16, 16)), "b": jnp.zeros((16, 10))}, 0.5)
      {'a': 1072, 'b': 160}
    """
    raw = lambda layer: (sum(layer.shape) / layer.size) ** power
    return _share(params, sparsity, where, exact, _proportional(raw, sparsity), "erk")


def _proportional(raw: Any, sparsity: float) -> Any:
    """Densities epsilon * raw, with epsilon solved so that the total is met and none passes 1."""

    def densities(layers: Sequence[Layer]) -> list[float]:
        probabilities = [raw(layer) or 1.0 for layer in layers]  # a scalar has no dimensions
        total = sum(layer.size for layer in layers)
        full: set[int] = set()
        while len(full) < len(layers):
            free = [i for i in range(len(layers)) if i not in full]
            left = (1 - sparsity) * total - sum(layers[i].size for i in full)
            epsilon = left / sum(probabilities[i] * layers[i].size for i in free)
            largest = max(probabilities[i] for i in free)
            if largest * epsilon <= 1:
                return [1.0 if i in full else epsilon * p for i, p in enumerate(probabilities)]
            full |= {i for i in free if probabilities[i] == largest}
        return [1.0] * len(layers)

    return densities


def _find_one(layers: Sequence[Layer], glob: str | None, name: str) -> int:
    paths = [layer.path for layer in layers]
    if glob is None:
        raise ValueError(f"{name} is not given; name one layer by a glob, of: {join(paths)}")
    matches = [i for i, found in enumerate(match_globs([glob], paths, name)) if found is not None]
    if len(matches) != 1:
        raise ValueError(f"{name}={glob!r} matches {len(matches)} layers; it must match one")
    return matches[0]


def uniform_plus(
    params: Params,
    sparsity: float,
    *,
    where: Where = default_where,
    first: str | None = None,
    last: str | None = None,
    exact: bool = True,
) -> PyTree:
    """Uniform, but the first layer dense and at least 20 % of the last kept; Gale et al., 2019.

    Args:
      params: Pytree of arrays or ``ShapeDtypeStruct`` leaves.
      sparsity: Fraction of zeros over all sparse layers, in [0, 1).
      where: ``(path, leaf) -> bool``: may the leaf be sparse?
      first: Glob of the layer that stays dense; needed, a tree does not tell its order.
      last: Glob of the layer that keeps 20 % at least; needed.
      exact: Take what these layers keep beyond the rest's density from the rest. ``False``: as
        Liu et al., 2022 have it, who divide by the whole size (a little too sparse) and do not
        compensate at all from 20 % density up (too dense).

    Returns:
      Pytree of Python ints like ``params``, ``optax.MaskedNode()`` where dense.

    Raises:
      ValueError: if a glob is missing or does not name one layer, or the budget is too small.

    Example:
      >>> import functools, jax.numpy as jnp
      >>> plus = functools.partial(uniform_plus, first="a", last="c")
      >>> plus({n: jnp.zeros(s) for n, s in dict(a=(3, 9), b=(9, 99), c=(99, 2)).items()}, 0.9)
      {'a': 27, 'b': 45, 'c': 40}
    """
    density = round(1 - sparsity, 12)  # 1 - 0.8 is 0.19999999999999996, and 20 % a boundary

    def densities(layers: Sequence[Layer]) -> list[float]:
        i, j = _find_one(layers, first, "first"), _find_one(layers, last, "last")
        total, head, tail = sum(x.size for x in layers), layers[i].size, layers[j].size
        if exact:
            rest = (density * total - head) / max(total - head, 1)
            tail_density = max(rest, 0.2)
            if rest < 0.2:
                rest = (density * total - head - 0.2 * tail) / max(total - head - tail, 1)
        else:
            rest = density if density >= 0.2 else (density * total - head - 0.2 * tail) / total
            tail_density = max(density, 0.2)
        if rest <= 0:
            raise ValueError(
                f"sparsity {sparsity} leaves nothing beside a dense {layers[i].path} and 20 % of "
                f"{layers[j].path}; ask for less sparsity, or use uniform"
            )
        result = [rest] * len(layers)
        result[i], result[j] = 1.0, tail_density
        return result

    return _share(params, sparsity, where, exact, densities, "uniform_plus")


def erk_plus(
    params: Params,
    sparsity: float,
    *,
    where: Where = default_where,
    last: str | None = None,
    exact: bool = True,
) -> PyTree:
    """ERK with a dense last layer, whose surplus the others give up; Liu et al., 2022.

    Args:
      params: Pytree of arrays or ``ShapeDtypeStruct`` leaves.
      sparsity: Fraction of zeros over all sparse layers, in [0, 1).
      where: ``(path, leaf) -> bool``: may the leaf be sparse?
      last: Glob of the layer that stays dense; needed, a tree does not tell its order.
      exact: Sum to the global budget; ``False``: zeros rounded down in each layer.

    Returns:
      Pytree of Python ints like ``params``, ``optax.MaskedNode()`` where dense.

    Raises:
      ValueError: if the glob is missing or does not name one layer, or the budget is too small.

    Example:
      >>> import functools, jax.numpy as jnp
      >>> params = {"a": jnp.zeros((100, 50)), "b": jnp.zeros((50, 10))}
      >>> functools.partial(erk_plus, last="b")(params, 0.8)
      {'a': 600, 'b': 500}
    """

    def densities(layers: Sequence[Layer]) -> list[float]:
        j = _find_one(layers, last, "last")
        total, tail = sum(x.size for x in layers), layers[j].size
        rest = [x for i, x in enumerate(layers) if i != j]
        left = (1 - sparsity) * total - tail
        if not rest or left <= 0:
            raise ValueError(
                f"sparsity {sparsity} leaves nothing beside a dense {layers[j].path} "
                f"({tail} of {total} weights); ask for less sparsity, or use erk"
            )
        raw = lambda layer: sum(layer.shape) / layer.size
        result = _proportional(raw, 1 - left / (total - tail))(rest)
        result.insert(j, 1.0)
        return result

    return _share(params, sparsity, where, exact, densities, "erk_plus")


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


def _explicit(layer: Layer, rule: Any) -> Any:
    if isinstance(rule, float):
        check_sparsity(rule, f"sparsity of {layer.path}")
        return keep_count(layer.size, rule)
    if isinstance(rule, int | np.integer) and not 0 <= rule <= layer.size:
        raise ValueError(
            f"{layer.path} is to keep {rule} weights; it has {layer.size}: give 0 to {layer.size}"
        )
    return rule
