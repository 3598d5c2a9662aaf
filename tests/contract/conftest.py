"""The contract's methods: all tests of one run after another, in all files, and then the next's."""

from collections.abc import Iterator

import pytest

from jaxsparse import ALGORITHMS
from tests.contract.methods import forget


@pytest.fixture(scope="session", params=ALGORITHMS)
def name(request: pytest.FixtureRequest) -> Iterator[str]:
    """A method of the registry; its programs go when its tests are done."""
    yield request.param
    forget()


@pytest.fixture(scope="module", autouse=True)
def forget_programs(quick_compilation: None) -> None:
    """Not after each file: files share programs, and `name` lets them go."""
