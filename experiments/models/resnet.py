"""Residual networks: He's for CIFAR, wide ones, and ResNet-50."""

from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from .layers import batch_norm, conv, logits


class CifarResNet(nn.Module):
    """ResNet for 32x32 images (He et al., 2016, section 4.2): three stages of 3x3 blocks.

    Attributes:
      depth: ``6n + 2`` for ``n`` blocks a stage.
      width: Channels of the first stage; doubled in each of the next two.
      classes: Number of classes.
      shortcut: Where a block changes shape: ``"A"``, subsampling and zero channels, as in the paper
        on CIFAR (no parameters); ``"B"``, a 1x1 convolution with batch normalization.
      dtype: Of the computation.
    """

    depth: int = 20
    width: int = 16
    classes: int = 10
    shortcut: Literal["A", "B"] = "A"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Logits of a batch of NHWC images."""
        if self.depth < 8 or self.depth % 6 != 2:
            raise ValueError(f"depth must be 6n + 2 with n >= 1, got {self.depth}")
        x = conv(self.width, 3, padding=1, dtype=self.dtype, name="conv1")(x)
        x = nn.relu(batch_norm(train, dtype=self.dtype, name="bn1")(x))
        for stage in range(3):
            for block in range((self.depth - 2) // 6):
                x = _BasicBlock(
                    self.width << stage,
                    stride=2 if stage and not block else 1,
                    shortcut=self.shortcut,
                    dtype=self.dtype,
                    name=f"stage{stage + 1}_block{block + 1}",
                )(x, train)
        return logits(nn.Dense(self.classes, dtype=self.dtype, name="head")(x.mean((1, 2))))


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions, ReLU after the addition."""

    features: int
    stride: int
    shortcut: str
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = conv(self.features, 3, self.stride, padding=1, dtype=self.dtype, name="conv1")(x)
        y = nn.relu(batch_norm(train, dtype=self.dtype, name="bn1")(y))
        y = conv(self.features, 3, padding=1, dtype=self.dtype, name="conv2")(y)
        y = batch_norm(train, dtype=self.dtype, name="bn2")(y)
        if x.shape == y.shape:
            return nn.relu(x + y)
        if self.shortcut == "A":
            missing = self.features - x.shape[-1]
            x = x[:, :: self.stride, :: self.stride]
            x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2)))
        else:
            x = conv(self.features, 1, self.stride, dtype=self.dtype, name="shortcut")(x)
            x = batch_norm(train, dtype=self.dtype, name="bn_shortcut")(x)
        return nn.relu(x + y)


class WideResNet(nn.Module):
    """Wide residual network for 32x32 images (Zagoruyko and Komodakis, 2016), pre-activation.

    Attributes:
      depth: ``6n + 4`` for ``n`` blocks a stage.
      width: Widening factor ``k``: stages of ``16k``, ``32k`` and ``64k`` channels.
      classes: Number of classes.
      dropout: Rate between the two convolutions of a block; if positive, ``train`` needs a
        ``dropout`` key.
      dtype: Of the computation.
    """

    depth: int = 22
    width: int = 2
    classes: int = 10
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Logits of a batch of NHWC images."""
        if self.depth < 10 or self.depth % 6 != 4:
            raise ValueError(f"depth must be 6n + 4 with n >= 1, got {self.depth}")
        x = conv(16, 3, padding=1, dtype=self.dtype, name="conv1")(x)
        for stage in range(3):
            for block in range((self.depth - 4) // 6):
                x = _WideBlock(
                    16 * self.width << stage,
                    stride=2 if stage and not block else 1,
                    dropout=self.dropout,
                    dtype=self.dtype,
                    name=f"stage{stage + 1}_block{block + 1}",
                )(x, train)
        x = nn.relu(batch_norm(train, dtype=self.dtype, name="bn")(x))
        return logits(nn.Dense(self.classes, dtype=self.dtype, name="head")(x.mean((1, 2))))


class _WideBlock(nn.Module):
    """Normalization and ReLU before each of two 3x3 convolutions."""

    features: int
    stride: int
    dropout: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = nn.relu(batch_norm(train, dtype=self.dtype, name="bn1")(x))
        if x.shape[-1] != self.features:
            # Where the shape changes, the shortcut too starts from the activated input.
            x = conv(self.features, 1, self.stride, dtype=self.dtype, name="shortcut")(y)
        y = conv(self.features, 3, self.stride, padding=1, dtype=self.dtype, name="conv1")(y)
        y = nn.relu(batch_norm(train, dtype=self.dtype, name="bn2")(y))
        y = nn.Dropout(self.dropout, deterministic=not train)(y)
        return x + conv(self.features, 3, padding=1, dtype=self.dtype, name="conv2")(y)


class ResNet50(nn.Module):
    """ResNet-50 v1.5 for ImageNet: the stride is in the 3x3 convolution of a block, not the first.

    25,502,912 convolution and head weights with 1000 classes.

    Attributes:
      classes: Number of classes.
      width: Channels of the stem; narrower ones give "small dense" baselines.
      zero_init_residual: Start the last scale of each block at 0 (Goyal et al., 2017). Off by
        default: with it, saliencies at initialization are 0 in most layers.
      stages: Blocks in each stage.
      dtype: Of the computation.
    """

    classes: int = 1000
    width: int = 64
    zero_init_residual: bool = False
    stages: Sequence[int] = (3, 4, 6, 3)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Logits of a batch of NHWC images."""
        x = conv(self.width, 7, 2, padding=3, dtype=self.dtype, name="conv1")(x)
        x = nn.relu(batch_norm(train, dtype=self.dtype, name="bn1")(x))
        # Flax takes pairs here, whatever its annotation says.
        x = nn.max_pool(x, (3, 3), (2, 2), [(1, 1), (1, 1)])  # pyright: ignore[reportArgumentType]
        for stage, blocks in enumerate(self.stages):
            for block in range(blocks):
                x = _Bottleneck(
                    self.width << stage,
                    stride=2 if stage and not block else 1,
                    zero_init=self.zero_init_residual,
                    dtype=self.dtype,
                    name=f"stage{stage + 1}_block{block + 1}",
                )(x, train)
        head = nn.Dense(
            self.classes, kernel_init=nn.initializers.normal(0.01), dtype=self.dtype, name="head"
        )
        return logits(head(x.mean((1, 2))))


class _Bottleneck(nn.Module):
    """1x1, 3x3, and 1x1 to four times the channels, ReLU after the addition."""

    features: int
    stride: int
    zero_init: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = conv(self.features, 1, dtype=self.dtype, name="conv1")(x)
        y = nn.relu(batch_norm(train, dtype=self.dtype, name="bn1")(y))
        y = conv(self.features, 3, self.stride, padding=1, dtype=self.dtype, name="conv2")(y)
        y = nn.relu(batch_norm(train, dtype=self.dtype, name="bn2")(y))
        y = conv(4 * self.features, 1, dtype=self.dtype, name="conv3")(y)
        scale_init = nn.initializers.zeros if self.zero_init else nn.initializers.ones
        y = batch_norm(train, dtype=self.dtype, scale_init=scale_init, name="bn3")(y)
        if x.shape != y.shape:
            x = conv(4 * self.features, 1, self.stride, dtype=self.dtype, name="shortcut")(x)
            x = batch_norm(train, dtype=self.dtype, name="bn_shortcut")(x)
        return nn.relu(x + y)
