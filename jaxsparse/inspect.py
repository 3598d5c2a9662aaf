"""The table of an exported file or a checkpoint: ``python -m jaxsparse.inspect FILE``.

FILE is what ``jaxsparse.export.save_safetensors`` wrote, or a folder of Orbax: a folder of steps
(the latest is read), one step, or one of its items.
"""

import argparse
import math
import pathlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from jaxsparse._checkpoints import read_checkpoint
from jaxsparse._table import aligned
from jaxsparse.export.safetensors_files import printable, read_contents


class _Row(NamedTuple):
    """One leaf; None: no mask, or unknown."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    kept: int | None
    nbytes: int | None

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def report(path: str | pathlib.Path) -> str:
    """The table of a file or a checkpoint, as ``python -m jaxsparse.inspect`` prints it.

    Args:
      path: An exported file, or a folder of Orbax.

    Returns:
      A row a leaf (path, shape, dtype, kept weights, weights, sparsity, bytes), the totals of the
      sparse leaves and of all, and the metadata. Bytes are those of the arrays in a file, masks
      included; in a checkpoint, those of the parameters before Orbax compresses them.

    Raises:
      ValueError: if it is neither, or damaged.
      OSError: if it cannot be opened.
      ImportError: without safetensors (for a file) or Orbax (for a folder).

    Example:
      >>> import os, tempfile, jax.numpy as jnp
      >>> from jaxsparse.export import save_safetensors
      >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
      >>> params = {"bias": jnp.ones(2), "kernel": jnp.ones((4, 2), jnp.bfloat16)}
      >>> save_safetensors(path, params, {"kernel": jnp.eye(4, 2) > 0}, packed=True)
      >>> print(report(path))
      leaf           shape     dtype  kept  weights  sparsity  bytes
      bias               2   float32     2        2     dense      8
      kernel           4x2  bfloat16     2        8    0.7500      5
      sparse leaves                      2        8    0.7500      5
      all leaves                         4       10    0.6000     13
    """
    path = pathlib.Path(path)
    if path.is_dir():
        return "\n\n".join(
            f"parameters: {printable(found.params)}; masks: {printable(', '.join(found.masks))}\n"
            + _table([_checkpoint_row(*leaf) for leaf in found.leaves])
            for found in read_checkpoint(path)
        )
    contents = read_contents(path)
    rows = [
        _Row(
            name,
            tensor.values.shape,
            tensor.values.dtype.name,
            None if tensor.mask is None else int(tensor.mask.sum()),
            tensor.nbytes,
        )
        for name, tensor in contents.tensors.items()
    ]
    said = [f"{printable(k)}: {printable(v)[:200]}" for k, v in sorted(contents.metadata.items())]
    return "\n".join([_table(rows), *said])


def _checkpoint_row(path: str, shape: tuple[int, ...], dtype: object, kept: int | None) -> _Row:
    nbytes = None if dtype is None else math.prod(shape) * getattr(dtype, "itemsize", 0)
    return _Row(path, shape, "-" if dtype is None else str(dtype), kept, nbytes)


def _table(rows: list[_Row]) -> str:
    cells = [
        (
            printable(row.path),
            "x".join(map(str, row.shape)) or "scalar",
            row.dtype,
            *_numbers([row]),
        )
        for row in rows
    ]
    sparse = [row for row in rows if row.kept is not None]
    for name, group in (("sparse leaves", sparse), ("all leaves", rows)):
        cells.append((name, "", "", *_numbers(group, total=True)))
    return aligned(cells, ("leaf", "shape", "dtype", "kept", "weights", "sparsity", "bytes"))


def _numbers(rows: list[_Row], total: bool = False) -> tuple[str, str, str, str]:
    """Kept, weights, sparsity, bytes; of one leaf or of several."""
    size = sum(row.size for row in rows)
    kept = sum(row.size if row.kept is None else row.kept for row in rows)
    sparsity = f"{1 - kept / size:.4f}" if size else "-"
    if not total and rows[0].kept is None:
        sparsity = "dense"
    known = [row.nbytes for row in rows if row.nbytes is not None]
    nbytes = f"{sum(known):,}" if len(known) == len(rows) else "-"
    return f"{kept:,}", f"{size:,}", sparsity, nbytes


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report of one file.

    Args:
      arguments: Of the command line.

    Returns:
      The exit status: 0, or 1 with one line on standard error.
    """
    parser = argparse.ArgumentParser(prog="python -m jaxsparse.inspect", description=__doc__)
    parser.add_argument("file", metavar="FILE", help="a .safetensors file, or a folder of Orbax")
    path = parser.parse_args(arguments).file
    try:
        text = report(path)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 1
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
