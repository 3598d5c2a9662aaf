"""What the convolutional networks share."""

from typing import Any

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
    products: bool = False,
    dtype: DTypeLike = jnp.float32,
    name: str | None = None,
) -> nn.Conv:
    """A square convolution without bias, as precedes batch normalization.

    With ``products`` (stride 1, a number for padding, one group) it is a product of matrices.
    """
    return nn.Conv(
        features,
        (size, size),
        (stride, stride),
        # An int pads both sides alike, as the papers' code does; SAME pads the end when it strides.
        padding=padding if isinstance(padding, str) else [(padding, padding)] * 2,
        feature_group_count=groups,
        use_bias=False,
        kernel_init=he_fan_out,
        conv_general_dilated=_by_products if products else None,
        dtype=dtype,
        name=name,
    )


def _by_products(
    x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **options: Any
) -> jax.Array:
    """A convolution of stride 1 as one product of matrices.

    Within a compiled loop, or with a kernel for each seed, XLA convolves about ten times slower on
    a CPU.
    """
    del strides, options
    height, width, inputs, features = kernel.shape
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    shape = (x.shape[0], x.shape[1] - height + 1, x.shape[2] - width + 1)
    windows = [
        x[:, i : i + shape[1], j : j + shape[2]] for i in range(height) for j in range(width)
    ]
    rows = jnp.concatenate(windows, axis=-1).reshape(-1, height * width * inputs)
    return (rows @ kernel.reshape(-1, features)).reshape(*shape, features)


def halve(x: jax.Array) -> jax.Array:
    """Max pooling of 2x2 squares; an odd last row or column is left out."""
    x = x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]
    # By choices: the gradient of `nn.max_pool` takes XLA more time on a CPU than a convolution, and
    # that of `max` asks which value equals the greatest, which rounding may turn into none.
    larger = lambda a, b: jnp.where(a > b, a, b)
    rows = larger(x[:, ::2], x[:, 1::2])
    return larger(rows[:, :, ::2], rows[:, :, 1::2])


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
