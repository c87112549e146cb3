"""`maia alerts` as people use it: what it prints, and with which exit status."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from atlas.adapters.duties import DutiesDAO
from atlas.clock import SystemClock
from atlas.composition import Atlas
from atlas.testing import SettingsFactory
from maia.maintainer.alerting import handle
from maia.maintenance.findings import Component, Finding, Severity

pytestmark = pytest.mark.integration

DISK = Finding(
    component=Component.HOST, check="disk", subject="node-1", severity=Severity.WARNING,
    text="The disk of node-1 is 93 % full.", command="maia system cleanup",
)  # fmt: skip
PREFECT = Finding(
    component=Component.PREFECT, check="unreachable", severity=Severity.ERROR, text="No answer."
)
HUNTER = Finding(
    component=Component.AGENTS, check="silent", subject="hunter", severity=Severity.ERROR, text="Silent."
)


@pytest.fixture
def maia(run_maia: Any) -> Any:
    """Runs `maia alerts`."""
    return partial(run_maia, "alerts")


@pytest.fixture
def stored(settings_factory: SettingsFactory) -> None:
    async def store() -> None:
        settings = settings_factory(maintainer={"alerts": {"recovery_settle_s": 0}})
        async with Atlas.open(settings) as atlas:
            now = SystemClock().now() - timedelta(hours=3)
            vault = Finding(
                component=Component.VAULT, check="waiting", severity=Severity.WARNING, text="Wait."
            )
            await handle(atlas, [vault], frozenset(Component), now=now)
            await handle(atlas, [DISK, PREFECT, HUNTER], frozenset(Component), now=now + timedelta(hours=1))

    asyncio.run(store())


@dataclass
class Hook:
    """A web hook that accepts or refuses."""

    url: str = ""
    status: int = 200
    titles: list[str] = field(default_factory=list)


@pytest.fixture
def hook() -> Iterator[Hook]:
    found = Hook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.titles.append(json.loads(body)["title"])
            self.send_response(found.status)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        found.url = f"json://s3cretUser:s3cretPass@127.0.0.1:{server.server_port}/s3cretPath"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield found
        server.shutdown()
        thread.join()


def test_with_nothing_wrong_it_says_who_looked(maia: Any, settings_factory: SettingsFactory) -> None:
    async def look() -> None:
        async with Atlas.open(settings_factory()) as atlas:
            dao = DutiesDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
            began = await dao.begin("health", "node-1", atlas.clock.now())
            assert began is not None
            await dao.finish("health", "node-1", began, "done", "score 1.00", {})

    assert maia()[1].startswith("The maintainer has not looked yet: ")
    asyncio.run(look())
    assert maia()[1].startswith("Nothing was wrong. The maintainer last looked at ")
    assert maia("--all")[1].startswith("There was no incident yet. The maintainer last looked at ")
    assert maia("--json")[:2] == (0, "[]\n")


@pytest.mark.usefixtures("stored")
def test_open_incidents_are_listed_and_can_be_acknowledged(maia: Any) -> None:
    status, listed, _ = maia()
    assert status == 0
    assert "host.disk:node-1" in listed
    assert "explained" in listed
    assert "2 h" in listed
    assert "vault.waiting" not in listed
    assert "maia alerts ack INCIDENT" in listed
    assert max(map(len, listed.splitlines())) <= 160

    status, told, _ = maia("ack", "host.disk:node-1", "--note", "a larger one comes")
    assert (status, told) == (
        0,
        "host.disk:node-1 is silent from now on, until it is over or becomes more severe\n",
    )
    found = {each["key"]: each for each in json.loads(maia("--all", "--json")[1])}
    assert set(found) == {"host.disk:node-1", "prefect.unreachable", "agents.silent:hunter", "vault.waiting"}
    assert found["host.disk:node-1"]["note"] == "a larger one comes"
    assert found["agents.silent:hunter"]["cause"] == "prefect.unreachable"
    assert found["vault.waiting"]["status"] == "closed"
    assert maia("ack", str(found["prefect.unreachable"]["id"]), "--json")[0] == 0
    assert "acknowledged" in maia("list")[1]
    assert "These are the last 1" in maia("list", "-n", "1")[1]


def test_what_is_not_open_cannot_be_acknowledged(maia: Any) -> None:
    status, told, complaint = maia("ack", "nonsense")
    assert (status, told) == (1, "")
    assert "there is no open incident 'nonsense'; maia alerts lists those that are open" in complaint
    assert maia("ack", "x", "--note", "n" * 1001)[0] == 2
    assert maia("ack")[0] == 2


def test_urls_are_tested_without_showing_them(maia: Any, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    # Without a database, too.
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
    monkeypatch.setenv("PLEIADES_NOTIFIER__URLS", hook.url)
    status, told, log = maia("test")
    assert status == 0
    assert "accepted" in told
    assert hook.titles == ["Test of Pleiades's alerts"]

    monkeypatch.setenv("PLEIADES_NOTIFIER__URLS", f"{hook.url},odd://s3cret")
    hook.status = 403
    status, more, more_log = maia("test", "--json")
    assert status == 1
    refused, odd = json.loads(more)
    assert (refused["number"], refused["service"], refused["reached"]) == (1, "JSON", False)
    assert "403" in refused["reason"]
    assert (odd["number"], odd["service"], odd["reached"]) == (2, None, False)
    assert "s3cret" not in told + log + more + more_log


def test_without_urls_there_is_nothing_to_test(maia: Any) -> None:
    status, told, complaint = maia("test")
    assert (status, told) == (78, "")
    assert "PLEIADES_NOTIFIER__URLS" in complaint


def test_the_help_names_every_command(maia: Any) -> None:
    status, told, _ = maia("--help")
    assert status == 0
    for name in ("list", "ack", "test"):
        assert f"│ {name} " in told
    assert "--all" in maia("list", "--help")[1]
