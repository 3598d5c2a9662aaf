"""Layers of flax.linen whose kernels may be dense, packed, or block-sparse from the start.

The collection ``"topology"`` says which: without it (or with ``optax.MaskedNode()`` in it) a layer
is that of flax, so one model serves masked training, packed training and dense gradients.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxsparse.accelerate.block_sparse import Form
from jaxsparse.accelerate.initial import block_sparse_kernel
from jaxsparse.accelerate.products import attend, matmul


class SparseDense(nn.Module):
    """A linear layer: flax's ``Dense``, of which only some blocks may exist.

    Attributes:
      features: Outputs.
      sparsity: Fraction of zero blocks to start with, in [0, 1); 0: a dense kernel, to be masked or
        packed later. Otherwise no dense kernel is ever made.
      block: Height and width of the blocks.
      use_bias: Add a bias?
      dtype: In which products are computed; default: the wider of inputs' and weights'.
      param_dtype: Of the weights.
      kernel_init: Of the kernel; with ``sparsity`` it is asked for ``(kept inputs, features)``, so
        that the variance is that of the inputs there are.
      bias_init: Of the bias.
      form: Of the product: see ``block_sparse_matmul``.

    Example:
      >>> layer = SparseDense(64, sparsity=0.75, block=(16, 16))
      >>> variables = layer.init(jax.random.key(0), jnp.ones((2, 128)))
      >>> variables["params"]["kernel"].shape, variables["topology"]["kernel"].indices.shape
      ((4, 2, 16, 16), (4, 2))
    """

    features: int
    sparsity: float = 0.0
    block: tuple[int, int] = (64, 64)
    use_bias: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32
    kernel_init: Callable[..., Any] = nn.initializers.lecun_normal()
    bias_init: Callable[..., Any] = nn.initializers.zeros_init()
    form: Form = "xla"

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """``x @ kernel + bias``.

        Args:
          x: ``(*batch, inputs)``.

        Returns:
          Array ``(*batch, features)``.
        """
        shape = (x.shape[-1], self.features)
        if self.has_variable("topology", "kernel") and self.has_variable("params", "kernel"):
            topology = self.get_variable("topology", "kernel")
            kernel = self.get_variable("params", "kernel")
        elif self.sparsity:
            make = lambda key: block_sparse_kernel(
                key, shape, self.sparsity, self.block, self.kernel_init, self.param_dtype
            )
            key = self.make_rng("params")
            topology = self.variable("topology", "kernel", lambda: make(key)[1]).value
            kernel = self.param("kernel", lambda _: make(key)[0])
        else:
            topology = optax.MaskedNode()
            kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        if self.dtype is not None:
            x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        bias = None
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype)
        return matmul(x, kernel, topology, bias=bias, form=self.form)


class SparseMLP(nn.Module):
    """The MLP block of a transformer: to ``hidden`` units, an activation, and back.

    Attributes:
      hidden: Units in between.
      sparsity: As in ``SparseDense``.
      block: As in ``SparseDense``.
      activation: Elementwise.
      dtype: As in ``SparseDense``.
      form: As in ``SparseDense``.

    Example:
      >>> block = SparseMLP(256, sparsity=0.75, block=(16, 16))
      >>> y, variables = block.init_with_output(jax.random.key(0), jnp.ones((2, 5, 64)))
      >>> y.shape, sorted(variables["params"])
      ((2, 5, 64), ['down', 'up'])
    """

    hidden: int
    sparsity: float = 0.0
    block: tuple[int, int] = (64, 64)
    activation: Callable[[Array], Array] = jax.nn.gelu
    dtype: Any = None
    form: Form = "xla"

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Both layers.

        Args:
          x: ``(*batch, width)``.

        Returns:
          Array like ``x``.
        """
        same = {"block": self.block, "dtype": self.dtype, "form": self.form}
        hidden = self.activation(SparseDense(self.hidden, self.sparsity, name="up", **same)(x))
        return SparseDense(x.shape[-1], self.sparsity, name="down", **same)(hidden)


class SparseSelfAttention(nn.Module):
    """Self-attention with sparse projections of queries, keys, values and outputs.

    Attributes:
      heads: Number of heads; the width is a multiple.
      sparsity: As in ``SparseDense``.
      block: As in ``SparseDense``.
      causal: Does a token see only itself and those before it?
      dtype: As in ``SparseDense``.
      form: As in ``SparseDense``.

    Example:
      >>> layer = SparseSelfAttention(4, sparsity=0.75, block=(16, 16))
      >>> y, variables = layer.init_with_output(jax.random.key(0), jnp.ones((2, 5, 64)))
      >>> y.shape, sorted(variables["params"])
      ((2, 5, 64), ['key', 'out', 'query', 'value'])
    """

    heads: int
    sparsity: float = 0.0
    block: tuple[int, int] = (64, 64)
    causal: bool = False
    dtype: Any = None
    form: Form = "xla"

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Attend.

        Args:
          x: ``(batch, tokens, width)``.

        Returns:
          Array like ``x``.
        """
        same = {"block": self.block, "dtype": self.dtype, "form": self.form}
        width = x.shape[-1]
        project = lambda name: SparseDense(width, self.sparsity, name=name, **same)(x)
        query, key, value = project("query"), project("key"), project("value")
        seen = attend(query, key, value, self.heads, causal=self.causal)
        return SparseDense(width, self.sparsity, name="out", **same)(seen)
