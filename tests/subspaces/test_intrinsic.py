"""The smallest dimension that is enough."""

import pytest

from jaxsparse.subspaces import intrinsic_dimension


def test_by_hand() -> None:
    # 90 % of 0.98 is 0.882: the mean of 300's seeds is 0.885, that of 200's is 0.88.
    trials = {500: [0.92, 0.93], 300: [0.87, 0.90], 200: [0.9, 0.86], 100: [0.6, 0.7]}
    assert intrinsic_dimension(list(trials), list(trials.values()), 0.98) == 300
    assert intrinsic_dimension(list(trials), list(trials.values()), 0.98, share=0.5) == 100
    assert intrinsic_dimension(list(trials), list(trials.values()), 0.98, share=1.0) is None
    assert intrinsic_dimension([5], [[]], 0.5) is None


def test_bad_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"share is 90.0; it must lie in \[0, 1\]"):
        intrinsic_dimension([1], [[0.5]], 0.9, share=90.0)
    with pytest.raises(ValueError, match=r"2 dimensions and 1 lists"):
        intrinsic_dimension([1, 2], [[0.5]], 0.9)
