"""Iterative procedures: prune what is left, train, go on or rewind; and their controls."""

from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any, Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int

from jaxsparse import scores
from jaxsparse._report import report
from jaxsparse._sharding import like
from jaxsparse._tree import flatten_with_paths, is_dense, match_globs
from jaxsparse.base import MaskAlgorithm, Masks, Memory, Params, Scope, Score, UpdateInfo, Where
from jaxsparse.layers import default_where, sparse_layers
from jaxsparse.masks import apply_masks
from jaxsparse.selection import tree_top_k_masks

# Fractions are exact up to this denominator: every decimal of nine digits is.
_FINEST = 2**30


def keep_all(params: Params, *, where: Where = default_where) -> Masks:
    """Masks that keep every weight: what an iterative procedure starts with.

    Args:
      params: Pytree of arrays or ``ShapeDtypeStruct`` leaves.
      where: ``(path, leaf) -> bool``: which leaves may be pruned.

    Returns:
      Like ``params``: bool arrays, all True; ``optax.MaskedNode()`` where dense.

    Raises:
      ValueError: if ``where`` takes no leaf, or one that cannot be sparse.

    Example:
      >>> import jax.numpy as jnp
      >>> keep_all({"bias": jnp.zeros(2), "kernel": jnp.zeros((1, 2))})
      {'bias': MaskedNode(), 'kernel': Array([[ True,  True]], dtype=bool)}
    """
    layers, tree = sparse_layers(params, where)
    masks = [
        optax.MaskedNode() if layer is None else like(jnp.ones(layer.shape, bool), leaf)
        for layer, leaf in zip(layers, tree.flatten_up_to(params), strict=True)
    ]
    return jax.tree.unflatten(tree, masks)


def prune_remaining(
    params: Params,
    masks: Masks,
    fraction: float,
    *,
    rules: Mapping[str, float] | None = None,
    scope: Scope = "layer",
    score: Score = scores.magnitude,
    key: chex.PRNGKey | None = None,
) -> Masks:
    """Drop a fraction of the weights that are left: those of least score.

    Of k weights ``floor(fraction * k)`` go, counted in whole numbers with the fraction as the
    decimal that was typed. Applied round after round, 20 % leaves 80, 64, 51.2, ... %. Once fewer
    than ``1 / fraction`` weights are left, no more go: no layer is emptied.

    Works under ``jit``, and under ``vmap`` over seeds (each with its own weights and masks).

    Args:
      params: Pytree of arrays: the trained weights.
      masks: Like ``params``: bool arrays, ``optax.MaskedNode()`` where dense.
      fraction: Fraction of the weights left that is dropped, in [0, 1).
      rules: Glob on paths -> the fraction of these leaves. The first glob that matches holds.
      scope: ``"layer"``: the fraction of each leaf; ``"global"``: leaves compete.
      score: Which weights stay; it is given no gradient and no memory. NaN goes first.
      key: PRNG key, for a score that draws.

    Returns:
      Masks like ``masks``, inside of them.

    Raises:
      ValueError: if a fraction is out of range, a glob matches nothing, masks do not fit, or
        ``rules`` are given under ``"global"``.

    Example:
      >>> import jax.numpy as jnp
      >>> params = {"w": jnp.array([[1.0, -5.0, 0.1, 3.0, 2.0]])}
      >>> masks = prune_remaining(params, keep_all(params), 0.2)
      >>> masks["w"].tolist(), prune_remaining(params, masks, 0.5)["w"].tolist()
      ([[True, True, False, True, True]], [[False, True, False, True, False]])

    Differences from the paper: none known in the rule. google-research's code drops all weights
    at or below the weight of rank ``round(fraction * k)``, one more and ties; open_lth drops
    ``ceil(fraction * k)`` over all layers.

    References:
      Frankle & Carbin, `The Lottery Ticket Hypothesis <https://arxiv.org/abs/1803.03635>`_,
      ICLR 2019, section 2; Han et al., `Learning both Weights and Connections
      <https://arxiv.org/abs/1506.02626>`_, NeurIPS 2015, section 3.
    """
    if scope not in ("layer", "global"):
        raise ValueError(f"scope is {scope!r}; it must be 'layer' or 'global'")
    if scope == "global" and rules:
        raise ValueError("rules need scope='layer': under 'global' leaves compete for one fraction")
    if score is scores.random and key is None:
        raise ValueError("score is scores.random and key is None; pass a PRNG key")
    rows, tree = _paired(params, masks)
    chosen = [i for i, (_, _, mask) in enumerate(rows) if not is_dense(mask)]
    paths = [rows[i][0] for i in chosen]
    each = [_exact(fraction, "fraction")] * len(chosen)
    if rules:
        rates = [_exact(rate, f"fraction of {glob!r}") for glob, rate in rules.items()]
        hits = match_globs(list(rules), paths, "rules")
        each = [each[0] if i is None else rates[i] for i in hits]
    if not chosen:
        return masks
    ranked: list[Any] = [optax.MaskedNode()] * len(rows)
    for i in chosen:
        _, weight, mask = rows[i]
        leaf_key = None if key is None else jax.random.fold_in(key, i)
        ranked[i] = score(leaf_key, weight, None, mask, None)  # type: ignore[arg-type]
    left = jnp.stack([_count(rows[i][2]) for i in chosen])
    if scope == "global":
        left, each = jnp.sum(left, keepdims=True), each[:1]
    keep = left - _share(left, *np.array(each, np.uint32).T)
    amounts = keep[0] if scope == "global" else _placed(keep, chosen, len(rows))
    found = tree_top_k_masks(ranked, amounts, where=[mask for _, _, mask in rows])
    return _like_weights(found, rows, tree)


