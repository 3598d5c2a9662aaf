"""Convolutions in a row, small enough for studies on a CPU."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from .layers import batch_norm, conv, logits


class PlainConv(nn.Module):
    """3x3 convolutions with batch normalization and ReLU, the first two with stride 2.

    All have as many channels; then the mean over the image and a linear layer.

    Attributes:
      depth: Number of convolutions.
      width: Channels of each.
      classes: Number of classes.
      dtype: Of the computation.
    """

    depth: int = 4
    width: int = 16
    classes: int = 10
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Logits of a batch of NHWC images."""
        for i in range(self.depth):
            stride = 2 if i < 2 else 1
            name = f"conv{i + 1}"
            x = conv(self.width, 3, stride, padding=1, products=True, dtype=self.dtype, name=name)(
                x
            )
            x = nn.relu(batch_norm(train, dtype=self.dtype, name=f"bn{i + 1}")(x))
        return logits(nn.Dense(self.classes, dtype=self.dtype, name="head")(x.mean((1, 2))))
