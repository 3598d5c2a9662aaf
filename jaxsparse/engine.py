"""One engine, many recipes: budget, drop, grow. A method is the table of choices given to it."""

from collections.abc import Callable
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from jaxsparse import scores, structures
from jaxsparse._counting import counts, one_device
from jaxsparse._jaxprs import rounds_once
from jaxsparse._layout import Layout, layout_of
from jaxsparse._report import deciding, finite_numbers, info_of
from jaxsparse._sharding import like
from jaxsparse._tree import is_dense, leaf_indices, map_masks
from jaxsparse.base import (
    Allocate,
    Distribution,
    Forward,
    MaskAlgorithm,
    Masks,
    Memory,
    Params,
    Regrowth,
    Rows,
    ScalarOrSchedule,
    Schedule,
    Scope,
    Score,
    Structure,
    UpdateInfo,
    Where,
    evaluate,
    never,
    remember_nothing,
    start_nothing,
)
from jaxsparse.budgets import Leaf, final_sparsity, plan, targets
from jaxsparse.distributions import erk
from jaxsparse.layers import default_where
from jaxsparse.schedules import check_fraction
from jaxsparse.selection import masks_by_score, top_k_of_groups

# `init` makes the masks of the step before the first one.
_BEFORE = -1
# Parts of a leaf's randomness.
_DROP, _GROW, _VALUES = 0, 1, 2

# A score, and what it is a score of: one tuple of arguments an array of the layout.
Ranking = tuple[Layout, Callable[..., Array], list[tuple[Any, ...]]]


