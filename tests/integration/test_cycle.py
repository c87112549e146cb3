"""What ends a cycle before it does harm: a wrong clock, a disk that is full, a database that cannot store."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from atlas.clock import FixedClock, SystemClock
from atlas.composition import Atlas, check_free_disk
from atlas.errors import CannotStore
from atlas.testing import SettingsFactory
from maia.cycle.agent import run
from maia.emulator import Emulator
from maia.hunter.cycle import Hunter
from maia.tracker.cycle import Tracker
from tests.integration.conftest import MountSmall

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("without_waits")]

TOPICS = ("cats", "city gardens", "chess", "guitar")
NO_ROOM = """
CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full';
END $$;
CREATE TRIGGER no_room BEFORE INSERT ON {table} FOR EACH STATEMENT EXECUTE FUNCTION no_room();
"""


async def claims(sql: Any) -> set[tuple[int, object]]:
    rows = await sql.fetch("SELECT attempts, lease_token FROM search_queue")
    return {tuple(row) for row in rows}


@pytest.mark.parametrize("agent", [Hunter, Tracker])
async def test_a_wrong_clock_ends_the_cycle_before_anything_is_touched(
    settings_factory: SettingsFactory, emulated: dict[str, Any], emulator: Emulator, sql: Any, agent: Any,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    async with Atlas.open(settings_factory(**emulated)) as atlas, Hunter.open(atlas) as hunter:
        await hunter.dao.seed(TOPICS)
        await hunter.dao.ensure_partitions([datetime.now().date()])  # noqa: DTZ005 - any day will do
        tables = await sql.fetchval("SELECT count(*) FROM pg_inherits")
        right = SystemClock.now
        monkeypatch.setattr(SystemClock, "now", lambda self: right(self) + timedelta(days=40))
        statistics = await run(agent, atlas)
    assert (statistics["outcome"], statistics["units"]) == ("misconfigured", {})
    assert "clock" in statistics["detail"]
    assert emulator.calls == []
    assert await claims(sql) == {(0, None)}
    assert await sql.fetchval("SELECT count(*) FROM pg_inherits") == tables
    assert f"{agent.name} is misconfigured" in caplog.text


async def test_a_page_that_cannot_be_stored_ends_the_cycle_with_no_other_begun(
    settings_factory: SettingsFactory, emulated: dict[str, Any], clock: FixedClock, sql: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    async with (
        Atlas.open(settings_factory(**emulated), clock=clock) as atlas,
        Hunter.open(atlas) as hunter,
    ):
        await hunter.dao.seed(TOPICS)
        await sql.execute(NO_ROOM.format(table="videos"))
        statistics = await hunter.cycle()
        await sql.execute("DROP TRIGGER no_room ON videos")
        mended = await hunter.cycle()
    assert (statistics.outcome, statistics.skipped) == ("storage_failed", {"storage_failed": len(TOPICS)})
    assert statistics.units == {"search": 1, "general": 1}
    assert "No space left on device" in (statistics.detail or "")
    assert "hunter stopped: the database cannot store" in caplog.text
    assert (mended.outcome, mended.pages) == ("done", len(TOPICS))


async def test_samples_that_cannot_be_stored_end_the_cycle_and_charge_no_video(
    settings_factory: SettingsFactory,
    emulated: dict[str, Any],
    clock: FixedClock,
    emulator: Emulator,
    sql: Any,
) -> None:
    async with Atlas.open(settings_factory(**emulated), clock=clock) as atlas:
        async with Hunter.open(atlas) as hunter:
            await hunter.dao.seed(TOPICS)
            await hunter.cycle()
        clock.advance(timedelta(days=2))
        emulator.set_clock(clock.now(), 0)
        async with Tracker.open(atlas) as tracker:
            await sql.execute("ALTER TABLE video_clock ADD COLUMN before integer DEFAULT 0")
            await tracker.dao.ensure_partitions([clock.now().date()])
            await sql.execute(NO_ROOM.format(table="video_stats_log"))
            statistics = await tracker.cycle()
    assert statistics.outcome == "storage_failed"
    assert set(statistics.skipped) == {"storage_failed"}
    held = "SELECT count(*) FROM video_clock WHERE attempts > 0 OR lease_token IS NOT NULL"
    assert await sql.fetchval(held) == 0


def test_a_disk_that_is_all_but_full_is_told_before_anything_is_spent(
    settings_factory: SettingsFactory, mount_small: MountSmall, tmp_path: Path
) -> None:
    small = mount_small(tmp_path / "small", "8m")
    settings = settings_factory(database_url=None, data_dir=small)
    atlas = Atlas(settings, *[None] * 5)  # type: ignore[arg-type]
    with pytest.raises(CannotStore, match=f"{small} has only 8 MiB of free disk left"):
        check_free_disk(atlas)
    check_free_disk(atlas, min_free_bytes=2**20)
