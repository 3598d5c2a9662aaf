"""The page on what is inside the network: its examples run, one after the other."""

import pathlib
import re
from typing import Any

import numpy as np
import pytest

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "network_metrics.md"


@pytest.mark.usefixtures("quick_compilation", "as_on_one_device")
def test_the_examples_of_the_page_run() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    assert len(blocks) == 4
    np.testing.assert_allclose(
        names["losses"][0], names["loss_fn"](names["params"], together(names)), rtol=1e-5
    )
    assert (names["top"].residuals < 0.01).all()


def together(names: dict[str, Any]) -> Any:
    """All batches as one."""
    inputs, labels = names["batches"]
    return inputs.reshape(-1, inputs.shape[-1]), labels.reshape(-1)
