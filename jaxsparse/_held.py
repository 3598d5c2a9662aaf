"""Private: an update whose new state is held back as soon as it is computed."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core


def held_update(
    update: Callable[[Any], tuple[Any, Any]], state: Any, holds: Sequence[Callable[[Any, Any], Any]]
) -> tuple[Any, Any]:
    """``update(state)``, each new array of the state replaced by ``hold(old, new)``.

    Replacing them afterwards would be the same, but slow: XLA would compute the new state twice,
    for the updates and for what is stored, and copy the old state to do so: with Adam 16 bytes a
    weight, and as much memory. Here the updates are made of what is stored.

    Args:
      update: ``state -> (updates, new state)``.
      state: The optimizer's state.
      holds: One function a leaf of the state. Wherever it changes an array, the updates made of
        it must not be used.

    Returns:
      The updates and the state.
    """
    closed, shapes = jax.make_jaxpr(update, return_shape=True)(state)
    jaxpr, old = closed.jaxpr, jax.tree.leaves(state)
    structure = jax.tree.structure(shapes)
    first = structure.num_leaves - len(old)
    is_literal = lambda atom: isinstance(atom, core.Literal)
    values = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    values.update(zip(jaxpr.invars, old, strict=True))

    # A scalar may be a divisor further down: it is held at the end, like what is passed through.
    arrays = [v for v in jaxpr.outvars[first:] if not is_literal(v) and v.aval.shape]
    held = {
        v: i for i, v in enumerate(jaxpr.outvars[first:]) if v in arrays and arrays.count(v) == 1
    }
    held = {v: i for v, i in held.items() if v not in values}

    for eqn in jaxpr.eqns:
        inputs = list({v: None for v in eqn.invars if not is_literal(v)})
        one = jaxpr.replace(constvars=[], invars=inputs, eqns=[eqn], outvars=eqn.outvars)
        found = core.jaxpr_as_fun(core.ClosedJaxpr(one, []))(*[values[v] for v in inputs])
        for v, value in zip(eqn.outvars, found, strict=True):
            values[v] = holds[held[v]](old[held[v]], value) if v in held else value

    outputs = [v.val if is_literal(v) else values[v] for v in jaxpr.outvars]
    for i, v in enumerate(jaxpr.outvars[first:]):
        if is_literal(v) or v not in held:
            outputs[first + i] = holds[i](old[i], outputs[first + i])
    return jax.tree.unflatten(structure, outputs)
