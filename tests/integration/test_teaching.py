"""Learning from logs over a real database: formats, interruption, repetition, privacy and refused rows."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from atlas.adapters.patterns import PatternsDAO
from atlas.composition import Atlas
from atlas.config import Settings
from atlas.testing import NOON, SettingsFactory
from maia.cycle.agent import run
from maia.learner import archive, copies
from maia.learner.cycle import LOCK, Learner, pseudonyms_of
from maia.learner.exporting import known_with_evidence
from maia.learner.knowledge import Knowledge, detector_classes
from maia.learner.sequences import next_steps
from maia.learner.teaching import LearnerBusy, Log, LogUnreadable, preview, teach
from maia.learning import forms
from tests.interference import database_lost_at_third_page

pytestmark = pytest.mark.integration

ROWS = 600


@pytest.fixture
def atlas_settings(settings_factory: SettingsFactory) -> Settings:
    return settings_factory(learner={"batch_size": 100})


def events(begin: datetime = NOON - timedelta(days=10), **more: Any) -> list[dict[str, Any]]:
    """Runs of two tools, of which one mostly fails at night."""
    found = []
    for n in range(ROWS):
        at = begin + timedelta(minutes=20 * n)
        tool, night = ("feeds", "search")[n % 2], at.hour < 6
        fails = tool == "search" and night and n % 5
        found.append(
            {
                "case": f"run {n // 6}",
                "activity": tool,
                "timestamp": at.isoformat(),
                "outcome": "timeout" if fails else "success",
                "reward": 0 if fails else 3,
                "cost": 1,
                "night": night,
                **more,
            }
        )
    return found


def jsonl(path: Path, found: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in found), "utf-8")
    return path


def log(path: Path, **columns: str) -> Log:
    return Log.of(path, None, columns)


def dao(atlas: Atlas) -> PatternsDAO:
    return PatternsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)


async def evidence(atlas: Atlas) -> dict[str, tuple[int, int, float]]:
    return {each.id: (each.pos, each.neg, each.sum_reward) for each in await dao(atlas).known()}


async def observed(atlas: Atlas) -> set[int]:
    """How many observations each detector has learnt from."""
    classes = [each for each in detector_classes() if each.reads == "observations"]
    models = await dao(atlas).models(Knowledge.model_names(classes))
    return {each.observations for each in models.values()}


async def wipe(atlas: Atlas) -> None:
    """As if the database were new."""
    connection = await asyncpg.connect(atlas.db.url_of())
    try:
        for table in ("pattern_evidence", "patterns", "models", "learner_cursors"):
            await connection.execute(f"DELETE FROM {table}")
    finally:
        await connection.close()


async def test_a_log_teaches_as_if_it_had_been_watched(atlas: Atlas, tmp_path: Path) -> None:
    taught = await teach(atlas, log(jsonl(tmp_path / "runs.jsonl", events())))
    assert (taught.rows, taught.observations, taught.refused, taught.skipped) == (ROWS, ROWS, 0, 0)
    known = await dao(atlas).known()
    assert taught.patterns == taught.new_patterns == len(known) > 0
    assert any(each.action == "feeds" and each.pos > 100 for each in known)
    assert any(each.type == "failure_mode" and "night" in each.statement for each in known)
    assert await observed(atlas) == {ROWS}


async def test_the_same_content_teaches_once_whatever_its_name(atlas: Atlas, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "runs.jsonl", events())
    await teach(atlas, log(path))
    before = await evidence(atlas)
    packed = tmp_path / "copy.ndjson.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    for again in (path, packed):
        taught = await teach(atlas, log(again))
        assert (taught.already_learnt, taught.skipped, taught.observations) == (True, ROWS, 0)
        assert taught.patterns == len(before)
    assert await evidence(atlas) == before


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".jsonl.gz"])
async def test_of_a_log_that_has_grown_only_what_is_new_is_learnt(
    atlas: Atlas, tmp_path: Path, ending: str
) -> None:
    def written(rows: int) -> Path:
        path = tmp_path / f"runs{ending}"
        found = [{name: each[name] for name in ("case", "activity", "timestamp")} for each in events()[:rows]]
        if ending == ".csv":
            text = "case,activity,timestamp\n" + "".join(f"{','.join(each.values())}\n" for each in found)
        else:
            text = "".join(json.dumps(each) + "\n" for each in found)
        path.write_bytes(gzip.compress(text.encode()) if ending.endswith(".gz") else text.encode())
        return path

    for rows in (150, 220):
        assert (await teach(atlas, log(written(rows)))).skipped == (0 if rows == 150 else 150)
    taught = await teach(atlas, log(written(ROWS)))

    assert (taught.skipped, taught.observations, taught.already_learnt) == (220, ROWS - 220, False)
    assert await observed(atlas) == {ROWS}
    assert (await teach(atlas, log(written(220)))).already_learnt
    in_three_parts = await evidence(atlas)
    await wipe(atlas)
    await teach(atlas, log(written(ROWS)))
    assert (await evidence(atlas)).keys() == in_three_parts.keys()


async def test_what_was_learnt_under_a_name_without_length_is_known(atlas: Atlas, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "runs.jsonl", events())
    await teach(atlas, log(path))
    [name] = await dao(atlas).cursors_beginning_with("import ")
    before = await evidence(atlas)
    connection = await asyncpg.connect(atlas.db.url_of())
    try:
        await connection.execute("UPDATE learner_cursors SET source = $1", name.rpartition(" ")[0])
    finally:
        await connection.close()
    assert (await teach(atlas, log(path))).already_learnt
    assert await evidence(atlas) == before


async def test_an_interrupted_import_resumes_and_learns_nothing_twice(atlas: Atlas, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "runs.jsonl", events())
    with database_lost_at_third_page():
        await teach(atlas, log(path))
    assert await observed(atlas) == {200}

    taught = await teach(atlas, log(path))

    assert (taught.skipped, taught.rows, taught.already_learnt) == (200, ROWS - 200, False)
    assert await observed(atlas) == {ROWS}
    in_two_runs = await evidence(atlas)
    await wipe(atlas)
    await teach(atlas, log(path))
    assert await evidence(atlas) == in_two_runs


async def test_next_actions_are_learnt_once_with_the_ends_of_sessions(atlas: Atlas, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "runs.jsonl", events())
    with database_lost_at_third_page():
        await teach(atlas, log(path))
    await teach(atlas, log(path))
    in_two_runs = await next_steps(dao(atlas), ["search"])
    assert in_two_runs.agents == {"imported": ROWS + ROWS // 6}
    assert [each.action for each in in_two_runs.next][:2] == ["feeds", None]
    assert 0.5 < in_two_runs.next[0].probability < 0.8

    await teach(atlas, log(path))
    assert await next_steps(dao(atlas), ["search"]) == in_two_runs

    await wipe(atlas)
    await teach(atlas, log(path))
    assert await next_steps(dao(atlas), ["search"]) == in_two_runs


async def test_next_actions_are_those_of_the_agent_who_is_asked_for(atlas: Atlas, tmp_path: Path) -> None:
    assert "No sequence of actions" in str((await next_steps(dao(atlas), ["search"])).reason)
    await teach(atlas, log(jsonl(tmp_path / "runs.jsonl", events())))
    deploys = [
        {"case": n // 2, "activity": ("build", "deploy")[n % 2], "timestamp": NOON.isoformat()}
        for n in range(80)
    ]
    await teach(atlas, Log.of(jsonl(tmp_path / "ci.jsonl", deploys), None, {}, "ci"))

    found = await next_steps(dao(atlas), ["build"])
    assert (found.agent, found.observations, found.next[0].action) == ("ci", 120, "deploy")
    assert (await next_steps(dao(atlas), ["build", "search"])).never_seen == ["build"]

    nobody = await next_steps(dao(atlas), ["sing"])
    assert (nobody.agent, nobody.next) == (None, ())
    assert nobody.reason == (
        "No agent was seen to do 'sing'. Known are: ci (120 actions), imported (700 actions)."
    )
    never = await next_steps(dao(atlas), ["search"], "ci")
    assert never.reason is not None
    assert never.reason.startswith("ci was never seen to do 'search', but often: ")
    stranger = await next_steps(dao(atlas), ["search"], "eve")
    assert str(stranger.reason).startswith("What 'eve' does was not learnt. Known are: ci (120 actions)")


async def test_rows_that_cannot_be_used_are_counted_and_the_first_ones_named(
    atlas: Atlas, tmp_path: Path
) -> None:
    path = jsonl(tmp_path / "runs.jsonl", events())
    lines = path.read_text("utf-8").splitlines()
    lines[3] = "oops"
    lines[5] = json.dumps({"case": "a", "activity": "b"})
    lines[7:11] = ["[]"] * 4
    path.write_text("\n".join(lines), "utf-8")
    taught = await teach(atlas, log(path))
    assert (taught.refused, taught.observations, taught.rows) == (6, ROWS - 6, ROWS)
    assert [each.line for each in taught.refused_rows] == [4, 6, 8, 9, 10]
    assert "at is missing" in taught.refused_rows[1].reason


async def test_a_file_without_a_usable_row_may_be_tried_again(atlas: Atlas, tmp_path: Path) -> None:
    renamed = [{"job" if key == "case" else key: value for key, value in each.items()} for each in events()]
    path = jsonl(tmp_path / "jobs.jsonl", renamed)
    taught = await teach(atlas, log(path))
    assert (taught.observations, taught.refused, taught.patterns) == (0, ROWS, 0)
    taught = await teach(atlas, log(path, session="job"))
    assert (taught.observations, taught.skipped) == (ROWS, 0)


async def test_csv_and_xes_teach_too(atlas: Atlas, tmp_path: Path) -> None:
    found = events()
    names = list(found[0])
    table = tmp_path / "runs.csv"
    table.write_text(
        "\n".join([";".join(names), *(";".join(str(each[name]) for name in names) for each in found)]),
        "utf-8",
    )
    assert (await teach(atlas, log(table))).observations == ROWS
    traces = "".join(
        f'<trace><string key="concept:name" value="{n}"/>'
        f'<event><string key="concept:name" value="open"/>'
        f'<date key="time:timestamp" value="2026-10-20T10:00:00Z"/></event></trace>'
        for n in range(250)
    )
    xes = tmp_path / "log.xes.gz"
    xes.write_bytes(gzip.compress(f"<log>{traces}</log>".encode()))
    assert (await teach(atlas, log(xes))).observations == 250
    assert await observed(atlas) == {ROWS + 250}


async def test_old_logs_are_not_forgotten_at_once(atlas: Atlas, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "runs.jsonl", events(NOON - timedelta(days=4000)))
    taught = await teach(atlas, log(path))
    await run(Learner, atlas)
    known = await dao(atlas).known()
    assert taught.patterns == len(known) > 0
    assert {row.day for row in await dao(atlas).evidence([each.id for each in known])} == {NOON.date()}
    last = max(each.last_seen for each in known if each.last_seen is not None)
    assert last < NOON - timedelta(days=3000)


async def test_personal_data_is_not_stored(atlas: Atlas, tmp_path: Path) -> None:
    found = events(host="192.0.2.77", owner="someone@example.org")
    await teach(atlas, log(jsonl(tmp_path / "runs.jsonl", found)))
    known = str(await dao(atlas).known())
    assert "192.0.2.77" not in known
    assert "someone@example.org" not in known


async def test_an_outcome_of_another_kind_is_no_failure_unless_it_is_named(
    atlas: Atlas, tmp_path: Path
) -> None:
    path = jsonl(tmp_path / "claims.jsonl", events(outcome="rejected"))
    seen = await preview(atlas, log(path), 1)
    assert (seen.unclear_outcomes, seen.examples[0].outcome) == (ROWS, "success")
    assert seen.examples[0].context["outcome"] == "rejected"
    named = await preview(atlas, log(path, outcome="outcome"), 1)
    assert (named.unclear_outcomes, named.examples[0].outcome) == (0, "rejected")


async def test_patterns_are_of_the_agent_that_is_named(atlas: Atlas, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "runs.jsonl", events())
    await teach(atlas, Log.of(path, None, {}, "desk"))
    agents = {each.signature.get("agent") for each in await dao(atlas).known()}
    assert "desk" in agents
    assert "imported" not in agents


async def test_only_one_learner_works_at_a_time(atlas: Atlas, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "runs.jsonl", events())
    async with atlas.db.only_one(LOCK) as is_mine:
        assert is_mine
        with pytest.raises(LearnerBusy, match="wait until it is done"):
            await teach(atlas, log(path))
    assert await evidence(atlas) == {}


async def test_a_preview_shows_what_would_be_learnt_and_learns_nothing(atlas: Atlas, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "runs.jsonl", events(host="192.0.2.77"))
    seen = await preview(atlas, log(path), 3)
    assert (seen.rows, seen.observations, seen.refused, len(seen.examples)) == (ROWS, ROWS, 0, 3)
    first = seen.examples[0]
    assert (first.action, first.outcome, first.reward, first.at) == ("feeds", "success", 3.0, seen.first)
    assert str(first.context["host"]).startswith("ip-")
    assert await dao(atlas).known() == []
    assert (await teach(atlas, log(path))).observations == ROWS


@pytest.mark.parametrize("damage", ["cut", "flipped", "missing", "folder", "one long line"])
async def test_a_file_that_is_damaged_teaches_nothing(atlas: Atlas, tmp_path: Path, damage: str) -> None:
    body = gzip.compress(jsonl(tmp_path / "runs.jsonl", events()).read_bytes())
    path = tmp_path / "damaged.jsonl.gz"
    match damage:
        case "cut":
            path.write_bytes(body[:-20])
        case "flipped":
            path.write_bytes(body[:-6] + bytes([body[-6] ^ 1]) + body[-5:])
        case "folder":
            path.mkdir()
        case "one long line":
            path.write_bytes(gzip.compress(b"[" + b"1," * (1 << 23), 1))
    with pytest.raises(LogUnreadable, match=r"damaged\.jsonl\.gz"):
        await teach(atlas, log(path))
    assert await evidence(atlas) == {}
    assert await observed(atlas) == set()


async def test_progress_goes_by_the_bytes_of_the_file(atlas: Atlas, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "runs.jsonl", events())
    shown: list[tuple[float, float]] = []
    await teach(atlas, log(path), lambda done, total: shown.append((done, total)))
    size = path.stat().st_size
    assert {total for _, total in shown} == {size}
    assert [done for done, _ in shown] == sorted(done for done, _ in shown)
    assert shown[-1] == (size, size)


def test_the_name_tells_the_format(tmp_path: Path) -> None:
    for name, format_ in {"a.jsonl": "jsonl", "A.CSV.GZ": "csv", "x.xes": "xes", "b.tsv.gz": "csv"}.items():
        assert log(Path(name)).format == format_
    assert Log.of(Path("log.txt"), "csv", {}).format == "csv"
    with pytest.raises(LogUnreadable, match=r"log\.txt\.gz is not there"):
        log(tmp_path / "log.txt.gz")
    (tmp_path / "log.txt.gz").touch()
    with pytest.raises(LogUnreadable, match="--format"):
        log(tmp_path / "log.txt.gz")


async def test_what_a_log_taught_can_be_restored_from_a_snapshot(atlas: Atlas, tmp_path: Path) -> None:
    """With texts and numbers in it that come back from a database as others."""
    odd = [
        {**each, "activity": each["activity"] + "\0!", "ni\0ght": f"\0{each['night']}", "zero": -0.0}
        for each in events()
    ]
    odd += [{**each, "reward": 1.7e308} for each in events()[:3]]
    odd += [
        {**each, "timestamp": f"{year}-12-31T23:59:59Z"} for each in events()[:3] for year in (9999, 1968)
    ]
    taught = await teach(atlas, log(jsonl(tmp_path / "odd.jsonl", odd)))
    assert (taught.observations, taught.refused) == (ROWS, 9)
    before = await evidence(atlas)
    assert any(each.action == "feeds!" for each in await dao(atlas).known())
    await archive.take(atlas, full=True)
    exported = forms.export(*await known_with_evidence(atlas))
    await wipe(atlas)
    await archive.restore(atlas)
    assert await evidence(atlas) == before
    copies.checked(copies.copy_of(exported, "export"), await pseudonyms_of(atlas), NOON)


async def test_a_path_that_cannot_be_is_no_log(atlas: Atlas, tmp_path: Path) -> None:
    with pytest.raises(LogUnreadable, match="File name too long"):
        await teach(atlas, log(tmp_path / f"{'a' * 300}.jsonl"))
    with pytest.raises(LogUnreadable, match="no regular file"):
        await teach(atlas, Log.of(tmp_path, "jsonl", {}))
