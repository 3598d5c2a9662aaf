"""Budgets of layers: published figures, exact sums, and one-line errors."""

import functools
import math
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

import jaxsparse
from experiments.models import ResNet50
from jaxsparse import (
    by_path,
    default_where,
    equal_per_filter,
    equal_per_layer,
    er,
    erk,
    erk_plus,
    uniform,
    uniform_plus,
)
from jaxsparse.distributions import apportion, keep_count
from jaxsparse.layers import sparse_layers
from tests.distributions.trees import CONV, MLP, TINY, TREES, spec

pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")

PLUS = {
    "conv": {"first": "conv", "last": "fc"},
    "mlp": {"first": "a", "last": "c"},
    "one": {"first": "only", "last": "only"},
    "tiny": {"first": "a", "last": "b"},
}


def sizes_of(params: Any, counts: Any) -> list[tuple[int, int]]:
    """(kept, weights) of every layer that has a count."""
    kept, weights = jax.tree.leaves(counts), []
    for leaf, count in zip(
        jax.tree.leaves(params), jax.tree.structure(params).flatten_up_to(counts), strict=True
    ):
        if count != optax.MaskedNode():
            weights.append(math.prod(leaf.shape))
    return list(zip(kept, weights, strict=True))


def budget(total: int, sparsity: float) -> int:
    """``total - floor(sparsity * total)`` in decimal arithmetic."""
    return total - math.floor(Fraction(str(sparsity)) * total)


decimals = st.integers(0, 9999).map(lambda i: i / 10_000)


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize(
    "distribution", [uniform, er, erk, equal_per_layer, equal_per_filter], ids=lambda d: d.__name__
)
@hypothesis.given(sparsity=decimals)
def test_counts_sum_to_the_global_budget(
    distribution: Callable[..., Any], tree: str, sparsity: float
) -> None:
    # Peers floor each layer: the total is off by as many weights as there are layers.
    pairs = sizes_of(TREES[tree], distribution(TREES[tree], sparsity))
    total = sum(size for _, size in pairs)
    assert sum(kept for kept, _ in pairs) == budget(total, sparsity)
    least = 1 if budget(total, sparsity) >= len(pairs) else 0
    assert all(type(kept) is int and least <= kept <= size for kept, size in pairs)


@pytest.mark.parametrize("tree", ["conv", "mlp"])
@hypothesis.given(sparsity=decimals)
def test_plus_counts_sum_to_the_global_budget(tree: str, sparsity: float) -> None:
    params, names = TREES[tree], PLUS[tree]
    total = sum(size for _, size in sizes_of(params, uniform(params, 0.0)))
    head, tail = (math.prod(params[names[end]].shape) for end in ("first", "last"))
    density = 1 - sparsity
    if density * total - head > 0.2 * tail:
        counts = uniform_plus(params, sparsity, **names)
        assert sum(kept for kept, _ in sizes_of(params, counts)) == budget(total, sparsity)
        assert abs(counts[names["first"]] - head) <= 1
        assert counts[names["last"]] >= math.floor(0.2 * tail) - 1
    if density * total > tail:
        counts = erk_plus(params, sparsity, last=names["last"])
        assert sum(kept for kept, _ in sizes_of(params, counts)) == budget(total, sparsity)
        assert abs(counts[names["last"]] - tail) <= 1


@hypothesis.given(sparsity=decimals)
def test_uniform_rounded_as_published_code(sparsity: float) -> None:
    # exact=False: n - floor(S n) in every layer, S the decimal that was typed.
    counts = uniform(CONV, sparsity, exact=False)
    for kept, size in sizes_of(CONV, counts):
        assert kept == budget(size, sparsity)


def rigl_erk(shapes: list[tuple[int, ...]], sparsity: float) -> list[int]:
    """google-research/rigl, get_sparsities_erdos_renyi, with its floors."""
    sizes = [math.prod(shape) for shape in shapes]
    zeros = [math.floor(Fraction(str(sparsity)) * size) for size in sizes]
    raw = [sum(shape) / math.prod(shape) for shape in shapes]
    full: set[int] = set()
    while True:
        free = [i for i in range(len(shapes)) if i not in full]
        right = sum(sizes[i] - zeros[i] for i in free) - sum(zeros[i] for i in full)
        epsilon = right / sum(raw[i] * sizes[i] for i in free)
        largest = max(raw[i] for i in free)
        if largest * epsilon <= 1:
            break
        full |= {i for i in free if raw[i] == largest}
    return [
        size if i in full else size - math.floor((1 - epsilon * raw[i]) * size)
        for i, size in enumerate(sizes)
    ]


