"""Calibration and data from outside, from logits to the files of a cell."""

import math
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import data, evaluate

pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")

CLASSES = 3


def dataset_of(name: str, labels: np.ndarray, images: np.ndarray | None = None) -> data.Dataset:
    """A set that has test images only."""
    if images is None:
        images = np.zeros((len(labels), 4, 4, 1), np.uint8)
    none = np.zeros((0, *images.shape[1:]), np.uint8)
    return data.Dataset(name, CLASSES, none, np.zeros(0, np.int32), images, labels, (0.0,), (1.0,))


@pytest.fixture(scope="module")
def found() -> tuple[np.ndarray, np.ndarray, np.ndarray, Any]:
    """Logits of two seeds, of which the second has NaN, and what is made of them."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, 200).astype(np.int32)
    inner = rng.normal(0, 1, (2, 200, CLASSES)).astype(np.float32)
    inner[0, np.arange(200), labels] += 2
    inner[1, 7] = np.nan
    outer = rng.normal(0, 1, (2, 100, CLASSES)).astype(np.float32)
    outside = evaluate.Outside("noise", np.zeros((100, 4, 4, 1), np.uint8))
    logits = lambda learner, images: jnp.asarray(outer if len(images) == 100 else inner)
    made = evaluate.evaluate_confidence(logits, None, dataset_of("digits", labels), outside)
    return labels, inner[0], outer[0], made


def probabilities(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64))
    return powers / powers.sum(-1, keepdims=True)


def calibration_error(shares: np.ndarray, labels: np.ndarray) -> float:
    """The definition, bin by bin."""
    top, right = shares.max(-1), shares.argmax(-1) == labels
    bins = np.ceil(top * evaluate.BINS).astype(int)
    gaps = [abs((right[bins == b] - top[bins == b]).sum()) for b in range(evaluate.BINS + 1)]
    return sum(gaps) / len(labels)


def test_calibration_of_the_test_images(found: Any) -> None:
    labels, inner, _, (numbers, histograms) = found
    shares = probabilities(inner)
    assert numbers.ece[0] == pytest.approx(calibration_error(shares, labels), abs=1e-5)
    assert numbers.brier[0] == pytest.approx(
        ((shares - np.eye(CLASSES)[labels]) ** 2).sum(1).mean()
    )
    assert histograms.count[0].sum() == 200
    assert histograms.correct[0].sum() == (shares.argmax(-1) == labels).sum()
    assert histograms.confidence[0].sum() == pytest.approx(shares.max(-1).sum())


def test_temperature_is_fitted_to_other_images_than_it_is_tried_on(found: Any) -> None:
    labels, inner, _, (numbers, _) = found

    def fitted(rows: slice) -> float:
        """The best of a fine grid."""
        right = np.arange(CLASSES) == labels[rows][:, None]
        loss = lambda t: -np.log(probabilities(inner[rows] / t)[right]).mean()
        coarse = min(np.geomspace(0.2, 5, 200), key=loss)
        return min(coarse * np.geomspace(0.98, 1.02, 200), key=loss)

    even, odd = slice(0, None, 2), slice(1, None, 2)
    assert numbers.temperature[0] == pytest.approx(fitted(slice(None)), rel=3e-4)
    scaled = inner.copy()
    scaled[even] /= fitted(odd)
    scaled[odd] /= fitted(even)
    expected = calibration_error(probabilities(scaled), labels)
    assert numbers.scaled_ece[0] == pytest.approx(expected, abs=2e-3)


def test_telling_inside_from_outside(found: Any) -> None:
    _, inner, outer, (numbers, histograms) = found
    inside, outside = (probabilities(each).max(-1) for each in (inner, outer))
    pairs = (inside[:, None] > outside).mean() + (inside[:, None] == outside).mean() / 2
    assert numbers.outside == "noise"
    assert numbers.auroc[0] == pytest.approx(pairs, abs=1e-5)
    assert numbers.fpr95[0] == pytest.approx((outside >= np.sort(inside)[10]).mean())
    for counts, scores in ((histograms.inside[0], inside), (histograms.outside[0], outside)):
        edges = np.linspace(0, 1, evaluate.FINE_BINS + 1)
        np.testing.assert_array_equal(counts, np.histogram(scores, edges)[0])


def test_a_seed_that_is_not_finite_has_no_numbers(found: Any) -> None:
    numbers, _ = found[-1]
    assert all(math.isnan(values[1]) for values in (numbers.ece, numbers.brier, numbers.auroc))
    assert all(math.isfinite(values[0]) for values in (numbers.ece, numbers.brier, numbers.auroc))


def test_shuffled_pixels_keep_each_image_s_histogram() -> None:
    images = np.random.default_rng(1).integers(0, 256, (5, 6, 6, 3)).astype(np.uint8)
    shuffled = evaluate.shuffle_pixels(images)
    assert shuffled.dtype == np.uint8
    assert (shuffled != images).any(axis=(1, 2, 3)).all()
    pixels = lambda image: sorted(map(tuple, image.reshape(-1, 3).tolist()))
    assert [pixels(image) for image in shuffled] == [pixels(image) for image in images]
    np.testing.assert_array_equal(shuffled, evaluate.shuffle_pixels(images))


def test_the_partner_is_outside_where_it_is_prepared(tmp_path: pathlib.Path) -> None:
    ours = dataset_of("mnist", np.zeros(3, np.int32))
    assert evaluate.images_outside(ours, tmp_path).name == "mnist with shuffled pixels"
    theirs = np.full((7, 4, 4, 1), 9, np.uint8)
    fields = vars(dataset_of("fashion_mnist", np.zeros(7, np.int32), theirs))
    np.savez(tmp_path / "fashion_mnist-1.0.0.npz", **fields, fingerprint="")
    outside = evaluate.images_outside(ours, tmp_path)
    assert outside.name == "fashion_mnist"
    np.testing.assert_array_equal(outside.images, theirs[:3])


def test_every_partner_is_a_data_set() -> None:
    assert {*evaluate.PARTNERS, *evaluate.PARTNERS.values()} <= {*data.NAMES}
    assert all(name != partner for name, partner in evaluate.PARTNERS.items())
