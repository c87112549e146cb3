"""Live streams of a process: no more than the settings allow, and not all of them for one caller."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from atlas.wording import counted
from maia.api.problems import Problem


class Seats:
    """How many live streams this process has, and may have; a caller may take two thirds of them."""

    def __init__(self, most: int) -> None:
        self._most, self._most_of_one = most, max(1, most * 2 // 3)
        self._by_caller: Counter[str | None] = Counter()

    @property
    def taken(self) -> int:
        return self._by_caller.total()

    @contextmanager
    def taken_by_one(self, caller: str | None = None) -> Iterator[None]:
        """A seat for a caller, by its key's id; Problem 503 if all are taken, 429 if too many by itself."""
        if self.taken >= self._most:
            raise Problem(
                503,
                f"this process has {counted(self._most, 'live stream')}, and takes no more: try again, "
                "another process may answer (PLEIADES_API__MOST_STREAMS)",
                headers={"Retry-After": "10"},
            )
        if self._by_caller[caller] >= self._most_of_one:
            raise Problem(
                429,
                f"you have {counted(self._most_of_one, 'live stream')} of this process, and the rest is for "
                "others: close some, or ask for more (PLEIADES_API__MOST_STREAMS)",
                headers={"Retry-After": "10"},
            )
        self._by_caller[caller] += 1
        try:
            yield
        finally:
            self._by_caller[caller] -= 1
            if not self._by_caller[caller]:
                del self._by_caller[caller]
