"""Methods whose masks follow from what is trained: a rule in place of a budget."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from jaxsparse._report import finite_numbers, report
from jaxsparse._sharding import like
from jaxsparse._tree import is_dense, map_masks
from jaxsparse.base import (
    MaskAlgorithm,
    Masks,
    Memory,
    Params,
    Schedule,
    UpdateInfo,
    Where,
    always,
    never,
)
from jaxsparse.layers import default_where, sparse_layers


def learned(
    rule: Callable[[Params, Masks, Memory], Masks],
    *,
    start: Callable[[Masks, Params], Memory],
    backward: Callable[..., tuple[Params, Memory]],
    where: Where = default_where,
    dense_gradients: Schedule = never,
) -> MaskAlgorithm:
    """Build an algorithm that says which weights are left, and not how many.

    Weights stay dense behind the forward pass of the memory. The masks are read off at every step,
    from the weights and the memory that come out of it; nothing drops or grows.

    Args:
      rule: ``(params, masks, memory) -> masks``: what is kept when the network is used. ``masks``
        are read for their places and shapes.
      start: ``(masks, params) -> memory``, a ``Forward``.
      backward: ``(key, masks, params, grads, step, memory) -> (grads, memory)``: the chain rule
        of the forward pass, and what trains the memory.
      where: ``(path, leaf) -> bool``: which leaves may be sparse.
      dense_gradients: ``step -> bool``, for accounting: when gradients of absent weights are read.

    Returns:
      A ``MaskAlgorithm`` with ``learned=True``. All is kept in ``init``.

    Example:
      >>> import jax.numpy as jnp, optax, jaxsparse
      >>> from jaxsparse._tree import map_masks
      >>> method = learned(
      ...     lambda params, masks, memory: map_masks(lambda m, w: w > 0, masks, params),
      ...     start=lambda masks, params: jaxsparse.forward.MaskedForward(),
      ...     backward=lambda key, masks, params, grads, step, memory: (grads, memory),
      ... )
      >>> state = jaxsparse.sparsify(optax.sgd(0.1), method).init({"w": jnp.array([[1.0, -1.0]])})
      >>> state.masks["w"].tolist()
      [[True, False]]
    """

    def init(key: chex.PRNGKey, params: Params) -> Masks:
        del key
        layers, tree = sparse_layers(params, where)
        rows = zip(layers, tree.flatten_up_to(params), strict=True)
        masks = [
            optax.MaskedNode() if layer is None else like(jnp.ones(layer.shape, bool), leaf)
            for layer, leaf in rows
        ]
        return jax.tree.unflatten(tree, masks)

    def update(
        key: chex.PRNGKey,
        masks: Masks,
        params: Params,
        grads: Params,
        step: Any,
        memory: Memory = (),
    ) -> tuple[Masks, UpdateInfo]:
        del key, step
        tree = jax.tree.structure(masks, is_leaf=is_dense)
        rows = [tree.flatten_up_to(part) for part in (masks, params, grads)]
        kept = [row for row in zip(*rows, strict=True) if not is_dense(row[0])]
        dense = [grad for mask, _, grad in zip(*rows, strict=True) if is_dense(mask)]
        finite = finite_numbers(dense, [w for _, w, _ in kept], [g for _, _, g in kept])
        new = map_masks(
            lambda old, new, weight: like(jnp.where(finite, new, old), weight),
            masks,
            rule(params, masks, memory),
            params,
        )
        return new, report(masks, new, finite)

    return MaskAlgorithm(
        init=init,
        update=update,
        due=always,
        start=start,
        dense_gradients=dense_gradients,
        backward=backward,
        dense_weights=True,
        learned=True,
    )


def train_own(
    optimizer: optax.GradientTransformation, grads: PyTree, state: Any, values: PyTree
) -> tuple[PyTree, Any]:
    """One step for a method's own parameters; none where a gradient or a result is not finite.

    Args:
      optimizer: An optax optimizer.
      grads: Pytree like ``values``.
      state: The optimizer's state.
      values: The parameters, float32 arrays.

    Returns:
      The parameters and the state.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> sgd, values = optax.sgd(1.0), jnp.ones(1)
      >>> step = lambda grad: train_own(sgd, jnp.array([grad]), sgd.init(values), values)[0]
      >>> step(2.0).tolist(), step(jnp.nan).tolist()
      ([-1.0], [1.0])
    """
    updates, after = optimizer.update(grads, state, values)
    new = (optax.apply_updates(values, updates), after)
    finite = jnp.bool_(True)
    for number in jax.tree.leaves((grads, new)):
        finite &= jnp.all(jnp.isfinite(number))
    return jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, (values, state))


def sparse_leaves(masks: Masks, *trees: PyTree) -> list[tuple[Any, ...]]:
    """The leaves that have a mask: ``(mask, *leaves)`` each, in the order of the tree.

    Args:
      masks: Pytree of bool arrays and ``optax.MaskedNode()``.
      *trees: Pytrees like it.

    Returns:
      A list of tuples.

    Example:
      >>> import optax
      >>> sparse_leaves({"a": optax.MaskedNode(), "b": True}, {"a": 1, "b": 2})
      [(True, 2)]
    """
    marks, tree = jax.tree.flatten(masks, is_leaf=is_dense)
    rows = zip(marks, *[tree.flatten_up_to(part) for part in trees], strict=True)
    return [row for row in rows if not is_dense(row[0])]


def with_leaves(masks: Masks, leaves: list[Any], others: PyTree) -> PyTree:
    """The inverse: new leaves where there is a mask, the others' elsewhere.

    Args:
      masks: Pytree of bool arrays and ``optax.MaskedNode()``.
      leaves: One for each mask, in the order of the tree.
      others: Pytree like ``masks``.

    Returns:
      Pytree like ``masks``.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> print(with_leaves({"a": optax.MaskedNode(), "b": True}, [3], {"a": 1, "b": 2}))
      {'a': 1, 'b': 3}
    """
    left = iter(leaves)
    return map_masks(lambda mask, other: next(left), masks, others, dense=lambda other: other)
