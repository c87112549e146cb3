"""Suggestions of upkeep in the database, and people's comments beside them: listed, followed and closed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import timedelta
from typing import Any

import pytest
from typer.testing import CliRunner

from atlas.adapters.comments import LONGEST_TEXT, CommentsDAO
from atlas.adapters.patterns import PatternsDAO
from atlas.adapters.telemetry import HostSample, TelemetryDAO
from atlas.adapters.upkeep import UpkeepDAO
from atlas.categories import CATEGORIES
from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.errors import DataRefused
from atlas.testing import NOON
from maia.commands.comments import Category, app
from maia.learner.advising import make_suggestions as advise
from maia.maintainer.actions import Action, Taken
from maia.maintainer.duties import DutyContext
from maia.maintainer.suggestions import make_suggestions, situation
from maia.views.comments import CommentChange, brief, follow
from tests.report_week import DAY, END, quota

pytestmark = pytest.mark.integration

HOUR = timedelta(hours=1)


class NeverTakes:
    async def take(self, action: Action) -> Taken | None:
        raise AssertionError(f"the duty wanted to {action.kind} {action.target}")


@pytest.fixture
def comments(atlas: Atlas) -> CommentsDAO:
    return CommentsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)


@pytest.fixture
def patterns(atlas: Atlas) -> PatternsDAO:
    return PatternsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)


async def run_duty(atlas: Atlas) -> set[str]:
    """The keys that hold after the duty."""
    done = await make_suggestions(DutyContext(atlas, NeverTakes()))
    assert not done.failed
    return {key.removeprefix("upkeep ") for key in done.details["keys"]}


async def fill_the_disk(atlas: Atlas, clock: FixedClock, gb_an_hour: float = 1.0) -> None:
    await TelemetryDAO(atlas.db, clock=clock, settings=atlas.settings).store(
        HostSample(
            at=clock.now() - (48 - hour) * HOUR, node="north", disk_percent=50.0,
            disk_free_bytes=int((200 - gb_an_hour * hour) * 1e9),
        )
        for hour in range(48)
    )  # fmt: skip


# The duty


async def test_what_holds_is_suggested_and_withdrawn_once_it_no_longer_does(
    atlas: Atlas, clock: FixedClock, comments: CommentsDAO, patterns: PatternsDAO, sql: Any
) -> None:
    await patterns.suggest("advice x", "schedule", "The learner's own.", command=None, evidence={})
    await fill_the_disk(atlas, clock)
    assert {"disk north", "no alert URL", "no ping URL"} <= await run_duty(atlas)

    found = {each.key: each for each in await comments.comments(100)}
    disk = found["upkeep disk north"]
    assert disk.category == "storage"
    assert disk.command == "maia system cleanup --apply"
    assert disk.evidence["gb_per_day"] == pytest.approx(24.0)
    assert disk.evidence["as_of"] == NOON.isoformat(timespec="seconds")

    await sql.execute("DELETE FROM system_metrics")
    assert "disk north" not in await run_duty(atlas)
    keys = {each.key for each in await comments.comments(100)}
    assert "upkeep disk north" not in keys
    assert "advice x" in keys


async def test_what_somebody_closed_stays_closed_until_it_says_something_else(
    atlas: Atlas, clock: FixedClock, comments: CommentsDAO, sql: Any
) -> None:
    await fill_the_disk(atlas, clock, 0.4)
    await run_duty(atlas)
    [disk] = [each for each in await comments.comments(100) if each.category == "storage"]
    assert await comments.close(disk.id, "ada", "a larger disk is ordered")

    clock.advance(HOUR)
    await run_duty(atlas)
    assert not [each for each in await comments.comments(100) if each.category == "storage"]
    stored = await comments.comment(disk.id)
    assert stored is not None
    assert (stored.closed_by, stored.reason) == ("ada", "a larger disk is ordered")

    await sql.execute("DELETE FROM system_metrics")
    await fill_the_disk(atlas, clock, 2.0)
    await run_duty(atlas)
    [again] = [each for each in await comments.comments(100) if each.category == "storage"]
    assert (again.id, again.closed_by, again.reason) == (disk.id, None, None)
    assert "within three days" in again.text


async def test_the_learners_advice_and_upkeep_leave_each_other_alone(
    atlas: Atlas, comments: CommentsDAO
) -> None:
    await comments.add("mine", "storage", "ada")
    ours = await run_duty(atlas)
    await advise(atlas)
    keys = {each.key for each in await comments.comments(100)}
    assert {f"upkeep {key}" for key in ours} <= keys
    assert any(key.startswith("comment ") for key in keys)


async def test_a_fresh_system_is_told_only_of_what_it_lacks(atlas: Atlas) -> None:
    assert await run_duty(atlas) - {"time zone"} == {"no alert URL", "no ping URL"}


async def test_backups_count_whoever_makes_them(atlas: Atlas, sql: Any) -> None:
    await atlas.events.append("hunter.cycle", {})
    await sql.execute("ALTER TABLE events DISABLE TRIGGER ALL")
    await sql.execute("UPDATE events SET at = $1", NOON - 30 * DAY)
    assert "backups off" in await run_duty(atlas)
    await atlas.events.append("maintainer.backup", {"problem": "torn"})
    assert "backups off" in await run_duty(atlas)
    await atlas.events.append("maintainer.backup", {"problem": None})
    assert "backups off" not in await run_duty(atlas)
    assert (await situation(atlas)).last_backup_at is not None
    # Told of by a clock that was ahead, it says nothing.
    await sql.execute("UPDATE events SET at = $1 WHERE kind = 'maintainer.backup'", NOON + 30 * DAY)
    assert (await situation(atlas)).last_backup_at is None
    assert "backups off" in await run_duty(atlas)


async def test_the_situation_is_read_as_it_is(atlas: Atlas, clock: FixedClock, sql: Any) -> None:
    clock.advance(END - NOON)
    await quota(sql)
    for back, seconds in ((3, 30.0), (10, 10.0)):
        clock.advance(-back * DAY)
        await atlas.events.append_many(
            [
                (
                    "tracker.cycle",
                    {"outcome": "done", "seconds": seconds, "due": {"hot": 5}, "starving": n % 2},
                )
                for n in range(60)
            ]
            + [("tracker.cycle", {"outcome": "failed", "seconds": "odd", "due": {}})]
        )
        clock.advance(back * DAY)
    found = await situation(atlas)

    assert (found.tracker_cycles, found.starving_cycles) == (60, 30)
    [tracker] = found.durations
    assert (tracker.seconds, tracker.cycles, tracker.seconds_before, tracker.cycles_before) == (
        30,
        60,
        10,
        60,
    )
    assert found.since == END - 3 * DAY
    assert found.oldest_transaction_s is not None
    assert "slow tracker" in await run_duty(atlas)


async def test_dead_rows_are_counted_by_table(atlas: Atlas, sql: Any) -> None:
    await sql.execute("CREATE TABLE bloated (n int) WITH (autovacuum_enabled = off)")
    await sql.execute("INSERT INTO bloated SELECT generate_series(1, 12000)")
    await sql.execute("DELETE FROM bloated")
    await sql.execute("SELECT pg_stat_force_next_flush()")
    [table] = await UpkeepDAO(atlas.db, clock=atlas.clock, settings=atlas.settings).bloated_tables()
    assert (table.name, table.dead) == ("bloated", 12_000)
    assert "dead rows bloated" in await run_duty(atlas)


# Comments


async def test_people_comment_and_close(atlas: Atlas, clock: FixedClock, comments: CommentsDAO) -> None:
    first = await comments.add(" the disk was <b>replaced</b>\x00 ", "storage", "ada")
    clock.advance(HOUR)
    second = await comments.add("slow since noon", "performance", "bob" * 100)
    assert [each.id for each in await comments.comments(10)] == [second, first]
    assert [each.id for each in await comments.comments(10, category="storage")] == [first]
    stored = await comments.comment(first)
    assert stored is not None
    assert (stored.author, stored.made_at) == ("ada", NOON)
    assert "\x00" not in stored.text
    assert await comments.close(first, "eve")
    assert not await comments.close(first, "eve", "again")
    assert not await comments.close(99, "eve")
    assert [each.id for each in await comments.comments(10)] == [second]
    assert [each.closed_by for each in await comments.comments(10, also_closed=True)] == [None, "eve"]


@pytest.mark.parametrize("text", ["", "  ", "x" * (LONGEST_TEXT + 1)])
async def test_a_comment_has_something_to_say(comments: CommentsDAO, text: str) -> None:
    with pytest.raises(DataRefused, match="1 to 2,000 characters"):
        await comments.add(text, "storage", "ada")


async def test_the_command_knows_every_category(sql: Any) -> None:
    from typing import get_args

    assert get_args(Category) == CATEGORIES
    allowed = await sql.fetchval(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'suggestions_category_check'"
    )
    assert all(f"'{category}'" in allowed for category in CATEGORIES)
    assert allowed.count("::text") == len(CATEGORIES)


async def next_of(changes: AsyncGenerator[CommentChange, None]) -> tuple[str, str]:
    async with asyncio.timeout(20):
        change = await anext(changes)
    return change.change, change.comment.text


async def test_followers_see_each_change_once(
    atlas: Atlas, comments: CommentsDAO, patterns: PatternsDAO
) -> None:
    await patterns.suggest("one", "quota", "Old.", command=None, evidence={"n": 1})
    async with aclosing(follow(atlas)) as changes:
        assert await next_of(changes) == ("open", "Old.")
        mine = await comments.add("Mine.", "storage", "ada")
        assert await next_of(changes) == ("new", "Mine.")
        # New figures are no news.
        await patterns.suggest("one", "quota", "Old.", command=None, evidence={"n": 2})
        await patterns.suggest("one", "quota", "Newer.", command="maia keys", evidence={"n": 3})
        assert await next_of(changes) == ("changed", "Newer.")
        await comments.close(mine, "bob", "done")
        assert await next_of(changes) == ("closed", "Mine.")
        await patterns.withdraw_suggestion("one")
        assert await next_of(changes) == ("withdrawn", "Newer.")


async def test_followers_go_on_when_their_connection_breaks(
    atlas: Atlas, comments: CommentsDAO, sql: Any
) -> None:
    async with aclosing(follow(atlas)) as changes:
        await comments.add("Before.", "storage", "ada")
        assert (await next_of(changes))[1] == "Before."
        await sql.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE query LIKE 'LISTEN%' AND datname = current_database()"
        )
        await comments.add("After.", "storage", "ada")
        assert await next_of(changes) == ("new", "After.")


def test_evidence_is_told_in_brief() -> None:
    told = brief(
        {
            "days_left": 12.345678,
            "none": None,
            "packages": {"jq": ["1.6"]},
            "list": [0.1, 0.2, 0.3, 0.4],
            "ok": True,
            "more": "x",
        }
    )
    assert told == "days left 12.35, list [0.1, 0.2, 0.3, …], ok yes"
    assert len(brief({"text": "y" * 500})) == 120


# The command


def test_the_command_adds_lists_and_closes(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    def maia_comments(*words: str) -> Any:
        return CliRunner().invoke(app, words)

    assert "Nothing is suggested now" in maia_comments().stdout
    added = maia_comments("--add", "\x1b[31mred", "--category", "storage", "--author", "ada", "--json")
    id_ = json.loads(added.stdout)["id"]
    listed = maia_comments()
    assert "storage  by ada\n      ␛[31mred\n" in listed.stdout
    assert f"maia comments --close {id_ + 1}" in maia_comments("--add", "x", "--category", "quota").stdout
    closed = maia_comments("--close", str(id_), "--reason", "done", "--author", "bob")
    assert closed.stdout.startswith("Closed: ")
    assert "closed already" in maia_comments("--close", str(id_)).stdout
    assert " by bob: done" in maia_comments("--all").stdout
    [first, *_] = [each for each in json.loads(maia_comments("--all", "--json").stdout) if each["id"] == id_]
    assert (first["closed_by"], first["reason"], first["author"]) == ("bob", "done", "ada")
    missing = maia_comments("--close", "999")
    assert missing.exit_code == 1
    assert "no comment 999" in str(missing.exception)
    for wrong in (["--add", "x"], ["--reason", "x"], ["-f", "--close", "1"], ["--category", "nonsense"]):
        assert maia_comments(*wrong).exit_code == 2
