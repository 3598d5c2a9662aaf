"""Scores by hand, in every dtype."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse import scores

pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")


def test_magnitude() -> None:
    assert scores.magnitude(None, jnp.array([-2.0, 0.0, 1.5]), None, None, None).tolist() == [
        2.0,
        0.0,
        1.5,
    ]


def test_gradient_magnitude_ranks_the_memory_where_there_is_one() -> None:
    grad, memory = jnp.array([-2.0, 1.0]), jnp.array([0.5, -4.0])
    assert scores.gradient_magnitude(None, None, grad, None, None).tolist() == [2.0, 1.0]
    assert scores.gradient_magnitude(None, None, grad, None, memory).tolist() == [0.5, 4.0]


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_saliency_does_not_underflow(dtype: jnp.dtype) -> None:
    # In float16 both products are 0, and the order of half of a network would be lost.
    weight = jnp.array([1e-4, -1e-4], dtype)
    grad = jnp.array([1e-4, 2e-4], dtype)
    found = scores.saliency(None, weight, grad, None, None)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, [1e-8, 2e-8], rtol=1e-2)


def test_random_is_uniform_and_the_same_for_a_key(key: jax.Array) -> None:
    shape = jax.ShapeDtypeStruct((300, 200), jnp.bfloat16)
    found = scores.random(key, shape, None, None, None)
    assert found.dtype == jnp.int32
    assert found.shape == (300, 200)
    np.testing.assert_array_equal(found, scores.random(key, shape, None, None, None))
    other = scores.random(jax.random.fold_in(key, 1), shape, None, None, None)
    assert float((found == other).mean()) < 1e-3
    share = np.asarray(found).astype(np.float64) / 2**31
    assert share.min() >= 0
    # Ten bins of 6000: four standard deviations are 300.
    counts, _ = np.histogram(share, bins=10, range=(0, 1))
    assert abs(counts - 6000).max() < 300
    # No two alike, nearly: floats of a low precision would tie.
    assert np.unique(np.asarray(found)).size > 59_990
