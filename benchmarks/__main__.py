"""Measure the library's own work against what the field does today.

Prints one table of ratios within this run and writes it as Markdown and JSON, under the name of
this machine. On an accelerator, selection is compared with copying the scores once.
"""

import dataclasses
import json
import os
import pathlib
import platform
import sys
from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax
import rich.progress
import tyro

from experiments.tables import aligned_markdown
from experiments.train import environment

from . import inferring, packing, ranking, shrinking, stepping
from .measure import Row

Section = Literal[
    "selection",
    "drop-grow",
    "structures",
    "between",
    "averaged",
    "memory",
    "compilation",
    "seeds",
    "compacted",
    "packed",
    "bytes",
    "inference",
]
_ALLOCATOR = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**34),
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What to measure and where to write it."""

    sections: tuple[Section, ...] = (
        "selection",
        "drop-grow",
        "structures",
        "between",
        "averaged",
        "memory",
        "compilation",
        "seeds",
        "compacted",
        "packed",
        "bytes",
        "inference",
    )
    """Parts of the table."""
    sizes: tuple[int, ...] = ()
    """Scores ranked at once; default: 1e5 to 1e7 on a CPU, 1e6 to 1e9 elsewhere."""
    repeats: int = 5
    """Runs of each, of which the median counts."""
    out: pathlib.Path = pathlib.Path(__file__).parent / "results"
    """Folder of the table."""


def sections(arguments: Arguments) -> dict[str, Callable[[], Iterator[Row]]]:
    """The parts asked for.

    Args:
      arguments: The command line.

    Returns:
      Name to a function that yields rows.
    """
    on_cpu = jax.default_backend() == "cpu"
    least = 5 if on_cpu else 6
    sizes = arguments.sizes or tuple(10**n for n in range(least, least + 3 + (not on_cpu)))
    select = ranking.selection_rows if on_cpu else ranking.device_selection_rows
    known: dict[str, Callable[[int], Iterator[Row]]] = {
        "selection": lambda repeats: select(sizes, repeats),
        "drop-grow": ranking.drop_grow_rows,
        "structures": ranking.structure_rows,
        "between": stepping.between_rows,
        "averaged": stepping.averaged_rows,
        "memory": stepping.memory_rows,
        "compilation": stepping.compilation_rows,
        "seeds": stepping.seed_rows,
        "compacted": shrinking.compacted_rows,
        "packed": packing.packed_rows,
        "bytes": packing.bytes_rows,
        "inference": inferring.inference_rows,
    }
    return {name: lambda f=known[name]: f(arguments.repeats) for name in arguments.sections}


def machine_name() -> str:
    """The device and the number of cores, as a file name.

    Returns:
      For instance ``cpu-x86_64-2cores``.
    """
    device = jax.devices()[0]
    name = platform.machine() if device.platform == "cpu" else device.device_kind
    return f"{device.platform}-{name}-{os.cpu_count()}cores".replace(" ", "-").lower()


def table(rows: list[Row]) -> str:
    """The rows as Markdown.

    Args:
      rows: Measured.

    Returns:
      The lines of the table.
    """
    said = {True: "yes", False: "no", None: ""}
    digits = lambda x: f"{x:,.3g}" if x < 1000 else f"{x:,.0f}"
    return aligned_markdown(
        ("what", "jaxsparse", "baseline", "ratio", "bound", "kept", "baseline is"),
        [
            (
                row.what,
                f"{digits(row.ours)} {row.unit}",
                f"{digits(row.theirs)} {row.unit}",
                f"{row.ratio:.2f}",
                row.bound,
                said[row.kept],
                row.note,
            )
            for row in rows
        ],
    )


def write(rows: list[Row], about: dict[str, Any], arguments: Arguments) -> str:
    """Write the table and its numbers.

    Args:
      rows: Measured so far.
      about: Where and of what, from before anything was written.
      arguments: The command line.

    Returns:
      The page.
    """
    page = (
        f"# {about['hardware']}\n\n`python -m benchmarks`, medians of {arguments.repeats}; "
        f"jax {about['jax']}, Python {about['python']}, jaxsparse {about['commit']}, "
        f"{about['date']}.\n\n{table(rows)}"
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    numbers = {"environment": about, "rows": [dataclasses.asdict(row) for row in rows]}
    name = arguments.out / machine_name()
    name.with_suffix(".md").write_text(page)
    name.with_suffix(".json").write_text(json.dumps(numbers, indent=1) + "\n")
    return page


def main(arguments: Arguments) -> None:
    """Measure, print, write.

    Args:
      arguments: The command line.
    """
    rows: list[Row] = []
    about = environment()
    with rich.progress.Progress(console=rich.get_console()) as progress:
        chosen = sections(arguments)
        bar = progress.add_task("measuring", total=len(chosen))
        for name, measure in chosen.items():
            progress.update(bar, description=name)
            for row in measure():
                rows.append(row)
                verdict = {True: "", False: "  MISSED", None: ""}[row.kept]
                progress.console.print(f"{row.what}: {row.ratio:.2f} {row.bound}{verdict}")
            write(rows, about, arguments)
            progress.advance(bar)
    print(write(rows, about, arguments))


if __name__ == "__main__":
    # glibc gives a step's memory back to the system after it, and faults it in anew at the next:
    # up to a third of a step, for either side. One arena, which gives nothing back, does not.
    if sys.platform == "linux" and not _ALLOCATOR.keys() <= os.environ.keys():
        command = [sys.executable, "-m", "benchmarks", *sys.argv[1:]]
        os.execve(sys.executable, command, os.environ | _ALLOCATOR)
    main(tyro.cli(Arguments, description=__doc__))
