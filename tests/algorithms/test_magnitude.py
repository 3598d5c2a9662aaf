"""One-shot magnitude pruning by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxsparse
from jaxsparse import magnitude

# Magnitudes in order: 8 7 6 5 | 4 3 2 1, all but one of the largest in "a".
PARAMS = {
    "a": jnp.array([[8.0, -7.0], [6.0, 1.0]]),
    "b": jnp.array([[-5.0, 4.0], [-3.0, 2.0]]),
}
FULL = {name: jnp.ones((2, 2), bool) for name in PARAMS}


@pytest.mark.parametrize(
    ("scope", "a", "b"),
    [
        ("layer", [[1, 1], [0, 0]], [[1, 1], [0, 0]]),
        ("global", [[1, 1], [1, 0]], [[1, 0], [0, 0]]),
    ],
)
def test_by_hand(scope: Any, a: list[list[int]], b: list[list[int]]) -> None:
    update = jax.jit(magnitude(0.5, scope=scope).update)
    grads = jax.tree.map(lambda x: 1 / x, PARAMS)  # not looked at
    masks, info = update(jax.random.key(0), FULL, PARAMS, grads, 0)
    assert masks["a"].tolist() == a
    assert masks["b"].tolist() == b
    assert (int(info.dropped), int(info.grown)) == (4, 0)


def test_ties_keep_the_count() -> None:
    # Thresholds with > drop all of them, with >= none.
    params = {"w": jnp.full((4, 5), -2.0)}
    masks, _ = jax.jit(magnitude(0.5).update)(
        jax.random.key(0), {"w": jnp.ones((4, 5), bool)}, params, params, 0
    )
    assert int(masks["w"].sum()) == 10


def test_prunes_at_its_step_and_trains_on() -> None:
    # Step 2 prunes what two steps have left, and trains the rest.
    tx = jaxsparse.sparsify(optax.sgd(1.0), magnitude(0.5, step=2))
    state, params = tx.init(PARAMS), PARAMS
    update, kept, values = jax.jit(tx.update), [], []
    for _ in range(4):
        grads = {"a": jnp.array([[2.0, 1.0], [0.0, -2.0]]), "b": jnp.zeros((2, 2))}
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
        kept.append([int(state.masks[name].sum()) for name in "ab"])
        values.append(params["a"].tolist())
    assert kept == [[4, 4], [4, 4], [2, 2], [2, 2]]
    # 8 falls by 2 a step, 1 rises by 2: after two steps 4, -9, 6 and 5.
    assert values == [
        [[6.0, -8.0], [6.0, 3.0]],
        [[4.0, -9.0], [6.0, 5.0]],
        [[0.0, -10.0], [6.0, 0.0]],
        [[0.0, -11.0], [6.0, 0.0]],
    ]


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"sparsity is 1.0; .*\[0, 1\)"):
        magnitude(1.0)
    with pytest.raises(ValueError, match=r"step is -1; .*at least 0"):
        magnitude(0.5, step=-1)
