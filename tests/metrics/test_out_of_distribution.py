"""Scores by formula; AUROC, AUPR and FPR95 by scikit-learn, ties and all; histograms by bounds."""

from typing import Any

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
import sklearn.metrics

from jaxsparse.metrics import (
    ScoreHistogram,
    aupr,
    aupr_bounds,
    auroc,
    auroc_bounds,
    count_scores,
    energy,
    fpr_at_tpr,
    fpr_bounds,
    max_softmax,
    predictive_entropy,
)

# Programs for a few examples each: compiling them is what costs.
pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")

INSIDE, OUTSIDE = 40, 25
# Few distinct values: most scores have equals, on either side.
TIED = st.sampled_from([-3.0, -1.0, -0.0, 0.0, 0.5, 1.0, 2.0, 1e30])
FREE = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)


def drawn_from(elements: Any) -> Any:
    return hypothesis.given(
        inside=hnp.arrays(np.float32, INSIDE, elements=elements),
        outside=hnp.arrays(np.float32, OUTSIDE, elements=elements),
    )


def truth(positive: str = "inside") -> np.ndarray:
    flags = np.repeat([1, 0], [INSIDE, OUTSIDE])
    return flags if positive == "inside" else 1 - flags


def scikit_fpr(inside: Any, outside: Any, tpr: float) -> float:
    fprs, tprs, _ = sklearn.metrics.roc_curve(
        np.repeat([1, 0], [len(inside), len(outside)]),
        np.concatenate([inside, outside]),
        drop_intermediate=False,
    )
    return fprs[np.argmax(tprs >= tpr)]


def check_all(inside: Any, outside: Any) -> None:
    both, pair = np.concatenate([inside, outside]), (jnp.asarray(inside), jnp.asarray(outside))
    area = sklearn.metrics.roc_auc_score(truth(), both)
    assert float(auroc(*pair)) == pytest.approx(area, abs=1e-6)
    precision = sklearn.metrics.average_precision_score(truth(), both)
    assert float(aupr(*pair)) == pytest.approx(precision, abs=1e-6)
    precision = sklearn.metrics.average_precision_score(truth("outside"), -both)
    assert float(aupr(*pair, positive="outside")) == pytest.approx(precision, abs=1e-6)
    for tpr in (0.95, 0.5, 1.0, 1 / INSIDE):
        expected = scikit_fpr(inside, outside, tpr)
        assert float(fpr_at_tpr(*pair, tpr=tpr)) == pytest.approx(expected, abs=1e-6)


@drawn_from(TIED)
def test_with_ties(inside: Any, outside: Any) -> None:
    check_all(inside, outside)


@drawn_from(FREE)
def test_without_ties(inside: Any, outside: Any) -> None:
    check_all(inside, outside)


def test_by_hand() -> None:
    inside, outside = jnp.array([3.0, 2, 2, 1]), jnp.array([2.0, 0])
    # Against 2: 1 + 1/2 + 1/2 + 0 of four; against 0: all.
    assert float(auroc(inside, outside)) == 6 / 8
    # Precisions: 1 of 1, 3 of 4 (twice), 4 of 5.
    assert float(aupr(inside, outside)) == pytest.approx((1 + 0.75 + 0.75 + 0.8) / 4)
    # From below: 0 first, 1 of 1; at 2 both of outside, with three of inside.
    assert float(aupr(inside, outside, positive="outside")) == pytest.approx((1 + 2 / 5) / 2)
    assert float(fpr_at_tpr(inside, outside)) == 0.5
    assert float(fpr_at_tpr(inside, outside, tpr=0.25)) == 0


def test_shares_that_floats_cannot_hold() -> None:
    # 0.07 * 100 is above 7 in floats, yet 7 of 100 are enough.
    inside, outside = jnp.arange(100.0), jnp.arange(100.0) - 0.5
    for tpr in (0.07, 0.14, 0.28, 0.29, 0.55, 0.56, 0.57, 0.58, 0.95):
        expected = scikit_fpr(np.asarray(inside), np.asarray(outside), tpr)
        assert float(fpr_at_tpr(inside, outside, tpr=tpr)) == pytest.approx(expected, abs=1e-6)


def test_two_normal_distributions() -> None:
    # Means d apart: the area is Phi(d / sqrt 2), FPR95 is Phi(Phi^-1(0.95) - d).
    rng, n = np.random.default_rng(0), 100_000
    inside = jnp.asarray(1.5 + rng.normal(size=n), jnp.float32)
    outside = jnp.asarray(rng.normal(size=n), jnp.float32)
    # Beyond int32, if pairs were counted.
    assert float(auroc(inside, outside)) == pytest.approx(
        scipy.stats.norm.cdf(1.5 / 2**0.5), abs=0.005
    )
    expected = scipy.stats.norm.cdf(scipy.stats.norm.ppf(0.95) - 1.5)
    assert float(fpr_at_tpr(inside, outside)) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("which", [0, 1])
def test_not_a_number(which: int) -> None:
    pair = [jnp.arange(4.0), jnp.arange(3.0)]
    pair[which] = pair[which].at[1].set(jnp.nan)
    assert jnp.isnan(auroc(*pair))
    assert jnp.isnan(aupr(*pair))
    assert jnp.isnan(aupr(*pair, positive="outside"))
    assert jnp.isnan(fpr_at_tpr(*pair))


