"""Penalties of the weights: their values, and their proximal operators in closed form.

The proximal operator of a penalty R with step size eta takes v to the minimizer of
``|w - v|^2 / 2 + eta R(w)``: to zero, exactly, what R is worth more than v is.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from jaxsparse._dtypes import wide
from jaxsparse._tree import check_known
from jaxsparse.base import Params, ScalarOrSchedule, Where, evaluate
from jaxsparse.layers import Layer, default_where, sparse_layers

Group: TypeAlias = str | tuple[int, ...]
"""Which weights of a kernel (..., in, out) go together, by name or by the axes that number the
groups: ``"filters"`` is (-1,), ``"channels"`` is (-2,), ``"shapes"`` every axis but the last,
``"depth"`` none."""

_NUMBERED: dict[str, tuple[int, ...] | None] = {
    "filters": (-1,),
    "channels": (-2,),
    "shapes": None,  # depends on the number of dimensions
    "depth": (),
}


class Regularizer(NamedTuple):
    """A penalty of the weights.

    Attributes:
      prox: ``(params, step_size, step) -> params``: the proximal operator. Leaves that it leaves
        alone come back as they are.
      penalty: ``(params, step=0) -> float32 scalar``: its value, strength included: what a report
        adds to the loss. It has gradients, 0 at a group of zeros, for those who want to train by
        (sub)gradients instead; these do not end in exact zeros.
    """

    prox: Callable[[Params, Any, Any], Params]
    penalty: Callable[..., Float[Array, ""]]


def l1(strength: ScalarOrSchedule | Array, *, where: Where = default_where) -> Regularizer:
    """``strength * sum |w|``: soft-thresholding, zeros anywhere.

    Args:
      strength: lambda, nonnegative: a number, or a schedule of the steps of ``proximal``.
      where: ``(path, leaf) -> bool``: which leaves are penalized.

    Returns:
      A ``Regularizer``: ``w -> sign(w) max(0, |w| - eta lambda)``.

    Raises:
      ValueError: if ``strength`` is negative; later, if ``where`` takes no leaf.

    Example:
      >>> params = {"kernel": jnp.array([[3.0, -0.5]]), "bias": jnp.ones(2)}
      >>> shrunk = l1(1.0).prox(params, 1.0, 0)  # step size 1, step 0
      >>> shrunk["kernel"].tolist(), shrunk["bias"].tolist(), float(l1(2.0).penalty(params))
      ([[2.0, 0.0]], [1.0, 1.0], 7.0)

    References:
      Tibshirani, `Regression Shrinkage and Selection via the Lasso
      <https://doi.org/10.1111/j.2517-6161.1996.tb02080.x>`_, 1996; Parikh & Boyd, `Proximal
      Algorithms <https://doi.org/10.1561/2400000003>`_, 2014, section 6.5.2.
    """
    _check_strength(strength)

    def prox(params: Params, step_size: Any, step: Any) -> Params:
        threshold = step_size * evaluate(strength, step)

        def shrink(layer: Layer, weight: Array) -> Array:
            size = wide(weight)
            size = jnp.where(jnp.abs(size) <= threshold, 0, size - jnp.sign(size) * threshold)
            return size.astype(weight.dtype)

        return _map_chosen(shrink, params, where)

    def penalty(params: Params, step: Any = 0) -> Float[Array, ""]:
        # (Not `abs`, whose gradient at 0 jax takes for 1.)
        value = lambda layer, weight: jnp.sum(wide(weight) * jnp.sign(wide(weight)))
        return evaluate(strength, step) * _total(_each(value, params, where))

    return Regularizer(prox, penalty)


def group_lasso(
    strength: ScalarOrSchedule | Array,
    groups: Group | Sequence[Group],
    *,
    weight_by_size: bool = True,
    where: Where = default_where,
) -> Regularizer:
    """``strength * sum_g c_g |w_g|``: whole groups of weights become zero (SSL).

    ==============  ======================  ====================================================
    groups          numbered by (HWIO)      zeros mean
    ==============  ======================  ====================================================
    ``"filters"``   ``[..., o]``            nothing flows into unit or filter o but its bias
    ``"channels"``  ``[..., i, :]``         input unit or channel i is not read
    ``"shapes"``    ``[h, w, i, :]``        filters have another shape: a row less in the matrix
    ``"depth"``     the whole kernel        the layer is gone: it needs a shortcut around it
    a tuple         these axes              what they number: ``(0,)`` for Equinox's (out, in)
    ==============  ======================  ====================================================

    ``prox`` is that of the disjoint groups, ``w_g max(0, 1 - eta lambda c_g / |w_g|)``, one kind
    of groups after the other, small groups first. Where groups of one kind lie inside those of
    the next (shapes, channels, depth; filters, depth; an ``l1`` before any of them) this is the
    proximal operator of the sum (Jenatton et al.). Filters cross channels and shapes: there it is
    not. Zeros are as exact, and for weights that stay away from zero the difference is of second
    order in ``eta lambda``: it fades with the learning rate, as in incremental proximal methods
    (Bertsekas, 2011). (Dykstra's iterations would converge to the operator itself, but only their
    limit has the zeros of both kinds.)

    Args:
      strength: lambda, nonnegative: a number, or a schedule of the steps of ``proximal``.
      groups: One kind of groups, or several that share a strength.
      weight_by_size: ``c_g`` is the root of the number of weights in a group: groups of all layers
        and kinds are pressed alike for each weight. Otherwise it is 1.
      where: ``(path, leaf) -> bool``: which leaves are penalized. A depthwise kernel
        (h, w, 1, channels) is a single channel: leave it out there.

    Returns:
      A ``Regularizer``.

    Raises:
      ValueError: if ``strength`` is negative, a group is unknown, named twice or there is none;
        later, if a leaf lacks an axis, or ``where`` takes no leaf.

    Example:
      >>> params = {"kernel": jnp.array([[3.0, 0.1], [4.0, 0.1]])}
      >>> regularizer = group_lasso(1.0, "filters", weight_by_size=False)
      >>> regularizer.prox(params, 2.5, 0)["kernel"].tolist()  # column norms 5 and 0.14
      [[1.5, 0.0], [2.0, 0.0]]

    Differences from the paper: it gives every group the same weight (``weight_by_size=False``),
    and its code takes subgradients and zeroes what is below a threshold; the proximal step reaches
    zeros by itself. Its fully connected layers have the rows and columns of their matrix as groups:
    "channels" and "filters" here.

    References:
      Wen et al., `Learning Structured Sparsity in Deep Neural Networks
      <https://arxiv.org/abs/1608.03665>`_, NeurIPS 2016, section 3; Yuan & Lin, `Model Selection
      and Estimation in Regression with Grouped Variables
      <https://doi.org/10.1111/j.1467-9868.2005.00532.x>`_, 2006 (root of the size); Jenatton et
      al., `Proximal Methods for Hierarchical Sparse Coding <https://arxiv.org/abs/1009.2139>`_,
      JMLR 2011 (groups inside of groups); Bertsekas, `Incremental Proximal Methods for Large Scale
      Convex Optimization <https://doi.org/10.1007/s10107-011-0472-0>`_, 2011.
    """
    _check_strength(strength)
    # A tuple of numbers is one kind of groups.
    one = isinstance(groups, str) or (
        isinstance(groups, tuple) and all(isinstance(axis, int) for axis in groups)
    )
    kinds: list[Any] = [groups] if one and groups else list(groups)
    if not kinds or len(set(kinds)) != len(kinds):
        raise ValueError(f"groups is {groups!r}; name at least one kind of groups, each once")
    for kind in kinds:
        _check_group(kind)

    def scales(layer: Layer) -> list[tuple[tuple[int, ...], float]]:
        """The axes inside a group and its ``c_g``, small groups first."""
        inside = [_axes_inside(kind, layer) for kind in kinds]
        sizes = [math.prod(layer.shape[axis] for axis in axes) for axes in inside]
        order = sorted(range(len(kinds)), key=sizes.__getitem__)
        return [(inside[i], math.sqrt(sizes[i]) if weight_by_size else 1.0) for i in order]

    def prox(params: Params, step_size: Any, step: Any) -> Params:
        threshold = step_size * evaluate(strength, step)

        def shrink(layer: Layer, weight: Array) -> Array:
            left = wide(weight)
            for axes, scale in scales(layer):
                norm = _norm(left, axes)
                # (Asked this way, a norm that is no number stays one.)
                factor = jnp.where(norm <= scale * threshold, 0, 1 - scale * threshold / norm)
                left = left * factor
            return left.astype(weight.dtype)

        return _map_chosen(shrink, params, where)

    def penalty(params: Params, step: Any = 0) -> Float[Array, ""]:
        def value(layer: Layer, weight: Array) -> Array:
            norms = [scale * jnp.sum(_norm(wide(weight), axes)) for axes, scale in scales(layer)]
            return jnp.sum(jnp.stack(norms))

        return evaluate(strength, step) * _total(_each(value, params, where))

    return Regularizer(prox, penalty)


def kept_groups(
    params: Params, group: Group, *, where: Where = default_where
) -> PyTree[Int[Array, ""]]:
    """How many groups of each leaf have a weight that is not zero.

    Args:
      params: Pytree of arrays.
      group: One kind of groups, as in ``group_lasso``.
      where: ``(path, leaf) -> bool``: which leaves are counted.

    Returns:
      Like ``params``: int32 scalars; ``optax.MaskedNode()`` for leaves that are not counted.

    Raises:
      ValueError: if the group is unknown, or a leaf lacks an axis.

    Example:
      >>> params = {"kernel": jnp.array([[1.0, 0.0, 0.0], [2.0, 0.0, 3.0]])}
      >>> int(kept_groups(params, "filters")["kernel"])
      2
    """
    _check_group(group)

    def count(layer: Layer, weight: Array) -> Array:
        alive = jnp.any(weight != 0, axis=_axes_inside(group, layer))
        return jnp.sum(alive, dtype=jnp.int32)

    return _each(count, params, where)


def _chosen(params: Params, where: Where) -> tuple[list[tuple[Layer | None, Any]], Any]:
    layers, tree = sparse_layers(params, where)
    return list(zip(layers, tree.flatten_up_to(params), strict=True)), tree


def _map_chosen(f: Callable[[Layer, Array], Array], params: Params, where: Where) -> Params:
    """``f`` of the chosen leaves; all others as they are."""
    pairs, tree = _chosen(params, where)
    mapped = [leaf if layer is None else f(layer, jnp.asarray(leaf)) for layer, leaf in pairs]
    return jax.tree.unflatten(tree, mapped)


def _each(f: Callable[[Layer, Array], Array], params: Params, where: Where) -> PyTree:
    """``f`` of the chosen leaves; the mark of a dense leaf for all others."""
    pairs, tree = _chosen(params, where)
    mapped = [
        optax.MaskedNode() if layer is None else f(layer, jnp.asarray(leaf))
        for layer, leaf in pairs
    ]
    return jax.tree.unflatten(tree, mapped)


def _total(values: PyTree) -> Array:
    """Their sum in float32, 0 where there is none."""
    return jnp.sum(jnp.stack([jnp.float32(0), *map(jnp.float32, jax.tree.leaves(values))]))


def _norm(weight: Array, axes: tuple[int, ...]) -> Array:
    """L2 norm along axes, which stay; its gradient is 0 at 0, where that of a root is none."""
    squares = jnp.sum(weight * weight, axis=axes, keepdims=True)
    zero = squares == 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, squares)))


def _check_strength(strength: Any) -> None:
    if isinstance(strength, int | float) and not 0 <= strength < math.inf:
        raise ValueError(f"strength is {strength}; it must be a finite number, 0 or more")


def _check_group(group: Any) -> None:
    if isinstance(group, str):
        check_known("group", group, _NUMBERED)


def _axes_inside(group: Any, layer: Layer) -> tuple[int, ...]:
    """The axes along which the weights of one group lie."""
    ndim = len(layer.shape)
    numbered = _NUMBERED[group] if isinstance(group, str) else group
    if numbered is None:
        numbered = tuple(range(ndim - 1))
    if any(not -ndim <= axis < ndim for axis in numbered):
        raise ValueError(
            f"groups {group!r} are numbered by axes {numbered}; {layer.path} has shape "
            f"{layer.shape}: leave it out with where="
        )
    return tuple(axis for axis in range(ndim) if axis not in {a % ndim for a in numbered})
