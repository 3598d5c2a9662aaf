"""What a step of ``experiments.train`` exchanges on a mesh: ``python -m benchmarks.scale.runner``.

Read from the program that the runner itself compiles, for virtual CPU devices; nothing is run.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
import tyro

from experiments import config, data, mesh
from experiments.cell import Cell, program_of

from . import programs
from .page import exchange_table
from .rows import Exchange, exchanges, totals

_SIDES = {"digits": (8, 8, 1), "cifar10": (32, 32, 3), "cifar100": (32, 32, 3)}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The run and the meshes."""

    preset: str = "digits-mlp"
    """A preset of ``experiments.train``."""
    meshes: tuple[str, ...] = ("data=8", "fsdp=8", "data=4,model=2")
    """Meshes of one number of devices, as for ``--mesh``."""
    method: str = "rigl"
    """A name of ``jaxsparse.ALGORITHMS``."""
    sparsity: float = 0.9
    """Fraction of zeros."""
    batch_size: int = 32
    """Examples a step."""


def exchanged(arguments: Arguments, text: str) -> list[Exchange]:
    """All exchanges of a call of many steps, one seed.

    Args:
      arguments: The run.
      text: The mesh; its devices are this process's.

    Returns:
      One a kind and a place: ``"call"`` (once a compiled call), ``"step"``, ``"update"``, and the
      passes of its searches.

    Raises:
      ValueError: if something does not fit.
    """
    run = dataclasses.replace(
        config.preset(arguments.preset),
        seeds=1,
        epochs=1000,
        batch_size=arguments.batch_size,
        devices=mesh.Devices(mesh=text),
    )
    config.check(run)
    grid = mesh.mesh_of(mesh.parse(text))
    layout = mesh.Layout(grid)
    images = np.zeros((run.batch_size, *_SIDES.get(run.data, (28, 28, 1))), np.uint8)
    labels, ones = np.zeros(len(images), np.int32), (1.0,) * images.shape[-1]
    # (Of the data, the program knows shapes.)
    fake = data.Dataset(run.data, 10, images, labels, images, labels, ones, ones)
    cell = Cell(arguments.method, arguments.method, arguments.sparsity)
    program: Any = program_of(run, cell, fake, layout)
    rows = layout.share(np.zeros((2, 1, run.batch_size), np.int32), -1)
    found = programs.read(program.run, grid, program.abstract, rows)
    # All steps are in one loop.
    once = [one for one in found.exchanged if not one.loops]
    steps = [one._replace(loops=one.loops[1:]) for one in found.exchanged if one.loops]
    of_call = exchanges(totals(found._replace(exchanged=once)), "call")
    of_steps = exchanges(totals(found._replace(exchanged=steps)), "update")
    return [*of_steps, *(row._replace(of="call") for row in of_call)]


def markdown(arguments: Arguments) -> str:
    """The table of all meshes.

    Args:
      arguments: The run.

    Returns:
      Markdown, with the versions under it.
    """
    rows = [((text,), one) for text in arguments.meshes for one in exchanged(arguments, text)]
    return exchange_table(("mesh",), rows) + f"\n(jax {jax.__version__})\n"


def main(arguments: Arguments) -> None:
    """Compile and print.

    Args:
      arguments: The command line.

    Raises:
      ValueError: if a mesh or a batch does not fit.
    """
    jax.config.update("jax_platforms", "cpu")
    mesh.use_cpu_devices(mesh.Devices(mesh=arguments.meshes[0]))
    print(markdown(arguments))


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
