"""SR-STE: groups along the reduction axis, and the decay of what is hidden."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse.algorithms.sr_ste import sr_ste
from jaxsparse.algorithms.ste import ste

# Two of four along the first axis: 3 and -2; 4 and 1; the hidden are 1, 0.5; -0.5 and 0.
WEIGHTS = jnp.array([[3.0, 1.0], [1.0, -0.5], [-2.0, 4.0], [0.5, 0.0]])
MASK = [[1, 1], [0, 0], [1, 1], [0, 0]]


def once(method: Any, grads: Any) -> tuple[Any, Any]:
    tx, params = jaxsparse.sparsify(optax.sgd(0.5), method), {"w": WEIGHTS}
    state = jax.jit(tx.init)(params)
    assert state.masks["w"].astype(int).tolist() == MASK
    updates, state = jax.jit(tx.update)({"w": grads}, state, params)
    return optax.apply_updates(params, updates)["w"], state.masks["w"]


def test_one_step_by_hand() -> None:
    # Half of 0.4 of what is hidden: 1 -> 0.8, 0.5 -> 0.4, -0.5 -> -0.4; gradients reach all.
    weights, masks = once(sr_ste(2, 4, decay=0.4), jnp.zeros((4, 2)).at[3, 1].set(-8.0))
    np.testing.assert_allclose(weights, [[3, 1], [0.8, -0.4], [-2, 4], [0.4, 4]], rtol=1e-6)
    # Both fours are kept in the second column.
    assert masks.astype(int).tolist() == [[1, 0], [0, 0], [1, 1], [0, 1]]


def test_without_decay_it_is_the_plain_estimator() -> None:
    weights, _ = once(sr_ste(decay=0.0), jnp.zeros((4, 2)))
    assert weights.tolist() == WEIGHTS.tolist()
    assert sr_ste(decay=0.0).backward is None


def test_the_default_decay_is_the_papers() -> None:
    backward = sr_ste().backward
    masks = {"w": jnp.array(MASK, bool), "b": optax.MaskedNode()}
    params = {"w": WEIGHTS, "b": jnp.ones(2)}
    grads = jax.tree.map(jnp.zeros_like, params)
    given, memory = backward(jax.random.key(0), masks, params, grads, 0, ())
    np.testing.assert_allclose(given["w"], 2e-4 * np.asarray(WEIGHTS) * (1 - np.array(MASK)))
    assert given["b"].tolist() == [0.0, 0.0]
    assert memory == ()


@pytest.mark.parametrize(("keep", "of"), [(1, 2), (2, 4), (5, 6), (1, 6), (4, 6)])
def test_ten_steps_against_numpy(keep: int, of: int) -> None:
    """Counts are exact in every group, also where 1 - keep / of is no float."""
    rng = np.random.default_rng(of)
    weight, center = rng.normal(size=(12, 5)), rng.normal(size=(12, 5))
    tx = jaxsparse.sparsify(optax.sgd(0.25), sr_ste(keep, of, decay=0.1))
    params = {"w": jnp.asarray(weight, jnp.float32)}

    def step(carry: Any, _: Any) -> Any:
        params, state = carry
        # The gradient of a parabola, at the weights that are seen.
        grads = {"w": jaxsparse.forward_params(params, state)["w"] - center}
        updates, state = tx.update(grads, state, params)
        carry = optax.apply_updates(params, updates), state
        return carry, (carry[0]["w"], state.masks["w"])

    scan = jax.jit(lambda carry: jax.lax.scan(step, carry, length=10))
    _, (weights, masks) = scan((params, jax.jit(tx.init)(params)))

    def chosen(weight: np.ndarray) -> np.ndarray:
        groups = np.abs(weight).reshape(12 // of, of, 5)
        rank = np.argsort(np.argsort(-groups, axis=1), axis=1)
        return (rank < keep).reshape(12, 5)

    for mine, mask in zip(weights, masks, strict=True):
        seen = chosen(weight)
        weight = weight - 0.25 * (weight * seen - center + 0.1 * (1 - seen) * weight)
        np.testing.assert_allclose(mine, weight, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(mask, chosen(weight))
        assert (np.asarray(mask).reshape(12 // of, of, 5).sum(1) == keep).all()


def test_single_weights_along_a_schedule() -> None:
    tx = jaxsparse.sparsify(optax.sgd(0.0), sr_ste(sparsity=0.75))
    assert int(jax.jit(tx.init)({"w": WEIGHTS}).masks["w"].sum()) == 2
    schedule = jaxsparse.one_shot(0.75, 2)
    tx = jaxsparse.sparsify(optax.sgd(0.0), sr_ste(sparsity=schedule, update=jaxsparse.at(2)))
    params, state, kept = {"w": WEIGHTS}, jax.jit(tx.init)({"w": WEIGHTS}), []
    update = jax.jit(tx.update)
    for _ in range(4):
        _, state = update(params, state, params)
        kept.append(int(state.info.kept[0]))
    assert kept == [8, 8, 2, 2]


def test_single_weights_without_decay_are_ste() -> None:
    update = lambda method: method.update(jax.random.key(0), *args)[0]["w"]
    args = ({"w": WEIGHTS > 0}, {"w": WEIGHTS}, {"w": WEIGHTS}, 0)
    np.testing.assert_array_equal(update(sr_ste(sparsity=0.5, decay=0.0)), update(ste(0.5)))


def test_the_last_axis_and_leaves_left_out() -> None:
    params = {"a": WEIGHTS.T, "b": jnp.ones((3, 3))}
    method = sr_ste(axis=-1, where=lambda path, leaf: path == "a")
    masks = jax.jit(jaxsparse.sparsify(optax.sgd(0.1), method).init)(params).masks
    assert masks["a"].T.astype(int).tolist() == MASK
    assert masks["b"] == optax.MaskedNode()


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"n_m\(keep=4, of=4\): keep must lie in \[1, of\)"):
        sr_ste(4, 4)
    with pytest.raises(ValueError, match=r"decay is -1.0; it must be 0 \(plain STE\) or more"):
        sr_ste(decay=-1.0)
    with pytest.raises(ValueError, match=r"sparsity is 75.0; .*give 0.75"):
        sr_ste(sparsity=75.0)
    with pytest.raises(ValueError, match="does not divide axis -2 of w"):
        jaxsparse.sparsify(optax.sgd(0.1), sr_ste()).init({"w": jnp.ones((6, 4))})
