"""OBD: prune the weights whose removal, to second order, costs least."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxsparse import distributions, scores
from jaxsparse._dtypes import wide
from jaxsparse._tree import flatten_with_paths, is_dense, join, map_masks
from jaxsparse.base import (
    Distribution,
    MaskAlgorithm,
    Masks,
    Memory,
    Params,
    Scope,
    Structure,
    Where,
)
from jaxsparse.engine import drop_grow
from jaxsparse.layers import default_where
from jaxsparse.schedules import at, check_sparsity, one_shot


def obd(
    sparsity: float,
    *,
    curvature: Callable[[Params], Params] | None = None,
    step: int = 20_000,
    scope: Scope = "global",
    distribution: Distribution = distributions.uniform,
    structure: Structure | None = None,
    where: Where = default_where,
) -> MaskAlgorithm:
    """Optimal brain damage ("OBD", LeCun et al., 1989): keep the largest h w^2 / 2.

    ================================  ====  =========  ====
    sparsity over time                swap  drop       grow
    ================================  ====  =========  ====
    0 before ``step``, then constant  0     h w^2 / 2  none
    ================================  ====  =========  ====

    h is the second derivative of the loss by the weight alone. What is left out, slopes and mixed
    derivatives, is small at a minimum only: prune a trained network, and train on.

    Args:
      sparsity: Fraction of zeros over the sparse leaves from ``step`` on, in [0, 1).
      curvature: ``params -> pytree like it`` of second derivatives, evaluated once, at ``step``:
        ``functools.partial(exact_hessian_diagonal, loss_fn)``, or one of the estimates of
        ``jaxsparse.curvature``. (In a ``partition`` it is given the leaves of its part only.)
      step: When to prune.
      scope: ``"global"``, as in the paper: all weights are compared; or ``"layer"``.
      distribution: ``(params, sparsity, *, where) -> kept counts``; only its sum counts under
        ``"global"``.
      structure: What is pruned together; default: single weights.
      where: ``(path, leaf) -> bool``: which leaves may be sparse.

    Returns:
      A ``MaskAlgorithm``.

    Raises:
      ValueError: if ``curvature`` is missing or a number is out of range; in ``init``, if what it
        returns is not like the parameters.

    Example:
      >>> import functools, jax, jax.numpy as jnp
      >>> from jaxsparse.curvature import exact_hessian_diagonal
      >>> loss_fn = lambda params: jnp.sum(jnp.array([[1.0, 9.0]]) * (params["w"] - 1) ** 2)
      >>> method = obd(0.5, curvature=functools.partial(exact_hessian_diagonal, loss_fn))
      >>> params = {"w": jnp.array([[1.5, 1.0]])}  # by magnitude the first would stay
      >>> masks = method.init(jax.random.key(0), params)
      >>> masks, info = method.update(jax.random.key(1), masks, params, params, 20_000)
      >>> masks["w"].tolist()
      [[False, True]]

    Differences from the paper: one round at one step, to a budget; which loss and which data is up
    to ``curvature``. Weights of negative curvature go first.

    References:
      LeCun et al., `Optimal Brain Damage
      <https://papers.nips.cc/paper/250-optimal-brain-damage>`_, NeurIPS 1989.
    """
    check_sparsity(sparsity)
    if curvature is None:
        raise ValueError(
            "obd needs curvature=, a function of the parameters: for instance "
            "functools.partial(jaxsparse.curvature.exact_hessian_diagonal, loss_fn)"
        )

    def measure(params: Params, masks: Masks, step: Any, memory: Memory) -> Masks:
        del step, memory

        def damage(mask: Array, weight: Array, second: Array) -> Array:
            del mask
            return 0.5 * second * jnp.square(wide(weight))

        return map_masks(damage, masks, params, checked(curvature(params), params))

    def checked(found: Any, params: Params) -> Any:
        """Second derivatives, with the structure of the parameters."""
        rows, tree = flatten_with_paths(params)
        shapes = [(path, jnp.shape(leaf)) for path, leaf in rows if not is_dense(leaf)]
        if [jnp.shape(leaf) for leaf in jax.tree.leaves(found)] != [shape for _, shape in shapes]:
            given = [(path, jnp.shape(leaf)) for path, leaf in flatten_with_paths(found)[0]]
            raise ValueError(
                f"curvature returned {join(map(str, given))} for parameters "
                f"{join(map(str, shapes))}; it must be like the parameters"
            )
        second = iter(jax.tree.leaves(found))
        return jax.tree.unflatten(tree, [x if is_dense(x) else next(second) for _, x in rows])

    return drop_grow(
        sparsity=one_shot(sparsity, step),
        distribution=distribution,
        update=at(step),
        drop=scores.measured,
        measure=measure,
        scope=scope,
        structure=structure,
        where=where,
    )
