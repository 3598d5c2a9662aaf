"""The command line: ``python -m experiments.report RUN``."""

import dataclasses
import pathlib
import sys

import tyro

from .run_page import write_report


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Write the page of a run, finished or not."""

    run: tyro.conf.Positional[pathlib.Path]
    """Folder of the run, which holds run.json."""


def main(arguments: Arguments) -> None:
    """Write the page and say where it is; an error ends the program with one line."""
    try:
        print(write_report(arguments.run))
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(tyro.cli(Arguments, prog="python -m experiments.report"))
