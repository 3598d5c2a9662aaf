"""FGSM and PGD: worst cases of linear models by formula, balls without rounding, restarts."""

import functools
from typing import Any

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse.metrics import fgsm, pgd
from jaxsparse.metrics.adversarial import _in_unit_ball

# Programs for a few examples each: compiling them is what costs.
pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")

LABELS = jnp.zeros(1, jnp.int32)
WEIGHTS = jnp.asarray(np.random.default_rng(0).normal(size=(4, 4, 3)), jnp.float32)


def logistic(images: Any, labels: Any) -> Any:
    """Of labels 0 and 1, on a linear model of 4x4 images."""
    sign = 2 * labels.astype(jnp.float32) - 1
    return jax.nn.softplus(-sign * jnp.einsum("nhwc,hwc->n", images, WEIGHTS))


def waves(images: Any, labels: Any) -> Any:
    """Many maxima: where a climb ends depends on where it starts."""
    return jnp.sum(jnp.sin(40 * images + labels[:, None, None, None]), axis=(1, 2, 3))


def batch(n: int = 6, seed: int = 1) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    images = jnp.asarray(rng.uniform(0.3, 0.7, (n, 4, 4, 3)), jnp.float32)
    return images, jnp.asarray(rng.integers(0, 2, n), jnp.int32)


def uphill(labels: Any) -> np.ndarray:
    """Of the logistic loss: against the label's side."""
    sign = 1 - 2 * np.asarray(labels, np.float64)
    return sign[:, None, None, None] * np.asarray(WEIGHTS, np.float64)


@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
def test_a_linear_model_in_the_cube(attack: str) -> None:
    # The worst case of all in the ball: no other point of it has a greater loss.
    images, labels = batch()
    if attack == "fgsm":
        found = fgsm(logistic, images, labels, epsilon=0.1)
    else:
        run = functools.partial(pgd, epsilon=0.1, step_size=0.05, steps=6)
        found = run(jax.random.key(0), logistic, images, labels)
    np.testing.assert_allclose(found, images + 0.1 * np.sign(uphill(labels)), atol=1e-6)
    margin = np.einsum("nhwc,nhwc->n", np.asarray(images, np.float64), uphill(labels))
    worst = np.logaddexp(0, margin + 0.1 * np.abs(np.asarray(WEIGHTS, np.float64)).sum())
    np.testing.assert_allclose(logistic(found, labels), worst, rtol=1e-5)


@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
def test_a_linear_model_in_the_ball(attack: str) -> None:
    images, labels = batch()
    if attack == "fgsm":
        found = fgsm(logistic, images, labels, epsilon=0.25, norm="l2")
    else:
        run = functools.partial(pgd, epsilon=0.25, step_size=0.2, steps=40, norm="l2")
        found = run(jax.random.key(0), logistic, images, labels)
    direction = uphill(labels) / np.linalg.norm(WEIGHTS)
    np.testing.assert_allclose(found, images + 0.25 * direction, atol=1e-5)


def test_the_step_is_along_the_slope_of_differences() -> None:
    # Of a loss that is not linear, in float64 by differences.
    images, labels = batch(1)
    x, epsilon, small = np.asarray(images, np.float64), 1e-3, 1e-6
    loss = lambda x: np.sin(40 * x + float(labels[0])).sum()
    slopes = np.zeros_like(x)
    for at in np.ndindex(*x.shape):
        step = np.zeros_like(x)
        step[at] = small
        slopes[at] = (loss(x + step) - loss(x - step)) / (2 * small)
    found = fgsm(waves, images, labels, epsilon=epsilon, norm="l2")
    expected = epsilon * slopes / np.linalg.norm(slopes)
    np.testing.assert_allclose(found - images, expected, atol=1e-6)


@functools.partial(jax.jit, static_argnames=("norm", "one_step"))
def attacked(images: Any, epsilon: Any, weights: Any, norm: str, one_step: bool) -> Any:
    loss_fn = lambda images, labels: jnp.sum(jnp.cos(9 * images) + weights * images, axis=1)
    if one_step:
        return fgsm(loss_fn, images, LABELS, epsilon=epsilon, norm=norm)
    key = jax.random.key(3)
    return pgd(key, loss_fn, images, LABELS, epsilon=epsilon, step_size=epsilon, steps=3, norm=norm)


UNIT = st.floats(0, 1, width=32, allow_subnormal=False)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("one_step", [True, False])
@hypothesis.given(
    images=hnp.arrays(np.float32, (1, 12), elements=UNIT),
    epsilon=st.floats(2.0**-20, 2, width=32),
    weights=hnp.arrays(np.float32, (1, 12), elements=st.floats(-9, 9, width=32)),
)
def test_ball_and_bounds(
    norm: str, one_step: bool, images: Any, epsilon: float, weights: Any
) -> None:
    radius = np.float32(epsilon)
    found = np.asarray(attacked(jnp.asarray(images), radius, weights, norm, one_step))
    assert (found >= 0).all()
    assert (found <= 1).all()
    # Differences of two float32 are exact in float64 here.
    moved = found.astype(np.float64) - images.astype(np.float64)
    if norm == "linf":
        assert np.abs(moved).max() <= float(radius)
    else:
        # x + d rounds each of 12 pixels by at most half of the last place at 1.
        assert np.linalg.norm(moved) <= float(radius) * (1 + 1e-6) + 12**0.5 * 2.0**-24


