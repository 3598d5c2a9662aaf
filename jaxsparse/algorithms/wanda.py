"""Wanda: prune by the size of a weight times the size of its input, output by output."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxsparse import distributions, scores, structures
from jaxsparse._dtypes import wide
from jaxsparse._tree import flatten_with_paths, is_dense
from jaxsparse.base import Distribution, MaskAlgorithm, Masks, Memory, Params, Structure, Where
from jaxsparse.engine import drop_grow
from jaxsparse.layers import default_where
from jaxsparse.schedules import at, check_sparsity, one_shot

_WITHIN_OUTPUTS = structures.fan_in()


def wanda(
    sparsity: float,
    *,
    activation_norms: Callable[[Params], Any] | None = None,
    step: int = 0,
    distribution: Distribution = distributions.uniform,
    structure: Structure | None = _WITHIN_OUTPUTS,
    where: Where = default_where,
) -> MaskAlgorithm:
    """Pruning by weights and activations ("Wanda", Sun et al., 2023, equation 1).

    ================================  ====  =============================  ====
    sparsity over time                swap  drop                           grow
    ================================  ====  =============================  ====
    0 before ``step``, then constant  0     magnitude x norm of the input  none
    ================================  ====  =============================  ====

    For trained networks, without training after it: the weights that stay are not changed by the
    pruning itself.

    Args:
      sparsity: Fraction of zeros over the sparse leaves from ``step`` on, in [0, 1).
      activation_norms: ``params -> pytree`` with a leaf for each parameter, evaluated once, at
        ``step``: for a kernel (..., in, out) the norms of its inputs over some data, shaped (in,),
        or (..., in) where positions of a convolution differ; anything for other leaves. See
        ``input_norms``. (In a ``partition`` the function is given the leaves of its part only.)
      step: When to prune.
      distribution: ``(params, sparsity, *, where) -> kept counts``; uniform in the paper.
      structure: Weights are compared within each output by default, ``fan_in()``; ``None``: within
        each layer; ``n_m(keep=2, of=4)``: within groups of inputs.
      where: ``(path, leaf) -> bool``: which leaves may be sparse.

    Returns:
      A ``MaskAlgorithm``.

    Raises:
      ValueError: if ``activation_norms`` is missing or a number is out of range; in ``init``, if
        norms do not fit their kernel.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> params = {"a": jnp.array([[3.0, -1.0], [2.0, 4.0]]), "b": jnp.array([[1.0], [-2.0]])}
      >>> data = jnp.array([[1.0, 2.0], [0.0, 2.0]])
      >>> def norms(params):  # a two-layer perceptron, layer by layer
      ...     hidden = jax.nn.relu(data @ params["a"])
      ...     return {"a": input_norms(data), "b": input_norms(hidden)}
      >>> method = wanda(0.5, activation_norms=norms)
      >>> masks = method.init(jax.random.key(0), params)
      >>> masks, info = method.update(jax.random.key(1), masks, params, params, 0)
      >>> masks["a"].tolist()  # input norms 1 and 2.8: 3 < 5.7, and 1 < 11.3
      [[False, False], [True, True]]

    Differences from the paper: all layers at once, by the activations of the unpruned network,
    where the paper prunes one block after another and recomputes what enters the next; each
    output keeps the same number of weights, rounded from the layer's share, where published code
    rounds its zeros down.

    References:
      Sun et al., `A Simple and Effective Pruning Approach for Large Language Models
      <https://arxiv.org/abs/2306.11695>`_, ICLR 2024.
    """
    check_sparsity(sparsity)
    if activation_norms is None:
        raise ValueError(
            "wanda needs activation_norms=, a function of the parameters: for each kernel the "
            "norms of its inputs, for instance input_norms of what enters the layer"
        )

    def measure(params: Params, masks: Masks, step: Any, memory: Memory) -> Masks:
        del step, memory
        rows, tree = paired(activation_norms(params), params, masks)
        found = [mask if is_dense(mask) else _strength(w, norms) for _, w, norms, mask in rows]
        return jax.tree.unflatten(tree, found)

    def paired(norms: Any, params: Params, masks: Masks) -> tuple[list[tuple[Any, ...]], Any]:
        """``[(path, weight, norms, mask)]`` and the structure of the masks."""
        leaves, _ = flatten_with_paths(params)
        marks, tree = jax.tree.flatten(masks, is_leaf=is_dense)
        given = jax.tree.leaves(norms, is_leaf=is_dense)
        if len(given) != len(leaves):
            raise ValueError(
                f"activation_norms returned {len(given)} arrays for {len(leaves)} parameters; give "
                "one for each, anything where the parameter is dense"
            )
        rows = [(*leaf, norm, mark) for leaf, norm, mark in zip(leaves, given, marks, strict=True)]
        for path, weight, norm, mask in rows:
            if is_dense(mask):
                continue
            fits = weight.shape[-2:-1], weight.shape[:-1]
            if jnp.shape(norm) not in fits:
                raise ValueError(
                    f"activation_norms: {path} {weight.shape} has norms of shape "
                    f"{jnp.shape(norm)}; give one an input, {fits[0]}, or {fits[1]}"
                )
        return rows, tree

    return drop_grow(
        sparsity=one_shot(sparsity, step),
        distribution=distribution,
        update=at(step),
        drop=scores.measured,
        measure=measure,
        structure=structure,
        where=where,
    )


def input_norms(inputs: Array) -> Float[Array, " features"]:
    """The norm of each input feature over all examples and positions: what Wanda multiplies with.

    Args:
      inputs: What enters a layer: an array (..., features).

    Returns:
      float32 vector.

    Example:
      >>> import jax.numpy as jnp
      >>> input_norms(jnp.array([[3.0, 0.0], [4.0, 1.0]])).tolist()
      [5.0, 1.0]
    """
    squares = jnp.square(inputs.astype(jnp.float32))
    return jnp.sqrt(jnp.sum(squares, tuple(range(inputs.ndim - 1))))


def _strength(weight: Array, norms: Array) -> Array:
    return wide(jnp.abs(weight)) * norms.reshape(
        (1,) * (weight.ndim - 1 - norms.ndim) + (*norms.shape, 1)
    )
