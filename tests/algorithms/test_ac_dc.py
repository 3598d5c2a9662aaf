"""AC/DC: the phases, one switch of each kind by hand, and exact counts to the end."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse.algorithms.ac_dc import ac_dc

WEIGHTS = jnp.array([[1.0, -2.0, 0.5, 4.0], [-5.0, 0.1, 3.0, -0.2]])


def run(method: Any, steps: int, params: Any, inner: Any = None) -> Any:
    """Weights and states after each step; the gradient is one everywhere."""
    tx = jaxsparse.sparsify(inner or optax.sgd(0.25), method)
    grads = jax.tree.map(jnp.ones_like, params)

    def step(carry: Any, _: Any) -> Any:
        params, state = carry
        updates, state = tx.update(grads, state, params)
        carry = optax.apply_updates(params, updates), state
        return carry, carry

    return jax.jit(lambda c: jax.lax.scan(step, c, length=steps))(
        (params, jax.jit(tx.init)(params))
    )[1]


def test_a_switch_of_each_kind_by_hand() -> None:
    weights, states = run(ac_dc(0.5, switches=[0, 1, 2]), 3, {"w": WEIGHTS})
    # Sparse at once: -2, 4, -5 and 3 stay, and are trained by -0.25.
    assert weights["w"][0].tolist() == [[0.0, -2.25, 0.0, 3.75], [-5.25, 0.0, 2.75, 0.0]]
    # All come back, at zero; the others are trained.
    assert states.masks["w"][1].all()
    assert weights["w"][1].tolist() == [[0.0, -2.5, 0.0, 3.5], [-5.5, 0.0, 2.5, 0.0]]
    # Sparse again: the same four, for the others are zero.
    assert weights["w"][2].tolist() == [[0.0, -2.75, 0.0, 3.25], [-5.75, 0.0, 2.25, 0.0]]
    assert states.info.grown.tolist() == [0, 4, 0]
    assert states.info.dropped.tolist() == [4, 0, 4]


def test_against_numpy() -> None:
    rng = np.random.default_rng(0)
    weight, firsts = rng.normal(size=(9, 7)), [2, 4, 5, 9, 11]
    params = {"w": jnp.asarray(weight, jnp.float32)}
    # 63 weights, 0.9: floor(56.7) = 56 zeros.
    weights, states = run(ac_dc(0.9, switches=firsts), 14, params)
    mask = np.ones((9, 7), bool)
    for step in range(14):
        before = mask
        if step in firsts[::2]:
            order = np.argsort(-np.abs(weight), axis=None)
            mask = np.zeros((9, 7), bool)
            mask.ravel()[order[:7]] = True
        elif step in firsts[1::2]:
            mask = np.ones((9, 7), bool)
        weight = (weight - 0.25) * (mask & before)
        np.testing.assert_array_equal(states.masks["w"][step], mask)
        np.testing.assert_allclose(weights["w"][step], weight, rtol=1e-5, atol=1e-5)


def phases(method: Any, steps: int) -> list[int]:
    return [step for step in range(steps) if method.due(step)]


def test_when_it_switches() -> None:
    assert phases(ac_dc(0.9, start=2, stop=9, interval=3), 40) == [2, 5, 8]
    # At the stop the second phase is dense: it ends there.
    assert phases(ac_dc(0.9, start=2, stop=7, interval=3), 40) == [2, 5, 7]
    assert phases(ac_dc(0.9, start=2, stop=8, interval=3), 40) == [2, 5, 8]
    assert phases(ac_dc(0.9, start=3, stop=3, interval=3), 40) == [3]
    paper = [*range(10, 75, 5), 75, 85]
    assert phases(ac_dc(0.9, switches=paper), 100) == paper
    assert ac_dc(0.9).due(jnp.arange(8000)).sum() == 1


@pytest.mark.parametrize(("scope", "last"), [("global", [12, 1]), ("layer", [10, 3])])
def test_counts_of_every_step(scope: Any, last: list[int]) -> None:
    # 130 weights, 0.9: 117 zeros. The second leaf is small but for one weight.
    params = {"a": jnp.full((10, 10), 10.0), "b": jnp.full((5, 6), 2.0).at[0, 0].set(20.0)}
    method = ac_dc(0.9, start=1, stop=6, interval=2, scope=scope)
    _, states = run(method, 9, params, optax.sgd(0.0))
    whole, sparse = [100, 30], last
    counts = [whole, sparse, sparse, whole, whole, *[sparse] * 4]
    assert states.info.kept.tolist() == counts


def test_slots_of_what_comes_back() -> None:
    """Adagrad adds 1 a step to 0.1; four weights are gone at step 1, and come back at step 3."""
    method = ac_dc(0.5, switches=[1, 3, 6])
    slots = run(method, 5, {"w": WEIGHTS}, optax.adagrad(0.1))[1].inner_state[0].sum_of_squares["w"]
    kept = np.abs(np.asarray(WEIGHTS)) >= 2
    np.testing.assert_allclose(slots[4][kept], 5.1, rtol=1e-6)
    np.testing.assert_allclose(slots[3][~kept], 0.1, rtol=1e-6)
    np.testing.assert_allclose(slots[4][~kept], 1.1, rtol=1e-6)
    method = ac_dc(0.5, switches=[1, 3, 6], grown_slots="keep")
    slots = run(method, 5, {"w": WEIGHTS}, optax.adagrad(0.1))[1].inner_state[0].sum_of_squares["w"]
    np.testing.assert_allclose(slots[3][~kept], 1.1, rtol=1e-6)


def test_structure_distribution_and_where() -> None:
    params = {"a": jnp.arange(32.0).reshape(8, 4), "b": jnp.ones((4, 4)), "c": jnp.ones((6, 6))}
    method = ac_dc(
        0.5,
        switches=[0],
        scope="layer",
        structure=jaxsparse.n_m(keep=2, of=4),
        where=lambda path, leaf: path != "c",
    )
    _, states = run(method, 1, params)
    assert (states.masks["a"][0].reshape(2, 4, 4).sum(1) == 2).all()
    assert states.masks["c"] == optax.MaskedNode()
    uneven = functools.partial(jaxsparse.by_path, rules={"a": 0.75, "b": 0.0, "c": 0.0})
    _, states = run(ac_dc(0.3, switches=[0], scope="layer", distribution=uneven), 1, params)
    assert states.info.kept[0].tolist() == [8, 16, 36]


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"switches is \[1, 2\]; give an odd number of steps"):
        ac_dc(0.9, switches=[1, 2])
    with pytest.raises(ValueError, match=r"switches is \[1, 3, 2\]; .* that rise"):
        ac_dc(0.9, switches=[1, 3, 2])
    with pytest.raises(ValueError, match=r"switches is \[\]"):
        ac_dc(0.9, switches=[])
    with pytest.raises(ValueError, match=r"n is 0; it must be a whole number of steps, at least 1"):
        ac_dc(0.9, interval=0)
    with pytest.raises(ValueError, match="stop is 1, before start"):
        ac_dc(0.9, start=2, stop=1)
    with pytest.raises(ValueError, match=r"sparsity is 1.0; .*in \[0, 1\)"):
        ac_dc(1.0)
