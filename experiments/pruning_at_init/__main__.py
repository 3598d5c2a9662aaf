"""Pruning at initialization on Fashion-MNIST: ``python -m experiments.pruning_at_init``.

Claim (Tanaka et al., 2020): SynFlow never empties a layer, whatever the compression, and ends above
all others where they do; random and magnitude pruning fall to chance by 10^3; of SynFlow's rounds
one does not do. A small VGG, six saliencies, compressions from 10^0.5 to 10^3, and masks alone at
the highest compression that leaves a weight a layer. About 40 minutes on one CPU core; a stopped
run goes on with ``--resume``, and loses no finished cell.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Annotated

import tyro
from rich.console import Console

from .. import data
from ..cell import Stopped
from ..study import open_folder
from ..train import INTERRUPTED
from .cells import Study, Trainer, cells_of, check, run_study

_NAME = "pruning-at-init"


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Prune and train, or go on, then write the page."""

    study: tyro.conf.OmitArgPrefixes[Study] = dataclasses.field(default_factory=Study)
    out: Annotated[pathlib.Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder of the run; default: runs/pruning-at-init."""
    resume: bool = False
    """Go on with the run where it stopped, with the same flags."""
    data_dir: pathlib.Path | None = None
    """TFDS data directory; default: the variable JAXSPARSE_DATA_DIR, else the user's cache."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line.

    Args:
      arguments: Without the program's name; default: those of the process.

    Returns:
      Exit code: 0, 2 for a study that cannot run, 130 for one stopped on request.
    """
    console = Console()
    given = tyro.cli(
        Arguments,
        prog="python -m experiments.pruning_at_init",
        description=__doc__,
        args=arguments,
    )
    try:
        check(given.study)
        dataset = data.load(given.study.data, given.data_dir)
        cells = [cell.name for cell in cells_of(given.study)]
        run = open_folder(_NAME, given.study, cells, given.out, given.resume)
        console.print(f"{len(cells)} cells x {given.study.seeds} seeds, into {run}")
        run_study(given.study, Trainer(given.study, dataset), run, console)
    except (ValueError, FileNotFoundError) as error:
        Console(stderr=True).print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        return 2
    except (Stopped, KeyboardInterrupt):
        console.print("stopped; go on with: python -m experiments.pruning_at_init --resume")
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
