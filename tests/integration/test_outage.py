"""What people are told while no maintainer can use the database, whatever else can't be written."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.config import Settings
from atlas.errors import CannotStore, DatabaseUnavailable
from atlas.testing import NOON, RecordingNotifier, SettingsFactory
from maia.maintainer import outage
from maia.maintainer.alerting import dao_of, handle
from maia.maintainer.outage import STAMP, report_outage, report_recovery
from maia.maintenance.findings import Component, Finding, Severity
from tests.integration.conftest import MountSmall

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("without_waits")]

HOUR = timedelta(hours=1)
AWAY = DatabaseUnavailable("ping: Connection refused")
SILENT = Finding(
    component=Component.AGENTS, check="silent", subject="hunter", severity=Severity.ERROR, text="Silent."
)


def forget() -> None:
    """Become another process, which knows only what the file says."""
    outage._remembered.clear()


@pytest.fixture(autouse=True)
def new_process() -> Iterator[None]:
    forget()
    yield
    forget()


@pytest.fixture
def settings_in(settings_factory: SettingsFactory, recording_notifier: RecordingNotifier) -> Any:
    def make(folder: Path, **alerts: Any) -> Settings:
        return settings_factory(
            database_url=None,
            data_dir=folder,
            notifier={"urls": [recording_notifier.url]},
            maintainer={"alerts": alerts},
        )

    return make


@pytest.fixture
def settings(settings_in: Any, tmp_path: Path) -> Settings:
    made: Settings = settings_in(tmp_path / "data")
    return made


def titles(recorder: RecordingNotifier) -> list[str]:
    return [alert["title"] for alert in recorder.alerts]


class TestOutage:
    async def test_many_runs_tell_people_once_and_again_after_a_while(
        self, settings: Settings, recording_notifier: RecordingNotifier
    ) -> None:
        for hour in (0, 1, 2, 3.9, 4, 5, 7.9, 8):
            forget()
            assert await report_outage(settings, AWAY, now=NOON + hour * HOUR)
        assert titles(recording_notifier) == [
            "Error: database.unreachable", *["Error: database.unreachable (still)"] * 2,
        ]  # fmt: skip
        first, _, last = (alert["message"] for alert in recording_notifier.alerts)
        assert first.splitlines()[:2] == [
            "The database can't be used on test: ping: Connection refused", "  Next: maia doctor",
        ]  # fmt: skip
        assert last.startswith("The database can't be used on test (for 8 h)")

    async def test_what_reached_nobody_is_sent_by_the_next_run(
        self, settings: Settings, recording_notifier: RecordingNotifier
    ) -> None:
        recording_notifier.status = 500
        assert not await report_outage(settings, AWAY, now=NOON)
        recording_notifier.status = 200
        forget()
        assert await report_outage(settings, AWAY, now=NOON + HOUR)
        assert await report_outage(settings, AWAY, now=NOON + HOUR)
        assert len(recording_notifier.alerts) == 2

    async def test_while_another_process_tells_people_this_one_does_not(
        self, settings: Settings, recording_notifier: RecordingNotifier
    ) -> None:
        settings.data_folder.mkdir()
        with (settings.data_folder / STAMP).open("w") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            assert await report_outage(settings, AWAY, now=NOON)
            assert titles(recording_notifier) == []

    @pytest.mark.parametrize("torn", [b"", b"{", b'{"key": 1}', b"[]", b"\xff" * 600, b" " * 512])
    async def test_a_torn_file_costs_a_repeat_at_most(
        self, settings: Settings, recording_notifier: RecordingNotifier, torn: bytes
    ) -> None:
        settings.data_folder.mkdir()
        (settings.data_folder / STAMP).write_bytes(torn)
        for _ in range(2):
            forget()
            await report_outage(settings, AWAY, now=NOON)
        assert len(recording_notifier.alerts) == 1

    async def test_a_clock_that_was_set_back_does_not_silence_it(
        self, settings: Settings, recording_notifier: RecordingNotifier
    ) -> None:
        await report_outage(settings, AWAY, now=NOON)
        await report_outage(settings, AWAY, now=NOON - 1000 * HOUR)
        assert len(recording_notifier.alerts) == 2

    async def test_the_reason_is_as_long_as_it_likes(
        self, settings: Settings, recording_notifier: RecordingNotifier
    ) -> None:
        for _ in range(2):
            forget()
            await report_outage(settings, DatabaseUnavailable("é\n" * 4000), now=NOON)
        assert len(recording_notifier.alerts) == 1


class TestNothingCanBeWritten:
    async def test_no_folder_at_all(
        self, settings_in: Any, tmp_path: Path, recording_notifier: RecordingNotifier
    ) -> None:
        (tmp_path / "file").touch()
        settings = settings_in(tmp_path / "file" / "data")
        for _ in range(3):
            assert await report_outage(settings, AWAY, now=NOON)
        assert titles(recording_notifier) == ["Error: database.unreachable"]

    async def test_a_full_disk(
        self, settings_in: Any, tmp_path: Path, mount_small: MountSmall, recording_notifier: RecordingNotifier
    ) -> None:
        folder = mount_small(tmp_path / "small", "64k")
        with pytest.raises(OSError, match="No space left"), (folder / "ballast").open("wb", 0) as ballast:
            while True:
                ballast.write(b"x" * 4096)
        settings = settings_in(folder)
        for _ in range(3):
            assert await report_outage(settings, CannotStore("No space left on device"), now=NOON)
        assert titles(recording_notifier) == ["Error: database.cannot_store"]

        # Once there is space, other processes know of it too.
        (folder / "ballast").unlink()
        await report_outage(settings, CannotStore("No space left on device"), now=NOON + HOUR)
        forget()
        await report_outage(settings, CannotStore("No space left on device"), now=NOON + 2 * HOUR)
        assert len(recording_notifier.alerts) == 1

    async def test_a_disk_that_fills_up_later_keeps_the_file(
        self, settings_in: Any, tmp_path: Path, mount_small: MountSmall, recording_notifier: RecordingNotifier
    ) -> None:
        folder = mount_small(tmp_path / "small", "64k")
        settings = settings_in(folder)
        await report_outage(settings, AWAY, now=NOON)
        with pytest.raises(OSError, match="No space left"), (folder / "ballast").open("wb", 0) as ballast:
            while True:
                ballast.write(b"x" * 4096)
        await report_outage(settings, AWAY, now=NOON + 5 * HOUR)
        forget()
        await report_outage(settings, AWAY, now=NOON + 6 * HOUR)
        assert len(recording_notifier.alerts) == 2
        assert json.loads((folder / STAMP).read_bytes())["told_at"] == (NOON + 5 * HOUR).isoformat()

    async def test_a_file_system_without_locks(
        self, settings: Settings, recording_notifier: RecordingNotifier, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: Any) -> None:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        monkeypatch.setattr(fcntl, "flock", refuse)
        for _ in range(2):
            forget()
            await report_outage(settings, AWAY, now=NOON)
        assert len(recording_notifier.alerts) == 1


class TestRecovery:
    @pytest.fixture
    def atlas_settings(
        self, settings_factory: SettingsFactory, recording_notifier: RecordingNotifier
    ) -> Settings:
        return settings_factory(
            notifier={"urls": [recording_notifier.url]}, maintainer={"alerts": {"recovery_settle_s": 0}}
        )

    async def test_people_are_told_once_that_it_is_over_and_the_incident_is_kept(
        self, atlas: Atlas, clock: FixedClock, recording_notifier: RecordingNotifier
    ) -> None:
        assert not await report_recovery(atlas)
        await report_outage(atlas.settings, AWAY, now=NOON)
        clock.advance(2 * HOUR)
        for was_over in (True, False, False):
            forget()
            assert await report_recovery(atlas) is was_over
        _, recovery = recording_notifier.alerts
        assert (recovery["title"], recovery["type"]) == ("Recovered: database.unreachable", "success")
        assert recovery["message"] == (
            "The database is back, after 2 h from 2026-11-02 12:00 UTC: ping: Connection refused"
        )
        [one] = await dao_of(atlas).incidents()
        assert (one.key, one.opened_at, one.well_since) == ("database.unreachable", NOON, NOON + 2 * HOUR)
        [event] = await atlas.events.since(0)
        assert (event.kind, event.payload) == (
            "incident.outage", {"key": "database.unreachable", "seconds": 7200.0},
        )  # fmt: skip

        handled = await handle(atlas, [SILENT], frozenset(Component))
        assert (handled.problems, handled.recoveries) == (("agents.silent:hunter",), ())

        # The next outage is another one.
        await report_outage(atlas.settings, AWAY, now=clock.now())
        assert len(recording_notifier.alerts) == 4

    async def test_what_nobody_was_told_of_is_over_without_a_word(
        self, atlas: Atlas, recording_notifier: RecordingNotifier
    ) -> None:
        recording_notifier.status = 500
        await report_outage(atlas.settings, AWAY, now=NOON)
        assert await report_recovery(atlas)
        assert len(recording_notifier.alerts) == 1

    async def test_a_notice_that_reached_nobody_is_sent_by_the_next_run(
        self, atlas: Atlas, recording_notifier: RecordingNotifier
    ) -> None:
        await report_outage(atlas.settings, AWAY, now=NOON)
        recording_notifier.status = 500
        await report_recovery(atlas)
        recording_notifier.status = 200
        await report_recovery(atlas)
        await report_recovery(atlas)
        assert titles(recording_notifier) == [
            "Error: database.unreachable", *["Recovered: database.unreachable"] * 2,
        ]  # fmt: skip
        assert len(await dao_of(atlas).incidents()) == 1


class TestFlappingDatabase:
    @pytest.fixture
    def atlas_settings(
        self, settings_factory: SettingsFactory, recording_notifier: RecordingNotifier
    ) -> Settings:
        return settings_factory(notifier={"urls": [recording_notifier.url]})

    async def test_an_outage_that_comes_again_at_once_has_never_ended(
        self, atlas: Atlas, clock: FixedClock, recording_notifier: RecordingNotifier
    ) -> None:
        for _ in range(6):
            forget()
            await report_outage(atlas.settings, AWAY, now=clock.now())
            clock.advance(timedelta(minutes=5))
            assert not await report_recovery(atlas)
        assert titles(recording_notifier) == ["Error: database.unreachable"]
        # What it caused is listed with it, as long as it is about to end.
        assert (await handle(atlas, [SILENT], frozenset(Component))).problems == ()
        clock.advance(timedelta(minutes=5))
        forget()
        assert await report_recovery(atlas)
        handled = await handle(atlas, [SILENT], frozenset(Component))
        assert (handled.problems, handled.recoveries) == (("agents.silent:hunter",), ())
        assert "after 30 min" in recording_notifier.alerts[1]["message"]


async def test_the_dead_mans_switch_is_told_of_every_failed_run(
    settings_in: Any, tmp_path: Path, recording_notifier: RecordingNotifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[bool] = []

    async def ping(_: Settings, *, failed: bool) -> bool:
        called.append(failed)
        return True

    monkeypatch.setattr(outage, "ping", ping)
    settings = settings_in(tmp_path / "data", ping_url=SecretStr("https://hc.example/u"))
    for _ in range(2):
        await report_outage(settings, AWAY, now=NOON)
    assert called == [True, True]