@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.8, 0.9, 0.95, 0.98])
@pytest.mark.parametrize("params", [CONV, MLP], ids=["conv", "mlp"])
def test_erk_is_that_of_published_code_to_its_rounding(params: Any, sparsity: float) -> None:
    shapes = [layer.shape for layer in sparse_layers(params, default_where)[0] if layer]
    theirs = rigl_erk(shapes, sparsity)
    for exact in (True, False):
        ours = [kept for kept, _ in sizes_of(params, erk(params, sparsity, exact=exact))]
        assert all(abs(a - b) <= len(shapes) for a, b in zip(ours, theirs, strict=True))


def test_er_counts_only_the_last_two_dimensions() -> None:
    counts = er(CONV, 0.9)
    raw = {"conv": 19 / 48, "deep": 48 / 512, "fc": 42 / 320}
    sizes = {"conv": 432, "deep": 4608, "fc": 320}
    kept = {"conv": counts["conv"], "deep": counts["deep"]["kernel"], "fc": counts["fc"]}
    epsilon = 536 / sum(raw[name] * sizes[name] for name in raw)
    for name in raw:
        assert kept[name] == pytest.approx(epsilon * raw[name] * sizes[name], abs=1)


def test_set_mlp_densities() -> None:
    # Mocanu et al.'s CIFAR-10 MLP: epsilon (n_in + n_out) / (n_in n_out) with epsilon = 20 gives
    # .01151, .025 and .025 in its hidden layers, at the sparsity that this epsilon amounts to.
    params = {"a": spec(3072, 4000), "b": spec(4000, 1000), "c": spec(1000, 4000)}
    sizes = {name: math.prod(leaf.shape) for name, leaf in params.items()}
    densities = {n: 20 * sum(leaf.shape) / sizes[n] for n, leaf in params.items()}
    assert [round(d, 5) for d in densities.values()] == [0.01151, 0.025, 0.025]
    total = sum(sizes.values())
    counts = er(params, 1 - 20 * sum(sum(leaf.shape) for leaf in params.values()) / total)
    for name, density in densities.items():
        assert counts[name] == pytest.approx(density * sizes[name], abs=1)


def test_power_zero_is_uniform() -> None:
    assert erk(CONV, 0.9, power=0.0) == uniform(CONV, 0.9)
    assert erk(CONV, 0.9, power=1.0) == erk(CONV, 0.9)
    middle = erk(CONV, 0.9, power=0.5)["fc"]
    assert uniform(CONV, 0.9)["fc"] < middle < erk(CONV, 0.9)["fc"]


# ResNet-50: sparsity of every tensor of a shape at 80, 90, 95, 96.5 and 99 %, as published code
# gives it.
RESNET50 = {
    (7, 7, 3, 64): (0.1428, 0.5800, 0.7902, 0.8531, 0.9580),
    (1, 1, 64, 64): (0, 0, 0.2265, 0.4585, 0.8453),
    (1, 1, 64, 256): (0, 0.0412, 0.5210, 0.6647, 0.9042),
    (1, 1, 256, 64): (0, 0.0412, 0.5210, 0.6647, 0.9042),
    (3, 3, 64, 64): (0.6381, 0.8227, 0.9114, 0.9380, 0.9823),
    (1, 1, 256, 128): (0, 0.4253, 0.7129, 0.7990, 0.9426),
    (1, 1, 128, 512): (0.0247, 0.5221, 0.7612, 0.8329, 0.9522),
    (1, 1, 512, 128): (0.0247, 0.5221, 0.7612, 0.8329, 0.9522),
    (3, 3, 128, 128): (0.8231, 0.9133, 0.9567, 0.9697, 0.9913),
    (1, 1, 256, 512): (0.4151, 0.7134, 0.8568, 0.8998, 0.9714),
    (1, 1, 512, 256): (0.4151, 0.7134, 0.8568, 0.8998, 0.9714),
    (1, 1, 256, 1024): (0.5131, 0.7614, 0.8808, 0.9166, 0.9762),
    (1, 1, 1024, 256): (0.5131, 0.7614, 0.8808, 0.9166, 0.9762),
    (3, 3, 256, 256): (0.9126, 0.9572, 0.9786, 0.9850, 0.9957),
    (1, 1, 512, 1024): (0.7079, 0.8569, 0.9285, 0.9500, 0.9857),
    (1, 1, 1024, 512): (0.7079, 0.8569, 0.9285, 0.9500, 0.9857),
    (1, 1, 512, 2048): (0.7567, 0.8808, 0.9405, 0.9583, 0.9881),
    (1, 1, 2048, 512): (0.7567, 0.8808, 0.9405, 0.9583, 0.9881),
    (3, 3, 512, 512): (0.9565, 0.9787, 0.9894, 0.9926, 0.9979),
    (1, 1, 1024, 2048): (0.8541, 0.9285, 0.9643, 0.9750, 0.9929),
    (2048, 1000): (0.8518, 0.9274, 0.9637, 0.9746, 0.9927),
}
LEVELS = (0.8, 0.9, 0.95, 0.965, 0.99)


