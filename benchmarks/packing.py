"""Training steps on packed parameters against the same steps of dense ones."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

import jaxsparse
from jaxsparse import accelerate
from jaxsparse.accelerate import linen
from jaxsparse.accelerate.block_sparse import Form

from .measure import Row, faster, medians

# (sparsity, side of a block) -> what a step must reach, on a CPU.
_MLP_BOUNDS = {
    (0.9, 128): 8,
    (0.9, 64): 6,
    (0.9, 32): 3.5,
    (0.8, 128): 4.5,
    (0.8, 64): 3,
    (0.8, 32): 1.8,
}
_BATCH, _WIDTH, _DEPTH, _EVERY = 256, 4096, 4, 100
_BYTES = {"single weights": 2.4, "blocks of 64": 1.3}


class _MLP(linen.nn.Module):
    """Four layers of one width."""

    sparsity: float = 0.0
    side: int = 64
    dtype: Any = None
    form: Form = "xla"

    @linen.nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits."""
        for _ in range(_DEPTH):
            layer = linen.SparseDense(
                x.shape[-1],
                self.sparsity,
                (self.side, self.side),
                dtype=self.dtype,
                form=self.form,
            )
            x = jax.nn.relu(layer(x))
        return x


class _TransformerBlock(linen.nn.Module):
    """Attention and an MLP, each after a layer norm and around a residual connection."""

    sparsity: float = 0.0
    side: int = 64
    dtype: Any = None
    form: Form = "xla"
    heads: int = 16

    @linen.nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Tokens."""
        same = {
            "sparsity": self.sparsity,
            "block": (self.side, self.side),
            "dtype": self.dtype,
            "form": self.form,
        }
        norm = linen.nn.LayerNorm
        x += linen.SparseSelfAttention(self.heads, **same)(norm()(x))
        return x + linen.SparseMLP(4 * x.shape[-1], **same)(norm()(x))


def _method(sparsity: float, side: int) -> jaxsparse.MaskAlgorithm:
    return jaxsparse.rigl(
        sparsity,
        distribution=jaxsparse.uniform,
        update=jaxsparse.every(_EVERY, start=_EVERY, stop=10**6),
        structure=jaxsparse.block(side, side, balanced=True),
    )


class _Run:
    """Parameters, state and compiled steps; each call trains on what the last one left."""

    def __init__(self, step: Callable[..., Any], params: Any, state: Any, x: jax.Array) -> None:
        self.step = jax.jit(step, donate_argnums=(0, 1), static_argnames="moves")
        self.params, self.state, self.x = params, state, x

    def __call__(self, **options: Any) -> jax.Array:
        self.params, self.state, loss = self.step(self.params, self.state, self.x, **options)
        return loss


def _loss(model: Any) -> Callable[..., Any]:
    def loss(params: Any, topology: Any, x: jax.Array) -> jax.Array:
        return (model.apply({"params": params, "topology": topology}, x) ** 2).mean()

    return loss


def _dense_run(model: Any, x: jax.Array) -> _Run:
    params, tx = model.init(jax.random.key(0), x)["params"], optax.adam(1e-4)

    def step(params: Any, state: Any, x: jax.Array, moves: bool = False) -> Any:
        value, grads = jax.value_and_grad(_loss(model))(params, {}, x)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    return _Run(step, params, tx.init(params), x)


def _packed_run(model: Any, x: jax.Array) -> _Run:
    variables = model.init(jax.random.key(0), x)
    optimizer = accelerate.packed_optimizer(optax.adam(1e-4), _method(model.sparsity, model.side))
    params = variables["params"]
    state = optimizer.init(params, variables["topology"])
    return _Run(accelerate.train_step(_loss(model), optimizer), params, state, x)


def packed_rows(repeats: int) -> Iterator[Row]:
    """Whole training steps: forward, backward, Adam.

    Args:
      repeats: Runs timed.

    Yields:
      On a CPU a row a sparsity and block; a transformer block; an update step, in both forms.
      Elsewhere three models in half precision, each form of the product.
    """
    if jax.default_backend() != "cpu":
        yield from _device_rows(repeats)
        return
    x = jax.random.normal(jax.random.key(1), (_BATCH, _WIDTH))
    dense = _dense_run(_MLP(), x)
    for (sparsity, side), bound in _MLP_BOUNDS.items():
        packed = _packed_run(_MLP(sparsity, side), x)
        times = medians([lambda run=packed: run(moves=False), dense], repeats)
        what = f"step, 4 x {_WIDTH} MLP, {sparsity:.0%} in blocks of {side}"
        note = "the dense step, forward, backward and Adam"
        yield faster(what, times, f"at least {bound}", note)
        if (sparsity, side) == (0.9, 64):
            yield from _update_rows(packed, dense, repeats)
    tokens = jax.random.normal(jax.random.key(1), (8, 128, 1024))
    runs = [_packed_run(_TransformerBlock(0.9), tokens), _dense_run(_TransformerBlock(), tokens)]
    times = medians([lambda: runs[0](moves=False), runs[1]], repeats)
    what = "step, transformer block of width 1,024, 90% in blocks of 64"
    yield faster(what, times, "at least 2.5", "the dense step, 8 x 128 tokens")


def _device_rows(repeats: int) -> Iterator[Row]:
    """8,192 tokens, 90 % in blocks of 128: XLA's form, and the kernel beside it."""
    tokens = lambda width: (8, 1024, width)
    for what, model, shape in (
        ("4 x 4096 MLP", _MLP, (8192, _WIDTH)),
        ("transformer block of width 1,024", _TransformerBlock, tokens(1024)),
        ("transformer block of width 4,096", _TransformerBlock, tokens(4096)),
    ):
        x = jax.random.normal(jax.random.key(1), shape, jnp.bfloat16)
        dense = _dense_run(model(dtype=jnp.bfloat16), x)
        for form in ("xla", "pallas"):
            packed = _packed_run(model(0.9, 128, jnp.bfloat16, form), x)
            times = medians([lambda run=packed: run(moves=False), dense], 4 * repeats + 1)
            note = "the dense step in bfloat16, 8,192 tokens"
            yield faster(f"step, {what}, 90% in blocks of 128, {form}", times, "at least 3", note)


