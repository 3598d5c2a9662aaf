"""What the convolutional networks share."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""He et al. (2015) in the variant that preserves the gradient's variance, as ResNet code has it."""


def conv(
    features: int,
    size: int,
    stride: int = 1,
    *,
    padding: str | int = "SAME",
    groups: int = 1,
    dtype: DTypeLike = jnp.float32,
    name: str | None = None,
) -> nn.Conv:
    """A square convolution without bias, as precedes batch normalization."""
    return nn.Conv(
        features,
        (size, size),
        (stride, stride),
        # An int pads both sides alike, as the papers' code does; SAME pads the end when it strides.
        padding=padding if isinstance(padding, str) else [(padding, padding)] * 2,
        feature_group_count=groups,
        use_bias=False,
        kernel_init=he_fan_out,
        dtype=dtype,
        name=name,
    )


def batch_norm(
    train: bool,
    *,
    dtype: DTypeLike = jnp.float32,
    scale_init: nn.initializers.Initializer = nn.initializers.ones,
    name: str | None = None,
) -> nn.BatchNorm:
    """Batch normalization with the constants that ResNet code uses."""
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        dtype=dtype,
        scale_init=scale_init,
        name=name,
    )


def logits(x: jax.Array) -> jax.Array:
    """At least float32: a softmax over many classes is not for bfloat16."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