def random_masks_like(key: chex.PRNGKey, masks: Masks) -> Masks:
    """The random-mask control: as many weights kept in each leaf, elsewhere.

    Args:
      key: PRNG key; each leaf folds in its position.
      masks: Pytree of bool arrays, ``optax.MaskedNode()`` where dense.

    Returns:
      Like ``masks``, with the same count in each leaf; all choices are equally likely.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> masks = {"w": jnp.array([True, True, False, False, False])}
      >>> int(random_masks_like(jax.random.key(0), masks)["w"].sum())
      2

    References:
      Frankle & Carbin, `The Lottery Ticket Hypothesis <https://arxiv.org/abs/1803.03635>`_,
      ICLR 2019, appendix E ("random sparsity").
    """
    rows, tree = _paired(masks, masks)
    chosen = [i for i, (_, _, mask) in enumerate(rows) if not is_dense(mask)]
    if not chosen:
        return masks
    ranked: list[Any] = [optax.MaskedNode()] * len(rows)
    for i in chosen:
        ranked[i] = scores.random(jax.random.fold_in(key, i), rows[i][2], None, None, None)
    kept = _placed(jnp.stack([_count(rows[i][2]) for i in chosen]), chosen, len(rows))
    return _like_weights(tree_top_k_masks(ranked, kept), rows, tree)


def fixed(masks: Masks) -> MaskAlgorithm:
    """Train under masks that are given, and never move them.

    ==================  ====  ====  ====
    sparsity over time  swap  drop  grow
    ==================  ====  ====  ====
    that of the masks   0     none  none
    ==================  ====  ====  ====

    Args:
      masks: Like the parameters: bool arrays, also traced ones (a ``vmap`` over tickets is one
        program); ``optax.MaskedNode()`` where dense.

    Returns:
      A ``MaskAlgorithm``, for ``sparsify`` and, leaf by leaf, for ``partition``.

    Raises:
      ValueError: in ``init``, if the masks do not fit the parameters.

    Example:
      >>> import jax.numpy as jnp, optax, jaxsparse
      >>> params = {"w": jnp.array([3.0, 4.0])}
      >>> tx = jaxsparse.sparsify(optax.sgd(0.1), fixed({"w": jnp.array([True, False])}))
      >>> updates, state = tx.update({"w": jnp.ones(2)}, tx.init(params), params)
      >>> [round(w, 6) for w in optax.apply_updates(params, updates)["w"].tolist()]
      [2.9, 0.0]
    """

    def init(key: chex.PRNGKey, params: Params) -> Masks:
        del key
        rows, tree = _paired(params, masks)
        return _like_weights([mask for _, _, mask in rows], rows, tree)

    def update(
        key: chex.PRNGKey,
        masks: Masks,
        params: Params,
        grads: Params,
        step: Any,
        memory: Memory = (),
    ) -> tuple[Masks, UpdateInfo]:
        del key, params, grads, step, memory
        return masks, report(masks, masks)

    return MaskAlgorithm(init=init, update=update)


