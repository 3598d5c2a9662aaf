"""Several processes as one run: they start together, agree, and one of them writes.

Process 0 writes what is not Orbax's, and its clock and its eyes decide where theirs could differ.
All processes see one folder of runs.
"""

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from . import mesh

HEARTBEAT_SECONDS = 100
"""A process that has not been heard of for so long is gone, and ends the others."""
LEAVING_SECONDS = 60
"""How long a process that ends waits for the others to end, too."""


def join(devices: mesh.Devices) -> None:
    """Become one of several processes, if that was asked for; before any backend starts.

    Args:
      devices: What was given.

    Raises:
      ValueError: if nothing tells where the others are, or they are not all there in time.
    """
    if devices.coordinator or devices.distributed:
        try:
            jax.distributed.initialize(
                devices.coordinator or None,
                devices.num_processes,
                devices.process_id,
                heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
                shutdown_timeout_seconds=LEAVING_SECONDS,
            )
        except (ValueError, RuntimeError) as error:
            line = str(error).strip().splitlines()[0]
            raise ValueError(
                f"the processes of this run do not find each other ({line[:200]}); start it by "
                "srun, as a Kubernetes job or on a TPU pod with --distributed, or give "
                "--coordinator HOST:PORT --num-processes N --process-id I"
            ) from error


class ProcessLostError(Exception):
    """Another process of the run is gone, or cannot be reached: none can go on."""


# What XLA and its transports say of an exchange that failed, as exceptions of several kinds.
_FAILED = re.compile(r"(UNKNOWN|UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|CANCELLED|INTERNAL): ")


@contextlib.contextmanager
def watching() -> Iterator[None]:
    """In this context a failed exchange is what it is.

    Yields:
      Nothing.

    Raises:
      ProcessLostError: if an exchange with another process failed.
    """
    try:
        yield
    except (ValueError, jax.errors.JaxRuntimeError) as error:
        if not jax.distributed.is_initialized() or not _FAILED.match(str(error)):
            raise
        raise ProcessLostError(
            f"another process is gone, or cannot be reached ({str(error).splitlines()[0][:200]}); "
            "when all have ended, start them again with --resume"
        ) from error


def leave(code: int) -> int:
    """End at once where others may wait for this process: they then end, too.

    Args:
      code: Exit code.

    Returns:
      It, where there is one process.
    """
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # (JAX's own end waits for the others, and then aborts.)
    return code


def writes() -> bool:
    """Is this the process that writes? Starts no backend where there is one process."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def wait_for_all(where: str) -> None:
    """Go on when every process is here.

    Args:
      where: A name, the same in every process.
    """
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(where)


def largest(*numbers: int) -> list[int]:
    """The largest of each number in any process: the same answers in all of them.

    Args:
      *numbers: As many in every process; True is 1.

    Returns:
      As many.
    """
    if jax.process_count() == 1:
        return list(numbers)
    told = multihost_utils.process_allgather(np.array(numbers, np.int32))
    return np.max(told, axis=0).tolist()


def first_alone(function: Callable[[], Any]) -> Any:
    """Call a function in process 0, then in the others, which find what it has written.

    Args:
      function: Any.

    Returns:
      What it returned here.
    """
    if not writes():
        wait_for_all("first alone")
        return function()
    found = function()
    wait_for_all("first alone")
    return found


def decided(function: Callable[[], int]) -> int:
    """What process 0 finds, in all.

    Args:
      function: Called in process 0 alone.

    Returns:
      Its int32.

    Raises:
      ValueError: what the function raised; in other processes, that it did.
    """
    if jax.process_count() == 1:
        return function()
    found, problem = 0, None
    try:
        found = function() if writes() else 0
    except ValueError as error:
        problem = error
    told = np.array([problem is not None, found], np.int32)
    failed, found = multihost_utils.broadcast_one_to_all(told).tolist()
    if failed:
        raise problem or ValueError("process 0 cannot go on; its message says why")
    return found


def on_host(tree: Any) -> Any:
    """The whole of each array, in every process.

    Args:
      tree: Pytree of arrays, on any mesh.

    Returns:
      Pytree of NumPy arrays.
    """
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)
