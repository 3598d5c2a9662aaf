"""The exploration rate counts every weight that was ever kept, and changes nothing."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse.exploration import exploration_rate, explored

pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")


def tree(seed: int) -> Any:
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    return {"a": draw(6, 8), "b": draw(8, 5), "bias": draw(8)}


def methods() -> dict[str, Any]:
    every = jaxsparse.every(2, start=1)
    return {
        "static": jaxsparse.static(0.75),
        "rigl": jaxsparse.rigl(0.75, update=every, drop_fraction=0.5),
        "grown values": jaxsparse.rigl(
            0.75, update=every, drop_fraction=0.5, grown_values=lambda k, w, g, m, memory: 0.1 * g
        ),
        "window": jaxsparse.rigl(0.75, update=every, drop_fraction=0.5, gradient_steps=2),
        "dense weights": jaxsparse.sr_ste(sparsity=0.75),
        "partition": jaxsparse.partition(
            {"a": jaxsparse.rigl(0.75, update=every)}, default=jaxsparse.static(0.5)
        ),
    }


@pytest.mark.parametrize("name", methods())
def test_it_counts_what_the_masks_show_and_changes_nothing(name: str) -> None:
    method, params = methods()[name], tree(0)
    plain = jaxsparse.sparsify(optax.sgd(0.1), method)
    counted = jaxsparse.sparsify(optax.sgd(0.1), explored(method))
    ours, theirs = params, params
    state, other = jax.jit(counted.init)(params), jax.jit(plain.init)(params)
    step, reference = jax.jit(counted.update), jax.jit(plain.update)
    ever = [np.asarray(mask) for mask in jax.tree.leaves(state.masks)]
    for number in range(9):
        grads = tree(number + 1)
        updates, state = step(grads, state, ours)
        ours = optax.apply_updates(ours, updates)
        updates, other = reference(grads, other, theirs)
        theirs = optax.apply_updates(theirs, updates)
        ever = [a | np.asarray(b) for a, b in zip(ever, jax.tree.leaves(state.masks), strict=True)]
        share = sum(map(np.sum, ever)) / sum(map(np.size, ever))
        np.testing.assert_allclose(exploration_rate(state), share, rtol=1e-6)
        jax.tree.map(np.testing.assert_array_equal, (ours, state.masks), (theirs, other.masks))
        at = jaxsparse.forward_params(ours, state)
        jax.tree.map(np.testing.assert_array_equal, at, jaxsparse.forward_params(theirs, other))
    assert (share > 0.25) != (name == "static")


def test_hand_worked() -> None:
    """8 weights, 4 kept; the first update drops 2 and takes 2 new ones: 6 of 8 were kept."""
    method = jaxsparse.rigl(
        0.5,
        update=jaxsparse.at(0),
        drop_fraction=0.5,
        regrow_dropped=False,
        distribution=jaxsparse.uniform,
    )
    tx, params = jaxsparse.sparsify(optax.sgd(0.1), explored(method)), {"w": jnp.ones((2, 4))}
    state = tx.init(params)
    assert float(exploration_rate(state)) == 0.5
    for _ in range(3):
        _, state = tx.update(params, state, params)
    assert float(exploration_rate(state)) == 0.75


def test_part_of_a_partition() -> None:
    parts = {"a": explored(jaxsparse.static(0.5))}
    tx = jaxsparse.sparsify(optax.sgd(0.1), jaxsparse.partition(parts, default=jaxsparse.dense()))
    assert float(exploration_rate(tx.init(tree(0)))) == 0.5


def test_nothing_is_counted_unasked() -> None:
    tx = jaxsparse.sparsify(optax.sgd(0.1), jaxsparse.static(0.5))
    with pytest.raises(ValueError, match="wrap it: sparsify"):
        exploration_rate(tx.init(tree(0)))
