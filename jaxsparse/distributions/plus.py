"""Sparsities that spare the first or the last layer."""

from collections.abc import Sequence

from jaxtyping import PyTree

from jaxsparse._tree import join, match_globs
from jaxsparse.base import Params, Where
from jaxsparse.distributions._share import proportional, share
from jaxsparse.layers import Layer, default_where


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

    return share(params, sparsity, where, exact, densities, "uniform_plus")


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
        result = proportional(raw, 1 - left / (total - tail))(rest)
        result.insert(j, 1.0)
        return result

    return share(params, sparsity, where, exact, densities, "erk_plus")


def _find_one(layers: Sequence[Layer], glob: str | None, name: str) -> int:
    paths = [layer.path for layer in layers]
    if glob is None:
        raise ValueError(f"{name} is not given; name one layer by a glob, of: {join(paths)}")
    matches = [i for i, found in enumerate(match_globs([glob], paths, name)) if found is not None]
    if len(matches) != 1:
        raise ValueError(f"{name}={glob!r} matches {len(matches)} layers; it must match one")
    return matches[0]
