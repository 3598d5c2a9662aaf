"""SNIP by hand: global and layer by layer, on one batch, before training."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import snip

# |w g|: a = [[6, 2], [10, 1]], b = [[0.5, 5], [3, 0]]; the largest weights and the largest
# gradients are others.
PARAMS = {
    "a": jnp.array([[3.0, 0.2], [-5.0, 100.0]]),
    "b": jnp.array([[0.1, -1.0], [1.5, 50.0]]),
    "bias": jnp.zeros(2),
}
GRADS = {
    "a": jnp.array([[-2.0, 10.0], [2.0, 0.01]]),
    "b": jnp.array([[5.0, 5.0], [2.0, 0.0]]),
    "bias": jnp.ones(2),
}


def pruned(params: Any, grads: Any, **options: Any) -> Any:
    method = snip(options.pop("sparsity", 0.5), **options)
    masks = method.init(jax.random.key(0), params)
    masks, _ = jax.jit(method.update)(jax.random.key(0), masks, params, grads, 0)
    return {name: mask.astype(int).tolist() for name, mask in masks.items() if name != "bias"}


def test_global_by_hand() -> None:
    # The largest four of eight: 10, 6, 5, 3.
    assert pruned(PARAMS, GRADS) == {"a": [[1, 0], [1, 0]], "b": [[0, 1], [1, 0]]}
    # The largest two: 10 and 6; "b" is gone.
    assert pruned(PARAMS, GRADS, sparsity=0.75) == {"a": [[1, 0], [1, 0]], "b": [[0, 0], [0, 0]]}


def test_layer_by_hand() -> None:
    # RigL's baseline: the largest of each layer.
    found = pruned(PARAMS, GRADS, sparsity=0.75, scope="layer")
    assert found == {"a": [[0, 0], [1, 0]], "b": [[0, 1], [0, 0]]}


def test_the_scale_of_the_loss_does_not_matter() -> None:
    # The paper divides by the sum of all scores: the order is the same.
    scaled = jax.tree.map(lambda g: 64.0 * g, GRADS)
    assert pruned(PARAMS, scaled) == pruned(PARAMS, GRADS)


def test_zero_saliencies_keep_the_count() -> None:
    # Zero-initialized layers score 0 everywhere; a threshold of >= would keep them all.
    zeros = jax.tree.map(jnp.zeros_like, GRADS)
    found = pruned(PARAMS, zeros)
    assert sum(sum(row) for mask in found.values() for row in mask) == 4


def test_prunes_on_the_first_gradient_and_does_not_train_on_it() -> None:
    tx = jaxsparse.sparsify(optax.adam(0.1), snip(0.5))
    state = tx.init(PARAMS)
    assert all(bool(state.masks[name].all()) for name in "ab")
    assert state.masks["bias"] == optax.MaskedNode()
    update = jax.jit(tx.update)
    updates, state = update(GRADS, state, PARAMS)
    params = optax.apply_updates(PARAMS, updates)
    # The weights that were scored, pruned, and nothing else; the optimizer stood still.
    for name in "ab":
        want = np.where(state.masks[name], PARAMS[name], 0.0)
        np.testing.assert_array_equal(params[name], want)
    np.testing.assert_array_equal(params["bias"], PARAMS["bias"])
    assert int(state.inner_state[0].count) == 0
    first = state.masks
    for _ in range(2):
        updates, state = update(jax.tree.map(lambda g: 1 - g, GRADS), state, params)
        params = optax.apply_updates(params, updates)
    assert int(state.inner_state[0].count) == 2
    assert int(state.info.updates) == 1
    for name in "ab":
        np.testing.assert_array_equal(state.masks[name], first[name])
        np.testing.assert_array_equal(params[name] != 0, first[name])


def test_a_first_gradient_that_is_not_finite_leaves_the_network_dense() -> None:
    method = snip(0.5)
    masks = method.init(jax.random.key(0), PARAMS)
    bad = {**GRADS, "bias": jnp.array([0.0, jnp.nan])}
    new, info = jax.jit(method.update)(jax.random.key(0), masks, PARAMS, bad, 0)
    assert all(bool(new[name].all()) for name in "ab")
    assert (int(info.skipped), int(info.updates)) == (1, 0)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"sparsity is -0.1; .*\[0, 1\)"):
        snip(-0.1)
