"""VGG with batch normalization."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from .layers import batch_norm, conv, halve, logits

_BLOCKS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


class VGG(nn.Module):
    """VGG (Simonyan and Zisserman, 2015) with batch normalization after each convolution.

    As it stands, the variant for 32x32 images that pruning papers use: one linear layer after the
    convolutions. ``hidden=(4096, 4096), classes=1000`` is the original for ImageNet, less dropout.

    Attributes:
      depth: 11, 13, 16 or 19: layers with weights when ``hidden`` has two of them.
      classes: Number of classes.
      hidden: Widths of the fully connected layers before the last.
      widths: Channels of the convolutions of each block, before it is pooled; in place of
        ``depth``, for a smaller network of the kind.
      products: Convolve by products of matrices, for loops on a CPU.
      dtype: Of the computation.
    """

    depth: int = 19
    classes: int = 10
    hidden: Sequence[int] = ()
    widths: Sequence[Sequence[int]] = ()
    products: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Logits of a batch of NHWC images."""
        if self.depth not in _BLOCKS:
            raise ValueError(f"depth must be one of {sorted(_BLOCKS)}, got {self.depth}")
        blocks = self.widths or [
            [min(32 << block, 512)] * convs for block, convs in enumerate(_BLOCKS[self.depth], 1)
        ]
        for block, widths in enumerate(blocks, 1):
            for i, features in enumerate(widths, 1):
                name, dtype = f"{block}_{i}", self.dtype
                convolve = conv(
                    features, 3, padding=1, products=self.products, dtype=dtype, name=f"conv{name}"
                )
                x = nn.relu(batch_norm(train, dtype=dtype, name=f"bn{name}")(convolve(x)))
            x = halve(x)
        x = x.reshape(x.shape[0], -1)
        for i, features in enumerate(self.hidden, 1):
            x = nn.relu(nn.Dense(features, dtype=self.dtype, name=f"fc{i}")(x))
        return logits(nn.Dense(self.classes, dtype=self.dtype, name="head")(x))
