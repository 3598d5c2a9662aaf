"""Scores that the true probabilities minimize, and the temperature that does so for one of them."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxsparse._dtypes import wide, wide_dtype
from jaxsparse.metrics._examples import distributions, in_range, truth

_BISECTIONS = 40


@jax.jit
def brier_score(
    probabilities: Float[Array, "n classes"],
    labels: Int[Array, " n"],
    *,
    where: Bool[Array, " n"] | None = None,
) -> Float[Array, ""]:
    """Brier score as in 1950: squared distances to the truth, summed over classes.

    Of batches: their mean, weighted by how many examples count in each.

    Args:
      probabilities: Each row sums to 1.
      labels: In [0, classes).
      where: Which examples count.

    Returns:
      Mean over examples, in [0, 2]: for two classes twice what is often called Brier score. NaN
      where rows or labels are not what they should be, and without examples.

    Example:
      >>> round(float(brier_score(jnp.array([[0.8, 0.2]]), jnp.array([1]))), 4)
      1.28

    References:
      Brier, `Verification of forecasts expressed in terms of probability
      <https://doi.org/10.1175/1520-0493(1950)078%3C0001:VOFEIT%3E2.0.CO;2>`_, 1950, equation 2.
    """
    values = distributions(probabilities, labels)
    return jnp.mean(jnp.sum((values - truth(labels, values)) ** 2, axis=1), where=where)


@jax.jit
def negative_log_likelihood(
    logits: Float[Array, "n classes"],
    labels: Int[Array, " n"],
    *,
    where: Bool[Array, " n"] | None = None,
) -> Float[Array, ""]:
    """Mean cross-entropy, in nats.

    Of batches: their mean, weighted by how many examples count in each.

    Args:
      logits: Or log-probabilities.
      labels: In [0, classes).
      where: Which examples count.

    Returns:
      Mean over examples; NaN where a label is out of range, and without examples.

    Example:
      >>> round(float(negative_log_likelihood(jnp.zeros((3, 10)), jnp.array([1, 5, 9]))), 4)
      2.3026
    """
    log_p = jax.nn.log_softmax(wide(logits), axis=1)
    picked = jnp.where(truth(labels, logits), log_p, 0.0)
    return jnp.mean(
        jnp.where(in_range(labels, logits), -jnp.sum(picked, axis=1), jnp.nan), where=where
    )


def fit_temperature(
    logits: Float[Array, "n classes"],
    labels: Int[Array, " n"],
    *,
    bounds: tuple[float, float] = (0.01, 100.0),
    where: Bool[Array, " n"] | None = None,
) -> Float[Array, ""]:
    """The temperature T of least cross-entropy of ``softmax(logits / T)``: temperature scaling.

    The cross-entropy is convex in 1 / T. Its slope is bisected between the bounds until float32
    cannot tell them apart: no step size, no starting point.

    Args:
      logits: Of held-out examples, not of those that the report is about.
      labels: In [0, classes).
      bounds: Least and greatest T, positive.
      where: Which examples count.

    Returns:
      T, within the bounds. It is the lower one where every example is classified right (colder is
      always better), and the upper one where the logits say less than nothing (hotter is). NaN
      where a label is out of range, and without examples.

    Raises:
      ValueError: if ``bounds`` are not positive and increasing.

    Example:
      >>> logits, labels = jnp.array([[0.0, 8.0]] * 4), jnp.array([1, 1, 1, 0])  # right in 3 of 4
      >>> temperature = fit_temperature(logits, labels)
      >>> [round(p, 4) for p in jax.nn.softmax(logits[0] / temperature).tolist()]
      [0.25, 0.75]

    References:
      Guo et al., `On Calibration of Modern Neural Networks <https://arxiv.org/abs/1706.04599>`_,
      ICML 2017, section 4.2, equation 9.
    """
    if not 0 < bounds[0] < bounds[1] < float("inf"):
        raise ValueError(f"bounds are {bounds}; give a positive temperature and a greater one")
    return _fit_temperature(logits, labels, jnp.asarray(bounds, wide_dtype(logits)), where)


@jax.jit
def _fit_temperature(logits: Array, labels: Array, bounds: Array, where: Any) -> Array:
    logits = wide(logits)
    right = truth(labels, logits)
    # Relative to that of the label: differences are what the slope is made of.
    over = logits - jnp.sum(jnp.where(right, logits, 0.0), axis=1, keepdims=True)
    over = jnp.where(in_range(labels, logits)[:, None], over, jnp.nan)

    def slope(temperature: Array) -> Array:
        """Of the cross-entropy, along 1 / T: it grows with 1 / T."""
        p = jax.nn.softmax(over / temperature, axis=1)
        # A class at -inf has no share, and adds nothing.
        return jnp.mean(jnp.sum(jnp.where(p == 0, 0.0, p * over), axis=1), where=where)

    def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        cold, hot = ends
        middle = jnp.sqrt(cold) * jnp.sqrt(hot)
        colder = slope(middle) < 0
        return jnp.where(colder, cold, middle), jnp.where(colder, middle, hot)

    cold, hot = jax.lax.fori_loop(0, _BISECTIONS, halve, (bounds[0], bounds[1]))
    # Where the slope has one sign throughout, the optimum is a bound itself.
    at_coldest, at_hottest = slope(bounds[0]), slope(bounds[1])
    best = jnp.where(at_coldest <= 0, bounds[0], jnp.sqrt(cold) * jnp.sqrt(hot))
    best = jnp.where(at_hottest >= 0, bounds[1], best)
    return jnp.where(jnp.isnan(at_coldest + at_hottest), jnp.nan, best)
