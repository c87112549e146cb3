"""On a disk that is really full, with the database and the data folder on it, the alert still goes out."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest
from pydantic import SecretStr

from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.testing import RecordingNotifier, SettingsFactory, ThrowAwayServer, throw_away_server
from maia.maintainer import outage
from maia.maintainer.alerting import handle
from maia.maintainer.outage import report_recovery
from maia.maintenance.findings import Component, Finding, Severity
from tests.integration.conftest import MountSmall, mount_small
from tests.integration.test_cannot_store import fill_up

__all__ = ["mount_small"]

ALL = frozenset(Component)
FULL = Finding(
    component=Component.HOST, check="disk_emergency", subject="test", severity=Severity.ERROR,
    text="The disk of test is 100 % full.", command="maia system cleanup",
)  # fmt: skip


@pytest.fixture
def disk(embedded_data_dir: Path, mount_small: MountSmall) -> Path:
    return mount_small(embedded_data_dir / "small", "160m")


@pytest.fixture
def server(disk: Path) -> Iterator[ThrowAwayServer]:
    with throw_away_server(disk) as opened:
        yield opened


async def fill_with_all(url: str, disk: Path) -> None:
    """Take all space: by the database until it refuses, and then by a file."""
    await fill_up(url)
    with pytest.raises(OSError, match="No space left"), (disk / "ballast").open("wb", 0) as ballast:
        while True:
            ballast.write(b"x" * 512)


async def test_people_are_told_once_and_once_more_when_there_is_space_again(
    settings_factory: SettingsFactory,
    server: ThrowAwayServer,
    disk: Path,
    clock: FixedClock,
    recording_notifier: RecordingNotifier,
) -> None:
    outage._remembered.clear()
    url = server.dsn_of(server.create_database(server.migrated_template()))
    settings = settings_factory(
        database_url=SecretStr(url),
        data_dir=disk / "data",
        notifier={"urls": [recording_notifier.url]},
        maintainer={"alerts": {"recovery_settle_s": 0}},
    )
    async with Atlas.open(settings, clock=clock) as atlas:
        # So many at once that they don't fit into what the table has left.
        findings = [FULL] + [
            Finding(
                component=Component.SERVICES, check="failed", subject=f"test/{n}", severity=Severity.ERROR,
                text="x" * 2000,
            )
            for n in range(500)
        ]  # fmt: skip
        await fill_with_all(url, disk)
        for _ in range(3):
            handled = await handle(atlas, findings, ALL)
            assert handled.failure is not None
            assert "space" in handled.failure
            assert handled.told
            assert not await report_recovery(atlas)
            clock.advance(timedelta(minutes=5))
        [alert] = recording_notifier.alerts
        assert alert["title"] == "Error: database.cannot_store"
        assert "The disk of test is 100 % full." in alert["message"]

        (disk / "ballast").unlink()
        connection = await asyncpg.connect(url)
        await connection.execute("DROP TABLE ballast")
        await connection.close()
        assert await report_recovery(atlas)
        assert (await handle(atlas, findings, ALL)).failure is None
    assert [alert["title"] for alert in recording_notifier.alerts][:2] == [
        "Error: database.cannot_store", "Recovered: database.cannot_store",
    ]  # fmt: skip
