"""A decoder as abstract shapes, where its weights lie, and a forward pass that gathers them."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.mesh import spec_of


@dataclasses.dataclass(frozen=True)
class Decoder:
    """Shapes of a decoder. Default: LLaMA-7B (Touvron et al., 2023, arXiv:2302.13971, table 2).

    (The paper has the layers, the width and the heads; the width of the MLP and the vocabulary are
    those of the published checkpoint.)
    """

    layers: int = 32
    """Blocks: attention and a gated MLP."""
    width: int = 4096
    """Of the residual stream."""
    mlp: int = 11008
    """Hidden units of the MLP."""
    heads: int = 32
    """Of the attention."""
    vocabulary: int = 32000
    """Tokens: rows of the embedding, columns of the head."""

    def params(self) -> dict[str, Any]:
        """Abstract parameters, float32: a matrix a leaf, in layers that are leaves apart.

        Returns:
          Pytree of ``ShapeDtypeStruct``.
        """
        array = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
        width, mlp = self.width, self.mlp
        block = lambda: {
            "attention_norm": array(width),
            "query": array(width, width),
            "key": array(width, width),
            "value": array(width, width),
            "output": array(width, width),
            "mlp_norm": array(width),
            "gate": array(width, mlp),
            "up": array(width, mlp),
            "down": array(mlp, width),
        }
        return {
            "embedding": array(self.vocabulary, width),
            **{f"layer_{i}": block() for i in range(self.layers)},
            "final_norm": array(width),
            "head": array(width, self.vocabulary),
        }


def placed(tree: Any, mesh: jax.sharding.Mesh) -> Any:
    """Abstract arrays with a sharding each.

    Args:
      tree: Pytree of abstract arrays.
      mesh: Where they lie.

    Returns:
      Pytree of ``ShapeDtypeStruct``.
    """
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec_of(leaf.shape, mesh.shape))
        ),
        tree,
    )


def bytes_per_device(tree: Any) -> int:
    """Bytes of the shares that one device holds.

    Args:
      tree: Of ``placed``.

    Returns:
      The sum.
    """
    share = lambda leaf: math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    return sum(share(leaf) for leaf in jax.tree.leaves(tree))


def _normed(x: jax.Array, scale: jax.Array) -> jax.Array:
    variance = jnp.mean(jnp.square(x), -1, keepdims=True)
    return x * jax.lax.rsqrt(variance + 1e-6) * scale[None]


def _block(weights: Any, x: jax.Array, heads: int) -> jax.Array:
    """One block on (tokens, width). (Positions have no weights, and are left out.)"""
    tokens, width = x.shape
    split = lambda y: y.reshape(tokens, heads, width // heads)
    y = _normed(x, weights["attention_norm"])
    query, key, value = (split(y @ weights[name]) for name in ("query", "key", "value"))
    mixed = jax.nn.dot_product_attention(query, key, value, is_causal=True)
    x = x + mixed.reshape(tokens, width) @ weights["output"]
    y = _normed(x, weights["mlp_norm"])
    return x + (jax.nn.silu(y @ weights["gate"]) * (y @ weights["up"])) @ weights["down"]


def gradient_of(decoder: Decoder, mesh: jax.sharding.Mesh) -> Any:
    """Loss and gradient under FSDP, written out: a part's weights are gathered where it is used.

    Each part (embedding, block, head) is rematerialised, so its weights are gathered for the
    forward pass and again for the backward pass; its gradients are summed and scattered.

    Args:
      decoder: The shapes.
      mesh: Of one axis.

    Returns:
      ``(params, tokens) -> (loss, gradients)``, the tokens (devices, tokens) of int32.
    """
    (axis,) = mesh.axis_names
    specs = jax.tree.map(lambda leaf: spec_of(leaf.shape, mesh.shape), decoder.params())

    def whole(shares: Any, specs: Any) -> Any:
        def gathered(share: jax.Array, spec: P) -> jax.Array:
            if axis not in spec:
                return share
            return jax.lax.all_gather(share, axis, axis=tuple(spec).index(axis), tiled=True)

        return jax.tree.map(gathered, shares, specs)

    def part(name: str, function: Any, params: Any, *inputs: Any) -> jax.Array:
        own = jax.checkpoint(lambda share, *x: function(whole(share, specs[name]), *x))
        return own(params[name], *inputs)

    def loss_fn(params: Any, words: jax.Array) -> jax.Array:
        x = part("embedding", lambda table: table[words], params)
        for i in range(decoder.layers):
            x = part(f"layer_{i}", functools.partial(_block, heads=decoder.heads), params, x)
        x = part("final_norm", lambda scale, x: _normed(x, scale), params, x)
        logits = jax.nn.log_softmax(part("head", lambda head, x: x @ head, params, x))
        picked = jnp.take_along_axis(logits[:-1], words[1:, None], -1)
        return -jnp.mean(picked) / mesh.size

    def one_device(params: Any, words: jax.Array) -> Any:
        loss, grads = jax.value_and_grad(loss_fn)(params, words[0])
        return jax.lax.psum(loss, axis), grads

    return jax.shard_map(one_device, mesh=mesh, in_specs=(specs, P(axis)), out_specs=(P(), specs))
