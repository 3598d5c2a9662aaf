"""What the tables are made of: exchanges added up by where they are, and both ways side by side."""

import collections
import dataclasses
from typing import NamedTuple

from .arithmetic import Memory
from .collectives import Collective
from .programs import Program


class Exchange(NamedTuple):
    """The collectives of one kind at one place of a program.

    Attributes:
      of: ``"step"``: every training step; ``"update"``: once an update; ``"pass of search 1"``:
        every pass; ``"argsort"``: once an update by sorting; ``"call"``: once a compiled call.
      kind: Of the collectives.
      count: How many there are.
      payload: Bytes of their results on one device.
      sent: Bytes that a device sends in a ring.
    """

    of: str
    kind: str
    count: float
    payload: float
    sent: float

    @property
    def a_pass(self) -> bool:
        """Is it exchanged in every pass?"""
        return self.of.startswith("pass")


class Totals(NamedTuple):
    """A program's numbers, at some depth of the model.

    Attributes:
      exchanged: ``(loops, kind)`` to count, payload and sent.
      arguments: Bytes on one device.
      temporaries: Bytes on one device.
    """

    exchanged: dict[tuple[int, int, str], tuple[float, ...]]
    arguments: float
    temporaries: float


@dataclasses.dataclass(frozen=True)
class Scale:
    """One way to update, on some number of devices.

    Attributes:
      devices: How many.
      way: Which.
      memory: Bytes on one device. Temporaries are the compiled program's; of the argsort, that of
        the largest matrix alone.
      most_temporaries: Where the compiler works on all matrices at once.
      arithmetic: The same as ``memory`` by arithmetic alone.
      arguments: Bytes of the compiled update's arguments.
      exchanged: All that is exchanged.
      step_sent: Bytes that a device sends in a training step without an update.
      update_sent: And what an update adds.
      update_count: Collectives of an update.
      seconds: Of an update, calculated: memory read once a pass.
      most_seconds: The same, read seven times a pass.
    """

    devices: int
    way: str
    memory: Memory
    most_temporaries: float
    arithmetic: Memory
    arguments: float
    exchanged: list[Exchange]
    step_sent: float
    update_sent: float
    update_count: float
    seconds: float
    most_seconds: float


def totals(program: Program) -> Totals:
    """Add up the collectives of one kind in one loop.

    Args:
      program: As it was read.

    Returns:
      Its numbers. The loops are the depth, and the number of the search at that depth.
    """
    nested = [one.loops for one in program.exchanged if len(one.loops) > 1]
    searches: list[tuple[str, ...]] = list(dict.fromkeys(nested))
    added: dict[tuple[int, int, str], tuple[float, ...]] = collections.defaultdict(lambda: (0,) * 3)
    for one in program.exchanged:
        number = searches.index(one.loops) + 1 if one.loops in searches else 0
        place = (len(one.loops), number, one.kind)
        added[place] = _plus(added[place], one)
    return Totals(dict(added), program.arguments, program.temporaries)


def _plus(numbers: tuple[float, ...], one: Collective) -> tuple[float, ...]:
    count, payload, sent = numbers
    return count + 1, payload + one.size, sent + one.sent


def extended(two: list[Program], depths: tuple[int, int], layers: int) -> Totals:
    """A deeper model's numbers, of which each block adds the same.

    Args:
      two: The program at two depths.
      depths: Which.
      layers: Of the model.

    Returns:
      Its numbers.

    Raises:
      ValueError: if the programs do not have the same kinds of collectives.
    """
    small, large = map(totals, two)
    if small.exchanged.keys() != large.exchanged.keys():
        raise ValueError(f"programs of {depths} blocks exchange in unlike ways: try other depths")
    further = (layers - depths[0]) / (depths[1] - depths[0])
    at = lambda a, b: a + further * (b - a)
    return Totals(
        {
            place: tuple(map(at, small.exchanged[place], large.exchanged[place]))
            for place in small.exchanged
        },
        at(small.arguments, large.arguments),
        at(small.temporaries, large.temporaries),
    )


def exchanges(deep: Totals, program: str) -> list[Exchange]:
    """As rows of a table.

    Args:
      deep: A program's numbers.
      program: ``"update"``, whose loops say what is done when, or another: all at every step.

    Returns:
      One a kind and a place.
    """
    found = []
    for (depth, search, kind), (count, payload, sent) in sorted(deep.exchanged.items()):
        names = ["step", "update", f"pass of search {search}"]
        of = names[min(depth, 2)] if program == "update" else "step"
        found.append(Exchange(of, kind, count, payload, sent))
    return found