def test_errors() -> None:
    scores = jnp.arange(3.0)
    histogram = ScoreHistogram(jnp.ones(3, jnp.int32), jnp.ones(3, jnp.int32))
    for function, data in ((fpr_at_tpr, (scores, scores)), (fpr_bounds, (histogram,))):
        for tpr in (0.0, 95.0, float("nan")):
            with pytest.raises(ValueError, match=rf"tpr is {tpr}; it must be in \(0, 1\]"):
                function(*data, tpr=tpr)
    with pytest.raises(ValueError, match="3 scores inside, 0 outside; give at least one"):
        fpr_at_tpr(scores, scores[:0])
    with pytest.raises(ValueError, match=r"temperature is 0\.0; it must be positive"):
        energy(jnp.ones((1, 3)), 0.0)


class TestScores:
    def logits(self) -> Any:
        return np.random.default_rng(0).normal(size=(9, 5)) * 3

    def test_by_scipy(self) -> None:
        logits, given = self.logits(), jnp.asarray(self.logits(), jnp.float32)
        p = scipy.special.softmax(logits, axis=1)
        np.testing.assert_allclose(max_softmax(given), p.max(axis=1), rtol=1e-5)
        expected = -scipy.stats.entropy(p, axis=1)
        np.testing.assert_allclose(predictive_entropy(given), expected, rtol=1e-4, atol=1e-6)
        for t in (1.0, 2.5):
            expected = t * scipy.special.logsumexp(logits / t, axis=1)
            np.testing.assert_allclose(energy(given, t), expected, rtol=1e-5)

    @pytest.mark.parametrize("score", [max_softmax, energy, predictive_entropy])
    def test_confident_is_inside(self, score: Any) -> None:
        logits = jnp.asarray(self.logits(), jnp.float32)
        # Sharper logits of the same winner: all three scores rise.
        assert (score(3 * (logits - logits.min(axis=1, keepdims=True))) > score(logits)).all()
        assert jnp.isfinite(score(jnp.array([[1e4, 0.0, -jnp.inf]]))).all()


@drawn_from(TIED)
def test_bounds_hold_what_scores_have(inside: Any, outside: Any) -> None:
    edges = jnp.array([-2.0, 0.0, 0.75])
    pair = jnp.asarray(inside), jnp.asarray(outside)
    histogram = ScoreHistogram(*(count_scores(x, edges) for x in pair))
    below = [(inside < -2).sum(), ((inside >= -2) & (inside < 0)).sum()]
    assert histogram.inside[:2].tolist() == below
    assert int(histogram.outside.sum()) == OUTSIDE
    measured = [
        (auroc(*pair), auroc_bounds(histogram)),
        (aupr(*pair), aupr_bounds(histogram)),
        (aupr(*pair, positive="outside"), aupr_bounds(histogram, positive="outside")),
        (fpr_at_tpr(*pair), fpr_bounds(histogram)),
        (fpr_at_tpr(*pair, tpr=0.5), fpr_bounds(histogram, tpr=0.5)),
    ]
    for value, (low, high) in measured:
        assert float(low) - 1e-6 <= float(value) <= float(high) + 1e-6
    share = np.bincount(np.digitize(inside, edges), minlength=4) / INSIDE
    shared = share @ (np.bincount(np.digitize(outside, edges), minlength=4) / OUTSIDE)
    low, high = auroc_bounds(histogram)
    assert float(high - low) == pytest.approx(shared, abs=1e-6)


def test_a_stream_with_padding() -> None:
    rng = np.random.default_rng(0)
    inside = jnp.asarray(rng.normal(1, 1, 1000), jnp.float32)
    outside = jnp.asarray(rng.normal(0, 1, 1000), jnp.float32)
    edges = jnp.linspace(-4, 5, 999)
    whole = ScoreHistogram(count_scores(inside, edges), count_scores(outside, edges))
    sums = ScoreHistogram(jnp.zeros(1000, jnp.int32), jnp.zeros(1000, jnp.int32))
    for start in range(0, 1000, 300):
        filled = max(start + 300 - 1000, 0)
        where = jnp.arange(300) < 300 - filled
        cut = lambda x, start=start, filled=filled: jnp.pad(x[start : start + 300], (0, filled))
        part = [count_scores(cut(x), edges, where=where) for x in (inside, outside)]
        sums = jax.tree.map(jnp.add, sums, ScoreHistogram(*part))
    jax.tree.map(np.testing.assert_array_equal, sums, whole)
    # A thousand bins: two digits more than anybody reports.
    for value, (low, high) in (
        (auroc(inside, outside), auroc_bounds(sums)),
        (fpr_at_tpr(inside, outside), fpr_bounds(sums)),
        (aupr(inside, outside), aupr_bounds(sums)),
    ):
        assert float(low) - 1e-6 <= float(value) <= float(high) + 1e-6
        assert float(high - low) < 0.01


def test_bins_of_ends_and_edges() -> None:
    scores = jnp.array([-jnp.inf, -1.0, 0.0, 0.5, 1.0, jnp.inf, jnp.nan])
    assert count_scores(scores, jnp.array([0.0, 1.0])).tolist() == [2, 2, 2]


def test_over_seeds() -> None:
    rng = np.random.default_rng(0)
    inside, outside = (jnp.asarray(rng.normal(size=(3, n)), jnp.float32) for n in (40, 25))
    for function in (auroc, aupr, fpr_at_tpr):
        together = jax.jit(jax.vmap(function))(inside, outside)
        alone = [function(*pair) for pair in zip(inside, outside, strict=True)]
        np.testing.assert_allclose(together, jnp.stack(alone), rtol=1e-6)
