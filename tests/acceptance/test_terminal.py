"""Every command that shows data, at a terminal of 80 columns: nothing is wider, no id or word is broken."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import timedelta

import pytest
import pytest_asyncio
from rich.cells import cell_len

from maia import cli
from maia.emulator.catalogue import Catalogue
from tests.acceptance import test_looking
from tests.acceptance.conftest import Stage, StageFactory
from tests.acceptance.test_looking import plain

pytestmark = pytest.mark.acceptance

COLUMNS = 80
DASHED = "-abcdefghij"
BREAKOUT = (
    "INSERT INTO events (at, kind, node, payload) VALUES (now(), 'tracker.breakout', 'n', jsonb_build_object("
    "'video_id', $1::text, 'at', $2::text, 'age_h', 3.5, 'views', 12345678, 'views_per_hour', 98765.4, "
    "'times_expected', 12.3, 'viral_score', 0.99))"
)


def on_a_terminal(environment: Mapping[str, str], *arguments: str, columns: int = COLUMNS) -> list[str]:
    """The lines that a command writes to a terminal, without colours and links."""
    return plain(test_looking.on_a_terminal(environment, columns, *arguments)).splitlines()


PLAN = """
INSERT INTO discovery_plan (
    pacific_day, arm, bucket, share, least_share, expected, low, high, reason, claimed, made_at
)
SELECT (max(pacific_day) + 1), 'search:anyrelevant', 'search', 0.125, 0.0125, 12345.6789, 1, 20000,
    'by its yield over 1,234 units, capped until it is known better', 99, now()