def drop_grow(
    *,
    sparsity: ScalarOrSchedule,
    distribution: Distribution = erk,
    update: Schedule | None = None,
    drop_fraction: ScalarOrSchedule = 0.0,
    drop: Score | None = scores.magnitude,
    grow: Score | None = None,
    stays: Score | None = None,
    allocate: Allocate | None = None,
    measure: Callable[[Params, Masks, Any, Memory], PyTree] | None = None,
    structure: Structure | None = None,
    scope: Scope = "layer",
    where: Where = default_where,
    regrow_dropped: bool = True,
    pauses: Schedule = never,
    grown_values: Score | None = None,
    grown_slots: float | Literal["initial", "keep"] = "initial",
    start: Callable[[Masks, Params], Memory] = start_nothing,
    remember: Callable[[Memory, Masks, Params, Params, Any], Memory] = remember_nothing,
    dense_gradients: Schedule = never,
    backward: Callable[..., tuple[Params, Memory]] | None = None,
    dense_weights: bool = False,
    trains: Callable[[Masks, Params, Memory], Masks] | None = None,
) -> MaskAlgorithm:
    """Build an algorithm from its choices: every method in ``jaxsparse.algorithms`` is one call.

    An update keeps the best ``budget - swap`` of the kept weights by ``drop``, with
    ``swap = floor(drop_fraction * budget)``, and fills up to the budget by ``grow`` among the
    rest. Budgets are whole numbers, fixed by shapes and schedule, so the kept count is exact at
    every step.

    Args:
      sparsity: Fraction of zeros over the sparse leaves, in [0, 1); a float or
        ``step -> float``. The distribution is that of the schedule's last value; the masks of
        ``init`` are those of step -1.
      distribution: ``(params, sparsity, *, where) -> kept counts``.
      update: ``step -> bool``, when to drop and grow; ``None``: never.
      drop_fraction: Fraction of the kept weights swapped by an update, in [0, 1]; a float or
        ``step -> float``.
      drop: Score by which kept weights stay; ``None``: none does, and all are chosen by ``grow``.
      grow: Score by which absent weights come; ``None``: nothing grows. Its ``mask`` is what is
        left after the drop.
      stays: ``(key, weight, grad, mask, memory) -> bool``: a rule that says which kept weights
        stay, in place of a count; what it drops is grown again.
      allocate: Moves budgets between leaves after the drop; see ``base.Allocate``.
      measure: ``(params, masks, step, memory) -> pytree like the masks``, at updates only: what
        scores that drop and grow get in place of the memory (curvature, activations, a part of the
        memory). ``init`` evaluates its shapes, so what it refuses is refused there.
      structure: What is kept or dropped together; default ``unstructured()``.
      scope: ``"layer"``: every leaf has its own budget; ``"global"``: leaves compete for the sum.
      where: ``(path, leaf) -> bool``: which leaves may be sparse.
      regrow_dropped: May a weight dropped by this update grow again at once (and keep its value)?
        If not, it does so only where nothing else is left to fill the budget.
      pauses: ``step -> bool``: the update steps at which weights are not trained.
      grown_values: What grown weights start from, a function like a score; default zeros.
      grown_slots: Optimizer slots of grown weights: ``"initial"``, the inner optimizer's own;
        ``"keep"``, as they are; a number c: initial plus c times the gradient.
      start: ``(masks, params) -> memory``.
      remember: ``(memory, masks, params, grads, step) -> memory``, at every step.
      dense_gradients: ``step -> bool``, for accounting: when gradients of absent weights are read.
      backward: See ``MaskAlgorithm``.
      dense_weights: See ``MaskAlgorithm``.
      trains: See ``MaskAlgorithm``.

    Returns:
      A ``MaskAlgorithm``.

    Raises:
      ValueError: if a choice is out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> half = drop_grow(sparsity=0.5, grow=scores.gradient_magnitude, drop_fraction=0.5)
      >>> params = {"kernel": jnp.arange(8.0).reshape(2, 4)}
      >>> masks = {"kernel": jnp.array([[True] * 4, [False] * 4])}
      >>> masks, info = half.update(jax.random.key(0), masks, params, params, 0)
      >>> print(masks["kernel"].astype(int).tolist(), int(info.kept[0]))
      [[0, 0, 1, 1], [0, 0, 1, 1]] 4
    """
    structure = structures.unstructured() if structure is None else structure
    final = final_sparsity(sparsity)
    if not callable(drop_fraction):
        check_fraction(drop_fraction, "drop_fraction")
    if scope not in ("layer", "global"):
        raise ValueError(f"scope is {scope!r}; it must be 'layer' or 'global'")
    if scope == "global" and structure.group_axes is not None:
        raise ValueError(f"scope 'global' and {structure.name} exclude each other; use 'layer'")
    if drop is None and (grow is None or stays is not None):
        raise ValueError("drop is None: all weights are chosen by grow; give grow, and no stays")
    if allocate is not None and (callable(sparsity) or scope == "global" or grow is None):
        raise ValueError("allocate moves fixed budgets of layers: give a number, 'layer' and grow")
    if isinstance(grown_slots, str) and grown_slots not in ("initial", "keep"):
        raise ValueError(f"grown_slots is {grown_slots!r}; give 'initial', 'keep' or a number")

    def leaf_plan(params: Params) -> tuple[list[Leaf], int, Any]:
        return plan(params, final, distribution, structure, where)

    def layout_for(weights: list[Any]) -> tuple[Layout, list[tuple[int, ...]]]:
        """Of the units, and their shapes in each leaf."""
        units = weights if single else [jax.eval_shape(structure.pool, w) for w in weights]
        layout = layout_of(units)
        shapes = [unit.shape for unit in units]
        return layout if structure.group_axes is None else layout._replace(packed=False), shapes

    single = structure == structures.unstructured()
    total = jnp.sum if scope == "global" else jnp.asarray

    def read(params: Params, masks: Masks, step: Any, memory: Memory) -> Any:
        """What scores get of the memory."""
        if measure is not None:
            return measure(params, masks, jnp.asarray(step), memory)
        return _for_scores(memory)

    def rank(score: Score, rows: list[tuple[Any, ...]], layout: Layout) -> Ranking:
        units = layout.pack([structure.pool(score(*row)) for row in rows])
        return layout, _as_given, [(x,) for x in units]

    def select(
        ranking: Ranking, amounts: Any, among: list[Any], groups: Any, outside: bool = False
    ) -> tuple[list[Array], Any]:
        """The masks, and how many units each has: like ``amounts``."""
        layout, score, rows = ranking
        if groups is None:
            options = {"layout": layout, "outside": outside, "together": scope == "global"}
            return masks_by_score(score, rows, amounts, among, **options)
        masks = []
        for (units,), k, candidates in zip(rows, amounts, among, strict=True):
            candidates = ~candidates if outside else candidates
            axes, local = groups(units.ndim), structure.local or one_device()
            masks.append(top_k_of_groups(units, k, candidates, axes, local))
        return masks, in_groups(masks, groups)

    def in_groups(masks: list[Array], groups: Any) -> list[Array]:
        return [counts(mask, axis=groups(mask.ndim))[0] for mask in masks]

    def count(kept: list[Array], layout: Layout) -> Any:
        """Units kept, in the form of ``amounts``."""
        if structure.group_axes is not None:
            return in_groups(kept, structure.group_axes)
        return total(layout.counts(kept)[0])

    def amounts(budget: list[Any]) -> Any:
        """One number a leaf: in a vector, where they are ranked in one search; or their sum."""
        return budget if structure.group_axes is not None else total(_vector(budget))

    def choose(key: chex.PRNGKey, params: Params, score: Score) -> Masks:
        leaves, number, tree = leaf_plan(params)
        arrays = tree.flatten_up_to(params)
        rows = [(_leaf_key(key, leaf), arrays[leaf.index], None, None, None) for leaf in leaves]
        budget = amounts(targets(leaves, sparsity, final, _BEFORE))
        layout, shapes = layout_for([row[1] for row in rows])
        ranked = rank(score, rows, layout)
        chosen, _ = select(ranked, budget, [None] * len(ranked[2]), structure.group_axes)
        chosen = layout.unpack(chosen, shapes)
        masks: list[Any] = [optax.MaskedNode()] * number
        for leaf, units in zip(leaves, chosen, strict=True):
            masks[leaf.index] = like(structure.expand(units, leaf.shape), arrays[leaf.index])
        chosen = jax.tree.unflatten(tree, masks)
        if (look := measure) is not None and leaves:
            first = lambda params, masks: look(params, masks, jnp.int32(0), start(masks, params))
            jax.eval_shape(first, params, chosen)
        return chosen

    def drop_units(
        ranked: Ranking, kept: list[Array], leaves: list[Leaf], budget: list[Any], step: Any
    ) -> tuple[list[Array], Any]:
        """The weights that stay: the budget less the swap, the best of each leaf."""
        if structure.group_axes is not None and callable(sparsity):
            kept, _ = select(ranked, budget, kept, structure.group_axes)
        stay = _vector([leaf.groups * k for leaf, k in zip(leaves, budget, strict=True)])
        if grow is not None:
            stay = stay - jnp.floor(evaluate(drop_fraction, step) * stay).astype(jnp.int32)
        if structure.group_axes is None:
            return select(ranked, total(stay), kept, None)
        if grow is not None:
            kept, _ = select(ranked, stay, kept, None)
        return kept, in_groups(kept, structure.group_axes)

    def keep_by_rule(
        rule: Score, rows: list[tuple[Any, ...]], kept: list[Array], layout: Layout
    ) -> tuple[list[Array], Any]:
        """Those that stay by a rule; a unit does with any of its weights."""
        staying = layout.pack([structure.pool(rule(*row)) > 0 for row in rows])
        kept = [a & b for a, b in zip(kept, staying, strict=True)]
        return kept, count(kept, layout)

    def grow_units(
        ranked: Ranking, kept: list[Array], held: Any, old: list[Array], budget: Any
    ) -> list[Array]:
        """Fill every group up to its budget."""

        def fill(new: list[Array], held: Any, taken: list[Array]) -> tuple[list[Array], Any]:
            need = jax.tree.map(jnp.subtract, budget, held)
            added, more = select(ranked, need, taken, structure.group_axes, outside=True)
            new = [a | b for a, b in zip(new, added, strict=True)]
            return new, jax.tree.map(jnp.add, held, more)

        if regrow_dropped:
            return fill(kept, held, kept)[0]
        new, held = fill(kept, held, old)
        return fill(new, held, new)[0]

    def move(
        key: chex.PRNGKey,
        masks: Masks,
        params: Params,
        grads: Params,
        step: Any,
        memory: Memory = (),
    ) -> tuple[Masks, UpdateInfo]:
        leaves, number, _ = leaf_plan(params)
        tree = jax.tree.structure(masks, is_leaf=is_dense)
        take = lambda xs: [tree.flatten_up_to(xs)[leaf.index] for leaf in leaves]
        weights, gradients, old = take(params), take(grads), take(masks)
        seen = read(params, masks, step, memory)
        memories = take(seen) if jax.tree.leaves(seen) else [None] * len(leaves)

        layout, shapes = layout_for(weights)
        whole = layout_of(weights)
        packed = [whole.pack(arrays) for arrays in (weights, gradients, old)]
        # Memory may have any shape: it is not packed.
        alike = single and not (layout.packed and jax.tree.leaves(seen))

        def rows_of(part: int, present: list[Array]) -> list[tuple[Any, ...]]:
            keys = [jax.random.fold_in(_leaf_key(key, leaf), part) for leaf in leaves]
            return list(zip(keys, weights, gradients, present, memories, strict=True))

        def ranking(score: Score, part: int, units: list[Array]) -> Ranking:
            if alike and scores.is_elementwise(score):
                # It has no use for a key, and every key is a loop to compile.
                none = [None] * len(units)
                columns = (*packed[:2], units, none if layout.packed else memories)
                rows = [(None, *row) for row in zip(*columns, strict=True)]
                # (Else the last pass might count other numbers than those that were searched.)
                if all(rounds_once(score, *row) for row in rows):
                    return layout, score, rows
            return rank(score, rows_of(part, in_weights(units)), layout)

        def in_weights(units: list[Array]) -> list[Array]:
            if single:
                return whole.unpack(units, [x.shape for x in weights])
            pairs = zip(layout.unpack(units, shapes), weights, strict=True)
            return [like(structure.expand(unit, w.shape), w) for unit, w in pairs]

        before = packed[2] if single else layout.pack([structure.pool(mask) > 0 for mask in old])
        budget, decisive = targets(leaves, sparsity, final, step), []
        if allocate is not None and structure.group_axes is None:
            budget = list(layout.counts(before)[0])
        if stays is not None:
            after, held = keep_by_rule(stays, rows_of(_DROP, old), before, layout)
        elif drop is None:
            after = [jnp.zeros_like(mask) for mask in before]
            held = jax.tree.map(jnp.zeros_like, count(after, layout))
        else:
            ranked = ranking(drop, _DROP, before)
            decisive += deciding(*ranked, before)
            after, held = drop_units(ranked, before, leaves, budget, step)
        budgets = amounts(budget)
        if allocate is not None:
            left = layout.unpack(after, shapes)
            sizes = [leaf.units for leaf in leaves]
            budgets = allocate(budgets, held, Rows(weights, gradients, left, memories, sizes))
            if structure.group_axes is not None and drop is not None:
                after, held = select(
                    ranking(drop, _DROP, after), budgets, after, structure.group_axes
                )
        if grow is not None:
            ranked = ranking(grow, _GROW, after)
            decisive += deciding(*ranked, after, outside=True)
            after = grow_units(ranked, after, held, before, budgets)
        if not single:
            after = whole.pack(in_weights(after))
        marks = zip(
            jax.tree.leaves(masks, is_leaf=is_dense), tree.flatten_up_to(grads), strict=True
        )
        finite = finite_numbers(
            [grad for mark, grad in marks if is_dense(mark)], *packed[:2], scores=decisive
        )
        after = [jnp.where(finite, new, mask) for new, mask in zip(after, packed[2], strict=True)]
        new: list[Any] = [optax.MaskedNode()] * number
        chosen = whole.unpack(after, [x.shape for x in weights])
        for leaf, mask, weight in zip(leaves, chosen, weights, strict=True):
            new[leaf.index] = like(mask, weight)
        return jax.tree.unflatten(tree, new), info_of(whole, packed[2], after, finite)

    def regrow(
        key: chex.PRNGKey, masks: Masks, params: Params, grads: Params, memory: Memory = ()
    ) -> Regrowth:
        seen = _for_scores(memory)
        seen = seen if jax.tree.leaves(seen) else map_masks(lambda mask: None, masks)

        def value(mask: Array, index: int, weight: Array, grad: Array, memory: Any) -> Any:
            if grown_values is None:
                return 0.0
            leaf_key = jax.random.fold_in(jax.random.fold_in(key, index), _VALUES)
            return grown_values(leaf_key, weight, grad, mask, memory)

        def slot(mask: Array, grad: Array) -> Any:
            del mask
            if isinstance(grown_slots, str):
                return 0.0 if grown_slots == "initial" else optax.MaskedNode()
            return grown_slots * grad

        return Regrowth(
            values=map_masks(value, masks, leaf_indices(masks), params, grads, seen),
            slots=map_masks(slot, masks, grads),
        )

    plain = grown_values is None and grown_slots == "initial"
    return MaskAlgorithm(
        init=lambda key, params: choose(key, params, scores.random),
        choose=choose,
        update=move,
        due=update,
        pauses=pauses,
        regrow=None if plain else regrow,
        start=start,
        remember=remember,
        dense_gradients=dense_gradients,
        backward=backward,
        dense_weights=dense_weights,
        trains=trains,
    )


def _leaf_key(key: chex.PRNGKey, leaf: Leaf) -> chex.PRNGKey:
    return jax.random.fold_in(key, leaf.index)


def _for_scores(memory: Memory) -> Memory:
    """What scores get of a memory; of one that is for the forward pass, nothing."""
    return () if isinstance(memory, Forward) else memory


def _as_given(units: Array) -> Array:
    return units


def _vector(numbers: list[Any]) -> Array:
    return (
        jnp.stack([jnp.asarray(n, jnp.int32) for n in numbers])
        if numbers
        else jnp.zeros(0, jnp.int32)
    )