class Round(NamedTuple):
    """One round of an iterative procedure.

    Attributes:
      number: How often was pruned before it: 0 is the dense network.
      masks: What it was trained under.
      start: The weights that training started from, zero off the masks.
      trained: What it ended with.
    """

    number: int
    masks: Masks
    start: Params
    trained: Params


def iterative_pruning(
    train: Callable[[Params, Masks, int], Params],
    params: Params,
    *,
    rounds: int,
    prune: Callable[[Params, Masks], Masks],
    masks: Masks | None = None,
    rewind: Params | Literal["initial", "none"] = "initial",
    done: Round | None = None,
) -> Iterator[Round]:
    """Train, prune, and train again what is left: from the first weights, or from the last.

    ============================  ===============================================================
    lottery ticket                ``rewind="initial"``: every round starts from ``params``
    the same, rewound to step k   ``params`` after k steps of training, for ``params``
    prune and fine-tune           ``rewind="none"``: every round goes on from the trained weights
    one-shot                      ``rounds=1``
    ============================  ===============================================================

    Nothing is kept but the last round: take from each what you need, or stop early.

    Args:
      train: ``(start, masks, number) -> trained``. Called once a round, round 0 with ``masks`` of
        the dense network; ``sparsify(optimizer, fixed(masks))`` keeps the zeros.
      params: What round 0 starts from.
      rounds: How often to prune, at least 1.
      prune: ``(trained, masks) -> masks``: ``functools.partial(prune_remaining, fraction=0.2)``,
        or ``jax.vmap`` of it where weights have a seed axis.
      masks: Those of round 0; default ``keep_all(params)``.
      rewind: What later rounds start from: ``"initial"``, ``"none"``, or weights like ``params``.
      done: The latest finished round: the procedure goes on with the next one.

    Yields:
      A ``Round`` as soon as it is trained: ``rounds + 1`` in all, less those that were done.

    Raises:
      ValueError: if ``rounds`` or ``rewind`` is out of range.

    Example:
      >>> import functools, jax, jax.numpy as jnp
      >>> weights = {"w": jnp.array([[4.0, 3.0, 2.0, 1.0]])}
      >>> negate = lambda start, masks, number: jax.tree.map(jnp.negative, start)
      >>> half = functools.partial(prune_remaining, fraction=0.5)
      >>> for number, masks, start, trained in iterative_pruning(
      ...     negate, weights, rounds=2, prune=half
      ... ):
      ...     print(number, start["w"][0].astype(int))
      0 [4 3 2 1]
      1 [4 3 0 0]
      2 [4 0 0 0]

    Differences from the paper: none known. Rewinding resets weights only; what the optimizer and
    the order of the batches do at step k is up to ``train``.

    References:
      Frankle & Carbin, `The Lottery Ticket Hypothesis <https://arxiv.org/abs/1803.03635>`_,
      ICLR 2019, appendix B: strategy 1 ("initial") and 2 ("none"); Frankle et al., `Linear Mode
      Connectivity <https://arxiv.org/abs/1912.05671>`_, ICML 2020 (rewinding); Han et al.,
      `Learning both Weights and Connections <https://arxiv.org/abs/1506.02626>`_, NeurIPS 2015.
    """
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; it must be at least 1")
    if isinstance(rewind, str) and rewind not in ("initial", "none"):
        raise ValueError(f"rewind is {rewind!r}; give 'initial', 'none', or weights like params")
    if not isinstance(rewind, str):
        _same_shapes(params, rewind)
    initial = params if isinstance(rewind, str) else rewind

    def go_on(last: Round | None) -> Iterator[Round]:
        if last is None:
            first = keep_all(params) if masks is None else masks
            start = apply_masks(params, first)
            last = Round(0, first, start, train(start, first, 0))
            yield last
        while last.number < rounds:
            left = prune(last.trained, last.masks)
            from_here = rewind == "none" if isinstance(rewind, str) else False
            start = apply_masks(last.trained if from_here else initial, left)
            number = last.number + 1
            last = Round(number, left, start, train(start, left, number))
            yield last

    return go_on(done)


