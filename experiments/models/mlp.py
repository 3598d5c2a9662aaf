"""Multilayer perceptrons and the two LeNets of the pruning literature."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from .layers import logits


class MLP(nn.Module):
    """Fully connected layers with ReLU between them; the input is flattened.

    Attributes:
      features: Width of each layer, the last one being the number of classes.
      kernel_init: Initializer of the weights.
      dtype: Of the computation.
    """

    features: Sequence[int]
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Logits of a batch; ``train`` changes nothing."""
        del train
        x = x.reshape(x.shape[0], -1)
        for i, features in enumerate(self.features):
            if i:
                x = nn.relu(x)
            x = nn.Dense(features, kernel_init=self.kernel_init, dtype=self.dtype)(x)
        return logits(x)


class LeNet300100(MLP):
    """LeNet-300-100 (LeCun et al., 1998): 784-300-100-10, with ReLU as the pruning papers have it.

    Attributes:
      features: Width of each layer.
      kernel_init: Initializer of the weights.
      dtype: Of the computation.
    """

    features: Sequence[int] = (300, 100, 10)


class LeNet5(nn.Module):
    """LeNet-5 in the size that Caffe gave it, 20-50-500-10: the one that pruning papers report.

    Convolutions of 5x5 without padding, each followed by ReLU (Caffe's has none there) and 2x2 max
    pooling. 430,500 weights on 28x28 images.

    Attributes:
      classes: Number of classes.
      kernel_init: Initializer of the weights.
      dtype: Of the computation.
    """

    classes: int = 10
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Logits of a batch of NHWC images; ``train`` changes nothing."""
        del train
        for features in (20, 50):
            x = nn.Conv(
                features, (5, 5), padding="VALID", kernel_init=self.kernel_init, dtype=self.dtype
            )(x)
            x = nn.max_pool(nn.relu(x), (2, 2), (2, 2))
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(nn.Dense(500, kernel_init=self.kernel_init, dtype=self.dtype)(x))
        return logits(nn.Dense(self.classes, kernel_init=self.kernel_init, dtype=self.dtype)(x))
