"""Alerts through Apprise to a real web hook, deduplicated in PostgreSQL."""

from __future__ import annotations

import asyncio
import html
import json
import logging
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr

from atlas import notifier
from atlas.composition import Atlas
from atlas.config import NotifierSettings
from atlas.db import Database
from atlas.errors import ConfigError
from atlas.notifier import Notifier
from atlas.recovery import CircuitBreaker
from atlas.testing import RecordingNotifier, SettingsFactory, ThrowAwayServer

pytestmark = pytest.mark.integration


def sender(database: Database | None, *urls: str, **settings: Any) -> Notifier:
    return Notifier(database, NotifierSettings(urls=tuple(SecretStr(url) for url in urls), **settings))


async def end_cool_downs(sql: Any) -> None:
    await sql.execute("UPDATE alerts SET quiet_until = clock_timestamp() - interval '1 s'")


class TestSending:
    @pytest.mark.parametrize(
        ("level", "told"), [("info", "info"), ("warning", "warning"), ("error", "failure")]
    )
    async def test_an_alert_arrives_with_its_level(
        self, database: Database, recording_notifier: RecordingNotifier, level: notifier.Level, told: str
    ) -> None:
        sent = await sender(database, recording_notifier.url, level="info").notify(
            "Title é", "Body\n<b>", level=level
        )

        assert sent
        [alert] = recording_notifier.alerts
        assert (alert["title"], alert["message"], alert["type"]) == ("Title é", "Body\n<b>", told)

    @pytest.mark.parametrize(
        "url",
        [
            "discord://123456789012345678/abcdefghijklmnopqrstuvwxyz0123456789",
            "tgram://123456789:abcdefg_hijklmnop/12345",
            "mmost://localhost/abcdefghijklmnopqrstuvwx",
            "gchat://workspace/key/token",
        ],
    )
    async def test_a_title_mentions_nobody(
        self, database: Database, monkeypatch: pytest.MonkeyPatch, url: str
    ) -> None:
        posted: list[str] = []

        def post(*_: object, **options: Any) -> Any:
            posted.append(json.loads(options["data"]))
            return SimpleNamespace(status_code=200, content=b'{"ok": true}', headers={}, text="")

        monkeypatch.setattr("requests.post", post)
        monkeypatch.setattr("requests.Session.request", post)
        title = "Breakout: @everyone free <@&42>\x1b[31m <!channel> [safe](http://example.invalid)"
        assert await sender(database, url).notify(title, "grows @here\nquickly")
        [message] = posted
        text = html.unescape(str(message))
        for mention in ("@everyone", "@here", "<@", "<!", "](", "\x1b"):
            assert mention not in text
        assert "everyone free" in text

    async def test_every_url_is_told(self, database: Database, recording_notifier: RecordingNotifier) -> None:
        url = recording_notifier.url

        assert await sender(database, url, url).notify("t", "b")
        assert len(recording_notifier.alerts) == 2

    async def test_one_dead_url_does_not_silence_the_others(
        self,
        database: Database,
        recording_notifier: RecordingNotifier,
        closed_port: int,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        both = sender(database, f"json://127.0.0.1:{closed_port}/", recording_notifier.url)

        assert await both.notify("t", "b")
        assert len(recording_notifier.alerts) == 1
        assert "Alert 't' did not reach URL 1 of the notifier" in caplog.text
        assert not await both.notify("t", "b")

    async def test_lower_levels_are_only_logged(
        self, database: Database, recording_notifier: RecordingNotifier, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)

        assert not await sender(database, recording_notifier.url).notify("t", "b", level="info")
        assert recording_notifier.alerts == []
        assert ("atlas.notifier", logging.INFO, "t: b") in caplog.record_tuples

    async def test_without_urls_alerts_are_logged_once(
        self, database: Database, caplog: pytest.LogCaptureFixture
    ) -> None:
        silent = sender(database)

        assert [await silent.notify("t", "b", level="error") for _ in range(3)] == [False] * 3
        assert caplog.record_tuples == [("atlas.notifier", logging.ERROR, "t: b")]

    async def test_the_current_notifier_is_used(
        self, atlas: Atlas, recording_notifier: RecordingNotifier
    ) -> None:
        assert await notifier.notify("t", "b", level="error", key="k")
        assert [alert["title"] for alert in recording_notifier.alerts] == ["t"]


class TestDeadUrls:
    """URLs that keep failing are left out for a while."""

    @pytest.fixture(autouse=True)
    def now(self, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
        """Moves the clock of circuits by hand."""
        now = SimpleNamespace(s=0.0)

        class Circuit(CircuitBreaker):
            def __init__(self, **options: Any) -> None:
                super().__init__(**options, clock=lambda: now.s, chance=lambda: 0.0)

        monkeypatch.setattr(notifier, "CircuitBreaker", Circuit)
        return now

    async def test_a_url_that_keeps_failing_is_tried_again_after_a_pause(
        self, recording_notifier: RecordingNotifier, now: SimpleNamespace, caplog: pytest.LogCaptureFixture
    ) -> None:
        one = sender(None, recording_notifier.url)
        recording_notifier.status = 503
        assert [await one.deliver("t", "b", level="warning") for _ in range(5)] == [False] * 5
        assert len(recording_notifier.alerts) == 3
        assert "was not sent to URL 1, which fails all the time" in caplog.text

        recording_notifier.status = 200
        now.s = 29.9
        assert not await one.deliver("t", "b", level="warning")
        now.s = 30
        assert await one.deliver("t", "b", level="warning")
        assert await one.deliver("t", "b", level="warning")

    async def test_an_error_that_would_reach_nobody_is_sent_all_the_same(
        self, recording_notifier: RecordingNotifier
    ) -> None:
        one = sender(None, recording_notifier.url)
        recording_notifier.status = 503
        for _ in range(3):
            assert not await one.deliver("t", "b", level="error")
        recording_notifier.status = 200
        assert await one.deliver("t", "b", level="error")
        assert not await one.deliver("t", "b", level="warning")

    async def test_a_url_that_never_answers_delays_no_other(
        self, recording_notifier: RecordingNotifier, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        both = sender(None, "json://127.0.0.1/", recording_notifier.url)
        post, other_has_it = both._post, threading.Event()

        def hang(nth: int, alert: notifier.Alert, body: str) -> bool:
            if nth == 0:
                return not other_has_it.wait(30)
            sent = post(nth, alert, body)
            other_has_it.set()
            return sent

        monkeypatch.setattr(both, "_post", hang)
        assert await both.deliver("t", "b", level="error")

    async def test_a_recovery_arrives_as_success_and_counts_by_the_level_of_what_is_over(
        self, recording_notifier: RecordingNotifier
    ) -> None:
        strict = sender(None, recording_notifier.url, level="error")
        assert await strict.deliver("over", "b", level="error", is_recovery=True)
        assert await strict.deliver("over", "b", level="warning", is_recovery=True)
        assert [(alert["title"], alert["type"]) for alert in recording_notifier.alerts] == [
            ("over", "success")
        ]

    async def test_each_url_can_be_tested(
        self, recording_notifier: RecordingNotifier, closed_port: int
    ) -> None:
        urls = (recording_notifier.url, f"json://s3cretUser:x@127.0.0.1:{closed_port}/", "nonsense://s3cret")
        good, dead, unknown = await sender(None, *urls, level="error").test("t", "b")

        assert good == notifier.UrlTest(1, "JSON", reached=True)
        assert (dead.number, dead.service, dead.reached) == (2, "JSON", False)
        assert (dead.reason or "").endswith("***; the connection was refused: check its host and port")
        assert (unknown.number, unknown.service, unknown.reached) == (3, None, False)
        assert "s3cret" not in repr((good, dead, unknown))
        assert len(recording_notifier.alerts) == 1


class TestCoolDown:
    async def test_of_many_processes_one_sends(
        self, settings_factory: SettingsFactory, recording_notifier: RecordingNotifier
    ) -> None:
        settings = settings_factory()
        async with Database.open(settings) as one, Database.open(settings) as other:
            senders = [sender(database, recording_notifier.url) for database in (one, other) * 10]
            sent = await asyncio.gather(
                *(each.notify(f"t{n}", "b", key="k") for n, each in enumerate(senders))
            )

        assert sent.count(True) == len(recording_notifier.alerts) == 1

    async def test_other_keys_are_other_alerts(
        self, database: Database, recording_notifier: RecordingNotifier
    ) -> None:
        each = sender(database, recording_notifier.url)

        keys = ["x", "y", None, "t", "z" * 999, "z" * 999]
        sent = [await each.notify("t", "b", key=key) for key in keys]

        assert sent == [True, True, True, False, True, False]

    async def test_the_next_one_tells_how_many_were_held_back(
        self, database: Database, recording_notifier: RecordingNotifier, sql: Any
    ) -> None:
        each = sender(database, recording_notifier.url)
        for _ in range(4):
            await each.notify("t", "b")
        await end_cool_downs(sql)
        await each.notify("t", "b")
        await end_cool_downs(sql)
        await each.notify("t", "b")

        assert [alert["message"] for alert in recording_notifier.alerts] == [
            "b", "b\n(Held back since the last one: 3.)", "b",
        ]  # fmt: skip

    async def test_it_lasts_as_long_as_the_settings_say(
        self, database: Database, recording_notifier: RecordingNotifier, sql: Any
    ) -> None:
        await sender(database, recording_notifier.url, cool_down_s=7200).notify("t", "b")

        left = await sql.fetchval(
            "SELECT extract(epoch FROM quiet_until - clock_timestamp())::float8 FROM alerts"
        )
        assert 7190 < left <= 7200

    async def test_there_may_be_none(self, database: Database, recording_notifier: RecordingNotifier) -> None:
        each = sender(database, recording_notifier.url, cool_down_s=0)

        assert [await each.notify("t", "b") for _ in range(3)] == [True] * 3

    async def test_an_alert_that_reached_nobody_does_not_begin_it(
        self, database: Database, recording_notifier: RecordingNotifier, caplog: pytest.LogCaptureFixture
    ) -> None:
        each = sender(database, recording_notifier.url)
        recording_notifier.status = 503
        assert not await each.notify("t", "b")
        recording_notifier.status = 200

        assert "Alert 't' did not reach URL 1 of the notifier: Failed to send JSON POST" in caplog.text
        assert "503" in caplog.text
        assert await each.notify("t", "b")

    async def test_a_sender_that_died_silences_for_a_minute_at_most(
        self,
        database: Database,
        recording_notifier: RecordingNotifier,
        sql: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        sending = threading.Event()
        release = threading.Event()
        dying = sender(database, recording_notifier.url)
        monkeypatch.setattr(dying, "_post", lambda nth, alert, body: sending.set() or release.wait())
        task = asyncio.create_task(dying.notify("t", "b"))
        await asyncio.to_thread(sending.wait)
        task.cancel()
        await asyncio.wait([task])
        release.set()

        left = await sql.fetchval(
            "SELECT extract(epoch FROM quiet_until - clock_timestamp())::float8 FROM alerts"
        )
        assert 50 < left <= 60

    async def test_keys_nobody_used_for_a_month_are_forgotten(self, database: Database, sql: Any) -> None:
        silent = sender(database)
        for key in ("old", "other"):
            await silent.notify("t", "b", key=key)
        await sql.execute("UPDATE alerts SET quiet_until = quiet_until - interval '31 days'")
        await silent.notify("t", "b", key="old")

        assert [row["key"] for row in await sql.fetch("SELECT key FROM alerts")] == ["old"]


class TestWithoutDatabase:
    async def test_alerts_are_sent_and_this_process_remembers_them(
        self,
        own_postgres: ThrowAwayServer,
        settings_factory: SettingsFactory,
        recording_notifier: RecordingNotifier,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(notifier, "_DATABASE_TIMEOUT_S", 0.2)
        url = own_postgres.dsn_of(own_postgres.create_database())
        async with Database.open(settings_factory(database_url=SecretStr(url))) as database:
            each = sender(database, recording_notifier.url)
            assert await each.notify("before", "b")
            own_postgres.stop()

            assert await each.notify("The database is down", "b")
            assert not await each.notify("The database is down", "b")
            assert not await each.notify("before", "b")
            assert await sender(database, recording_notifier.url, cool_down_s=0).notify("before", "b")
            own_postgres.start()

        assert [alert["title"] for alert in recording_notifier.alerts] == [
            "before",
            "The database is down",
            "before",
        ]

    async def test_a_database_that_goes_away_while_sending_stops_nothing(
        self,
        own_postgres: ThrowAwayServer,
        settings_factory: SettingsFactory,
        recording_notifier: RecordingNotifier,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr(notifier, "_DATABASE_TIMEOUT_S", 0.2)
        url = own_postgres.dsn_of(own_postgres.create_database())
        async with Database.open(settings_factory(database_url=SecretStr(url))) as database:
            each = sender(database, recording_notifier.url)
            post = each._post

            def post_and_stop(nth: int, alert: notifier.Alert, body: str) -> bool:
                sent = post(nth, alert, body)
                own_postgres.stop()
                return sent

            monkeypatch.setattr(each, "_post", post_and_stop)
            assert await each.notify("t", "b")
            assert not await each.notify("t", "b")
            own_postgres.start()

        assert "Only this process knows the cool-down of alert 't'" in caplog.text


class TestNothingGetsOut:
    SECRETS = ("s3cretUser", "s3cretPass", "s3cretToken", "s3cretQuery")

    async def test_no_url_is_ever_logged(
        self,
        database: Database,
        closed_port: int,
        caplog: pytest.LogCaptureFixture,
        recording_notifier: RecordingNotifier,
    ) -> None:
        caplog.set_level(1)
        hook = recording_notifier.url.removeprefix("json://").rstrip("/")
        urls = [
            f"json://s3cretUser:s3cretPass@127.0.0.1:{closed_port}/s3cretToken?+x=s3cretQuery",
            f"json://s3cretUser:s3cretPass@{hook}/s3cretToken?+x=s3cretQuery",
            "nonsense://s3cretUser:s3cretPass@host/s3cretToken?x=s3cretQuery",
            "s3cretToken",
        ]
        each = sender(database, *urls)

        assert not await each.notify("t", "b")
        with pytest.raises(ConfigError, match=r"does not understand number 3, 4 of 4") as refusal:
            await each.check()
        ours = "\n".join(record.getMessage() for record in caplog.records if record.name != "aiohttp.access")
        logged = ours + str(refusal.value) + repr(each.__dict__)
        assert [secret for secret in self.SECRETS if secret in logged] == []
        assert caplog.text.count("did not reach URL") == 4

    async def test_a_reason_that_tells_a_url_is_redacted(
        self, database: Database, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        each = sender(database, "json://s3cretUser:s3cretPass@127.0.0.1/s3cretToken")

        def fail(nth: int) -> None:
            raise OSError("POST http://127.0.0.1/s3cretToken as s3cretUser of json://x/y failed: out of luck")

        monkeypatch.setattr(each, "_plugin", fail)
        assert not await each.notify("t", "b")
        assert "out of luck" in caplog.text
        assert [secret for secret in self.SECRETS if secret in caplog.text] == []
        assert "http://" not in caplog.text

    async def test_whatever_fails_the_caller_goes_on(
        self, database: Database, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        each = sender(database, "json://127.0.0.1/")
        monkeypatch.setattr(each, "_log", lambda alert, body: {}["no"])

        assert not await each.notify("t", "b")
        assert "Alert 't' could not be sent: KeyError('no')" in caplog.text

    async def test_good_urls_pass_the_check(self, database: Database) -> None:
        await sender(database, "json://127.0.0.1/", "mailto://user:pass@example.org").check()
        await sender(database).check()
