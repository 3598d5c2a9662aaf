"""Adversarial examples: how far the loss rises within a small ball around each image."""

import math
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxsparse._dtypes import wide_dtype

Norm = Literal["linf", "l2"]
ExampleLoss: TypeAlias = Callable[[Array, Array], Array]
"""``(images, labels) -> losses``, (n,): one an example, which no other example has a part in."""


def fgsm(
    loss_fn: ExampleLoss,
    images: Float[Array, "n ..."],
    labels: Int[Array, " n"],
    *,
    epsilon: float | Float[Array, ""],
    norm: Norm = "linf",
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Float[Array, "n ..."]:
    """Fast gradient sign method: one step along the gradient, to the edge of the ball.

    Args:
      loss_fn: ``(images, labels) -> losses`` (n,), in evaluation mode: what one image adds to
        another's loss (statistics of the batch) would be attacked too.
      images: Within the bounds. Networks that take normalized images: normalize in ``loss_fn``.
      labels: Handed to ``loss_fn``.
      epsilon: Radius of the ball, in units and dtype of the images; may be traced.
      norm: ``"linf"``, the sign of the gradient; ``"l2"``, its direction over all of an image.
      bounds: Least and greatest value of a pixel.

    Returns:
      Like ``images``; an image whose gradient is zero stays. In the L-inf ball and in the bounds
      without any rounding: ``|x' - x| <= epsilon`` holds of the real numbers that the floats are.
      In the L2 ball up to rounding.

    Raises:
      ValueError: if the norm is unknown, ``epsilon`` is negative, or images are beyond the bounds
        (the last two where they are not traced).

    Example:
      >>> loss_fn = lambda images, labels: images @ jnp.array([1.0, -2.0])
      >>> fgsm(loss_fn, jnp.array([[0.5, 0.5]]), jnp.array([0]), epsilon=0.25).tolist()
      [[0.75, 0.25]]

    References:
      Goodfellow et al., `Explaining and Harnessing Adversarial Examples
      <https://arxiv.org/abs/1412.6572>`_, ICLR 2015, section 4.
    """
    _check(images, epsilon, norm, bounds)
    limits = _limits(images, epsilon, norm, bounds)
    grads = _gradients(loss_fn, images, labels)
    return _inside(images + epsilon * _steepest(grads, norm), images, epsilon, norm, limits)


def pgd(
    key: PRNGKeyArray,
    loss_fn: ExampleLoss,
    images: Float[Array, "n ..."],
    labels: Int[Array, " n"],
    *,
    epsilon: float | Float[Array, ""],
    step_size: float | Float[Array, ""],
    steps: int,
    restarts: int = 1,
    norm: Norm = "linf",
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Float[Array, "n ..."]:
    """Projected gradient descent: steps uphill within the ball, from several random points of it.

    One program of a loop over restarts and one over steps: jit it together with the network.

    Args:
      key: Of the starting points. The first r of them do not depend on ``restarts``, so that
        more restarts never find less.
      loss_fn: ``(images, labels) -> losses`` (n,), in evaluation mode.
      images: Within the bounds.
      labels: Handed to ``loss_fn``.
      epsilon: Radius of the ball, in units of the images; may be traced.
      step_size: Length of a step in the norm; Madry et al. take ``2.5 * epsilon / steps`` in L2.
        May be traced.
      steps: Gradients of each restart.
      restarts: Starting points.
      norm: ``"linf"`` or ``"l2"``.
      bounds: Least and greatest value of a pixel.

    Returns:
      For every example, where the last step of one of the restarts has the greatest loss. In ball
      and bounds as for ``fgsm``. An image with no loss that is a number is returned as it is.

    Raises:
      ValueError: as for ``fgsm``; if ``steps`` or ``restarts`` is less than 1, or ``loss_fn``
        returns anything but one loss an example.

    Example:
      >>> loss_fn = lambda images, labels: images @ jnp.array([3.0, -4.0])
      >>> image, label = jnp.array([[0.5, 0.5]]), jnp.array([0])
      >>> attack = jax.tree_util.Partial(pgd, epsilon=0.25, step_size=0.125, steps=10, norm="l2")
      >>> [round(x, 3) for x in attack(jax.random.key(0), loss_fn, image, label)[0].tolist()]
      [0.65, 0.3]

    Differences from the paper: steps are clipped to the bounds after they are projected on the
    ball, which leaves them in both, but is not the nearest point of both.

    References:
      Madry et al., `Towards Deep Learning Models Resistant to Adversarial Attacks
      <https://arxiv.org/abs/1706.06083>`_, ICLR 2018, section 2.1.
    """
    _check(images, epsilon, norm, bounds)
    for name, value in (("steps", steps), ("restarts", restarts)):
        if value < 1:
            raise ValueError(f"{name} is {value}; give at least 1")
    losses = jax.eval_shape(loss_fn, images, labels)
    if losses.shape != labels.shape:
        raise ValueError(f"losses have shape {losses.shape}; give {labels.shape}, one an example")
    limits = _limits(images, epsilon, norm, bounds)
    project = lambda moved: _inside(moved, images, epsilon, norm, limits)

    def climb(_: Any, current: Array) -> Array:
        grads = _gradients(loss_fn, current, labels)
        return project(current + step_size * _steepest(grads, norm))

    def restart(best: tuple[Array, Array], number: Array) -> tuple[tuple[Array, Array], None]:
        start = epsilon * _in_unit_ball(jax.random.fold_in(key, number), images, norm)
        found = jax.lax.fori_loop(0, steps, climb, project(images + start))
        losses = loss_fn(found, labels)
        better = losses > best[1]
        chosen = jnp.where(_column(better, found), found, best[0])
        return (chosen, jnp.where(better, losses, best[1])), None

    worst = jnp.full(losses.shape, -jnp.inf, losses.dtype)
    (best, _), _ = jax.lax.scan(restart, (images, worst), jnp.arange(restarts))
    return best


def _gradients(loss_fn: ExampleLoss, images: Array, labels: Array) -> Array:
    """Of each example's loss: that of their sum, where examples have no part in one another."""
    return jax.grad(lambda images: jnp.sum(loss_fn(images, labels)))(images)


def _steepest(grads: Array, norm: str) -> Array:
    """The step of length 1 that raises a linear loss most; none where the gradient is zero."""
    if norm == "linf":
        return jnp.sign(grads)
    # The greatest first: squares of a confident network's gradients are below the least float.
    scale = jnp.max(jnp.abs(grads), axis=_pixels(grads), keepdims=True)
    scaled = grads / jnp.where(scale == 0, 1, scale)
    return scaled / jnp.where(scale == 0, 1, _length(scaled))


def _in_unit_ball(key: Array, images: Array, norm: str) -> Array:
    """Uniformly distributed in it, for each image."""
    dtype = wide_dtype(images)
    if norm == "linf":
        return jax.random.uniform(key, images.shape, dtype, -1.0, 1.0).astype(images.dtype)
    of_direction, of_radius = jax.random.split(key)
    direction = jax.random.normal(of_direction, images.shape, dtype)
    shares = jax.random.uniform(of_radius, images.shape[:1], dtype)
    radius = _column(shares, images) ** (1 / max(math.prod(images.shape[1:]), 1))
    return (radius * direction / _length(direction)).astype(images.dtype)


def _inside(moved: Array, images: Array, epsilon: Any, norm: str, limits: Any) -> Array:
    """Back into the ball, then into the limits."""
    if norm == "l2":
        offset = moved - images
        length = _length(offset)
        moved = images + offset * jnp.where(length > epsilon, epsilon / length, 1.0)
    return jnp.clip(moved, *limits).astype(images.dtype)


def _limits(images: Array, epsilon: Any, norm: str, bounds: tuple[float, float]) -> Any:
    """Between which values every pixel stays."""
    if norm == "l2":
        return bounds
    radius = jnp.asarray(epsilon, images.dtype)
    highest, lowest = _not_above_sum(images, radius), -_not_above_sum(-images, radius)
    return jnp.maximum(lowest, bounds[0]), jnp.minimum(highest, bounds[1])


def _not_above_sum(x: Array, radius: Array) -> Array:
    """The greatest float that is not above x + radius."""
    total = x + radius
    # What rounding took from the sum, exactly (Knuth's TwoSum): negative where it went up.
    part = total - x
    lost = (x - (total - part)) + (radius - part)
    return jnp.where(lost < 0, jnp.nextafter(total, jnp.full_like(total, -jnp.inf)), total)


def _length(x: Array) -> Array:
    return jnp.sqrt(jnp.sum(jnp.square(x), axis=_pixels(x), keepdims=True))


def _pixels(x: Array) -> tuple[int, ...]:
    return tuple(range(1, x.ndim))


def _column(values: Array, images: Array) -> Array:
    """One number an example, to be broadcast over its pixels."""
    return values.reshape(values.shape + (1,) * (images.ndim - 1))


def _check(images: Any, epsilon: Any, norm: str, bounds: tuple[float, float]) -> None:
    if norm not in ("linf", "l2"):
        raise ValueError(f"norm is {norm!r}; give 'linf' or 'l2'")
    if isinstance(epsilon, (int, float)) and not epsilon >= 0:
        raise ValueError(f"epsilon is {epsilon}; it must not be negative")
    if isinstance(images, Tracer) or images.size == 0:
        return
    # (NumPy: where something else is traced, jax would trace this too.)
    values = np.asarray(images)
    low, high = float(values.min()), float(values.max())
    if not bounds[0] <= low <= high <= bounds[1]:
        raise ValueError(
            f"images lie in [{low}, {high}], bounds are {bounds}; give the bounds of a pixel, and "
            "normalize images in loss_fn"
        )
