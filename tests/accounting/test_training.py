"""Training cost against the closed forms of the papers and their published numbers."""

import jax
import jax.numpy as jnp
import pytest

from jaxsparse.accounting import step_training_flops, training_flops


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


def test_traced_arguments() -> None:
    steps = jnp.arange(4)
    costs = jax.jit(jax.vmap(lambda s: step_training_flops(1000.0, 100.0, s % 2 == 0)))(steps)
    assert costs.tolist() == [1200.0, 300.0, 1200.0, 300.0]
    sparse = jax.jit(lambda s: step_training_flops(1000.0, s, False))(jnp.float32(100.0))
    assert float(sparse) == 300.0
