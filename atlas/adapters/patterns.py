"""What the learner knows: patterns and their evidence, detectors' states, cursors, alarms and suggestions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from typing import Any, Literal

from atlas.adapters.dao import DAO, json_text
from atlas.clock import SystemClock
from atlas.db import lock_key
from atlas.errors import LeaseLost
from atlas.queries import clean_text

ForgottenBy = Literal["operator", "learner"]
AlarmKind = Literal["anomaly", "threshold", "change_point"]
_ROWS_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class Site:
    """The name under which this database counts evidence, and its key for pseudonyms."""

    node: str
    privacy_key: bytes

    def __repr__(self) -> str:
        return f"<Site {self.node}>"


@dataclass(frozen=True, slots=True)
class PatternContent:
    """What a pattern says; its conditions are mappings of field, operator and value."""

    id: str
    type: str
    signature: Mapping[str, Any]
    statement: str
    conditions: Sequence[Mapping[str, Any]] = ()
    action: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _KeptPattern(PatternContent):
    """A pattern and what is kept beside its content: when it changed, and how important it was when."""

    created_at: datetime
    updated_at: datetime
    version: int
    pinned: bool
    sti: float
    lti: float
    attended_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPattern(_KeptPattern):
    """A pattern with the sums of its evidence over all sites and days."""

    pos: int
    neg: int
    sum_reward: float
    last_seen: datetime | None
    sites: int
    days: int

    @property
    def support(self) -> int:
        return self.pos + self.neg


@dataclass(frozen=True, slots=True, kw_only=True)
class PatternCopy(_KeptPattern):
    """A pattern as it is stored, perhaps forgotten, for copies: with its version, without its evidence."""

    forgotten_at: datetime | None = None
    forgotten_by: ForgottenBy | None = None
    remembered_at: datetime | None = None
    """When an operator last let it be learnt again."""


@dataclass(frozen=True, slots=True)
class NewEvidence:
    """What this site counted for a pattern on a UTC day, since it last said so."""

    pattern_id: str
    day: date
    pos: int
    neg: int
    reward: float
    last_seen: datetime


@dataclass(frozen=True, slots=True)
class StoredEvidence:
    """A row of evidence: the counters of a pattern, kept by one site for one UTC day."""

    pattern_id: str
    node: str
    day: date
    pos: int
    neg: int
    sum_reward: float
    last_seen: datetime
    version: int


@dataclass(frozen=True, slots=True)
class StoredImportance:
    """How important a pattern was when that was last written; a pinned one is never forgotten."""

    id: str
    pinned: bool
    sti: float
    lti: float
    attended_at: datetime


@dataclass(frozen=True, slots=True)
class Model:
    """A detector's state, and how many observations it has learnt from."""

    name: str
    version: int
    state: bytes
    observations: int


