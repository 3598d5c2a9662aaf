"""The invariants of the design, over the whole registry; nothing here knows any method by name."""

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import ALGORITHMS, MaskAlgorithm, SparsityState, TrainState
from jaxsparse.base import remember_nothing

STEPS = 40
RATE = 0.125
INIT = 2**32 - 1  # the number of the step that draws the first masks


def build(name: str) -> MaskAlgorithm:
    factory, small, *_ = ALGORITHMS[name]
    return factory(**small)


def random_tree(seed: int, dtype: Any = np.float32) -> dict[str, Any]:
    """645 weights in three sparse layers, 32 in two dense leaves."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)
    return {
        "Conv_0": {"bias": draw(16), "kernel": draw(3, 3, 4, 8)},
        "Dense_0": {"kernel": draw(12, 16)},
        "Dense_1": {"kernel": draw(15, 11)},
        "LayerNorm_0": {"scale": draw(16)},
    }


@functools.cache
def gradients(stream: int = 0) -> list[dict[str, Any]]:
    return [random_tree(1000 * (stream + 1) + step) for step in range(STEPS)]


def clipped() -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2, weight_decay=1e-2))


@pytest.fixture(scope="module", autouse=True)
def quick_compilation() -> Iterator[None]:
    """The programs are tiny and many: compiling them is what costs."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module", params=ALGORITHMS)
def name(request: pytest.FixtureRequest) -> Iterator[str]:
    """A method; all its tests run one after another, and then its programs go.

    Every program holds mappings of memory, of which Linux gives a process 65,530.
    """
    yield request.param
    for cached in (stepper, plain, careful, run, due_steps, pure):
        cached.cache_clear()
    jax.clear_caches()


class Step:
    """A compiled training step that counts how often it was traced."""

    def __init__(self, inner: optax.GradientTransformation, method: MaskAlgorithm) -> None:
        self.tx, self.traces = jaxsparse.sparsify(inner, method), 0
        tx = self.tx

        def step(params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
            self.traces += 1
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        def init(params: Any, seed: Any) -> SparsityState:
            return jaxsparse.sparsify(inner, method, seed=seed).init(params)

        self.plain, self.compiled, self.init = step, jax.jit(step), jax.jit(init)


@functools.cache
def stepper(name: str) -> Step:
    return Step(clipped(), build(name))


@functools.cache
def plain(name: str) -> Step:
    """Plain SGD. The rate is a power of two: its products are exact, fused with a sum or not."""
    return Step(optax.sgd(RATE), build(name))


@functools.cache
def careful(name: str) -> Step:
    """An optimizer that skips bad steps; and slots that do not start at zero."""
    return Step(optax.apply_if_finite(optax.adagrad(0.1), 5), build(name))


class Run(NamedTuple):
    params: list[Any]
    states: list[SparsityState]


@functools.cache
def run(name: str, seed: int = 0, stream: int = 0) -> Run:
    """Parameters and states before the first step and after each of the 40."""
    params = random_tree(stream)
    state = stepper(name).init(params, seed)
    result = Run([params], [state])
    for grads in gradients(stream):
        params, state = stepper(name).compiled(params, state, grads)
        result.params.append(params)
        result.states.append(state)
    return result


@functools.cache
def due_steps(name: str) -> list[int]:
    due = build(name).due
    return [] if due is None else [step for step in range(STEPS) if due(step)]


@functools.cache
def pure(name: str) -> tuple[Any, Any]:
    """The algorithm's own functions, compiled; no optimizer anywhere."""
    return jax.jit(build(name).init), jax.jit(build(name).update)


def leaves(masks: Any, *trees: Any) -> list[tuple[Any, ...]]:
    """The leaves that have a mask, as NumPy arrays."""
    marks, structure = jax.tree.flatten(
        masks, is_leaf=lambda node: isinstance(node, optax.MaskedNode)
    )
    rows = zip(marks, *[structure.flatten_up_to(tree) for tree in trees], strict=True)
    return [tuple(map(np.asarray, row)) for row in rows if not isinstance(row[0], optax.MaskedNode)]


def kept(masks: Any) -> int:
    """Kept weights of the layers that may be sparse; one without a mask keeps all."""
    chosen = jax.tree_util.tree_map_with_path(
        lambda path, leaf, mask: (
            0
            if not jaxsparse.default_where(jax.tree_util.keystr(path), leaf)
            else leaf.size
            if isinstance(mask, optax.MaskedNode)
            else int(np.sum(mask))
        ),
        random_tree(0),
        masks,
    )
    return sum(jax.tree.leaves(chosen))


def off_mask(params: Any, state: Any) -> int:
    """Weights of the network, as it is used later, that are not zero off the mask."""
    weights = jaxsparse.forward_params(params, state, training=False)
    masks = jaxsparse.masks_of(state)
    return sum(int(np.sum((weight != 0) & ~mask)) for mask, weight in leaves(masks, weights))


def planned(name: str) -> bool:
    """Do counts follow from shapes and the step alone?"""
    return not build(name).learned


def same(first: Any, second: Any) -> bool:
    assert jax.tree.structure(first) == jax.tree.structure(second)
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def signature(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.result_type(leaf)), tree)


