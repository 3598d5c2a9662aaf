"""Pruning before training, in rounds: score, keep the best, score again what is left."""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from jaxsparse import distributions
from jaxsparse._counting import all_finite
from jaxsparse._dtypes import wide_dtype
from jaxsparse._sharding import like
from jaxsparse._tree import is_dense, leaf_indices, map_masks
from jaxsparse.base import Distribution, Masks, Params, Scope, Score, Where
from jaxsparse.layers import default_where
from jaxsparse.pruning import keep_all
from jaxsparse.schedules import check_sparsity
from jaxsparse.selection import tree_top_k_masks

Saliency: TypeAlias = Callable[[Params, Masks], PyTree]
"""``(params, masks) -> scores``, like the masks: what each weight is worth to the network that the
masks leave of the dense weights. The largest are kept."""


def prune_in_rounds(
    saliency: Saliency,
    params: Params,
    sparsity: float,
    *,
    rounds: int = 1,
    path: Literal["exponential", "linear"] = "exponential",
    regrow: bool = False,
    scope: Scope = "global",
    distribution: Distribution = distributions.uniform,
    where: Where = default_where,
) -> Masks:
    """Masks of the best weights, approached round by round, in one compiled loop.

    After round t of T, ``round(N (K / N)^(t / T))`` of the N weights are kept (``"exponential"``),
    or ``round(N - (N - K) t / T)``: K at the end, exactly, at least one before it.

    Args:
      saliency: From this package, or ``(params, masks) -> scores``.
      params: Pytree of arrays: the dense weights.
      sparsity: Fraction of zeros over the sparse leaves at the end, in [0, 1).
      rounds: T, at least 1.
      path: How many are kept on the way.
      regrow: May what was pruned come back in a later round (FORCE), or not?
      scope: ``"global"``: leaves compete; ``"layer"``: each has its budget of ``distribution``.
      distribution: ``(params, sparsity, *, where) -> kept counts``; only its sum counts under
        ``"global"``.
      where: ``(path, leaf) -> bool``: which leaves may be sparse.

    Returns:
      Like ``params``: bool arrays, ``optax.MaskedNode()`` where dense. All are True where a score
      of a candidate was not finite, in any round: masks do not follow from such numbers.

    Raises:
      ValueError: if a number or a choice is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxsparse import scores
      >>> params = {"a": jnp.array([[4.0, -3.0]]), "b": jnp.array([[2.0, 1.0]])}
      >>> masks = prune_in_rounds(by_score(scores.magnitude), params, 0.5, rounds=2)
      >>> masks["a"].tolist(), masks["b"].tolist()
      ([[True, True]], [[False, False]])

    References:
      Tanaka et al., `Pruning neural networks without any data by iteratively conserving synaptic
      flow <https://arxiv.org/abs/2006.05467>`_, NeurIPS 2020, algorithm 1; de Jorge et al.,
      `Progressive Skeletonization <https://arxiv.org/abs/2006.09081>`_, ICLR 2021, equation 9.
    """
    masks, _ = masks_in_rounds(
        saliency, params, sparsity, rounds, path, regrow, scope, distribution, where
    )
    return masks


