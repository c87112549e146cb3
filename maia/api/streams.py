"""Live streams of a process: no more than the settings allow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from maia.api.problems import Problem


class Seats:
    """How many live streams this process has, and may have."""

    def __init__(self, most: int) -> None:
        self._most, self.taken = most, 0

    @contextmanager
    def taken_by_one(self) -> Iterator[None]:
        """A seat for one stream; Problem 503 if there is none."""
        if self.taken >= self._most:
            raise Problem(
                503,
                f"this process has {self._most:,} live streams, and takes no more: try again, another "
                "process may answer (PLEIADES_API__MOST_STREAMS)",
                headers={"Retry-After": "10"},
            )
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1