# --- 1, 2, 3: zeros, counts, masks ---------------------------------------------------------------


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


# --- 4: state alone drives drop and grow ---------------------------------------------------------


def test_unknown_extra_arguments_change_nothing(name: str) -> None:
    update, args = stepper(name).tx.update, (gradients()[0], run(name).states[0], random_tree(0))
    plain = jax.make_jaxpr(update)(*args)
    more = jax.make_jaxpr(lambda *args: update(*args, value=1.0, nobody="knows"))(*args)
    assert str(more) == str(plain)


def test_train_state_and_multi_steps_around_it(name: str) -> None:
    """Two half batches a step: the masks of whole steps, with no argument but the gradients."""
    tx = optax.MultiSteps(stepper(name).tx, 2).gradient_transformation()
    create = lambda params: TrainState.create(apply_fn=print, params=params, tx=tx)
    state = jax.jit(create)(random_tree(0))
    assert off_mask(state.params, state) == 0
    apply = jax.jit(lambda state, grads: state.apply_gradients(grads=grads))
    for step, grads in enumerate(gradients()[:12]):
        for _ in range(2):
            state = apply(state, grads)
            assert off_mask(state.params, state) == 0
        assert same(state.sparsity_info.updates, run(name).states[step + 1].info.updates)
        assert kept(state.masks) == kept(run(name).states[step + 1].masks) or not planned(name)
    assert int(state.step) == 24
    assert same(state.forward_params, jaxsparse.forward_params(state.params, state.opt_state))


def test_the_wrapper_is_the_algorithm_and_nothing_else(name: str) -> None:
    """By hand, from the pure functions: drop and grow, train, and zeros; SGD and no wrapper."""
    method = build(name)
    step, params, weights = plain(name), random_tree(0), random_tree(0)
    state, key = step.init(params, 3), jax.random.key(3)
    masks, memory = jax.jit(functools.partial(_first_by_hand, method))(key, weights)
    assert same(masks, state.masks)
    by_hand = jax.jit(functools.partial(_step_by_hand, method))
    for number, grads in enumerate(gradients()[:12]):
        params, state = step.compiled(params, state, grads)
        due, idle = number in due_steps(name), bool(method.pauses(number))
        weights, masks, memory, kept = by_hand(
            key, weights, masks, memory, grads, jnp.int32(number), due, due and idle
        )
        assert same(masks, state.masks)
        if due:
            assert same(kept, state.info.kept)
        for mine, its in zip(jax.tree.leaves(weights), jax.tree.leaves(params), strict=True):
            np.testing.assert_allclose(mine, its, rtol=1e-5, atol=1e-6)


def _first_by_hand(method: MaskAlgorithm, key: Any, weights: Any) -> Any:
    first = jax.random.fold_in(key, jnp.uint32(INIT))
    masks = method.init(first, weights)
    memory = method.start(masks, weights)
    if not method.dense_weights:
        return masks, memory
    masks, _ = method.update(first, masks, weights, weights, jnp.int32(-1), memory)
    return masks, method.start(masks, weights)


