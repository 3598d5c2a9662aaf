"""The condensed product against the dense one, forward and backward."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse.accelerate import condensed_matmul, fan_in

pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")

# Of six inputs, two slots for each of four outputs; the last output has an empty one.
INDICES = jnp.array([[0, 1, 5, 2], [3, 2, 0, 6]], jnp.int32)
INPUTS, OUTPUTS = 6, 4


def dense(values: Any) -> np.ndarray:
    matrix = np.zeros((INPUTS + 1, OUTPUTS))
    for slot, rows in enumerate(np.asarray(INDICES)):
        matrix[rows, np.arange(OUTPUTS)] = values[slot]
    return matrix[:INPUTS]


@pytest.fixture(scope="module")
def operands() -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2, OUTPUTS)).astype(np.float32)
    values[1, 3] = 0
    x = rng.normal(size=(2, 3, INPUTS)).astype(np.float32)
    return x, values, rng.normal(size=(2, 3, OUTPUTS)).astype(np.float32)


def both(x: Any, values: Any, grad: Any) -> tuple[Any, Any, Any]:
    out, back = jax.vjp(lambda x, values: condensed_matmul(x, values, INDICES), x, values)
    return out, *back(grad)


@pytest.fixture(params=["in turn", "together"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "together":
        monkeypatch.setattr(fan_in, "_in_turn", fan_in._together)


@pytest.mark.usefixtures("form")
def test_as_the_dense_product(operands: Any) -> None:
    x, values, grad = operands
    out, grad_x, grad_values = both(x, values, grad)
    matrix = dense(values)
    np.testing.assert_allclose(out, x @ matrix, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(grad_x, grad @ matrix.T, rtol=1e-5, atol=1e-6)
    whole = np.einsum("abi,abo->io", x.astype(np.float64), grad)
    whole = np.concatenate([whole, np.zeros((1, OUTPUTS))])  # the empty slot gets nothing
    want = np.take_along_axis(whole, np.asarray(INDICES), axis=0)
    np.testing.assert_allclose(grad_values, want, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("form")
def test_half_precision_sums_in_float32(operands: Any) -> None:
    # 2,048 ones: in bfloat16 alone the sum would stop at 256.
    ones = jnp.ones((1, 2048), jnp.bfloat16)
    tall = condensed_matmul(ones, ones.T, jnp.arange(2048, dtype=jnp.int32)[:, None])
    assert (float(tall[0, 0]), tall.dtype) == (2048, jnp.bfloat16)
    x, values, grad = (jnp.asarray(a, jnp.bfloat16) for a in operands)
    assert [a.dtype for a in both(x, values, grad)] == [jnp.bfloat16] * 3
    mixed = both(x, operands[1], operands[2])
    assert [a.dtype for a in mixed] == [jnp.float32, jnp.bfloat16, jnp.float32]


def test_under_jit_vmap_and_on_one_vector(operands: Any) -> None:
    x, values, grad = operands
    stacked = jnp.stack([values, -2 * values])
    outs = jax.jit(jax.vmap(lambda values: both(x, values, grad)))(stacked)
    for i, own in enumerate(stacked):
        for found, want in zip(outs, both(x, own, grad), strict=True):
            np.testing.assert_allclose(found[i], want, rtol=1e-5, atol=1e-6)
    one = condensed_matmul(jnp.ones(INPUTS), jnp.asarray(values), INDICES)
    np.testing.assert_allclose(one, dense(values).sum(0), rtol=1e-5)
    empty = condensed_matmul(jnp.ones((0, INPUTS)), jnp.asarray(values), INDICES)
    assert empty.shape == (0, OUTPUTS)


@pytest.mark.parametrize(
    ("values", "indices"), [((2, 4, 1), (2, 4, 1)), ((2, 4), (4, 2)), ((4,), (4,))]
)
def test_shapes_that_do_not_fit(values: Any, indices: Any) -> None:
    with pytest.raises(ValueError, match=r"twice \(slots, outputs\)"):
        condensed_matmul(jnp.ones((2, 6)), jnp.ones(values), jnp.zeros(indices, jnp.int32))
