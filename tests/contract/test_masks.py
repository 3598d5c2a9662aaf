"""Invariants 1 to 3 of the design: exact zeros, exact counts, masks and what is said of them."""

import itertools
import math
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxsparse
from jaxsparse import ALGORITHMS
from tests.contract.methods import (
    Step,
    build,
    due_steps,
    gradients,
    kept,
    leaves,
    off_mask,
    planned,
    random_tree,
    run,
    same,
    signature,
    stepper,
)


def test_exact_zeros_after_every_update(name: str) -> None:
    result = run(name)
    for params, state in zip(result.params[1:], result.states[1:], strict=True):
        assert off_mask(params, state) == 0
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


def test_the_last_count_is_the_budget_of_shapes_and_sparsity(name: str) -> None:
    size = kept(jax.tree.map(lambda leaf: optax.MaskedNode(), random_tree(0)))
    if not planned(name):
        assert 0 < kept(run(name).states[-1].masks) <= size
        return
    sparsity = Fraction(str(ALGORITHMS[name].small.get("sparsity", 0)))
    assert kept(run(name).states[-1].masks) == size - math.floor(sparsity * size)


def test_counts_depend_on_shapes_and_step_alone(name: str) -> None:
    """Other weights, gradients and seeds: the same counts at every step, with equal scores too."""
    if not planned(name):
        return
    counts = [kept(state.masks) for state in run(name).states]
    assert counts == [kept(state.masks) for state in run(name, seed=7, stream=1).states]
    params = jax.tree.map(jnp.ones_like, random_tree(0))
    state = stepper(name).init(params, 0)
    for count in counts[1:]:
        params, state = stepper(name).compiled(params, state, jax.tree.map(jnp.ones_like, params))
        assert kept(state.masks) == count


def test_info_reports_what_happened(name: str) -> None:
    states, due = run(name).states, due_steps(name)
    for step, (before, after) in enumerate(itertools.pairwise(states)):
        info = after.info
        counted = [int(mask.sum()) for (mask,) in leaves(after.masks)]
        assert info.kept.tolist() == (counted or [0])
        # orbax saves no empty arrays.
        assert all(map(jnp.size, jax.tree.leaves(after)))
        assert int(info.updates) == sum(step >= n for n in due)
        assert int(info.skipped) == 0
        assert int(after.sparse_step) == step + 1
        pairs = leaves(after.masks, before.masks)
        dropped = sum(int((old & ~new).sum()) for new, old in pairs)
        grown = sum(int((new & ~old).sum()) for new, old in pairs)
        assert kept(after.masks) == kept(before.masks) - dropped + grown
        if step in due:
            assert (int(info.dropped), int(info.grown)) == (dropped, grown)
        else:
            assert same(before.masks, after.masks)
            assert same(before.info, info)


def test_masks_are_bool_of_full_shape_or_absent(name: str) -> None:
    for state in run(name).states:
        rows = jax.tree.map(
            lambda leaf, mask: (
                isinstance(mask, optax.MaskedNode)
                or (mask.shape == leaf.shape and mask.dtype == bool and isinstance(mask, jax.Array))
            ),
            random_tree(0),
            state.masks,
        )
        assert all(jax.tree.leaves(rows))
        for path in ("Conv_0", "bias"), ("LayerNorm_0", "scale"):
            assert state.masks[path[0]][path[1]] == optax.MaskedNode()


def test_types_and_structure_are_stable(name: str) -> None:
    result = run(name)
    for tree in (result.params, result.states):
        kinds = [jax.tree.map(jax.typeof, one) for one in tree]
        assert all(kind == kinds[0] for kind in kinds)
        assert not any(leaf.weak_type for leaf in jax.tree.leaves(kinds[-1]))


def test_forward_params_is_the_identity_unless_weights_stay_dense(name: str) -> None:
    result = run(name)
    params, state = result.params[-1], result.states[-1]
    for training in True, False:
        forward = jaxsparse.forward_params(params, state, training=training)
        assert signature(forward) == signature(params)
        assert same(forward, params) != build(name).dense_weights
        # What has no mask is nobody's business.
        assert same(forward["LayerNorm_0"], params["LayerNorm_0"])
    # What training starts from has, behind the forward pass, the weights that were initialized.
    weights, first = random_tree(0), result.states[0]
    start = jaxsparse.initial_params(weights, first)
    if build(name).dense_weights:
        seen = jaxsparse.forward_params(start, first, training=False)
        for mask, ours, theirs in leaves(first.masks, seen, weights):
            if not build(name).learned:
                np.testing.assert_allclose(ours, np.where(mask, theirs, 0), rtol=1e-5)
    else:
        assert same(start, jaxsparse.apply_masks(weights, first.masks))


def test_mixed_precision(name: str) -> None:
    """Zeros are exact and dtypes stay, also with gradients narrower than the weights."""
    weights = {"Conv_0": "bfloat16", "Dense_0": "float32", "Dense_1": "float16"}
    slopes = {"Conv_0": "bfloat16", "Dense_0": "bfloat16", "Dense_1": "float16"}

    def cast(tree: Any, dtypes: Any) -> Any:
        return {
            part: jax.tree.map(lambda x, part=part: x.astype(dtypes.get(part, "float32")), leaves)
            for part, leaves in tree.items()
        }

    step, params = Step(optax.sgd(0.1), build(name)), cast(random_tree(0), weights)
    state = step.init(params, 0)
    first = signature((params, state))
    for reference, grads in zip(run(name).states[1:12], gradients(), strict=False):
        params, state = step.compiled(params, state, cast(grads, slopes))
        assert off_mask(params, state) == 0
        assert kept(state.masks) == kept(reference.masks) or not planned(name)
        assert signature((params, state)) == first
