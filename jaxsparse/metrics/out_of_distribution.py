"""Out-of-distribution detection: do scores tell the test set from other data?

Every score here is larger the more an input looks like those of training, and every measure takes
scores of that sign: those of inputs from inside the distribution, and those from outside.
"""

import functools
import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxsparse._dtypes import wide

Positive = Literal["inside", "outside"]


@jax.jit
def max_softmax(logits: Float[Array, "*n classes"]) -> Float[Array, "*n"]:
    """The probability of the likeliest class.

    Args:
      logits: Of a classifier.

    Returns:
      In [1 / classes, 1], larger = more in-distribution.

    Example:
      >>> round(float(max_softmax(jnp.log(jnp.array([0.25, 0.75])))), 4)
      0.75

    References:
      Hendrycks and Gimpel, `A Baseline for Detecting Misclassified and Out-of-Distribution Examples
      in Neural Networks <https://arxiv.org/abs/1610.02136>`_, ICLR 2017.
    """
    return jnp.max(jax.nn.softmax(wide(logits), axis=-1), axis=-1)


def energy(
    logits: Float[Array, "*n classes"], temperature: float | Float[Array, ""] = 1.0
) -> Float[Array, "*n"]:
    """The negative free energy: ``T log sum exp(logits / T)``.

    Args:
      logits: Of a classifier.
      temperature: T, positive.

    Returns:
      Larger = more in-distribution: minus the paper's E(x).

    Raises:
      ValueError: if ``temperature`` is a number that is not positive.

    Example:
      >>> energy(jnp.log(jnp.array([[3.0, 5.0]]))).round(4).tolist()  # ln 8
      [2.07...]

    References:
      Liu et al., `Energy-based Out-of-distribution Detection <https://arxiv.org/abs/2010.03759>`_,
      NeurIPS 2020, equation 4.
    """
    if isinstance(temperature, (int, float)) and not temperature > 0:
        raise ValueError(f"temperature is {temperature}; it must be positive")
    return temperature * jax.nn.logsumexp(wide(logits) / temperature, axis=-1)


@jax.jit
def predictive_entropy(logits: Float[Array, "*n classes"]) -> Float[Array, "*n"]:
    """Minus the entropy of the predicted distribution, in nats.

    Args:
      logits: Of a classifier.

    Returns:
      In [-log(classes), 0], larger = more in-distribution: the entropy with its sign changed.

    Example:
      >>> predictive_entropy(jnp.array([[0.0, 0.0], [0.0, 200.0]])).round(4).tolist()  # -ln 2, 0
      [-0.69..., 0.0]
    """
    log_p = jax.nn.log_softmax(wide(logits), axis=-1)
    p = jnp.exp(log_p)
    return jnp.sum(jnp.where(p > 0, p * log_p, 0.0), axis=-1)


@jax.jit
def auroc(inside: Float[Array, " n"], outside: Float[Array, " m"]) -> Float[Array, ""]:
    """How often a score from inside is greater than one from outside, ties counted half.

    The area under the receiver operating characteristic; it is the same whichever is called
    positive.

    Args:
      inside: Scores of inputs from inside the distribution, larger = more in-distribution.
      outside: Scores of inputs from outside.

    Returns:
      In [0, 1]; 0.5 is chance. NaN if a score is, or if there is none.

    Example:
      >>> float(auroc(jnp.array([1.0, 2.0]), jnp.array([0.0, 1.0])))  # (1.5 + 2) / 4
      0.875
    """
    inside, outside = wide(inside), wide(outside)
    others = jnp.sort(outside)
    below = _count_below(others, inside)
    not_above = jnp.searchsorted(others, inside, side="right")
    return _or_nan(jnp.mean((below + not_above) / (2 * outside.size)), inside, outside)


