"""The page on how good a network is: its examples run, one after the other."""

import pathlib
import re
from typing import Any

import pytest

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "metrics.md"


@pytest.mark.usefixtures("quick_compilation", "as_on_one_device")
def test_the_examples_of_the_page_run(capsys: pytest.CaptureFixture[str]) -> None:
    text = PAGE.read_text()
    names: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        exec(block, names)
    shown = " ".join(re.findall(r"^```text\n(.*?)^```", text, re.MULTILINE | re.DOTALL)).split()
    printed = capsys.readouterr().out.split()
    assert len(printed) == len(shown)
    for found, expected in zip(printed, shown, strict=True):
        if re.fullmatch(r"[\d.]+", expected):  # one of 256 images may go the other way elsewhere
            assert float(found) == pytest.approx(float(expected), abs=0.011)
        else:
            assert found == expected
