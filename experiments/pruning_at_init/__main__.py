"""Pruning at initialization on Fashion-MNIST: ``python -m experiments.pruning_at_init``.

Claim (Tanaka et al., 2020): SynFlow never empties a layer, whatever the compression, and ends above
all others where they do; random and magnitude pruning fall to chance by 10^3; of SynFlow's rounds
one does not do. A small VGG, six saliencies, compressions from 10^0.5 to 10^3, and masks alone at
the highest compression that leaves a weight a layer. About half an hour of one CPU core; a stopped
run goes on with ``--resume``, and loses no finished cell.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Annotated

import tyro
from rich.console import Console

from .. import data, records
from ..cell import Stopped
from ..study import open_folder
from ..train import INTERRUPTED
from . import page, plot
from .cells import Study, Trainer, cells_of, check, read_results, run_study

_NAME, _RUN = "pruning_at_init", "pruning-at-init"


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Prune and train, or go on, then write the page."""

    study: tyro.conf.OmitArgPrefixes[Study] = dataclasses.field(default_factory=Study)
    out: Annotated[pathlib.Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder of the run; default: runs/pruning-at-init."""
    resume: bool = False
    """Go on with the run where it stopped, with the same flags."""
    run: Annotated[pathlib.Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """A run, finished or not, to write the page of instead of training."""
    data_dir: pathlib.Path | None = None
    """TFDS data directory; default: the variable JAXSPARSE_DATA_DIR, else the user's cache."""
    results: pathlib.Path = pathlib.Path(__file__).parents[1] / "results"
    """Folder that the page, the numbers and the figure are written to."""


def write_page(run: pathlib.Path, folder: pathlib.Path) -> str:
    """Write the page, the numbers and the figure of a run, finished or not.

    Args:
      run: Folder of the run.
      folder: Where they go.

    Returns:
      The page.
    """
    about, results = read_results(run)
    numbers = {"run": about, "results": [dataclasses.asdict(result) for result in results]}
    text = page.markdown(results, about)
    records.write_json(folder / f"{_NAME}.json", numbers)
    records.write_bytes(folder / f"{_NAME}.md", text.encode())
    if results:
        plot.figure(results).savefig(folder / f"{_NAME}.png", dpi=160, transparent=True)
    return text


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
        run = given.run
        if run is None:
            check(given.study)
            dataset = data.load(given.study.data, given.data_dir)
            cells = [cell.name for cell in cells_of(given.study)]
            run = open_folder(_RUN, given.study, cells, given.out, given.resume)
            console.print(f"{len(cells)} cells x {given.study.seeds} seeds, into {run}")
            run_study(given.study, Trainer(given.study, dataset), run, console)
        text = write_page(run, given.results)
    except (ValueError, FileNotFoundError) as error:
        Console(stderr=True).print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        return 2
    except (Stopped, KeyboardInterrupt):
        console.print("stopped; go on with: python -m experiments.pruning_at_init --resume")
        console.print("(same flags; --run FOLDER writes the page of what is there)")
        return INTERRUPTED
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
