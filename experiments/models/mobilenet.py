"""MobileNet, version 1."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from .layers import batch_norm, conv, logits

# Output channels and stride of the 13 separable convolutions (the paper's Table 1).
_BLOCKS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *[(512, 1)] * 5,
    (1024, 2),
    (1024, 1),
)


class MobileNetV1(nn.Module):
    """MobileNet (Howard et al., 2017): depthwise convolutions, each followed by a 1x1 one.

    Depthwise kernels are named ``depthwise``: sparse-training papers leave them dense.

    Attributes:
      classes: Number of classes.
      width: Width multiplier: all channels are scaled by it and rounded down.
      dtype: Of the computation.
    """

    classes: int = 1000
    width: float = 1.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Logits of a batch of NHWC images."""
        x = conv(int(32 * self.width), 3, 2, dtype=self.dtype, name="conv1")(x)
        x = nn.relu(batch_norm(train, dtype=self.dtype, name="bn1")(x))
        for i, (features, stride) in enumerate(_BLOCKS, 1):
            x = _Separable(int(features * self.width), stride, dtype=self.dtype, name=f"block{i}")(
                x, train
            )
        return logits(nn.Dense(self.classes, dtype=self.dtype, name="head")(x.mean((1, 2))))


class _Separable(nn.Module):
    """A 3x3 convolution of each channel by itself, and a 1x1 convolution across channels."""

    features: int
    stride: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        channels = x.shape[-1]
        depthwise = conv(
            channels, 3, self.stride, groups=channels, dtype=self.dtype, name="depthwise"
        )
        x = nn.relu(batch_norm(train, dtype=self.dtype, name="bn1")(depthwise(x)))
        x = conv(self.features, 1, dtype=self.dtype, name="pointwise")(x)
        return nn.relu(batch_norm(train, dtype=self.dtype, name="bn2")(x))
