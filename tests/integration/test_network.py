"""One proxy for all that goes out, met by a real one on loopback; and none for what stays here."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from pydantic import SecretStr

from atlas import network
from atlas.config import NetworkSettings, NotifierSettings, YouTubeSettings
from atlas.db import Database
from atlas.errors import ConfigError, VaultError
from atlas.hub import HubStore
from atlas.notifier import Notifier
from atlas.stores import S3Store
from maia.youtube.errors import NoResponse
from maia.youtube.transport import Transport

pytestmark = pytest.mark.integration

NAMES = [
    name for one in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY") for name in (one, one.lower())
]


@dataclass
class Proxy:
    """A proxy that leads nowhere: it writes down what it was asked for, and answers by itself."""

    answer: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
    asked: list[str] = field(default_factory=list)
    heads: list[bytes] = field(default_factory=list)
    url: str = ""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            head = b""
        if head:
            self.heads.append(head)
            self.asked.append(" ".join(head.decode().split(" ", 2)[:2]))
            # What answers HEAD has no body.
            writer.write(self.answer.partition(b"{}")[0] if head.startswith(b"HEAD") else self.answer)
            await writer.drain()
        writer.close()


@asynccontextmanager
async def proxying(**options: Any) -> AsyncIterator[Proxy]:
    proxy = Proxy(**options)
    server = await asyncio.start_server(proxy.handle, "127.0.0.1", 0)
    async with server:
        proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield proxy


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What `prepare` writes into the environment ends with the test."""
    for name in (*NAMES, "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def through(proxy: Proxy | str, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make everything go by a proxy, by the setting or as the environment says."""
    url = proxy if isinstance(proxy, str) else proxy.url
    if how == "setting":
        network.prepare(NetworkSettings(proxy=SecretStr(url)))
        return
    monkeypatch.setenv(how, url)
    network.prepare(NetworkSettings())


async def get(base_url: str) -> bytes:
    deadline = asyncio.get_running_loop().time() + 10
    async with Transport.open(YouTubeSettings(base_url=base_url)) as transport:
        return (await transport.get(transport.api, deadline)).body


ways = pytest.mark.parametrize("how", ["setting", "HTTP_PROXY", "http_proxy", "ALL_PROXY"])


class TestEveryoneGoesTheSameWay:
    @ways
    async def test_the_api(self, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
        async with proxying() as proxy:
            through(proxy, how, monkeypatch)
            assert await get("http://api.invalid") == b"{}"
            assert proxy.asked == ["GET http://api.invalid/youtube/v3"]

    @ways
    async def test_alerts(self, how: str, monkeypatch: pytest.MonkeyPatch, database: Database) -> None:
        async with proxying() as proxy:
            through(proxy, how, monkeypatch)
            alerts = Notifier(database, NotifierSettings(urls=(SecretStr("json://hook.invalid/path"),)))
            assert await alerts.notify("title", "body")
            assert proxy.asked == ["POST http://hook.invalid/path"]

    @pytest.mark.parametrize("scheme", ["json", "jsons", "discord"])
    async def test_alerts_tell_of_a_dead_proxy(
        self, scheme: str, closed_port: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        through(f"http://user:s3cret@127.0.0.1:{closed_port}", "setting", monkeypatch)
        url = SecretStr(f"{scheme}://s3cret.invalid/{'s3cretToken' * 6}")
        (tested,) = await Notifier(None, NotifierSettings(urls=(url,))).test("title", "body")
        assert "the proxy can't be used: check PLEIADES_NETWORK__PROXY or HTTPS_PROXY" in (
            tested.reason or ""
        )
        assert "s3cret" not in repr(tested)

    @ways
    async def test_the_hub(self, how: str, monkeypatch: pytest.MonkeyPatch, database: Database) -> None:
        import huggingface_hub

        # Its one client took the proxy of whoever came first.
        huggingface_hub.close_session()
        async with proxying(answer=b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n") as proxy:
            through(proxy, how, monkeypatch)
            store = HubStore("owner/name", "hf_token", database, "http://hub.invalid", 10)
            with pytest.raises(VaultError, match="dataset owner/name"):
                await store.check()
            huggingface_hub.close_session()
            assert any(url.startswith("GET http://hub.invalid/api/") for url in proxy.asked)

    @ways
    async def test_s3(self, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("s3fs", reason="s3fs is not installed")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        async with proxying() as proxy:
            through(proxy, how, monkeypatch)
            await S3Store("s3://bucket", "http://s3.invalid").check()
            assert proxy.asked == ["HEAD http://s3.invalid/bucket"]

    async def test_tls_is_tunnelled_and_the_key_stays_inside(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async with proxying(answer=b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n") as proxy:
            through(proxy.url.replace("//", "//me:opensesame@"), "HTTPS_PROXY", monkeypatch)
            deadline = asyncio.get_running_loop().time() + 10
            async with Transport.open(YouTubeSettings(base_url="https://api.invalid")) as transport:
                with pytest.raises(NoResponse, match=r"through the proxy .* responded 407") as caught:
                    await transport.get(transport.api, deadline, key=SecretStr("AIza-secret"))
            assert not caught.value.sent
            assert "opensesame" not in str(caught.value)
            assert proxy.asked == ["CONNECT api.invalid:443"]
            assert b"AIza" not in proxy.heads[0]
            assert b"Proxy-Authorization: Basic" in proxy.heads[0]

    async def test_a_dead_proxy_is_named_with_its_setting(self, monkeypatch: pytest.MonkeyPatch) -> None:
        through("http://127.0.0.1:1", "setting", monkeypatch)
        with pytest.raises(
            NoResponse, match=r"through the proxy 127\.0\.0\.1:1: .*PLEIADES_NETWORK__PROXY"
        ) as caught:
            await get("http://api.invalid")
        assert not caught.value.sent


class TestWhatStaysHere:
    @ways
    async def test_loopback_never_takes_a_proxy(self, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
        through("http://127.0.0.1:1", how, monkeypatch)
        async with proxying() as server:
            assert await get(server.url) == b"{}"
            # Those who follow the environment, such as requests and httpx, and aiohttp where it is told to.
            async with aiohttp.ClientSession(trust_env=True) as session, session.get(server.url) as answer:
                assert answer.status == 200

    @pytest.mark.parametrize(
        "url", ["http://127.0.0.1:4200", "http://127.8.9.1", "http://localhost:8780", "http://[::1]:80"]
    )
    def test_every_name_of_this_machine_is_spared(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        through("http://proxy.invalid:3128", "setting", monkeypatch)
        assert network.proxy_for(url) is None
        assert network.proxy_for("http://example.org") == "http://proxy.invalid:3128"

    def test_what_the_operator_spares_stays_spared(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("no_proxy", "intranet.example,.corp")
        through("http://proxy.invalid:3128", "HTTPS_PROXY", monkeypatch)
        assert os.environ["NO_PROXY"] == "intranet.example,.corp,localhost,127.0.0.1,::1"
        assert network.proxy_for("https://s3.corp") is None
        assert network.proxy_for("https://example.org") == "http://proxy.invalid:3128"
        assert network.proxy_for("http://example.org") is None


class TestPrepare:
    def test_an_environment_that_is_not_trusted_is_not_followed(self) -> None:
        environment = {"HTTPS_PROXY": "http://proxy.invalid", "all_proxy": "socks5://proxy.invalid"}
        network.prepare(NetworkSettings(trust_env=False), environment)
        assert environment == dict.fromkeys(("NO_PROXY", "no_proxy"), "localhost,127.0.0.1,::1")

    def test_the_setting_goes_before_the_environment(self) -> None:
        environment = {"https_proxy": "http://other.invalid", "NO_PROXY": "example.org"}
        network.prepare(NetworkSettings(proxy=SecretStr("http://proxy.invalid")), environment)
        assert environment["https_proxy"] == environment["HTTP_PROXY"] == "http://proxy.invalid"
        assert "example.org" not in environment["NO_PROXY"]

    def test_a_proxy_may_be_written_without_its_scheme(self) -> None:
        environment = {"HTTPS_PROXY": "proxy.invalid:3128"}
        network.prepare(NetworkSettings(), environment)
        assert environment["https_proxy"] == "http://proxy.invalid:3128"

    def test_twice_is_once(self) -> None:
        environment = {"HTTPS_PROXY": "proxy.invalid:3128", "NO_PROXY": "a"}
        network.prepare(NetworkSettings(), environment)
        once = dict(environment)
        network.prepare(NetworkSettings(), environment)
        assert environment == once

    def test_certificates_are_the_same_for_every_library(self, tmp_path: Path) -> None:
        environment = {"SSL_CERT_FILE": "/etc/our.pem", "AWS_CA_BUNDLE": "/etc/theirs.pem"}
        network.prepare(NetworkSettings(), environment)
        assert environment["REQUESTS_CA_BUNDLE"] == "/etc/our.pem"
        assert environment["AWS_CA_BUNDLE"] == "/etc/theirs.pem"

    @pytest.mark.parametrize(
        "wrong", ["http://[", "http://", "proxy.invalid:99999", "http://proxy.invalid:port"]
    )
    def test_what_is_no_url_of_a_proxy_is_refused_before_anything_is_spent(self, wrong: str) -> None:
        with pytest.raises(ConfigError, match=r"HTTPS_PROXY .* is not the URL of a proxy: write http://host"):
            network.prepare(NetworkSettings(), {"HTTPS_PROXY": wrong})

    def test_a_proxy_of_another_kind_is_refused(self) -> None:
        with pytest.raises(ConfigError, match=r"is a socks5 proxy.*PLEIADES_NETWORK__PROXY=http://host:port"):
            network.prepare(NetworkSettings(), {"ALL_PROXY": "socks5://proxy.invalid"})
