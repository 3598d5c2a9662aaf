"""Corruptions: JPEG by Pillow, pixel by pixel; blur by SciPy; noise by its moments."""

import io
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import scipy.ndimage
import scipy.stats

from jaxsparse.metrics import CORRUPTIONS, corruptions, through_jpeg
from jaxsparse.metrics.jpeg_codec import (
    _CHROMINANCE,
    _LEFT_HALF,
    _LUMINANCE,
    quantization,
)
from jaxsparse.subspaces import dct_matrix

# Programs for a few examples each: compiling them is what costs.
pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")

KEY = jax.random.key(0)
SEVERITIES = range(1, 6)


def pictures(n: int, *shape: int, smooth: float = 0.0) -> np.ndarray:
    """8-bit images over the whole range, of noise or of something smoother."""
    x = np.random.default_rng(0).normal(size=(n, *shape))
    x = scipy.ndimage.gaussian_filter(x, (0, smooth, smooth, 0))
    x = (x - x.min()) / (x.max() - x.min())
    return np.round(255 * x).astype(np.uint8)


def by_pillow(images: np.ndarray, quality: int, **options: Any) -> np.ndarray:
    found = []
    for image in images:
        file = io.BytesIO()
        gray = image.shape[-1] == 1
        PIL.Image.fromarray(image[..., 0] if gray else image).save(
            file, "JPEG", quality=quality, **options
        )
        found.append(np.asarray(PIL.Image.open(file)).reshape(image.shape))
    return np.stack(found)


class TestJpeg:
    @pytest.mark.parametrize("smooth", [0.0, 2.0])
    @pytest.mark.parametrize(
        ("shape", "quality", "subsampling"),
        [
            ((32, 32, 3), 80, True),
            ((32, 32, 3), 40, True),
            ((32, 32, 3), 58, False),
            ((28, 28, 1), 65, True),
            ((28, 28, 1), 5, True),
            ((37, 51, 3), 50, True),  # odd sizes: what is padded, and how
            ((37, 51, 3), 95, False),
            ((18, 9, 3), 80, True),
        ],
    )
    def test_every_pixel_is_pillows(
        self, shape: Any, quality: int, subsampling: bool, smooth: float
    ) -> None:
        images = pictures(6, *shape, smooth=smooth)
        options = {} if shape[-1] == 1 else {"subsampling": 2 if subsampling else 0}
        expected = by_pillow(images, quality, **options)
        given = jnp.asarray(images / 255, jnp.float32)
        found = np.asarray(255 * through_jpeg(given, quality, subsampling=subsampling))
        np.testing.assert_array_equal(np.round(found).astype(int), expected)
        assert (expected != images).mean() > 0.4  # a task, not the identity

    @pytest.mark.parametrize("severity", SEVERITIES)
    def test_the_corruption_is_pillows_default(self, severity: int) -> None:
        images = pictures(3, 32, 32, 3, smooth=1.0)
        expected = by_pillow(images, [80, 65, 58, 50, 40][severity - 1])
        found = CORRUPTIONS["jpeg_compression"](
            KEY, jnp.asarray(images / 255, jnp.float32), severity
        )
        np.testing.assert_array_equal(np.round(255 * np.asarray(found)).astype(int), expected)

    @pytest.mark.parametrize("quality", [1, 10, 49, 50, 51, 75, 100])
    def test_tables_are_pillows(self, quality: int) -> None:
        file = io.BytesIO()
        PIL.Image.new("RGB", (8, 8)).save(file, "JPEG", quality=quality)
        expected = PIL.Image.open(file).quantization
        for i, table in enumerate((_LUMINANCE, _CHROMINANCE)):
            assert quantization(table, quality).ravel().tolist() == list(expected[i])

    def test_the_transform_is_the_cosine_transform(self) -> None:
        exact = 8192 * 8**0.5 * dct_matrix(8, 8)[:4].T
        assert np.abs(np.asarray(_LEFT_HALF) - exact).max() < 2

    def test_colors_that_are_gray_stay_gray(self) -> None:
        gray = pictures(2, 16, 16, 1)
        expected = by_pillow(np.repeat(gray, 3, axis=-1), 50)
        assert (expected[..., :1] == expected).all()
        found = through_jpeg(jnp.asarray(gray / 255, jnp.float32), 50)
        np.testing.assert_array_equal(np.round(255 * np.asarray(found)), expected[..., :1])

    def test_errors(self) -> None:
        with pytest.raises(ValueError, match=r"quality is 0; it must be in \[1, 100\]"):
            through_jpeg(jnp.zeros((1, 8, 8, 1)), 0)
        with pytest.raises(ValueError, match=r"images have 2 channels; give 1 \(gray\) or 3"):
            through_jpeg(jnp.zeros((1, 8, 8, 2)), 50)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_blur_is_that_of_scipy(severity: int) -> None:
    images = pictures(2, 11, 14, 3) / 255
    sigma = [0.4, 0.6, 0.7, 0.8, 1.0][severity - 1]
    expected = scipy.ndimage.gaussian_filter(
        images, (0, sigma, sigma, 0), mode="nearest", truncate=4.0
    )
    found = CORRUPTIONS["gaussian_blur"](KEY, jnp.asarray(images, jnp.float32), severity)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_contrast_by_formula(severity: int) -> None:
    images = pictures(3, 7, 9, 3) / 255
    factor = [0.75, 0.5, 0.4, 0.3, 0.15][severity - 1]
    found = CORRUPTIONS["contrast"](KEY, jnp.asarray(images, jnp.float32), severity)
    for image, changed in zip(images, found, strict=True):
        for channel in range(3):
            mean = image[..., channel].mean()
            expected = mean + factor * (image[..., channel] - mean)
            np.testing.assert_allclose(changed[..., channel], expected, atol=1e-6)


