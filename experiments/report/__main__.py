"""The command line: ``python -m experiments.report RUN`` or ``RUN RUN...``."""

import dataclasses
import pathlib
import sys
from typing import Annotated

import tyro

from .comparison import write_comparison
from .run_page import write_report


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Write the page of a run, or one page that compares several, finished or not."""

    runs: Annotated[tuple[pathlib.Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")]
    """Folders of runs, each of which holds run.json."""
    out: Annotated[pathlib.Path | None, tyro.conf.arg(metavar="FILE")] = None
    """The page; default: report.html in the run, for several comparison.html beside the first."""


def main(arguments: Arguments) -> None:
    """Write the page and say where it is; an error ends the program with one line."""
    runs = arguments.runs
    try:
        if not runs:
            raise ValueError("no run given; name the folder of a run, such as runs/digits-mlp")
        several = len(runs) > 1
        page = write_comparison(runs, arguments.out) if several else None
        print(page or write_report(runs[0], arguments.out))
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(tyro.cli(Arguments, prog="python -m experiments.report"))
