"""Convolutions in a row, small enough for studies on a CPU."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from .layers import batch_norm, he_fan_out, logits


def convolve(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """A convolution as one product of patches and weights.

    Under ``vmap`` over kernels this is a batched product, where XLA would make a grouped
    convolution, which takes ten times as long on a CPU.

    Args:
      x: Images, ``[N, H, W, C]``.
      kernel: ``[K, K, C, F]``, K odd.
      stride: In both directions.

    Returns:
      ``[N, ceil(H / stride), ceil(W / stride), F]``, zeros beyond the edges.
    """
    size, height, width = kernel.shape[0], x.shape[1], x.shape[2]
    edge = (size - 1) // 2
    x = jnp.pad(x, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
    patches = jnp.concatenate(
        [
            x[:, i : i + height : stride, j : j + width : stride]
            for i in range(size)
            for j in range(size)
        ],
        axis=-1,
    )
    return patches @ kernel.reshape(-1, kernel.shape[-1])


class _Conv(nn.Module):
    features: int
    stride: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """One layer."""
        kernel = self.param("kernel", he_fan_out, (3, 3, x.shape[-1], self.features))
        return convolve(x.astype(self.dtype), kernel.astype(self.dtype), self.stride)


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
            x = _Conv(self.width, stride, self.dtype, name=f"conv{i + 1}")(x)
            x = nn.relu(batch_norm(train, dtype=self.dtype, name=f"bn{i + 1}")(x))
        return logits(nn.Dense(self.classes, dtype=self.dtype, name="head")(x.mean((1, 2))))
