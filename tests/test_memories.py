"""The sum of the gradients of a window, against sums by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import at, every
from jaxsparse.base import remember_nothing, start_nothing
from jaxsparse.memories import gradient_window

pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")

MASKS = {"w": jnp.ones((2, 2), bool), "b": optax.MaskedNode()}


def grads_at(step: int) -> Any:
    """A different number at every step, so that each sum tells its members."""
    return {"w": jnp.full((2, 2), 2.0**step), "b": jnp.ones(3)}


def sums(update: Any, window: int, steps: int) -> list[float]:
    """The memory after each step."""
    start, remember = gradient_window(update, window)
    memory = start(MASKS, MASKS)
    found = []
    for step in range(steps):
        memory = remember(memory, MASKS, None, grads_at(step), jnp.int32(step))
        found.append(float(memory["w"][0, 0]))
    return found


def test_window_of_three() -> None:
    # Updates at 4 and 8: steps 2 to 4 and 6 to 8 are added up; after an update it starts anew.
    want = [0, 0, 4, 4 + 8, 4 + 8 + 16, 0, 64, 64 + 128, 64 + 128 + 256, 0]
    assert sums(every(4, start=4), 3, 10) == want


def test_windows_longer_than_the_interval() -> None:
    # Never a gradient twice: the sum starts anew after each update.
    assert sums(every(2), 5, 6) == [1, 2, 2 + 4, 8, 8 + 16, 32]


def test_window_before_the_first_step() -> None:
    assert sums(at(1), 4, 3) == [1, 3, 0]


def test_window_of_one_carries_nothing() -> None:
    assert gradient_window(every(3), 1) == (start_nothing, remember_nothing)


def test_sums_are_single_precision() -> None:
    # 256 + 1 is 256 in bfloat16.
    start, remember = gradient_window(at(3), 4)
    masks = {"w": jnp.ones(1, bool)}
    memory = start(masks, None)
    for step, value in enumerate([256.0, 1.0, 1.0, 1.0]):
        memory = remember(memory, masks, None, {"w": jnp.array([value], jnp.bfloat16)}, step)
    assert memory["w"].dtype == jnp.float32
    assert memory["w"].tolist() == [259.0]


@pytest.mark.parametrize("steps", [0, -2])
def test_bad_window(steps: int) -> None:
    with pytest.raises(ValueError, match=rf"is {steps}; .*at least 1"):
        jaxsparse.rigl(0.5, gradient_steps=steps)


def test_rigl_grows_by_the_sum(key: jax.Array) -> None:
    # Two runs over the same gradients: the one with the window grows what the sums rank highest.
    params = {"w": jax.random.normal(key, (6, 8))}
    options: Any = {"update": every(4, start=3), "drop_fraction": 0.5}
    method = jaxsparse.rigl(0.5, gradient_steps=3, **options)
    tx = jaxsparse.sparsify(optax.sgd(0.0), method)
    state = tx.init(params)
    weights = jaxsparse.apply_masks(params, state.masks)
    step_once = jax.jit(tx.update)
    plain = jax.jit(jaxsparse.rigl(0.5, **options).update)
    grads = [
        {"w": jax.random.normal(jax.random.fold_in(key, i), (6, 8)) * 3.0 ** (i % 3)}
        for i in range(8)
    ]
    for step, grad in enumerate(grads):
        before, old = state.masks, weights
        updates, state = step_once(grad, state, weights)
        weights = optax.apply_updates(weights, updates)
        if step in (3, 7):
            total = {"w": sum(g["w"] for g in grads[step - 2 : step + 1])}
            by_sum, _ = plain(key, before, old, total, step)
            by_last, _ = plain(key, before, old, grad, step)
            np.testing.assert_array_equal(state.masks["w"], by_sum["w"])
            assert not np.array_equal(by_sum["w"], by_last["w"])
        else:
            np.testing.assert_array_equal(state.masks["w"], before["w"])
    assert int(state.info.updates) == 2


def test_dense_gradients_are_counted_over_the_window() -> None:
    method = jaxsparse.rigl(0.5, update=every(10, start=10, stop=30), gradient_steps=3)
    steps = [step for step in range(40) if method.dense_gradients(step)]
    assert steps == [8, 9, 10, 18, 19, 20]
