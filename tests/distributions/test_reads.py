"""What distributions read, what they return, and what they refuse in one line."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import (
    by_path,
    default_where,
    equal_per_filter,
    equal_per_layer,
    er,
    erk,
    erk_plus,
    from_masks,
    uniform,
    uniform_plus,
)
from tests.distributions.trees import CONV, MLP, spec

pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")

# What goes in, and what comes out.


def test_reads_shapes_only() -> None:
    arrays = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), CONV)
    for distribution in (uniform, er, erk, equal_per_layer, equal_per_filter):
        assert distribution(arrays, 0.9) == distribution(CONV, 0.9)
        counts = distribution(CONV, 0.9)
        assert counts["deep"]["bias"] == optax.MaskedNode()


def test_lists_and_dense_marks() -> None:
    # Lists nested in dicts break peers that flatten dicts only.
    params = {"layers": [spec(4, 5), {"k": spec(5, 4)}], "gone": optax.MaskedNode()}
    want = {"layers": [10, {"k": 10}], "gone": optax.MaskedNode()}
    assert uniform(params, 0.5) == want


def test_default_where() -> None:
    assert default_where("Dense_0/kernel", spec(2, 3, dtype=jnp.bfloat16))
    left_out = [
        ("Dense_0/bias", spec(3)),
        ("ids", spec(2, 3, dtype=jnp.int32)),
        ("flags", spec(2, 3, dtype=jnp.bool_)),
        ("empty", spec(0, 3)),
        ("Embed_0/embedding", spec(5, 3)),
        ("LayerNorm_0/scale", spec(2, 3)),
        ("BatchNorm_0/scale", spec(2, 3)),
    ]
    assert not any(default_where(path, leaf) for path, leaf in left_out)


def test_a_scalar_counts_as_one_weight() -> None:
    params = {"gain": spec(), "w": spec(10, 10)}
    everything = lambda path, leaf: True
    for distribution in (uniform, er, erk, equal_per_layer, equal_per_filter):
        assert distribution({"gain": spec()}, 0.5, where=everything) == {"gain": 1}
        counts = distribution(params, 0.5, where=everything)
        assert counts["gain"] + counts["w"] == 51


# The layer-wise sparsities of one method for another.


def test_ratios_of_masks_are_those_of_random_ones() -> None:
    params = {"a": jnp.arange(1.0, 25.0).reshape(4, 6), "b": jnp.ones((3, 4)), "bias": jnp.ones(3)}
    magnitude = jaxsparse.saliency.by_score(jaxsparse.scores.magnitude)
    masks = jaxsparse.saliency.prune_in_rounds(magnitude, params, 0.75)
    counts = from_masks(masks)(params, 0.75, where=default_where)
    assert counts == {"a": 9, "b": 0, "bias": optax.MaskedNode()}
    control = jaxsparse.static(0.75, distribution=from_masks(masks))
    drawn = control.init(jax.random.key(0), params)
    assert int(drawn["a"].sum()) == 9
    assert int(drawn["b"].sum()) == 0
    assert not np.array_equal(drawn["a"], masks["a"])


@pytest.mark.parametrize(
    ("params", "sparsity", "message"),
    [
        ({"a": spec(4, 6)}, 0.5, r"masks keep 6 of 24 weights, sparsity 0.5 12; give .*0\.75"),
        ({"a": spec(6, 4)}, 0.75, r"a has a mask of shape \(4, 6\); give masks made for these"),
        ({"a": spec(4, 6), "b": spec(2)}, 0.75, "2 leaves of params, 1 of masks; give masks made"),
        ({"a": spec(4, 6)}, 75.0, r"sparsity is 75\.0; .*give 0\.75"),
    ],
)
def test_masks_of_other_parameters(params: Any, sparsity: float, message: str) -> None:
    masks = {"a": np.arange(24).reshape(4, 6) < 6}
    with pytest.raises(ValueError, match=message) as caught:
        from_masks(masks)(params, sparsity, where=default_where)
    assert "\n" not in str(caught.value)


def test_a_leaf_that_is_dense_in_one_of_both() -> None:
    masks = {"a": optax.MaskedNode(), "b": np.ones((2, 2), bool)}
    with pytest.raises(ValueError, match="a has no mask; give masks made for these"):
        from_masks(masks)({"a": spec(2, 2), "b": spec(2, 2)}, 0.0, where=default_where)


# Bad input: one line that names the value, the range and the remedy.

EVERY = [
    uniform,
    equal_per_layer,
    equal_per_filter,
    er,
    erk,
    functools.partial(uniform_plus, first="a", last="c"),
    functools.partial(erk_plus, last="c"),
    functools.partial(by_path, rules={"a": 5}),
]
NAMES = [
    "uniform",
    "equal_per_layer",
    "equal_per_filter",
    "er",
    "erk",
    "uniform_plus",
    "erk_plus",
    "by_path",
]


@pytest.mark.parametrize("distribution", EVERY, ids=NAMES)
@pytest.mark.parametrize("sparsity", [1.0, -0.1, 90.0, float("nan")])
def test_sparsity_out_of_range(distribution: Callable[..., Any], sparsity: float) -> None:
    with pytest.raises(ValueError, match=rf"^sparsity is {sparsity}; .* in \[0, 1\)") as caught:
        distribution(MLP, sparsity)
    assert "\n" not in str(caught.value)
    assert ("give 0.9" in str(caught.value)) == (sparsity == 90.0)


@pytest.mark.parametrize("distribution", EVERY, ids=NAMES)
def test_trees_with_nothing_to_prune(distribution: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"none of the 2 leaves may be sparse .*where="):
        distribution({"a": spec(3), "bias": spec(2)}, 0.5)
    with pytest.raises(ValueError, match=r"needs a tree with at least one array"):
        distribution({}, 0.5)
    everything = lambda path, leaf: True
    with pytest.raises(ValueError, match=r"a is int32\[2, 2\]: only floating .*where="):
        distribution({"a": spec(2, 2, dtype=jnp.int32)}, 0.5, where=everything)
    with pytest.raises(ValueError, match=r"a has shape \(0, 3\) and no weights; .*where="):
        distribution({"a": spec(0, 3)}, 0.5, where=everything)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: by_path(MLP, 0.5, rules={"a": 235_201}), "a is to keep 235201 .*give 0 to 235200"),
        (lambda: by_path(MLP, 0.5, rules={"a": -1}), "a is to keep -1 weights; it has 235200"),
        (lambda: by_path(MLP, 0.5, rules={"a": 1.5}), r"sparsity of a is 1.5; .*\[0, 1\)"),
        (lambda: by_path(MLP, 0.5, rules={"z*": 1}), r"pattern 'z\*' matches none of the 3 leaves"),
        (lambda: by_path(CONV, 0.5, rules={"deep/kernl": 1}), "nearest: deep/kernel"),
        (lambda: uniform_plus(MLP, 0.5, last="c"), "first is not given; .*of: a, b, c"),
        (lambda: uniform_plus(MLP, 0.5, first="a"), "last is not given; .*of: a, b, c"),
        (lambda: uniform_plus(MLP, 0.5, first="a", last="[bc]"), "matches 2 layers; .*one"),
        (lambda: uniform_plus(MLP, 0.5, first="a", last="c"), "sparsity 0.5 leaves nothing.*less"),
        (lambda: erk_plus(MLP, 0.5), "last is not given; .*of: a, b, c"),
        (lambda: erk_plus(MLP, 0.5, last="fc"), "pattern 'fc' matches none"),
        (lambda: erk_plus(MLP, 0.5, last="a"), "leaves nothing beside a dense a .*use erk"),
    ],
)
def test_bad_layers(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