def _step_by_hand(
    method: MaskAlgorithm,
    key: Any,
    weights: Any,
    masks: Any,
    memory: Any,
    grads: Any,
    number: Any,
    due: Any,
    idle: Any,
) -> Any:
    """One step; masks move if it is due, weights train unless it is idle."""
    choose = lambda flag, new, old: jax.tree.map(functools.partial(jnp.where, flag), new, old)
    now = jax.random.fold_in(key, number)
    memory = method.remember(memory, masks, weights, grads, number)
    given = grads
    if method.backward is not None:
        given, memory = method.backward(now, masks, weights, grads, number, memory)
    # Of what is absent, nothing is trained.
    trained = jax.tree.map(lambda w, g: w - jnp.float32(RATE) * g, weights, given)
    trained = choose(idle, weights, trained)
    # Masks over dense weights are chosen from what training made of them.
    ranked = trained if method.dense_weights else weights
    moved, info = method.update(now, masks, ranked, grads, number, memory)
    moved = choose(due, moved, masks)
    if not method.dense_weights:
        trained = jaxsparse.apply_masks(jaxsparse.apply_masks(trained, masks), moved)
        if method.regrow:
            values = method.regrow(now, masks, weights, grads, memory).values
            trained = choose(due, grown_from(trained, masks, moved, values), trained)
    return trained, moved, memory, info.kept


def grown_from(weights: Any, before: Any, masks: Any, values: Any) -> Any:
    """What has just grown starts at these values."""
    dense = lambda node: isinstance(node, optax.MaskedNode)

    def one(mask: Any, old: Any, weight: Any, value: Any) -> Any:
        return weight if dense(mask) else jnp.where(mask & ~old, value, weight)

    return jax.tree.map(one, masks, before, weights, values, is_leaf=dense)


# --- 5: randomness -------------------------------------------------------------------------------


def test_the_seed_decides_where_a_method_draws_and_only_there(name: str) -> None:
    (init, update), params = pure(name), twins()
    first, second = (jax.random.key(seed) for seed in (11, 12))
    masks = init(first, params)
    memory = build(name).start(masks, params)
    args = (masks, params, params, next(iter(due_steps(name)), 0), memory)
    draws = not same(update(first, *args)[0], update(second, *args)[0])
    if build(name).learned or not build(name).dense_weights:
        # (Else the first masks are one update from these.)
        draws = draws or not same(masks, init(second, params))
    assert same(masks, init(first, params))
    assert same(update(first, *args)[0], update(first, *args)[0])

    def trajectory(seed: int) -> list[Any]:
        state = stepper(name).init(random_tree(0), seed)
        weights, masks = random_tree(0), [state.masks]
        for grads in gradients()[:12]:
            weights, state = stepper(name).compiled(weights, state, grads)
            masks.append(state.masks)
        return masks

    assert same(trajectory(0), [state.masks for state in run(name).states[:13]])
    # Noise of the forward pass may move what is learned, too.
    assert same(trajectory(0), trajectory(1)) != draws or build(name).learned


def test_equal_leaves_draw_apart(name: str) -> None:
    """The leaf's index is part of the randomness: twins do not share their masks."""
    (init, update), keys = pure(name), [jax.random.key(seed) for seed in (1, 2)]
    params = twins()
    masks = [init(key, params) for key in keys]
    if not same(*masks):
        assert not same(masks[0]["a"], masks[0]["b"])
    alike = jax.tree.map(lambda mask: masks[0]["a"], masks[0])
    at = next(iter(due_steps(name)), 0)
    memory = build(name).start(alike, params)
    moved = [update(key, alike, params, params, at, memory)[0] for key in keys]
    if not same(*moved):
        assert not same(moved[0]["a"], moved[0]["b"])
    assert all(kept_in(after) == kept_in(moved[0]) for after in moved)


def twins() -> dict[str, Any]:
    kernel = random_tree(0)["Dense_0"]["kernel"]
    return {"a": kernel, "b": kernel}


def kept_in(masks: Any) -> int:
    return sum(int(mask.sum()) for mask in jax.tree.leaves(masks))


# --- 6: grown weights ----------------------------------------------------------------------------