@dataclass(frozen=True, slots=True)
class Alarm:
    """A series was odd, too high, or shifted at an instant."""

    series: str
    at: datetime
    kind: AlarmKind
    value: float
    score: float
    detail: str


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Advice to people, with the command that would follow it (None if there is none)."""

    id: int
    key: str
    category: str
    text: str
    command: str | None
    evidence: Mapping[str, Any]
    made_at: datetime
    updated_at: datetime


class PatternsDAO(DAO):
    """Stores what was learnt, in the caller's transaction, and reads it."""

    async def site(self) -> Site:
        """This database's name in evidence, and its key for pseudonyms."""
        row = await self._executor.fetchrow("patterns.site")
        assert row is not None
        return Site(**row)

    async def begin_run(self, run: str) -> None:
        """Note that this run of the learner has begun, by whoever holds the learner's lock."""
        await self._executor.execute("patterns.begin_run", run)

    async def run_under_way(self, lock: str) -> str | None:
        """The run of the learner that is under way: someone holds its lock; None if nobody does."""
        run: str | None = await self._executor.fetchval("patterns.run_under_way", lock_key(lock))
        return run

    async def store(self, patterns: Sequence[PatternContent]) -> dict[str, bool]:
        """Store patterns, or update the texts of known ones.

        Returns those that were changed, by id, and whether each is new.
        """
        changed: dict[str, bool] = {}
        for i in _starts(patterns):
            changed |= await self._store(patterns[i : i + _ROWS_AT_ONCE])
        return changed

    async def _store(self, patterns: Sequence[PatternContent]) -> dict[str, bool]:
        rows = await self._executor.fetch(
            "patterns.store",
            *_content(patterns),
            self._clock.now(),
        )
        return {row["id"]: row["is_new"] for row in rows}

    async def count(self, evidence: Sequence[NewEvidence]) -> None:
        """Add what was counted to this site's rows; (pattern, day) pairs must be distinct."""
        for i in _starts(evidence):
            rows = evidence[i : i + _ROWS_AT_ONCE]
            await self._executor.execute(
                "patterns.count",
                [row.pattern_id for row in rows],
                [row.day for row in rows],
                [row.pos for row in rows],
                [row.neg for row in rows],
                [row.reward for row in rows],
                [row.last_seen for row in rows],
            )

    async def merge_evidence(
        self, evidence: Sequence[StoredEvidence], since: date = date.min, *, brought_by: str | None = None
    ) -> int:
        """Merge rows of copies by the maximum, without days before `since`; returns how many changed.

        `brought_by` is the site that sent them, if one did.
        """
        changed = 0
        distinct = _merged(evidence)
        for i in _starts(distinct):
            rows = distinct[i : i + _ROWS_AT_ONCE]
            changed += await self._executor.fetchval(
                "patterns.merge_evidence",
                [row.pattern_id for row in rows],
                [row.node for row in rows],
                [row.day for row in rows],
                [row.pos for row in rows],
                [row.neg for row in rows],
                [row.sum_reward for row in rows],
                [row.last_seen for row in rows],
                [row.version for row in rows],
                since,
                brought_by,
            )
        return changed

    async def known(
        self, types: Iterable[str] | None = None, *, ids: Iterable[str] | None = None
    ) -> list[StoredPattern]:
        """The patterns that are not forgotten, all or some of them, in the order of their ids."""
        rows = await self._executor.fetch("patterns.known", _list(types), _list(ids))
        return [StoredPattern(**row) for row in rows]

    async def count_known(self) -> int:
        """How many patterns are not forgotten."""
        known: int = await self._executor.fetchval("patterns.count_known")
        return known

    async def beginning_with(self, prefix: str, limit: int = 20, *, forgotten: bool = False) -> list[str]:
        """The ids that begin with a prefix, of known patterns or of those that an operator forgot."""
        if not prefix or set(prefix) - set("0123456789abcdef"):
            return []
        rows = await self._executor.fetch("patterns.beginning_with", prefix, limit, forgotten)
        return [row["id"] for row in rows]

    async def evidence(self, ids: Sequence[str]) -> list[StoredEvidence]:
        """The rows of evidence of some patterns, oldest day first."""
        return [StoredEvidence(**row) for row in await self._executor.fetch("patterns.evidence", [*ids])]

    async def all_patterns(self) -> AsyncIterator[PatternCopy]:
        """All patterns in the order of their ids, forgotten ones included."""
        last = ""
        while rows := await self._executor.fetch("patterns.all_patterns", last, _ROWS_AT_ONCE):
            for row in rows:
                yield PatternCopy(**row)
            last = rows[-1]["id"]

    async def all_evidence(self) -> AsyncIterator[StoredEvidence]:
        """All rows of evidence. As counters only grow, pages of different instants still are a valid copy."""
        last: tuple[str, str, date] = ("", "", date.min)
        while rows := await self._executor.fetch("patterns.all_evidence", *last, _ROWS_AT_ONCE):
            for row in rows:
                yield StoredEvidence(**row)
            last = (rows[-1]["pattern_id"], rows[-1]["node"], rows[-1]["day"])

    async def merge_patterns(self, copies: Sequence[PatternCopy]) -> list[str]:
        """Merge copies of patterns, with distinct ids, and return the ids that changed.

        In whatever order copies are merged, the same stays. Later versions replace earlier ones; any living
        copy revives what the learner forgot; and what an operator forgot, here or there, stays forgotten and
        loses its evidence, until an operator remembers it.
        """
        changed: list[str] = []
        for i in _starts(copies):
            changed += await self._merge_patterns(copies[i : i + _ROWS_AT_ONCE])
        if buried := [each.id for each in copies if each.forgotten_at is not None]:
            await self._executor.execute("patterns.clear_forgotten", buried)
        return changed

    async def _merge_patterns(self, copies: Sequence[PatternCopy]) -> list[str]:
        rows = await self._executor.fetch(
            "patterns.merge_patterns",
            *_content(copies),
            [each.created_at for each in copies],
            [each.updated_at for each in copies],
            [each.version for each in copies],
            [each.pinned for each in copies],
            [each.sti for each in copies],
            [each.lti for each in copies],
            [each.attended_at for each in copies],
            [each.forgotten_at for each in copies],
            [each.forgotten_by for each in copies],
            [each.remembered_at for each in copies],
        )
        return [row["id"] for row in rows]

    async def forgotten_by_operator(self, ids: Sequence[str]) -> list[str]:
        """Those of the patterns that an operator forgot."""
        return [row["id"] for row in await self._executor.fetch("patterns.forgotten_by_operator", [*ids])]

    async def pin(self, ids: Sequence[str], *, pinned: bool = True) -> int:
        """Keep patterns from being forgotten, or no longer; returns how many that changed."""
        return await self._executor.execute("patterns.pin", [*ids], pinned)

    async def forget(self, ids: Sequence[str], by: ForgottenBy) -> int:
        """Delete patterns with their evidence; what an operator forgets stays forgotten."""
        buried: int = await self._executor.fetchval("patterns.forget", [*ids], self._clock.now(), by)
        return buried

    async def remember(self, ids: Sequence[str]) -> int:
        """Let new evidence bring back patterns that an operator forgot; returns how many there were."""
        return await self._executor.execute("patterns.remember", [*ids], self._clock.now())

    async def importances(self, ids: Iterable[str] | None = None) -> list[StoredImportance]:
        """How important the patterns that are not forgotten are, all or some of them, by their ids."""
        rows = await self._executor.fetch("patterns.importances", _list(ids))
        return [StoredImportance(**row) for row in rows]

    async def attend(self, importance: Mapping[str, tuple[float, float]], at: datetime) -> None:
        """Write the (short-term, long-term) importance that patterns have at an instant."""
        ids = sorted(importance)
        await self._executor.execute(
            "patterns.attend", ids, [importance[i][0] for i in ids], [importance[i][1] for i in ids], at
        )

    async def expire(self, before: datetime) -> int:
        """Delete evidence, alarms and tombstones from before, and forget what has no evidence left.

        They must be that old by the database's clock too, unless our clock is a virtual one. Returns how many
        patterns that were.
        """
        is_virtual = not isinstance(self._clock, SystemClock)
        kept = None if is_virtual else self._clock.now() - before
        await self._executor.execute("patterns.expire_evidence", before.date(), kept)
        await self._executor.execute("patterns.expire_alarms", before, kept)
        await self._executor.execute("patterns.expire_tombstones", before, kept)
        ids = await self.without_evidence()
        return await self.forget(ids, "learner") if ids else 0

    async def without_evidence(self) -> list[str]:
        """The ids of patterns that are neither pinned nor forgotten and have no evidence left."""
        return [row["id"] for row in await self._executor.fetch("patterns.without_evidence")]

    # Detectors' states and cursors

    async def models(self, names: Iterable[str]) -> dict[str, Model]:
        """The stored models by name."""
        rows = await self._executor.fetch("patterns.models", [*names])
        return {
            row["name"]: Model(row["name"], row["version"], row["state"], row["observations"]) for row in rows
        }

    async def observations(self, prefix: str) -> dict[str, int]:
        """How many observations the models have learnt from whose names begin so, by the rest of the name."""
        rows = await self._executor.fetch("patterns.observations", prefix)
        return {row["name"].removeprefix(prefix): row["observations"] for row in rows}

    async def save_models(self, models: Sequence[Model]) -> None:
        """Store models, replacing those of the same names."""
        await self._executor.execute(
            "patterns.save_models",
            [model.name for model in models],
            [model.version for model in models],
            [model.state for model in models],
            [model.observations for model in models],
            self._clock.now(),
        )

    async def forget_models(self, names: Iterable[str]) -> None:
        """Delete models, so that they are learnt anew."""
        await self._executor.execute("patterns.forget_models", [*names])

    async def cursor(self, source: str, default: str) -> str:
        """How far a source is learnt, `default` if it is new."""
        await self._executor.execute("patterns.begin_cursor", source, default, self._clock.now())
        rows = await self._executor.fetch("patterns.cursors", [source])
        position: str = rows[0]["position"]
        return position

    async def cursors_beginning_with(self, prefix: str) -> dict[str, str]:
        """How far the sources are learnt whose names begin so."""
        rows = await self._executor.fetch("patterns.cursors_beginning_with", prefix)
        return {row["source"]: row["position"] for row in rows}

    async def move_cursor(self, source: str, start: str, end: str) -> None:
        """Move a source's cursor in the transaction that stores what was learnt; LeaseLost if it moved."""
        moved = await self._executor.execute("patterns.move_cursor", source, start, end, self._clock.now())
        if not moved:
            raise LeaseLost(f"another learner has already learnt {source} after {start}")

    async def reset_cursors(self, sources: Iterable[str]) -> None:
        """Begin some sources anew."""
        await self._executor.execute("patterns.reset_cursors", [*sources])

    # Alarms and suggestions

    async def add_alarms(self, alarms: Sequence[Alarm]) -> None:
        """Store alarms; known ones stay as they are."""
        await self._executor.execute(
            "patterns.add_alarms",
            [alarm.series for alarm in alarms],
            [alarm.at for alarm in alarms],
            [alarm.kind for alarm in alarms],
            [alarm.value for alarm in alarms],
            [alarm.score for alarm in alarms],
            [clean_text(alarm.detail) for alarm in alarms],
        )

    async def alarms(
        self,
        since: datetime,
        *,
        series: str | None = None,
        kind: AlarmKind | None = None,
        limit: int = 1_000,
    ) -> list[Alarm]:
        """The alarms since an instant, newest first."""
        rows = await self._executor.fetch("patterns.alarms", since, series, kind, limit)
        return [Alarm(**row) for row in rows]

    async def suggest(
        self, key: str, category: str, text: str, *, command: str | None, evidence: Mapping[str, Any]
    ) -> None:
        """Make or renew the suggestion with that key; one that was closed returns if its text differs."""
        await self._executor.execute(
            "patterns.suggest", key, category, text, command, json_text(dict(evidence)), self._clock.now()
        )

    async def suggestions(self) -> list[Suggestion]:
        """The suggestions that nobody has closed, newest first."""
        return [Suggestion(**row) for row in await self._executor.fetch("patterns.suggestions")]

    async def withdraw_suggestion(self, key: str) -> bool:
        """Take back a suggestion that no longer holds, so that it returns when it holds again."""
        return bool(await self._executor.execute("patterns.withdraw_suggestion", key))

    async def close_suggestion(self, key: str) -> bool:
        """Close a suggestion on behalf of people; whether there was one to close."""
        return bool(await self._executor.execute("patterns.close_suggestion", key, self._clock.now()))


