"""Pallas kernels, simulated on a CPU, against the XLA form."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse.accelerate import block_sparse_matmul
from jaxsparse.accelerate.kernels import tpu

pytestmark = pytest.mark.usefixtures("quick_compilation")


def both(product: Any, x: Any, values: Any, grad: Any) -> tuple[Any, Any, Any]:
    out, back = jax.vjp(product, x, values)
    return out, *back(grad)


def close(found: Any, want: Any, tolerance: float) -> None:
    for a, b in zip(found, want, strict=True):
        assert a.dtype == b.dtype
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max())


def test_tpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tpu, "_TILE", 8)
    # Row 3 is in no column; two slots are empty.
    indices = jnp.array([[0, 2], [1, 2], [0, 4], [2, 4]], jnp.int32)
    keys = jax.random.split(jax.random.key(0), 3)
    values = jax.random.normal(keys[0], (4, 2, 8, 16)).at[2:, 1].set(0)
    x, grad = jax.random.normal(keys[1], (24, 32)), jax.random.normal(keys[2], (24, 64))
    kernel = jax.jit(lambda *a: both(lambda x, v: tpu.product(x, v, indices, True), *a))
    plain = jax.jit(lambda *a: both(lambda x, v: block_sparse_matmul(x, v, indices), *a))
    close(kernel(x, values, grad), plain(x, values, grad), 1e-6)
    half = [a.astype(jnp.bfloat16) for a in (x, values, grad)]
    close(kernel(*half), plain(*half), 2**-7)
    with pytest.raises(ValueError, match="a batch of 9 in tiles of 8: pad it"):
        tpu.product(jnp.ones((9, 32)), values, indices, True)


def test_gpu() -> None:
    # (Only a private module has what the simulation is asked for with.)
    simulation = pytest.importorskip(
        "jax._src.pallas.mosaic_gpu.interpret.params", reason="this jax simulates no GPU"
    )
    from jaxsparse.accelerate.kernels import gpu

    indices = jnp.array([[0, 2], [2, 3]], jnp.int32)
    keys = jax.random.split(jax.random.key(0), 3)
    values = jax.random.normal(keys[0], (2, 2, 64, 64), jnp.bfloat16).at[1, 1].set(0)
    x = jax.random.normal(keys[1], (128, 192), jnp.bfloat16)
    grad = jax.random.normal(keys[2], (128, 128), jnp.bfloat16)
    simulated = simulation.InterpretGPUParams()
    kernel = lambda x, v: gpu.product(x, v, indices, simulated)
    plain = lambda x, v: block_sparse_matmul(x, v, indices)
    close(both(kernel, x, values, grad), both(plain, x, values, grad), 2**-7)
    with pytest.raises(ValueError, match="the kernel multiplies half precision, not float32"):
        gpu.product(x.astype(jnp.float32), values, indices, simulated)
    with pytest.raises(ValueError, match="a batch of 8 and blocks of 64 x 64: the kernel takes"):
        gpu.product(x[:8], values, indices, simulated)


def test_a_form_that_is_not_there() -> None:
    values, indices = jnp.ones((1, 1, 2, 1)), jnp.array([[1]])
    with pytest.raises(ValueError, match="form is 'pallas' on a cpu; give 'xla'"):
        block_sparse_matmul(jnp.ones((1, 4)), values, indices, form="pallas")
