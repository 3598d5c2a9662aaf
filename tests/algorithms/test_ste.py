"""STE: masks between updates, gradients straight through, and the two choices of masks."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import scores
from jaxsparse.algorithms.dnw import dnw
from jaxsparse.algorithms.ste import ste

WEIGHTS = jnp.array([[1.0, -2.0, 0.5, 4.0], [-5.0, 0.1, 3.0, -0.2]])


def run(method: Any, steps: int, seed: int = 0, rate: float = 1.0) -> tuple[Any, Any, Any]:
    """Weights and masks before the first step and after each, with gradients of the cosine."""
    tx, params = jaxsparse.sparsify(optax.sgd(rate), method, seed=seed), {"w": WEIGHTS}
    state = jax.jit(tx.init)(params)

    def step(carry: Any, _: Any) -> Any:
        params, state = carry
        grads = jax.tree.map(jnp.cos, jaxsparse.forward_params(params, state))
        updates, state = tx.update(grads, state, params)
        carry = optax.apply_updates(params, updates), state
        return carry, (carry[0]["w"], state.masks["w"])

    last, (weights, masks) = jax.jit(lambda c: jax.lax.scan(step, c, length=steps))((params, state))
    first = state.masks["w"][None]
    return jnp.concatenate([WEIGHTS[None], weights]), jnp.concatenate([first, masks]), last[1]


def test_one_step_by_hand() -> None:
    # A quarter of eight is seen: -5 and 4. Hidden weights get the gradient cos(0) = 1 and move:
    # to 0, -3, -0.5, -0.9, 2, -1.2; cos(4) = -0.65 and cos(-5) = 0.28 give 4.65 and -5.28.
    weights, masks, _ = run(ste(0.75), 1)
    assert masks[0].astype(int).tolist() == [[0, 0, 0, 1], [1, 0, 0, 0]]
    want = [[0.0, -3.0, -0.5, 4.6536], [-5.2837, -0.9, 2.0, -1.2]]
    np.testing.assert_allclose(weights[1], want, atol=1e-4)


def test_masks_stay_between_updates_and_weights_do_not() -> None:
    weights, masks, state = run(ste(0.5, update=jaxsparse.every(3, start=2)), 9, rate=0.25)
    moved = [bool((a != b).any()) for a, b in itertools.pairwise(masks)]
    assert int(state.info.updates) == 3
    assert [step for step in range(9) if moved[step]] == [step for step in (2, 5, 8) if moved[step]]
    assert any(moved)
    assert all(bool((a != b).all()) for a, b in itertools.pairwise(weights))
    # At an update: the largest of what training has made of them.
    for step in (3, 6, 9):
        order = np.argsort(-np.abs(np.asarray(weights[step])).ravel(), kind="stable")
        assert set(np.flatnonzero(masks[step])) == set(order[:4])


def test_at_every_step_with_constant_sparsity_it_is_dnw() -> None:
    mine, its = run(ste(0.5), 6), run(dnw(0.5), 6)
    np.testing.assert_array_equal(mine[0], its[0])
    np.testing.assert_array_equal(mine[1], its[1])


def test_random_masks_are_drawn_anew_at_updates() -> None:
    method = ste(0.5, score=scores.random, update=jaxsparse.every(2))
    params = {"w": jnp.zeros((2, 4))}
    keys = jax.random.split(jax.random.key(1), 2000)
    draw = lambda key: method.update(key, {"w": WEIGHTS > 0}, params, params, 0)[0]["w"]
    masks = np.asarray(jax.jit(jax.vmap(draw))(keys))
    assert (masks.sum((1, 2)) == 4).all()
    # Four of eight: five standard deviations are 0.056.
    assert abs(masks.mean(0) - 0.5).max() < 0.056
    _, masks, _ = run(method, 8)
    moved = [bool((a != b).any()) for a, b in itertools.pairwise(masks)]
    assert not any(moved[1::2])
    assert sum(moved[::2]) >= 3
    assert (run(method, 8, seed=1)[1] != masks).any()


def test_sparsity_may_rise() -> None:
    schedule = jaxsparse.polynomial_sparsity(0.75, 0, 4, power=1.0)
    _, masks, _ = run(ste(schedule, update=jaxsparse.every(2)), 7)
    # Eight weights; six zeros at the end: 0 at step 0, 3 at step 2, 6 at step 4.
    assert masks.sum((1, 2)).tolist() == [8, 8, 8, 5, 5, 2, 2, 2]


def test_structure_scope_and_where() -> None:
    params = {"a": jnp.full((4, 10), 2.0), "b": jnp.ones((5, 8)), "c": jnp.ones((4, 4))}
    where = lambda path, leaf: path != "c"
    first = lambda method: jax.jit(jaxsparse.sparsify(optax.sgd(0.1), method).init)(params).masks
    masks = first(ste(0.75, scope="global", where=where))
    assert (int(masks["a"].sum()), int(masks["b"].sum())) == (20, 0)
    assert masks["c"] == optax.MaskedNode()
    masks = first(ste(0.5, structure=jaxsparse.channel(), where=where))
    assert masks["a"].all(0).sum() == 5
    assert masks["a"].any(0).sum() == 5


def test_sparsity_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"sparsity is -0.1; it is the fraction of zeros"):
        ste(-0.1)
