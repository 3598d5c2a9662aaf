"""The Walsh-Hadamard transform against the matrix, written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from jaxsparse.subspaces import walsh_hadamard


# One factor, a whole factor, two of unequal size, three.
@pytest.mark.parametrize("n", [1, 2, 64, 512, 8192])
def test_it_is_a_product_with_the_matrix(n: int) -> None:
    # Integers: every sum is exact in float32, and so is the comparison.
    x = np.random.default_rng(n).integers(-9, 10, (3, n)).astype(np.float32)
    expected = x.astype(np.float64) @ scipy.linalg.hadamard(n)
    np.testing.assert_array_equal(walsh_hadamard(jnp.asarray(x)), expected)


def test_it_keeps_leading_dimensions_and_undoes_itself() -> None:
    x = jnp.arange(2 * 3 * 128, dtype=jnp.float32).reshape(2, 3, 128)
    twice = jax.jit(lambda x: walsh_hadamard(walsh_hadamard(x)))(x)
    np.testing.assert_array_equal(twice, 128 * x)


@pytest.mark.parametrize("n", [0, 3, 96])
def test_other_lengths_are_refused(n: int) -> None:
    with pytest.raises(ValueError, match=f"the last dimension is {n}; pad"):
        walsh_hadamard(jnp.zeros((2, n)))
