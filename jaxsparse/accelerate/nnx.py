"""The same layers for flax.nnx: kernels that may be dense, packed, or block-sparse from the start.

A layer's ``topology`` is a variable beside its kernel; ``optax.MaskedNode()`` in it is a dense one.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, PyTree

from jaxsparse._tree import is_dense, path_string
from jaxsparse.accelerate.block_sparse import Form
from jaxsparse.accelerate.initial import block_sparse_kernel
from jaxsparse.accelerate.packing import is_leaf
from jaxsparse.accelerate.products import attend, matmul
from jaxsparse.base import Params


class TopologyVariable(nnx.Variable):
    """Where the values of the kernel beside it belong."""


class SparseDense(nnx.Module):
    """A linear layer: flax's ``Linear``, of which only some blocks may exist.

    Args:
      inputs: Inputs.
      outputs: Outputs.
      sparsity: Fraction of zero blocks to start with, in [0, 1); 0: a dense kernel.
      block: Height and width of the blocks.
      use_bias: Add a bias?
      dtype: In which products are computed; default: the wider of inputs' and weights'.
      param_dtype: Of the weights.
      kernel_init: Of the kernel; see ``accelerate.linen.SparseDense``.
      form: Of the product: see ``block_sparse_matmul``.
      rngs: For the kernel: its stream ``params``.

    Example:
      >>> layer = SparseDense(128, 64, sparsity=0.75, block=(16, 16), rngs=nnx.Rngs(0))
      >>> layer(jnp.ones((2, 128))).shape, layer.kernel.shape
      ((2, 64), (4, 2, 16, 16))
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        sparsity: float = 0.0,
        block: tuple[int, int] = (64, 64),
        use_bias: bool = True,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        kernel_init: Callable[..., Any] = nnx.initializers.lecun_normal(),
        form: Form = "xla",
        rngs: nnx.Rngs,
    ) -> None:
        """Make the parameters."""
        key, shape = rngs.params(), (inputs, outputs)
        kernel, topology = kernel_init, optax.MaskedNode()
        if sparsity:
            kernel, topology = block_sparse_kernel(
                key, shape, sparsity, block, kernel_init, param_dtype
            )
        else:
            kernel = kernel_init(key, shape, param_dtype)
        self.kernel = nnx.Param(kernel)
        self.topology = TopologyVariable(topology)
        self.bias = nnx.Param(jnp.zeros(outputs, param_dtype)) if use_bias else None
        self.dtype = dtype
        self.form: Form = form

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """``x @ kernel + bias``.

        Args:
          x: ``(*batch, inputs)``.

        Returns:
          Array ``(*batch, outputs)``.
        """
        kernel = self.kernel[...]
        if self.dtype is not None:
            x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        bias = None if self.bias is None else self.bias[...]
        return matmul(x, kernel, self.topology.get_value(), bias=bias, form=self.form)


class SparseMLP(nnx.Module):
    """The MLP block of a transformer: to ``hidden`` units, an activation, and back.

    Args:
      width: Inputs and outputs.
      hidden: Units in between.
      activation: Elementwise.
      rngs: For the kernels.
      **options: Of ``SparseDense``.

    Example:
      >>> block = SparseMLP(64, 256, sparsity=0.75, block=(16, 16), rngs=nnx.Rngs(0))
      >>> block(jnp.ones((2, 64))).shape
      (2, 64)
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        *,
        activation: Callable[[Array], Array] = jax.nn.gelu,
        rngs: nnx.Rngs,
        **options: Any,
    ) -> None:
        """Make both layers."""
        self.up = SparseDense(width, hidden, rngs=rngs, **options)
        self.down = SparseDense(hidden, width, rngs=rngs, **options)
        self.activation = activation

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Both layers.

        Args:
          x: ``(*batch, width)``.

        Returns:
          Array like ``x``.
        """
        return self.down(self.activation(self.up(x)))


class SparseSelfAttention(nnx.Module):
    """Self-attention with sparse projections of queries, keys, values and outputs.

    Args:
      width: Of tokens.
      heads: Number of heads, a divisor of the width.
      causal: Does a token see only itself and those before it?
      rngs: For the kernels.
      **options: Of ``SparseDense``.

    Example:
      >>> layer = SparseSelfAttention(64, 4, sparsity=0.75, block=(16, 16), rngs=nnx.Rngs(0))
      >>> layer(jnp.ones((2, 5, 64))).shape
      (2, 5, 64)
    """

    def __init__(
        self, width: int, heads: int, *, causal: bool = False, rngs: nnx.Rngs, **options: Any
    ) -> None:
        """Make the four projections."""
        make = lambda: SparseDense(width, width, rngs=rngs, **options)
        self.query, self.key, self.value, self.out = make(), make(), make(), make()
        self.heads, self.causal = heads, causal

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Attend.

        Args:
          x: ``(batch, tokens, width)``.

        Returns:
          Array like ``x``.
        """
        parts = self.query(x), self.key(x), self.value(x)
        return self.out(attend(*parts, self.heads, causal=self.causal))


def topologies(model: Any) -> PyTree:
    """The topologies of a model's kernels, beside its parameters.

    Args:
      model: An nnx module.

    Returns:
      Nested dict: a ``Topology`` at the path of each packed kernel, for ``packed_optimizer``'s
      ``init`` with ``nnx.state(model, nnx.Param)``.

    Example:
      >>> model = SparseMLP(64, 256, sparsity=0.75, block=(16, 16), rngs=nnx.Rngs(0))
      >>> sorted(topologies(model))
      ['down', 'up']
    """
    found: dict[Any, Any] = {}
    for path, variable in nnx.to_flat_state(nnx.state(model, TopologyVariable)):
        topology = variable.get_value()
        if not is_dense(topology):
            place = found
            for name in path[:-1]:
                place = place.setdefault(name, {})
            place["kernel"] = topology
    return found


def with_topology(graphdef: Any, params: Params, topology: PyTree, *rest: Any) -> Any:
    """A model of given parameters and topology: what a loss for ``train_step`` begins with.

    Args:
      graphdef: Of ``nnx.split(model, nnx.Param, TopologyVariable, ...)``.
      params: Its parameters, packed or dense.
      topology: Like ``params``: a ``Topology`` or ``optax.MaskedNode()`` a leaf.
      *rest: What else was split off, the topologies aside.

    Returns:
      The nnx module.

    Example:
      >>> model = SparseDense(32, 32, sparsity=0.5, block=(8, 8), rngs=nnx.Rngs(0))
      >>> graphdef, params, _ = nnx.split(model, nnx.Param, TopologyVariable)
      >>> topology = jaxsparse.accelerate.complete(params, topologies(model))
      >>> with_topology(graphdef, params, topology)(jnp.ones((2, 32))).shape
      (2, 32)
    """
    named, _ = jax.tree_util.tree_flatten_with_path(topology, is_leaf=is_leaf)
    variables = [
        ((*[key.key for key in path if hasattr(key, "key")][:-1], "topology"), leaf)
        for path, leaf in named
        if path_string(path).rpartition("/")[2] == "kernel"
    ]
    state = nnx.from_flat_state([(path, TopologyVariable(leaf)) for path, leaf in variables])
    return nnx.merge(graphdef, params, state, *rest)
