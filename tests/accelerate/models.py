"""A network of three layers, of which the first two may be packed, and what it is trained on."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

import jaxsparse
from jaxsparse import accelerate

KEYS = jax.random.split(jax.random.key(1), 4)
PARAMS = {
    "first": {"bias": jnp.zeros(32), "kernel": jax.random.normal(KEYS[0], (16, 32)) * 0.3},
    "second": {"kernel": jax.random.normal(KEYS[1], (32, 8)) * 0.3},
    "third": {"kernel": jax.random.normal(KEYS[2], (8, 3)) * 0.3},
}
X = jax.random.normal(KEYS[3], (64, 16))
Y = jnp.sin(2 * X[:, :3])


def where(path: str, leaf: Any) -> bool:
    return path in ("first/kernel", "second/kernel")


def loss(params: Any, topology: Any, x: Any, y: Any) -> Any:
    of = lambda name: (params[name]["kernel"], topology[name]["kernel"])
    x = jnp.tanh(accelerate.matmul(x, *of("first")) + params["first"]["bias"][None])
    x = jnp.tanh(accelerate.matmul(x, *of("second")))
    return ((accelerate.matmul(x, *of("third")) - y) ** 2).mean()


DENSE = jax.tree.map(lambda leaf: optax.MaskedNode(), PARAMS)


def masked_steps(method: Any, inner: Any, seed: int = 3) -> tuple[Any, Any, Any]:
    """A compiled step of ``sparsify``, and what it starts from."""
    tx = jaxsparse.sparsify(inner, method, seed=seed)
    state = tx.init(PARAMS)

    @jax.jit
    def step(params: Any, state: Any, x: Any, y: Any) -> tuple[Any, Any, Any]:
        value, grads = jax.value_and_grad(loss)(params, DENSE, x, y)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    return step, jaxsparse.apply_masks(PARAMS, state.masks), state
