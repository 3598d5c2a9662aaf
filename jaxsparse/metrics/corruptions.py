"""Corrupted images: noise, blur, contrast, translation and JPEG, at five severities.

================ ================================= ============================ ==========
corruption       constant                          at severities 1 to 5         from
================ ================================= ============================ ==========
gaussian_noise   standard deviation                0.04, 0.06, 0.08, 0.09, 0.10 CIFAR-10-C
shot_noise       photons of a white pixel          500, 250, 100, 75, 50        CIFAR-10-C
impulse_noise    share of values                   0.01, 0.02, 0.03, 0.05, 0.07 CIFAR-10-C
gaussian_blur    standard deviation, pixels        0.4, 0.6, 0.7, 0.8, 1        CIFAR-10-C
contrast         factor                            0.75, 0.5, 0.4, 0.3, 0.15    CIFAR-10-C
jpeg_compression quality                           80, 65, 58, 50, 40           CIFAR-10-C
translation      greatest shift, share of the size 1/16, 2/16, 3/16, 4/16, 5/16 ours
================ ================================= ============================ ==========

Constants of CIFAR-10-C are those of its authors' program, ``ImageNet-C/create_c/make_cifar_c.py``
in github.com/hendrycks/robustness. They are meant for images of about 32 by 32 pixels.

Differences from the paper: images stay floats where the published ones are cut to 8 bits (JPEG
rounds them); random numbers are those of ``jax.random``. Of the 19 corruptions there, six are here.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxsparse._dtypes import wide
from jaxsparse.metrics.jpeg_codec import through_jpeg

Images: TypeAlias = Float[Array, "n height width channels"]
Corruption: TypeAlias = Callable[[PRNGKeyArray, Images, int], Images]
"""``(key, images, severity) -> images``, in [0, 1]; severity is a Python int from 1 to 5."""

_T = TypeVar("_T")
_REACH = 4  # of the widest blur, in pixels


def gaussian_noise(key: PRNGKeyArray, images: Images, severity: int) -> Images:
    """Normal noise on every value, then clipped.

    Args:
      key: Of the noise.
      images: In [0, 1].
      severity: 1 to 5, a Python int.

    Returns:
      Like ``images``, in [0, 1].

    Raises:
      ValueError: if ``severity`` is another.

    Example:
      >>> noisy = gaussian_noise(jax.random.key(0), jnp.full((1, 64, 64, 3), 0.5), 5)
      >>> round(float(noisy.std()), 2)
      0.1

    References:
      Hendrycks and Dietterich, `Benchmarking Neural Network Robustness to Common Corruptions and
      Perturbations <https://arxiv.org/abs/1903.12261>`_, ICLR 2019.
    """
    return _gaussian_noise(key, images, _at(severity, (0.04, 0.06, 0.08, 0.09, 0.10)))


def shot_noise(key: PRNGKeyArray, images: Images, severity: int) -> Images:
    """Poisson noise: photons are counted, then clipped.

    Args:
      key: Of the noise; of a ``threefry2x32`` generator, as ``jax.random.poisson`` needs it.
      images: In [0, 1].
      severity: 1 to 5, a Python int.

    Returns:
      Like ``images``, in [0, 1].

    Raises:
      ValueError: if ``severity`` is another.

    Example:
      >>> noisy = shot_noise(jax.random.key(0), jnp.full((1, 64, 64, 3), 0.5), 5)
      >>> round(float(noisy.std()), 2)  # sqrt(25) / 50
      0.1

    References:
      Hendrycks and Dietterich, 2019.
    """
    return _shot_noise(key, images, _at(severity, (500, 250, 100, 75, 50)))


def impulse_noise(key: PRNGKeyArray, images: Images, severity: int) -> Images:
    """Salt and pepper: some values become 0 or 1, each channel on its own.

    Args:
      key: Of the noise.
      images: In [0, 1].
      severity: 1 to 5, a Python int.

    Returns:
      Like ``images``, in [0, 1].

    Raises:
      ValueError: if ``severity`` is another.

    Example:
      >>> noisy = impulse_noise(jax.random.key(0), jnp.full((1, 64, 64, 3), 0.5), 5)
      >>> round(float((noisy != 0.5).mean()), 2)
      0.07

    References:
      Hendrycks and Dietterich, 2019.
    """
    return _impulse_noise(key, images, _at(severity, (0.01, 0.02, 0.03, 0.05, 0.07)))


def gaussian_blur(key: PRNGKeyArray, images: Images, severity: int) -> Images:
    """A normal filter, cut at 4 standard deviations; pixels at the border go on beyond it.

    Args:
      key: Not read: nothing is random.
      images: In [0, 1].
      severity: 1 to 5, a Python int.

    Returns:
      Like ``images``, in [0, 1].

    Raises:
      ValueError: if ``severity`` is another.

    Example:
      >>> point = jnp.zeros((1, 9, 9, 1)).at[0, 4, 4, 0].set(1)
      >>> round(float(gaussian_blur(jax.random.key(0), point, 5)[0, 4, 4, 0]), 3)  # 1 / (2 pi)
      0.159

    References:
      Hendrycks and Dietterich, 2019.
    """
    del key
    sigma = _at(severity, (0.4, 0.6, 0.7, 0.8, 1.0))
    # As many weights at every severity: one program for all.
    offsets = np.arange(-_REACH, _REACH + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2) * (abs(offsets) <= int(4 * sigma + 0.5))
    return _blurred(images, jnp.asarray(weights / weights.sum(), jnp.float32))


def contrast(key: PRNGKeyArray, images: Images, severity: int) -> Images:
    """Values are drawn towards the mean of their image and channel.

    Args:
      key: Not read: nothing is random.
      images: In [0, 1].
      severity: 1 to 5, a Python int.

    Returns:
      Like ``images``, in [0, 1].

    Raises:
      ValueError: if ``severity`` is another.

    Example:
      >>> images = jnp.array([0.0, 1.0]).reshape(1, 1, 2, 1)
      >>> contrast(jax.random.key(0), images, 2).ravel().tolist()
      [0.25, 0.75]

    References:
      Hendrycks and Dietterich, 2019.
    """
    del key
    return _contrast(images, _at(severity, (0.75, 0.5, 0.4, 0.3, 0.15)))


def translation(key: PRNGKeyArray, images: Images, severity: int) -> Images:
    """Each image is shifted by whole pixels, up or down and left or right.

    Shifts are uniform from minus to plus the greatest one, which is rounded to pixels; pixels at
    the border go on beyond it. (Ours: the benchmark has no translations.)

    Args:
      key: Of the shifts.
      images: In [0, 1].
      severity: 1 to 5, a Python int: of 32 pixels, shifts of up to 2, 4, 6, 8, 10.

    Returns:
      Like ``images``, in [0, 1].

    Raises:
      ValueError: if ``severity`` is another.

    Example:
      >>> images = jnp.tile(jnp.arange(8) / 8, (1, 8, 1))[..., None]  # columns are told apart
      >>> moved = translation(jax.random.key(1), images, 2)
      >>> int(8 * moved[0, 3, 3, 0]) - 3 in (-1, 0, 1)
      True
    """
    share = _at(severity, (1 / 16, 2 / 16, 3 / 16, 4 / 16, 5 / 16))
    most = np.floor(share * np.asarray(images.shape[1:3]) + 0.5)
    return _translated(key, images, jnp.asarray(most, jnp.int32))


def jpeg_compression(key: PRNGKeyArray, images: Images, severity: int) -> Images:
    """JPEG with 4:2:0 chroma subsampling, pixel by pixel what Pillow makes of it.

    Args:
      key: Not read: nothing is random.
      images: In [0, 1], with 1 channel or 3.
      severity: 1 to 5, a Python int.

    Returns:
      Like ``images``, in [0, 1].

    Raises:
      ValueError: if ``severity`` or the number of channels is another.

    Example:
      >>> ramp = jnp.tile(jnp.arange(16) / 16, (1, 16, 1))[..., None]
      >>> found = jpeg_compression(jax.random.key(0), ramp, 1)
      >>> 0 < float(jnp.abs(found - ramp).max()) < 0.05
      True

    References:
      Hendrycks and Dietterich, 2019; ``jaxsparse.metrics.jpeg_codec.through_jpeg``.
    """
    del key
    return through_jpeg(images, _at(severity, (80, 65, 58, 50, 40)))


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": gaussian_noise,
    "shot_noise": shot_noise,
    "impulse_noise": impulse_noise,
    "gaussian_blur": gaussian_blur,
    "contrast": contrast,
    "translation": translation,
    "jpeg_compression": jpeg_compression,
}
"""By name."""


def _at(severity: int, constants: Sequence[_T]) -> _T:
    if severity not in range(1, 6):
        raise ValueError(f"severity is {severity}; it must be 1, 2, 3, 4 or 5")
    return constants[severity - 1]


def _clipped(values: Array, images: Array) -> Array:
    return jnp.clip(values, 0, 1).astype(images.dtype)


# The constants are traced: a program serves all severities.


@jax.jit
def _gaussian_noise(key: Array, images: Array, scale: Array) -> Array:
    values = wide(images)
    return _clipped(values + scale * jax.random.normal(key, values.shape, values.dtype), images)


@jax.jit
def _shot_noise(key: Array, images: Array, photons: Array) -> Array:
    return _clipped(jax.random.poisson(key, wide(images) * photons) / photons, images)


@jax.jit
def _impulse_noise(key: Array, images: Array, share: Array) -> Array:
    values = wide(images)
    draw = jax.random.uniform(key, values.shape, values.dtype)
    extreme = jnp.where(draw < share / 2, 0.0, 1.0)
    return _clipped(jnp.where(draw < share, extreme, values), images)


@jax.jit
def _blurred(images: Array, weights: Array) -> Array:
    values = wide(images)
    for axis in (1, 2):
        ends = [(_REACH, _REACH) if i == axis else (0, 0) for i in range(4)]
        padded, size = jnp.pad(values, ends, mode="edge"), values.shape[axis]
        values = jnp.zeros_like(values)
        for i, weight in enumerate(weights):
            values += weight * jax.lax.slice_in_dim(padded, i, i + size, axis=axis)
    return _clipped(values, images)


@jax.jit
def _contrast(images: Array, factor: Array) -> Array:
    values = wide(images)
    means = jnp.mean(values, axis=(1, 2), keepdims=True)
    return _clipped((values - means) * factor + means, images)


@jax.jit
def _translated(key: Array, images: Array, most: Array) -> Array:
    shifts = jax.random.randint(key, (images.shape[0], 2), -most[None], most[None] + 1)

    def shifted(image: Array, shift: Array) -> Array:
        places = zip(image.shape[:2], shift, strict=True)
        rows, columns = (jnp.clip(jnp.arange(n) - by, 0, n - 1) for n, by in places)
        return image[rows][:, columns]

    return _clipped(jax.vmap(shifted)(wide(images), shifts), images)
