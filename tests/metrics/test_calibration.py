"""Calibration: by hand, by scikit-learn, by loops over examples, and in batches."""

from typing import Any

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special
import sklearn.calibration
import sklearn.metrics

from jaxsparse.metrics import (
    Reliability,
    adaptive_calibration_error,
    brier_score,
    equal_mass_edges,
    equal_mass_reliability,
    expected_calibration_error,
    fit_temperature,
    maximum_calibration_error,
    negative_log_likelihood,
    reliability,
)

# Programs for a few examples each: compiling them is what costs.
pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")

N, CLASSES, BINS = 60, 4, 5


def drawn(seed: int = 0, n: int = N, scale: float = 2.0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    logits = jnp.asarray(scale * rng.normal(size=(n, CLASSES)), jnp.float32)
    return logits, jnp.asarray(rng.integers(0, CLASSES, n), jnp.int32)


def predicted(seed: int = 0, n: int = N) -> tuple[Any, Any]:
    logits, labels = drawn(seed, n)
    return jax.nn.softmax(logits), labels


def gaps(confidence: Any, correct: Any, bin_of: Any, bins: int) -> tuple[float, float]:
    """ECE and MCE as the papers write them, example by example."""
    total, worst = 0.0, 0.0
    for b in range(bins):
        members = [i for i in range(len(confidence)) if bin_of[i] == b]
        if members:
            mean = sum(float(confidence[i]) for i in members) / len(members)
            accuracy = sum(bool(correct[i]) for i in members) / len(members)
            total += len(members) / len(confidence) * abs(accuracy - mean)
            worst = max(worst, abs(accuracy - mean))
    return total, worst


def test_by_hand() -> None:
    # Four bins; an edge, 0.5, belongs to the bin below it, and 1 to the last one.
    p = jnp.array([[0.5, 0.25, 0.25], [0.75, 0.25, 0], [1, 0, 0], [0.375, 0.3125, 0.3125]])
    found = reliability(p, jnp.array([0, 1, 0, 2]), bins=4)
    assert found.count.tolist() == [0, 2, 1, 1]
    assert found.correct.tolist() == [0, 1, 0, 1]
    assert found.confidence.tolist() == [0, 0.875, 0.75, 1]
    # (|1 - 0.875| + |0 - 0.75| + 0) / 4, and the worst bin is the one of 0.75.
    assert float(expected_calibration_error(found)) == 0.21875
    assert float(maximum_calibration_error(found)) == 0.75
    np.testing.assert_array_equal(found.accuracy, [np.nan, 0.5, 0, 1])
    np.testing.assert_array_equal(found.mean_confidence, [np.nan, 0.4375, 0.75, 1])
    # Of class 2 alone: probabilities 0.25, 0, 0, 0.3125, and it is there in the last example.
    each = reliability(p, jnp.array([0, 1, 0, 2]), bins=4, classwise=True)
    assert each.count[2].tolist() == [3, 1, 0, 0]
    assert each.correct[2].tolist() == [0, 1, 0, 0]
    assert expected_calibration_error(each)[2] == (0.25 + 0.6875) / 4


@hypothesis.given(
    steps=hnp.arrays(np.int64, N, elements=st.integers(0, 20)),
    right=hnp.arrays(bool, N),
)
def test_equal_width_by_loops(steps: Any, right: Any) -> None:
    # Two classes, confidences of the likelier one in 0.5, 0.525 ... 1: many lie on an edge.
    confidence = jnp.asarray(0.5 + steps / 40, jnp.float32)
    p = jnp.stack([1 - confidence, confidence], axis=1)
    seen = np.maximum(p[:, 0], p[:, 1])
    labels = jnp.asarray(np.where(right, p.argmax(axis=1), 1 - p.argmax(axis=1)))
    found = reliability(p, labels, bins=BINS)
    # Right-closed, among the same float32 edges.
    edges = (np.arange(1, BINS) / BINS).astype(np.float32)
    bin_of = [sum(c > edge for edge in edges) for c in seen]
    assert found.count.tolist() == np.bincount(bin_of, minlength=BINS).tolist()
    ece, mce = gaps(seen, right, bin_of, BINS)
    assert float(expected_calibration_error(found)) == pytest.approx(ece, abs=1e-6)
    assert float(maximum_calibration_error(found)) == pytest.approx(mce, abs=1e-5)


@hypothesis.given(
    values=hnp.arrays(np.int64, N, elements=st.integers(1, 2**22), unique=True),
    right=hnp.arrays(bool, N),
)
def test_equal_mass_by_sorting(values: Any, right: Any) -> None:
    seen = (0.5 + values / 2.0**23).astype(np.float32)  # exact, so that none are equal
    p = jnp.asarray(np.stack([1 - seen, seen], axis=1))
    labels = jnp.asarray(right.astype(np.int32))
    found = equal_mass_reliability(p, labels, bins=7)
    bin_of = np.zeros(N, int)
    for b, members in enumerate(np.array_split(np.argsort(seen), 7)):
        bin_of[members] = b
    assert found.count.tolist() == [9, 9, 9, 9, 8, 8, 8]
    ece, mce = gaps(seen, right, bin_of, 7)
    assert float(expected_calibration_error(found)) == pytest.approx(ece, abs=1e-6)
    assert float(maximum_calibration_error(found)) == pytest.approx(mce, abs=1e-5)


def test_accuracy_of_a_diagram_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    p = rng.uniform(size=400)
    labels = (rng.uniform(size=400) < p).astype(int)
    both = jnp.asarray(np.stack([1 - p, p], axis=1), jnp.float32)
    for strategy, name in ((reliability, "uniform"), (equal_mass_reliability, "quantile")):
        found = strategy(both, jnp.asarray(labels), bins=8, classwise=True)
        accuracy, confidence = sklearn.calibration.calibration_curve(
            labels, p, n_bins=8, strategy=name
        )
        # (Of 400 in 8 bins, quantiles fall between examples: no convention is seen.)
        np.testing.assert_allclose(found.accuracy[1], accuracy, rtol=1e-6)
        np.testing.assert_allclose(found.mean_confidence[1], confidence, rtol=1e-5)


def test_adaptive_error_is_the_equation() -> None:
    p, labels = predicted()
    total = 0.0
    for k in range(CLASSES):
        order = np.argsort(p[:, k])
        for members in np.split(order, BINS):  # 12 each
            accuracy = (np.asarray(labels)[members] == k).mean()
            total += abs(accuracy - np.asarray(p, np.float64)[members, k].mean())
    found = adaptive_calibration_error(p, labels, bins=BINS)
    assert float(found) == pytest.approx(total / (CLASSES * BINS), rel=1e-5)


def test_no_order_changes_anything() -> None:
    # Confidences in quarters: ties at every edge.
    rng = np.random.default_rng(0)
    p = jnp.asarray(rng.multinomial(4, [0.4, 0.3, 0.2, 0.1], N) / 4, jnp.float32)
    labels = jnp.asarray(rng.integers(0, CLASSES, N))
    shuffled = rng.permutation(N)
    for classwise in (False, True):
        first = equal_mass_reliability(p, labels, bins=BINS, classwise=classwise)
        second = equal_mass_reliability(
            p[shuffled], labels[shuffled], bins=BINS, classwise=classwise
        )
        jax.tree.map(np.testing.assert_array_equal, first, second)
        assert (first.count.sum(axis=-1) == N).all()


@pytest.mark.parametrize("classwise", [False, True])
@pytest.mark.parametrize("equal_mass", [False, True])
def test_batches_with_padding_add_up(classwise: bool, equal_mass: bool) -> None:
    p, labels = predicted()
    edges = None
    whole = reliability(p, labels, bins=BINS, classwise=classwise)
    if equal_mass:  # two passes
        edges = equal_mass_edges(p.T if classwise else p.max(axis=1), bins=BINS)
        whole = equal_mass_reliability(p, labels, bins=BINS, classwise=classwise)
    sums = None
    for start in range(0, N, 16):
        batch, target = p[start : start + 16], labels[start : start + 16]
        filled = 16 - len(batch)
        batch = jnp.pad(batch, ((0, filled), (0, 0)), constant_values=jnp.nan)
        target = jnp.pad(target, (0, filled), constant_values=-1)
        where = jnp.arange(16) < 16 - filled
        part = reliability(batch, target, bins=BINS, edges=edges, classwise=classwise, where=where)
        sums = part if sums is None else jax.tree.map(jnp.add, sums, part)
    assert isinstance(sums, Reliability)
    assert (sums.count.dtype, sums.correct.dtype) == (jnp.int32, jnp.int32)
    np.testing.assert_array_equal(sums.count, whole.count)
    np.testing.assert_array_equal(sums.correct, whole.correct)
    np.testing.assert_allclose(sums.confidence, whole.confidence, rtol=1e-6)


def test_what_does_not_count_is_not_read() -> None:
    p, labels = predicted()
    logits = jnp.log(p)
    where = jnp.asarray(np.random.default_rng(0).random(N) < 0.5)
    spoiled = jnp.where(where[:, None], p, jnp.nan)
    kept, truth = p[where], labels[where]
    for function in (brier_score, adaptive_calibration_error):
        found = function(spoiled, jnp.where(where, labels, -1), where=where)
        assert float(found) == pytest.approx(float(function(kept, truth)), rel=1e-5)
    for function in (negative_log_likelihood, fit_temperature):
        found = function(jnp.log(spoiled), jnp.where(where, labels, 99), where=where)
        assert float(found) == pytest.approx(float(function(logits[where], truth)), rel=1e-4)


def test_scores_are_those_of_scikit_learn() -> None:
    p, labels = predicted()
    logits = drawn()[0]
    exact = scipy.special.softmax(np.asarray(logits, np.float64), axis=1)
    expected = sklearn.metrics.log_loss(labels, exact)
    assert float(negative_log_likelihood(logits, labels)) == pytest.approx(expected, rel=1e-5)
    expected = sklearn.metrics.brier_score_loss(labels, exact, scale_by_half=False)
    assert float(brier_score(p, labels)) == pytest.approx(expected, rel=1e-5)
    # Of two classes it is twice the number that goes by the same name.
    two = jax.nn.softmax(drawn()[0][:, :2])
    expected = sklearn.metrics.brier_score_loss(labels % 2, two[:, 1])
    assert float(brier_score(two, labels % 2)) == pytest.approx(2 * expected, rel=1e-5)


def test_means_of_batches_weigh_their_examples() -> None:
    p, labels = predicted()
    parts = [slice(0, 50), slice(50, N)]
    total = sum(len(labels[at]) * float(brier_score(p[at], labels[at])) for at in parts)
    assert total / N == pytest.approx(float(brier_score(p, labels)), rel=1e-6)


def test_confident_logits_lose_nothing() -> None:
    logits = jnp.array([[0.0, 200.0], [0.0, -jnp.inf]])
    found = negative_log_likelihood(logits, jnp.array([0, 0]))
    assert float(found) == 100


class TestWhatIsWrong:
    @pytest.mark.parametrize("label", [-1, CLASSES])
    def test_a_label_out_of_range(self, label: int) -> None:
        p, labels = predicted()
        labels, logits = labels.at[3].set(label), jnp.log(p)
        assert jnp.isnan(expected_calibration_error(reliability(p, labels)))
        assert jnp.isnan(adaptive_calibration_error(p, labels))
        assert jnp.isnan(brier_score(p, labels))
        assert jnp.isnan(negative_log_likelihood(logits, labels))
        assert jnp.isnan(fit_temperature(logits, labels))

    @pytest.mark.parametrize("signs", [True, False])
    def test_logits_for_probabilities(self, signs: bool) -> None:
        logits, labels = drawn()
        logits = logits if signs else jnp.abs(logits)
        for classwise in (False, True):
            sums = reliability(logits, labels, classwise=classwise)
            assert jnp.isnan(expected_calibration_error(sums)).all()
            assert jnp.isnan(maximum_calibration_error(sums)).all()
        assert jnp.isnan(brier_score(logits, labels))

    def test_no_examples(self) -> None:
        p, labels = predicted()
        nothing = jnp.zeros(N, bool)
        assert jnp.isnan(expected_calibration_error(reliability(p, labels, where=nothing)))
        assert jnp.isnan(brier_score(p, labels, where=nothing))
        assert jnp.isnan(fit_temperature(jnp.log(p), labels, where=nothing))

    def test_errors(self) -> None:
        p, labels = predicted()
        for function in (reliability, equal_mass_reliability, adaptive_calibration_error):
            with pytest.raises(ValueError, match="bins is 0; give at least 1"):
                function(p, labels, bins=0)
        with pytest.raises(ValueError, match=r"bounds are \(0.0, 1.0\); give a positive"):
            fit_temperature(p, labels, bounds=(0.0, 1.0))


class TestTemperature:
    def test_by_formula(self) -> None:
        # One logit of 8 against 0, right in 3 of 4: sigmoid(8 / T) = 3/4.
        found = fit_temperature(jnp.array([[0.0, 8.0]] * 4), jnp.array([1, 1, 1, 0]))
        assert float(found) == pytest.approx(8 / np.log(3), rel=1e-6)

    @pytest.mark.parametrize("scale", [0.02, 1.0, 30.0])
    def test_by_another_optimizer(self, scale: float) -> None:
        logits, labels = drawn(scale=1.0)
        labels = jnp.where(jnp.arange(N) < 30, logits.argmax(axis=1), labels)
        wide = scale * np.asarray(logits, np.float64)
        picked = wide[np.arange(N), labels]
        loss = lambda t: (scipy.special.logsumexp(wide / t, axis=1) - picked / t).mean()
        best = scipy.optimize.minimize_scalar(
            lambda log_t: loss(np.exp(log_t)), bounds=(-6, 6), options={"xatol": 1e-9}
        )
        found = float(fit_temperature(scale * logits, labels, bounds=(1e-3, 1e3)))
        assert found == pytest.approx(np.exp(best.x), rel=1e-4)
        assert negative_log_likelihood(scale * logits / found, labels) <= negative_log_likelihood(
            scale * logits, labels
        )

    def test_what_the_labels_were_drawn_with(self) -> None:
        logits, _ = drawn(n=20_000)
        labels = jax.random.categorical(jax.random.key(0), logits / 2.5)
        found = fit_temperature(logits, labels)
        assert float(found) == pytest.approx(2.5, rel=0.03)
        sums = lambda t: reliability(jax.nn.softmax(logits / t), labels)
        before, after = (expected_calibration_error(sums(t)) for t in (1.0, found))
        assert (float(before) > 0.2, float(after) < 0.01) == (True, True)

    def test_bounds(self) -> None:
        logits = jnp.array([[0.0, 3.0], [2.0, 0.0]])
        all_right, all_wrong = jnp.array([1, 0]), jnp.array([0, 1])
        found = [
            float(fit_temperature(logits, x, bounds=(0.125, 8.0))) for x in (all_right, all_wrong)
        ]
        assert found == [0.125, 8]

    def test_a_class_that_cannot_be(self) -> None:
        logits = jnp.array([[0.0, 8.0, -jnp.inf]] * 4)
        found = fit_temperature(logits, jnp.array([1, 1, 1, 0]))
        assert float(found) == pytest.approx(8 / np.log(3), rel=1e-6)


def test_over_seeds() -> None:
    p, labels = (jnp.stack(x) for x in zip(predicted(0), predicted(1), strict=True))
    sums = jax.vmap(lambda p, labels: reliability(p, labels, bins=BINS))(p, labels)
    temperatures = jax.vmap(fit_temperature)(jnp.log(p), labels)
    for i in range(2):
        one = reliability(p[i], labels[i], bins=BINS)
        np.testing.assert_array_equal(sums.count[i], one.count)
        assert float(temperatures[i]) == pytest.approx(
            float(fit_temperature(jnp.log(p[i]), labels[i])), rel=1e-5
        )
    np.testing.assert_allclose(
        expected_calibration_error(sums)[1], expected_calibration_error(one), rtol=1e-6
    )


def test_half_precision_is_summed_in_float32() -> None:
    p, labels = predicted()
    half = jnp.asarray(p, jnp.bfloat16)
    found = reliability(half, labels, bins=BINS)
    assert found.confidence.dtype == jnp.float32
    expected = np.asarray(half, np.float64).max(axis=1).sum()
    assert float(found.confidence.sum()) == pytest.approx(expected, rel=1e-6)
