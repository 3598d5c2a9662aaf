"""Half precision for the forward and backward pass, float32 for what is trained: zeros and counts.

The page on optimizers shows both ways; its two examples are run here.
"""

import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import every, gradual_magnitude, rigl, ste

pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "optimizers.md"
SECTION = PAGE.read_text().partition("## Half precision")[2].partition("\n## ")[0]
BLOCKS = re.findall(r"^```python\n(.*?)^```", SECTION, re.MULTILINE | re.DOTALL)
METHODS = {
    "rigl": rigl(0.75, update=every(2), drop_fraction=0.3),
    "ste": ste(0.75),
    "gradual_magnitude": gradual_magnitude(0.75, start=2, stop=30, interval=2),
}
SIZE, STEPS = 16 * 12 + 12 * 4, 48
# Inputs that float16 cannot hold, or whose gradients it cannot.
OVERFLOWS = (3, 4, 16, 24, 25, 40)


def _batch(step: int) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(step)
    x, y = rng.normal(size=(8, 16)), rng.normal(size=(8, 4))
    return jnp.asarray(x * (1e6 if step in OVERFLOWS else 1), jnp.float32), jnp.asarray(y, "f4")


def _example(number: int, method: str) -> Any:
    """The step of the page, for a network of two layers."""

    def predict(params: Any, x: Any) -> Any:
        return (
            jnp.tanh(x @ params["a"]["kernel"]) @ params["b"]["kernel"] + params["b"]["bias"][None]
        )

    names = {
        "jax": jax,
        "jnp": jnp,
        "optax": optax,
        "jaxsparse": jaxsparse,
        "loss_fn": lambda params, batch: jnp.mean((predict(params, batch[0]) - batch[1]) ** 2),
        "tx": jaxsparse.sparsify(optax.adam(1e-2), METHODS[method]),
    }
    exec(BLOCKS[number], names)
    return names


def _start(tx: Any) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape) / 4, jnp.float32)
    params = {"a": {"kernel": draw(16, 12)}, "b": {"kernel": draw(12, 4), "bias": draw(4)}}
    state = tx.init(params)
    return jaxsparse.initial_params(params, state), state


def _check(params: Any, state: Any) -> int:
    """Zeros, dtypes and reports; how many weights are kept."""
    forward = jaxsparse.forward_params(params, state, training=False)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), forward)
    for layer in ("a", "b"):
        mask = state.masks[layer]["kernel"]
        assert params[layer]["kernel"].dtype == jnp.float32
        for weights in (forward, half):
            assert not np.any(np.asarray(weights[layer]["kernel"])[~np.asarray(mask)])
    kept = sum(int(state.masks[layer]["kernel"].sum()) for layer in ("a", "b"))
    assert int(state.info.kept.sum()) == kept
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
    return kept


def _planned(method: str, state: Any, before: int) -> bool:
    """Is that how many there should be?"""
    kept = int(state.info.kept.sum())
    if method == "gradual_magnitude":
        return kept <= before and (int(state.sparse_step) <= 30 or kept == SIZE // 4)
    return kept == SIZE // 4


@pytest.mark.parametrize("method", METHODS)
def test_bfloat16_with_float32_masters(method: str) -> None:
    names = _example(0, method)
    params, state = _start(names["tx"])
    kept = SIZE
    for number in range(STEPS):
        if number in OVERFLOWS:
            continue
        params, state = names["step"](params, state, _batch(number))
        assert _planned(method, state, kept)
        kept = _check(params, state)
    assert int(state.info.skipped) == 0


@pytest.mark.parametrize("method", METHODS)
def test_float16_with_loss_scaling(method: str) -> None:
    """An overflow changes the scale and nothing else: no weight, no mask, no count, no step."""
    names = _example(1, method)
    params, state = _start(names["tx"])
    scale, kept, overflows = names["scale"], SIZE, 0
    for number in range(STEPS):
        before = (params, state)
        old = float(scale.scale)
        params, state, scale = names["step"](params, state, scale, _batch(number))
        if float(scale.scale) < old:
            overflows += 1
            jax.tree.map(np.testing.assert_array_equal, (params, state), before)
        else:
            assert number not in OVERFLOWS
            assert int(state.sparse_step) == int(before[1].sparse_step) + 1
        assert _planned(method, state, kept)
        kept = _check(params, state)
    assert len(OVERFLOWS) <= overflows < STEPS // 2
    assert int(state.sparse_step) == STEPS - overflows
    assert int(state.info.skipped) == 0
    assert kept == SIZE // 4


def test_float16_with_a_constant_scale_and_optax_alone() -> None:
    """``apply_if_finite`` around ``sparsify``: a step that overflows never was."""
    names = _example(1, "rigl")
    tx = optax.apply_if_finite(names["tx"], 5)

    @jax.jit
    def step(params: Any, state: Any, batch: Any) -> Any:
        grads = jax.grad(lambda at: 1024.0 * names["loss_in_half"](at, batch))(params)
        grads = jax.tree.map(lambda grad: grad / 1024, grads)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params, state = _start(names["tx"])
    state = tx.init(params)
    params = jaxsparse.apply_masks(params, state.inner_state.masks)
    for number in range(20):
        before = (params, state.inner_state)
        params, state = step(params, state, _batch(number))
        assert bool(state.last_finite) == (number not in OVERFLOWS)
        if number in OVERFLOWS:
            jax.tree.map(np.testing.assert_array_equal, (params, state.inner_state), before)
        assert _check(params, state.inner_state) == SIZE // 4
    assert int(state.inner_state.info.skipped) == 0