def test_grown_weights_start_at_zero_with_the_optimizers_own_slots(name: str) -> None:
    """Adagrad starts at 0.1, which a blind zero would miss."""
    if build(name).dense_weights:
        return  # nothing starts: absent weights are trained like the others
    step, params = careful(name), random_tree(0)
    state = step.init(params, 0)
    grown = 0
    for grads in gradients():
        before = state.masks
        params, state = step.compiled(params, state, grads)
        slots = state.inner_state.inner_state[0].sum_of_squares
        for new, old, weight, slot in leaves(state.masks, before, params, slots):
            came = new & ~old
            grown += int(came.sum())
            assert (weight[came] == 0).all() or build(name).regrow
            assert (slot[came] == np.float32(0.1)).all()
            assert off_mask(params, state) == 0
        reported = int(state.info.grown)
    # A method that never grows has nothing to reset, and says so.
    assert (grown > 0) == any(int(s.info.grown) for s in run(name).states)
    assert reported <= grown


# --- 7: numbers that are not finite --------------------------------------------------------------


def _poison(grads: Any, masks: Any, where: str) -> Any:
    """NaN in all sparse layers, inf at one weight of a dense leaf, or -inf at an absent weight."""
    grads = jax.tree.map(np.array, grads)
    if where == "dense":
        grads["Conv_0"]["bias"][3] = np.inf
    elif where == "kept":
        for part in ("Conv_0", "Dense_0", "Dense_1"):
            grads[part]["kernel"].flat[0] = np.nan
    else:
        mask = masks["Dense_0"]["kernel"]
        mask = np.ones((12, 16), bool) if isinstance(mask, optax.MaskedNode) else np.array(mask)
        grads["Dense_0"]["kernel"].flat[np.argmin(mask)] = -np.inf
    return jax.tree.map(jnp.asarray, grads)


def test_a_gradient_that_is_not_finite_never_touches_the_masks(name: str) -> None:
    step = careful(name)
    for where in ("kept", "absent", "dense"):
        _one_bad_gradient(name, step, where)
    assert step.traces == 1


def _one_bad_gradient(name: str, step: Step, where: str) -> None:
    due, params = due_steps(name), random_tree(0)
    bad, state = next(iter(due), 2), step.init(params, 0)
    for number, grads in enumerate(gradients()[:16]):
        before, was = state.masks, params
        if number == bad:
            grads = _poison(grads, before, where)
        params, state = step.compiled(params, state, grads)
        missed = int(bad in due and number >= bad)
        assert int(state.info.skipped) == missed
        assert int(state.info.updates) == sum(number >= n for n in due) - missed
        assert off_mask(params, state) == 0
        if number == bad:
            assert same(state.masks, before)
        elif number in due and planned(name):  # the next one makes good for what was missed
            assert kept(state.masks) == kept(run(name).states[number + 1].masks)
        if number > bad:
            assert not same(params, was)  # training goes on
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


# --- 8: one compilation, no callback -------------------------------------------------------------


def test_nothing_is_traced_twice(name: str) -> None:
    run(name)
    run(name, seed=7, stream=1)
    assert stepper(name).traces == 1


def test_no_host_callback_and_no_effect(name: str) -> None:
    result, tx = run(name), stepper(name).tx
    jaxpr = jax.make_jaxpr(tx.update)(gradients()[0], result.states[0], result.params[0])
    assert not jaxpr.effects
    assert "callback" not in str(jaxpr)
    assert "callback" not in str(jax.make_jaxpr(tx.init)(result.params[0]))