def masks_in_rounds(
    saliency: Saliency,
    params: Params,
    sparsity: float,
    rounds: int,
    path: Literal["exponential", "linear"],
    regrow: bool,
    scope: Scope,
    distribution: Distribution,
    where: Where,
) -> tuple[Masks, Any]:
    """``prune_in_rounds``, and whether all scores were finite.

    Args:
      saliency: As there.
      params: As there.
      sparsity: As there.
      rounds: As there.
      path: As there.
      regrow: As there.
      scope: As there.
      distribution: As there.
      where: As there.

    Returns:
      The masks, and a bool scalar.

    Raises:
      ValueError: if a number or a choice is out of range.
    """
    check_sparsity(sparsity)
    check_rounds(rounds, path)
    if scope not in ("layer", "global"):
        raise ValueError(f"scope is {scope!r}; it must be 'layer' or 'global'")
    first = keep_all(params, where=where)
    marks, tree = jax.tree.flatten(first, is_leaf=is_dense)
    if all(map(is_dense, marks)):
        return first, jnp.asarray(True)
    planned = tree.flatten_up_to(distribution(params, sparsity, where=where))
    pairs = [
        (mark.size, mark.size if is_dense(keep) else int(keep))
        for mark, keep in zip(marks, planned, strict=True)
        if not is_dense(mark)
    ]
    if scope == "global":
        pairs = [(sum(size for size, _ in pairs), sum(keep for _, keep in pairs))]
    kept = jnp.asarray(_kept_after(np.array(pairs), rounds, path))

    def one(number: Any, carry: tuple[Masks, Any]) -> tuple[Masks, Any]:
        masks, finite = carry
        amounts: Any = kept[number, 0]
        if scope == "layer":
            each = iter(kept[number])
            amounts = [mark if is_dense(mark) else next(each) for mark in marks]
        scored = tree.flatten_up_to(saliency(params, masks))
        ranked = [mark if is_dense(mark) else x for mark, x in zip(marks, scored, strict=True)]
        candidates = jax.tree.leaves(masks, is_leaf=is_dense)
        among = None if regrow else candidates
        rows = [
            [x if regrow else jnp.where(mask, x, jnp.zeros_like(x))]
            for mask, x in zip(candidates, scored, strict=True)
            if not is_dense(mask) and jnp.issubdtype(x.dtype, jnp.inexact)
        ]
        found = tree_top_k_masks(ranked, amounts, where=among)
        placed = [
            new if is_dense(new) else like(new, mark)
            for new, mark in zip(found, marks, strict=True)
        ]
        return jax.tree.unflatten(tree, placed), finite & all_finite(rows)

    masks, finite = jax.lax.fori_loop(0, rounds, one, (first, jnp.asarray(True)))
    return map_masks(lambda mask: like(mask | ~finite, mask), masks), finite


def _kept_after(pairs: np.ndarray, rounds: int, path: str) -> np.ndarray:
    """Kept counts [rounds, budgets], from sizes and final counts, exact at the end."""
    size, keep = pairs.T.astype(float)
    share = (np.arange(1, rounds + 1) / rounds)[:, None]
    if path == "linear":
        counts = size - (size - keep) * share
    else:
        counts = size * (np.maximum(keep, 1) / size) ** share
    counts = np.maximum(np.rint(counts).astype(np.int32), pairs[:, 1])
    counts[-1] = pairs[:, 1]
    return counts


def check_rounds(rounds: int, path: str) -> None:
    """Refuse rounds that there cannot be.

    Args:
      rounds: At least 1.
      path: ``"exponential"`` or ``"linear"``.

    Raises:
      ValueError: if one is out of range.

    Example:
      >>> check_rounds(0, "linear")
      Traceback (most recent call last):
      ValueError: rounds is 0; it must be at least 1
    """
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; it must be at least 1")
    if path not in ("exponential", "linear"):
        raise ValueError(f"path is {path!r}; it must be 'exponential' or 'linear'")


def by_score(score: Score, key: chex.PRNGKey | None = None) -> Saliency:
    """A score that reads no gradient, as a saliency: ``scores.magnitude``, ``scores.random``.

    Args:
      score: ``(key, weight, grad, mask, memory) -> score``; it is given no gradient.
      key: PRNG key, for a score that draws; leaves fold in their position.

    Returns:
      A saliency.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxsparse import scores
      >>> weights, masks = {"w": jnp.array([2.0, -3.0])}, {"w": jnp.array([True, True])}
      >>> by_score(scores.magnitude)(weights, masks)["w"].tolist()
      [2.0, 3.0]
    """

    def saliency(params: Params, masks: Masks) -> PyTree:
        def one(mask: Any, index: int, weight: Any) -> Any:
            own = None if key is None else jax.random.fold_in(key, index)
            return score(own, weight, None, mask, None)

        return map_masks(one, masks, leaf_indices(masks), params)

    return saliency


