"""Sensitivity: the sum by hand, what it estimates, and a run against NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse.algorithms.sensitivity import Path, sensitivity

KEY = jax.random.key(0)


def train(method: Any, params: Any, grads: list[Any], rate: float = 1.0) -> list[tuple[Any, Any]]:
    tx = jaxsparse.sparsify(optax.sgd(rate), method)
    state, update, found = tx.init(params), jax.jit(tx.update), []
    for one in grads:
        updates, state = update(one, state, params)
        params = optax.apply_updates(params, updates)
        found.append((params, state))
    return found


def test_an_update_by_hand() -> None:
    params = {"w": jnp.array([[4.0, 1.0, -2.0, 3.0], [2.0, -1.0, 5.0, 1.0]])}
    grads = [
        {"w": jnp.array([[1.0, -1.0, 2.0, 0.0], [1.0, 1.0, -1.0, 2.0]])},
        {"w": jnp.array([[1.0, -1.0, -1.0, 0.0], [-2.0, 1.0, 1.0, 1.0]])},
        {"w": jnp.zeros((2, 4))},
    ]
    # w - w_0:  -2  2 -1  0 |  1 -2  0 -3
    # w:         2  3 -3  3 |  3 -3  5 -2
    # sum dw^2:  2  2  5  0 |  5  2  2  5
    # S:        -2  3 15  0 | 15  3  0 10/3 ; (1, 2) is back where it was: no way, so 0
    (_, one), (_, two), (weights, state) = train(sensitivity(0.5, step=2), params, grads)
    assert bool(one.masks["w"].all())
    assert bool(two.masks["w"].all())
    assert state.memory["w"].squares.tolist() == [[2, 2, 5, 0], [5, 2, 2, 5]]
    np.testing.assert_array_equal(state.memory["w"].initial, params["w"])
    # The best four of eight: 15, 15, 10/3, and one of the two 3's.
    assert state.masks["w"].astype(int)[:, 2:].tolist() == [[1, 0], [0, 1]]
    assert state.masks["w"].astype(int)[:, 0].tolist() == [0, 1]
    assert int(state.masks["w"][:, 1].sum()) == 1
    np.testing.assert_array_equal(weights["w"] != 0, state.masks["w"])


def test_it_estimates_the_loss_of_a_weight() -> None:
    # A loss that is a sum over weights: what each has earned on its way from 0 is known. Small
    # steps follow the gradient: S / rate is that, up to the size of a step.
    curvature = jnp.array([[1.0, 3.0], [0.5, 2.0]])
    best = jnp.array([[2.0, -1.0], [3.0, 0.5]])
    rate, steps = 0.002, 600
    loss = lambda w: 0.5 * curvature * (w - best) ** 2
    method, weights, memory = sensitivity(0.5, step=steps), {"w": jnp.zeros((2, 2))}, None
    masks = {"w": jnp.ones((2, 2), bool)}

    def one(carry: Any, step: Any) -> Any:
        weights, memory = carry
        grads = {"w": curvature * (weights["w"] - best)}
        memory = method.remember(memory, masks, weights, grads, step)
        return ({"w": weights["w"] - rate * grads["w"]}, memory), None

    start = (weights, method.start(masks, weights))
    (weights, memory), _ = jax.jit(lambda c: jax.lax.scan(one, c, jnp.arange(steps)))(start)
    memory = method.remember(memory, masks, weights, weights, steps)
    path = memory["w"]
    found = path.squares * weights["w"] / (weights["w"] - path.initial) / rate
    np.testing.assert_allclose(found, loss(0.0) - loss(weights["w"]), rtol=0.005)


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_a_run_equals_numpy(scope: Any) -> None:
    rng, shapes, rate = np.random.default_rng(2), {"a": (6, 5), "b": (4, 10)}, 0.125
    draw = lambda: {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    params, grads = draw(), [draw() for _ in range(8)]
    arrays = lambda tree: {n: jnp.asarray(x) for n, x in tree.items()}
    method = sensitivity(0.8, step=2, stop=6, interval=2, scope=scope)
    found = train(method, arrays(params), [arrays(g) for g in grads], rate)
    masks = {n: np.ones(s, bool) for n, s in shapes.items()}
    first, path = params, {n: [] for n in shapes}
    for step, (grad, (got, state)) in enumerate(zip(grads, found, strict=True)):
        if step in (2, 4, 6):
            score = {
                n: np.sum(np.square(path[n]), 0) * params[n] / (params[n] - first[n])
                for n in shapes
            }
            score = {n: np.where(masks[n], score[n], -np.inf) for n in shapes}
            share = 1 - (1 - (step - 2) / 4) ** 3
            keep = {"a": 30 - round(24 * share), "b": 40 - round(32 * share)}
            if scope == "layer":
                least = {n: np.sort(score[n], axis=None)[-keep[n]] for n in shapes}
            else:
                every = np.concatenate([score[n].reshape(-1) for n in shapes])
                least = dict.fromkeys(shapes, np.sort(every)[-sum(keep.values())])
            masks = {n: masks[n] & (score[n] >= least[n]) for n in shapes}
        after = {n: np.where(masks[n], params[n] - rate * grad[n], 0) for n in shapes}
        for n in shapes:
            path[n].append(after[n] - params[n])
            np.testing.assert_array_equal(state.masks[n], masks[n])
            np.testing.assert_allclose(got[n], after[n], rtol=1e-5)
        params = after


def test_when_it_prunes() -> None:
    once = sensitivity(0.5, step=4)
    assert [step for step in range(12) if once.due(step)] == [4]
    slowly = sensitivity(0.5, step=2, stop=9, interval=3)
    assert [step for step in range(12) if slowly.due(step)] == [2, 5, 8, 9]


def test_a_number_that_is_not_finite_does_not_stay_in_the_sum() -> None:
    method, masks = sensitivity(0.5), {"w": jnp.ones((1, 3), bool)}
    memory = method.start(masks, {"w": jnp.zeros((1, 3))})
    for weights in ([1.0, jnp.nan, 1e30], [2.0, 3.0, -1e30]):
        params = {"w": jnp.array([weights])}
        memory = method.remember(memory, masks, params, params, 0)
    path: Path = memory["w"]
    assert path.squares[0, :2].tolist() == [2.0, 9.0]
    assert bool(jnp.isfinite(path.squares).all())


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"sparsity is -0.5; .*\[0, 1\)"):
        sensitivity(-0.5)
    with pytest.raises(ValueError, match=r"step is -1; .*at least 0"):
        sensitivity(0.5, step=-1)
    with pytest.raises(ValueError, match=r"stop is 3, not after start \(5\)"):
        sensitivity(0.5, step=5, stop=3)
