"""Deep R: one update by hand, signs, L1 and noise, and training against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse.algorithms.deep_r import deep_r

# Eight of sixteen are kept. Row 0 has positive signs, row 1 negative ones: 0.5, 2 and -1, -2 stay;
# -3, 0.25 and the two zeros are cut.
MASK = jnp.array([[1] * 4, [1] * 4, [0] * 4, [0] * 4], bool)
WEIGHTS = jnp.array([[0.5, -3.0, 0.0, 2.0], [-1.0, 0.25, -2.0, 0.0], [9.0] * 4, [-9.0] * 4])
POSITIVE = jnp.array([[1] * 4, [0] * 4, [1, 0, 1, 0], [0, 1, 0, 1]], bool)


def test_update_by_hand() -> None:
    method, params = deep_r(0.5), {"w": WEIGHTS}
    draw = lambda key: method.update(key, {"w": MASK}, params, params, 0, {"w": POSITIVE})[0]["w"]
    masks = np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 200)))
    assert (masks.sum((1, 2)) == 8).all()
    assert (masks[:, :2] == [[1, 0, 0, 1], [1, 0, 1, 0]]).all()
    # Four of the eight that were not connected, each as often: five deviations are 0.18.
    assert abs(masks[:, 2:].mean(0) - 0.5).max() < 0.18


def test_signs_are_those_of_the_first_weights() -> None:
    params = {"bias": jnp.ones(3), "w": jnp.where(POSITIVE, 1.0, -1.0), "z": jnp.zeros((40, 50))}
    masks = {"bias": optax.MaskedNode(), "w": MASK, "z": jnp.ones((40, 50), bool)}
    memory = deep_r(0.5).start(masks, params)
    assert memory["bias"] == optax.MaskedNode()
    np.testing.assert_array_equal(memory["w"], POSITIVE)
    # Where there is none to go by, half of them.
    assert memory["z"].dtype == bool
    assert abs(float(memory["z"].mean()) - 0.5) < 0.06


def test_regularization_and_noise() -> None:
    params = {"bias": jnp.ones(3), "w": jnp.zeros((40, 50))}
    masks = {"bias": optax.MaskedNode(), "w": jnp.ones((40, 50), bool)}
    memory = {"bias": optax.MaskedNode(), "w": jnp.arange(2000).reshape(40, 50) % 2 == 0}
    grads = {"bias": jnp.ones(3), "w": jnp.full((40, 50), 0.5)}
    quiet = deep_r(0.5, l1=0.25, noise=0.0).backward
    given, same = quiet(jax.random.key(0), masks, params, grads, 0, memory)
    np.testing.assert_array_equal(given["w"], jnp.where(memory["w"], 0.75, 0.25))
    np.testing.assert_array_equal(given["bias"], grads["bias"])
    assert same is memory
    loud = deep_r(0.5, l1=0.0, noise=2.0).backward
    draws = [
        loud(jax.random.key(key), masks, params, grads, 0, memory)[0]["w"] - 0.5 for key in (0, 1)
    ]
    # Of a spread of 2: the mean's own is 0.045, the spread's 0.032.
    assert all(abs(float(x.mean())) < 0.22 and abs(float(x.std()) - 2) < 0.16 for x in draws)
    assert abs(float(jnp.corrcoef(draws[0].ravel(), draws[1].ravel())[0, 1])) < 0.12


def test_training_against_numpy(key: jax.Array) -> None:
    """Eight steps of SGD: L1, what crosses zero, what is connected, and 1e-12."""
    params = {"a": jax.random.normal(key, (6, 5)), "b": jax.random.normal(key, (5, 10))}
    tx = jaxsparse.sparsify(optax.sgd(0.5), deep_r(0.75, l1=0.125, noise=0.0))
    state, step = tx.init(params), jax.jit(tx.update)
    positive = {n: np.asarray(w) > 0 for n, w in params.items()}
    params = jaxsparse.apply_masks(params, state.masks)
    cut = 0
    for number in range(8):
        grads = jax.tree.map(lambda w, i=number: jnp.cos(9 * w + i), params)
        before, old = params, state.masks
        updates, state = step(grads, state, params)
        params = optax.apply_updates(params, updates)
        assert state.info.kept.sum() == 20
        for name, mask in state.masks.items():
            was, new, sign = np.asarray(before[name]), np.asarray(params[name]), positive[name]
            stays = np.asarray(old[name]) & np.where(sign, was > 0, was < 0)
            cut += int((np.asarray(old[name]) & ~stays).sum())
            mask = np.asarray(mask)
            np.testing.assert_array_equal(mask & np.asarray(old[name]), stays)
            grad = np.asarray(grads[name]) + np.where(sign, 0.125, -0.125)
            np.testing.assert_allclose(new[stays], (was - 0.5 * grad)[stays], rtol=1e-5, atol=1e-6)
            tiny = np.where(sign, 1e-12, -1e-12).astype(np.float32)
            np.testing.assert_array_equal(new[mask & ~stays], tiny[mask & ~stays])
            assert not new[~mask].any()
    assert cut > 10
    assert bool(deep_r(0.5).due(0))
    assert int(state.info.updates) == 8


def test_half_precision_reconnects_at_a_number_that_it_has() -> None:
    for dtype in (jnp.float16, jnp.bfloat16):
        tx = jaxsparse.sparsify(optax.sgd(0.0), deep_r(0.5))
        params = {"w": WEIGHTS.astype(dtype)}
        state = tx.init(params)._replace(masks={"w": MASK}, memory={"w": POSITIVE})
        params = jaxsparse.apply_masks(params, state.masks)
        updates, state = jax.jit(tx.update)(params, state, params)
        new = optax.apply_updates(params, updates)["w"]
        assert new.dtype == dtype
        assert int((new != 0).sum()) == int(state.masks["w"].sum()) == 8
        assert float(abs(new[2:]).max()) < 1e-4


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"l1 is -1.0; it must be 0 or more"):
        deep_r(0.9, l1=-1.0)
    with pytest.raises(ValueError, match=r"noise is -1.0; it must be 0 or more"):
        deep_r(0.9, noise=-1.0)
