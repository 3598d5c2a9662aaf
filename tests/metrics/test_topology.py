"""Topology: by hand, by sets, by reachability, and the distance of graphs by brute force."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import metrics

pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")


def masks(density: float, *shapes: tuple[int, ...], seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.random(shape) < density for shape in shapes]


def weights(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)


def ones(mask: Any) -> set[Any]:
    return set(map(tuple, np.argwhere(np.asarray(mask))))


def test_churn_by_sets() -> None:
    before = dict(zip("ab", masks(0.3, (5, 6), (6, 4)), strict=True)) | {"c": optax.MaskedNode()}
    after = dict(zip("ab", masks(0.4, (5, 6), (6, 4), seed=1), strict=True)) | {
        "c": optax.MaskedNode()
    }
    found = jax.jit(metrics.churn)(before, after)
    gone = {name: len(ones(before[name]) - ones(after[name])) for name in "ab"}
    kept = {name: len(ones(before[name])) for name in "ab"}
    np.testing.assert_allclose(found.total, sum(gone.values()) / sum(kept.values()), rtol=1e-6)
    for name in "ab":
        np.testing.assert_allclose(found.layers[name], gone[name] / kept[name], rtol=1e-6)
    assert found.layers["c"] == optax.MaskedNode()
    assert float(metrics.churn(before, before).total) == 0
    nothing = jax.tree.map(jnp.zeros_like, before)
    assert float(metrics.churn(nothing, after).total) == 0
    assert float(metrics.churn(after, nothing).total) == 1


def test_churn_of_rigl_is_its_drop_fraction() -> None:
    """All that is dropped had a gradient of zero: none of it comes back."""
    method = jaxsparse.rigl(0.5, update=jaxsparse.every(1), drop_fraction=0.25)
    key, params = jax.random.key(0), {"w": weights(8, 8)}
    before = method.init(key, params)
    grads = jax.tree.map(lambda mask: jnp.where(mask, 0.0, 1.0), before)
    after, _ = method.update(key, before, params, grads, 1)
    assert float(metrics.churn(before, after).total) == 0.25
    overlap = 24 / 40  # of 32 connections 8 were replaced
    np.testing.assert_allclose(metrics.overlap(before, after), overlap, rtol=1e-6)


def test_union() -> None:
    a, b = masks(0.3, (5, 6), (5, 6))
    dense = optax.MaskedNode()
    found = metrics.union({"w": a, "x": a, "y": dense}, {"w": b, "x": dense, "y": b})
    assert ones(found["w"]) == ones(a) | ones(b)
    assert found["x"] == found["y"] == dense


def test_exploration_is_the_density_of_the_union() -> None:
    history = masks(0.2, (7, 5, 6), (7, 6, 4))
    found = jax.jit(metrics.exploration_rates)({"a": history[0], "b": {"c": history[1]}})
    ever: set[Any] = set()
    for step, rate in enumerate(found):
        ever |= {(i, *at) for i, part in enumerate(history) for at in ones(part[step])}
        np.testing.assert_allclose(rate, len(ever) / 54, rtol=1e-6)
    # One in five at each step, at random: 1 - 0.8^7 after seven. (Its deviation is 5.5 %.)
    np.testing.assert_allclose(found[-1], 1 - 0.8**7, atol=0.17)


def test_exploration_equals_what_training_keeps_account_of() -> None:
    method = jaxsparse.sparse_evolutionary(0.8, update=jaxsparse.every(1), drop_fraction=0.5)
    tx = jaxsparse.sparsify(optax.sgd(0.1), jaxsparse.explored(method))
    params = {"w": weights(9, 9)}
    state, step, history = tx.init(params), jax.jit(tx.update), []
    for _ in range(4):
        history.append(jaxsparse.masks_of(state))
        updates, state = step(params, state, params)
        params = optax.apply_updates(params, updates)
    history.append(jaxsparse.masks_of(state))
    found = metrics.exploration_rates(jax.tree.map(lambda *rows: jnp.stack(rows), *history))
    np.testing.assert_allclose(found[-1], jaxsparse.exploration_rate(state), rtol=1e-6)
    assert found[-1] > found[0]


@pytest.mark.parametrize(
    ("shape", "inputs", "outputs"),
    [
        ((6, 4), -2, -1),
        ((3, 2, 6, 4), -2, -1),
        ((4, 6), 1, 0),  # (out, in)
        ((6, 2, 3), 0, (1, 2)),  # a query projection: (in, heads, size)
        ((2, 3, 6), (-3, -2), -1),
    ],
)
def test_degrees_by_counting(shape: Any, inputs: Any, outputs: Any) -> None:
    (mask,) = masks(0.4, shape)
    found = metrics.degrees(jnp.asarray(mask), inputs=inputs, outputs=outputs)
    for axes, degree in ((outputs, found.fan_in), (inputs, found.fan_out)):
        axes = [axis % len(shape) for axis in (axes if isinstance(axes, tuple) else (axes,))]
        want = np.zeros([shape[axis] for axis in axes], int)
        for at in np.argwhere(mask):
            want[tuple(at[axes])] += 1
        np.testing.assert_array_equal(degree, want)
        histogram = metrics.degree_histogram(degree, 5)
        values = list(np.minimum(want, 5).reshape(-1))
        assert histogram.tolist() == [values.count(number) for number in range(6)]
    assert found.fan_in.dtype == jnp.int32


def test_degrees_of_a_tree_and_of_a_constant_fan_in() -> None:
    method = jaxsparse.static(0.75, structure=jaxsparse.fan_in())
    params = {"a": jnp.ones((8, 6)), "bias": jnp.ones(6)}
    tree = method.init(jax.random.key(0), params)
    found = jax.tree.map(metrics.degrees, tree)
    assert found["a"].fan_in.tolist() == [2] * 6
    assert found["bias"] == optax.MaskedNode()


def test_degrees_of_random_masks_are_binomial() -> None:
    (mask,) = masks(0.1, (50, 20000))
    histogram = metrics.degree_histogram(metrics.degrees(jnp.asarray(mask)).fan_in, 50)
    choose = [1.0]
    for j in range(50):
        choose.append(choose[-1] * (50 - j) / (j + 1))
    law = np.array([c * 0.1**j * 0.9 ** (50 - j) for j, c in enumerate(choose)])
    assert int(histogram.sum()) == 20000
    deviation = np.sqrt(20000 * law * (1 - law))
    assert (np.abs(np.asarray(histogram) - 20000 * law) <= 5 * deviation + 1).all()


def test_dead_units_by_reachability() -> None:
    a, b, c = masks(0.2, (9, 7), (7, 8), (8, 4), seed=2)
    params = {"a": a * 1.0, "a_bias": np.ones(7), "b": b * 1.0, "c": c * 1.0}
    marks = {"a": a, "a_bias": optax.MaskedNode(), "b": b, "c": c}

    def model(params: Any, x: Any) -> Any:
        x = jnp.tanh(x @ params["a"] + params["a_bias"][None])
        return jnp.tanh(x @ params["b"]) @ params["c"]

    found = metrics.dead_units(model, params, marks, jax.ShapeDtypeStruct((1, 9), jnp.float32))
    first = a.any(0)
    second = (first[:, None] & b).any(0)
    third = (second[:, None] & c).any(0)
    read = c.any(1)
    read_first = (b & read[None]).any(1)
    np.testing.assert_array_equal(found["a"], ~(first & read_first))
    np.testing.assert_array_equal(found["b"], ~(second & read))
    np.testing.assert_array_equal(found["c"], ~third)
    assert found["a_bias"] == optax.MaskedNode()
    assert found["a"].any()
    assert not found["a"].all()


# The distance of graphs.


def shuffled(layers: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The same network with its hidden units in another order, and that order."""
    rng = np.random.default_rng(3)
    layers, orders = [layer.copy() for layer in layers], []
    for i in range(len(layers) - 1):
        units = layers[i].shape[-1]
        order = rng.permutation(units)
        layers[i] = layers[i][..., order]
        rows = layers[i + 1]
        split = rows.reshape(*rows.shape[:-2], -1, units, rows.shape[-1])
        layers[i + 1] = split[..., order, :].reshape(rows.shape)
        orders.append(order)
    return layers, orders


