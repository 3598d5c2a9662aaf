"""What do blocks cost, and what do they buy? ``python -m experiments.block_sizes``.

RigL on Fashion-MNIST, a wide perceptron, in blocks of 1, 4, 16, 32 and 64 with as many kept in each
block column, at 80, 90 and 95 %; and dense networks of several widths. Expected: the larger the
block the less accurate, and from 16 on faster than dense of the same width; against a narrower
dense network of the same step time it is open. Ctrl-C and kill lose the network in work and no
more: the same command goes on. Times are measured apart, in turns (``--times-only``).
"""

import dataclasses
import pathlib
import sys
from typing import Any

import tyro
from rich.console import Console

from .. import data, records
from ..stopping import INTERRUPTED, tell
from ..study import train_missing, write_results
from ..train import check_same, environment
from . import page, plot, times
from .cells import Study, cells_of, check
from .training import Trainer

_NAME = "block_sizes"


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Train what is missing, then write the page."""

    study: tyro.conf.OmitArgPrefixes[Study] = dataclasses.field(default_factory=Study)
    data_dir: pathlib.Path | None = None
    """TFDS data directory; default: the variable JAXSPARSE_DATA_DIR, else the user's cache."""
    times_only: bool = False
    """Train nothing: measure the step times (again), then write the page."""
    page_only: bool = False
    """Train and measure nothing: write the page of what is there."""
    rounds: int = 21
    """Rounds of the measurement of step times."""
    results: pathlib.Path = pathlib.Path(__file__).parents[1] / "results"
    """Folder of the page, the numbers and the figure; the numbers there are gone on with."""


def main(given: Arguments) -> int:
    """Train and measure what is missing, and write the results.

    Args:
      given: The command line.

    Returns:
      Exit code: 0, 2 for a study that cannot run, 130 for one stopped on request.
    """
    console, path, code = Console(), given.results / f"{_NAME}.json", 0
    try:
        check(given.study)
        if given.rounds < 2:
            raise ValueError(f"rounds is {given.rounds}; it must be at least 2")
        about = _opened(path, given.study)
        if not given.page_only:
            trainer = Trainer(given.study, data.load(given.study.data, given.data_dir))
            try:
                if not given.times_only:
                    train_missing(path, about, _missing(given.study, about, trainer), console)
                if given.times_only or "times" not in about:
                    about["times"] = times.measure(given.study, trainer, given.rounds, console)
            except KeyboardInterrupt:
                console.print("stopped; the same command goes on")
                code = INTERRUPTED
    except (ValueError, OSError) as error:
        return tell(error)
    text = page.markdown(about)
    write_results(given.results, _NAME, about, text, plot.figure(about))
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    return code


def _opened(path: pathlib.Path, study: Study) -> dict[str, Any]:
    """The numbers so far, of the same study."""
    config = records.plain(study)
    about = records.read_json(path)
    if about is None:
        return {"environment": environment(), "config": config, "results": {}}
    check_same(path, about, config)
    return about


def _missing(study: Study, about: dict[str, Any], trainer: Trainer) -> dict[str, Any]:
    """What is to be trained, by name: every network with a seed before the next seed."""
    commit = {"commit": environment()["commit"]}
    names = {
        f"{name}/{seed}": (cell, seed)
        for seed in range(study.seeds)
        for name, cell in cells_of(study).items()
    }
    train = lambda cell, seed: trainer.train(cell, seed) | commit
    return {
        name: lambda of=of: train(*of) for name, of in names.items() if name not in about["results"]
    }


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments, description=__doc__)))
