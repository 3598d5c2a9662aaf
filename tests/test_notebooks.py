"""Every notebook runs from top to bottom, and what it prints is what it claims."""

import pathlib

import nbclient
import nbformat
import pytest

NOTEBOOKS = sorted((pathlib.Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.stem)
def executed(request: pytest.FixtureRequest) -> nbformat.NotebookNode:
    notebook = nbformat.read(request.param, as_version=4)
    return nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()


def test_a_notebook_runs_and_draws(executed: nbformat.NotebookNode) -> None:
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    text = "".join(output.get("text", "") for output in outputs)
    accuracy = {
        line.split()[0]: float(line.split()[-1])
        for line in text.splitlines()
        if "test accuracy" in line
    }
    assert accuracy.keys() == {"dense", "RigL"}
    assert min(accuracy.values()) > 0.93
    # 64*256 + 256*128 + 128*10 weights, a tenth of them kept, before and after training.
    assert text.count("5,044   50,432    0.9000") == 2