def brute_force(a: np.ndarray, b: np.ndarray) -> float:
    """One layer: every order of units, distances by sets."""

    def distance(i: int, j: int) -> float:
        x, y = ones(a[:, i]), ones(b[:, j])
        return len(x ^ y) / len(x | y) if x | y else 0.0

    units = a.shape[1]
    costs = [
        sum(distance(i, j) for i, j in enumerate(order))
        for order in itertools.permutations(range(units))
    ]
    return min(costs) / units


def test_a_layer_by_brute_force() -> None:
    for density in (0.1, 0.3, 0.6):
        a, b = masks(density, (7, 5), (7, 5))
        found = metrics.graph_distance([jnp.asarray(a)], [b], match_outputs=True)
        np.testing.assert_allclose(found.total, brute_force(a, b), rtol=1e-6)
        assert sorted(found.matches[0]) == list(range(5))


@pytest.mark.parametrize(
    "shapes",
    [
        [(30, 20), (20, 15), (15, 10)],
        # Convolutions, then a flattened image: rows are (2, 2, 6), channels last.
        [(3, 3, 4, 8), (3, 3, 8, 6), (24, 10)],
    ],
)
def test_the_order_of_hidden_units_does_not_matter(shapes: Any) -> None:
    layers = masks(0.3, *shapes)
    for layer in layers[:-1]:
        columns = layer.reshape(-1, layer.shape[-1])
        assert len(np.unique(columns, axis=1).T) == columns.shape[1], "units are alike"
    moved, orders = shuffled(layers)
    found = metrics.graph_distance(moved, layers)
    assert found.total == 0
    for order, match in zip(orders, found.matches, strict=False):
        np.testing.assert_array_equal(order, match)
    assert any((a != b).any() for a, b in zip(layers, moved, strict=True))
    # The classes have names: in another order they are another network, unless they are matched.
    turned = [*moved[:-1], moved[-1][:, ::-1]]
    assert metrics.graph_distance(turned, layers).total > 0.1
    assert metrics.graph_distance(turned, layers, match_outputs=True).total == 0


