"""Paths by hand, bends on a ring, eigenvalues against the whole Hessian and by differences."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import jaxsparse
from jaxsparse import metrics, saliency

pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")


def draw(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


PARAMS = {"a": {"bias": draw(4), "kernel": draw(3, 4, seed=1)}, "b": {"kernel": draw(4, 3)}}
MASKS = {
    "a": {"bias": optax.MaskedNode(), "kernel": draw(3, 4, seed=3) < 0.2},
    "b": {"kernel": draw(4, 3, seed=4) < 0.2},
}
BATCHES = draw(3, 6, 3, seed=5), jnp.asarray(np.random.default_rng(6).integers(0, 3, (3, 6)))


def model(params: Any, inputs: Any) -> Any:
    hidden = jnp.tanh(inputs @ params["a"]["kernel"] + params["a"]["bias"][None])
    return hidden @ params["b"]["kernel"]


LOSS = saliency.cross_entropy(model)


def whole_loss(params: Any) -> Any:
    """Over all examples at once."""
    inputs, labels = BATCHES
    return LOSS(params, (inputs.reshape(-1, 3), labels.reshape(-1)))


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.asarray(leaf).reshape(-1) for leaf in jax.tree.leaves(tree)])


@functools.cache
def hessian() -> np.ndarray:
    vector, back = ravel_pytree(jaxsparse.apply_masks(PARAMS, MASKS))
    return np.asarray(jax.jit(jax.hessian(lambda v: whole_loss(back(v))))(vector), np.float64)


def kept(dense: bool) -> np.ndarray:
    """Which of the flat parameters count."""
    parts = [np.full(4, dense), MASKS["a"]["kernel"], MASKS["b"]["kernel"]]
    return np.concatenate([np.asarray(part).reshape(-1) for part in parts])


# Paths.


def test_paths_by_hand() -> None:
    first, bend, last = ({"w": jnp.array([x, 1.0])} for x in (1.0, 10.0, 3.0))
    line, curve = metrics.linear_path(first, last), metrics.bezier_path(first, bend, last)
    assert [line(t)["w"].tolist() for t in (0.0, 0.25, 1.0)] == [[1, 1], [1.5, 1], [3, 1]]
    # 1/4 of 1, 1/2 of 10, 1/4 of 3.
    assert [curve(t)["w"].tolist() for t in (0.0, 0.5, 1.0)] == [[1, 1], [6, 1], [3, 1]]
    # A bend in the middle of a straight line changes nothing, nor how fast it is passed along.
    straight = metrics.bezier_path(first, line(0.5), last)
    np.testing.assert_allclose(straight(0.3)["w"], line(0.3)["w"], rtol=1e-6)


def test_a_curve_starts_towards_its_bend() -> None:
    """Slopes at the ends: 2 (bend - first) and 2 (last - bend)."""
    first, bend, last = draw(5), draw(5, seed=1), draw(5, seed=2)
    slope = jax.jacfwd(metrics.bezier_path(first, bend, last))
    np.testing.assert_allclose(slope(0.0), 2 * (bend - first), rtol=1e-5)
    np.testing.assert_allclose(slope(1.0), 2 * (last - bend), rtol=1e-5)


def test_a_path_in_half_precision() -> None:
    first, last = jnp.zeros(2, jnp.bfloat16), jnp.ones(2, jnp.bfloat16)
    points = jax.vmap(metrics.linear_path(first, last))(jnp.array([0.0, 0.25, 1.0]))
    assert points.dtype == jnp.bfloat16
    assert points[:, 0].tolist() == [0, 0.25, 1]


@pytest.mark.parametrize("chunk", [1, 2])
def test_losses_along_a_line_in_closed_form(chunk: int) -> None:
    """Squares of distances: a parabola in t, with batches averaged."""
    first, last, batches = draw(4), draw(4, seed=1), draw(3, 2, 4, seed=2)
    loss_fn = lambda params, batch: {"loss": jnp.mean(jnp.sum((params[None] - batch) ** 2, 1))}
    positions = jnp.linspace(0.0, 1.0, 5)
    along = jax.jit(
        lambda a, b: metrics.losses_along(
            loss_fn, metrics.linear_path(a, b), positions, batches, chunk=chunk
        )
    )
    points = np.asarray(positions)[:, None] * np.asarray(last - first) + np.asarray(first)
    rows = np.asarray(batches).reshape(-1, 4)
    want = ((points[:, None] - rows[None]) ** 2).sum(-1).mean(1)
    found = along(first, last)["loss"]
    np.testing.assert_allclose(found, want, rtol=1e-5)
    # A convex loss has no barrier, and the ends none of their own.
    assert float(metrics.loss_barrier(found, positions)) == 0


def test_barriers_by_hand() -> None:
    # The line between the ends: 1, 2, 3.
    positions = jnp.array([0.0, 0.5, 1.0])
    barrier = lambda *losses: float(metrics.loss_barrier(jnp.array(losses), positions))
    assert barrier(1.0, 2.5, 3.0) == 0.5
    assert barrier(1.0, 2.0, 3.0) == barrier(1.0, 0.0, 3.0) == 0
    uneven = jnp.array([0.0, 0.25, 1.0])
    assert float(metrics.loss_barrier(jnp.array([0.0, 3.0, 4.0]), uneven)) == 2


# Bends.

RING = {"w": jnp.array([1.0, 0.2, 0.0])}, {"w": jnp.array([-1.0, 0.2, 0.0])}


def ring(params: Any, batch: Any) -> Any:
    """No loss on the unit sphere, 1 in the middle of it; the third direction costs nothing."""
    return (jnp.sum(params["w"] ** 2) - 1) ** 2 + 0 * jnp.sum(batch)


def bend_of(masks: Any) -> metrics.Bend:
    # Noise: an optimizer that moves weights without a gradient, too.
    optimizer = optax.chain(optax.add_noise(eta=1e-4, gamma=0.5, key=0), optax.adam(0.05))
    trained = lambda key: metrics.train_bend(
        key, ring, *RING, jnp.zeros((2, 1)), optimizer=optimizer, steps=300, masks=masks
    )
    return jax.jit(trained)(jax.random.key(0))


def test_a_bend_goes_around_the_hill() -> None:
    positions = jnp.linspace(0.0, 1.0, 21)
    bend = bend_of(None)
    along = lambda path: metrics.losses_along(ring, path, positions, jnp.zeros((1, 1)))
    straight = metrics.loss_barrier(along(metrics.linear_path(*RING)), positions)
    curved = metrics.loss_barrier(
        along(metrics.bezier_path(RING[0], bend.params, RING[1])), positions
    )
    assert straight > 0.9
    assert curved < 0.05
    assert bend.losses.shape == (300,)
    assert bend.losses[-50:].mean() < bend.losses[:50].mean()


def test_a_bend_keeps_to_its_masks() -> None:
    """What goes around the hill is absent: both solutions are, on a line through the middle."""
    masks = {"w": jnp.array([True, False, False])}
    bend = bend_of(masks)
    assert bend.params["w"][1:].tolist() == [0, 0]
    flat_ends = [jaxsparse.apply_masks(end, masks) for end in RING]
    middle = metrics.bezier_path(flat_ends[0], bend.params, flat_ends[1])
    positions = jnp.linspace(0.0, 1.0, 101)
    losses = metrics.losses_along(ring, middle, positions, jnp.zeros((1, 1)))
    assert metrics.loss_barrier(losses, positions) > 0.9


def test_batches_are_taken_in_turn_and_positions_uniformly() -> None:
    """The loss of a step is its batch plus a coordinate that is t: both can be read off it."""
    ends = {"w": jnp.array(0.0)}, {"w": jnp.array(1.0)}
    loss_fn = lambda params, batch: jax.lax.stop_gradient(params["w"]) + jnp.sum(batch)
    batches = jnp.array([[10.0], [20.0], [30.0]])
    still = metrics.train_bend(
        jax.random.key(1), loss_fn, *ends, batches, optimizer=optax.sgd(1.0), steps=600
    )
    taken, position = np.divmod(np.asarray(still.losses), 10)
    np.testing.assert_array_equal(taken, np.tile([1, 2, 3], 200))
    assert float(still.params["w"]) == 0.5
    # Quantiles of 600 uniform numbers deviate by at most 0.5 / sqrt(600) = 0.02.
    quantiles = np.quantile(position, [0.1, 0.5, 0.9])
    np.testing.assert_allclose(quantiles, [0.1, 0.5, 0.9], atol=0.08)


# Eigenvalues.


def top(masks: Any, k: int, iterations: int, dense: bool = True) -> Any:
    return jax.jit(
        lambda key, params: metrics.top_hessian_eigenvalues(
            key, LOSS, params, masks, BATCHES, k=k, iterations=iterations, dense=dense
        )
    )


@functools.cache
def whole_spectrum(dense: bool) -> metrics.HessianEigenvalues:
    """More iterations than weights that count."""
    return top(MASKS, 28, 40, dense)(jax.random.key(0), PARAMS)


@pytest.mark.parametrize("dense", [True, False])
def test_eigenvalues_equal_those_of_the_hessian_over_kept_weights(dense: bool) -> None:
    places = np.flatnonzero(kept(dense))
    assert 8 < len(places) < 28 - 4 * (not dense)
    want = np.linalg.eigvalsh(hessian()[np.ix_(places, places)])[::-1]
    # All eigenvalues, and NaN after them.
    found = whole_spectrum(dense)
    np.testing.assert_allclose(found.values[: len(places)], want, rtol=1e-3, atol=2e-5)
    assert np.isnan(found.values[len(places) :]).all()
    assert np.isnan(found.residuals[len(places) :]).all()
    assert (np.asarray(found.residuals[: len(places)]) < 1e-5).all()
    vectors = np.stack([flat(jax.tree.map(lambda v, i=i: v[i], found.vectors)) for i in range(28)])
    assert (vectors[:, ~kept(dense)] == 0).all()
    gram = vectors @ vectors.T
    np.testing.assert_allclose(gram[: len(places), : len(places)], np.eye(len(places)), atol=1e-5)
    largest = vectors[0, places] * np.sign(vectors[0, places[0]])
    exact = np.linalg.eigh(hessian()[np.ix_(places, places)])[1][:, -1]
    np.testing.assert_allclose(largest, exact * np.sign(exact[0]), atol=1e-3)


def test_residuals_say_how_far_an_eigenvalue_is() -> None:
    places = np.flatnonzero(kept(True))
    own = hessian()[np.ix_(places, places)]
    exact = np.linalg.eigvalsh(own)
    found = top(MASKS, 3, 5)(jax.random.key(0), PARAMS)
    for i in range(3):
        vector = flat(jax.tree.map(lambda v, i=i: v[i], found.vectors))[places]
        value, residual = float(found.values[i]), float(found.residuals[i])
        # The bound is the norm of the residual itself, and it bounds the distance.
        np.testing.assert_allclose(
            np.linalg.norm(own @ vector - value * vector), residual, rtol=1e-2, atol=1e-5
        )
        assert np.abs(exact - value).min() <= residual + 1e-5
    assert found.residuals[2] > 1e-3, "five iterations are too few for the third"


def test_an_eigenvalue_by_finite_differences() -> None:
    found = whole_spectrum(True)
    vector = jax.tree.map(lambda v: v[0], found.vectors)
    step, seen = 0.05, jaxsparse.apply_masks(PARAMS, MASKS)
    loss = jax.jit(lambda t: whole_loss(jax.tree.map(lambda w, v: w + t * v, seen, vector)))
    second = (loss(step) - 2 * loss(0.0) + loss(-step)) / step**2
    np.testing.assert_allclose(found.values[0], second, rtol=2e-2)


def test_multiple_eigenvalues_in_closed_form() -> None:
    """Lanczos from one vector sees each eigenvalue once; it goes on from another one."""
    curves = jnp.array([[5.0, 5.0, 5.0, 2.0, 2.0, -3.0, 9.0]])
    loss_fn = lambda params, batch: jnp.sum(batch * params["w"] ** 2) / 2
    masks = {"w": jnp.arange(7) < 6}
    top = lambda sign: metrics.top_hessian_eigenvalues(
        jax.random.key(0), loss_fn, {"w": jnp.ones(7)}, masks, sign * curves, k=7
    )
    largest = jax.jit(top)
    want = [5, 5, 5, 2, 2, -3, np.nan]
    np.testing.assert_allclose(largest(1.0).values, want, rtol=1e-5)
    # The most negative ones are those of the loss times -1.
    np.testing.assert_allclose(-largest(-1.0).values[0], -3, rtol=1e-5)
    np.testing.assert_allclose(largest(0.0).values, [0] * 6 + [np.nan], atol=1e-6)


def test_eigenvalues_under_vmap() -> None:
    """One network and mask each, of different densities: as one by one."""
    params = jax.tree.map(lambda w: jnp.stack([w, w / 2]), PARAMS)
    masks = jax.tree.map(lambda m: jnp.stack([m, jnp.ones_like(m)]), MASKS)
    find = lambda params, masks: metrics.top_hessian_eigenvalues(
        jax.random.key(0), LOSS, params, masks, BATCHES, k=2, iterations=24
    )
    found = jax.jit(jax.vmap(find))(params, masks)
    for i in range(2):
        alone = jax.jit(find)(*jax.tree.map(lambda x, i=i: x[i], (params, masks)))
        np.testing.assert_allclose(found.values[i], alone.values, rtol=1e-4)


def test_half_precision_is_widened_and_nothing_kept_is_nothing() -> None:
    loss_fn = lambda params, batch: jnp.sum(batch * params["w"] ** 2) / 2
    params, batches = {"w": jnp.ones(3, jnp.bfloat16)}, jnp.array([[1.0, 2.001, 4.003]])
    find = jax.jit(
        lambda masks: metrics.top_hessian_eigenvalues(
            jax.random.key(0), loss_fn, params, masks, batches, k=1
        )
    )
    found = find({"w": jnp.array([True, True, True])})
    assert found.vectors["w"].dtype == found.values.dtype == jnp.float32
    np.testing.assert_allclose(found.values, [4.003], rtol=1e-5)
    nothing = find({"w": jnp.zeros(3, bool)})
    assert np.isnan(nothing.values[0])
    assert nothing.vectors["w"].tolist() == [[0, 0, 0]]


def test_bad_arguments() -> None:
    key, none = jax.random.key(0), jnp.zeros((1, 1))
    with pytest.raises(ValueError, match="k is 0; it must be at least 1"):
        metrics.top_hessian_eigenvalues(key, LOSS, PARAMS, MASKS, BATCHES, k=0)
    with pytest.raises(ValueError, match="k is 5 for 4 iterations and 28 weights; it must be"):
        metrics.top_hessian_eigenvalues(key, LOSS, PARAMS, MASKS, BATCHES, k=5, iterations=4)
    with pytest.raises(ValueError, match="chunk is 0; it must be at least 1"):
        metrics.losses_along(ring, metrics.linear_path(*RING), jnp.zeros(2), none, chunk=0)
    with pytest.raises(ValueError, match="steps is 0; it must be at least 1"):
        metrics.train_bend(key, ring, *RING, none, optimizer=optax.sgd(0.1), steps=0)
