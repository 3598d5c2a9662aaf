"""Lookahead pruning: a weight counts for what it carries between its neighbor layers."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp

from jaxsparse import distributions, scores
from jaxsparse._chain import along, check_neighbors, norms_in, norms_out, places, scale_factors
from jaxsparse._dtypes import wide
from jaxsparse._tree import flatten_with_paths, is_dense
from jaxsparse.base import Distribution, MaskAlgorithm, Masks, Memory, Params, Schedule, Where
from jaxsparse.budgets import final_sparsity, plan, targets
from jaxsparse.engine import drop_grow
from jaxsparse.layers import default_where
from jaxsparse.schedules import at, one_shot
from jaxsparse.selection import top_k_mask
from jaxsparse.structures import unstructured

Chain: TypeAlias = Sequence[str] | Callable[[Masks], Sequence[str]]
Scales: TypeAlias = Sequence[str | None] | Callable[[Params], Sequence[Any]]


def lookahead(
    sparsity: float | Schedule,
    *,
    chain: Chain | None = None,
    scales: Scales | None = None,
    variant: Literal["base", "forward", "backward"] = "base",
    step: int = 0,
    update: Schedule | None = None,
    distribution: Distribution = distributions.uniform,
    where: Where = default_where,
) -> MaskAlgorithm:
    """Lookahead pruning ("LAP", Park et al., 2020, section 2).

    ================================  ====  ============================================  ====
    sparsity over time                swap  drop                                          grow
    ================================  ====  ============================================  ====
    0 before ``step``, then constant  0     magnitude x norms of both neighbors' weights  none
    ================================  ====  ============================================  ====

    The weight from unit j to unit k of a layer scores its magnitude, times the norm of all weights
    into j in the layer before, times the norm of all weights out of k in the layer after. At the
    ends of the chain the missing factor is 1.

    Args:
      sparsity: Fraction of zeros over the sparse leaves, in [0, 1): a float, reached at ``step``;
        or a schedule, with ``update``.
      chain: The kernels from input to output: for each a glob on paths that matches this leaf; or
        a function ``masks -> paths``. Dense, (in, out), or convolutions, (..., in, out), NHWC:
        after a flattening the channel runs fastest. Sparse leaves outside are pruned by magnitude.
      scales: What multiplies the outputs of each kernel before the next one, a number an output:
        for each a glob on the path of a batch normalization's scale, or ``None``; or a function
        ``params -> arrays``, for instance scales over running deviations.
      variant: ``"base"``: all layers at once; ``"forward"``: from input to output, each scored by a
        neighbor already pruned; ``"backward"``: the other way round.
      step: When to prune.
      update: ``step -> bool``, in place of ``step`` where ``sparsity`` is a schedule.
      distribution: ``(params, sparsity, *, where) -> kept counts``.
      where: ``(path, leaf) -> bool``: which leaves may be sparse.

    Returns:
      A ``MaskAlgorithm``.

    Raises:
      ValueError: if ``chain`` is missing or a choice is out of range; in ``init``, if a glob does
        not match one leaf, or neighbors do not fit.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> method = lookahead(0.5, chain=["first", "second"])
      >>> params = {"first": jnp.array([[3.0, 2.0]]), "second": jnp.array([[1.0], [9.0]])}
      >>> masks = method.init(jax.random.key(0), params)
      >>> masks, info = method.update(jax.random.key(1), masks, params, params, 0)
      >>> masks["first"].tolist()  # 3 x 1, and 2 x 9
      [[False, True]]

    Differences from the paper: one chain, without residual branches, activations ("LAP-act") and
    the comparison across layers; of a batch normalization the scale alone, unless ``scales`` is a
    function. Published code ranks the square, the same order; its flattening is NCHW.

    References:
      Park et al., `Lookahead: A Far-Sighted Alternative of Magnitude-based Pruning
      <https://arxiv.org/abs/2002.04809>`_, ICLR 2020.
    """
    if chain is None or isinstance(chain, str) or not chain:
        raise ValueError(
            f"chain is {chain!r}; lookahead needs the paths of the kernels from input to output: "
            "['Dense_0/kernel', 'Dense_1/kernel', ...]"
        )
    if variant not in ("base", "forward", "backward"):
        raise ValueError(f"variant is {variant!r}; it must be 'base', 'forward' or 'backward'")
    if callable(sparsity) != (update is not None):
        raise ValueError("give a number and step, or a schedule of sparsities and update")
    schedule = sparsity if callable(sparsity) else one_shot(sparsity, step)
    final = final_sparsity(schedule)

    def order_of(params: Params, masks: Masks) -> list[int]:
        globs = chain(masks) if callable(chain) else chain
        order = [i for i in places(globs, params, "chain") if i is not None]
        rows, _ = flatten_with_paths(params)
        check_neighbors([(rows[i][0], tuple(rows[i][1].shape)) for i in order])
        scale_factors(scales, params, [rows[i] for i in order])
        return order

    def measure(params: Params, masks: Masks, now: Any, memory: Memory) -> Masks:
        del memory
        rows, _ = flatten_with_paths(params)
        marks, tree = jax.tree.flatten(masks, is_leaf=is_dense)
        weights = [_kept(w, mask) for (_, w), mask in zip(rows, marks, strict=True)]
        order = order_of(params, masks)
        factors = scale_factors(scales, params, [rows[i] for i in order])
        leaves, _, _ = plan(params, final, distribution, unstructured(), where)
        amounts = targets(leaves, schedule, final, now)
        budget = {leaf.index: k for leaf, k in zip(leaves, amounts, strict=True)}
        found = [m if is_dense(m) else jnp.abs(w) for w, m in zip(weights, marks, strict=True)]
        turns = [n for n, i in enumerate(order) if not is_dense(marks[i])]
        for n in reversed(turns) if variant == "backward" else turns:
            i, ndim = order[n], weights[order[n]].ndim
            if n > 0:
                into = norms_in(weights[order[n - 1]], factors[n - 1], weights[i].shape[-2])
                found[i] *= along(into, -2, ndim)
            if n + 1 < len(order):
                out = norms_out(weights[order[n + 1]], factors[n], weights[i].shape[-1])
                found[i] *= along(out, -1, ndim)
            if variant != "base":
                stays = top_k_mask(found[i], budget[i], where=marks[i])
                weights[i] = _kept(weights[i], stays)
        return jax.tree.unflatten(tree, found)

    return drop_grow(
        sparsity=schedule,
        distribution=distribution,
        update=update or at(step),
        drop=scores.measured,
        measure=measure,
        where=where,
    )


def _kept(weight: Any, mask: Any) -> Any:
    """The weights that are left, wide enough for squares; dense marks as they are."""
    if is_dense(weight):
        return weight
    full = wide(weight)
    return full if is_dense(mask) else jnp.where(mask, full, jnp.zeros_like(full))
