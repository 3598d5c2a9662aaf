"""Writes the table of all methods into ``methods.md``: ``python docs/method_table.py``."""

import pathlib

from experiments.tables import aligned_markdown
from jaxsparse import ALGORITHMS

PAGE = pathlib.Path(__file__).with_name("methods.md")
FIRST, LAST = "<!-- table -->\n", "<!-- end of table -->\n"
HEADS = ("name", "what moves", "when", "extra compute", "extra memory", "needs", "paper")


def table() -> str:
    """The rows of the registry, as Markdown."""
    rows = [[f"`{name}`", *entry.facts] for name, entry in ALGORITHMS.items()]
    return aligned_markdown(HEADS, rows)


def page(text: str) -> str:
    """The page with the table of today."""
    head, _, rest = text.partition(FIRST)
    tail = rest.partition(LAST)[2]
    return f"{head}{FIRST}\n{table()}\n{LAST}{tail}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
