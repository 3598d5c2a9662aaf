"""How a run ends: asked to by a signal, or by an error that one line tells; and the exit codes."""

import signal
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from .nonfinite import NotFiniteError
from .processes import ProcessLostError

FAILED = 1
"""Exit code where cells failed, for different reasons or an unexpected one; others are finished."""
CANNOT_RUN = 2
"""Exit code of what cannot run as asked."""
NOT_FINITE = 3
"""Exit code where cells had more steps with numbers that are not finite than they may."""
CANNOT_SAVE = 74
"""Exit code of a run that could not write (a full disk) and can be resumed (EX_IOERR)."""
PROCESS_LOST = 75
"""Exit code where another process of the run is gone; all can be resumed (EX_TEMPFAIL)."""
INTERRUPTED = 128 + signal.SIGINT
"""Exit code, 130, of a run that Ctrl-C stopped, after a checkpoint."""
TERMINATED = 128 + signal.SIGTERM
"""Exit code, 143, of a run that SIGTERM stopped (preemption), after a checkpoint."""


class Stopped(Exception):
    """The run was asked to stop by a signal; everything up to here is in the checkpoint."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        """By the signal of that number."""
        super().__init__(number)
        self.number = int(number)


class FailedCellsError(Exception):
    """Some cells failed; the others went on. One line, or what the error said, for each."""

    def __init__(self, failures: Mapping[str, Exception]) -> None:
        """Of cells, by name."""
        super().__init__("\n".join(_told(name, error) for name, error in failures.items()))
        self.failures = dict(failures)


class Signals:
    """Ctrl-C and SIGTERM end the run at the next checkpoint; a second Ctrl-C ends it at once.

    ``stopping`` is 0, or the number of the first signal. (Schedulers may send SIGTERM twice: the
    checkpoint is written all the same.)
    """

    def __init__(self) -> None:
        """Not asked to stop yet."""
        self.stopping = 0
        self._before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}

    def __enter__(self) -> "Signals":
        """Listen."""
        for number in self._before:
            signal.signal(number, self._stop)
        return self

    def __exit__(self, *args: object) -> None:
        """Leave signals to those who listened before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _stop(self, number: int, frame: Any) -> None:
        del frame
        if self.stopping and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.stopping = self.stopping or number


def exit_code(error: BaseException) -> int:
    """What a program that ends with this error returns.

    Args:
      error: What ended it.

    Returns:
      One of the codes of this module.

    Example:
      >>> exit_code(Stopped(signal.SIGTERM)), exit_code(OSError(28, "full"))
      (143, 74)
    """
    if isinstance(error, FailedCellsError):
        codes = {exit_code(each) for each in error.failures.values()}
        return codes.pop() if len(codes) == 1 else FAILED
    if isinstance(error, Stopped):
        return 128 + error.number
    known: list[tuple[Any, int]] = [
        (KeyboardInterrupt, INTERRUPTED),
        (NotFiniteError, NOT_FINITE),
        ((ValueError, FileNotFoundError), CANNOT_RUN),
        (OSError, CANNOT_SAVE),
        (ProcessLostError, PROCESS_LOST),
    ]
    return next((code for kind, code in known if isinstance(error, kind)), FAILED)


def tell(error: Exception) -> int:
    """Say what ended a program, on standard error.

    Args:
      error: What ended it.

    Returns:
      Its exit code.
    """
    Console(stderr=True).print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
    return exit_code(error)


def _told(name: str, error: Exception) -> str:
    """What a cell's error says, with the cell's name; of an unexpected one, what it is."""
    said = str(error).strip()
    if exit_code(error) == FAILED:
        said = f"{type(error).__name__}: {[*said.splitlines(), ''][0][:300]}"
    return said if said.startswith(name) else f"{name}: {said}"