def _update_rows(packed: _Run, dense: _Run, repeats: int) -> Iterator[Row]:
    """What an update step costs, and what one program with both kinds of steps in it does."""
    run = lambda moves: lambda: packed(moves=moves)
    apart, update, both, whole = medians([run(False), run(True), run(None), dense], repeats)
    average = ((_EVERY - 1) * apart + update) / _EVERY
    note = f"the dense step; one update in {_EVERY} steps takes {update / whole:.2f} dense steps"
    yield faster("the same on average, with updates", (average, whole), "", note)
    yield faster("the same, one program with a condition", (both, whole), "", "the dense step")


def bytes_rows(_: int) -> Iterator[Row]:
    """Bytes of parameters, Adam's slots and topology, a weight of the dense layer.

    Yields:
      A row a kind of unit, at 90 %.
    """
    shapes = {"kernel": jax.ShapeDtypeStruct((_WIDTH, _WIDTH), jnp.float32)}
    weights = _WIDTH * _WIDTH
    for what, bound in _BYTES.items():
        side = 64 if "blocks" in what else 1
        structure = jaxsparse.block(side, side, balanced=True) if side > 1 else None
        method = jaxsparse.static(0.9, structure=structure)
        masks = method.init(jax.random.key(0), shapes)
        params = {"kernel": jnp.ones((_WIDTH, _WIDTH))}
        packed, topology = accelerate.pack(params, masks, block=(side, side))
        optimizer = accelerate.packed_optimizer(optax.adam(1e-4), method)
        ours = accelerate.bytes_of((packed, optimizer.init(packed, topology)))
        theirs = accelerate.bytes_of((params, optax.adam(1e-4).init(params)))
        yield Row(
            f"parameters, Adam and topology, 90% of {what}",
            ours / 1e6,
            theirs / 1e6,
            "MB",
            ours / weights,
            f"at most {bound}",
            "dense; the ratio is in bytes a weight (dense: 12)",
        )
