"""What the confidence of trained networks is worth: calibration, and data from outside.

Data from outside have the shape of the test images and other classes: another data set where it is
in the data directory, and else the test images themselves with their pixels in random order, which
keeps every image's brightness and contrast.
"""

import contextlib
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsparse import metrics

from . import arrays, data, records

BINS = 15
FINE_BINS = 40
# What is outside of each set; CIFAR-10 and CIFAR-100 have no class in common.
PARTNERS = {
    "mnist": "fashion_mnist",
    "fashion_mnist": "mnist",
    "kmnist": "mnist",
    "cifar10": "cifar100",
    "cifar100": "cifar10",
}


class Outside(NamedTuple):
    """Images that belong to none of the classes, uint8 as the data set's."""

    name: str
    images: np.ndarray


def images_outside(dataset: data.Dataset, data_dir: pathlib.Path | None) -> Outside:
    """Images of another set than the one that networks are trained on.

    Args:
      dataset: What networks are trained on.
      data_dir: TFDS data directory; by default that of ``data.load``.

    Returns:
      The partner's test images; where it has none or cannot be read, the set's own test images
      with shuffled pixels. No more of them than there are test images.
    """
    partner = PARTNERS.get(dataset.name)
    if partner is not None:
        with contextlib.suppress(data.MissingDatasetError, ValueError):
            images = data.load(partner, data_dir).test_images
            return Outside(partner, images[: len(dataset.test_images)])
    return Outside(f"{dataset.name} with shuffled pixels", shuffle_pixels(dataset.test_images))


def shuffle_pixels(images: np.ndarray) -> np.ndarray:
    """The pixels of each image in an order of its own, always the same one.

    Args:
      images: [N, height, width, channels].

    Returns:
      Of the same shape; the channels of a pixel stay together.
    """
    flat = images.reshape(len(images), -1, images.shape[-1])
    places = np.tile(np.arange(flat.shape[1]), (len(flat), 1))
    order = np.random.default_rng(0).permuted(places, axis=1)
    return np.take_along_axis(flat, order[:, :, None], axis=1).reshape(images.shape)


def evaluate_confidence(
    scores: Callable[[Any, Any], jax.Array], learner: Any, dataset: data.Dataset, outside: Outside
) -> tuple[records.Evaluation, arrays.Confidence]:
    """Evaluate trained networks, a seed at a time.

    Args:
      scores: ``learner, images -> logits [seeds, images, classes]``.
      learner: The trained networks.
      dataset: Its test images are what is inside.
      outside: What is outside.

    Returns:
      The numbers and the histograms; NaN in those of a seed whose logits are not finite.
    """
    inner, outer = scores(learner, dataset.test_images), scores(learner, outside.images)
    labels = jnp.asarray(dataset.test_labels)
    rows = [_of_one_seed(*each, labels) for each in zip(inner, outer, strict=True)]
    numbers, histograms = zip(*rows, strict=True)
    columns = [[float(x) for x in column] for column in zip(*numbers, strict=True)]
    ece, brier, temperature, scaled_ece, auroc, fpr95 = columns
    evaluation = records.Evaluation(ece, brier, temperature, scaled_ece, outside.name, auroc, fpr95)
    stacked = map(np.stack, zip(*histograms, strict=True))
    return evaluation, arrays.Confidence(*stacked)


def _of_one_seed(
    inner: jax.Array, outer: jax.Array, labels: jax.Array
) -> tuple[tuple[jax.Array, ...], tuple[np.ndarray, ...]]:
    probabilities = jax.nn.softmax(inner)
    sums = metrics.reliability(probabilities, labels, bins=BINS)
    temperature = metrics.fit_temperature(inner, labels)
    # Each half at the temperature of the other, so that the error is of all images, as `sums` is,
    # and of none that it was fitted to.
    halves = [
        metrics.reliability(jax.nn.softmax(inner[there::2] / fitted), labels[there::2], bins=BINS)
        for here, there in ((0, 1), (1, 0))
        for fitted in (metrics.fit_temperature(inner[here::2], labels[here::2]),)
    ]
    scaled = jax.tree.map(jnp.add, *halves)
    inside, outside = metrics.max_softmax(inner), metrics.max_softmax(outer)
    edges = jnp.arange(1, FINE_BINS) / FINE_BINS
    histograms = (*sums, *(metrics.count_scores(each, edges) for each in (inside, outside)))
    numbers = (
        metrics.expected_calibration_error(sums),
        metrics.brier_score(probabilities, labels),
        temperature,
        metrics.expected_calibration_error(scaled),
        metrics.auroc(inside, outside),
        metrics.fpr_at_tpr(inside, outside),
    )
    return numbers, tuple(map(np.asarray, histograms))
