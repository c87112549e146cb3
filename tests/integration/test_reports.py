"""Weekly reports over a filled week and an empty one: read, rendered, stored, announced, and shown."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from atlas.adapters.actions import ActionsDAO, Attempt, AttemptState, Thing
from atlas.adapters.patterns import PatternsDAO
from atlas.adapters.reports import ReportsDAO
from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.config import Settings
from atlas.testing import RecordingNotifier, SettingsFactory
from maia.commands.report import app, print_report
from maia.maintainer.actions import Action, Taken
from maia.maintainer.duties import DutyContext
from maia.maintainer.reports import remove_names, stored, write, write_refused, write_report
from maia.views.report import Report
from maia.views.report_reading import PARTS, report
from tests.report_week import AGENTS, BEGIN, DAY, END, WEEK, fill, growing_videos

pytestmark = pytest.mark.integration

MONDAY = END + timedelta(hours=9)
OBJECTS = (f"reports/{WEEK}.html", f"reports/{WEEK}.md", f"reports/{WEEK}.json")
KEYS = json.dumps([{"key": "AIza" + "a" * 35, "project": "main"}])


class NeverTakes:
    """A report changes nothing else, so it may not even plan an action."""

    async def take(self, action: Action) -> Taken | None:
        raise AssertionError(f"the duty wanted to {action.kind} {action.target}")


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(MONDAY)


@pytest.fixture
def atlas_settings(request: pytest.FixtureRequest, settings_factory: SettingsFactory) -> Settings:
    more: dict[str, Any] = {}
    if "recording_notifier" in request.fixturenames:
        more["notifier"] = {"urls": [request.getfixturevalue("recording_notifier").url]}
    return settings_factory(youtube_api_key_pool_json=KEYS, **more)


async def reported(atlas: Atlas) -> Report:
    return await report(atlas, WEEK, AGENTS)


def context(atlas: Atlas) -> DutyContext:
    return DutyContext(atlas, NeverTakes())


# What it says


async def test_a_week_is_told_with_all_its_figures(atlas: Atlas, sql: Any) -> None:
    await fill(sql, atlas)
    made = await reported(atlas)

    assert made.is_complete
    assert not made.is_empty
    assert (made.totals.samples, made.totals.breakouts, made.totals.cycles) == (42 * 900, 42, 126)
    assert made.totals.new == sum(arm.new for arm in made.arms) > made.before.new > 0
    assert [arm.arm for arm in made.arms] == ["search:topics", "feeds", "uploads", "charts"]
    assert all(len(arm.new_by_day) == 7 and sum(arm.new_by_day) == arm.new for arm in made.arms)
    # Searches pay for their metadata from elsewhere; other arms do not.
    assert made.arms[0].growing_per_unit == made.arms[0].growing / (7 * 90)
    assert made.arms[2].growing_per_unit == made.arms[2].growing / (7 * (90 + 12))
    hunting = next(use for use in made.quota if (use.bucket, use.ring) == ("search", "hunting"))
    assert (hunting.used, hunting.limit, hunting.used_by_day) == (7 * 98, 98, (98,) * 7)
    assert hunting.share == 1
    assert hunting.reason == "quotaExceeded: used up"
    assert [zone.zone for zone in made.zones] == ["hot", "warm", "cold"]
    assert made.zones[0].most == 50 + 5 * 41
    assert {agent.agent: agent.failed for agent in made.agents} == {"hunter": 0, "tracker": 4, "learner": 0}
    assert made.hosts[0].disk_free_bytes == (300 - 167) * 10**9
    assert made.learnt is not None
    assert (made.learnt.known, made.learnt.new, made.learnt.forgotten) == (6, 2, 1)
    assert made.learnt.strongest[0].confidence > made.learnt.strongest[-1].confidence
    assert "computed by Pleiades, not by YouTube" in made.attribution


async def test_the_risers_are_those_that_gained_most(atlas: Atlas, sql: Any) -> None:
    await growing_videos(sql, 30)
    made = await reported(atlas)

    assert [riser.id for riser in made.risers] == [f"riser{number:06}" for number in range(10)]
    gains = await sql.fetch(
        "SELECT video_id, max(views) - min(views) AS gained FROM video_stats_log GROUP BY video_id"
    )
    assert {riser.id: riser.gained for riser in made.risers}.items() <= {tuple(row) for row in gains}
    assert all(len(riser.growth) == PARTS for riser in made.risers)
    first = made.risers[0]
    grown = sum(rate * 6 for rate in first.growth if rate is not None)
    assert grown == pytest.approx(first.gained, rel=0.05)


async def test_a_slow_video_that_never_stops_beats_a_short_burst(atlas: Atlas, sql: Any) -> None:
    """The fastest samples are of bursts, so the first look at candidates misses the winner."""
    from tests.growth import HOUR, store_samples, store_video

    for number in range(520):
        await store_video(sql, f"burst{number:04}")
        at = BEGIN + (number % 100) * HOUR
        await store_samples(sql, f"burst{number:04}", [(at, 0), (at + HOUR / 10, 100 + number % 7)])
    await store_video(sql, "steady")
    await store_samples(sql, "steady", [(BEGIN + hour * HOUR, 100 * hour) for hour in range(0, 168, 12)])

    made = await reported(atlas)

    assert made.risers[0].id == "steady"
    assert made.risers[1].gained == 106


async def test_only_the_week_and_only_live_videos_count(atlas: Atlas, sql: Any) -> None:
    from tests.growth import HOUR, store_samples, store_video

    for name, status in (("stays", "live"), ("left", "gone")):
        await store_video(sql, name, clock_status=status)
        await store_samples(sql, name, [(BEGIN - DAY, 0), (BEGIN, 500), (END - HOUR, 800), (END, 9_000)])
    [riser] = (await reported(atlas)).risers
    assert (riser.id, riser.gained) == ("stays", 300)


async def test_incidents_are_told_with_their_length_in_the_week(atlas: Atlas, sql: Any) -> None:
    await sql.executemany(
        "INSERT INTO incidents (key, component, node, severity, text, opened_at, seen_at, cause, status,"
        " recovered_at) VALUES ($1, 'host', 'a', $2, 'full', $3, $3, $4, $5, $6)",
        [
            ("host.disk:a", "error", BEGIN - DAY, None, "open", None),
            ("host.cpu:a", "warning", BEGIN + DAY, None, "recovered", BEGIN + DAY + timedelta(hours=2)),
            ("caused", "error", BEGIN + DAY, "host.disk:a", "open", None),
            ("later", "error", END + timedelta(hours=1), None, "open", None),
            ("earlier", "error", BEGIN - 2 * DAY, None, "closed", BEGIN - DAY),
        ],
    )
    disk, cpu = (await reported(atlas)).incidents
    assert (disk.key, disk.ended_at, disk.seconds) == ("host.disk:a", None, 7 * 86400)
    assert (cpu.severity, cpu.seconds) == ("warning", 7200)


async def test_what_the_maintainer_did_and_how_well_all_was(atlas: Atlas, sql: Any) -> None:
    dao = ActionsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    for at, state in ((BEGIN, "applied"), (BEGIN + DAY, "failed"), (END, "applied")):
        await dao.add(
            Attempt(at=at, node="a", thing=Thing("backup", "database"), state=AttemptState(state),
                    result=f"it {state}", finished_at=at)
        )  # fmt: skip
    duties = [
        ("health", BEGIN, {"components": {"host": {"score": 0.5}, "vault": {"score": None}}}),
        ("health", BEGIN + DAY, {"components": {"host": {"score": 1.0}}}),
        ("health", END, {"components": {"host": {"score": 0.0}}}),
        ("backup", BEGIN, {"components": "odd"}),
    ]
    for number, (duty, at, details) in enumerate(duties):
        payload = {"duty": duty, "summary": f"said {number}", "failed": duty == "backup", "details": details}
        await sql.execute(
            "INSERT INTO events (at, kind, node, payload) VALUES ($1, 'maintainer.duty', 'a', $2)",
            at, orjson.dumps(payload).decode(),
        )  # fmt: skip
    made = await reported(atlas)
    assert [(action.kind, action.target, action.state, action.text) for action in made.actions] == [
        ("backup", "database", "applied", "it applied"),
        ("backup", "database", "failed", "it failed"),
    ]
    assert [(each.duty, each.runs, each.failed, each.summary) for each in made.duties] == [
        ("backup", 1, 1, "said 3"),
        ("health", 2, 0, "said 1"),
    ]
    [host] = made.health
    assert (host.component, host.mean, host.lowest, host.by_day[:3]) == ("host", 0.75, 0.5, (0.5, 1.0, None))


async def test_an_empty_week_is_told_as_such(atlas: Atlas) -> None:
    made = await reported(atlas)
    assert made.is_empty
    assert made.learnt is None
    done = await write_report(context(atlas))
    assert not done.failed
    assert done.details["is_empty"]
    assert b"A quiet week" in await atlas.vault.fetch_bytes(OBJECTS[0])


# Written


async def test_the_duty_writes_the_week_that_ended(atlas: Atlas, sql: Any) -> None:
    await fill(sql, atlas)
    done = await write_report(context(atlas))

    assert done.summary == f"wrote the report of {WEEK} to reports/{WEEK}.html"
    assert tuple(done.details["objects"]) == OBJECTS
    page, text, data = [await atlas.vault.fetch_bytes(name) for name in OBJECTS]
    assert page.startswith(b"<!doctype html>")
    assert text.startswith(b"# Pleiades, week 2026-W45\n")
    found = await stored(atlas)
    assert found is not None
    read, written = found
    assert orjson.loads(data) == read.as_dict()
    assert (read.week, written.week, written.objects) == (str(WEEK), str(WEEK), OBJECTS)
    assert read == await reported(atlas)
    assert "<script>alert" not in page.decode()


async def test_a_report_written_again_replaces_the_first_and_is_announced_once(
    atlas: Atlas, sql: Any, clock: FixedClock, recording_notifier: RecordingNotifier
) -> None:
    await write_report(context(atlas))
    await growing_videos(sql, 3)
    clock.advance(DAY)
    await write_report(context(atlas))
    await write(atlas, WEEK)

    [alert] = recording_notifier.alerts
    assert alert["title"] == f"Pleiades, week {WEEK}"
    assert alert["type"] == "info"
    assert (
        alert["message"]
        == f"A quiet week: nothing was found, sampled or changed.\nAll of it: maia report --week {WEEK}"
    )
    assert b"Top risers" in await atlas.vault.fetch_bytes(OBJECTS[0])
    [only] = await ReportsDAO(atlas.db, clock=clock, settings=atlas.settings).list(10)
    assert only.made_at == MONDAY + DAY
    assert only.announced_at == MONDAY


async def test_an_announcement_that_reached_nobody_is_tried_again(
    atlas: Atlas, recording_notifier: RecordingNotifier
) -> None:
    recording_notifier.status = 500
    assert not (await write(atlas, WEEK)).announced
    recording_notifier.status = 200
    assert (await write(atlas, WEEK)).announced
    assert not (await write(atlas, WEEK)).announced


async def test_titles_can_mention_nobody_in_the_announcement(
    atlas: Atlas, sql: Any, recording_notifier: RecordingNotifier
) -> None:
    await growing_videos(sql, 1)
    await sql.execute("UPDATE videos SET title = '@everyone <!channel> [a](http://evil.example)'")
    await write(atlas, WEEK)
    [alert] = recording_notifier.alerts
    assert "@everyone" not in alert["message"]
    assert "](" not in alert["message"]


async def test_a_week_that_is_not_over_is_not_announced(
    atlas: Atlas, clock: FixedClock, recording_notifier: RecordingNotifier
) -> None:
    clock.advance(-3 * DAY)
    written = await write(atlas, WEEK)
    assert not written.report.is_complete
    assert recording_notifier.alerts == []


async def test_a_report_that_the_vault_refuses_is_kept_and_written_later(
    settings_factory: SettingsFactory, sql: Any, clock: FixedClock, tmp_path: Path
) -> None:
    blocked = tmp_path / "vault"
    blocked.write_text("a file where the vault's folder should be")
    settings = settings_factory(vault={"required": True, "path": blocked})
    async with Atlas.open(settings, clock=clock) as atlas:
        await growing_videos(sql, 3)
        done = await write_report(context(atlas))
        assert done.failed
        assert "is in the database only, as the vault refused it" in done.summary
        assert f"then: maia report --week {WEEK} --write" in done.summary
        found = await stored(atlas, WEEK)
        assert found is not None
        assert found[0].risers[0].gained > 0
        assert found[1].objects == ()
        assert found[1].refusal
        blocked.unlink()
    async with Atlas.open(settings, clock=clock) as atlas:
        assert await write_refused(atlas) == 1
        assert await write_refused(atlas) == 0
        assert b"Top risers" in await atlas.vault.fetch_bytes(OBJECTS[0])
        found = await stored(atlas, WEEK)
        assert found is not None
        assert (found[1].objects, found[1].refusal) == (OBJECTS, None)


async def test_a_report_that_waits_for_the_vault_is_not_said_to_be_there(
    settings_factory: SettingsFactory, sql: Any, clock: FixedClock, tmp_path: Path
) -> None:
    blocked = tmp_path / "vault"
    blocked.write_text("a file where the vault's folder should be")
    settings = settings_factory(vault={"path": blocked})
    async with Atlas.open(settings, clock=clock) as atlas:
        await growing_videos(sql, 3)
        done = await write_report(context(atlas))
        assert "is in the database only, as the vault refused it" in done.summary
        assert done.summary.endswith("maia doctor")
        assert "reports/" not in done.summary.partition("refused it")[0]
        # It is tried again by others, so nothing has failed for good.
        assert not done.failed
        found = await stored(atlas, WEEK)
        assert found is not None
        assert (found[1].objects, bool(found[1].refusal)) == (OBJECTS, True)
        blocked.unlink()
        await sql.execute("UPDATE vault_refused SET retry_at = now() - interval '1 s'")
    async with Atlas.open(settings, clock=clock) as atlas:
        assert await atlas.vault.retry_refused() == 3
        found = await stored(atlas, WEEK)
        assert found is not None
        assert (found[1].objects, found[1].refusal) == (OBJECTS, None)


async def test_a_report_of_another_version_is_not_shown_as_if_it_were_ours(atlas: Atlas, sql: Any) -> None:
    await write(atlas, WEEK)
    await sql.execute("UPDATE reports SET data = jsonb_set(data::jsonb, '{version}', '99')::json")
    assert await stored(atlas, WEEK) is None
    await sql.execute("UPDATE reports SET data = '{\"week\": 3}'")
    assert await stored(atlas, WEEK) is None
    await write(atlas, WEEK)
    assert await stored(atlas, WEEK) is not None


# Names


async def test_names_leave_a_report_when_they_must(atlas: Atlas, sql: Any, clock: FixedClock) -> None:
    await growing_videos(sql, 4)
    await write(atlas, WEEK)
    assert await remove_names(atlas) == 0
    await sql.execute("UPDATE video_clock SET status = 'gone' WHERE video_id = 'riser000001'")
    await sql.execute("DELETE FROM videos WHERE id = 'riser000002'")

    assert await remove_names(atlas) == 1
    assert await remove_names(atlas) == 0
    found = await stored(atlas)
    assert found is not None
    assert [riser.title is None for riser in found[0].risers] == [False, True, True, False]
    page = (await atlas.vault.fetch_bytes(OBJECTS[0])).decode()
    assert "DROP TABLE" not in page
    assert "riser000002" in page

    clock.advance(timedelta(days=31))
    assert await remove_names(atlas) == 1
    for name in OBJECTS:
        body = (await atlas.vault.fetch_bytes(name)).decode()
        assert not [word for word in ("alert", "DROP", "everyone", "UC-0") if word in body]
    assert await ReportsDAO(atlas.db, clock=clock, settings=atlas.settings).with_names() == []


# Shown


async def test_the_terminal_shows_every_section_within_80_columns(
    atlas: Atlas, sql: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.cells import cell_len

    import maia.commands.terminal as terminal

    await fill(sql, atlas)
    await PatternsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings).suggest(
        "k", "storage", "Do something about it.", command="maia backup create", evidence={}
    )
    monkeypatch.setattr(terminal, "WIDTH_WITHOUT_TERMINAL", 80)
    print_report(await reported(atlas))
    told = capsys.readouterr().out
    for title in ("Discoveries", "Top risers", "Quota", "Lag", "Agents", "Hosts", "Learnt", "Suggestions"):
        assert title in told
    assert "\x1b" not in told
    lines = [line for line in told.splitlines() if "Discoveries" not in line and "Every figure" not in line]
    assert max(map(cell_len, lines)) <= 80


def test_the_command_writes_lists_and_exports(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    # A clock that stands, on the Monday after the week.
    monkeypatch.setenv("PLEIADES_CLOCK__START", MONDAY.isoformat())
    monkeypatch.setenv("PLEIADES_CLOCK__ANCHOR", "2026-01-01T00:00:00Z")
    monkeypatch.setenv("PLEIADES_CLOCK__SPEED", "1e-9")

    def maia_report(*words: str) -> Any:
        return CliRunner().invoke(app, words)

    assert "No report is written yet" in maia_report("list").stdout
    page = tmp_path / "report.html"
    page.write_text("older")
    written = maia_report("--write", "--output", str(page))
    assert written.exit_code == 0, written.output
    assert page.read_text().startswith("<!doctype html>")
    assert f"in the vault as reports/{WEEK}.html" in written.stderr
    [listed] = json.loads(maia_report("list", "--json").stdout)
    assert listed["objects"] == list(OBJECTS)
    assert json.loads(maia_report("--json").stdout)["week"] == str(WEEK)
    assert "A quiet week" in maia_report("--week", "2026-W44").stdout
    for wrong in (("--week", "2026-W99"), ("--week", "2026-W47"), ("--output", "report.pdf"),
                  ("--json", "--format", "html"), ("--format", "text", "--output", "x.md")):  # fmt: skip
        assert maia_report(*wrong).exit_code == 2
