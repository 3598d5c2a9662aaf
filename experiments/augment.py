"""Normalization and augmentation of image batches, inside ``jit``."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp


def normalize(
    images: jax.Array, mean: jax.typing.ArrayLike, std: jax.typing.ArrayLike
) -> jax.Array:
    """Shift and scale each channel to mean 0 and standard deviation 1.

    Args:
      images: ``[..., C]``, uint8 or any real dtype.
      mean: Mean per channel, ``[C]`` or scalar, in the units of the pixels
        (`experiments.data.Dataset.mean`; on an out-of-distribution set, that of the train set).
      std: Standard deviation per channel, likewise; not 0.

    Returns:
      float32, shaped like ``images``.
    """
    channels = images.shape[-1:]
    rows = (1,) * (images.ndim - 1)
    shift = jnp.broadcast_to(jnp.asarray(mean, jnp.float32), channels).reshape(*rows, -1)
    scale = jnp.broadcast_to(jnp.asarray(std, jnp.float32), channels).reshape(*rows, -1)
    return (images.astype(jnp.float32) - shift) / scale


def augment(
    key: jax.Array,
    images: jax.Array,
    pad: int = 4,
    flip: bool = True,
    *,
    mode: Literal["reflect", "constant"] = "reflect",
) -> jax.Array:
    """Crop each image at random from its padded self, and mirror half of them.

    The augmentation that the literature trains CIFAR with. Every image draws its own offset and its
    own coin. Works on uint8, before `normalize`, which moves a quarter of the bytes; zeros of
    ``mode="constant"`` are then black. After `normalize` they are the channel's mean, as in He et
    al.; reflection is the choice of Wide ResNets, and the same either way.

    Args:
      key: PRNG key; map over it (and the images) with ``vmap`` for several seeds.
      images: ``[N, H, W, C]``, any dtype.
      pad: Pixels added at each side, and the largest shift, 0 to ``min(H, W) - 1``; 0 for no crop.
      flip: Whether to mirror left and right with probability 1/2.
      mode: What the padding holds: the reflected image without its edge, or zeros.

    Returns:
      Like ``images``, in shape and dtype.

    Raises:
      ValueError: if a shape, ``pad`` or ``mode`` is outside its range (before tracing).

    References:
      He et al., `Deep Residual Learning <https://arxiv.org/abs/1512.03385>`_, section 4.2.
      Zagoruyko and Komodakis, `Wide Residual Networks <https://arxiv.org/abs/1605.07146>`_,
      section 3.
    """
    if images.ndim != 4:
        raise ValueError(
            f"images have shape {images.shape}, expected [N, H, W, C]: add the missing axes, or "
            "map over the extra ones with vmap"
        )
    count, height, width, _ = images.shape
    if not 0 <= pad < min(height, width):
        raise ValueError(
            f"pad is {pad}, expected 0 to {min(height, width) - 1} for images of "
            f"{height} x {width}: choose a smaller one"
        )
    if mode not in ("reflect", "constant"):
        raise ValueError(f"mode is {mode!r}, expected 'reflect' or 'constant'")
    crop_key, flip_key = jax.random.split(key)
    if pad:
        border = ((0, 0), (pad, pad), (pad, pad), (0, 0))
        padded = jnp.pad(images, border, mode=mode)
        offsets = jax.random.randint(crop_key, (count, 2), 0, 2 * pad + 1)
        images = jax.vmap(functools.partial(_crop, size=(height, width)))(padded, offsets)
    if flip:
        mirrored = jax.random.bernoulli(flip_key, shape=(count, 1, 1, 1))
        images = jnp.where(mirrored, images[:, :, ::-1], images)
    return images


def _crop(image: jax.Array, offset: jax.Array, size: tuple[int, int]) -> jax.Array:
    """The window of ``size`` at ``offset`` of one ``[H, W, C]`` image."""
    starts = (offset[0], offset[1], jnp.zeros_like(offset[0]))
    return jax.lax.dynamic_slice(image, starts, (*size, image.shape[-1]))
