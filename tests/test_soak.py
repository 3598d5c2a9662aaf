"""A short soak; ``python -m benchmarks.soak`` is the long one, of every method."""

import pytest

from benchmarks.soak import soak

pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")


@pytest.mark.parametrize("method", ["rigl", "srigl", "ste", "gradual_magnitude"])
def test_every_invariant_holds_under_adversarial_gradients(method: str) -> None:
    """A fifth of the gradients are not finite: those updates are skipped, and counted."""
    outcome = soak(method, steps=300, chunk=100)
    assert outcome
    assert not any(outcome.violations.values()), outcome.violations
    assert outcome.updates + outcome.skipped == 300
    assert outcome.dropped > 100
    assert 40 < outcome.skipped < 80


def test_a_method_that_prunes_once_is_left_out() -> None:
    assert soak("magnitude", steps=300, chunk=100) is None
