"""Different methods for different layers."""

import functools
from collections.abc import Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsparse._report import report
from jaxsparse._tree import flatten_with_paths, is_dense, map_masks, match_globs
from jaxsparse.base import (
    MaskAlgorithm,
    Masks,
    Memory,
    Params,
    Regrowth,
    UpdateInfo,
    gradients_read,
    never,
)
from jaxsparse.schedules import any_of


def partition(algorithms: Mapping[str, MaskAlgorithm], default: MaskAlgorithm) -> MaskAlgorithm:
    """Give each layer its own algorithm, by globs on its path.

    Every algorithm sees only its own leaves: its sparsity and distribution are over those. Where
    one of them pauses training at an update (RigL), the whole step pauses.

    Args:
      algorithms: Glob on ``"/"``-joined paths (``*`` crosses ``/``) -> algorithm. The first glob
        that matches a leaf holds.
      default: The algorithm of the leaves that no glob matches.

    Returns:
      A ``MaskAlgorithm``. Its memory is a tuple, one entry an algorithm.

    Raises:
      ValueError: in ``init``, if a glob matches nothing, or if a method with dense weights shares
        the tree with another one that prunes.

    Example:
      >>> import jax, jax.numpy as jnp, jaxsparse
      >>> params = {"body": jnp.ones((10, 10)), "head": jnp.ones((10, 2))}
      >>> mixed = partition({"body": jaxsparse.static(0.9)}, default=jaxsparse.dense())
      >>> masks = mixed.init(jax.random.key(0), params)
      >>> int(masks["body"].sum()), masks["head"]
      (10, MaskedNode())
    """
    globs = list(algorithms)
    parts = [*algorithms.values(), default]
    dense_weights = any(part.dense_weights for part in parts)

    def owners(params: Params) -> tuple[list[int], Any]:
        leaves, structure = flatten_with_paths(params)
        hits = match_globs(globs, [p for p, leaf in leaves if not is_dense(leaf)], "partition")
        left = iter(hits)
        # A dense mark belongs to whoever comes last: it is nobody's.
        found = [None if is_dense(leaf) else next(left) for _, leaf in leaves]
        return [len(globs) if i is None else i for i in found], structure

    def only(part: int, params: Params, trees: tuple[Any, ...]) -> list[Any]:
        """The trees with every other algorithm's leaves marked dense."""
        owner, structure = owners(params)
        return [
            jax.tree.unflatten(
                structure,
                [
                    leaf if i == part else optax.MaskedNode()
                    for leaf, i in zip(structure.flatten_up_to(tree), owner, strict=True)
                ],
            )
            for tree in trees
        ]

    def merge(params: Params, trees: list[Any]) -> Any:
        owner, structure = owners(params)
        flat = [structure.flatten_up_to(tree) for tree in trees]
        return jax.tree.unflatten(structure, [flat[i][n] for n, i in enumerate(owner)])

    def each(params: Params, *trees: Any) -> list[tuple[int, MaskAlgorithm, list[Any]]]:
        return [(i, part, only(i, params, (params, *trees))) for i, part in enumerate(parts)]

    def choose(key: chex.PRNGKey, params: Params, score: Any) -> Masks:
        masks = []
        for _, part, (own,) in each(params):
            if not jax.tree.leaves(own):
                masks.append(own)
            elif score is None or part.choose is None:
                masks.append(part.init(key, own))
            else:
                masks.append(part.choose(key, own, score))
        pruning = sum(bool(jax.tree.leaves(own)) for own in masks)
        if pruning > 1 and dense_weights:
            raise ValueError(
                f"partition has {pruning} parts that prune, and one trains dense weights behind a "
                "sparse forward pass; pair that one with dense() only, or give each its own "
                "sparsify under optax.partition"
            )
        return merge(params, masks)

    def update(
        key: chex.PRNGKey,
        masks: Masks,
        params: Params,
        grads: Params,
        step: Any,
        memory: Memory = (),
    ) -> tuple[Masks, UpdateInfo]:
        results = []
        for i, part, (own, own_masks, own_grads) in each(params, masks, grads):
            memo = memory[i] if memory else ()
            still = lambda m=own_masks: (m, report(m, m)._replace(updates=jnp.int32(0)))
            if part.due is None or not jax.tree.leaves(own_masks):
                results.append(still())
                continue
            move = lambda part=part, p=own, m=own_masks, g=own_grads, memo=memo: part.update(
                key, m, p, g, step, memo
            )
            results.append(jax.lax.cond(part.due(step), move, still))
        infos = [info for _, info in results]
        total = lambda counts: functools.reduce(jnp.add, counts)
        # The parts' counts one after another, taken in the order of the leaves.
        owner, structure = owners(params)
        marks = zip(owner, structure.flatten_up_to(masks), strict=True)
        of = np.array([i for i, mark in marks if not is_dense(mark)], int)
        order = np.argsort(np.argsort(of, kind="stable"))
        kept = [info.kept[: int(np.sum(of == i))] for i, info in enumerate(infos)]
        return merge(params, [new for new, _ in results]), UpdateInfo(
            kept=jnp.concatenate(kept)[order] if len(of) else infos[0].kept,
            dropped=total([info.dropped for info in infos]),
            grown=total([info.grown for info in infos]),
            updates=jnp.minimum(total([info.updates for info in infos]), 1),
            skipped=jnp.minimum(total([info.skipped for info in infos]), 1),
        )

    def regrow(
        key: chex.PRNGKey, masks: Masks, params: Params, grads: Params, memory: Memory = ()
    ) -> Regrowth:
        found = []
        for i, part, (own, own_masks, own_grads) in each(params, masks, grads):
            zeros = map_masks(lambda mask: 0.0, own_masks)
            memo = memory[i] if memory else ()
            there = part.regrow
            found.append(
                there(key, own_masks, own, own_grads, memo) if there else Regrowth(zeros, zeros)
            )
        return Regrowth(
            merge(params, [f.values for f in found]), merge(params, [f.slots for f in found])
        )

    def start(masks: Masks, params: Params) -> Memory:
        return tuple(part.start(m, p) for _, part, (p, m) in each(params, masks))

    def remember(memory: Memory, masks: Masks, params: Params, grads: Params, step: Any) -> Memory:
        rows = each(params, masks, grads)
        return tuple(part.remember(memory[i], m, p, g, step) for i, part, (p, m, g) in rows)

    def backward(
        key: chex.PRNGKey, masks: Masks, params: Params, grads: Params, step: Any, memory: Memory
    ) -> tuple[Params, Memory]:
        found = []
        for i, part, (own, own_masks, own_grads) in each(params, masks, grads):
            backward = part.backward if jax.tree.leaves(own_masks) else None
            same = (own_grads, memory[i])
            found.append(
                backward(key, own_masks, own, own_grads, step, memory[i]) if backward else same
            )
        return merge(params, [new for new, _ in found]), tuple(memo for _, memo in found)

    def trains(masks: Masks, params: Params, memory: Memory) -> Masks:
        found = []
        for i, part, (own_params, own) in each(params, masks):
            found.append(part.trains(own, own_params, memory[i]) if part.trains else own)
        return merge(params, found)

    def reads(masks: Masks, params: Params, memory: Memory, step: Any) -> Masks:
        found = []
        for i, part, (own_params, own) in each(params, masks):
            found.append(gradients_read(part, own, own_params, memory[i], step))
        return merge(params, found)

    pausing = [part.pauses for part in parts if part.pauses is not never]
    moving = [part.due for part in parts if part.due is not None]
    return MaskAlgorithm(
        init=lambda key, params: choose(key, params, None),
        choose=choose,
        update=update,
        due=any_of(*moving) if moving else None,
        pauses=any_of(*pausing) if pausing else never,
        regrow=regrow if any(part.regrow for part in parts) else None,
        start=start,
        remember=remember,
        dense_gradients=any_of(*[part.dense_gradients for part in parts]),
        backward=backward if any(part.backward for part in parts) else None,
        dense_weights=dense_weights,
        trains=trains if any(part.trains for part in parts) else None,
        reads=reads,
        learned=any(part.learned for part in parts),
    )
