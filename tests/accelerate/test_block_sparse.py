"""Products of kept blocks against dense ones, forward and backward, in every form."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse.accelerate import block_sparse_matmul

pytestmark = pytest.mark.usefixtures("quick_compilation")

# Three block rows of height 2, four block columns of width 3; the last has an empty slot.
INDICES = jnp.array([[0, 2], [1, 2], [1, 0], [2, 3]], jnp.int32)
INPUTS, OUTPUTS = 6, 12


def dense(values: Any, indices: Any = INDICES, rows: int = 3) -> np.ndarray:
    """The matrix, block by block."""
    columns, _, height, width = values.shape
    matrix = np.zeros((rows, height, columns, width), np.float64)
    for column, slot in np.ndindex(indices.shape):
        if indices[column, slot] < rows:
            matrix[indices[column, slot], :, column] = values[column, slot]
    return matrix.reshape(rows * height, columns * width)


@pytest.fixture(scope="module")
def operands() -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4, 2, 2, 3)).astype(np.float32)
    values[3, 1] = 0
    x = rng.normal(size=(2, 5, INPUTS)).astype(np.float32)
    return x, values, rng.normal(size=(2, 5, OUTPUTS)).astype(np.float32)


BIAS = jnp.linspace(-1, 1, OUTPUTS)


def both(x: Any, values: Any, grad: Any) -> tuple[Any, Any, Any]:
    out, back = jax.vjp(lambda x, values: block_sparse_matmul(x, values, INDICES), x, values)
    return out, *back(grad)


@pytest.fixture(params=["in turn", "few in turn", "together"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """One CPU device takes columns in turn; eight, together."""
    module = "jaxsparse.accelerate.block_sparse"
    monkeypatch.setattr(f"{module}.one_device", lambda: request.param != "together")
    monkeypatch.setattr(f"{module}._FEW", 10 if request.param == "few in turn" else 0)


@pytest.mark.usefixtures("form")
def test_as_the_dense_product(operands: Any) -> None:
    x, values, grad = operands
    out, grad_x, grad_values = jax.jit(lambda *a: both(*a))(x, values, grad)
    matrix = dense(values)
    np.testing.assert_allclose(out, x @ matrix, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(grad_x, grad @ matrix.T, rtol=1e-5, atol=1e-5)
    whole = np.einsum("abi,abo->io", x.astype(np.float64), grad).reshape(3, 2, 4, 3)
    for column, rows in enumerate(np.asarray(INDICES)):
        for slot, row in enumerate(rows):
            want = whole[row, :, column] if row < 3 else np.zeros((2, 3))
            np.testing.assert_allclose(grad_values[column, slot], want, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("form")
def test_a_bias_and_its_gradient(operands: Any) -> None:
    x, values, grad = operands
    f = lambda x, values, bias: block_sparse_matmul(x, values, INDICES, bias=bias)
    run = jax.jit(lambda *a: (lambda out, back: (out, *back(grad)))(*jax.vjp(f, *a)))
    out, *grads = run(x, values, BIAS)
    plain, *of_plain = both(x, values, grad)
    np.testing.assert_allclose(out, np.asarray(plain) + np.asarray(BIAS), rtol=1e-5, atol=1e-5)
    for found, want in zip(grads, (*of_plain, grad.sum((0, 1))), strict=True):
        np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("columns", [1, 4, 5, 6, 8])
def test_any_number_of_columns_in_turn(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Columns are in turns of several; whatever their number, each is in one.
    monkeypatch.setattr("jaxsparse.accelerate.block_sparse.one_device", lambda: True)
    rng = np.random.default_rng(columns)
    draw = lambda *shape: jnp.asarray(rng.integers(-3, 4, shape), jnp.float32)
    rows = np.stack([rng.permutation(4)[:3] for _ in range(columns)]).astype(np.int32)
    x, values, grad = draw(40, 8), draw(columns, 3, 2, 3), draw(40, 3 * columns)
    matrix = dense(np.asarray(values), rows, 4)
    f = lambda x, values: block_sparse_matmul(x, values, jnp.asarray(rows))
    out, back = jax.vjp(f, x, values)
    np.testing.assert_array_equal(out, np.asarray(x) @ matrix)
    grad_x, grad_values = back(grad)
    np.testing.assert_array_equal(grad_x, np.asarray(grad) @ matrix.T)
    whole = np.asarray(x.T @ grad).reshape(4, 2, columns, 3)
    for column, slot in np.ndindex(rows.shape):
        want = whole[rows[column, slot], :, column]
        np.testing.assert_array_equal(grad_values[column, slot], want)


def test_a_gradient_that_nobody_wants_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of inputs, for the first layer of a network; of values, for a frozen one.
    monkeypatch.setattr("jaxsparse.accelerate.block_sparse.one_device", lambda: True)
    x, values, indices = jnp.ones((64, INPUTS)), jnp.ones((8, 2, 2, 3)), jnp.tile(INDICES, (2, 1))
    loss = lambda x, values: (block_sparse_matmul(x, values, indices) ** 2).sum()
    program = lambda wanted: jax.jit(jax.grad(loss, wanted)).lower(x, values).compile()
    whole, *parts = (program(wanted).cost_analysis()["flops"] for wanted in ((0, 1), 0, 1))
    assert max(parts) < 0.8 * whole


@pytest.mark.usefixtures("form")
def test_half_precision_sums_in_float32(operands: Any) -> None:
    x, values, grad = (jnp.asarray(a, jnp.bfloat16) for a in operands)
    # 2,048 ones: in bfloat16 alone the sum would stop at 256.
    tall = block_sparse_matmul(
        jnp.ones((1, 2048), jnp.bfloat16),
        jnp.ones((1, 1024, 2, 1), jnp.bfloat16),
        jnp.arange(1024, dtype=jnp.int32)[None],
    )
    assert float(tall[0, 0]) == 2048
    out, grad_x, grad_values = both(x, values, grad)
    assert (out.dtype, grad_x.dtype, grad_values.dtype) == (jnp.bfloat16,) * 3
    exact = np.asarray(x, np.float64) @ dense(np.asarray(values, np.float64))
    np.testing.assert_allclose(np.asarray(out, np.float64), exact, rtol=2**-7, atol=2**-9)


def test_dtypes_mix_as_in_a_product(operands: Any) -> None:
    x, values, grad = operands
    out, grad_x, grad_values = both(jnp.asarray(x, jnp.bfloat16), values, grad)
    assert (out.dtype, grad_x.dtype, grad_values.dtype) == (
        jnp.float32,
        jnp.bfloat16,
        jnp.float32,
    )


def test_under_vmap_and_checkpoint(operands: Any) -> None:
    x, values, grad = operands
    stacked = jnp.stack([values, 2 * values, -values])
    outs = jax.vmap(lambda values: both(x, values, grad))(stacked)
    for i, own in enumerate(stacked):
        for found, want in zip(outs, both(x, own, grad), strict=True):
            np.testing.assert_allclose(found[i], want, rtol=1e-5, atol=1e-5)
    square = lambda x, values: (block_sparse_matmul(x, values, INDICES) ** 2).sum()
    plain, again = (jax.grad(f, (0, 1))(x, values) for f in (square, jax.checkpoint(square)))
    for found, want in zip(again, plain, strict=True):
        np.testing.assert_allclose(found, want, rtol=1e-5)


@pytest.mark.usefixtures("form")
def test_one_example(operands: Any) -> None:
    x, values, grad = (operands[0][0, :1], operands[1], operands[2][0, :1])
    out, grad_x, grad_values = both(x, values, grad)
    matrix = dense(values)
    np.testing.assert_allclose(out, x @ matrix, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(grad_x, grad @ matrix.T, rtol=1e-5, atol=1e-5)
    want = np.outer(x[0], grad[0]).reshape(3, 2, 4, 3)[1, :, 2]
    np.testing.assert_allclose(grad_values[2, 0], want, rtol=1e-5, atol=1e-5)


def test_one_vector_and_an_empty_batch() -> None:
    values = jnp.ones((4, 2, 2, 3)).at[3, 1].set(0)
    assert block_sparse_matmul(jnp.ones(INPUTS), values, INDICES).tolist() == [4.0] * 9 + [2.0] * 3
    assert block_sparse_matmul(jnp.ones((0, INPUTS)), values, INDICES).shape == (0, OUTPUTS)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize(("batch", "slots"), [(0, 2), (40, 0)])
def test_gradients_of_an_empty_batch_and_of_empty_columns(batch: int, slots: int) -> None:
    x, values, indices = jnp.ones((batch, INPUTS)), jnp.ones((4, slots, 2, 3)), INDICES[:, :slots]
    out, back = jax.vjp(lambda *a: block_sparse_matmul(*a, indices), x, values)
    assert out.shape == (batch, OUTPUTS)
    assert not out.any()
    for found, like in zip(back(jnp.ones_like(out)), (x, values), strict=True):
        assert found.shape == like.shape
        assert not found.any()


def test_columns_spread_over_devices(operands: Any) -> None:
    x, values, grad = operands
    mesh = jax.make_mesh((4,), ("model",), (jax.sharding.AxisType.Auto,))
    spread = lambda *spec: jax.NamedSharding(mesh, jax.P(*spec))
    columns = jax.device_put(values, spread("model"))
    indices = jax.device_put(INDICES, spread("model"))

    def product(x: Any, values: Any, indices: Any, grad: Any) -> Any:
        f = lambda x, values: block_sparse_matmul(x, values, indices)
        out, back = jax.vjp(f, x, values)
        return out, *back(grad)

    shardings = (spread(None, None, "model"), spread(), spread("model"))
    run = jax.jit(product, out_shardings=shardings)
    compiled = run.lower(x, columns, indices, grad).compile()
    # The columns' own values stay where they are; only the inputs' gradient is summed up.
    assert "all-gather" not in compiled.as_text()
    for found, want in zip(compiled(x, columns, indices, grad), both(*operands), strict=True):
        np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)


def test_nothing_dense_is_in_the_program() -> None:
    # 64 of 4,096 blocks: no array of the program has as many numbers as the matrix.
    rows, height, batch = 64, 8, 4
    size = (rows * height) ** 2
    values = jnp.ones((rows, 1, height, height))
    indices = jnp.arange(rows, dtype=jnp.int32)[:, None]
    x = jnp.ones((batch, rows * height))
    loss = lambda x, values: block_sparse_matmul(x, values, indices).sum()
    program = jax.make_jaxpr(jax.grad(loss, (0, 1)))(x, values)

    def largest(jaxpr: Any) -> int:
        own = [v.aval.size for eqn in jaxpr.eqns for v in eqn.outvars]
        inner = [
            largest(p) for eqn in jaxpr.eqns for p in jax.extend.core.jaxprs_in_params(eqn.params)
        ]
        return max([*own, *inner], default=0)

    assert 0 < largest(program.jaxpr) < size / 8


@pytest.mark.parametrize(
    ("x", "values", "indices", "message"),
    [
        ((2, 6), (4, 2, 2), (4, 2), "give \\(columns, slots, height, width\\)"),
        ((2, 6), (4, 2, 2, 3), (4, 1), "give \\(columns, slots, height, width\\)"),
        ((2, 7), (4, 2, 2, 3), (4, 2), "cannot be cut into blocks 2 high"),
    ],
)
def test_shapes_that_do_not_fit(x: Any, values: Any, indices: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        block_sparse_matmul(jnp.ones(x), jnp.ones(values), jnp.zeros(indices, jnp.int32))
