"""When and how much: published values, and the edges of every condition."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsparse import (
    any_of,
    at,
    every,
    gradual_magnitude,
    inverse_power,
    never,
    one_shot,
    polynomial_sparsity,
    within,
)


def due(condition: Callable[..., Any], stop: int = 30) -> list[int]:
    """The steps at which a condition holds; the same for ints, an array and a traced step."""
    one_by_one = [step for step in range(stop) if condition(step)]
    steps = jnp.arange(stop)
    assert jnp.flatnonzero(condition(steps)).tolist() == one_by_one
    assert jnp.flatnonzero(jax.jit(jax.vmap(condition))(steps)).tolist() == one_by_one
    assert condition(steps.reshape(2, -1)).shape == (2, stop // 2)
    assert condition(steps).dtype == bool
    return one_by_one


@pytest.mark.parametrize(
    ("condition", "steps"),
    [
        (every(10), [0, 10, 20]),
        (every(10, start=10), [10, 20]),
        # Counted from the start, not in multiples of the step.
        (every(10, start=3), [3, 13, 23]),
        (every(10, start=10, stop=20), [10]),
        (every(10, start=10, stop=20, inclusive=True), [10, 20]),
        (every(10, start=10, stop=21), [10, 20]),
        (every(10, start=10, stop=29, inclusive=True), [10, 20]),
        (every(5, start=7, stop=7), []),
        (every(5, start=7, stop=7, inclusive=True), [7]),
        (at(4), [4]),
        (at([4, 0, 4, 29]), [0, 4, 29]),
        (any_of(at(3), every(10)), [0, 3, 10, 20]),
        (any_of(), []),
        (never, []),
        (within(every(10, start=10), 1), [10, 20]),
        (within(every(10, start=10), 3), [8, 9, 10, 18, 19, 20, 28, 29]),
        (within(at(1), 5), [0, 1]),
        (within(every(10, start=10, stop=20), 2), [9, 10]),
        (within(every(2), 4), list(range(30))),
    ],
)
def test_conditions(condition: Callable[..., Any], steps: list[int]) -> None:
    assert due(condition) == steps


def test_every_goes_on_for_ever_and_not_before_the_first_step() -> None:
    last = 2**31 - 1
    assert bool(every(1)(last))
    assert bool(every(7, start=1)(jnp.int32(last - (last - 1) % 7)))
    # The masks of `init` are those of step -1.
    assert not bool(every(1)(-1))


def test_polynomial_sparsity_of_zhu_and_gupta() -> None:
    # s = 0.9 (1 - (1 - t)^3) at t = 0, 1/4, 1/2, 3/4, 1.
    schedule = polynomial_sparsity(0.9, 1000, 5000)
    steps = jnp.array([0, 1000, 2000, 3000, 4000, 5000, 9000])
    want = [0.0, 0.0, 0.9 * 37 / 64, 0.9 * 7 / 8, 0.9 * 63 / 64, 0.9, 0.9]
    np.testing.assert_allclose(schedule(steps), want, rtol=1e-6)
    assert [float(schedule(int(step))) for step in steps] == pytest.approx(want, rel=1e-6)
    traced = jax.jit(schedule)(jnp.int32(5000))
    assert float(traced) == float(np.float32(0.9))


@pytest.mark.parametrize("percent", range(1, 100, 7))
def test_polynomial_sparsity_ends_on_its_numbers(percent: int) -> None:
    # Not a rounding error beside them: budgets are counted from these.
    final, initial = percent / 100, 0.3
    schedule = jax.jit(polynomial_sparsity(final, 7, 90, initial=initial))
    steps = [0, 7, 90, 91, 2**31 - 1]
    want = [initial, initial, final, final, final]
    assert [float(schedule(step)) for step in steps] == [float(np.float32(x)) for x in want]


def test_polynomial_sparsity_from_an_initial_one_and_linear() -> None:
    schedule = polynomial_sparsity(0.8, 0, 100, initial=0.2, power=1.0)
    np.testing.assert_allclose(schedule(jnp.array([0, 25, 50, 100])), [0.2, 0.35, 0.5, 0.8])
    rising = np.diff(np.asarray(polynomial_sparsity(0.9, 0, 100)(jnp.arange(101))))
    assert (rising > 0).all()
    assert rising[0] > rising[-1]


@pytest.mark.parametrize(
    ("start", "stop", "interval"), [(0, 95, 10), (5, 95, 10), (3, 8, 100), (0, 100, 10), (7, 8, 1)]
)
def test_gradual_magnitude_ends_with_an_update(start: int, stop: int, interval: int) -> None:
    # Peers stop at the last multiple of the interval: 0.89993 where 0.9 was asked for.
    steps = due(gradual_magnitude(0.9, start=start, stop=stop, interval=interval).due, 110)
    assert steps == sorted({*range(start, stop, interval), stop})


def test_one_shot() -> None:
    schedule = one_shot(0.9, 10)
    found = schedule(jnp.array([-1, 0, 9, 10, 11]))
    assert found.tolist() == [0.0] * 3 + [float(np.float32(0.9))] * 2
    assert float(one_shot(0.9)(-1)) == 0.0
    assert float(one_shot(0.9)(0)) == float(np.float32(0.9))


def test_drop_fractions_of_rigl() -> None:
    # alpha / 2 (1 + cos(pi t / T)), T = 75,000, alpha = 0.3.
    cosine = optax.cosine_decay_schedule(0.3, 75_000)
    for step in (0, 18_750, 37_500, 60_000, 75_000, 80_000):
        t = min(step / 75_000, 1)
        want = 0.15 * (1 + math.cos(math.pi * t))
        assert float(cosine(step)) == pytest.approx(want, abs=1e-7)
    # Appendix G: alpha (1 - t / T)^k, k = 3, and k = 1 is linear.
    assert inverse_power(0.3, 100)(jnp.array([0, 50, 90, 100, 200])).tolist() == pytest.approx(
        [0.3, 0.0375, 0.0003, 0.0, 0.0], abs=1e-7
    )
    linear = optax.linear_schedule(0.3, 0.0, 100)
    steps = jnp.arange(120)
    np.testing.assert_allclose(inverse_power(0.3, 100, power=1.0)(steps), linear(steps), atol=1e-7)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: every(0), r"n is 0; it must be a whole number of steps, at least 1"),
        (lambda: every(-3), r"n is -3; .*at least 1"),
        (lambda: every(5, start=-1), r"start is -1; .*at least 0"),
        (lambda: every(5, start=10, stop=9), r"stop is 9, before start \(10\); give stop >= start"),
        (lambda: every(True), r"n is True; it must be a whole number"),
        (lambda: at([]), r"steps is empty; .*or use never"),
        (lambda: at([3, -1]), r"step is -1; .*at least 0"),
        (lambda: at(-1), r"step is -1; .*at least 0"),
        (lambda: within(at(3), 0), r"window is 0; .*at least 1"),
        (lambda: polynomial_sparsity(0.9, 10, 10), r"stop is 10, not after start \(10\); .*>"),
        (lambda: polynomial_sparsity(0.9, 10, 5), r"stop is 5, not after start \(10\)"),
        (lambda: polynomial_sparsity(1.0, 0, 5), r"final is 1.0; .*\[0, 1\)"),
        (lambda: polynomial_sparsity(0.5, 0, 5, initial=-0.5), r"initial is -0.5; .*\[0, 1\)"),
        (lambda: polynomial_sparsity(0.5, 0, 5, power=0.0), r"power is 0.0; it must be positive"),
        (lambda: one_shot(1.0), r"final is 1.0; .*\[0, 1\)"),
        (lambda: one_shot(0.5, -2), r"step is -2; .*at least 0"),
        (lambda: inverse_power(1.5, 100), r"initial is 1.5; it must lie in \[0, 1\]"),
        (lambda: inverse_power(0.5, 0), r"stop is 0; .*at least 1"),
        (lambda: gradual_magnitude(0.9, start=10, stop=5), r"stop is 5, .*start \(10\)"),
    ],
)
def test_bad_arguments(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
