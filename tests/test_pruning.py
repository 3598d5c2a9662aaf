"""Iterative pruning: counts and masks worked out by hand, controls, and rounds that go on."""

import functools
import inspect
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jaxsparse
from jaxsparse import scores
from jaxsparse.pruning import (
    Round,
    _share,
    fixed,
    iterative_pruning,
    keep_all,
    prune_remaining,
    random_masks_like,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

LENET = {
    f"Dense_{i}": {"kernel": shape, "bias": shape[1:]}
    for i, shape in enumerate([(784, 300), (300, 100), (100, 10)])
}
# Rounds -> weights left in percent: Frankle & Carbin (2019), LeNet-300-100.
SCHEDULE = {0: 100, 1: 80.0, 2: 64.1, 3: 51.3, 7: 21.1, 9: 13.5, 12: 7.0, 15: 3.6, 16: 2.9}

half = functools.partial(prune_remaining, fraction=0.5)


def lenet(key: jax.Array) -> Any:
    keys = jax.random.split(key, 6)
    paths = [(layer, leaf) for layer in LENET for leaf in LENET[layer]]
    params: dict[str, Any] = {layer: {} for layer in LENET}
    for k, (layer, leaf) in zip(keys, paths, strict=True):
        params[layer][leaf] = jax.random.normal(k, LENET[layer][leaf])
    return params


def kept(masks: Any) -> list[int]:
    return [int(mask.sum()) for mask in jax.tree.leaves(masks)]


def flags(mask: Any) -> list[int]:
    return np.asarray(mask).astype(int).ravel().tolist()


def test_a_layer_by_hand() -> None:
    params = {"w": jnp.array([[4.0, -3.0, 0.5, 2.0, -1.0], [6.0, 0.1, -7.0, 1.5, 0.2]])}
    # floor(0.3 * 10) = 3: the least are 0.1, 0.2 and 0.5.
    first = prune_remaining(params, keep_all(params), 0.3)
    assert flags(first["w"]) == [1, 1, 0, 1, 1, 1, 0, 1, 1, 0]
    # floor(0.3 * 7) = 2: of 4, 3, 2, 1, 6, 7, 1.5 the least are 1 and 1.5.
    second = prune_remaining(params, first, 0.3)
    assert flags(second["w"]) == [1, 1, 0, 1, 0, 1, 0, 1, 0, 0]
    # floor(0.3 * 5) = 1: 2 goes. Then floor(0.3 * 4) = 1: 3 goes; floor(0.3 * 3) = 0.
    third = prune_remaining(params, second, 0.3)
    fourth = prune_remaining(params, third, 0.3)
    assert flags(third["w"]) == [1, 1, 0, 0, 0, 1, 0, 1, 0, 0]
    assert flags(fourth["w"]) == [1, 0, 0, 0, 0, 1, 0, 1, 0, 0]
    np.testing.assert_array_equal(prune_remaining(params, fourth, 0.3)["w"], fourth["w"])


def test_what_is_gone_stays_gone() -> None:
    # The largest weight was pruned before: neither kept again nor counted.
    params = {"w": jnp.array([[9.0, 1.0, 2.0, 3.0, 4.0]])}
    masks = {"w": jnp.array([[False, True, True, True, True]])}
    assert flags(half(params, masks)["w"]) == [0, 0, 0, 1, 1]


def test_layers_by_hand() -> None:
    params = {
        "a": jnp.array([[1.0, 2.0, 3.0, 4.0]]),
        "b": jnp.array([[10.0, 20.0, 30.0, 40.0]]),
        "bias": jnp.array([0.1]),
    }
    masks = keep_all(params)
    assert masks["bias"] == optax.MaskedNode()
    by_layer = half(params, masks)
    assert (flags(by_layer["a"]), flags(by_layer["b"])) == ([0, 0, 1, 1], [0, 0, 1, 1])
    # Half of eight: all of a goes.
    competing = half(params, masks, scope="global")
    assert (flags(competing["a"]), flags(competing["b"])) == ([0, 0, 0, 0], [1, 1, 1, 1])
    # b by its own rate: floor(0.25 * 4) = 1.
    ruled = half(params, masks, rules={"b": 0.25})
    assert (flags(ruled["a"]), flags(ruled["b"])) == ([0, 0, 1, 1], [0, 1, 1, 1])
    assert by_layer["bias"] == competing["bias"] == ruled["bias"] == optax.MaskedNode()


def test_the_densities_of_the_paper(key: jax.Array) -> None:
    params = lenet(key)
    prune = functools.partial(prune_remaining, fraction=0.2, rules={"Dense_2/*": 0.1})
    masks, sizes, found = keep_all(params), [235_200, 30_000, 1_000], {}
    left = list(sizes)
    for number in range(17):
        assert kept(masks) == left
        found[number] = 100 * sum(left) / sum(sizes)
        # In whole numbers: k - floor(k / 5), and k - floor(k / 10) in the output layer.
        left = [k - k // part for k, part in zip(left, (5, 5, 10), strict=True)]
        masks = prune(params, masks)
    assert {number: round(found[number], 1) for number in SCHEDULE} == SCHEDULE


@hypothesis.given(
    count=st.integers(0, 2**31 - 1) | st.integers(0, 1000),
    digits=st.integers(0, 10**9 - 1) | st.sampled_from([1, 2 * 10**8, 10**8, 333_333_333]),
)
def test_counts_are_exact(count: int, digits: int) -> None:
    share = Fraction(digits, 10**9)
    numbers = [np.array([n], np.uint32) for n in (share.numerator, share.denominator)]
    found = _share(jnp.array([count], jnp.int32), *numbers)
    assert int(found[0]) == count * share.numerator // share.denominator


@pytest.mark.parametrize("fraction", [0.0, 1e-5, 0.1, 0.2, 1 / 3, 0.5, 0.999])
def test_the_fraction_is_the_decimal_that_was_typed(fraction: float, key: jax.Array) -> None:
    params = {"w": jax.random.normal(key, (100, 99))}
    masks = prune_remaining(params, keep_all(params), fraction)
    share = Fraction(repr(fraction)).limit_denominator(2**30)
    assert kept(masks) == [9900 - 9900 * share.numerator // share.denominator]


def test_against_sorting(key: jax.Array) -> None:
    weight = np.asarray(jax.random.normal(key, (40, 30)))
    mask = np.asarray(jax.random.bernoulli(jax.random.fold_in(key, 1), 0.4, weight.shape))
    found = prune_remaining({"w": jnp.asarray(weight)}, {"w": jnp.asarray(mask)}, 0.35)["w"]
    left = np.sort(np.abs(weight[mask]))
    gone = 35 * len(left) // 100
    np.testing.assert_array_equal(found, mask & (np.abs(weight) >= left[gone]))


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("value", [0.0, 1.0, np.nan, np.inf])
def test_ties_never_change_a_count(scope: Any, value: float) -> None:
    params = {"a": jnp.full((7, 3), value), "b": jnp.full((5, 2), value)}
    masks = {"a": jnp.arange(21).reshape(7, 3) % 3 > 0, "b": jnp.ones((5, 2), bool)}
    found = prune_remaining(params, masks, 0.3, scope=scope)
    # 14 and 10 are left: floor(4.2) = 4 and floor(3) = 3 go; of 24 together floor(7.2) = 7.
    if scope == "layer":
        assert kept(found) == [10, 7]
    assert sum(kept(found)) == 17
    for new, old in zip(jax.tree.leaves(found), jax.tree.leaves(masks), strict=True):
        assert not (new & ~old).any()


def test_what_is_no_number_goes_first() -> None:
    params = {"w": jnp.array([[1.0, jnp.nan, 2.0, -jnp.inf]])}
    assert flags(prune_remaining(params, keep_all(params), 0.25)["w"]) == [1, 0, 1, 1]


def test_other_scores(key: jax.Array) -> None:
    params = {"w": jnp.array([[3.0, -1.0, 2.0, -4.0]])}
    signed = lambda key, weight, grad, mask, memory: weight
    assert flags(half(params, keep_all(params), score=signed)["w"]) == [1, 0, 1, 0]
    wide = {"w": jnp.ones((20, 20))}
    drawn = [half(wide, keep_all(wide), score=scores.random, key=k) for k in jax.random.split(key)]
    assert kept(drawn[0]) == kept(drawn[1]) == [200]
    assert not np.array_equal(drawn[0]["w"], drawn[1]["w"])


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_under_vmap_as_in_a_loop(scope: Any, key: jax.Array) -> None:
    params = {"w": jax.random.normal(key, (3, 6, 5)), "v": 2 * jax.random.normal(key, (3, 5, 4))}
    prune = functools.partial(prune_remaining, fraction=0.3, scope=scope)
    masks = jax.tree.map(lambda w: w > -1, params)
    together = jax.jit(jax.vmap(prune))(params, masks)
    for seed in range(3):
        alone = prune(*jax.tree.map(lambda x, s=seed: x[s], (params, masks)))
        jax.tree.map(lambda a, b, s=seed: np.testing.assert_array_equal(a[s], b), together, alone)


def test_a_seed_axis_makes_no_bias_a_matrix(key: jax.Array) -> None:
    params = {"kernel": jnp.zeros((3, 6, 5)), "bias": jnp.zeros((3, 5))}
    masks = jax.vmap(keep_all)(params)
    assert masks["bias"] == optax.MaskedNode()
    assert masks["kernel"].shape == (3, 6, 5)


def test_seeds_with_different_counts() -> None:
    # Counts are traced: under global pruning each seed has its own in each layer.
    params = {"w": jnp.array([[[1.0, 2.0, 3.0, 4.0]], [[1.0, 2.0, 3.0, 4.0]]])}
    masks = {"w": jnp.array([[[True] * 4], [[True, True, False, False]]])}
    found = jax.vmap(half)(params, masks)
    assert flags(found["w"]) == [0, 0, 1, 1, 0, 1, 0, 0]


def test_masks_lie_where_the_weights_lie(key: jax.Array) -> None:
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    weight = jax.random.normal(key, (64, 40))
    alone = half({"w": weight}, {"w": jnp.ones((64, 40), bool)})
    controls = random_masks_like(key, alone)
    place = NamedSharding(mesh, P("data"))
    with jax.set_mesh(mesh):
        params = {"w": jax.device_put(weight, place)}
        masks = keep_all(params)
        assert masks["w"].sharding.is_equivalent_to(place, 2)
        for prune in (half, jax.jit(half)):
            found = prune(params, masks)
            assert found["w"].sharding.is_equivalent_to(place, 2)
            np.testing.assert_array_equal(found["w"], alone["w"])
            drawn = random_masks_like(key, found)
            assert drawn["w"].sharding.is_equivalent_to(place, 2)
            np.testing.assert_array_equal(drawn["w"], controls["w"])


def test_random_masks_have_the_counts_and_other_places(key: jax.Array) -> None:
    params = lenet(key)
    masks = prune_remaining(params, keep_all(params), 0.8)
    control = random_masks_like(key, masks)
    assert kept(control) == kept(masks) == [47_040, 6_000, 200]
    assert jax.tree.structure(control) == jax.tree.structure(masks)
    # A random mask shares a fifth of its places with any other of that size.
    shared = (control["Dense_0"]["kernel"] & masks["Dense_0"]["kernel"]).sum() / 47_040
    assert 0.19 < float(shared) < 0.21
    again = random_masks_like(key, masks)
    jax.tree.map(np.testing.assert_array_equal, control, again)
    other = random_masks_like(jax.random.fold_in(key, 1), masks)
    assert not np.array_equal(control["Dense_2"]["kernel"], other["Dense_2"]["kernel"])


def test_random_masks_are_uniform(key: jax.Array) -> None:
    masks = {"a": jnp.array([True, False, False, False]), "b": jnp.array([True, True, False])}
    drawn = jax.vmap(random_masks_like, (0, None))(jax.random.split(key, 3000), masks)
    assert (drawn["a"].sum(1) == 1).all()
    assert (drawn["b"].sum(1) == 2).all()
    # Four standard errors of a share of 1/4, and of 2/3, of 3000 draws: 0.032 and 0.034.
    np.testing.assert_allclose(drawn["a"].mean(0), 0.25, atol=0.034)
    np.testing.assert_allclose(drawn["b"].mean(0), 2 / 3, atol=0.036)


@jax.jit
def learn(params: Any, masks: Any) -> tuple[Any, Any]:
    """Three steps under these masks."""
    return steps_of(fixed(masks), params)


def steps_of(algorithm: jaxsparse.MaskAlgorithm, params: Any) -> tuple[Any, Any]:
    tx = jaxsparse.sparsify(optax.sgd(0.1, momentum=0.9), algorithm)
    state = tx.init(params)
    for i in range(3):
        grads = jax.tree.map(lambda w, i=i: jnp.sin(w + i), params)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def small(key: jax.Array, *lead: int) -> Any:
    draw = lambda i, *shape: jax.random.normal(jax.random.fold_in(key, i), (*lead, *shape))
    return {"w": draw(0, 6, 5), "head": draw(1, 5, 4), "bias": draw(2, 5)}


def test_fixed_masks_never_move(key: jax.Array) -> None:
    params = small(key)
    masks = half(params, keep_all(params))
    trained, state = learn(params, masks)
    for name in ("w", "head"):
        np.testing.assert_array_equal(state.masks[name], masks[name])
        np.testing.assert_array_equal(trained[name] != 0, masks[name])
    assert not np.array_equal(trained["bias"], params["bias"])
    assert state.info.kept.tolist() == [10, 15]
    assert int(state.info.updates) == 0
    by_hand, info = fixed(masks).update(key, masks, params, params, 0)
    assert by_hand is masks
    assert (int(info.dropped), int(info.grown)) == (0, 0)


def test_fixed_masks_of_host_arrays_and_abstract_weights() -> None:
    masks = {"w": np.array([[True, False]]), "bias": optax.MaskedNode()}
    shapes = {"w": jax.ShapeDtypeStruct((1, 2), np.float32), "bias": jnp.zeros(2)}
    found = fixed(masks).init(jax.random.key(0), shapes)
    assert flags(found["w"]) == [1, 0]
    assert found["bias"] == optax.MaskedNode()


def test_many_tickets_in_one_program(key: jax.Array) -> None:
    params = small(key, 3)
    masks = jax.tree.map(lambda w: w > 0, params)
    masks["bias"] = optax.MaskedNode()
    together, _ = jax.vmap(learn)(params, masks)
    for seed in range(3):
        alone, _ = learn(*jax.tree.map(lambda x, s=seed: x[s], (params, masks)))
        for name in ("w", "head"):
            np.testing.assert_allclose(together[name][seed], alone[name], rtol=1e-6)
            np.testing.assert_array_equal(together[name][seed] != 0, masks[name][seed])


def test_fixed_masks_beside_another_method(key: jax.Array) -> None:
    params = small(key)
    masks = jax.tree.map(lambda w: w > 0, params)
    mixed = jaxsparse.partition({"head": fixed(masks)}, default=jaxsparse.static(0.8))
    trained, _ = jax.jit(lambda params: steps_of(mixed, params))(params)
    np.testing.assert_array_equal(trained["head"] != 0, masks["head"])
    assert int((trained["w"] != 0).sum()) == 6


def test_fixed_masks_within_a_wrapper(key: jax.Array) -> None:
    params = {"a": jax.random.normal(key, (4, 4)), "b": jax.random.normal(key, (4, 4))}
    masks = half(params, keep_all(params))
    tx = optax.masked(jaxsparse.sparsify(optax.sgd(0.1), fixed(masks)), {"a": True, "b": False})
    updates, _ = tx.update(params, tx.init(params), params)
    new = optax.apply_updates(params, updates)
    np.testing.assert_array_equal(new["a"] != 0, masks["a"])
    assert (new["b"] != 0).all()


# What is trained does not matter here: each weight grows by its place, and by the round.
def grow(start: Any, masks: Any, number: int) -> Any:
    return jax.tree.map(lambda w: w + jnp.sign(w) * (number + 1), start)


WEIGHTS = {"w": jnp.array([[8.0, -7.0, 6.0, 5.0, -4.0, 3.0, 2.0, 1.0]]), "bias": jnp.ones(1)}


def starts(rows: Any) -> list[list[int]]:
    return [row.start["w"][0].astype(int).tolist() for row in rows]


def test_tickets_start_from_the_first_weights() -> None:
    rows = list(iterative_pruning(grow, WEIGHTS, rounds=2, prune=half))
    assert [row.number for row in rows] == [0, 1, 2]
    assert starts(rows) == [
        [8, -7, 6, 5, -4, 3, 2, 1],
        [8, -7, 6, 5, 0, 0, 0, 0],
        [8, -7, 0, 0, 0, 0, 0, 0],
    ]
    assert rows[1].trained["w"][0].tolist() == [10, -9, 8, 7, 0, 0, 0, 0]
    assert rows[1].trained["bias"].tolist() == [3]


def test_fine_tuning_goes_on_from_the_trained_weights() -> None:
    rows = list(iterative_pruning(grow, WEIGHTS, rounds=2, prune=half, rewind="none"))
    # One more in round 0, two more in round 1.
    assert starts(rows) == [
        [8, -7, 6, 5, -4, 3, 2, 1],
        [9, -8, 7, 6, 0, 0, 0, 0],
        [11, -10, 0, 0, 0, 0, 0, 0],
    ]


def test_rewinding_to_later_weights() -> None:
    later = jax.tree.map(lambda w: 10 * w, WEIGHTS)
    rows = list(iterative_pruning(grow, WEIGHTS, rounds=1, prune=half, rewind=later))
    assert starts(rows) == [[8, -7, 6, 5, -4, 3, 2, 1], [80, -70, 60, 50, 0, 0, 0, 0]]
    assert rows[1].start["bias"].tolist() == [10]


def test_masks_to_begin_with() -> None:
    masks = {"w": jnp.array([[True, False] * 4]), "bias": optax.MaskedNode()}
    rows = list(iterative_pruning(grow, WEIGHTS, rounds=1, prune=half, masks=masks))
    assert starts(rows) == [[8, 0, 6, 0, -4, 0, 2, 0], [8, 0, 6, 0, 0, 0, 0, 0]]


@pytest.mark.parametrize("rewind", ["initial", "none", WEIGHTS], ids=["initial", "none", "weights"])
@pytest.mark.parametrize("done", [0, 1, 2])
def test_a_procedure_goes_on_where_it_was(rewind: Any, done: int) -> None:
    called: list[int] = []

    def counted(start: Any, masks: Any, number: int) -> Any:
        called.append(number)
        return grow(start, masks, number)

    options = {"rounds": 3, "prune": half, "rewind": rewind}
    whole = list(iterative_pruning(grow, WEIGHTS, **options))
    rest = list(iterative_pruning(counted, WEIGHTS, **options, done=whole[done]))
    assert called == list(range(done + 1, 4))
    assert len(rest) == 3 - done
    for ours, theirs in zip(rest, whole[done + 1 :], strict=True):
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_rounds_come_one_by_one() -> None:
    called: list[int] = []

    def counted(start: Any, masks: Any, number: int) -> Any:
        called.append(number)
        return start

    rows = iterative_pruning(counted, WEIGHTS, rounds=5, prune=half)
    assert not called
    assert isinstance(next(rows), Round)
    next(rows)
    assert called == [0, 1]


def test_a_ticket_of_a_real_training(key: jax.Array) -> None:
    # The zeros of the masks are those of the weights in every round, by sparsify and fixed.
    params = small(key)
    prune = functools.partial(prune_remaining, fraction=0.5, rules={"head": 0.1})
    train = lambda start, masks, number: learn(start, masks)[0]
    counts = []
    for row in iterative_pruning(train, params, rounds=3, prune=prune):
        for name in ("w", "head"):
            mask = np.asarray(row.masks[name])
            np.testing.assert_array_equal(row.trained[name] != 0, mask)
            np.testing.assert_array_equal(row.start[name], np.where(mask, params[name], 0))
        counts.append(kept(row.masks))
    # head: 20, 18, 17 (floor(1.8) = 1), 16; w: 30, 15, 8 (floor(7.5) = 7), 4.
    assert counts == [[20, 30], [18, 15], [17, 8], [16, 4]]


FULL = keep_all({"w": jnp.zeros((2, 3))})
SHAPES = {"w": jax.ShapeDtypeStruct((2, 3), jnp.float32)}
OTHER = {"w": jnp.ones((3, 2), bool)}
begin = functools.partial(iterative_pruning, grow, WEIGHTS, prune=half)
# What is wrong -> the call, and what the message must hold: the value, the range, the remedy.
BAD: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "all": (lambda: prune_remaining(SHAPES, FULL, 1.0), ["fraction is 1.0", "[0, 1)"]),
    "negative": (lambda: prune_remaining(SHAPES, FULL, -0.1), ["fraction is -0.1", "[0, 1)"]),
    "percent": (lambda: prune_remaining(SHAPES, FULL, 20.0), ["is 20.0;", "for 20 % give 0.2"]),
    "no number": (lambda: prune_remaining(SHAPES, FULL, float("nan")), ["is nan", "[0, 1)"]),
    "rule": (
        lambda: prune_remaining(SHAPES, FULL, 0.2, rules={"w": 1.5}),
        ["fraction of 'w' is 1.5", "[0, 1)"],
    ),
    "glob": (
        lambda: prune_remaining(SHAPES, FULL, 0.2, rules={"x*": 0.1}),
        ["rules", "'x*' matches none", "nearest: w"],
    ),
    "rules over all": (
        lambda: prune_remaining(SHAPES, FULL, 0.2, rules={"w": 0.1}, scope="global"),
        ["rules need scope='layer'"],
    ),
    "scope": (
        # (Without the type checker of the tests, which would be first.)
        lambda: inspect.unwrap(prune_remaining)(SHAPES, FULL, 0.2, scope="all"),
        ["scope is 'all'", "'layer' or 'global'"],
    ),
    "key": (
        lambda: prune_remaining(SHAPES, FULL, 0.2, score=scores.random),
        ["key is None", "pass a PRNG key"],
    ),
    "shape of a mask": (
        lambda: prune_remaining(SHAPES, OTHER, 0.2),
        ["w has shape (2, 3)", "bool[3, 2]", "same shape"],
    ),
    "dtype of a mask": (
        lambda: fixed({"w": jnp.ones((2, 3))}).init(jax.random.key(0), SHAPES),
        ["w has shape (2, 3)", "float32[2, 3]", "give a bool array"],
    ),
    "masks of another network": (
        lambda: fixed({**FULL, "v": FULL["w"]}).init(jax.random.key(0), SHAPES),
        ["1 leaves of params, 2 of masks", "MaskedNode()"],
    ),
    "nothing to prune": (lambda: keep_all({"b": jnp.zeros(3)}), ["may be sparse", "where="]),
    "rounds": (lambda: begin(rounds=0), ["rounds is 0", "at least 1"]),
    "rewind": (lambda: begin(rounds=1, rewind="start"), ["rewind is 'start'", "'initial', 'none'"]),
    "shape of rewind": (
        lambda: begin(rounds=1, rewind={"w": jnp.ones((1, 7)), "bias": jnp.ones(1)}),
        ["w of shape (1, 7)", "(1, 8)", "like params"],
    ),
    "leaves of rewind": (
        lambda: begin(rounds=1, rewind={"bias": jnp.ones(1)}),
        ["1 leaves, params 2", "like params"],
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_line(what: str) -> None:
    call, words = BAD[what]
    with pytest.raises(ValueError, match=re.escape(words[0])) as error:
        call()
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_no_recompilation_from_round_to_round(key: jax.Array) -> None:
    params, traces = {"w": jax.random.normal(key, (9, 9))}, []

    @jax.jit
    def prune(params: Any, masks: Any) -> Any:
        traces.append(1)
        return half(params, masks)

    masks = keep_all(params)
    for _ in range(4):
        masks = prune(params, masks)
    assert kept(masks) == [6]  # 81, 41, 21, 11, 6
    assert len(traces) == 1