FROM discovery_yields
"""


@pytest_asyncio.fixture
async def stage(stage_of: StageFactory, synthetic: Catalogue) -> Stage:
    """A stage where topics were searched, videos sampled twice, and everything else has something to show."""
    begin = synthetic.span[1] - timedelta(days=2)
    stage: Stage = await stage_of(synthetic, now=begin)
    await stage.maia("seed", "stop motion", "city builder", "a topic whose name goes on and on and on " * 4)
    assert (await stage.hunt("--cycles", "2")).status == 0
    for hours in (0, 30):
        stage.set_clock(begin + timedelta(hours=hours))
        assert (await stage.track("--cycles", "2")).status == 0
    await stage.maia("queue", "park", "city builder", "--reason", "it brought nothing new for many days " * 3)
    return stage


async def a_video_of(stage: Stage) -> tuple[str, str]:
    [row, *_] = await stage.rows(
        "SELECT video_id, channel_id FROM video_clock "
        "WHERE velocity IS NOT NULL ORDER BY velocity DESC LIMIT 1"
    )
    return row


async def test_every_table_fits_80_columns(stage: Stage) -> None:
    video, channel = await a_video_of(stage)
    await stage.rows(BREAKOUT, video, "2026-02-20T12:00:00+00:00")
    added = await stage.maia("watch", "add", video, DASHED, channel, "--zone", "hot")
    assert added.status == 0, added.stderr
    await stage.rows(PLAN)
    whole = {
        ("top",): [video],
        ("top", "--by", "score", "--window", "7d"): [video],
        ("video", video): [video, channel, "tracked", "views per hour"],
        ("channel", channel): [channel, "subscribers", "median", "How its videos usually grow"],
        ("breakouts", "--since", "2026-02-01"): [video, "12.30"],
        ("queue", "list", "--limit", "200"): ["stop motion", "parked", "active"],
        ("queue", "list", "--status", "parked"): ["brought", "nothing"],
        ("plan",): ["search:anyrelevant", "12%", "capped until it is known better", "search:specification"],
        ("keys",): ["hunting", "tracking", "left today", "active"],
        ("status",): ["Search queue", "Last hunter cycles", "Last tracker cycles", "hot", "warm", "cold"],
        ("watch", "list"): [video, DASHED, channel],
        ("metrics", "show"): ["cpu over time", "Commands", "hunter", "Calls of the API", "videos.list"],
        ("config", "show", "--all"): ["PLEIADES_TRACKER__HOT_INTERVAL_H"],
        ("doctor",): ["migrations: all applied", "YouTube API"],
    }
    for arguments, words in whole.items():
        lines = await asyncio.to_thread(on_a_terminal, stage.environment, *arguments)
        wide = [line for line in lines if cell_len(line.rstrip()) > COLUMNS]
        assert wide == [], arguments
        text = " ".join(" ".join(lines).split())
        assert [word for word in words if word not in text] == [], (arguments, text)


async def test_ids_that_begin_with_a_dash_are_ids(stage: Stage) -> None:
    for arguments in (("watch", "add", DASHED), ("watch", "add", "--zone", "hot", "-h345678901")):
        added = await stage.maia(*arguments, "--json")
        assert (added.status, added.json["watches"]) == (0, 1), added.stderr
    asked = await stage.maia("video", DASHED)
    assert (asked.status, f"{DASHED} is watched" in asked.stderr) == (1, True)
    assert (await stage.maia("watch", "remove", DASHED, "-h345678901", "--json")).json["watches"] == 2


async def test_handles_are_resolved_for_a_unit_and_what_is_not_says_so(
    stage: Stage, synthetic: Catalogue
) -> None:
    [channel] = [
        each
        for (id_,) in await stage.rows("SELECT id FROM channels ORDER BY id LIMIT 50")
        if (each := synthetic.channel(id_)) and each.handle
    ][:1]
    before = stage.emulator.used("lab", "general")
    address = f"https://www.youtube.com/{channel.handle}"
    added = await stage.maia("watch", "add", channel.handle or "", address, "--json")
    assert [line["id"] for line in added.json["watching"]] == [channel.id], added.stderr
    assert stage.emulator.used("lab", "general") == before + 1
    assert (await stage.maia("channel", channel.handle or "", "--json")).json["id"] == channel.id
    assert (await stage.maia("channel", channel.title, "--json")).json["id"] == channel.id
    for name, status, hint in (
        ("@nobody-has-this", 1, "no channel with the handle"),
        ("youtube.com/c/somebody", 2, "custom address"),
    ):
        refused = await stage.maia("watch", "add", name)
        assert (refused.status, hint in re.sub(r"[│\s]+", " ", refused.stderr)) == (status, True)
    keyless = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-m", "maia", "watch", "add", "@somebody"], capture_output=True,
        text=True, env=stage.environment | {"YOUTUBE_API_KEY_POOL_JSON": ""}, check=False,
    )  # fmt: skip
    assert (keyless.returncode, "YOUTUBE_API_KEY_POOL_JSON" in keyless.stderr) == (1, True)


async def test_breakouts_are_followed_until_ctrl_c(stage: Stage) -> None:
    video, _ = await a_video_of(stage)
    at = "2026-02-20T12:00:00+00:00"
    await stage.rows(BREAKOUT, video, at)
    listed = (await stage.maia("breakouts", "--since", "2026-02-01", "--json")).json
    assert [row["video_id"] for row in listed["breakouts"]] == [video]
    assert "not by YouTube" in listed["attribution"]

    process = await stage.start("breakouts", "--follow", "--since", "2026-02-01", "--json")
    assert process.stdout is not None
    assert process.stderr is not None
    first = json.loads(await asyncio.wait_for(process.stdout.readline(), 30))
    await stage.rows(BREAKOUT, "not-stored", at)
    second = json.loads(await asyncio.wait_for(process.stdout.readline(), 40))
    assert (first["video_id"], second["video_id"]) == (video, "not-stored")
    assert second["cursor"] > first["cursor"]
    assert first["attribution"] == listed["attribution"]
    process.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(process.wait(), 10) == 130
    assert (await process.stderr.read()) == b""


def commands() -> Iterator[tuple[str, set[str]]]:
    """Every command, those of groups in groups too, with its options."""
    waiting = [(name, cli.load_command(name)) for name in cli.COMMANDS]
    while waiting:
        name, command = waiting.pop()
        if inner := getattr(command, "commands", {}):
            waiting += [(f"{name} {each}", found) for each, found in inner.items()]
        else:
            yield name, {option for parameter in command.params for option in parameter.opts}


def test_whatever_shows_data_shows_it_as_json_too() -> None:
    markdown_by_nature = {"config docs"}
    # It speaks JSON-RPC all the time.
    json_by_nature = {"mcp"}
    # What they run has options of its own.
    other_commands = {"daemon comments", "daemon run"}
    without = {name for name, options in commands() if "--json" not in options}
    assert without == markdown_by_nature | json_by_nature | other_commands