def aupr(
    inside: Float[Array, " n"], outside: Float[Array, " m"], *, positive: Positive = "inside"
) -> Float[Array, ""]:
    """Average precision: the area under the precision-recall curve, in steps.

    The mean, over what is positive, of the precision at the threshold that just finds it.

    Args:
      inside: Scores of inputs from inside the distribution, larger = more in-distribution.
      outside: Scores of inputs from outside.
      positive: What is to be found: ``"inside"`` is reported as AUPR-In, ``"outside"`` as AUPR-Out.

    Returns:
      In [0, 1]; chance is the share of positives. NaN if a score is, or if there is none.

    Raises:
      ValueError: if ``positive`` is neither.

    Example:
      >>> float(aupr(jnp.array([1.0, 3.0]), jnp.array([0.0, 2.0])))  # (1 + 2/3) / 2
      0.8333...
    """
    _check_positive(positive)
    if positive == "outside":
        return _average_precision(-outside, -inside)
    return _average_precision(inside, outside)


def fpr_at_tpr(
    inside: Float[Array, " n"], outside: Float[Array, " m"], *, tpr: float = 0.95
) -> Float[Array, ""]:
    """FPR95: the share of outside taken for inside, at the threshold that keeps 95 % of inside.

    Args:
      inside: Scores of inputs from inside the distribution, larger = more in-distribution.
      outside: Scores of inputs from outside.
      tpr: Least share of inside at or above the threshold, in (0, 1]. The threshold is the
        greatest score of inside for which it holds.

    Returns:
      Share of outside at or above the threshold, in [0, 1]: lower is better. NaN if a score is.

    Raises:
      ValueError: if ``tpr`` is outside (0, 1], or there are no scores.

    Example:
      >>> inside, outside = jnp.arange(20.0), jnp.array([0.0, 0.5, 1.0, 2.0])
      >>> float(fpr_at_tpr(inside, outside))  # 19 of 20 are at least 1
      0.5
    """
    if not 0 < tpr <= 1:
        raise ValueError(f"tpr is {tpr}; it must be in (0, 1], for 95 % give 0.95")
    if inside.size == 0 or outside.size == 0:
        raise ValueError(f"{inside.size} scores inside, {outside.size} outside; give at least one")
    return _fpr(inside, outside, _least_count(tpr, inside.size))


class ScoreHistogram(NamedTuple):
    """How many scores lie between edges: what is left of a stream of them. A pytree.

    Histograms over the same edges add up: ``jax.tree.map(jnp.add, first, second)``. Order within a
    bin is lost, so that the measures of the scores themselves are known up to bounds:
    ``auroc_bounds``, ``aupr_bounds``, ``fpr_bounds``. They are as close as bins are fine.

    Attributes:
      inside: int32 (bins,), from ``count_scores`` of inputs from inside the distribution.
      outside: int32 (bins,), of inputs from outside.
    """

    inside: Int[Array, " bins"]
    outside: Int[Array, " bins"]


@jax.jit
def count_scores(
    scores: Float[Array, " n"],
    edges: Float[Array, " inner"],
    *,
    where: Bool[Array, " n"] | None = None,
) -> Int[Array, " bins"]:
    """How many scores of a batch lie in each bin; counts of batches add up.

    Args:
      scores: Of one batch.
      edges: Inner edges, increasing. The first and the last bin have no end: nothing is left out.
      where: Which scores count.

    Returns:
      int32, one more than edges. A score at an edge is in the bin above. NaN is not counted.

    Example:
      >>> count_scores(jnp.array([-5.0, 0.0, 0.2, 7.0]), jnp.array([0.0, 1.0])).tolist()
      [1, 2, 1]
    """
    used = ~jnp.isnan(scores) if where is None else where & ~jnp.isnan(scores)
    bin_of = jnp.searchsorted(edges, scores.astype(edges.dtype), side="right")
    return jnp.zeros(edges.size + 1, jnp.int32).at[bin_of].add(used.astype(jnp.int32))


