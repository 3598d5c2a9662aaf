"""Optimizer slots of grown weights: back to the inner optimizer's own initial value.

A slot is an array of the optimizer's state that is shaped like a parameter (Adam's moments). What
cannot be cut weight by weight (a factored or reduced statistic) stays as it is, with one warning.
"""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxsparse._tree import is_dense, join, path_string
from jaxsparse.base import Masks, Params


def _overlay(inner: Any, state: Any, tree: Any) -> Any:
    """A pytree like the optimizer state: the tree's leaves in the slots of their parameters."""
    return optax.tree_map_params(
        inner,
        # A masked subtree of the state may stand for several parameters.
        lambda slot, leaf: slot if is_dense(slot) else leaf,
        state,
        tree,
        transform_non_params=lambda _: optax.MaskedNode(),
        is_leaf=is_dense,
    )


def _is_slot(mask: Any, slot: Any) -> bool:
    return not is_dense(mask) and not is_dense(slot) and jnp.shape(mask) == jnp.shape(slot)


def reset_slots(inner: Any, state: Any, params: Params, masks: Masks, added: Any) -> Any:
    """Give the slots of some weights what ``inner.init`` gives: not always zero (adagrad: 0.1).

    Args:
      inner: The optimizer.
      state: Its state.
      params: Pytree of arrays, for ``inner.init``.
      masks: False where the slots are reset.
      added: Like the masks: what is added to the initial value; ``optax.MaskedNode()`` leaves
        the slots of that leaf alone.

    Returns:
      The state, same structure, shapes and dtypes.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> adagrad, params = optax.adagrad(0.1), {"w": jnp.ones(2)}
      >>> _, state = adagrad.update({"w": jnp.ones(2)}, adagrad.init(params), params)
      >>> state = reset_slots(adagrad, state, params, {"w": jnp.array([False, True])}, {"w": 0.0})
      >>> [round(float(x), 1) for x in state[0].sum_of_squares["w"]]
      [0.1, 1.1]
    """

    def one(mask: Any, slot: Any, first: Any, extra: Any) -> Any:
        if not _is_slot(mask, slot) or is_dense(extra):
            return slot
        return jnp.where(mask, slot, (first + extra).astype(slot.dtype))

    try:
        layout, extras = _overlay(inner, state, masks), _overlay(inner, state, added)
        return jax.tree.map(one, layout, state, inner.init(params), extras, is_leaf=is_dense)
    except Exception:  # whatever a foreign optimizer raises here; warn_of_slots told of it
        return state


def warn_of_slots(inner: Any, state: Any, params: Params, masks: Masks) -> None:
    """Warn, once, if some of the optimizer's slots cannot be reset weight by weight.

    Args:
      inner: The optimizer.
      state: Its state.
      params: Pytree of arrays or ``ShapeDtypeStruct`` leaves.
      masks: Like ``params``.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> adam, params = optax.adam(0.1), {"w": jnp.ones(2)}
      >>> warn_of_slots(adam, adam.init(params), params, {"w": jnp.ones(2, bool)})
    """
    odd: list[str] = []

    def look(path: Any, mask: Any, slot: Any) -> None:
        if not is_dense(mask) and not is_dense(slot) and not _is_slot(mask, slot):
            odd.append(path_string(path))

    try:
        layout = _overlay(inner, state, masks)
        jax.tree_util.tree_map_with_path(look, layout, state, is_leaf=is_dense)
        jax.eval_shape(inner.init, params)
    except Exception as error:  # whatever a foreign optimizer raises here
        odd.append(f"{type(error).__name__} while looking at its state")
    if odd:
        warnings.warn(
            f"slots of this optimizer cannot be reset weight by weight ({join(odd, 3)}): "
            "grown weights go on with the statistics that are there",
            UserWarning,
            stacklevel=3,
        )
