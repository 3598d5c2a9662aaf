"""What docs/many_devices.md says a step of the runner exchanges, read from compiled programs."""

import pathlib

import jax
import pytest

pytest.importorskip("tyro", reason="the experiments extra is not installed")

from benchmarks.scale.page import exchange_table
from benchmarks.scale.rows import Exchange
from benchmarks.scale.runner import Arguments, exchanged

pytestmark = pytest.mark.usefixtures("quick_compilation")

PAGE = (pathlib.Path(__file__).parents[1] / "docs" / "many_devices.md").read_text()
# Of 64-256-128-10: parameters in float32, and arrays of them.
BYTES, MATRICES, ARRAYS = 4 * (64 * 256 + 256 + 256 * 128 + 128 + 128 * 10 + 10), 3, 6


@pytest.fixture(scope="module")
def found() -> dict[str, list[Exchange]]:
    return {text: exchanged(Arguments(), text) for text in Arguments().meshes}


def test_a_step_on_data_sends_the_gradient_once_and_an_update_nothing(found: dict) -> None:
    (only,) = found["data=8"]
    # And the loss and the accuracy.
    assert (only.of, only.kind, only.count) == ("step", "all-reduce", 1)
    assert only.payload == BYTES + 8


@pytest.mark.parametrize("text", ["fsdp=8", "data=4,model=2"])
def test_an_update_sends_counts_alone(text: str, found: dict) -> None:
    """28 bytes a matrix and pass, and as much a matrix and array once, whatever their sizes."""
    rows = {row.of: row for row in found[text] if row.of not in ("step", "call")}
    assert sorted(rows) == ["pass of search 1", "pass of search 2", "update"]
    assert {row.kind for row in rows.values()} == {"all-reduce"}
    for search in (1, 2):
        row = rows[f"pass of search {search}"]
        assert (row.count, row.payload) == (3, 28 * MATRICES)
    # Kept, dropped and grown, and the finite numbers of weights, gradients and scores.
    assert rows["update"].payload <= 12 * MATRICES + 2 * 8 * ARRAYS


def test_the_page_has_the_table(found: dict) -> None:
    if f"(jax {jax.__version__})" not in PAGE:
        pytest.skip("another version of XLA may split the products of a network in other ways")
    assert (
        exchange_table(("mesh",), [((text,), one) for text in found for one in found[text]]) in PAGE
    )
