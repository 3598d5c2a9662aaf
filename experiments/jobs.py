"""The cells of a run as a list of jobs: each is done once, by whoever comes to it first.

Processes that work on one run at the same time, a job array of a cluster say, share nothing but its
folder. A cell in work is locked, and a process that dies gives its locks back.
"""

import collections
import contextlib
import fcntl
import pathlib
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jax

from . import processes, records
from .stopping import FAILED, FailedCellsError, Stopped, exit_code

Job = TypeVar("Job")


@contextlib.contextmanager
def alone(folder: pathlib.Path, *, wait: bool = False) -> Iterator[bool]:
    """Is nobody else at work in a folder? If so nobody comes to be until the context is left.

    Args:
      folder: The folder; it is made.
      wait: Until nobody else is?

    Yields:
      Whether.

    Raises:
      ValueError: where the file system has no locks.
    """

    def lock() -> int:
        folder.mkdir(parents=True, exist_ok=True)
        file = held.enter_context((folder / "lock").open("w"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return 0
        except OSError as error:
            raise ValueError(
                f"{folder} cannot be locked ({error.strerror}); put the run on a file system with "
                "locks (--out)"
            ) from None
        return 1

    with contextlib.ExitStack() as held:
        # (Of the processes of one program the first locks, for all.)
        yield bool(processes.decided(lock))


def share(jobs: Sequence[Job], index: int | None, count: int | None) -> list[Job]:
    """The part of one process among several.

    Args:
      jobs: All jobs.
      index: Of the process, from 0; ``None``: it does them all.
      count: Of processes; ``None``: one for each job.

    Returns:
      Every ``count``-th job, from ``index`` on.

    Raises:
      ValueError: if there is no such process.

    Example:
      >>> share("abcde", 1, 2), share("abcde", 4, None)
      (['b', 'd'], ['e'])
    """
    if index is None:
        if count is not None:
            raise ValueError(f"job_count is {count}, without a job_index; give both")
        return list(jobs)
    count = len(jobs) if count is None else count
    if not 0 <= index < count:
        raise ValueError(
            f"job_index is {index}; of {count} jobs it must lie in [0, {count}): see --list-jobs"
        )
    return list(jobs[index::count])


def do_all(
    run: pathlib.Path,
    jobs: Mapping[str, Callable[[], Any]],
    devices: Sequence[Any] = (None,),
) -> None:
    """Do every job that nobody else is at work on; one that fails does not keep the others back.

    At the end, what others were at work on is tried again: they may have died.

    Args:
      run: Folder of the run.
      jobs: Name of the cell -> what does it, or sees that it is done.
      devices: One job at a time is done on each of them; ``None``: where JAX puts it.

    Raises:
      FailedCellsError: if jobs failed; the traceback of an unexpected error is in ``failure.txt``
        in the cell's folder.
      Stopped: if a job was.
      Exception: any, in one of several processes of a program.
      OSError: if one could not write; no other is begun.
    """
    failures: dict[str, Exception] = {}
    left, tried = list(jobs), len(jobs) + 1
    while left and len(left) < tried:
        queue, tried = collections.deque(left), len(left)
        left = []

        def work(device: Any, queue: Any = queue, left: list[str] = left) -> None:
            with contextlib.nullcontext() if device is None else jax.default_device(device):
                while queue:
                    try:
                        name = queue.popleft()
                    except IndexError:  # another thread was faster
                        break
                    if not _attempt(run, name, jobs[name], queue, failures):
                        left.append(name)

        if len(devices) == 1:
            work(devices[0])
            continue
        with ThreadPoolExecutor(len(devices)) as threads:
            for done in [threads.submit(work, device) for device in devices]:
                done.result()
    if failures:
        raise FailedCellsError({name: failures[name] for name in jobs if name in failures})


def _attempt(
    run: pathlib.Path,
    name: str,
    job: Callable[[], Any],
    queue: Any,
    failures: dict[str, Exception],
) -> bool:
    """Was nobody else at work on it?"""
    folder = records.cell_folder(run, name)
    told = folder / "failure.txt"
    try:
        with alone(folder) as free:
            if not free:
                return False
            told.unlink(missing_ok=True)
            job()
    except Exception as error:
        full = isinstance(error, OSError) and not isinstance(error, FileNotFoundError)
        if full or isinstance(error, Stopped) or jax.process_count() > 1:
            # The others would end so, too; or the other processes are left alone.
            queue.clear()
            raise
        failures[name] = error
        if exit_code(error) == FAILED:
            records.write_bytes(told, traceback.format_exc().encode())
    return True


def state_of(run: pathlib.Path, name: str) -> str:
    """How far a job is: finished, in work, failed, at a step, or not begun.

    Args:
      run: Folder of the run.
      name: Of the cell.

    Returns:
      A few words.
    """
    folder = records.cell_folder(run, name)
    if (folder / "result.json").exists():
        return "finished"
    if not folder.exists():
        return "not begun"
    with alone(folder) as free:
        if not free:
            return "in work"
    if (folder / "failure.txt").exists():
        return f"failed: see {folder / 'failure.txt'}"
    newest = (records.read_json(folder / "checkpoints.json") or {}).get("newest")
    return f"stopped after step {newest}" if newest else "begun"
