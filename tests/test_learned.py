"""The builder of methods without a budget: masks by a rule, reports, and what is not finite."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse._tree import map_masks
from jaxsparse.forward import MaskedForward
from jaxsparse.learned import learned, sparse_leaves, train_own, with_leaves

pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")


def positive(**options: Any) -> Any:
    return learned(
        lambda params, masks, memory: map_masks(lambda mask, w: w > 0, masks, params),
        start=lambda masks, params: MaskedForward(),
        backward=lambda key, masks, params, grads, step, memory: (grads, memory),
        **options,
    )


PARAMS = {"b": jnp.ones(2), "w": jnp.array([[1.0, -1.0], [2.0, 3.0]])}


def test_all_is_kept_until_the_rule_is_asked() -> None:
    method = positive()
    masks = method.init(jax.random.key(0), PARAMS)
    assert masks["w"].all()
    assert masks["b"] == optax.MaskedNode()
    abstract = jax.eval_shape(lambda: PARAMS)
    assert method.init(jax.random.key(0), abstract)["w"].shape == (2, 2)
    masks, info = method.update(jax.random.key(0), masks, PARAMS, PARAMS, 0)
    assert masks["w"].tolist() == [[True, False], [True, True]]
    assert (int(info.kept[0]), int(info.dropped), int(info.grown)) == (3, 1, 0)
    assert (int(info.updates), int(info.skipped)) == (1, 0)
    assert method.learned
    assert method.dense_weights


def test_masks_follow_every_step_and_come_back() -> None:
    tx = jaxsparse.sparsify(optax.sgd(1.0), positive())
    state = jax.jit(tx.init)(PARAMS)
    assert state.masks["w"].tolist() == [[True, False], [True, True]]
    grads = {"b": jnp.zeros(2), "w": jnp.array([[0.0, -5.0], [5.0, 0.0]])}
    updates, state = jax.jit(tx.update)(grads, state, PARAMS)
    assert state.masks["w"].tolist() == [[True, True], [False, True]]
    assert (int(state.info.dropped), int(state.info.grown)) == (1, 1)
    params = optax.apply_updates(PARAMS, updates)
    seen = jaxsparse.forward_params(params, state)["w"]
    assert seen.tolist() == [[1.0, 4.0], [0.0, 3.0]]


def test_a_number_that_is_not_finite_leaves_the_masks_as_they_are() -> None:
    method = positive()
    masks = {"b": optax.MaskedNode(), "w": jnp.zeros((2, 2), bool)}
    for name in PARAMS:
        bad = {**PARAMS, name: PARAMS[name].at[0].set(jnp.nan)}
        new, info = method.update(jax.random.key(0), masks, PARAMS, bad, 0)
        assert not new["w"].any()
        assert (int(info.updates), int(info.skipped)) == (0, 1)


def test_where() -> None:
    masks = positive(where=lambda path, leaf: path == "b").init(jax.random.key(0), PARAMS)
    assert masks["w"] == optax.MaskedNode()
    assert masks["b"].tolist() == [True, True]


def test_own_parameters_stand_still_where_a_gradient_is_not_finite() -> None:
    adam, values = optax.adam(0.1), {"a": jnp.ones(2), "b": jnp.ones(())}
    state = adam.init(values)
    grads = {"a": jnp.ones(2), "b": jnp.ones(())}
    new, after = train_own(adam, grads, state, values)
    np.testing.assert_allclose(new["a"], 0.9, rtol=1e-5)
    assert int(after[0].count) == 1
    for bad in (jnp.inf, jnp.nan):
        new, after = train_own(adam, {"a": jnp.array([1.0, bad]), "b": grads["b"]}, state, values)
        assert jax.tree.map(jnp.array_equal, (new, after), (values, state))
        assert new["b"] == 1.0
        assert int(after[0].count) == 0


def test_leaves_in_the_order_of_the_masks() -> None:
    masks = {"a": optax.MaskedNode(), "b": jnp.ones(1, bool), "c": jnp.zeros(1, bool)}
    others = {"a": 1, "b": 2, "c": 3}
    assert [row[1] for row in sparse_leaves(masks, others)] == [2, 3]
    assert with_leaves(masks, [5, 6], others) == {"a": 1, "b": 5, "c": 6}