@jax.jit
def auroc_bounds(histogram: ScoreHistogram) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Between which numbers the ``auroc`` of the counted scores lies.

    Args:
      histogram: Counts of both.

    Returns:
      Least and greatest, up to rounding; they differ by the share of pairs that share a bin, and
      their mean is the area under the curve as drawn from the histogram.

    Example:
      >>> histogram = ScoreHistogram(jnp.array([0, 1, 1]), jnp.array([1, 1, 0]))
      >>> [float(x) for x in auroc_bounds(histogram)]
      [0.75, 1.0]
    """
    share_in = histogram.inside / jnp.sum(histogram.inside)
    share_out = histogram.outside / jnp.sum(histogram.outside)
    up_to = jnp.cumsum(histogram.outside) / jnp.sum(histogram.outside)
    highest = jnp.sum(share_in * up_to)
    return highest - jnp.sum(share_in * share_out), highest


def aupr_bounds(
    histogram: ScoreHistogram, *, positive: Positive = "inside"
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Between which numbers the ``aupr`` of the counted scores lies.

    Args:
      histogram: Counts of both.
      positive: As for ``aupr``.

    Returns:
      Least and greatest, up to rounding.

    Raises:
      ValueError: if ``positive`` is neither.

    Example:
      >>> histogram = ScoreHistogram(jnp.array([0, 1, 1]), jnp.array([1, 1, 0]))
      >>> [round(float(x), 4) for x in aupr_bounds(histogram)]  # (2/3 + 1) / 2, (1 + 1) / 2
      [0.8333, 1.0]
    """
    _check_positive(positive)
    if positive == "outside":
        return _precision_bounds(histogram.outside, histogram.inside)
    return _precision_bounds(histogram.inside[::-1], histogram.outside[::-1])


@functools.partial(jax.jit, static_argnames="tpr")
def fpr_bounds(
    histogram: ScoreHistogram, *, tpr: float = 0.95
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Between which numbers the ``fpr_at_tpr`` of the counted scores lies.

    Args:
      histogram: Counts of both.
      tpr: As for ``fpr_at_tpr``.

    Returns:
      Least and greatest: the threshold lies in one bin, and they differ by what it holds.

    Raises:
      ValueError: if ``tpr`` is outside (0, 1].

    Example:
      >>> histogram = ScoreHistogram(jnp.array([1, 19]), jnp.array([3, 1]))
      >>> [float(x) for x in fpr_bounds(histogram, tpr=0.5)]
      [0.0, 0.25]
    """
    if not 0 < tpr <= 1:
        raise ValueError(f"tpr is {tpr}; it must be in (0, 1], for 95 % give 0.95")
    inside, outside = histogram.inside[::-1], histogram.outside[::-1]
    reached = jnp.cumsum(inside) / jnp.sum(inside) >= tpr
    at = jnp.argmax(reached)
    total = jnp.sum(outside)
    highest = jnp.cumsum(outside)[at]
    return (highest - outside[at]) / total, highest / total


def _check_positive(positive: str) -> None:
    if positive not in ("inside", "outside"):
        raise ValueError(f"positive is {positive!r}; give 'inside' or 'outside'")


def _least_count(tpr: float, n: int) -> int:
    """The least k with k / n >= tpr, in floats as a curve has them: 0.07 * 100 is above 7."""
    k = math.ceil(tpr * n)
    return k - 1 if (k - 1) / n >= tpr else k


def _count_below(ordered: Array, scores: Array) -> Array:
    """How many of the ordered ones are less than each score."""
    return jnp.searchsorted(ordered, scores, side="left")


def _or_nan(value: Array, *scores: Array) -> Array:
    """Sorting would take NaN for the greatest number."""
    return jnp.where(sum(jnp.any(jnp.isnan(x)) for x in scores), jnp.nan, value)


@jax.jit
def _average_precision(found: Array, others: Array) -> Array:
    found, others = wide(found), wide(others)
    right = found.size - _count_below(jnp.sort(found), found)
    wrong = others.size - _count_below(jnp.sort(others), found)
    return _or_nan(jnp.mean(right / (right + wrong)), found, others)


@functools.partial(jax.jit, static_argnames="k")
def _fpr(inside: Array, outside: Array, k: int) -> Array:
    inside, outside = wide(inside), wide(outside)
    threshold = jnp.sort(inside)[inside.size - k]
    return _or_nan(jnp.mean(outside >= threshold), inside, outside)


@jax.jit
def _precision_bounds(found: Array, others: Array) -> tuple[Array, Array]:
    """Bins in the order in which a falling threshold meets them.

    Precision grows with what is found and falls with what else is: at best a positive comes last
    among those of its bin and before all others there, at worst first and after them.
    """
    right, wrong = jnp.cumsum(found), jnp.cumsum(others)
    share = found / jnp.sum(found)
    first = right - found + 1
    lowest = jnp.sum(share * first / (first + wrong))
    before = wrong - others
    return lowest, jnp.sum(share * right / jnp.maximum(right + before, 1))
