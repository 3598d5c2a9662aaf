"""Training cost against the closed forms of the papers and their published numbers."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxsparse
from jaxsparse.accounting import flops, step_cost, step_training_flops, training_flops


def rigl_ratio(forward: float, period: int) -> float:
    """RigL, appendix H: ``period`` sparse steps, then one with dense gradients."""
    return (3 * forward * period + 2 * forward + 1) / (3 * (period + 1))


# Sparsity, forward ratio of ResNet-50, and the published training ratios: RigL, SNFS.
PUBLISHED = [
    (0.4153, 0.4172, 0.610),
    (0.2254, 0.2279, 0.484),
    (0.2431, 0.2456, 0.495),
    (0.1285, 0.1314, None),
    (0.1012, 0.1042, None),
    (0.1230, 0.1259, 0.415),
    (0.0801, 0.0831, None),
    (0.0548, 0.0579, None),
]


@pytest.mark.parametrize(("forward", "rigl", "snfs"), PUBLISHED)
def test_published_resnet50_ratios(forward: float, rigl: float, snfs: float | None) -> None:
    every = lambda step: step % 101 == 100
    ours = training_flops(1.0, forward, every, steps=1010) / (3 * 1010)
    assert ours == pytest.approx(rigl_ratio(forward, 100), rel=1e-12)
    assert ours == pytest.approx(rigl, abs=6e-5)
    if snfs is not None:
        always = training_flops(1.0, forward, lambda step: True, steps=10) / 30
        assert always == pytest.approx((2 * forward + 1) / 3, rel=1e-12)
        assert always == pytest.approx(snfs, abs=6e-4)


def test_static_and_dense() -> None:
    assert training_flops(100, 10, lambda step: False, steps=7) == 3 * 10 * 7
    assert training_flops(100, 100, lambda step: True, steps=7) == 3 * 100 * 7


def test_a_schedule_of_forward_costs() -> None:
    gradual = lambda step: 100 - 10 * step
    assert training_flops(100, gradual, lambda step: False, steps=4) == 3 * (100 + 90 + 80 + 70)


def test_a_larger_set_that_is_trained() -> None:
    # Top-KAST, 2 f_A + f_B: with B as it is, and with a B that shrinks.
    assert training_flops(100, 10, lambda step: False, steps=3, trained=20) == 3 * (20 + 20)
    shrinking = lambda step: 40 - 10 * step
    assert training_flops(100, 10, lambda step: False, steps=3, trained=shrinking) == 60 + 90


def test_traced_arguments() -> None:
    steps = jnp.arange(4)
    costs = jax.jit(jax.vmap(lambda s: step_training_flops(1000.0, 100.0, s % 2 == 0)))(steps)
    assert costs.tolist() == [1200.0, 300.0, 1200.0, 300.0]
    sparse = jax.jit(lambda s: step_training_flops(1000.0, s, False))(jnp.float32(100.0))
    assert float(sparse) == 300.0


@pytest.mark.usefixtures("quick_compilation", "as_on_one_device")
@pytest.mark.parametrize("wrapped", [False, True])
def test_each_part_reads_its_own_gradients(wrapped: bool) -> None:
    params = {"a": jnp.ones((8, 10)), "b": jnp.ones((10, 20)), "c": jnp.ones((20, 5))}
    report = flops(lambda p, x: x @ p["a"] @ p["b"] @ p["c"], params, jnp.ones((1, 8)))
    method = jaxsparse.partition(
        {
            "a": jaxsparse.rigl(0.5, update=jaxsparse.every(2, start=1)),
            "b": jaxsparse.snfs(0.75, update=jaxsparse.every(4, start=1)),
        },
        default=jaxsparse.static(0.9),
    )
    method = jaxsparse.explored(method) if wrapped else method
    tx = jaxsparse.sparsify(optax.sgd(0.1), method)
    step: Any = jax.jit(tx.update)
    state: Any = tx.init(params)
    forward = 80 * 0.5 + 200 * 0.25 + 100 * 0.1
    for number in range(3):
        before = state
        _, state = step(params, before, params)
        # RigL's layer at its updates, that of sparse momentum always, the static one never.
        read = (80 if number == 1 else 40) + 200 + 10
        cost = step_cost(report, method, before, state, params)
        assert float(cost.training) == pytest.approx((2 * forward + read) / 380, rel=1e-6)
        assert float(cost.parameters) == forward