def test_the_cube_is_left_by_plain_sums() -> None:
    # What rounding inwards is for: 0.6 + 0.1 rounds up in float32.
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 1, (1, 1000)).astype(np.float32)
    radius = np.float32(0.1)
    plain = (x + radius).astype(np.float64) - x.astype(np.float64)
    assert (plain > float(radius)).any()
    found = fgsm(lambda x, labels: jnp.sum(x, axis=1), jnp.asarray(x), LABELS, epsilon=0.1)
    moved = np.asarray(found, np.float64) - x.astype(np.float64)
    assert (moved <= float(radius)).all()
    # And no further inwards than to the next float.
    inner = x < 0.85
    beyond = np.nextafter(np.asarray(found), np.float32(2)).astype(np.float64)
    assert (beyond - x.astype(np.float64) > float(radius))[inner].all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_more_restarts_never_lower_a_loss(norm: str) -> None:
    images, labels = batch()
    run = functools.partial(pgd, epsilon=0.3, step_size=0.01, steps=5, norm=norm)
    losses = [
        waves(run(jax.random.key(2), waves, images, labels, restarts=n), labels) for n in (1, 2, 4)
    ]
    assert (losses[1] >= losses[0]).all()
    assert (losses[2] >= losses[1]).all()
    assert (losses[2] > losses[0]).any()


def test_the_best_of_the_restarts_of_each_example() -> None:
    images, labels = batch()
    key = jax.random.key(5)
    tries = []
    for number in range(3):
        # One step of no length: the starting points themselves.
        start = 0.2 * _in_unit_ball(jax.random.fold_in(key, number), images, "linf")
        tries.append(np.clip(images + start, 0, 1))
    losses = np.stack([waves(x, labels) for x in tries])
    assert len(set(losses.argmax(axis=0))) > 1
    best = np.stack(tries)[losses.argmax(axis=0), np.arange(len(images))]
    found = pgd(key, waves, images, labels, epsilon=0.2, step_size=0.0, steps=1, restarts=3)
    np.testing.assert_allclose(found, best, atol=1e-7)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_starting_points_are_uniform_in_the_ball(norm: str) -> None:
    points = np.asarray(_in_unit_ball(jax.random.key(0), jnp.zeros((20_000, 3)), norm), np.float64)
    if norm == "linf":
        radius = np.abs(points).max(axis=1)
        assert abs(np.cov(points.T) - np.eye(3) / 3).max() < 0.02
    else:
        radius = np.linalg.norm(points, axis=1)
        assert abs(np.cov(points.T) - np.eye(3) / 5).max() < 0.02  # radius^2 / (dimension + 2)
    assert radius.max() <= 1 + 1e-6
    # In three dimensions the cube of the radius is uniform: four deviations of 20,000.
    assert abs((radius**3 < 0.25).mean() - 0.25) < 4 * (0.25 * 0.75 / 20_000) ** 0.5


def test_no_slope_no_step() -> None:
    images, labels = batch()
    flat = lambda images, labels: 0 * jnp.sum(images, axis=(1, 2, 3))
    for norm in ("linf", "l2"):
        found = fgsm(flat, images, labels, epsilon=0.1, norm=norm)
        np.testing.assert_array_equal(found, images)


def test_slopes_whose_squares_vanish() -> None:
    images, labels = batch()
    tiny = lambda images, labels: 1e-30 * logistic(images, labels)
    found = fgsm(tiny, images, labels, epsilon=0.25, norm="l2")
    expected = fgsm(logistic, images, labels, epsilon=0.25, norm="l2")
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_loss_that_is_no_number() -> None:
    images, labels = batch()
    bad = lambda images, labels: jnp.where(labels == 0, jnp.nan, 1) * waves(images, labels)
    run = functools.partial(pgd, epsilon=0.1, step_size=0.05, steps=2, restarts=2)
    found = run(jax.random.key(0), bad, images, labels)
    np.testing.assert_array_equal(found[labels == 0], images[labels == 0])
    assert (found[labels == 1] != images[labels == 1]).any()


def test_over_seeds_and_radii() -> None:
    images, labels = batch()
    run = lambda key, epsilon: pgd(
        key, waves, images, labels, epsilon=epsilon, step_size=epsilon / 4, steps=3, restarts=2
    )
    keys, radii = jax.random.split(jax.random.key(0), 3), jnp.array([0.0, 0.1, 0.2])
    together = jax.jit(jax.vmap(run))(keys, radii)
    np.testing.assert_array_equal(together[0], images)
    for i in range(3):
        np.testing.assert_allclose(together[i], jax.jit(run)(keys[i], radii[i]), atol=1e-6)


def test_errors() -> None:
    images, labels = batch()
    with pytest.raises(ValueError, match=r"epsilon is -0.1; .*negative"):
        fgsm(waves, images, labels, epsilon=-0.1)
    with pytest.raises(ValueError, match=r"images lie in \[-1.*\], bounds are \(0.0, 1.0\); give"):
        fgsm(waves, images - 1.5, labels, epsilon=0.1)
    run = functools.partial(pgd, jax.random.key(0), waves, images, labels, epsilon=0.1)
    with pytest.raises(ValueError, match="steps is 0; give at least 1"):
        run(step_size=0.1, steps=0)
    with pytest.raises(ValueError, match="restarts is 0; give at least 1"):
        run(step_size=0.1, steps=1, restarts=0)
    mean = lambda images, labels: jnp.mean(waves(images, labels))
    with pytest.raises(ValueError, match=r"losses have shape \(\); give \(6,\), one an example"):
        pgd(jax.random.key(0), mean, images, labels, epsilon=0.1, step_size=0.1, steps=1)
