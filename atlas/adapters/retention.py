"""Retention: what is deleted when, by one table of rules, in bounded batches that may end anywhere.

To add a rule for a table, add a line to `RULES`; a table with times that is kept on purpose belongs in
`KEPT`. Samples of videos are dropped by partition: `TrackingDAO.drop_samples_before`, as the tracker does.

A batch is a range of a table's pages, so that each page is read once however much was deleted before, and no
index is needed. A rule believes a time to be past only if the database's clock says so too, and deletes at
most a few days a day, so that a wrong clock costs little; with a virtual clock neither applies.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final, Literal, assert_never

from atlas.adapters.dao import DAO
from atlas.adapters.tracking import COHORT_DAYS, MOST_DAYS_DROPPED_A_DAY
from atlas.clock import SystemClock
from atlas.config import Settings
from atlas.conflicts import retry_conflicts

API_EVENTS: Final = ("tracker.breakout",)
"""Kinds of events that hold data of YouTube's, and name a video in `video_id`."""

_EVENT_SOURCES: Final = ("events", "figures")
"""The learner's cursors of events, by source."""
_UNREAD_FACTOR: Final = 2
"""Events that nobody has read yet are kept this many times as long."""
_PAGES_LOOKED_AT: Final = 32_768
"""Pages counted by one statement: 256 MB."""
_ERASED_AT_ONCE: Final = 500
_MOST_DAYS_ERASED_A_DAY: Final = 2
_FEED_COUNT_DAYS: Final = 2
_LAPSE_DAYS: Final = 30
_HEALTH_RUN_DAYS: Final = 2
"""A container may live for one run alone, and leaves the row of its health behind."""

