"""Numbers that may turn out to be equal, and some that are held fast."""

import numpy as np
from jaxtyping import Int


class Numbers:
    """0, 1, 2, ... in classes that are united step by step (union-find).

    Example:
      >>> numbers = Numbers()
      >>> first, second = numbers.fresh(2), numbers.fresh(2)
      >>> numbers.unite(first, second)
      >>> numbers.hold(second[:1], "output")
      >>> numbers.roots().tolist(), numbers.reasons()
      ([0, 1, 0, 1], {0: 'output'})
    """

    def __init__(self) -> None:
        """None yet."""
        self._parents: list[int] = []
        self._held: dict[int, str] = {}

    def fresh(self, size: int, reason: str | None = None) -> Int[np.ndarray, " size"]:
        """New numbers; held where a reason says why."""
        first = len(self._parents)
        self._parents.extend(range(first, first + size))
        numbers = np.arange(first, first + size)
        if reason is not None:
            self.hold(numbers, reason)
        return numbers

    def find(self, number: int) -> int:
        """The number that stands for the class."""
        parents = self._parents
        while parents[number] != number:
            parents[number] = parents[parents[number]]
            number = parents[number]
        return number

    def unite(self, first: Int[np.ndarray, " size"], second: Int[np.ndarray, " size"]) -> None:
        """Position by position."""
        if first is second:
            return
        for a, b in zip(first.tolist(), second.tolist(), strict=True):
            a, b = self.find(a), self.find(b)
            if a != b:
                self._parents[b] = a
                if b in self._held:
                    self._held.setdefault(a, self._held[b])

    def hold(self, numbers: Int[np.ndarray, " size"], reason: str) -> None:
        """Hold their classes fast; the first reason counts."""
        for number in numbers.tolist():
            self._held.setdefault(self.find(number), reason)

    def is_held(self, numbers: Int[np.ndarray, " size"]) -> bool:
        """Are all of them?"""
        return all(self.find(number) in self._held for number in numbers.tolist())

    def roots(self) -> Int[np.ndarray, " numbers"]:
        """What stands for each number."""
        return np.array([self.find(number) for number in range(len(self._parents))], np.int64)

    def reasons(self) -> dict[int, str]:
        """Why a class is held, by what stands for it."""
        return {self.find(number): reason for number, reason in self._held.items()}
