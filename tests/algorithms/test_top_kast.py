"""Top-KAST: the two sets, what is trained in each, and when they are chosen."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse.algorithms.top_kast import top_kast

# A quarter is seen, -5 and 4; 3 and -2 are trained besides.
WEIGHTS = jnp.array([[1.0, -2.0, 0.5, 4.0], [-5.0, 0.1, 3.0, -0.2]])
A = np.array([[0, 0, 0, 1], [1, 0, 0, 0]], bool)
B = np.array([[0, 1, 0, 1], [1, 0, 1, 0]], bool)


def run(method: Any, steps: int, params: Any, inner: Any = None, grad: Any = None) -> Any:
    """First state, and weights and states after each step."""
    tx = jaxsparse.sparsify(inner or optax.sgd(0.5), method)
    grad = grad or (lambda seen: jax.tree.map(jnp.cos, seen))
    state = jax.jit(tx.init)(params)

    def step(carry: Any, _: Any) -> Any:
        params, state = carry
        updates, state = tx.update(grad(jaxsparse.forward_params(params, state)), state, params)
        carry = optax.apply_updates(params, updates), state
        return carry, carry

    weights, states = jax.jit(lambda c: jax.lax.scan(step, c, length=steps))((params, state))[1]
    return state, weights, states


ones = lambda seen: jax.tree.map(jnp.ones_like, seen)


def test_one_step_by_hand() -> None:
    # D = 1/4. On A: 1 + 0.1 w, on the rest of B: 1 + 0.4 w; half of it is taken off.
    state, weights, states = run(top_kast(0.75, decay=0.1), 1, {"w": WEIGHTS}, grad=ones)
    np.testing.assert_array_equal(state.masks["w"], A)
    np.testing.assert_array_equal(states.memory.trained["w"][0], B)
    # 4 - 0.7, -5 - 0.25, 3 - 1.1, -2 - 0.1.
    want = [[1.0, -2.1, 0.5, 3.3], [-5.25, 0.1, 1.9, -0.2]]
    np.testing.assert_allclose(weights["w"][0], want, rtol=1e-6)
    # With |w| in place of its square: 1 + 0.1 sign(w), 1 + 0.4 sign(w).
    _, weights, _ = run(top_kast(0.75, decay=0.1, penalty="l1"), 1, {"w": WEIGHTS}, grad=ones)
    want = [[1.0, -2.3, 0.5, 3.45], [-5.45, 0.1, 2.3, -0.2]]
    np.testing.assert_allclose(weights["w"][0], want, rtol=1e-6)


def top(weight: np.ndarray, kept: int) -> np.ndarray:
    mask = np.zeros(weight.size, bool)
    mask[np.argsort(-np.abs(weight).ravel(), kind="stable")[:kept]] = True
    return mask.reshape(weight.shape)


def test_against_numpy() -> None:
    """Updates at steps 1, 4, 7: the sets of the next step are by the weights that came out."""
    rng = np.random.default_rng(1)
    weight = rng.normal(size=(10, 8))
    params = {"w": jnp.asarray(weight, jnp.float32), "b": jnp.ones(3)}
    method = top_kast(0.75, backward_sparsity=0.4, decay=0.05, update=jaxsparse.every(3, start=1))
    _, weights, states = run(method, 9, params)
    seen, trained, changed = top(weight, 20), top(weight, 48), 0
    for step in range(9):
        grad = np.cos(weight * seen) + weight * np.where(seen, 0.05, 0.05 / 0.25)
        weight = weight - 0.5 * grad * trained
        np.testing.assert_allclose(weights["w"][step], weight, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(states.memory.trained["w"][step], trained)
        if step in (1, 4, 7):
            changed += int((seen != top(weight, 20)).sum())
            seen, trained = top(weight, 20), top(weight, 48)
        np.testing.assert_array_equal(states.masks["w"][step], seen)
    assert changed
    np.testing.assert_allclose(weights["b"][8], 1 - 9 * 0.5 * np.cos(1), atol=0.9)


@pytest.mark.parametrize(
    "inner", [optax.sgd(0.5), optax.adamw(0.1, weight_decay=0.1)], ids=["sgd", "adamw"]
)
def test_outside_the_backward_set_no_optimizer_moves_anything(inner: Any) -> None:
    _, weights, _ = run(top_kast(0.75), 3, {"w": WEIGHTS}, inner)
    np.testing.assert_array_equal(weights["w"][2][~B], WEIGHTS[~B])
    assert (np.asarray(weights["w"][2])[B] != np.asarray(WEIGHTS)[B]).all()


def test_weights_that_leave_stop_at_once() -> None:
    # 1 enters B at step 0 and is out of it after the update: momentum must not move it on.
    params = {"w": jnp.array([[4.0, 1.0, 0.9, 0.1]])}
    grad = lambda seen: {"w": jnp.array([[0.0, 1.0, 0.0, 0.0]])}
    method = top_kast(0.75, decay=0.0, update=jaxsparse.at(0))
    _, weights, states = run(method, 3, params, optax.sgd(0.5, momentum=0.5), grad)
    assert states.memory.trained["w"].tolist()[1:] == [[[True, False, True, False]]] * 2
    assert weights["w"][:, 0, 1].tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("distribution", [jaxsparse.uniform, jaxsparse.erk])
def test_counts_and_nesting(distribution: Any) -> None:
    key = jax.random.key(5)
    params = {"a": jax.random.normal(key, (9, 11)), "b": jax.random.normal(key, (11, 4))}
    # Equal magnitudes, too: both sets take the same first ones.
    params["b"] = jnp.sign(params["b"])
    method = top_kast(
        0.7, backward_sparsity=0.5, distribution=distribution, update=jaxsparse.every(1)
    )
    _, _, states = run(method, 5, params)
    want, wide = distribution(params, 0.7), distribution(params, 0.5)
    for name in params:
        assert (states.masks[name].sum((1, 2)) == want[name]).all()
        trained, before = states.memory.trained[name], states.masks[name][:-1]
        assert (trained.sum((1, 2)) == wide[name]).all()
        assert not (before & ~trained[1:]).any()


def test_twice_as_many_are_trained_by_default() -> None:
    params = {"w": jnp.arange(100.0).reshape(10, 10)}
    for sparsity, trained in ((0.9, 20), (0.3, 100)):
        _, _, states = run(top_kast(sparsity), 1, params)
        assert int(states.memory.trained["w"].sum()) == trained


def test_structure_and_where() -> None:
    params = {"a": jnp.arange(32.0).reshape(8, 4), "b": jnp.ones((4, 4))}
    where = lambda path, leaf: path == "a"
    method = top_kast(0.75, structure=jaxsparse.block(2, 2), where=where)
    state, _, states = run(method, 1, params)
    assert state.masks["a"].tolist() == [[False] * 4] * 6 + [[True] * 4] * 2
    assert states.memory.trained["a"][0].tolist() == [[False] * 4] * 4 + [[True] * 4] * 4
    assert states.memory.trained["b"] == optax.MaskedNode()


def test_it_never_reads_a_dense_gradient() -> None:
    method = top_kast(0.75)
    assert not any(bool(method.dense_gradients(step)) for step in range(300))
    assert [step for step in range(250) if method.due(step)] == [0, 100, 200]
    # Whatever is said of the weights outside B changes nothing.
    wild = lambda seen: {"w": jnp.where(B, 1.0, 1e30)}
    first, second = (run(method, 1, {"w": WEIGHTS}, grad=grad)[1]["w"] for grad in (wild, ones))
    np.testing.assert_array_equal(first, second)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"backward_sparsity is 0.95; it must lie in \[0, sparsi"):
        top_kast(0.9, backward_sparsity=0.95)
    with pytest.raises(ValueError, match=r"decay is -1.0; it must be 0 or more"):
        top_kast(0.9, decay=-1.0)
    with pytest.raises(ValueError, match=r"sparsity is 90.0; .*give 0.9"):
        top_kast(90.0)
    with pytest.raises((ValueError, TypeError), match="penalty"):
        top_kast(0.9, penalty="l3")
