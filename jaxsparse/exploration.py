"""How much of a network was ever kept: ITOP's exploration rate, for any method."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxsparse._tree import map_masks
from jaxsparse.base import MaskAlgorithm, Masks, Memory, Params, Regrowth, UpdateInfo
from jaxsparse.masks import sparsity_states


class Explored(NamedTuple):
    """The memory of ``explored``.

    Attributes:
      ever: Like the masks: True where a weight was kept at any step so far.
      inner: The algorithm's own memory.
    """

    ever: Masks
    inner: Memory


def explored(algorithm: MaskAlgorithm) -> MaskAlgorithm:
    """Let an algorithm keep account of all weights that its masks ever kept.

    Nothing else changes: the same masks, the same weights. Costs a byte a weight, and a pass over
    the masks a step.

    Args:
      algorithm: Any ``MaskAlgorithm``.

    Returns:
      A ``MaskAlgorithm``, for ``exploration_rate`` to read.

    Example:
      >>> import jax, jax.numpy as jnp, optax, jaxsparse
      >>> method = jaxsparse.rigl(0.5, update=jaxsparse.every(1), drop_fraction=0.5)
      >>> tx, params = jaxsparse.sparsify(optax.sgd(0.1), explored(method)), {"w": jnp.ones((4, 4))}
      >>> state = tx.init(params)
      >>> float(exploration_rate(state))
      0.5

    References:
      Liu et al., `Do We Actually Need Dense Over-Parameterization?
      <https://arxiv.org/abs/2102.02887>`_, ICML 2021, section 3.
    """

    def start(masks: Masks, params: Params) -> Explored:
        return Explored(map_masks(jnp.copy, masks), algorithm.start(masks, params))

    def remember(memory: Explored, masks: Masks, params: Params, grads: Params, step: Any) -> Any:
        ever = map_masks(jnp.logical_or, masks, memory.ever)
        return Explored(ever, algorithm.remember(memory.inner, masks, params, grads, step))

    def update(
        key: chex.PRNGKey,
        masks: Masks,
        params: Params,
        grads: Params,
        step: Any,
        memory: Any = (),
    ) -> tuple[Masks, UpdateInfo]:
        return algorithm.update(key, masks, params, grads, step, _inner(memory))

    def regrow(
        key: chex.PRNGKey, masks: Masks, params: Params, grads: Params, memory: Any = ()
    ) -> Regrowth:
        there = algorithm.regrow
        assert there is not None
        return there(key, masks, params, grads, _inner(memory))

    def backward(
        key: chex.PRNGKey, masks: Masks, params: Params, grads: Params, step: Any, memory: Any
    ) -> tuple[Params, Memory]:
        there = algorithm.backward
        assert there is not None
        grads, inner = there(key, masks, params, grads, step, memory.inner)
        return grads, memory._replace(inner=inner)

    def trains(masks: Masks, params: Params, memory: Any) -> Masks:
        there = algorithm.trains
        assert there is not None
        return there(masks, params, memory.inner)

    def reads(masks: Masks, params: Params, memory: Any, step: Any) -> Masks:
        there = algorithm.reads
        assert there is not None
        return there(masks, params, memory.inner, step)

    return algorithm._replace(
        update=update,
        start=start,
        remember=remember,
        regrow=regrow if algorithm.regrow else None,
        backward=backward if algorithm.backward else None,
        trains=trains if algorithm.trains else None,
        reads=reads if algorithm.reads else None,
    )


def _inner(memory: Any) -> Memory:
    return memory.inner if isinstance(memory, Explored) else memory


def exploration_rate(state: Any) -> Float[Array, ""]:
    """Share of the weights that were ever kept (R_s; Liu et al., 2021, section 3.1).

    Args:
      state: Any pytree that holds the state of ``sparsify(inner, explored(algorithm))``.

    Returns:
      float32 scalar in (0, 1], over all leaves that have a mask; 1 where none has.

    Raises:
      ValueError: if no algorithm inside keeps account.

    Example:
      >>> import jax.numpy as jnp, optax, jaxsparse
      >>> tx = jaxsparse.sparsify(optax.sgd(0.1), explored(jaxsparse.static(0.75)))
      >>> float(exploration_rate(tx.init({"w": jnp.ones((4, 4))})))
      0.25
    """
    counted = lambda node: isinstance(node, Explored)
    states = sparsity_states(state)
    found = [
        (part.masks, memory.ever)
        for part in states
        for memory in jax.tree.leaves(part.memory, is_leaf=counted)
        if counted(memory)
    ]
    if not found:
        raise ValueError(
            "no algorithm inside keeps account of what it explored; wrap it: "
            "sparsify(inner, explored(algorithm))"
        )
    # The masks of now are counted in at the next step only.
    ever = [a | b for masks, old in found for a, b in _pairs(masks, old)]
    kept = sum(jnp.sum(flags, dtype=jnp.int32).astype(jnp.float32) for flags in ever)
    size = sum(flags.size for flags in ever)
    return jnp.asarray(kept / size if size else 1.0, jnp.float32)


def _pairs(masks: Masks, ever: Masks) -> list[tuple[Array, Array]]:
    """(``ever`` may be of some leaves only: of a part of ``partition``.)"""
    found: list[tuple[Array, Array]] = []
    map_masks(lambda old, mask: found.append((mask, old)), ever, masks, dense=lambda mask: None)
    return found
