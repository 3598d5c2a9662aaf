"""What a compiled program sends from device to device: read from its text."""

import math
import re
from typing import NamedTuple

# Bytes of one element.
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4}
_BYTES |= {"s64": 8, "u64": 8, "f64": 8}
_KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
_COLLECTIVE = re.compile(rf"= (.*?) ({_KINDS})(-start)?\(")
_CALLED = re.compile(r"(?:body|to_apply|calls|true_computation|false_computation)=%?([\w.-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")


class Collective(NamedTuple):
    """One exchange among devices.

    Attributes:
      kind: ``"all-reduce"``, ``"all-gather"``, ...
      size: Bytes of its result on one device.
      devices: How many take part.
      loops: The loops it is in, outermost first: the names of their bodies.
    """

    kind: str
    size: int
    devices: int
    loops: tuple[str, ...]

    @property
    def sent(self) -> float:
        """Bytes that each device sends in a ring."""
        n = self.devices
        if self.kind == "all-reduce":
            return 2 * (n - 1) / n * self.size
        if self.kind == "reduce-scatter":
            return (n - 1) * self.size
        return self.size if self.kind == "collective-permute" else (n - 1) / n * self.size


def collectives(program: str, devices: int) -> list[Collective]:
    """The collectives of a compiled program, each once, with the loops around it.

    Args:
      program: ``compiled.as_text()``.
      devices: Of the program.

    Returns:
      In the order of the program.

    Raises:
      ValueError: if a collective is asynchronous, or its type or group is not understood.
    """
    bodies = _computations(program)

    def inside(name: str, loops: tuple[str, ...]) -> list[Collective]:
        found = []
        for line in bodies[name]:
            match = _COLLECTIVE.search(line)
            if match:
                if match[3]:
                    raise ValueError(f"{match[2]}-start is not read: compile for CPU devices")
                place = _group(line, devices)
                found.append(Collective(match[2], _size(match[1]), place, loops))
            elif " fusion(" not in line and " reduce(" not in line:
                for called in _calls(line):
                    deeper = (*loops, called) if " while(" in line else loops
                    found += inside(called, deeper)
        return found

    return inside("ENTRY", ())


def _computations(program: str) -> dict[str, list[str]]:
    """The lines of each computation, by name; the entry is ``"ENTRY"``."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in program.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.-]+) \(.*\{$", line)
        if head:
            lines = found.setdefault("ENTRY" if head[1] else head[2], [])
        elif line.startswith(" "):
            lines.append(line)
    return found


def _calls(line: str) -> list[str]:
    branches = _BRANCHES.search(line)
    names = branches[1].replace("%", "").split(", ") if branches else []
    return [*_CALLED.findall(line), *names]


def _size(shapes: str) -> int:
    total = 0
    for dtype, shape in _ARRAY.findall(shapes):
        if dtype not in _BYTES:
            raise ValueError(f"the size of {dtype} is not known; add it to the table of bytes")
        total += _BYTES[dtype] * math.prod(int(n) for n in shape.split(",") if n)
    return total


def _group(line: str, devices: int) -> int:
    """How many devices a collective is among."""
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", line)
    if mesh:
        sizes = dict(axis.split("=") for axis in mesh[1].split(","))
        return math.prod(int(sizes[name]) for name in mesh[2].split(","))
    iota = re.search(r"replica_groups=\[\d+,(\d+)\]", line)
    if iota:
        return int(iota[1])
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", line)
    if listed:
        return len(listed[1].split(","))
    if "source_target_pairs=" in line or "replica_groups={}" in line:
        return devices
    raise ValueError(f"the devices of this collective are not understood: {line.strip()[:200]}")
