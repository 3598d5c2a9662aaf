"""When a cell has had more steps with numbers that are not finite than ``--max-nonfinite``."""

from typing import Any

import numpy as np


class NotFiniteError(Exception):
    """One line: the cell, the steps, how many of them, and what to do."""


def check_finite(
    most: int | None, cell: str, total: int, flags: Any, last: int, checkpoint: int
) -> None:
    """Stop a cell that has had too many such steps.

    Args:
      most: How many there may be, over all seeds; ``None``: any number.
      cell: Its name, for the message.
      total: How many there have been.
      flags: ``[steps, seeds]`` of the latest call: 1 where a loss or gradient was not finite.
      last: The last step of that call, counted from 1.
      checkpoint: Step of the newest checkpoint, 0 if there is none.

    Raises:
      NotFiniteError: if there have been more.
    """
    if most is None or total <= most:
        return
    steps = np.flatnonzero(np.any(flags, axis=1)) + 1 + last - len(flags)
    seeds = ", ".join(map(str, np.flatnonzero(np.any(flags, axis=0))))
    kept = f"is of step {checkpoint}" if checkpoint else "would have been later: there is none"
    raise NotFiniteError(
        f"{cell}: {total} steps with a loss or gradient that is not finite, the latest in steps "
        f"{steps[0]} to {steps[-1]} of seeds {seeds}, where --max-nonfinite is {most}; the newest "
        f"checkpoint {kept}. Start another run with a smaller --optimizer.learning-rate, or go on "
        "from there with --resume and a larger --max-nonfinite"
    )
