"""Gradual magnitude pruning: curves in whole numbers, against NumPy and published numbers."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import accounting, gradual_magnitude

WEIGHTS = jnp.array([[0.1, -0.8, 0.3, -0.4, 0.5], [0.6, -0.7, 0.2, 0.9, -1.0]])


def test_updates_by_hand() -> None:
    # 8 of 10 at the end; s(t) = 0.8 (1 - (1 - t/4)^3): zeros round(8 * (0, .578, .875, .984, 1)).
    method = gradual_magnitude(0.8, stop=4, interval=1)
    params, update = {"w": WEIGHTS}, jax.jit(method.update)
    masks = method.init(jax.random.key(0), params)
    assert bool(masks["w"].all())
    rank = np.abs(np.asarray(WEIGHTS)).argsort(axis=None).argsort()
    for step, zeros in enumerate([0, 5, 7, 8, 8, 8]):
        masks, info = update(jax.random.key(0), masks, params, params, step)
        np.testing.assert_array_equal(masks["w"], (rank >= zeros).reshape(2, 5))
        assert int(info.kept[0]) == 10 - zeros
        assert int(info.grown) == 0


def prune(weights: list[np.ndarray], masks: list[np.ndarray], counts: list[int]) -> Any:
    """The largest of those that are left, leaf by leaf."""
    found = []
    for weight, mask, count in zip(weights, masks, counts, strict=True):
        rank = np.where(mask, np.abs(weight), -1).reshape(-1).argsort()[::-1]
        new = np.zeros(weight.size, bool)
        new[rank[:count]] = True
        found.append(new.reshape(weight.shape))
    return found


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_a_run_equals_numpy(scope: Any) -> None:
    rng, shapes, step_of_end = np.random.default_rng(5), [(7, 9), (11, 3)], 23
    method = gradual_magnitude(0.9, start=2, stop=step_of_end, interval=5, scope=scope)
    update = jax.jit(method.update)
    draw = lambda: [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    key, masks = jax.random.key(0), [np.ones(shape, bool) for shape in shapes]
    got: Any = [jnp.asarray(mask) for mask in masks]
    final = jaxsparse.uniform(got_like(shapes), 0.9)
    zeros = [size - kept for size, kept in zip((63, 33), final, strict=True)]
    for step in range(30):
        weights = draw()  # moves freely: also what is pruned must not come back
        if not method.due(step):
            continue
        left = 1 - min((step - 2) / (step_of_end - 2), 1)
        counts = [s - round(z * (1 - left**3)) for s, z in zip((63, 33), zeros, strict=True)]
        if scope == "global":
            flat = lambda parts: np.concatenate([part.reshape(-1) for part in parts])
            (joined,) = prune([flat(weights)], [flat(masks)], [sum(counts)])
            masks = [joined[:63].reshape(7, 9), joined[63:].reshape(11, 3)]
        else:
            masks = prune(weights, masks, counts)
        got, _ = update(key, got, [jnp.asarray(w) for w in weights], got_like(shapes), step)
        for mask, want in zip(got, masks, strict=True):
            np.testing.assert_array_equal(mask, want)
    # The interval does not divide the span, and the end is reached all the same.
    assert sum(int(mask.sum()) for mask in got) == 96 - int(0.9 * 96)


def got_like(shapes: list[tuple[int, int]]) -> list[jax.Array]:
    return [jnp.zeros(shape) for shape in shapes]


@pytest.mark.parametrize(("start", "stop", "interval"), [(0, 9, 4), (1, 8, 2), (3, 10, 100)])
def test_training_reaches_the_target(start: int, stop: int, interval: int, key: jax.Array) -> None:
    # 0.89993 for 0.9 where the last update is the last multiple of the interval.
    method = gradual_magnitude(0.9, start=start, stop=stop, interval=interval)
    tx = jaxsparse.sparsify(optax.adam(0.1), method)
    params = {"w": jax.random.normal(key, (10, 10))}

    def step(carry: Any, _: Any) -> Any:
        params, state = carry
        updates, state = tx.update(jax.tree.map(jnp.sin, params), state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), (state.masks["w"], params["w"])

    init = (params, tx.init(params))
    _, (masks, weights) = jax.jit(lambda c: jax.lax.scan(step, c, length=12))(init)
    kept = masks.sum((1, 2))
    assert kept[stop:].tolist() == [10] * (12 - stop)
    assert int(kept[max(start - 1, 0)]) == 100
    assert (np.diff(kept) <= 0).all()
    assert bool((masks[1:] <= masks[:-1]).all())
    # Sparse and trained: zeros are exact, the rest is not.
    np.testing.assert_array_equal(np.asarray(weights) != 0, masks)


def test_starts_from_an_initial_sparsity(key: jax.Array) -> None:
    method = gradual_magnitude(0.8, start=5, stop=10, interval=1, initial=0.5)
    masks = method.init(key, {"w": jnp.ones((10, 10))})
    assert int(masks["w"].sum()) == 50


def test_every_layer_is_in_proportion_on_the_way(key: jax.Array) -> None:
    # ERK at the end: 1 - 0.9 overall; half of each layer's zeros where the schedule is at half.
    params = {"a": jax.random.normal(key, (40, 30)), "b": jax.random.normal(key, (30, 4))}
    method = gradual_magnitude(0.9, stop=2, interval=1, power=1.0, distribution=jaxsparse.erk)
    final = jaxsparse.erk(params, 0.9)
    masks = method.init(key, params)
    _, info = jax.jit(method.update)(key, masks, params, params, 1)
    for name, kept in zip(params, info.kept.tolist(), strict=True):
        zeros = params[name].size - final[name]
        assert abs(kept - (params[name].size - zeros / 2)) <= 0.5


def kept_over(method: Any, steps: list[int]) -> list[float]:
    """The fraction of 10,000 weights that is left after each of these updates."""
    params = {"w": jnp.arange(10_000.0).reshape(100, 100)}
    masks, update = method.init(jax.random.key(0), params), jax.jit(method.update)
    found = []
    for step in steps:
        if method.due(step):
            masks, _ = update(jax.random.key(0), masks, params, params, step)
        found.append(int(masks["w"].sum()) / 10_000)
    return found


def test_published_sparsities() -> None:
    # RigL's CIFAR-10 schedule: 0.520313, 0.7875, 0.885938 a quarter, half and three quarters along.
    method = gradual_magnitude(0.9, start=20_000, stop=75_000, interval=250)
    kept = kept_over(method, [20_000, 33_750, 47_500, 61_250, 75_000])
    assert kept == [1.0, 0.4797, 0.2125, 0.1141, 0.1]


@pytest.mark.parametrize(
    ("sparsity", "inference", "training"), [(0.8, 0.2254, 0.5603), (0.9, 0.1285, 0.5053)]
)
def test_published_training_flops(sparsity: float, inference: float, training: float) -> None:
    # ResNet-50 (RigL's table): pruned from 10k to 25k of 32k steps, sampled every 1000. What is not
    # pruned (the first layer, biases) follows from the published cost of the pruned network.
    method = gradual_magnitude(sparsity, start=10_000, stop=25_000, interval=1000)
    kept = kept_over(method, list(range(0, 33_000, 1000)))
    fixed = 1 - (1 - inference) / sparsity
    cost = accounting.training_flops(
        1.0,
        lambda sample: fixed + (1 - fixed) * kept[sample],
        lambda sample: bool(method.dense_gradients(1000 * sample)),
        steps=33,
    )
    assert abs(cost / (3 * 33) - training) < 1e-4


def test_stretched_pruning_is_the_same_in_proportion() -> None:
    # "Pruning 1.5x": 0.840 of a plain training run at 0.8, which is 1.5 times 0.5603.
    short = gradual_magnitude(0.8, start=10_000, stop=25_000, interval=5000)
    long = gradual_magnitude(0.8, start=10_000, stop=25_000, interval=5000, stretch=1.5)
    kept = kept_over(short, list(range(0, 32_500, 2500)))
    assert kept_over(long, list(range(0, 48_750, 3750))) == kept
    assert len(set(kept)) == 4


def test_stretch_multiplies_the_steps() -> None:
    method = gradual_magnitude(0.5, start=3, stop=9, interval=2, stretch=1.5)
    # 4.5 and 13.5 round to even: 4 to 14, every 3, and the end.
    assert [step for step in range(20) if method.due(step)] == [4, 7, 10, 13, 14]


def test_exponential_prunes_the_same_fraction_of_what_is_left() -> None:
    method = gradual_magnitude(0.84, stop=4, interval=1, curve="exponential")
    # 0.4 of 10,000 after half, 0.16 after all: a factor of 0.16 ** 0.25 = 0.6325 each.
    assert kept_over(method, [0, 1, 2, 3, 4, 5]) == [1.0, 0.6325, 0.4, 0.253, 0.16, 0.16]
    later = gradual_magnitude(0.84, stop=2, interval=1, curve="exponential", initial=0.36)
    # From 0.64 to 0.16: a half each.
    assert int(later.init(jax.random.key(0), {"w": jnp.ones((10, 10))})["w"].sum()) == 64
    assert kept_over(later, [0, 1, 2]) == [0.64, 0.32, 0.16]


def test_linear() -> None:
    method = gradual_magnitude(0.8, stop=4, interval=1, power=1.0)
    assert kept_over(method, [0, 1, 2, 3, 4]) == [1.0, 0.8, 0.6, 0.4, 0.2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": 1.0}, r"sparsity is 1.0; .*\[0, 1\)"),
        ({"sparsity": 0.9, "start": 9, "stop": 9}, r"stop is 9, not after start \(9\)"),
        ({"sparsity": 0.9, "interval": 0}, r"n is 0; .*at least 1"),
        ({"sparsity": 0.9, "stretch": 0.0}, r"stretch is 0.0; it must be positive"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gradual_magnitude(**options)


def test_an_unknown_curve() -> None:
    # Without the type checker of the tests, which would be first.
    with pytest.raises(ValueError, match=r"curve is 'cosine'; .*'exponential'"):
        inspect.unwrap(gradual_magnitude)(0.9, curve="cosine")
