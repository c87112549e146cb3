"""What maia doctor makes of clocks: the database's and that of the API's host."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from atlas import config
from atlas.clock import Clock, FixedClock, SystemClock
from atlas.testing import NOON, IsolatedSettings
from maia.commands import doctor
from maia.learner import llama


async def verdicts(clock: Clock, ahead: timedelta) -> list[tuple[str, str]]:
    async def fetchrow(_: str) -> dict[str, Any]:
        now = datetime.now(UTC) + ahead
        return {"bytes": 1, "version": "18.6", "now": now, "oldest_transaction_s": 0}

    atlas: Any = SimpleNamespace(clock=clock, db=SimpleNamespace(fetchrow=fetchrow))
    return [(check.verdict, check.finding) for check in await doctor._server(atlas, "it", "reached")]


async def test_a_clock_with_which_agents_refuse_to_run_is_not_ready() -> None:
    _, (verdict, finding) = await verdicts(SystemClock(), timedelta(days=-40))
    assert verdict == "failed"
    assert "agents refuse" in finding


async def test_a_clock_that_is_a_little_off_is_a_warning_and_a_virtual_one_may_be_far_off() -> None:
    assert [verdict for verdict, _ in await verdicts(SystemClock(), timedelta(seconds=30))] == [
        "ok",
        "warning",
    ]
    assert [verdict for verdict, _ in await verdicts(FixedClock(NOON), timedelta(days=40))] == [
        "ok",
        "warning",
    ]
    assert [verdict for verdict, _ in await verdicts(SystemClock(), timedelta())] == ["ok"]


@pytest.mark.parametrize(
    ("pool", "verdicts"),
    [
        ("", ["failed there is no API key"]),
        (
            '{"tracking": ["k"]}',
            ["failed ring hunting has no key", "ok", "warning ring archeology has no key"],
        ),
    ],
)
def test_without_any_key_there_is_one_thing_to_mend(
    monkeypatch: pytest.MonkeyPatch, pool: str, verdicts: list[str]
) -> None:
    monkeypatch.setenv("YOUTUBE_API_KEY_POOL_JSON", pool)
    found = [
        check.verdict + (f" {check.finding}" if check.remedy else "") for check in doctor._keys(config.load())
    ]
    assert found == verdicts


@pytest.mark.parametrize(
    ("pending", "finding"),
    [(["0001_a"], "1 pending: 0001_a"), (["0001_a", "0002_b", "0003_c"], "3 pending: 0001_a to 0003_c")],
)
def test_pending_migrations_are_a_line(pending: list[str], finding: str) -> None:
    check = doctor._migrations(pending, automatic=True)
    assert (check.finding, check.remedy) == (
        finding,
        "apply them: maia migrate, or let the next command do it",
    )
    assert doctor._migrations(pending, automatic=False).remedy == "apply them: maia migrate"


@pytest.mark.parametrize(
    "header", [None, "", "yesterday", "Mon, 02 Nov 2026 12:00:00 -0000", "Mon, 99 Nov 2026 12:00:00 GMT"]
)
def test_a_date_that_cannot_be_read_tells_nothing(header: str | None) -> None:
    assert doctor._skew(header) == timedelta()


def test_the_date_of_a_response_shows_a_wrong_clock() -> None:
    sent = format_datetime(datetime.now(UTC) - timedelta(hours=1), usegmt=True)
    assert timedelta(minutes=59) < doctor._skew(sent) < timedelta(minutes=61)


def test_which_back_end_classifies_failures_is_said_without_loading_a_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def checked() -> doctor.Check:
        return doctor._failure_texts(config.load())

    monkeypatch.delenv("PLEIADES_LEARNER__LLAMA_MODEL", raising=False)
    assert (checked().verdict, "statistical" in checked().finding) == ("ok", True)
    missing = tmp_path / "missing.gguf"
    monkeypatch.setenv("PLEIADES_LEARNER__LLAMA_MODEL", str(missing))
    monkeypatch.setattr(llama, "find_spec", lambda _: object())
    assert checked().verdict == "warning"
    assert str(missing) in checked().finding
    assert "the statistical back end serves" in (checked().remedy or "")
    missing.write_bytes(b"GGUF")
    assert (checked().verdict, str(missing) in checked().finding) == ("ok", True)
    monkeypatch.setattr(llama, "find_spec", lambda _: None)
    assert checked().verdict == "warning"
    assert "pip install" in checked().finding
    assert "[llama]" in checked().finding


def test_it_tells_where_alerts_go_and_what_the_maintainer_may_do() -> None:
    bare = [*doctor._maintainer(IsolatedSettings())]
    assert [(each.subject, each.verdict) for each in bare] == [
        ("alerts", "warning"),
        ("maintainer", "warning"),
    ]
    settings = IsolatedSettings(notifier={"urls": ["json://h/x"]}, maintainer={"apply": ["backup"]})
    alerts, maintainer = doctor._maintainer(settings)
    assert (alerts.verdict, maintainer.finding) == ("ok", "may by itself: backup")
