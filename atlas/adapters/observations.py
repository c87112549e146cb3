"""Observations that the service was told: appended durably, and read in an order that never skips one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

from atlas.adapters.dao import DAO, json_text
from atlas.db import lock_key

CHANNEL: Final = "observations"
"""Carries an empty notice when there is something to learn, and others that say what was learnt."""
MOST_NOTICE_BYTES: Final = 7_900
"""PostgreSQL takes notices of less than 8,000 bytes."""


class Observed(Protocol):
    """What was observed; `maia.learning.observations.Observation` is one."""

    @property
    def agent(self) -> str: ...
    @property
    def session(self) -> str: ...
    @property
    def action(self) -> str: ...
    @property
    def at(self) -> datetime: ...
    @property
    def outcome(self) -> str: ...
    @property
    def context(self) -> Mapping[str, Any]: ...
    @property
    def reward(self) -> float: ...
    @property
    def cost(self) -> float: ...
    @property
    def duration_s(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class Appended:
    """An observation in the log: that of this id, unless another process is just appending it.

    It is not new if its key was there already.
    """

    id: int | None
    is_new: bool


@dataclass(frozen=True, slots=True)
class LoggedObservation:
    """An observation as it was appended, and by which process."""

    id: int
    writer: str
    agent: str
    session: str
    action: str
    at: datetime
    outcome: str
    context: Mapping[str, Any]
    reward: float
    cost: float
    duration_s: float | None


@dataclass(frozen=True, slots=True)
class Watermark:
    """Up to `readable`, no observation can appear any more; ids up to `taken` may."""

    readable: int
    taken: int


class ObservationsDAO(DAO):
    """The log of observations, whose readers skip none for the same reason as those of `EventLog`."""

    async def append(
        self,
        observed: Sequence[Observed],
        keys: Sequence[bytes | None] | None = None,
        *,
        writer: str,
        most_waiting: int,
        wake: bool,
    ) -> list[Appended] | None:
        """Append in order, but no key a second time; None if more than `most_waiting` would wait.

        A key has 16 bytes, and is known until its observation is deleted.
        """
        row = await self._executor.fetchrow(
            "observations.append",
            self._clock.now(),
            writer,
            most_waiting,
            [each.agent for each in observed],
            [each.session for each in observed],
            [each.action for each in observed],
            [each.at for each in observed],
            [each.outcome for each in observed],
            [json_text(dict(each.context)) for each in observed],
            [each.reward for each in observed],
            [each.cost for each in observed],
            [each.duration_s for each in observed],
            wake,
            [None] * len(observed) if keys is None else [*keys],
        )
        return None if row is None else list(map(Appended, row["ids"], row["new"]))

    async def watermark(self) -> Watermark:
        """How far the log can be read now."""
        row = await self._executor.fetchrow("observations.watermark")
        assert row is not None
        return Watermark(row["watermark"], row["last_id"])

    async def since(self, id_: int, watermark: Watermark, limit: int) -> list[LoggedObservation]:
        """The observations after an id, as far as they can be read."""
        rows = await self._executor.fetch("observations.since", id_, watermark.readable, limit)
        # By position, as the statement names the columns in the order of the fields: half as dear as by name.
        return [LoggedObservation(*row) for row in rows]

    async def has_leader(self, lock: str) -> bool:
        """Whether any process holds the lock of that name."""
        held: bool = await self._executor.fetchval("observations.has_leader", lock_key(lock))
        return held

    async def tell(self, notices: Sequence[str]) -> None:
        """Tell all processes, in order; a notice has at most `MOST_NOTICE_BYTES`."""
        await self._executor.fetchval("observations.tell", [*notices])

    async def count_learnt(self, observations: int) -> None:
        """Add to the total of observations that were learnt."""
        await self._executor.execute("observations.count_learnt", observations)

    async def learnt(self) -> int:
        """How many observations were learnt in all, those included that are deleted by now."""
        total: int = await self._executor.fetchval("observations.learnt")
        return total
