"""Iterative magnitude pruning: rounds by hand, in whole numbers, with training in between."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse.algorithms.iterative_magnitude import iterative_magnitude

KEY = jax.random.key(0)
# Magnitudes 1 to 16.
WEIGHTS = jnp.array([[1.0, -16, 2, 15], [-3, 14, 4, 13], [5, -12, 6, 11], [7, 10, -8, 9]])


def rounds(method: Any, draws: list[Any], steps: list[int]) -> list[Any]:
    """The masks after each step, the weights of each being new."""
    masks, update, found = method.init(KEY, draws[0]), jax.jit(method.update), []
    for params, step in zip(draws, steps, strict=True):
        masks, _ = update(KEY, masks, params, params, step)
        found.append(masks)
    return found


def test_rounds_by_hand() -> None:
    # 3/4 in two: half of what is left each, 8 and 4. What grows in between does not come back.
    method = iterative_magnitude(0.75, steps=[3, 7])
    assert bool(method.init(KEY, {"w": WEIGHTS})["w"].all())
    first, second = rounds(method, [{"w": WEIGHTS}, {"w": 20 - jnp.abs(WEIGHTS)}], [3, 7])
    assert first["w"].astype(int).tolist() == [
        [0, 1, 0, 1],
        [0, 1, 0, 1],
        [0, 1, 0, 1],
        [0, 1, 0, 1],
    ]
    # Of 16, 15, 14, ..., 9 the order is now the other way round: 9 to 12 stay.
    assert second["w"].astype(int).tolist() == [
        [0, 0, 0, 0],
        [0, 0, 0, 0],
        [0, 1, 0, 1],
        [0, 1, 0, 1],
    ]
    assert [step for step in range(12) if method.due(step)] == [3, 7]


def test_twenty_percent_a_round() -> None:
    method = iterative_magnitude(1 - 0.8**16, steps=range(16))
    params = {"w": jnp.arange(100_000.0).reshape(250, 400)}

    def one(masks: Any, step: Any) -> Any:
        masks, info = method.update(KEY, masks, params, params, step)
        return masks, info.kept[0]

    _, kept = jax.jit(lambda m: jax.lax.scan(one, m, jnp.arange(16)))(method.init(KEY, params))
    want = 100_000 * 0.8 ** np.arange(1, 17)
    np.testing.assert_allclose(kept, want, atol=1.0)
    # The end is exact: the zeros are rounded down.
    assert int(kept[-1]) == 100_000 - int(100_000 * (1 - 0.8**16))


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_a_run_equals_numpy(scope: Any) -> None:
    rng, shapes, steps = np.random.default_rng(3), {"a": (10, 12), "b": (8, 30)}, [0, 4, 5, 9]
    draw = lambda: {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    draws = [draw() for _ in steps]
    found = rounds(iterative_magnitude(0.9375, steps=steps, scope=scope), draws, steps)
    masks = {n: np.ones(s, bool) for n, s in shapes.items()}
    for n, (weights, got) in enumerate(zip(draws, found, strict=True)):
        # A half each round: 120 and 240 become 60 and 120, 30 and 60, 15 and 30, 8 and 15
        # (7.5 is 112.5 zeros, of which whole ones are 112).
        counts = {"a": [60, 30, 15, 8][n], "b": [120, 60, 30, 15][n]}
        if scope == "layer":
            for name, count in counts.items():
                rank = np.where(masks[name], np.abs(weights[name]), -1)
                masks[name] = rank >= np.sort(rank, axis=None)[-count]
        else:
            rank = {m: np.where(masks[m], np.abs(weights[m]), -1) for m in masks}
            least = np.sort(np.concatenate([r.reshape(-1) for r in rank.values()]))
            masks = {m: r >= least[-sum(counts.values())] for m, r in rank.items()}
        for name in masks:
            np.testing.assert_array_equal(got[name], masks[name])


def test_trains_in_between() -> None:
    tx = jaxsparse.sparsify(optax.sgd(1.0), iterative_magnitude(0.75, steps=[1, 3]))
    params, grads = {"w": WEIGHTS}, {"w": jnp.sign(WEIGHTS) * jnp.where(WEIGHTS > 8, 2.0, -1.0)}
    state, update, kept = tx.init(params), jax.jit(tx.update), []
    for _ in range(5):
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
        kept.append(int(state.masks["w"].sum()))
        np.testing.assert_array_equal(params["w"] != 0, state.masks["w"])
    assert kept == [16, 8, 8, 4, 4]


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"sparsity is 1.0; .*\[0, 1\)"):
        iterative_magnitude(1.0)
    with pytest.raises(ValueError, match=r"steps is \[5, 3\]; give rising steps"):
        iterative_magnitude(0.5, steps=[5, 3])
    with pytest.raises(ValueError, match="steps is empty"):
        iterative_magnitude(0.5, steps=[])
    with pytest.raises(ValueError, match=r"step is -1; .*at least 0"):
        iterative_magnitude(0.5, steps=[-1, 2])
