"""Static: a random mask, drawn once."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxsparse

PARAMS = {"a": jnp.ones((20, 30)), "bias": jnp.ones(30), "b": jnp.ones((30, 5))}


def test_counts_are_those_of_the_distribution(key: jax.Array) -> None:
    # Published code draws each weight by itself: a count only in expectation.
    for distribution in (jaxsparse.erk, jaxsparse.uniform):
        masks = jaxsparse.static(0.9, distribution=distribution).init(key, PARAMS)
        counts = distribution(PARAMS, 0.9)
        assert masks["bias"] == counts["bias"] == optax.MaskedNode()
        assert {n: int(masks[n].sum()) for n in "ab"} == {n: counts[n] for n in "ab"}


def test_never_moves() -> None:
    method = jaxsparse.static(0.9)
    assert method.due is None
    tx = jaxsparse.sparsify(optax.sgd(0.1, momentum=0.9), method)
    state = first = tx.init(PARAMS)
    params = jaxsparse.apply_masks(PARAMS, state.masks)
    update = jax.jit(tx.update)
    for step in range(4):
        grads = jax.tree.map(lambda x, step=step: jnp.cos(x + step), params)
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
    for name in "ab":
        np.testing.assert_array_equal(state.masks[name], first.masks[name])
        np.testing.assert_array_equal(params[name] != 0, first.masks[name])
    assert int(state.info.updates) == 0


def test_another_seed_is_another_mask() -> None:
    init = lambda seed: jaxsparse.sparsify(optax.sgd(0.1), jaxsparse.static(0.5), seed=seed).init(
        PARAMS
    )
    first, again, other = (init(seed).masks["a"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
