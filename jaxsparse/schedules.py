"""When to update, and how sparsity and drop fraction change: functions of the step.

Any optax schedule is accepted unchanged where a number may change over time: a cosine drop
fraction is ``optax.cosine_decay_schedule(0.3, steps)``, a linear one
``optax.linear_schedule(0.3, 0.0, steps)``.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxsparse.base import Schedule


def _check_step(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(
            f"{name} is {value!r}; it must be a whole number of steps, at least {least}"
        )


def every(n: int, start: int = 0, stop: int | None = None, *, inclusive: bool = False) -> Schedule:
    """Every n steps, counted from ``start``.

    Args:
      n: Steps between updates, at least 1.
      start: First update, in steps. (Published RigL code updates at step 0 already.)
      stop: No update at this step or later; ``None``: for ever.
      inclusive: An update may also fall on ``stop`` itself.

    Returns:
      ``step -> bool``, for int32 steps, arrays of steps and Python ints.

    Raises:
      ValueError: if a number is out of range, or ``stop`` comes before ``start``.

    Example:
      >>> [step for step in range(10) if every(3, start=1, stop=7)(step)]
      [1, 4]
    """
    _check_step("n", n, 1)
    _check_step("start", start, 0)
    if stop is not None:
        _check_step("stop", stop, 0)
        if stop < start:
            raise ValueError(f"stop is {stop}, before start ({start}); give stop >= start")
    last = 2**31 - 1 if stop is None else stop if inclusive else stop - 1

    def due(step: Any) -> Any:
        step = jnp.asarray(step)
        return (step >= start) & (step <= last) & ((step - start) % n == 0)

    return due


def at(steps: int | Sequence[int]) -> Schedule:
    """At the steps given and no others.

    Args:
      steps: A step or several, 0 or larger.

    Returns:
      ``step -> bool``.

    Raises:
      ValueError: if there are none or one is negative.

    Example:
      >>> [step for step in range(10) if at([2, 5])(step)]
      [2, 5]
    """
    listed = [steps] if isinstance(steps, int | np.integer) else list(steps)
    if not listed:
        raise ValueError("steps is empty; name at least one step, or use never")
    for step in listed:
        _check_step("step", step, 0)

    def due(step: Any) -> Any:
        step = jnp.asarray(step)
        found = jnp.zeros(step.shape, bool)
        for one in listed:
            found |= step == one
        return found

    return due


def any_of(*conditions: Schedule) -> Schedule:
    """Whenever one of several conditions holds.

    Args:
      *conditions: ``step -> bool`` each.

    Returns:
      ``step -> bool``.

    Example:
      >>> [step for step in range(10) if any_of(every(4), at(5))(step)]
      [0, 4, 5, 8]
    """

    def due(step: Any) -> Any:
        found = jnp.zeros(jnp.shape(step), bool)
        for condition in conditions:
            found |= condition(step)
        return found

    return due


def within(condition: Schedule, window: int) -> Schedule:
    """At the steps of a condition and the ``window - 1`` steps before each.

    Args:
      condition: ``step -> bool``.
      window: Steps, at least 1.

    Returns:
      ``step -> bool``.

    Raises:
      ValueError: if ``window`` is out of range.

    Example:
      >>> [step for step in range(10) if within(every(5, start=4), 2)(step)]
      [3, 4, 8, 9]
    """
    _check_step("window", window, 1)
    return any_of(*[lambda step, ahead=ahead: condition(step + ahead) for ahead in range(window)])


def polynomial_sparsity(
    final: float, start: int, stop: int, *, initial: float = 0.0, power: float = 3.0
) -> Schedule:
    """Sparsity that rises from ``initial`` to ``final``, fast first: Zhu & Gupta 2018, eq. (1).

    s(t) = final + (initial - final) (1 - (t - start) / (stop - start)) ** power, constant outside.

    Args:
      final: Fraction of zeros at ``stop`` and after, in [0, 1).
      start: Step at which the rise begins.
      stop: Step at which it ends, larger than ``start``.
      initial: Fraction of zeros up to ``start``, in [0, 1).
      power: 3 in the paper; 1 is linear.

    Returns:
      ``step -> float32``.

    Raises:
      ValueError: if a number is out of range.

    Example:
      >>> schedule = polynomial_sparsity(0.9, 20_000, 75_000)
      >>> [round(float(schedule(step)), 4) for step in (0, 33_750, 47_500, 75_000)]
      [0.0, 0.5203, 0.7875, 0.9]
    """
    check_sparsity(final, "final")
    check_sparsity(initial, "initial")
    _check_step("start", start, 0)
    _check_step("stop", stop, 0)
    if stop <= start:
        raise ValueError(f"stop is {stop}, not after start ({start}); give stop > start")
    if power <= 0:
        raise ValueError(f"power is {power}; it must be positive (3 is cubic, 1 linear)")

    def schedule(step: Any) -> Any:
        left = 1 - jnp.clip((jnp.asarray(step, jnp.float32) - start) / (stop - start), 0, 1)
        # At the ends exactly the given numbers: final + 0, and initial by the other sum.
        return jnp.where(left >= 1, initial, final + (initial - final) * left**power)

    return schedule


def one_shot(final: float, step: int = 0) -> Schedule:
    """Dense before a step, sparse from it on.

    Args:
      final: Fraction of zeros from ``step`` on, in [0, 1).
      step: The step of the change, 0 or larger.

    Returns:
      ``step -> float32``.

    Raises:
      ValueError: if a number is out of range.

    Example:
      >>> [round(float(one_shot(0.9, 10)(step)), 4) for step in (-1, 9, 10)]
      [0.0, 0.0, 0.9]
    """
    check_sparsity(final, "final")
    _check_step("step", step, 0)
    return lambda now: jnp.where(jnp.asarray(now) >= step, jnp.float32(final), 0.0)


def inverse_power(initial: float, stop: int, *, power: float = 3.0) -> Schedule:
    """Drop fraction that falls as ``initial (1 - t / stop) ** power``: Evci et al. 2020, App. G.

    Args:
      initial: Fraction at step 0, in [0, 1].
      stop: Step at which it reaches 0, at least 1.
      power: 3 in the paper; 1 is linear.

    Returns:
      ``step -> float32``.

    Raises:
      ValueError: if a number is out of range.

    Example:
      >>> [round(float(inverse_power(0.3, 100)(step)), 4) for step in (0, 50, 100)]
      [0.3, 0.0375, 0.0]
    """
    check_fraction(initial, "initial")
    _check_step("stop", stop, 1)
    return lambda step: (
        initial * (1 - jnp.clip(jnp.asarray(step, jnp.float32) / stop, 0, 1)) ** power
    )


def check_sparsity(sparsity: float, name: str = "sparsity") -> None:
    """Refuse what is no fraction of zeros.

    Args:
      sparsity: The number to check.
      name: What to call it in the message.

    Raises:
      ValueError: if it lies outside [0, 1).

    Example:
      >>> check_sparsity(90.0)
      Traceback (most recent call last):
      ValueError: sparsity is 90.0; it is the fraction of zeros, in [0, 1): for 90 % give 0.9
    """
    if not 0 <= sparsity < 1:
        percent = f": for {sparsity:g} % give {sparsity / 100:g}" if 1 < sparsity < 100 else ""
        raise ValueError(f"{name} is {sparsity}; it is the fraction of zeros, in [0, 1){percent}")


def check_fraction(fraction: float, name: str) -> None:
    """Refuse what is no fraction.

    Args:
      fraction: The number to check.
      name: What to call it in the message.

    Raises:
      ValueError: if it lies outside [0, 1].

    Example:
      >>> check_fraction(1.5, "drop_fraction")
      Traceback (most recent call last):
      ValueError: drop_fraction is 1.5; it must lie in [0, 1]
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"{name} is {fraction}; it must lie in [0, 1]")