def test_vmap_over_seeds_is_the_loop_and_still_updates_only_when_due(name: str) -> None:
    method, params = build(name), random_tree(0)
    step = plain(name)
    init = lambda seed: step.init(params, seed)
    axes = jaxsparse.vmap_axes(jax.eval_shape(init, 0))
    states = jax.jit(jax.vmap(init, out_axes=axes))(jnp.arange(3))
    weights = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), params)
    many = jax.jit(jax.vmap(step.plain, in_axes=(0, axes, None), out_axes=(0, axes)))
    text = many.lower(weights, states, gradients()[0]).compile().as_text()
    # All of drop and grow is in a loop of one pass or none, at the top of the program.
    entry = text[text.index("ENTRY") :]
    if method.remember is remember_nothing and method.backward is None:
        assert entry.count(" while(") == (method.due is not None)
    singles = [(params, init(seed)) for seed in range(3)]
    for grads in gradients()[:12]:
        weights, states = many(weights, states, grads)
        singles = [step.compiled(*single, grads) for single in singles]
    assert states.sparse_step.shape == ()
    for seed, single in enumerate(singles):
        mine = jax.tree.map(
            lambda leaf, axis, i=seed: leaf if axis is None else leaf[i],
            (weights, states),
            (jax.tree.map(lambda _: 0, weights), axes),
            is_leaf=lambda node: node is None,
        )
        if planned(name):
            assert same(mine, single)
            continue
        # exp and log are rounded otherwise under vmap; masks are not.
        assert same(mine[1].masks, single[1].masks)
        for ours, theirs in zip(jax.tree.leaves(mine), jax.tree.leaves(single), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


# --- 10: abstract and empty trees ----------------------------------------------------------------


def test_init_on_abstract_arrays_and_under_transformations(name: str) -> None:
    method, params, tx = build(name), random_tree(0), stepper(name).tx
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    both = jax.jit(lambda key, params: (method.init(key, abstract), method.init(key, params)))
    assert same(*both(jax.random.key(0), params))
    assert signature(jax.eval_shape(tx.init, abstract)) == signature(run(name).states[0])


def test_init_on_a_tree_without_leaves(name: str) -> None:
    tx = stepper(name).tx
    for empty in ({}, (), [], {"a": {}, "b": None}, optax.MaskedNode()):
        state = tx.init(empty)
        assert jax.tree.leaves(state.masks) == []
        updates, state = tx.update(empty, state, empty)
        assert jax.tree.leaves(updates) == []
    slots = optax.tree_map_params(tx, lambda slot: None, run(name).states[0])
    assert jax.tree.leaves(slots.masks) == []


# --- a soak --------------------------------------------------------------------------------------


def test_hostile_gradients_for_300_steps_and_scan_is_the_loop(name: str) -> None:
    """Zeros, equal, huge, tiny and alternating gradients: checked at each step, inside the scan."""
    step, params = plain(name), random_tree(0)
    usual = [kept(state.masks) for state in run(name).states]
    kinds: list[Callable[[Any, Any], Any]] = [
        lambda w, sign: jnp.zeros_like(w),
        lambda w, sign: jnp.ones_like(w),
        lambda w, sign: jnp.full_like(w, 1e30) * sign,
        lambda w, sign: jnp.full_like(w, 1e-40),
        lambda w, sign: w,
        lambda w, sign: jnp.where(w == 0, sign, -sign),
    ]

    def hostile(params: Any, number: Any) -> Any:
        sign = jnp.where(number % 2 == 0, 1.0, -1.0)
        kind = (number * 7) % 11 % len(kinds)
        return jax.tree.map(lambda w: jax.lax.switch(kind, kinds, w, sign), params)

    def body(carry: Any, number: Any) -> tuple[Any, Any]:
        params, state = step.plain(*carry, hostile(carry[0], number))
        forward = jaxsparse.forward_params(params, state, training=False)
        off = [
            jnp.sum(~mask & (weight != 0)) for mask, weight in _traced_leaves(state.masks, forward)
        ]
        return (params, state), (sum(off, jnp.int32(0)), state.info, state.masks)

    soak = jax.jit(lambda carry: jax.lax.scan(body, carry, jnp.arange(300)))
    start = (params, step.init(params, 5))
    (_, state), (off, info, masks) = soak(start)
    assert not np.any(off)
    per_step = np.asarray(info.kept).sum(1)
    whole = kept(state.masks) - per_step[-1]
    expected = np.array([*usual[1:], *[usual[-1]] * 300][:300])
    assert np.array_equal(per_step + whole, expected) or not planned(name)
    due = build(name).due
    assert int(state.info.updates) == (0 if due is None else int(np.sum(due(jnp.arange(300)))))
    assert int(state.info.skipped) == 0

    given, loop = jax.jit(hostile), start
    for number in range(24):
        loop = step.compiled(*loop, given(loop[0], number))
        assert same(jax.tree.map(lambda m, i=number: m[i], masks), loop[1].masks)
        assert same(jax.tree.map(lambda m, i=number: m[i], info), loop[1].info)


def _traced_leaves(masks: Any, params: Any) -> list[tuple[Any, Any]]:
    marks, structure = jax.tree.flatten(
        masks, is_leaf=lambda node: isinstance(node, optax.MaskedNode)
    )
    rows = zip(marks, structure.flatten_up_to(params), strict=True)
    return [row for row in rows if not isinstance(row[0], optax.MaskedNode)]
