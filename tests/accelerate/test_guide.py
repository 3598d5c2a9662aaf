"""The guide's training program runs, made small."""

import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import jaxsparse

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "acceleration.md").read_text()


@pytest.mark.usefixtures("quick_compilation", "as_on_one_device")
def test_training() -> None:
    found = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    (block,) = [part for part in found if "packed_optimizer" in part]
    for large, small in (
        ("4096", "128"),
        ("(64, 64", "(8, 8"),
        ("every(100, start=100", "every(2, start=2"),
    ):
        assert large in block
        block = block.replace(large, small)
    x, y = jax.random.normal(jax.random.key(1), (16, 64)), jnp.arange(16) % 10
    given = {"jax": jax, "jaxsparse": jaxsparse, "nn": nn, "optax": optax}
    names: dict[str, Any] = {**given, "x": x, "batches": [(x, y)] * 4}
    with jax.numpy_rank_promotion("allow"):  # flax's own layers add biases
        exec(compile(block, "docs/acceleration.md", "exec"), names)
    state, params = names["state"], names["params"]
    assert int(state.info.updates) == 1
    assert int(state.info.grown) == int(state.info.dropped) > 0
    assert np.isfinite(names["value"])
    assert params["SparseDense_0"]["kernel"].shape == (16, 1, 8, 8)
    assert params["SparseDense_1"]["kernel"].shape == (16, 2, 8, 8)