def inverted(saliency: Saliency) -> Saliency:
    """The control that keeps what a saliency would prune first.

    Args:
      saliency: Any.

    Returns:
      Its opposite.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxsparse import scores
      >>> params = {"w": jnp.array([[2.0, -3.0]])}
      >>> prune_in_rounds(inverted(by_score(scores.magnitude)), params, 0.5)["w"].tolist()
      [[True, False]]

    References:
      Frankle et al., `Pruning Neural Networks at Initialization: Why Are We Missing the Mark?
      <https://arxiv.org/abs/2009.08576>`_, ICLR 2021, section 5.
    """
    return lambda params, masks: map_masks(lambda mask, x: -x, masks, saliency(params, masks))


def of_weights(saliency: Saliency, weights: Params) -> Saliency:
    """Scores of other weights than those that are trained: a fresh initialization, say.

    Published code of SNIP and GraSP finds the masks on a copy of the network that was initialized
    anew.

    Args:
      saliency: Any.
      weights: Like the parameters: what is scored in their place.

    Returns:
      A saliency that looks at the masks alone.

    Raises:
      ValueError: when it is called with parameters of another structure or other shapes.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxsparse import scores
      >>> trained, fresh = {"w": jnp.array([[2.0, -3.0]])}, {"w": jnp.array([[5.0, 1.0]])}
      >>> by_size = of_weights(by_score(scores.magnitude), fresh)
      >>> prune_in_rounds(by_size, trained, 0.5)["w"].tolist()
      [[True, False]]

    References:
      Lee et al., `SNIP <https://arxiv.org/abs/1810.02340>`_, ICLR 2019, its code; Wang et al.,
      `GraSP <https://arxiv.org/abs/2002.07376>`_, ICLR 2020, its code (linear layers).
    """

    def scored(params: Params, masks: Masks) -> PyTree:
        shapes = [jax.tree.map(lambda leaf: leaf.shape, tree) for tree in (params, weights)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"weights of shapes {shapes[1]} stand in for {shapes[0]}; pass another "
                "initialization of the same model"
            )
        return saliency(weights, masks)

    return scored


def mean_over(f: Callable[[Params, Any], PyTree], params: Params, batches: Any) -> PyTree:
    """The mean of ``f(params, batch)`` over batches, one in memory at a time.

    Args:
      f: ``(params, batch) -> pytree`` of float arrays.
      params: Pytree of arrays.
      batches: Pytree of arrays with the batches in front: (batches, examples, ...).

    Returns:
      The mean, float32 or wider.

    Raises:
      ValueError: if the arrays do not have the same number of batches.

    Example:
      >>> import jax.numpy as jnp
      >>> mean_over(lambda params, batch: params * batch.sum(), 2.0, jnp.ones((3, 4))).item()
      8.0
    """
    numbers = {np.shape(leaf)[0] if np.ndim(leaf) else 0 for leaf in jax.tree.leaves(batches)}
    if len(numbers) != 1 or 0 in numbers:
        raise ValueError(
            f"batches has arrays of {sorted(numbers)} batches; give arrays (batches, examples, "
            "...), for instance images[None] for a single one"
        )
    (number,) = numbers
    empty = lambda x: like(jnp.zeros(x.shape, wide_dtype(x)), x)
    zeros = jax.tree.map(empty, jax.eval_shape(f, params, jax.tree.map(lambda x: x[0], batches)))

    def add(total: PyTree, batch: Any) -> tuple[PyTree, None]:
        return optax.tree.add(total, f(params, batch)), None

    total, _ = jax.lax.scan(add, zeros, batches)
    return jax.tree.map(lambda x: x / number, total)
