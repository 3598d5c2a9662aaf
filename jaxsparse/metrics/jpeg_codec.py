"""What baseline JPEG loses, as libjpeg does it: no bits are written, which lose nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxsparse._dtypes import wide

# ITU-T T.81, Annex K, tables K.1 and K.2.
_LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *[(99,) * 8] * 4,
)
# The cosine transform of libjpeg ("islow"), in units of 2^-13, a row a frequency; of the left half
# of a block, the right half mirrors it. To whole numbers, but not each to the nearest one: they are
# sums of the twelve constants that its factors are made of.
_LEFT_HALF = (
    (8192, 8192, 8192, 8192),
    (11363, 9633, 6437, 2260),
    (10703, 4433, -4433, -10703),
    (9633, -2259, -11362, -6436),
    (8192, -8192, -8192, 8192),
    (6437, -11362, 2261, 9633),
    (4433, -10704, 10704, -4433),
    (2260, -6436, 9633, -11363),
)
# JFIF's colors in units of 2^-16: rows R, G, B to columns Y, Cb, Cr; and back from Cb, Cr.
_FROM_RGB = ((19595, -11059, 32768), (38470, -21709, -27439), (7471, 32768, -5329))
_TO_RGB = ((0, -22554, 116130), (91881, -46802, 0))
_HALF = 2**15


def through_jpeg(
    images: Float[Array, "n height width channels"], quality: int, *, subsampling: bool = True
) -> Float[Array, "n height width channels"]:
    """Images as they come back from a JPEG file.

    Colors (JFIF's YCbCr), chroma at half the resolution and its triangle filter, tables and their
    scaling, the cosine transform in integers, rounding and padding are those of libjpeg, so that
    pixels are equal to those that Pillow reads back (of images more than 4 pixels wide).

    Args:
      images: In [0, 1], rounded to 8 bits first; 1 channel (gray) or 3 (RGB).
      quality: libjpeg's, 1 to 100.
      subsampling: Chroma of 2 by 2 pixels is one number: 4:2:0, the default of libjpeg and of
        Pillow below its highest qualities. Without: 4:4:4.

    Returns:
      In [0, 1], multiples of 1/255.

    Raises:
      ValueError: if ``quality`` or the number of channels is another.

    Example:
      >>> images = jnp.full((1, 8, 8, 1), 100 / 255)  # DC: 8 (100 - 128) / 16 = -14
      >>> found = through_jpeg(images, 50)
      >>> round(255 * float(found[0, 0, 0, 0]))
      100

    References:
      ITU-T T.81 (1992), Annexes A and K; JFIF 1.02; the source of libjpeg for quality and rounding.
    """
    if not 1 <= quality <= 100:
        raise ValueError(f"quality is {quality}; it must be in [1, 100]")
    if images.shape[-1] not in (1, 3):
        raise ValueError(f"images have {images.shape[-1]} channels; give 1 (gray) or 3 (RGB)")
    tables = [jnp.asarray(quantization(t, quality), jnp.int32) for t in (_LUMINANCE, _CHROMINANCE)]
    return _through(images, *tables, subsampling)


def quantization(table: tuple[tuple[int, ...], ...], quality: int) -> Int[np.ndarray, "8 8"]:
    """A table for a quality, as libjpeg scales it.

    Args:
      table: For quality 50.
      quality: 1 to 100.

    Returns:
      Divisors in [1, 255].

    Example:
      >>> quantization(((16,) * 8,) * 8, 75)[0, 0]
      np.int64(8)
    """
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return np.clip((np.asarray(table) * scale + 50) // 100, 1, 255)


@functools.partial(jax.jit, static_argnames="subsampling")
def _through(images: Array, luminance: Array, chrominance: Array, subsampling: bool) -> Array:
    pixels = jnp.floor(jnp.clip(wide(images), 0, 1) * 255 + 0.5).astype(jnp.int32)
    if images.shape[-1] == 1:
        decoded = _coded(pixels[..., 0], luminance)[..., None]
    else:
        y, blue, red = jnp.moveaxis(_to_ycc(pixels), -1, 0)
        code = _coded_halved if subsampling else _coded
        parts = [code(plane, chrominance) for plane in (blue, red)]
        decoded = _to_rgb(_coded(y, luminance), jnp.stack(parts, axis=-1))
    return (decoded / 255).astype(images.dtype)


def _coded(plane: Int[Array, "n h w"], table: Int[Array, "8 8"]) -> Int[Array, "n h w"]:
    """Blocks of 8 by 8, transformed, rounded to multiples of the table, and back."""
    n, height, width = plane.shape
    padded = jnp.pad(plane, ((0, 0), (0, -height % 8), (0, -width % 8)), mode="edge")
    rows, columns = padded.shape[1] // 8, padded.shape[2] // 8
    blocks = (padded - 128).reshape(n, rows, 8, columns, 8)
    divisors = 8 * table[None, None, :, None, :]
    # Rows, then columns, to eighths of a coefficient; halves of a level are rounded away from zero.
    eighths = _shifted(_shifted(blocks, "nbicj,lj->nbicl", 11), "nbicl,ki->nbkcl", 15)
    levels = jnp.sign(eighths) * ((jnp.abs(eighths) + divisors // 2) // divisors)
    restored = _shifted(levels * (divisors // 8), "nbkcl,ki->nbicl", 11)
    values = jnp.clip(_shifted(restored, "nbicl,lj->nbicj", 18) + 128, 0, 255)
    return values.reshape(padded.shape)[:, :height, :width]


def _shifted(blocks: Array, axes: str, bits: int) -> Array:
    """One axis transformed, rounded to units of 2^bits."""
    left = np.asarray(_LEFT_HALF)
    mirrored = left[:, ::-1] * (-1) ** np.arange(8)[:, None]
    matrix = jnp.asarray(np.concatenate([left, mirrored], axis=1), jnp.int32)
    return (jnp.einsum(axes, blocks, matrix) + 2 ** (bits - 1)) >> bits


def _coded_halved(plane: Int[Array, "n h w"], table: Int[Array, "8 8"]) -> Int[Array, "n h w"]:
    """At half the resolution: means of 2 by 2 pixels before, a triangle filter after."""
    n, height, width = plane.shape
    # Whole blocks of columns are padded before the means are taken, of rows afterwards.
    padded = jnp.pad(plane, ((0, 0), (0, height % 2), (0, -width % 16)), mode="edge")
    sums = padded.reshape(n, padded.shape[1] // 2, 2, padded.shape[2] // 2, 2).sum(axis=(2, 4))
    # Halves go down and up in turn.
    bias = 1 + jnp.arange(sums.shape[2], dtype=jnp.int32) % 2
    coded = _coded((sums + bias[None, None]) >> 2, table)[:, :, : (width + 1) // 2]
    sixteenths = _between(_between(coded, axis=1), axis=2)
    bias = 8 - jnp.arange(sixteenths.shape[2], dtype=jnp.int32) % 2
    return ((sixteenths + bias[None, None]) >> 4)[:, :height, :width]


def _between(x: Array, axis: int) -> Array:
    """Twice as many, each three times the nearer neighbor and once the further one."""
    ends = [(1, 1) if i == axis else (0, 0) for i in range(x.ndim)]
    padded, size = jnp.pad(x, ends, mode="edge"), x.shape[axis]
    before = jax.lax.slice_in_dim(padded, 0, size, axis=axis)
    after = jax.lax.slice_in_dim(padded, 2, size + 2, axis=axis)
    pairs = jnp.stack([3 * x + before, 3 * x + after], axis=axis + 1)
    return pairs.reshape(*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])


def _to_ycc(pixels: Int[Array, "n h w 3"]) -> Int[Array, "n h w 3"]:
    # Chroma is shifted by 128, and its halves go down.
    shift = jnp.asarray([_HALF, 128 * 2**16 + _HALF - 1, 128 * 2**16 + _HALF - 1], jnp.int32)
    return (_times(pixels, _FROM_RGB) + shift[None, None, None]) >> 16


def _to_rgb(y: Int[Array, "n h w"], chroma: Int[Array, "n h w 2"]) -> Int[Array, "n h w 3"]:
    return jnp.clip(y[..., None] + ((_times(chroma - 128, _TO_RGB) + _HALF) >> 16), 0, 255)


def _times(x: Array, matrix: tuple[tuple[int, ...], ...]) -> Array:
    """The last axis by a matrix of integers."""
    terms = x[..., None] * jnp.asarray(matrix, jnp.int32)[None, None, None]
    return jnp.sum(terms, axis=-2, dtype=jnp.int32)
