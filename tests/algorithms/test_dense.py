"""Dense: the wrapper changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxsparse


def test_trains_as_the_optimizer_alone(key: jax.Array) -> None:
    params = {"bias": jnp.zeros(3), "kernel": jax.random.normal(key, (4, 3))}
    alone = optax.adamw(0.1)
    tx = jaxsparse.sparsify(alone, jaxsparse.dense())

    def run(tx: optax.GradientTransformation) -> list[dict[str, jax.Array]]:
        weights, state, found = params, tx.init(params), []
        for step in range(3):
            grads = jax.tree.map(lambda x, step=step: jnp.cos(x + step), weights)
            updates, state = jax.jit(tx.update)(grads, state, weights)
            weights = optax.apply_updates(weights, updates)
            found.append(weights)
        return found

    for ours, theirs in zip(run(tx), run(alone), strict=True):
        for name in params:
            np.testing.assert_array_equal(ours[name], theirs[name])


def test_has_no_masks_and_no_updates(key: jax.Array) -> None:
    method = jaxsparse.dense()
    params = {"a": jnp.ones((4, 3)), "b": [jnp.ones(2), jnp.ones((2, 2))]}
    mark = optax.MaskedNode()
    masks = method.init(key, params)
    assert masks == {"a": mark, "b": [mark, mark]}
    assert method.due is None
    again, info = method.update(key, masks, params, params, 0)
    assert again == masks
    assert int(info.dropped) == int(info.grown) == int(info.skipped) == 0
    assert info.kept.tolist() == [0]
