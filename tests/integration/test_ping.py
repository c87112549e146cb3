"""The dead-man's switch, called over real sockets; its URL never shows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from pydantic import SecretStr

from atlas import network
from atlas.config import NetworkSettings, Settings
from atlas.testing import SettingsFactory
from maia.maintainer.ping import ping, url_of

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("without_waits")]


class Switch:
    """A server that records the paths it was asked for, and answers by a list of statuses, then 200."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.statuses: list[int] = []
        self.url = ""
        self.over = asyncio.Event()

    async def answer(self, request: web.BaseRequest) -> web.Response:
        self.asked.append(f"{request.method} {request.raw_path}")
        status = self.statuses.pop(0) if self.statuses else 200
        if status == 0:
            await self.over.wait()
        return web.Response(status=status)


@pytest_asyncio.fixture
async def switch() -> AsyncIterator[Switch]:
    found = Switch()
    runner = web.ServerRunner(web.Server(found.answer), shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    found.url = f"http://{host}:{port}"
    yield found
    found.over.set()
    await runner.cleanup()


@pytest.fixture
def settings_for(settings_factory: SettingsFactory) -> Any:
    def make(url: str | None, **alerts: Any) -> Settings:
        return settings_factory(
            database_url=None, maintainer={"alerts": {"ping_url": url and SecretStr(url), **alerts}}
        )

    return make


async def test_success_and_failure_are_told_apart(switch: Switch, settings_for: Any) -> None:
    settings = settings_for(f"{switch.url}/s3cret-uuid")
    assert await ping(settings)
    assert await ping(settings, failed=True)
    assert switch.asked == ["GET /s3cret-uuid", "GET /s3cret-uuid/fail"]


@pytest.mark.parametrize(
    ("url", "failing"),
    [
        ("https://hc.example/uuid", "https://hc.example/uuid/fail"),
        ("https://hc.example/uuid/", "https://hc.example/uuid/fail"),
        (
            "https://hc.example/key/slug?create=1&rid=a%2Fb",
            "https://hc.example/key/slug/fail?create=1&rid=a%2Fb",
        ),
        ("https://hc.example/a%2Fb?x=%20", "https://hc.example/a%2Fb/fail?x=%20"),
        ("https://hc.example", "https://hc.example/fail"),
        ("https://user:pass@hc.example:8443/u", "https://user:pass@hc.example:8443/u/fail"),
    ],
)
def test_a_failure_has_a_path_of_its_own(url: str, failing: str) -> None:
    assert str(url_of(SecretStr(url), failed=True)) == failing


async def test_without_a_url_nobody_is_called(settings_for: Any) -> None:
    assert await ping(settings_for(None))


async def test_what_may_pass_is_tried_again(switch: Switch, settings_for: Any) -> None:
    switch.statuses = [503, 429, 200]
    assert await ping(settings_for(switch.url))
    assert len(switch.asked) == 3


@pytest.mark.parametrize(
    ("statuses", "tries", "reason"),
    [
        ([404, 200], 1, "it answered 404: check PLEIADES_MAINTAINER__ALERTS__PING_URL"),
        ([500] * 9, 3, "it answered 500"),
        ([0] * 9, 3, "no answer within 0.1 s"),
    ],
)
async def test_what_fails_is_only_logged(
    switch: Switch,
    settings_for: Any,
    caplog: pytest.LogCaptureFixture,
    statuses: list[int],
    tries: int,
    reason: str,
) -> None:
    switch.statuses = statuses
    assert not await ping(settings_for(f"{switch.url}/s3cret", ping_timeout_s=0.1))
    assert len(switch.asked) == tries
    assert f"the dead-man's switch was not reached: {reason}" in caplog.messages


async def test_the_url_is_never_logged(
    settings_for: Any, closed_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(1)
    settings = settings_for(f"http://s3cretUser:s3cretPass@127.0.0.1:{closed_port}/s3cretPath?k=s3cretQuery")
    assert not await ping(settings)
    logged = caplog.text + "".join(repr(vars(record)) for record in caplog.records) + repr(settings)
    assert "was not reached: no connection: check the network and any firewall" in caplog.text
    assert "s3cret" not in logged


async def test_it_goes_through_the_proxy(
    switch: Switch, settings_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_proxy(switch.url, monkeypatch)
    assert await ping(settings_for("http://switch.example/uuid"), failed=True)
    assert switch.asked == ["GET http://switch.example/uuid/fail"]


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_dead_proxy_is_named(
    settings_for: Any,
    closed_port: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    scheme: str,
) -> None:
    use_proxy(f"http://user:s3cret@127.0.0.1:{closed_port}", monkeypatch)
    assert not await ping(settings_for(f"{scheme}://switch.example/s3cret"))
    proxy = f"127.0.0.1:{closed_port}"
    assert f"no connection to the proxy {proxy}: check PLEIADES_NETWORK__PROXY or HTTPS_PROXY" in caplog.text
    assert "s3cret" not in caplog.text


async def test_a_proxy_whose_name_is_wrong_is_named(
    settings_for: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    use_proxy("http://user:s3cret@proxy.invalid:3128", monkeypatch)
    assert not await ping(settings_for("https://switch.example/uuid"))
    assert "no connection to the proxy proxy.invalid:3128: check" in caplog.text


async def test_a_proxy_that_refuses_is_named(
    switch: Switch, settings_for: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    switch.statuses = [407] * 9
    use_proxy(switch.url, monkeypatch)
    assert not await ping(settings_for("https://switch.example/uuid"))
    assert f"the proxy {switch.url.removeprefix('http://')} answered 407: check" in caplog.text


def use_proxy(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.setenv(name, "")
    network.prepare(NetworkSettings(proxy=SecretStr(url)))


def test_the_log_hides_it_anyway(settings_for: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from maia import logs

    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    logs.configure(settings_for("https://hc.example/s3cret-uuid"))
    logging.getLogger("maia.odd").error("GET https://hc.example/s3cret-uuid failed")
    assert "s3cret" not in capsys.readouterr().err