@pytest.mark.parametrize("density", [0.1, 0.5])
def test_random_masks_in_closed_form(density: float) -> None:
    """Without matching: 1 - d / (2 - d), one unit of 400 connections within 3 %."""
    a, b = masks(density, (4000, 50), (4000, 50))
    found = metrics.graph_distance([a], [b]).total
    np.testing.assert_allclose(found, 1 - density / (2 - density), rtol=0.01)
    matched = metrics.graph_distance([a], [b], match_outputs=True).total
    assert found - 0.05 < matched < found


def test_the_distance_grows_with_the_share_of_replaced_connections() -> None:
    """With named units, of k connections a share s replaced: 2 s / (1 + s)."""
    (mask,) = masks(0.0, (400, 30))
    mask[:100] = True
    for share in (0.0, 0.1, 0.5):
        gone = round(100 * share)
        moved = np.roll(mask, gone, axis=0)
        found = metrics.graph_distance([mask], [moved])
        np.testing.assert_allclose(found.total, 2 * share / (1 + share), rtol=1e-6)
        np.testing.assert_allclose(metrics.churn([mask], [moved]).total, share, rtol=1e-6)


def test_units_without_inputs() -> None:
    empty, full = np.zeros((3, 2), bool), np.ones((3, 2), bool)
    assert metrics.graph_distance([empty], [empty]).total == 0
    assert metrics.graph_distance([empty], [full]).total == 1


def test_bad_arguments() -> None:
    square = jnp.ones((2, 2), bool)
    with pytest.raises(ValueError, match=r"inputs 0 and outputs -2 of a mask of shape \(2, 2\)"):
        metrics.degrees(square, inputs=0, outputs=-2)
    with pytest.raises(ValueError, match="axis 2 of a mask of 2 dimensions"):
        metrics.degrees(square, inputs=2)
    with pytest.raises(ValueError, match="axis -2 of a mask of 1 dimensions"):
        metrics.degrees(jnp.ones(2, bool))
    with pytest.raises(ValueError, match="largest is -1; it must be at least 0"):
        metrics.degree_histogram(jnp.ones(2, jnp.int32), -1)
    with pytest.raises(ValueError, match="no leaf of the history has a mask"):
        metrics.exploration_rates({"w": optax.MaskedNode()})
    a, b = masks(0.5, (4, 3), (5, 2))
    with pytest.raises(ValueError, match=r"layer 1 has shape \(5, 2\), the one before it 3 units"):
        metrics.graph_distance([a, b], [a, b])
    with pytest.raises(ValueError, match=r"layers of shapes \[\(4, 3\)\] and \[\(5, 2\)\]; they"):
        metrics.graph_distance([a], [b])
