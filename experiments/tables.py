"""The results of a run as a table: for the terminal, for a README, and as cells for the report."""

import math
import statistics
from collections.abc import Iterable, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from . import records

MISSING = "-"


def mean_and_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and standard deviation over seeds, of the finite values only.

    Args:
      values: An entry a seed.

    Returns:
      The mean, NaN where no value is finite; and the sample standard deviation (n - 1 in the
      denominator), None for fewer than two finite values.
    """
    finite = [float(value) for value in values if value is not None and math.isfinite(value)]
    if not finite:
        return math.nan, None
    return statistics.fmean(finite), statistics.stdev(finite) if len(finite) > 1 else None


def percent_text(values: Sequence[float]) -> str:
    """Fractions over seeds as a percentage, such as ``97.31 ± 0.22``.

    Args:
      values: An entry a seed, as fractions of one.

    Returns:
      Mean and standard deviation in percent; without the latter for one seed. Where seeds are not
      finite, the text says how many the numbers are of.
    """
    finite = [value for value in values if value is not None and math.isfinite(value)]
    if not finite:
        return "not finite" if values else MISSING
    mean, sd = mean_and_sd(finite)
    text = f"{100 * mean:.2f}" if sd is None else f"{100 * mean:.2f} ± {100 * sd:.2f}"
    return text if len(finite) == len(values) else f"{text} ({len(finite)} of {len(values)} seeds)"


def spread_text(values: Sequence[float]) -> str:
    """Numbers over seeds, such as ``0.113 ± 0.008``.

    Args:
      values: An entry a seed.

    Returns:
      Mean and standard deviation of those that are finite; without the latter for one seed.
    """
    mean, sd = mean_and_sd(values)
    if not math.isfinite(mean):
        return "not finite" if values else MISSING
    return f"{mean:.3f}" if sd is None else f"{mean:.3f} ± {sd:.3f}"


def sparsity_text(sparsity: float) -> str:
    """A sparsity as a percentage, such as ``90 %``.

    Args:
      sparsity: Fraction of zeros.

    Returns:
      The percentage, without trailing zeros.
    """
    return f"{100 * sparsity:.6g} %"


def seconds_text(seconds: float) -> str:
    """A duration, such as ``9.5 s``, ``4m 10s`` or ``2h 05m``.

    Args:
      seconds: The duration.

    Returns:
      The text.
    """
    if not math.isfinite(seconds):
        return MISSING
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    minutes = round(seconds / 60)
    return f"{minutes // 60}h {minutes % 60:02d}m"


def headers(results: Sequence[records.Result]) -> list[str]:
    """The heads of the columns; counts of trouble have one only where there was trouble.

    Args:
      results: Finished cells.

    Returns:
      One text a column.
    """
    return [
        "method",
        "sparsity",
        "test accuracy (%)",
        "kept weights",
        "inference FLOPs",
        "training FLOPs",
        *(["skipped updates"] if _any(result.skipped for result in results) else []),
        *(["non-finite steps"] if _any(result.nonfinite for result in results) else []),
        "time",
    ]


def rows(results: Sequence[records.Result]) -> list[list[str]]:
    """The body of the table, as text.

    Args:
      results: Finished cells, in the order of the rows.

    Returns:
      One list a row, with an entry for each of ``headers(results)``.
    """
    skipped = _any(result.skipped for result in results)
    nonfinite = _any(result.nonfinite for result in results)
    return [
        [
            result.method,
            sparsity_text(result.sparsity),
            percent_text(result.test_accuracy),
            _range(result.kept),
            _fraction(result.inference_flops),
            _fraction(result.training_flops),
            *([f"{sum(result.skipped):,}"] if skipped else []),
            *([f"{sum(result.nonfinite):,}"] if nonfinite else []),
            seconds_text(result.seconds),
        ]
        for result in results
    ]


def caption(results: Sequence[records.Result]) -> str:
    """What the numbers of the table are.

    Args:
      results: Finished cells.

    Returns:
      Sentences that hold for each row.
    """
    counts = sorted({len(result.seeds) for result in results})
    if not counts:
        return "No cell is finished yet."
    seeds = "1 seed" if counts == [1] else f"{' or '.join(map(str, counts))} seeds"
    spread = "" if counts == [1] else ", mean ± standard deviation"
    sizes = sorted({result.weights for result in results})
    weights = f" out of {sizes[0]:,}" if len(sizes) == 1 else ""
    return (
        f"Over {seeds}{spread}. Kept weights{weights}, biases not counted. FLOPs are fractions "
        "of the dense network's. Masks simulate sparsity: accuracy, weights and FLOPs are real, "
        "time is not."
    )


def summary_table(results: Sequence[records.Result]) -> Table:
    """The results as a table for the terminal.

    Args:
      results: Finished cells, in the order of the rows.

    Returns:
      A table that rich prints.
    """
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
        caption=caption(results),
        caption_justify="left",
    )
    for index, head in enumerate(headers(results)):
        lines = head.replace(" ", "\n", 1)  # narrow heads: the whole fits 80 columns
        justify = "left" if index == 0 else "right"
        table.add_column(lines, justify=justify, vertical="bottom", no_wrap=True, overflow="fold")
    for row in rows(results):
        table.add_row(*map(Text, row))
    return table


def markdown_table(results: Sequence[records.Result]) -> str:
    """The results as a Markdown table whose columns are aligned in the source too.

    Args:
      results: Finished cells, in the order of the rows.

    Returns:
      The lines of the table, with a line break after each.
    """
    return aligned_markdown(headers(results), rows(results))


def aligned_markdown(heads: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """Any table as Markdown: the first column to the left, the others to the right.

    Args:
      heads: Names of the columns.
      body: Rows of cells.

    Returns:
      The lines of the table, with a line break after each.
    """
    escaped = [[cell.replace("|", r"\|") for cell in row] for row in body]
    widths = [max(3, *map(len, column)) for column in zip(heads, *escaped, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        parts = [first[0].ljust(first[1]), *[cell.rjust(width) for cell, width in others]]
        return f"| {' | '.join(parts)} |\n"

    rule = ["-" * widths[0], *["-" * (width - 1) + ":" for width in widths[1:]]]
    return line(heads) + line(rule) + "".join(map(line, escaped))


def _any(counts: Iterable[Sequence[int]]) -> bool:
    return any(any(each) for each in counts)


def _range(counts: Sequence[int]) -> str:
    if not counts:
        return MISSING
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,}-{high:,}"


def _fraction(values: Sequence[float]) -> str:
    mean, _ = mean_and_sd(values)
    if not math.isfinite(mean):
        return MISSING
    return f"{mean:.3f}" if mean >= 0.01 or mean == 0 else f"{mean:.2g}"
