"""Shapes of networks, without weights."""

from typing import Any

import jax
import jax.numpy as jnp


def spec(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


CONV = {
    "conv": spec(3, 3, 3, 16),
    "deep": {"bias": spec(32), "kernel": spec(3, 3, 16, 32)},
    "fc": spec(32, 10),
}
MLP = {"a": spec(784, 300), "b": spec(300, 100), "c": spec(100, 10)}
ONE = {"only": spec(7, 11)}
TINY = {"a": spec(2, 2), "b": spec(1, 3), "c": spec(50, 40), "d": spec(1, 1)}
TREES = {"conv": CONV, "mlp": MLP, "one": ONE, "tiny": TINY}