@functools.cache
def resnet50() -> Any:
    image = spec(1, 224, 224, 3)
    return jax.eval_shape(ResNet50().init, jax.random.key(0), image)["params"]


@pytest.mark.parametrize("level", range(5), ids=[str(level) for level in LEVELS])
@pytest.mark.parametrize("exact", [True, False])
def test_published_resnet50_erk(level: int, exact: bool) -> None:
    layers = [layer for layer in sparse_layers(resnet50(), default_where)[0] if layer]
    assert len(layers) == 54
    assert sum(layer.size for layer in layers) == 25_502_912
    counts = jax.tree.leaves(erk(resnet50(), LEVELS[level], exact=exact))
    assert {layer.shape for layer in layers} == set(RESNET50)
    full = set()
    for layer, kept in zip(layers, counts, strict=True):
        # A printed digit, and one weight of a small layer.
        tolerance = 5e-5 + 1.01 / layer.size
        published = RESNET50[layer.shape][level]
        assert 1 - kept / layer.size == pytest.approx(published, abs=tolerance), layer
        if kept == layer.size:
            full.add(layer.shape)
    squeezes = {(1, 1, 64, 64), (1, 1, 64, 256), (1, 1, 256, 64), (1, 1, 256, 128)}
    assert full == (squeezes, {(1, 1, 64, 64)}, set(), set(), set())[level]
    if exact:
        assert sum(counts) == budget(25_502_912, LEVELS[level])


# Rounding.


@pytest.mark.parametrize(
    ("size", "sparsity", "kept"),
    # float32 arithmetic gives 19, 1999, 0 and, for 525 million, is off by 14.
    [
        (100, 0.8, 20),
        (10_000, 0.8, 2000),
        (100, 0.99, 1),
        (525_000_000, 0.9, 52_500_000),
        (100, 0.1, 90),
        (10, 0.7, 3),
        (3, 0.5, 2),
        (7, 0.0, 7),
        (1, 0.999, 1),
    ],
)
def test_keep_count(size: int, sparsity: float, kept: int) -> None:
    assert keep_count(size, sparsity) == kept
    assert uniform({"w": spec(1, size)}, sparsity) == {"w": kept}
    assert uniform({"w": spec(1, size)}, sparsity, exact=False) == {"w": kept}


@hypothesis.given(
    rows=st.lists(st.tuples(st.integers(1, 50), st.floats(0, 1)), min_size=1, max_size=8),
    share=st.floats(0, 1),
)
def test_apportion_reaches_every_total(rows: list[tuple[int, float]], share: float) -> None:
    sizes = [size for size, _ in rows]
    ideal = [size * density for size, density in rows]
    total = math.floor(share * sum(sizes))
    counts = apportion(ideal, sizes, total)
    assert sum(counts) == total
    least = 1 if total >= len(sizes) else 0
    assert all(least <= count <= size for count, size in zip(counts, sizes, strict=True))


def test_apportion_gives_the_rest_to_the_largest_remainders() -> None:
    assert apportion([2.9, 2.5, 2.1], [9, 9, 9], 8) == [3, 3, 2]
    assert apportion([2.9, 2.5, 2.1], [9, 9, 9], 7) == [3, 2, 2]


def test_layers_saturate_one_after_another() -> None:
    # At low sparsity nearly all layers are full; published loops fail on an empty maximum.
    for sparsity in (0.0, 0.001, 0.01, 0.1):
        pairs = sizes_of(TINY, erk(TINY, sparsity))
        assert all(kept <= size for kept, size in pairs)
        assert sum(kept for kept, _ in pairs) == budget(2008, sparsity)
    assert erk(TINY, 0.1) == {"a": 4, "b": 3, "c": 2000 - 200, "d": 1}


def test_more_layers_than_weights_to_keep() -> None:
    params = {str(i): spec(2, 2) for i in range(10)}
    counts = uniform(params, 0.9)  # 4 of 40 weights, 10 layers
    assert sorted(counts.values()) == [0] * 6 + [1] * 4


# Uniform+ as Liu et al.'s own code has it.


