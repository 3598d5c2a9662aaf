"""One product for dense, packed and block-sparse weights: what layers are made of."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxsparse._dtypes import wide_dtype
from jaxsparse._tree import is_dense
from jaxsparse.accelerate.block_sparse import Form, add_bias, block_sparse_matmul
from jaxsparse.accelerate.topology import Topology, gathered, spread


def matmul(
    x: Float[Array, "..."],
    kernel: Array,
    topology: Any = optax.MaskedNode(),
    *,
    bias: Float[Array, "..."] | None = None,
    form: Form = "xla",
) -> Float[Array, "..."]:
    """``x @ w (+ bias)``, whatever form the weight has.

    ==============================  ===================================================
    topology                        what is multiplied
    ==============================  ===================================================
    ``optax.MaskedNode()``          a dense kernel (with or without zeros)
    balanced, in blocks             the kept blocks alone (``block_sparse_matmul``)
    single weights, or unbalanced   a dense kernel made for this product and thrown away
                                    again, once in the forward and once in the backward
                                    pass: it saves memory, not time
    ==============================  ===================================================

    Args:
      x: ``(*batch, inputs)``.
      kernel: ``(inputs, outputs)``, or its packed values.
      topology: Of a packed kernel.
      bias: ``(outputs,)``, added to the outputs: faster here than afterwards, for blocks.
      form: Of a block-sparse product: see ``block_sparse_matmul``.

    Returns:
      Array ``(*batch, outputs)``.

    Raises:
      ValueError: if shapes do not fit.

    Example:
      >>> topology = Topology(jnp.array([0, 3]), (2, 2), (1, 1), balanced=False)
      >>> matmul(jnp.array([1.0, 2.0]), jnp.array([5.0, 7.0]), topology).tolist()
      [5.0, 14.0]
    """
    inputs = kernel.shape[0] if is_dense(topology) else topology.shape[0]
    matrix = len(kernel.shape if is_dense(topology) else topology.shape) == 2
    if not matrix or not x.ndim or x.shape[-1] != inputs:
        shape = kernel.shape if is_dense(topology) else topology.shape
        raise ValueError(f"inputs of shape {x.shape} do not fit a kernel of shape {shape}")
    if not is_dense(topology) and topology.balanced and topology.block != (1, 1):
        return block_sparse_matmul(x, kernel, topology.indices, bias=bias, form=form)
    out = _dense(x, kernel) if is_dense(topology) else _transient(x, kernel, topology)
    return add_bias(out, bias)


def pointwise_conv(
    x: Float[Array, "..."],
    kernel: Array,
    topology: Any = optax.MaskedNode(),
    *,
    strides: tuple[int, ...] = (),
    bias: Float[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    """A convolution with a window of 1 x 1, as the product that it is: no patches are made.

    (Larger windows are not accelerated: a block-sparse product needs their patches, which take
    height x width times the memory of the image. Compact whole channels there: ``units.compact``.)

    Args:
      x: ``(batch, *space, inputs)``.
      kernel: ``(*ones, inputs, outputs)`` or ``(inputs, outputs)``, or packed values of either.
      topology: Of a packed kernel.
      strides: One number a dimension of space; default: ones.
      bias: ``(outputs,)``.

    Returns:
      Array ``(batch, *space / strides, outputs)``.

    Raises:
      ValueError: if the window is larger, or numbers of dimensions do not fit.

    Example:
      >>> pointwise_conv(jnp.ones((1, 4, 4, 2)), jnp.ones((1, 1, 2, 3)), strides=(2, 2)).shape
      (1, 2, 2, 3)
    """
    shape = kernel.shape if is_dense(topology) else topology.shape
    if any(side != 1 for side in shape[:-2]):
        raise ValueError(f"a kernel of {shape} has a window larger than 1; use the dense one")
    strides = strides or (1,) * (x.ndim - 2)
    if len(strides) != x.ndim - 2:
        raise ValueError(f"{len(strides)} strides for {x.ndim - 2} dimensions of space")
    x = x[(slice(None), *[slice(None, None, stride) for stride in strides])]
    if is_dense(topology):
        return matmul(x, kernel.reshape(shape[-2:]), bias=bias)
    flat = Topology(topology.indices, shape[-2:], topology.block, topology.balanced)
    return matmul(x, kernel, flat, bias=bias)


def attend(
    query: Float[Array, "..."],
    key: Float[Array, "..."],
    value: Float[Array, "..."],
    heads: int,
    *,
    causal: bool = False,
) -> Float[Array, "..."]:
    """Attention of projected tokens, heads side by side in the last dimension.

    Args:
      query: ``(batch, tokens, width)``.
      key: ``(batch, tokens, width)``.
      value: ``(batch, tokens, width)``.
      heads: Their number, a divisor of the width.
      causal: Does a token see only itself and those before it?

    Returns:
      Array ``(batch, tokens, width)``.

    Raises:
      ValueError: if the width is no multiple of the heads.

    Example:
      >>> x = jnp.ones((1, 3, 4))
      >>> attend(x, x, x, 2).shape
      (1, 3, 4)
    """
    if query.shape[-1] % heads:
        raise ValueError(f"{heads} heads do not divide a width of {query.shape[-1]}")
    apart = lambda x: x.reshape(*x.shape[:-1], heads, -1)
    seen = jax.nn.dot_product_attention(apart(query), apart(key), apart(value), is_causal=causal)
    return seen.reshape(query.shape)


def _dense(x: Array, kernel: Array) -> Array:
    dtype = jnp.promote_types(x.dtype, kernel.dtype)
    x, kernel = x.astype(dtype), kernel.astype(dtype)
    dims = ((x.ndim - 1,), (0,)), ((), ())
    return jax.lax.dot_general(x, kernel, dims, preferred_element_type=wide_dtype(x)).astype(dtype)


@jax.custom_vjp
def _transient(x: Array, values: Array, topology: Topology) -> Array:
    return _dense(x, spread(topology, values))


def _transient_fwd(x: Array, values: Array, topology: Topology) -> tuple[Array, Any]:
    return _transient(x, values, topology), (x, values, topology)


def _transient_bwd(saved: Any, grad: Array) -> tuple[Array, Array, None]:
    x, values, topology = saved
    # Made anew: from the forward pass on it would be alive, with those of all other layers.
    kernel, (_, outputs) = spread(topology, values), topology.shape
    grad_x = _dense(grad, kernel.T).astype(x.dtype)
    rows = x.reshape(-1, x.shape[-1])
    grad_kernel = _dense(rows.T, grad.reshape(-1, outputs))
    return grad_x, gathered(topology, grad_kernel).astype(values.dtype), None


_transient.defvjp(_transient_fwd, _transient_bwd)
