"""Calibration: does a class that is given a probability of 0.8 turn out right in 8 of 10 cases?"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxsparse._dtypes import wide
from jaxsparse.metrics._examples import distributions, truth


class Reliability(NamedTuple):
    """Sums over the examples in each bin of confidence: a reliability diagram. A pytree.

    Sums of batches add up, ``jax.tree.map(jnp.add, first, second)``, to those of all examples:
    counts exactly, confidences up to rounding. So do those of devices, under ``jax.lax.psum``.

    Attributes:
      count: int32 (..., bins), examples in each bin.
      confidence: float32 (..., bins), sum of their confidences.
      correct: int32 (..., bins), how many of them are right.
    """

    count: Int[Array, "... bins"]
    confidence: Float[Array, "... bins"]
    correct: Int[Array, "... bins"]

    @property
    def mean_confidence(self) -> Float[Array, "... bins"]:
        """What a diagram has on its horizontal axis; NaN where a bin is empty."""
        return self.confidence / self.count

    @property
    def accuracy(self) -> Float[Array, "... bins"]:
        """What it has on its vertical axis; NaN where a bin is empty."""
        return self.correct / self.count


def reliability(
    probabilities: Float[Array, "n classes"],
    labels: Int[Array, " n"],
    *,
    bins: int = 15,
    edges: Float[Array, "*classes inner"] | None = None,
    classwise: bool = False,
    where: Bool[Array, " n"] | None = None,
) -> Reliability:
    """Sums over bins of equal width, or between given edges, of one batch.

    Bins are closed on the right, the first one on both sides: ``[0, 1/bins], (1/bins, 2/bins]...``.

    Args:
      probabilities: Each row sums to 1: softmax of logits.
      labels: In [0, classes).
      bins: How many, of equal width; read only without ``edges``.
      edges: Inner edges, increasing: one fewer than bins. With ``classwise`` also one row a class.
      classwise: Sums of each class's probability and of the examples of that class, (classes,
        bins), instead of those of the likeliest class.
      where: Which examples count; rows that do not, such as padding, may hold anything.

    Returns:
      A ``Reliability``. Rows that do not sum to 1 within 0.01, that hold a negative number or
      whose label is out of range make sums of confidences NaN, and with them every error.

    Raises:
      ValueError: if ``bins`` is less than 1.

    Example:
      >>> probabilities = jnp.array([[0.875, 0.125], [0.125, 0.875], [0.625, 0.375]])
      >>> found = reliability(probabilities, jnp.array([0, 0, 0]), bins=4)
      >>> found.count.tolist(), found.correct.tolist(), found.confidence.tolist()
      ([0, 0, 1, 2], [0, 0, 1, 1], [0.0, 0.0, 0.625, 1.75])
      >>> round(float(expected_calibration_error(found)), 3)  # (0.375 + 0.75) / 3
      0.375

    References:
      Guo et al., `On Calibration of Modern Neural Networks <https://arxiv.org/abs/1706.04599>`_,
      ICML 2017, section 2.
    """
    if edges is None:
        edges = jnp.asarray(_inner_edges(bins), jnp.float32)
    return _reliability(probabilities, labels, edges, where, classwise)


def equal_mass_reliability(
    probabilities: Float[Array, "n classes"],
    labels: Int[Array, " n"],
    *,
    bins: int = 15,
    classwise: bool = False,
    where: Bool[Array, " n"] | None = None,
) -> Reliability:
    """Sums over bins that hold equally many examples, up to one and up to ties.

    Needs all examples at once. Of a data set in batches, in two passes: the first one keeps the
    confidences, a number an example, and finds ``equal_mass_edges``; the second one adds up
    ``reliability(..., edges=edges)``. The result is the same.

    Args:
      probabilities: As for ``reliability``.
      labels: In [0, classes).
      bins: How many.
      classwise: As for ``reliability``; each class has bins of its own.
      where: Which examples count.

    Returns:
      A ``Reliability``. Equal confidences share a bin, the lowest that has room for one of them:
      bins above it may be empty. No order of the examples changes it.

    Raises:
      ValueError: if ``bins`` is less than 1.

    Example:
      >>> probabilities = jnp.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.4, 0.6]])
      >>> found = equal_mass_reliability(probabilities, jnp.array([0, 1, 1, 1]), bins=2)
      >>> found.count.tolist(), found.correct.tolist()
      ([2, 2], [1, 2])
    """
    _inner_edges(bins)
    confidences = probabilities.T if classwise else jnp.max(probabilities, axis=1)
    edges = equal_mass_edges(confidences, bins=bins, where=where)
    return _reliability(probabilities, labels, edges, where, classwise)


@functools.partial(jax.jit, static_argnames="bins")
def equal_mass_edges(
    confidences: Float[Array, "*classes n"],
    *,
    bins: int = 15,
    where: Bool[Array, " n"] | None = None,
) -> Float[Array, "*classes inner"]:
    """Inner edges of bins that hold equally many: the greatest confidence in each but the last.

    Args:
      confidences: Of all examples: ``probabilities.max(axis=1)``, or ``probabilities.T`` for edges
        of each class.
      bins: How many, at least 1.
      where: Which examples count.

    Returns:
      (..., bins - 1). Where bins cannot be equal, the first ones hold one example more.

    Raises:
      ValueError: if ``bins`` is less than 1.

    Example:
      >>> equal_mass_edges(jnp.array([0.5, 1.0, 0.75, 0.25, 0.0]), bins=2).tolist()
      [0.5]
    """
    _inner_edges(bins)
    confidences = wide(confidences)
    n = confidences.shape[-1]
    used = jnp.ones(n, bool) if where is None else where
    kept = jnp.where(used.reshape((1,) * (confidences.ndim - 1) + (n,)), confidences, jnp.inf)
    total = jnp.sum(used, dtype=jnp.int32)
    place = jnp.arange(1, bins, dtype=jnp.int32)
    # (Not place * total // bins, which is beyond int32 for a hundred million examples.)
    end = place * (total // bins) + jnp.minimum(place, total % bins)
    return jnp.take(jnp.sort(kept, axis=-1), jnp.maximum(end - 1, 0), axis=-1)


@jax.jit
def expected_calibration_error(
    reliability: Reliability,
) -> Float[Array, "*classes"]:
    """ECE: the mean gap between confidence and accuracy, bins weighted by what they hold.

    Args:
      reliability: Of bins of equal width or of equal mass.

    Returns:
      In [0, 1]; with ``classwise`` one a class, and their mean is the static calibration error
      (SCE) of Nixon et al. NaN without examples.

    Example:
      >>> sums = Reliability(jnp.array([4, 0, 6]), jnp.array([1.0, 0, 5.4]), jnp.array([2, 0, 6]))
      >>> round(float(expected_calibration_error(sums)), 4)  # (1 + 0.6) / 10
      0.16

    References:
      Naeini et al., `Obtaining Well Calibrated Probabilities Using Bayesian Binning
      <https://ojs.aaai.org/index.php/AAAI/article/view/9602>`_, AAAI 2015; Guo et al., 2017,
      equation 3.
    """
    gap = jnp.abs(reliability.correct - reliability.confidence)
    return jnp.sum(gap, axis=-1) / jnp.sum(reliability.count, axis=-1)


@jax.jit
def maximum_calibration_error(reliability: Reliability) -> Float[Array, "*classes"]:
    """MCE: the greatest gap between confidence and accuracy of a bin that holds anything.

    Args:
      reliability: Of bins of equal width or of equal mass.

    Returns:
      In [0, 1]; with ``classwise`` one a class. 0 without examples.

    Example:
      >>> sums = Reliability(jnp.array([4, 0, 6]), jnp.array([1.0, 0, 5.4]), jnp.array([2, 0, 6]))
      >>> round(float(maximum_calibration_error(sums)), 4)
      0.25

    References:
      Guo et al., 2017, equation 5.
    """
    gap = jnp.abs(reliability.correct - reliability.confidence)
    return jnp.max(gap / jnp.maximum(reliability.count, 1), axis=-1)


def adaptive_calibration_error(
    probabilities: Float[Array, "n classes"],
    labels: Int[Array, " n"],
    *,
    bins: int = 15,
    where: Bool[Array, " n"] | None = None,
) -> Float[Array, ""]:
    """ACE: the calibration error of every class's probability, in ranges of equal mass.

    Args:
      probabilities: Each row sums to 1.
      labels: In [0, classes).
      bins: Ranges of each class.
      where: Which examples count.

    Returns:
      Mean over classes, in [0, 1].

    Raises:
      ValueError: if ``bins`` is less than 1.

    Example:
      >>> probabilities = jnp.array([[0.9, 0.1], [0.4, 0.6]])
      >>> round(float(adaptive_calibration_error(probabilities, jnp.array([0, 1]), bins=2)), 4)
      0.25

    Differences from the paper: equal probabilities stay in one range, so that the order of the
    examples does not matter; a range then counts by what it holds. Without ties, and where
    ``bins`` divides the examples, this is the paper's equation.

    References:
      Nixon et al., `Measuring Calibration in Deep Learning <https://arxiv.org/abs/1904.01685>`_,
      CVPR workshops 2019, section 4.
    """
    sums = equal_mass_reliability(probabilities, labels, bins=bins, classwise=True, where=where)
    return jnp.mean(expected_calibration_error(sums))


@functools.partial(jax.jit, static_argnames="classwise")
def _reliability(
    probabilities: Array, labels: Array, edges: Array, where: Any, classwise: bool
) -> Reliability:
    values = distributions(probabilities, labels)
    used = jnp.ones(labels.shape, bool) if where is None else where
    if classwise:
        edges = jnp.broadcast_to(edges, (values.shape[1], edges.shape[-1]))
        return jax.vmap(_bin_sums, (1, 1, 0, None))(values, truth(labels, values), edges, used)
    correct = jnp.argmax(values, axis=1) == labels
    return _bin_sums(jnp.max(values, axis=1), correct, edges, used)


def _bin_sums(confidence: Array, correct: Array, edges: Array, used: Array) -> Reliability:
    # An edge belongs to the bin below it.
    bin_of = jnp.sum(confidence[:, None] > edges[None].astype(confidence.dtype), axis=1)
    inside = (bin_of[:, None] == jnp.arange(edges.shape[0] + 1)[None]) & used[:, None]
    return Reliability(
        jnp.sum(inside, axis=0, dtype=jnp.int32),
        # (Sums, not scattered additions, whose order a GPU does not fix.)
        jnp.sum(jnp.where(inside, confidence[:, None], 0.0), axis=0),
        jnp.sum(inside & correct[:, None], axis=0, dtype=jnp.int32),
    )


def _inner_edges(bins: int) -> np.ndarray:
    if bins < 1:
        raise ValueError(f"bins is {bins}; give at least 1")
    return np.arange(1, bins) / bins
