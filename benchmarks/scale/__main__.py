"""Calculate, from abstract shapes alone, what an update costs a large decoder on many devices.

Nothing is allocated and nothing is run: memory, exchanges and their bytes are read from programs
compiled for virtual CPU devices, and held against arithmetic; times are bytes over bandwidths. Two
depths are compiled, and what every further block adds is the difference between them.
"""

import dataclasses
import json
import pathlib
import resource
from collections.abc import Iterator

import jax
import rich.progress
import tyro

from experiments.train import environment

from . import arithmetic, programs
from .arithmetic import Machine
from .page import page, terminal_table
from .rows import Exchange, Scale, exchanges, extended
from .transformer import Decoder


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The model, the devices, and what is assumed of them."""

    decoder: tyro.conf.OmitArgPrefixes[Decoder] = dataclasses.field(default_factory=Decoder)
    machine: tyro.conf.OmitArgPrefixes[Machine] = dataclasses.field(default_factory=Machine)
    devices: tuple[int, ...] = (8, 64, 512)
    """Numbers of devices."""
    method: str = "rigl"
    """A name of ``jaxsparse.ALGORITHMS`` whose update is a drop and a growth."""
    sparsity: float = 0.9
    """Fraction of zeros."""
    passes: int = 12
    """Passes of each search (normal scores take fewer)."""
    depths: tuple[int, int] = (1, 2)
    """Numbers of blocks that are compiled."""
    out: pathlib.Path = pathlib.Path(__file__).parents[1] / "results" / "scale_7b.md"
    """The page; its numbers are beside it, as JSON."""


def check(arguments: Arguments) -> None:
    """Refuse what would fail late.

    Args:
      arguments: The command line.

    Raises:
      ValueError: if a number is out of range.
    """
    if not arguments.devices or min(arguments.devices) < 2:
        raise ValueError(f"devices is {arguments.devices}; give numbers of 2 or more")
    if not 0 < arguments.depths[0] < arguments.depths[1]:
        raise ValueError(f"depths is {arguments.depths}; give two numbers, rising from 1 or more")
    programs.optimizer(arguments.method, arguments.sparsity)


def scales(arguments: Arguments) -> Iterator[Scale]:
    """Both ways at each number of devices.

    Args:
      arguments: The command line.

    Yields:
      Two rows a number of devices.
    """
    tx = programs.optimizer(arguments.method, arguments.sparsity)
    decoder, on = arguments.decoder, arguments.machine
    sizes = arithmetic.sizes_of(tx, decoder)
    for devices in arguments.devices:
        mesh = programs.mesh_of(devices)
        at = [dataclasses.replace(decoder, layers=depth) for depth in arguments.depths]
        step, ours, theirs = (
            [read(shallow) for shallow in at]
            for read in (
                lambda d, mesh=mesh: programs.gradient(d, mesh),
                lambda d, mesh=mesh: programs.update(tx, d, mesh),
                lambda d, mesh=mesh: programs.argsort_update(tx, d, mesh),
            )
        )
        deep = lambda two: extended(two, arguments.depths, decoder.layers)
        every = [*exchanges(deep(step), "forward and backward")]
        held = arithmetic.memory(tx, decoder, mesh)
        found = exchanges(deep(ours), "update")
        once = lambda row: arguments.passes if row.a_pass else 1
        number = sum(once(row) * row.count for row in found if row.of != "step")
        sent = sum(once(row) * row.sent for row in found if row.of != "step")
        times = [
            arithmetic.search_seconds(sizes, devices, arguments.passes, reads, (number, sent), on)
            for reads in (1, 7)
        ]
        yield Scale(
            devices=devices,
            way="jaxsparse",
            memory=held._replace(temporaries=deep(ours).temporaries),
            most_temporaries=deep(ours).temporaries,
            arithmetic=held,
            arguments=deep(ours).arguments,
            exchanged=[*every, *found],
            step_sent=sum(row.sent for row in [*every, *found] if row.of == "step"),
            update_sent=sent,
            update_count=number,
            seconds=times[0],
            most_seconds=times[1],
        )
        alone = programs.argsort_update(tx, at[0], mesh, largest=True)
        found = [row._replace(of="argsort") for row in exchanges(deep(theirs), "update")]
        number, sent = sum(row.count for row in found), sum(row.sent for row in found)
        seconds = arithmetic.argsort_seconds(sizes, devices, (number, sent), on)
        yield Scale(
            devices=devices,
            way="argsort, all-gather",
            memory=held._replace(temporaries=alone.temporaries),
            most_temporaries=deep(theirs).temporaries,
            arithmetic=held._replace(temporaries=arithmetic.argsort_temporaries(sizes)),
            arguments=deep(theirs).arguments,
            exchanged=found,
            step_sent=sum(row.sent for row in every),
            update_sent=sent,
            update_count=number,
            seconds=seconds,
            most_seconds=seconds,
        )


def main(arguments: Arguments) -> None:
    """Compile, calculate, print, write.

    Args:
      arguments: The command line.

    Raises:
      ValueError: if a number is out of range.
    """
    check(arguments)
    jax.config.update("jax_num_cpu_devices", max(arguments.devices))
    jax.config.update("jax_platforms", "cpu")
    found: list[Scale] = []
    with rich.progress.Progress(console=rich.get_console()) as progress:
        bar = progress.add_task("compiling", total=2 * len(arguments.devices))
        for row in scales(arguments):
            found.append(row)
            progress.advance(bar)
    about = environment()
    # Linux counts kilobytes; no array of the model was among them.
    about["peak_host_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    plain = dataclasses.asdict(arguments) | {"out": arguments.out.name}
    rows = [dataclasses.asdict(row) for row in found]
    numbers = {"environment": about, "arguments": plain, "rows": rows}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(page(found, plain, about))
    text = json.dumps(numbers, indent=1, default=Exchange._asdict)
    arguments.out.with_suffix(".json").write_text(text + "\n")
    rich.get_console().print(terminal_table(found))
    print(f"written: {arguments.out}")


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
