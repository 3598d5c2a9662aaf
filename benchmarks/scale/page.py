"""The tables, for the terminal and as a page."""

from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.table import Table

from experiments.tables import aligned_markdown

from .rows import Exchange, Scale

HEADS = (
    "devices",
    "update by",
    "weights GiB",
    "optimizer GiB",
    "masks GiB",
    "gradients GiB",
    "temporaries GiB",
    "all GiB",
    "sent a step",
    "sent an update",
    "collectives an update",
    "update ms",
)


def amount(count: float) -> str:
    """Bytes, in the unit that suits.

    Args:
      count: Bytes.

    Returns:
      For instance ``6.3 kB``.
    """
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} B"


def cells(row: Scale) -> list[str]:
    """One row of the main table.

    Args:
      row: A way, on some devices.

    Returns:
      A text a column.
    """
    gib = [f"{part / 2**30:.3g}" for part in row.memory[:-1]]
    state = sum(row.memory[:-1])
    least, most = row.memory.temporaries, row.most_temporaries
    return [
        str(row.devices),
        row.way,
        *gib,
        _span(least / 2**30, most / 2**30),
        _span((state + least) / 2**30, (state + most) / 2**30),
        amount(row.step_sent),
        amount(row.update_sent),
        f"{row.update_count:.0f}",
        _span(1e3 * row.seconds, 1e3 * row.most_seconds),
    ]


def _span(low: float, high: float) -> str:
    texts = [f"{x:.3g}" if x < 1000 else f"{x:,.0f}" for x in (low, high)]
    return " to ".join(dict.fromkeys(texts))


def terminal_table(found: list[Scale]) -> Table:
    """The main table for the terminal.

    Args:
      found: All rows.

    Returns:
      A table that rich prints.
    """
    table = Table(box=box.SIMPLE_HEAD, title="Calculated, not measured", collapse_padding=True)
    narrow = [i for i, head in enumerate(HEADS) if head not in HEADS[2:6]]
    for i in narrow:
        table.add_column(HEADS[i], justify="left" if HEADS[i] == "update by" else "right")
    for row in found:
        own = cells(row)
        table.add_row(*[own[i] for i in narrow])
    return table


def exchanged_table(found: list[Scale]) -> str:
    """What is exchanged when, as the compiled programs have it.

    Args:
      found: All rows.

    Returns:
      Markdown.
    """
    rows = [((row.way, str(row.devices)), one) for row in found for one in row.exchanged]
    return exchange_table(("update by", "devices"), rows)


def exchange_table(heads: Sequence[str], rows: Iterable[tuple[Sequence[str], Exchange]]) -> str:
    """Exchanges as Markdown.

    Args:
      heads: Of the columns that say whose they are.
      rows: Those columns, and an exchange.

    Returns:
      Markdown.
    """
    body = [
        (*whose, one.of, one.kind, f"{one.count:.0f}", f"{one.payload:,.0f}", f"{one.sent:,.0f}")
        for whose, one in rows
    ]
    heads = (*heads, "exchanged in a", "collective", "number", "result, B", "sent by a device, B")
    return aligned_markdown(heads, body)


def agreement_table(found: list[Scale]) -> str:
    """Memory by arithmetic beside what is read from the compiled update.

    Args:
      found: All rows.

    Returns:
      Markdown.
    """
    body = []
    for row in (row for row in found if row.way == "jaxsparse"):
        held = sum(row.arithmetic) - row.arithmetic.temporaries
        both = sum(row.arithmetic), row.arguments + row.memory.temporaries
        numbers = (held, row.arguments, row.arithmetic.temporaries, row.memory.temporaries)
        gib = [f"{part / 2**30:.4f}" for part in numbers]
        body.append((str(row.devices), *gib, f"{100 * (both[0] / both[1] - 1):+.1f} %"))
    heads = ("devices", "state and gradients", "compiled", "temporaries", "compiled ", "difference")
    return aligned_markdown(heads, body)


def page(found: list[Scale], plain: dict[str, Any], about: dict[str, Any]) -> str:
    """The page of a run.

    Args:
      found: All rows.
      plain: The command line.
      about: Versions and the like.

    Returns:
      Markdown.
    """
    model, on, depths = plain["decoder"], plain["machine"], plain["depths"]
    sizes = ", ".join(f"{name} {size}" for name, size in model.items())
    return f"""# An update at scale, by calculation

`python -m benchmarks.scale`: nothing here was measured, and no array of the model was allocated
(peak memory of this process: {about["peak_host_gib"]:.1f} GiB).
jax {about["jax"]}, Python {about["python"]}, jaxsparse {about["commit"]}, {about["date"]}.

Decoder: {sizes}; `{plain["method"]}` at sparsity {plain["sparsity"]}, Adam.
All arrays are float32, masks bool, and all are sharded over all devices (FSDP).

{aligned_markdown(HEADS, [cells(row) for row in found])}
Sent: bytes that a device sends in rings of n: 2(n-1)/n of an all-reduce, (n-1)/n of what an
all-gather or reduce-scatter is of. Temporaries are those of the compiled update; activations and
gathered weights of the forward and backward pass are not in this table. An argsort's are from
those of the largest matrix alone (one after the other, the best case) to what the compiler takes
when it may work on all at once, as here.

Times assume: memory {on["memory_gb_s"]:g} GB/s a device; links {on["inside_gb_s"]:g} GB/s a
direction in hosts of {on["host_devices"]}, else {on["between_gb_s"]:g} GB/s a device; an exchange
takes {on["latency_us"]:g} us, and {2 * on["hop_us"]:g} us more for each doubling of hosts;
{plain["passes"]} passes of each search over 5 bytes a weight, read once (the compiler merges the
counts) to seven times (it merges none); an argsort is a radix sort of four digits over key and
index, 68 bytes a score, twice. Resetting slots is the same either way, and left out. Default
bandwidths are of NVIDIA's data sheets (H100 SXM; 400 Gb/s adapters); latencies are assumed.

## What is exchanged

From the programs compiled for that many virtual CPU devices, at depths {depths[0]} and
{depths[1]}; each further block adds their difference. Between updates this library exchanges
nothing: what a step sends is FSDP's.

{exchanged_table(found)}
## Memory of jaxsparse, GiB a device: arithmetic and compiled

{agreement_table(found)}"""
