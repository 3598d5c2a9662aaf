"""Private: an optimizer that stands still while a condition holds."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core


def held_update(
    update: Callable[[Any], tuple[Any, Any]], state: Any, held: jax.Array
) -> tuple[Any, Any]:
    """``update(state)``, or where ``held`` zeros and the state as it was.

    Selecting the state afterwards would be the same, but slow: XLA would compute the new state
    twice, for the updates and for what is stored, and copy the old state to do so: with Adam 16
    bytes a weight, and as much memory. So each new array is selected as soon as it is computed,
    and what follows is made of what is stored; where it is the old one, nothing of that is used.

    Args:
      update: ``state -> (updates, new state)``.
      state: The optimizer's state.
      held: bool scalar.

    Returns:
      The updates and the state.

    Example:
      >>> import jax.numpy as jnp
      >>> held_update(lambda s: (s + 1.0, s + 2.0), jnp.ones(2), jnp.array(True))[1].tolist()
      [1.0, 1.0]
    """
    closed, shapes = jax.make_jaxpr(update, return_shape=True)(state)
    jaxpr, old, structure = closed.jaxpr, jax.tree.leaves(state), jax.tree.structure(shapes)
    first = structure.num_leaves - len(old)
    is_literal = lambda atom: isinstance(atom, core.Literal)
    values = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    values.update(zip(jaxpr.invars, old, strict=True))

    # A scalar may be a divisor further down: it is selected at the end, like what passes through.
    stored = jaxpr.outvars[first:]
    arrays = [v for v in stored if not is_literal(v) and v.aval.shape and v not in values]
    early = {v: old[stored.index(v)] for v in arrays if arrays.count(v) == 1}
    # (Some results are of use to nobody, and have no name.)
    needed = {v for eqn in jaxpr.eqns for v in eqn.invars if not is_literal(v)}
    needed |= {v for v in jaxpr.outvars if not is_literal(v)}
    chunk: list[Any] = []
    for eqn in jaxpr.eqns:
        chunk.append(eqn)
        if early.keys() & set(eqn.outvars) or eqn is jaxpr.eqns[-1]:
            _evaluate(jaxpr, chunk, needed, values)
            chunk = []
            for v in early.keys() & set(eqn.outvars):
                values[v] = jnp.where(held, early[v], values[v])

    outputs = [v.val if is_literal(v) else values[v] for v in jaxpr.outvars]
    for i, v in enumerate(stored, first):
        if is_literal(v) or v not in early:
            outputs[i] = jnp.where(held, old[i - first], outputs[i])
    for i in range(first):
        outputs[i] = jnp.where(held, jnp.zeros_like(outputs[i]), outputs[i])
    return jax.tree.unflatten(structure, outputs)


def _evaluate(jaxpr: core.Jaxpr, eqns: list[Any], needed: set[Any], values: dict[Any, Any]) -> None:
    """Some equations, by the values so far; theirs are added."""
    made = [v for eqn in eqns for v in eqn.outvars if v in needed]
    read = {v: None for eqn in eqns for v in eqn.invars if not isinstance(v, core.Literal)}
    inputs = [v for v in read if v not in made]
    part = jaxpr.replace(constvars=[], invars=inputs, eqns=eqns, outvars=made)
    found = core.jaxpr_as_fun(core.ClosedJaxpr(part, []))(*[values[v] for v in inputs])
    values.update(zip(made, found, strict=True))