Days = Callable[[Settings], float]
Form = Literal["time", "state", "events"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What of a table is deleted, or cleared, after how many days.

    A rule of the form "time" goes by a column, if `only` is given just where another column has that value;
    one of the form "state" has statements of its own. `most_days` is the most that is deleted on one day.
    """

    name: str
    table: str
    what: str
    days: Days
    column: str | None = None
    only: tuple[str, str] | None = None
    form: Form = "time"
    find: str = "retention.expired"
    remove: str = "retention.delete_expired"
    verb: Literal["delete", "clear", "erase"] = "delete"
    most_days: int = MOST_DAYS_DROPPED_A_DAY


def _time(name: str, table: str, column: str, days: Days, only: tuple[str, str] | None = None) -> Rule:
    return Rule(name=name, table=table, what=name, column=column, days=days, only=only)


def _state(
    name: str, table: str, find: str, remove: str, days: Days, verb: Literal["clear", "erase"], what: str
) -> Rule:
    return Rule(
        name=name, table=table, what=what, form="state", days=days, verb=verb,
        find=f"retention.{find}", remove=f"retention.{remove}", most_days=_MOST_DAYS_ERASED_A_DAY,
    )  # fmt: skip


def _samples(settings: Settings) -> float:
    return settings.tracker.retention_days


def _metadata(settings: Settings) -> float:
    return settings.maintainer.retention.metadata_days


def _hosts(settings: Settings) -> float:
    return settings.monitoring.max_retention_days


def _evidence(settings: Settings) -> float:
    return min(settings.maintainer.retention.evidence_days, settings.learner.max_retention_days)


def _forecasts(settings: Settings) -> float:
    return settings.maintainer.retention.forecasts_days


def _discovery(settings: Settings) -> float:
    return settings.maintainer.retention.discovery_days


def _actions(settings: Settings) -> float:
    return settings.maintainer.retention.actions_days


def _observations(settings: Settings) -> float:
    return settings.maintainer.retention.observations_days


def _reports(settings: Settings) -> float:
    return settings.maintainer.retention.reports_days


ERASED: Final = _state(
    "erased videos", "videos", "erased", "erase_videos", _metadata, "erase",
    "videos that are gone, or that nobody refreshed, with all data about them",
)  # fmt: skip

RULES: Final[tuple[Rule, ...]] = (
    ERASED,
    _state("stale metadata", "videos", "stale_metadata", "clear_metadata", _metadata, "clear",
           "metadata of videos that are sampled, but were not refreshed"),
    _state("gone channels", "channels", "gone_channels", "erase_channels", _metadata, "erase",
           "channels that are gone and have no video"),
    _state("channel titles", "channels", "stale_channels", "clear_channels", _metadata, "clear",
           "titles of channels that were not refreshed"),
    _state("channel counts", "channel_clock", "stale_channel_counts", "clear_channel_counts", _samples,
           "clear", "last counts of channels that are not sampled any more"),
    _time("channel samples", "channel_stats_log", "sampled_at", _samples),
    _time("velocity cohorts", "velocity_cohorts", "day", lambda _: COHORT_DAYS),
    _time("feed counts", "pending_counts", "at", lambda _: _FEED_COUNT_DAYS),
    Rule(
        name="events", table="events", what="events that were read", form="events",
        days=lambda settings: settings.maintainer.retention.events_days,
        find="retention.expired_events", remove="retention.delete_events",
    ),
    Rule(
        name="observations", table="observations", what="observations sent to the service that are learnt",
        form="state", days=_observations,
        find="retention.learnt_observations", remove="retention.delete_observations",
    ),
    _time("host samples", "system_metrics", "at", _hosts),
    _time("use of commands", "application_usage", "day", _hosts),
    _time("evidence", "pattern_evidence", "day", _evidence),
    _time("other sites", "federation_peers", "seen_at", _evidence),
    _time("refused messages", "federation_refusals", "last_at", _actions),
    _time("failed exchanges", "federation_failures", "failed_at", _actions),
    _time("alarms of series", "series_alarms", "at", _evidence),
    _time("forgotten patterns", "patterns", "forgotten_at", _evidence, ("forgotten_by", "learner")),
    _time("atoms that are gone", "atoms", "gone_at", _evidence),
    Rule(
        name="changes for the graph", table="graph_outbox", what="changes that the graph has not taken over",
        form="state", days=lambda settings: settings.graph.outbox_days,
        find="retention.stale_changes", remove="retention.drop_changes",
    ),
    _time("claims taken back", "atom_claims", "seen_at", _evidence, ("present", "false")),
    _time("forecasts", "video_forecasts", "made_at", _forecasts),
    _time("forecast checks", "forecast_checks", "settled_at", _forecasts),
    _time("open forecast checks", "forecast_checks", "due_at", lambda s: _UNREAD_FACTOR * _forecasts(s)),
    _time("discovery plans", "discovery_plan", "pacific_day", _discovery),
    _time("discovery yields", "discovery_yields", "pacific_day", _discovery),
    _time("discovery questions", "discovery_asks", "asked_at", _discovery),
    _time("sources of videos", "video_sources", "met_at", _discovery),
    _time("finished walks", "channel_walks", "finished_at", _discovery),
    _time("abandoned walks", "channel_walks", "issued_at", _discovery),
    _time("quota ledger", "quota_ledger", "pacific_day", _discovery),
    _time("closed suggestions", "suggestions", "closed_at", _actions),
    _time("runs of duties", "duty_runs", "started_at", _actions),
    _time("health of former hosts", "duty_runs", "started_at", lambda _: _HEALTH_RUN_DAYS,
          ("duty", "health")),
    _time("actions", "actions", "at", _actions),
    _time("incidents", "incidents", "recovered_at", _actions, ("status", "closed")),
    _time("weekly reports", "reports", "made_at", _reports),
    _time("sent alerts", "alerts", "quiet_until", _metadata),
    _time("lapsed claims", "metric_lapses", "seen_at", lambda _: _LAPSE_DAYS),
    _time("counts of dropped days", "sample_drops", "day", _actions),
    _time("lines of logs", "log_lines", "at", lambda s: s.maintainer.retention.logs_days),
    _time("progress of retention", "retention_days", "day", _actions),
)  # fmt: skip
"""Every rule, in the order in which they are applied."""

KEPT: Final[Mapping[str, str]] = {
    "access_keys": "who may call the service, and who might once: one row for each key ever added",
    "api_keys": "one row for each key in use",
    "atom_attention": "what the atoms of the graph are worth: goes with the atom",
    "channel_uploads": "when each channel is looked at: goes with the channel",
    "discovery_state": "one row",
    "duty_schedules": "what people changed",
    "feed_pace": "one row",
    "graph_state": "one row",
    "embedding_bases": "one row, and another while that is replaced",
    "graph_mirrors": "what people asked for",
    "learner_cursors": "one row for each source",
    "migration": "what was applied to the schema",
    "mirror_pages": "read of a peer's graph until the mirror is refreshed with it",
    "models": "one row for each detector, replaced as it learns",
    "search_queue": "our own topics, of which the hunter keeps a limited number",
    "site": "one row",
    "vault_commits": "one row for each repository, of the last hour",
    "vault_refused": "answers that no vault holds yet: they leave once they are stored",
    "video_clock": "when each video is due: goes with the video",
    "video_stats_log": "dropped by partition",
    "watches": "what people asked for",
}
"""Tables with times to which no rule applies, and why."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What is expired: what is older than `cutoff`, and only as far as `bound` today."""

    cutoff: datetime
    bound: datetime


@dataclass(frozen=True, slots=True)
class Expired:
    """What a rule would delete now; `is_bounded` if there is more, which is left for the next days."""

    rule: Rule
    rows: int
    oldest: datetime
    limits: Limits
    is_bounded: bool


@dataclass(frozen=True, slots=True)
class VideoToErase:
    """A video to be erased; from `discovered_at` to `refreshed_at` there can be answers about it."""

    id: str
    discovered_at: datetime
    refreshed_at: datetime


@dataclass(frozen=True, slots=True)
class Partition:
    """A day of samples that is to be dropped; its size is unknown where a hypertable keeps it."""

    day: date
    name: str
    bytes: int | None
    rows: int | None


class RetentionDAO(DAO):
    """Finds and deletes what is older than its rule allows."""

    async def now(self) -> datetime:
        """The time by which things are old: of the machine's clock and the database's, the earlier one."""
        now = self._clock.now()
        if not self._guards_clock:
            return now
        by_database: datetime = await self._executor.fetchval("health.now")
        return min(now, by_database)

    async def find(self, rule: Rule) -> Expired | None:
        """What the rule would delete now; None if there is nothing. Changes nothing."""
        now = await self.now()
        cutoff = now - timedelta(days=rule.days(self._settings))
        rows, found = await self._look(rule, Limits(cutoff, now))
        if not rows:
            return None
        # What is to be deleted whatever its age has none.
        oldest = found or cutoff
        bound = await self.bound(rule.name, oldest, rule.most_days, now)
        limits, is_bounded = Limits(cutoff, bound), False
        if bound < now:
            within, _ = await self._look(rule, limits)
            rows, is_bounded = within, within < rows
        return Expired(rule, rows, oldest, limits, is_bounded) if rows else None

    async def bound(self, name: str, oldest: datetime, most_days: int, now: datetime) -> datetime:
        """How far a rule may go today, given the time of the oldest thing that it would delete."""
        if not self._guards_clock:
            return now
        begun: datetime | None = await self._executor.fetchval("retention.oldest_today", name)
        return min(now, min(begun or oldest, oldest) + timedelta(days=most_days))

    async def remove(self, expired: Expired) -> AsyncGenerator[int, None]:
        """Delete it batch by batch, each committed; yields how many rows each one deleted, which may be none.

        Ends early once as many as were found are deleted.
        """
        rule, left = expired.rule, expired.rows
        await self.begin_day(rule.name, expired.oldest)
        async for first, end in self._ranges(rule.table):
            arguments = await self._arguments(rule, expired.limits)
            async for attempt in retry_conflicts():
                with attempt:
                    removed = await self._run(rule, *arguments, first, end)
            left -= removed
            yield removed
            if left <= 0:
                return

    async def begin_day(self, name: str, oldest: datetime) -> None:
        """Note from which age on a rule deletes today, which limits how far it goes."""
        if self._guards_clock:
            await self._executor.execute("retention.begin_day", name, oldest)

    # Videos that are erased

    async def videos_to_erase(self, expired: Expired) -> AsyncGenerator[list[VideoToErase], None]:
        """The videos to erase, in groups that one transaction can erase."""
        limits = expired.limits
        async for first, end in self._ranges(expired.rule.table):
            rows = await self._executor.fetch(
                "retention.videos_to_erase", limits.cutoff, limits.bound, first, end
            )
            for start in range(0, len(rows), _ERASED_AT_ONCE):
                yield [VideoToErase(*row) for row in rows[start : start + _ERASED_AT_ONCE]]

    async def erase(self, videos: Sequence[VideoToErase], limits: Limits) -> int:
        """Delete videos with every row about them; returns how many, as those claimed meanwhile stay.

        Raw answers must be deleted from the vault before: afterwards nothing tells which they are.
        """
        ids = [video.id for video in videos]
        async for attempt in retry_conflicts():
            with attempt:
                async with self._atomic() as executor:
                    rows = await executor.fetch("retention.erase_videos", limits.cutoff, limits.bound, ids)
                    erased = [row["id"] for row in rows]
                    await executor.execute("retention.erase_events", erased, [*API_EVENTS])
                    await executor.execute("retention.erase_alerts", erased)
        return len(erased)

    # Partitions

    async def expiring_partitions(self) -> tuple[list[Partition], int]:
        """The days of samples that would be dropped now, and how many more are left for the next days."""
        now = await self.now()
        before = now.astimezone(UTC).date() - timedelta(days=self._settings.tracker.retention_days)
        rows = await self._executor.fetch("retention.expiring_partitions", before)
        days = [Partition(row["day"], row["name"], row["bytes"], row["rows"]) for row in rows]
        if not self._guards_clock:
            return days, 0
        dropped: int = await self._executor.fetchval("retention.days_dropped_today")
        allowed = max(MOST_DAYS_DROPPED_A_DAY - dropped, 0)
        return days[:allowed], len(days) - len(days[:allowed])

    async def missing_days(self, days: Sequence[date]) -> list[date]:
        """Those of the UTC days whose samples could not be stored now."""
        return [row["day"] for row in await self._executor.fetch("retention.missing_days", [*days])]

    # Inner workings

    @property
    def _guards_clock(self) -> bool:
        """Whether the clock is a machine's, which may be wrong; others differ from real time on purpose."""
        return isinstance(self._clock, SystemClock)

    async def _run(self, rule: Rule, *arguments: object) -> int:
        """Remove what a statement names; a function tells the number of rows by its result."""
        if rule.form == "time":
            removed: int = await self._executor.fetchval(rule.remove, *arguments)
            return removed
        return await self._executor.execute(rule.remove, *arguments)

    async def _look(self, rule: Rule, limits: Limits) -> tuple[int, datetime | None]:
        """How many rows are expired within the limits, and the oldest one's time."""
        arguments = await self._arguments(rule, limits)
        found, oldest = 0, None
        async for first, end in self._ranges(rule.table, _PAGES_LOOKED_AT):
            row = await self._executor.fetchrow(rule.find, *arguments, first, end)
            assert row is not None
            found += row["rows"]
            oldest = min(filter(None, (oldest, row["oldest"])), default=None)
        return found, oldest

    async def _arguments(self, rule: Rule, limits: Limits) -> tuple[object, ...]:
        """A statement's arguments, but for the pages."""
        before = min(limits.cutoff, limits.bound)
        match rule.form:
            case "time":
                return (rule.table, rule.column, before, *(rule.only or (None, None)))
            case "state":
                return (limits.cutoff, limits.bound)
            case "events":
                days = timedelta(days=rule.days(self._settings))
                samples = max(days - timedelta(days=_samples(self._settings)), timedelta(0))
                read = await self._executor.fetchval("retention.events_read", [*_EVENT_SOURCES])
                unread = limits.cutoff - (_UNREAD_FACTOR - 1) * days
                of_api = min(limits.cutoff + samples, limits.bound)
                return (before, read, min(unread, limits.bound), of_api, [*API_EVENTS])
        assert_never(rule.form)

    async def _ranges(self, table: str, pages: int | None = None) -> AsyncGenerator[tuple[int, int], None]:
        """Ranges of a table's pages, each with about as many rows as the settings allow at once."""
        size = await self._executor.fetchrow("retention.size", table)
        assert size is not None
        at_once = self._settings.maintainer.retention.rows_at_once
        step = pages or max(1, int(at_once / size["rows_a_page"]))
        # What is appended meanwhile is new, but a page more may have been begun.
        for first in range(0, size["pages"], step):
            yield first, first + step
