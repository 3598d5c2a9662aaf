"""Movement pruning: sums and masks by hand, straight through the mask, against NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse.algorithms.movement import Movement, movement

KEY = jax.random.key(0)
WEIGHTS = jnp.array([[4.0, 3.0, -2.0, -1.0], [0.5, -0.5, 1.0, 0.0]])


def steps(method: Any, params: Any, grads: list[Any], inner: Any) -> list[tuple[Any, Any]]:
    """Parameters and states after each step."""
    tx = jaxsparse.sparsify(inner, method)
    state, update, found = tx.init(params), jax.jit(tx.update), []
    for one in grads:
        updates, state = update(one, state, params)
        params = optax.apply_updates(params, updates)
        found.append((params, state))
    return found


def test_an_update_by_hand() -> None:
    # Keep 4 of 8 from step 1 on; sgd(0.5).
    method = movement(0.5, start=0, stop=1)
    first = jnp.array([[1.0, -1.0, 1.0, 1.0], [-2.0, 2.0, 2.0, -9.0]])
    second = jnp.array([[-1.0, 2.0, 1.0, 9.0], [0.0, 0.0, -9.0, 1.0]])
    third = jnp.array([[-9.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    before, (one, two, three) = (
        WEIGHTS,
        steps(method, {"w": WEIGHTS}, [{"w": first}, {"w": second}, {"w": third}], optax.sgd(0.5)),
    )
    # All are kept at step 0. S = -w g: the large weights shrink, and count for less than small
    # ones that grow.
    params, state = one
    assert bool(state.masks["w"].all())
    assert params["w"].tolist() == (before - 0.5 * first).tolist()
    assert state.memory.importance["w"].tolist() == [[-4, 3, 2, 1], [1, 1, -2, 0]]
    # w = [[3.5, 3.5, -2.5, -1.5], [1.5, -1.5, 0, 4.5]]; S - w g:
    # [[-0.5, -4, 4.5, 14.5], [1, 1, -2, -4.5]]: the largest four.
    params, state = two
    assert state.memory.importance["w"].tolist() == [[-0.5, -4, 4.5, 14.5], [1, 1, -2, -4.5]]
    assert state.masks["w"].astype(int).tolist() == [[0, 0, 1, 1], [1, 1, 0, 0]]
    # That step still trained all of them: w = [[4, 2.5, -3, -6], [1.5, -1.5, 4.5, 4]].
    assert params["w"].tolist() == [[4.0, 2.5, -3.0, -6.0], [1.5, -1.5, 4.5, 4.0]]
    seen = jaxsparse.forward_params(params, state)["w"]
    assert seen.tolist() == [[0, 0, -3, -6], [1.5, -1.5, 0, 0]]
    # The hidden 4 does not train at a gradient of -9, but its score rises by 36 and brings it back,
    # with its value; of the two scores of 1 one stays.
    params, state = three
    assert float(params["w"][0, 0]) == 4.0
    assert float(state.memory.importance["w"][0, 0]) == 35.5
    assert state.masks["w"][0].astype(int).tolist() == [1, 0, 1, 1]
    assert int(state.masks["w"][1, :2].sum()) == 1


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_training_equals_numpy(scope: Any) -> None:
    rng, shapes, rate = np.random.default_rng(1), {"a": (6, 5), "b": (4, 10)}, np.float32(0.125)
    draw = lambda: {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    params, grads = draw(), [draw() for _ in range(9)]
    method = movement(0.8, start=2, stop=7, interval=2, power=1.0, scope=scope)
    arrays = lambda tree: {n: jnp.asarray(x) for n, x in tree.items()}
    found = steps(method, arrays(params), [arrays(g) for g in grads], optax.sgd(float(rate)))
    masks = {n: np.ones(s, bool) for n, s in shapes.items()}
    total = {n: np.zeros(s, np.float32) for n, s in shapes.items()}
    zeros = {"a": 24, "b": 32}
    for step, (grad, (got, state)) in enumerate(zip(grads, found, strict=True)):
        total = {n: total[n] - params[n] * grad[n] for n in shapes}
        params = {n: params[n] - rate * grad[n] * masks[n] for n in shapes}
        if step in (2, 4, 6, 7, 8):
            keep = {n: masks[n].size - round(zeros[n] * min((step - 2) / 5, 1)) for n in shapes}
            if scope == "layer":
                least = {n: np.sort(total[n], axis=None)[-keep[n]] for n in shapes}
            else:
                every = np.concatenate([total[n].reshape(-1) for n in shapes])
                least = dict.fromkeys(shapes, np.sort(every)[-sum(keep.values())])
            masks = {n: total[n] >= least[n] for n in shapes}
        for n in shapes:
            np.testing.assert_array_equal(state.masks[n], masks[n])
            np.testing.assert_allclose(got[n], params[n], rtol=1e-5)


def test_when_it_chooses() -> None:
    method = movement(0.5, start=3, stop=8, interval=2)
    # Also after the end: scores go on.
    assert [step for step in range(13) if method.due(step)] == [3, 5, 7, 8, 9, 11]
    assert all(bool(method.dense_gradients(step)) for step in range(5))
    away = movement(0.5, start=3, stop=8, interval=2, from_initial=True)
    assert [step for step in range(13) if away.due(step)] == [3, 5, 7, 8]
    assert not any(bool(away.dense_gradients(step)) for step in range(5))
    assert (method.dense_weights, away.dense_weights) == (True, False)


def test_starts_from_an_initial_sparsity() -> None:
    # All scores are 0: any of them, but as many.
    tx = jaxsparse.sparsify(optax.sgd(1.0), movement(0.75, stop=9, start=5, initial=0.5))
    params = {"w": WEIGHTS}
    state = tx.init(params)
    assert int(state.masks["w"].sum()) == 4
    assert int((jaxsparse.forward_params(params, state)["w"] != 0).sum()) <= 4


def test_distance_from_the_initialization() -> None:
    # After two steps of sgd(1) the weights have come -2 g: 2, 4, 6, 8, and -10 to -16.
    grads = {"w": jnp.array([[1.0, 2.0, 3.0, 4.0], [-5.0, -6.0, -7.0, -8.0]])}
    method = movement(0.5, start=1, stop=2, from_initial=True)
    *_, (_, state), (params, last) = steps(method, {"w": WEIGHTS}, [grads] * 4, optax.sgd(1.0))
    assert state.masks["w"].astype(int).tolist() == [[0, 0, 0, 0], [1, 1, 1, 1]]
    # Pruned for good, as in every other method: zeros.
    assert params["w"][0].tolist() == [0.0] * 4
    np.testing.assert_array_equal(state.memory["w"], WEIGHTS)
    np.testing.assert_array_equal(last.masks["w"], state.masks["w"])


def test_numbers_that_are_not_finite_are_left_out_of_the_sum() -> None:
    method, params = movement(0.5, start=0, stop=1), {"w": WEIGHTS}
    masks = {"w": jnp.ones((2, 4), bool)}
    memory = Movement({"w": jnp.full((2, 4), 3e38)})
    grads = {"w": jnp.array([[jnp.nan, jnp.inf, 1.0, 1.0], [-jnp.inf, 0.0, 0.0, -3e38]])}
    memory = method.remember(memory, masks, {"w": jnp.full((2, 4), 1.0)}, grads, 0)
    assert bool(jnp.isfinite(memory.importance["w"]).all())
    assert float(memory.importance["w"][1, 3]) == float(jnp.finfo(jnp.float32).max)
    assert params["w"].shape == memory.importance["w"].shape


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"sparsity is 1.5; .*\[0, 1\)"):
        movement(1.5)
    with pytest.raises(ValueError, match=r"stop is 3, not after start \(5\)"):
        movement(0.5, start=5, stop=3)
    with pytest.raises(ValueError, match=r"n is 0; .*at least 1"):
        movement(0.5, interval=0)