def _paired(params: Params, masks: Masks) -> tuple[list[tuple[str, Any, Any]], Any]:
    """``[(path, weight, mask)]`` and the structure of the parameters; a mask of each leaf."""
    leaves, tree = flatten_with_paths(params)
    marks = jax.tree.leaves(masks, is_leaf=is_dense)
    if len(leaves) != len(marks):
        raise ValueError(
            f"{len(leaves)} leaves of params, {len(marks)} of masks; give masks made for these "
            "parameters, with optax.MaskedNode() where a leaf is dense"
        )
    rows = []
    for (path, weight), mask in zip(leaves, marks, strict=True):
        # A weight may be left out by a wrapper (optax.masked, partition): then its mask is too.
        if is_dense(weight) or is_dense(mask):
            rows.append((path, weight, optax.MaskedNode()))
            continue
        if weight.shape != mask.shape or mask.dtype != bool:
            raise ValueError(
                f"{path} has shape {weight.shape}, its mask is {mask.dtype}{list(mask.shape)}; "
                "give a bool array of the same shape"
            )
        rows.append((path, weight, mask))
    return rows, tree


def _same_shapes(params: Params, rewind: Params) -> None:
    shapes = lambda tree: [(path, np.shape(leaf)) for path, leaf in flatten_with_paths(tree)[0]]
    for ours, theirs in zip(shapes(params), shapes(rewind), strict=False):
        if ours != theirs:
            raise ValueError(
                f"rewind has {theirs[0]} of shape {theirs[1]} where params has {ours[0]} of shape "
                f"{ours[1]}; give weights like params"
            )
    if len(shapes(params)) != len(shapes(rewind)):
        raise ValueError(
            f"rewind has {len(shapes(rewind))} leaves, params {len(shapes(params))}; give weights "
            "like params"
        )


def _like_weights(masks: list[Any], rows: list[tuple[str, Any, Any]], tree: Any) -> Masks:
    """The masks as a tree, each with the sharding of its weight."""
    placed = [
        mask if is_dense(mask) else like(jnp.asarray(mask), weight)
        for mask, (_, weight, _) in zip(masks, rows, strict=True)
    ]
    return jax.tree.unflatten(tree, placed)


def _placed(numbers: Array, chosen: list[int], leaves: int) -> list[Any]:
    """One number for each of the chosen leaves, dense marks for the others."""
    found: list[Any] = [optax.MaskedNode()] * leaves
    for i, number in zip(chosen, numbers, strict=True):
        found[i] = number
    return found


def _count(mask: Array) -> Int[Array, ""]:
    return jnp.sum(mask, dtype=jnp.int32)


def _exact(fraction: float, name: str) -> tuple[int, int]:
    """Numerator and denominator."""
    if not 0 <= fraction < 1:
        percent = f": for {fraction:g} % give {fraction / 100:g}" if 1 < fraction < 100 else ""
        raise ValueError(f"{name} is {fraction}; it is of the weights left, in [0, 1){percent}")
    exact = Fraction(repr(float(fraction))).limit_denominator(_FINEST)
    return exact.numerator, exact.denominator


@jax.jit
def _share(count: Array, numerator: Array, denominator: Array) -> Int[Array, "..."]:
    """``floor(count * numerator / denominator)`` of int32 counts: long division, bit by bit."""
    count = count.astype(jnp.uint32)

    def bit(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        whole, rest = carry
        # Below three denominators: 32 bits are enough.
        rest = 2 * rest + numerator * ((count >> (30 - i).astype(jnp.uint32)) & 1)
        times = (rest >= denominator).astype(jnp.uint32) + (rest >= 2 * denominator)
        return 2 * whole + times, rest - times * denominator

    zero = jnp.zeros_like(count)
    return jax.lax.fori_loop(0, 31, bit, (zero, zero))[0].astype(jnp.int32)