# Standard errors of 120,000 values, four of them, are what is allowed.
GRAY = jnp.full((10, 40, 100, 3), 0.5)
N = GRAY.size


@pytest.mark.parametrize("severity", SEVERITIES)
def test_moments_of_noise(severity: int) -> None:
    sigma = [0.04, 0.06, 0.08, 0.09, 0.10][severity - 1]
    found = np.asarray(CORRUPTIONS["gaussian_noise"](KEY, GRAY, severity), np.float64)
    assert abs(found.mean() - 0.5) < 4 * sigma / N**0.5
    assert abs(found.std() / sigma - 1) < 4 / (2 * N) ** 0.5
    assert scipy.stats.kstest((found.ravel() - 0.5) / sigma, "norm").pvalue > 1e-4

    photons = [500, 250, 100, 75, 50][severity - 1]
    found = np.asarray(CORRUPTIONS["shot_noise"](KEY, GRAY, severity), np.float64)
    counts = found * photons
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-4)  # whole photons
    assert abs(counts.mean() - photons / 2) < 4 * (photons / 2 / N) ** 0.5
    assert abs(counts.var() / (photons / 2) - 1) < 4 * (3 / N) ** 0.5

    share = [0.01, 0.02, 0.03, 0.05, 0.07][severity - 1]
    found = np.asarray(CORRUPTIONS["impulse_noise"](KEY, GRAY, severity))
    for value, expected in ((0, share / 2), (1, share / 2), (0.5, 1 - share)):
        spread = (expected * (1 - expected) / N) ** 0.5
        assert abs((found == value).mean() - expected) < 4 * spread
    # Channels are hit on their own.
    assert ((found != 0.5).any(axis=-1) & (found == 0.5).any(axis=-1)).any()


@pytest.mark.parametrize(("severity", "most"), [(1, 2), (2, 4), (3, 6), (4, 8), (5, 10)])
def test_shifts_are_uniform(severity: int, most: int) -> None:
    n, size = 2000, 32
    at = np.arange(size) / 64
    images = jnp.asarray(np.broadcast_to(at[:, None] + at / 128, (n, size, size))[..., None])
    found = np.asarray(CORRUPTIONS["translation"](KEY, images.astype(jnp.float32), severity))
    # What is in the middle says where it was.
    middle = np.round(found[:, 16, 16, 0] * 64 * 128).astype(int)
    moves = np.stack([16 - middle // 128, 16 - middle % 128])
    for along in moves:
        seen = np.bincount(along + most, minlength=2 * most + 1)
        assert len(seen) == 2 * most + 1
        assert scipy.stats.chisquare(seen).pvalue > 1e-4
    assert abs(np.corrcoef(moves)[0, 1]) < 4 / n**0.5
    # Beyond the border: its own pixels.
    row, column = moves[:, 0]
    rows, columns = (np.clip(np.arange(size) - by, 0, size - 1) for by in (row, column))
    np.testing.assert_array_equal(found[0], np.asarray(images, np.float32)[0][rows][:, columns])


@pytest.mark.parametrize("name", CORRUPTIONS)
class TestEach:
    @pytest.mark.parametrize("shape", [(4, 28, 28, 1), (4, 32, 32, 3)])
    def test_stays_an_image(self, name: str, shape: Any) -> None:
        images = jnp.asarray(pictures(*shape, smooth=1.0) / 255, jnp.float32)
        corrupted = CORRUPTIONS[name](KEY, images, 3)
        assert (corrupted.shape, corrupted.dtype) == (images.shape, jnp.float32)
        assert ((corrupted >= 0) & (corrupted <= 1)).all()
        again = jax.jit(lambda key, images: CORRUPTIONS[name](key, images, 3))(KEY, images)
        np.testing.assert_allclose(again, corrupted, atol=1e-6)

    def test_severities_get_worse(self, name: str) -> None:
        images = jnp.asarray(pictures(4, 32, 32, 3, smooth=1.0) / 255, jnp.float32)
        error = lambda severity: CORRUPTIONS[name](KEY, images, severity) - images
        loss = [float(jnp.mean(error(severity) ** 2)) for severity in SEVERITIES]
        assert loss == sorted(loss)
        assert loss[0] > 0

    def test_over_seeds(self, name: str) -> None:
        images = jnp.asarray(pictures(4, 8, 8, 1) / 255, jnp.float32)
        keys = jax.random.split(KEY, 2)
        together = jax.vmap(lambda key: CORRUPTIONS[name](key, images, 5))(keys)
        alone = CORRUPTIONS[name](keys[1], images, 5)
        np.testing.assert_allclose(together[1], alone, atol=1e-6)
        same = bool((together[0] == together[1]).all())
        assert same == (name in ("gaussian_blur", "contrast", "jpeg_compression"))

    @pytest.mark.parametrize("severity", [0, 6])
    def test_errors(self, name: str, severity: int) -> None:
        with pytest.raises(ValueError, match=f"severity is {severity}; it must be 1, 2, 3, 4 or 5"):
            CORRUPTIONS[name](KEY, jnp.zeros((1, 8, 8, 1)), severity)


def test_the_table_of_the_docstring_has_all() -> None:
    rows = re.split(r"^=[= ]+$", corruptions.__doc__ or "", flags=re.MULTILINE)[2]
    assert {row.split()[0] for row in rows.strip().splitlines()} == set(CORRUPTIONS)