def test_uniform_plus_as_published() -> None:
    total, head, tail = 266_200, 235_200, 1000
    exactly = {"first": "b", "last": "c"}
    counts = uniform_plus(MLP, 0.8, **exactly, exact=False)
    # Density 0.2 is not below 0.2: nothing is compensated.
    assert counts == {"a": 47_040, "b": 30_000, "c": 200}
    counts = uniform_plus(MLP, 0.85, **exactly, exact=False)
    rest = (0.15 * total - 30_000 - 0.2 * tail) / total
    assert counts["a"] == head - math.floor((1 - rest) * head)
    assert (counts["b"], counts["c"]) == (30_000, 200)


# Explicit layers.


def test_mnist_sparsities_of_rigl() -> None:
    # RigL's MNIST experiments: 99 %, 0.9 of that, and a dense head.
    rules = {"a": 0.99, "b": 0.891, "c": 0.0}
    assert by_path(MLP, 0.5, rules=rules) == {"a": 2352, "b": 3270, "c": 1000}


def test_rules_first_match_and_the_others() -> None:
    counts = by_path(MLP, 0.9, rules={"a": 7, "[ab]": 0.5})
    assert counts == {"a": 7, "b": 15_000, "c": 100}
    # Nothing is compensated: the others share the sparsity among themselves.
    counts = by_path(MLP, 0.9, rules={"a": 0.0}, otherwise=erk)
    assert counts["a"] == 235_200
    assert {"b": counts["b"], "c": counts["c"]} == erk({"b": MLP["b"], "c": MLP["c"]}, 0.9)


def test_rules_see_paths_of_nested_trees() -> None:
    counts = by_path(CONV, 0.9, rules={"deep/*": 12, "fc": np.int64(0)})
    assert counts == {"conv": 44, "deep": {"bias": optax.MaskedNode(), "kernel": 12}, "fc": 0}


def test_a_sweep_over_budgets_is_one_program(key: jax.Array) -> None:
    params = {"a": jax.random.normal(key, (6, 8)), "b": jax.random.normal(key, (8, 3))}
    grads = jax.tree.map(lambda x: x**2 - 0.3, params)

    def run(kept: Any) -> Any:
        method = jaxsparse.rigl(
            0.5,
            distribution=functools.partial(by_path, rules={"a": kept}),
            update=jaxsparse.every(2),
            drop_fraction=0.4,
        )
        tx = jaxsparse.sparsify(optax.sgd(0.1), method)
        state, weights = tx.init(params), params
        weights = jaxsparse.apply_masks(weights, state.masks)

        def step(_: Any, carry: Any) -> Any:
            weights, state = carry
            updates, state = tx.update(grads, state, weights)
            return optax.apply_updates(weights, updates), state

        weights, state = jax.lax.fori_loop(0, 3, step, (weights, state))
        return weights, state.masks

    budgets = (5, 20, 48)
    weights, masks = jax.jit(jax.vmap(run))(jnp.array(budgets, jnp.int32))
    assert masks["a"].sum((1, 2)).tolist() == list(budgets)
    assert masks["b"].sum((1, 2)).tolist() == [12] * 3
    alone = jax.jit(run)
    for i, kept in enumerate(budgets):
        alone_weights, alone_masks = alone(jnp.int32(kept))
        np.testing.assert_array_equal(masks["a"][i], alone_masks["a"])
        np.testing.assert_array_equal(masks["b"][i], alone_masks["b"])
        np.testing.assert_allclose(weights["a"][i], alone_weights["a"], rtol=1e-6)


def test_equal_per_layer_by_hand() -> None:
    # 26,620 of 266,200 weights stay; c has 1,000 and keeps them all, a and b share
    # the other 25,620.
    assert equal_per_layer(MLP, 0.9) == {"a": 12_810, "b": 12_810, "c": 1_000}
    assert equal_per_layer(MLP, 0.99) == {"a": 888, "b": 887, "c": 887}


def test_equal_per_filter_by_hand() -> None:
    # 26,620 weights over 410 filters are 64.9 each: those of c have 100 and those of b 300.
    counts = equal_per_filter(MLP, 0.9)
    assert counts == {"a": 19_478, "b": 6_493, "c": 649}
    # At 50 % it would be 324.6 each: b and c stay whole, and a gets the rest.
    assert equal_per_filter(MLP, 0.5) == {"a": 133_100 - 31_000, "b": 30_000, "c": 1_000}
    # Along the last dimension, whatever comes before it.
    conv = equal_per_filter({"a": spec(3, 3, 4, 8), "b": spec(72, 8)}, 0.75)
    assert conv["a"] == conv["b"] == 108
