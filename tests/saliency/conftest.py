"""Programs here are for a few weights and a few rounds: compiling them is what costs."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def quickly(quick_compilation: None, as_on_one_device: None) -> None:
    """In all files."""
