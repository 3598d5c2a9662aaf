"""Checkpoints of one training: written whole or not at all, read whole or not at all.

Orbax reads and writes the arrays. When it is done, a list of all files with their digests goes
beside them, with what the training is: only a checkpoint whose files are those is ever given to
Orbax to read. Another training's is refused; a damaged one is put aside, with a warning, and the
one before it is taken. Nothing is unpickled, links are not followed, and nothing is written outside
the folder of the cell.
"""

import hashlib
import json
import pathlib
import shutil
import warnings
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from . import processes, records

KEEP = 3
_LIST = "whole.json"


class Saved(NamedTuple):
    """A checkpoint: the step it was taken after, and the state."""

    step: int
    state: Any


class CannotSaveError(OSError):
    """A checkpoint could not be written (a full disk, say); those before it are whole."""


class Checkpoints:
    """The checkpoints in one folder; a context, left once the last one is written.

    Beside the folder, ``FOLDER.json`` names the newest that is whole, so that its loss is noticed,
    and ``damaged/`` has those that were put aside.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        about: Mapping[str, Any],
        *,
        keep: int = KEEP,
        log: pathlib.Path | None = None,
        read_only: bool = False,
    ) -> None:
        """For one training.

        Args:
          folder: Where they go; it is made.
          about: What the training is, in what JSON can say: a checkpoint of another is refused.
          keep: How many are kept, the latest ones.
          log: A file that only grows, and is written before each checkpoint: what it holds by then
            belongs to the checkpoint.
          read_only: Leave everything as it is, what is damaged too?

        Raises:
          ValueError: where a link is in the place of the folder, or of a checkpoint.
        """
        self._folder, self._about = folder.absolute(), records.plain(about)
        self._newest = self._folder.with_name(f"{self._folder.name}.json")
        self._log, self._read_only = log, read_only
        self._refuse_links()
        self._writing: Future[None] | None = None
        self._thread = ThreadPoolExecutor(1)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None if read_only else keep,
            save_interval_steps=0 if read_only else 1,
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
            create=not read_only,
        )
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def __enter__(self) -> "Checkpoints":
        """The checkpoints."""
        return self

    def __exit__(self, *args: object) -> None:
        """Wait for what is being written; if something else went wrong, that is what is told."""
        failed: Exception | None = None
        # Orbax tells every thread once of what it could not write, and does not close then: it is
        # closed by the thread that was told.
        close = lambda: self._thread.submit(self._manager.close).result()
        for leave in (self.wait, close, self._thread.shutdown):
            try:
                leave()
            except Exception as error:
                failed = failed or error
        if failed is not None and args[0] is None:
            raise failed

    def save(self, step: int, state: Any) -> None:
        """Begin to write a checkpoint; training may go on, and change ``state``, at once.

        Args:
          step: Steps done.
          state: Pytree of arrays, on any mesh.

        Raises:
          CannotSaveError: if this one or the one before it cannot be written.
        """
        self.wait()
        try:
            with processes.watching():
                self._manager.save(step, args=ocp.args.StandardSave(state))
        except processes.ProcessLostError:  # not the disk's doing
            raise
        except Exception as error:  # whatever Orbax and TensorStore make of a disk's refusal
            raise self._cannot(step, error) from error
        size = self._log.stat().st_size if self._log and self._log.is_file() else 0
        log = {"size": size, "digest": self._digest_of_log(size)}
        self._writing = self._thread.submit(self._finish, step, log)

    def wait(self) -> None:
        """Return when everything begun is on disk.

        Raises:
          CannotSaveError: if it could not be written.
        """
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def restore(self, abstract: Any) -> Saved | None:
        """The newest checkpoint that is whole; others are put aside, with a warning.

        Args:
          abstract: Pytree of ``jax.ShapeDtypeStruct`` leaves like the state, with shardings where
            it is to lie on a mesh; else it is where JAX puts new arrays, wherever it was.

        Returns:
          The checkpoint, or None where none was ever finished.

        Raises:
          ValueError: if the newest is another training's, with a line for each difference; or if
            there were checkpoints and none is whole.
        """
        whole = processes.decided(self._newest_whole)
        if whole < 0:
            return None
        self._manager.reload()
        here = jnp.zeros(()).sharding
        placed = lambda leaf: leaf.update(sharding=leaf.sharding or here)
        target = ocp.args.StandardRestore(jax.tree.map(placed, abstract))
        try:
            with processes.watching():
                return Saved(whole, self._manager.restore(whole, args=target))
        except processes.ProcessLostError:
            raise
        except Exception as error:  # whatever Orbax and TensorStore make of what fits no state
            raise ValueError(
                f"{self._folder / str(whole)} is as it was written, but cannot be read "
                f"({_line(error)}); delete {self._folder.parent} to train it anew"
            ) from error

    def _newest_whole(self) -> int:
        """Its step, or -1 where none was ever finished; what is damaged is put aside."""
        steps = sorted(self._manager.all_steps(), reverse=True)
        wrong = {}
        for step in steps:
            reason = self._read_list(step)
            if reason is None:
                break
            wrong[step] = reason
        whole = next((step for step in steps if step not in wrong), None)
        newest = self._said_newest()
        if whole is None and newest is not None:
            found = "; ".join(f"step {step}: {reason}" for step, reason in wrong.items())
            raise ValueError(
                f"{self._folder} held checkpoints up to step {newest} and none is whole "
                f"({found or 'they are gone'}); bring one back, or delete {self._folder.parent} to "
                "train it anew"
            )
        going_on = "the beginning" if whole is None else self._folder / str(whole)
        for step, reason in wrong.items():
            place = self._folder / str(step)
            warnings.warn(
                f"checkpoint {place} is damaged: {reason}; going on from {going_on}", stacklevel=2
            )
            if not self._read_only:
                self._put_aside(place)
        if whole is None:
            return -1
        if isinstance(newest, int) and newest > whole and newest not in wrong:
            gone = self._folder / str(newest)
            warnings.warn(f"checkpoint {gone} is gone; going on from {going_on}", stacklevel=2)
        if newest != whole and not self._read_only:
            records.write_json(self._newest, {"newest": whole})
        return whole

    def _refuse_links(self) -> None:
        """What is deleted, moved or written to must be in this folder, and nowhere else."""
        aside = self._folder.with_name("damaged")
        places = [self._folder, self._newest, aside]
        for place in (self._folder, aside):
            places += place.iterdir() if place.is_dir() and not place.is_symlink() else []
        for place in places:
            if place.is_symlink():
                raise ValueError(f"{place} is a link; checkpoints lie in the folder itself")

    def _said_newest(self) -> Any:
        """The step that was written down last; None: none ever was."""
        try:
            return None if (said := records.read_json(self._newest)) is None else said["newest"]
        except (OSError, ValueError, KeyError, TypeError):
            return "unknown"

    def _digest_of_log(self, size: int) -> str:
        """Of its first bytes; of fewer, where there are not so many."""
        if not (self._log and self._log.is_file()):
            return ""
        with self._log.open("rb") as file:
            return hashlib.sha256(file.read(size)).hexdigest()

    def _finish(self, step: int, log: Mapping[str, Any]) -> None:
        """Once Orbax is done: say so, and what its files are."""
        place = self._folder / str(step)
        try:
            with processes.watching():
                self._manager.wait_until_finished()
                self._manager.check_for_errors()
            if not processes.writes():
                return
            files = {str(p.relative_to(place)): _digest(p) for p in _files(place)}
            said = {"about": self._about, "files": files, "log": log}
            records.write_json(place / _LIST, {**said, "digest": _digest_of(said)})
            records.write_json(self._newest, {"newest": step})
        except processes.ProcessLostError:
            raise
        except Exception as error:
            raise self._cannot(step, error) from error

    def _read_list(self, step: int) -> str | None:
        """What is wrong with the files of a checkpoint; raises where it is another training's."""
        place = self._folder / str(step)
        try:
            said = json.loads((place / _LIST).read_bytes())
            digest = said.pop("digest")
            about, files, log = said["about"], said["files"], said["log"]
            genuine = digest == _digest_of(said)
        except FileNotFoundError:
            return "it was never finished"
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            genuine, about, files, log = False, {}, {}, {}
        if not genuine:
            return f"{_LIST} is not as it was written"
        different = differences(about, self._about)
        if different:
            raise ValueError("\n".join([f"{place} is of another training:", *different]))
        odd = [path for path in place.rglob("*") if path.is_symlink() or not _plain(path)]
        if odd:
            return f"{odd[0].relative_to(place)} is no plain file"
        if self._log and self._digest_of_log(log["size"]) != log["digest"]:
            return f"{self._log.name} is not as it was written"
        there = {str(path.relative_to(place)): path for path in _files(place)}
        for name in sorted({*files, *there}):
            if name not in there:
                return f"{name} is missing"
            if name not in files:
                return f"{name} does not belong there"
            if _digest(there[name]) != files[name]:
                return f"{name} is not as it was written"
        return None

    def _put_aside(self, place: pathlib.Path) -> None:
        """Out of the way of what is saved next."""
        aside = self._folder.with_name("damaged") / place.name
        shutil.rmtree(aside, ignore_errors=True)
        aside.parent.mkdir(exist_ok=True)
        shutil.move(place, aside)

    def _cannot(self, step: int, error: Exception) -> CannotSaveError:
        newest = self._said_newest()
        last = f"that of step {newest} is whole" if newest else "there is none before it"
        return CannotSaveError(
            f"cannot write the checkpoint of step {step} into {self._folder} ({_line(error)}); "
            f"{last}: make room and resume"
        )


def _line(error: Exception) -> str:
    return [*str(error).strip().splitlines(), type(error).__name__][0][:200]


def _plain(path: pathlib.Path) -> bool:
    return path.is_file() or path.is_dir()


def _files(place: pathlib.Path) -> list[pathlib.Path]:
    return [path for path in place.rglob("*") if path.is_file() and path != place / _LIST]


def _digest(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of(said: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """A line for each setting that differs.

    Args:
      there: Nested dictionaries of JSON values: what was saved.
      here: What is asked for now.

    Returns:
      Lines such as ``pruning.interval: 40 there, 50 here``, sorted.
    """

    def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
        items: dict[str, Any] = {}
        for key, value in tree.items():
            nested = isinstance(value, Mapping)
            items |= flat(value, f"{prefix}{key}.") if nested else {prefix + key: value}
        return items

    before, after = flat(there), flat(here)
    say = lambda tree, key: repr(tree[key]) if key in tree else "nothing"
    return [
        f"{key}: {say(before, key)} there, {say(after, key)} here"
        for key in sorted({*before, *after})
        if say(before, key) != say(after, key)
    ]