def _merged(evidence: Iterable[StoredEvidence]) -> list[StoredEvidence]:
    """One row for each pattern, node and day: a statement can't change a row twice."""
    rows: dict[tuple[str, str, date], StoredEvidence] = {}
    for row in evidence:
        key = row.pattern_id, row.node, row.day
        known = rows.get(key)
        rows[key] = row if known is None else _merge(known, row)
    return list(rows.values())


def _merge(one: StoredEvidence, other: StoredEvidence) -> StoredEvidence:
    newer = max(one, other, key=lambda row: (row.version, row.sum_reward))
    return replace(
        newer,
        pos=max(one.pos, other.pos),
        neg=max(one.neg, other.neg),
        last_seen=max(one.last_seen, other.last_seen),
    )


def _content(patterns: Sequence[PatternContent]) -> tuple[list[Any], ...]:
    """The columns of what patterns say, in the order of the fields of `PatternContent`."""
    return (
        [each.id for each in patterns],
        [each.type for each in patterns],
        [json_text(dict(each.signature)) for each in patterns],
        [clean_text(each.statement) for each in patterns],
        [json_text([dict(condition) for condition in each.conditions]) for each in patterns],
        [each.action and clean_text(each.action) for each in patterns],
        [json_text(dict(each.data)) for each in patterns],
    )


def _list(values: Iterable[str] | None) -> list[str] | None:
    return None if values is None else [*values]


def _starts(rows: Sequence[Any]) -> range:
    return range(0, len(rows), _ROWS_AT_ONCE)
