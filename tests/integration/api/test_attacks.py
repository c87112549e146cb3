"""Attacks that anybody can make who reaches the service, or gets texts into it: none of them may do anything.

Those that take long, or many connections, are in tests/attacks.
"""

from __future__ import annotations

import asyncio
import hmac
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
import pytest_asyncio
from starlette.routing import BaseRoute

from atlas.adapters.access import AccessDAO
from atlas.composition import Atlas
from atlas.scopes import Scope
from maia.api.app import build, every_route
from maia.api.context import declared_scope
from maia.api.gate import is_open
from tests.attacking import request, sent
from tests.served import Served

pytestmark = pytest.mark.integration

HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
OTHERWISE_GUARDED = {
    ("GET", "/healthz"): "says only whether it answers",
    ("GET", "/static/{digest}/{name}"): "has the same files for everybody",
    ("GET", "/login"): "asks for the key",
    ("POST", "/login"): "checks the key itself",
    ("POST", "/logout"): "ends the caller's own session",
    ("GET", "/openapi.json"): "is the same for everybody with a key",
    ("POST", "/mcp"): "checks the scope for each tool",
    ("POST", "/federation/exchange"): "checks the cluster's token",
    ("POST", "/federation/mirror"): "checks the cluster's token",
    ("POST", "/federation/digests"): "checks the cluster's token",
}
"""Routes that declare no scope, and why they need none."""
READING_BY_POST = {"/match", "/recommend", "/api/v1/graph/query"}


class Keys:
    """The headers of a key of each scope."""

    def __init__(self, by_scope: dict[Scope, dict[str, str]]) -> None:
        self._by_scope = by_scope

    def __getitem__(self, scope: Scope) -> dict[str, str]:
        return self._by_scope[scope]


@pytest_asyncio.fixture
async def keys(service: Served) -> Keys:
    """A key of each scope, of which the service knows."""
    found = Keys({scope: await service.add_key(scope.value, scope) for scope in Scope})
    await becomes(service, {}, 401)
    return found


async def becomes(service: Served, headers: dict[str, str], status: int, path: str = "/metrics") -> None:
    """Wait until a request gets a status: a process hears of a change of keys by a notice."""
    for _ in range(200):
        if (await service.get(path, headers=headers)).status == status:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"{path} never answered {status}")


def routes_of(atlas: Atlas) -> Iterator[tuple[str, str, BaseRoute]]:
    """Each method and path of the application; a WebSocket's method is GET."""
    for route in every_route(build(atlas).app.routes):
        path: str = route.path  # type: ignore[attr-defined]
        for method in getattr(route, "methods", None) or {"GET"}:
            if method != "HEAD":
                yield method, path, route


def filled(path: str) -> str:
    """A path whose parameters name nothing that is stored."""
    return re.sub(r"\{kind\}", "video", re.sub(r"\{(?!kind)\w+(:\w+)?\}", "7", path))


class TestWhoMayDoWhat:
    def test_every_route_declares_its_scope(self, atlas: Atlas) -> None:
        undeclared = {
            (method, path) for method, path, route in routes_of(atlas) if declared_scope(route) is None
        }
        assert undeclared <= set(OTHERWISE_GUARDED)
        for method, path, route in routes_of(atlas):
            if method != "GET" and (method, path) not in OTHERWISE_GUARDED:
                reads = declared_scope(route) is Scope.READ
                assert reads is (path in READING_BY_POST), f"{method} {path} changes something by reading"

    async def test_nobody_gets_anywhere_without_a_key_or_with_too_small_a_scope(
        self, service: Served, keys: Keys
    ) -> None:
        asked = 0
        for method, path, route in routes_of(service.atlas):
            scope, target = declared_scope(route), filled(path)
            if is_open(target):
                continue
            for header in (
                {},
                {"X-API-Key": "pk_000000000000_" + "A" * 43},
                {"Cookie": "pleiades_session=x"},
            ):
                answer = await service.ask(method, target, headers=header, allow_redirects=False)
                assert (method, path, answer.status) == (method, path, 401)
            if scope not in (None, Scope.READ):
                smaller = [*Scope][[*Scope].index(scope) - 1]
                answer = await service.ask(method, target, headers=keys[smaller])
                assert (method, path, answer.status) == (method, path, 403)
                assert f"needs the scope {scope}" in answer.json["detail"]
                asked += 1
        assert asked > 5

    async def test_headers_that_claim_another_method_address_or_user_change_nothing(
        self, service: Served, keys: Keys, sql: Any
    ) -> None:
        await service.post("/api/v1/topics", {"queries": ["lofi"]}, headers=keys[Scope.WRITE])
        id_ = await sql.fetchval("SELECT id FROM search_queue")
        claims = {
            "X-HTTP-Method-Override": "DELETE", "X-HTTP-Method": "DELETE", "X-Method-Override": "POST",
            "X-Original-URL": "/healthz", "X-Rewrite-URL": "/healthz", "X-Forwarded-Prefix": "/static",
            "X-Forwarded-For": "127.0.0.1", "X-Forwarded-User": "root", "Authorization": "Basic cm9vdDpyb290",
        }  # fmt: skip
        assert (await service.get("/metrics", headers=claims)).status == 401
        target = f"/api/v1/topics/{id_}/park"
        for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE", "PROPFIND", "TRACE"):
            answer = await service.ask(method, f"{target}?_method=POST", headers=keys[Scope.WRITE] | claims)
            assert (method, answer.status) == (method, 405)
        assert await sql.fetchval("SELECT status FROM search_queue") == "active"

    async def test_a_key_is_taken_from_two_headers_and_nowhere_else(
        self, service: Served, keys: Keys
    ) -> None:
        key = keys[Scope.READ]["X-API-Key"]
        for right in (f"Bearer {key}", f"bearer {key}"):
            assert (await service.get("/metrics", headers={"Authorization": right})).status == 200
        elsewhere: list[dict[str, Any]] = [
            {"params": {"key": key, "api_key": key, "token": key}},
            {"headers": {"Authorization": key}},
            {"headers": {"Authorization": f"Basic {key}"}},
            {"headers": {"Authorization": f"Bearer  {key}"}},
            {"headers": {"Cookie": f"X-API-Key={key}; pleiades_session={key}"}},
            {"headers": {"X-API-Key": f"{key}, {key}"}},
            {"headers": {"X-API-Key": key + "A"}},
            # A wrong key is wrong, even beside a right one.
            {"headers": {"X-API-Key": "pk_x", "Authorization": f"Bearer {key}"}},
        ]
        for options in elsewhere:
            assert (options, (await service.get("/metrics", **options)).status) == (options, 401)

    async def test_all_wrong_keys_cost_the_same_comparison(
        self, service: Served, keys: Keys, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By construction: how long it takes says neither whether an id exists nor how much is right."""
        compared: list[tuple[int, int]] = []
        compare = hmac.compare_digest

        def noting(one: bytes, other: bytes) -> bool:
            compared.append((len(one), len(other)))
            return compare(one, other)

        monkeypatch.setattr(hmac, "compare_digest", noting)
        right = keys[Scope.READ]["X-API-Key"]
        nearly = right[:-1] + ("A" if right[-1] != "A" else "B")
        for wrong in ("", "x", "pk_", right[:30], nearly, "pk_000000000000_" + right[16:]):
            compared.clear()
            assert (await service.get("/metrics", headers={"X-API-Key": wrong})).status == 401
            assert compared == [(32, 32)], wrong


class TestSessions:
    async def cookie(self, service: Served, header: dict[str, str], **headers: str) -> str:
        answer = await service.ask(
            "POST", "/login", data={"key": header["X-API-Key"]}, headers=headers, allow_redirects=False
        )
        assert answer.status == 303
        cookie: str = answer.headers["Set-Cookie"]
        return cookie

    async def test_a_forged_one_is_refused(self, service: Served, keys: Keys) -> None:
        right = (await self.cookie(service, keys[Scope.READ])).split(";")[0].split("=", 1)[1]
        assert (await service.get("/metrics", headers={"Cookie": f"pleiades_session={right}"})).status == 200
        id_, expires, signature = right.split(".")
        admin = keys[Scope.ADMIN]["X-API-Key"].split("_")[1]
        for forged in (
            f"{admin}.{expires}.{signature}", f"{id_}.{int(expires) + 9}.{signature}",
            f"{id_}.{expires}.{signature.upper()}", f"{id_}.{expires}.{signature[:-1]}",
            f"{id_}.{expires}.", f"{id_}.{expires}", f"{id_}..{signature}", f"{id_}.-1.{signature}",
            f"{id_}.{'9' * 5000}.{signature}", f"{id_}. {expires}.{signature}", f"{id_}.１２.{signature}",
            f'"{right}"', right + "; x", "é" * 50, "\x7f",
        ):  # fmt: skip
            cookie = f"pleiades_session={forged}"
            answer = await sent(service, request("/metrics", f"Cookie: {cookie}".encode().decode("latin-1")))
            wanted = {"; x": 200, "\x7f": 400}.get(forged[-3:], 401)
            assert (forged, answer.status) == (forged, wanted)

    async def test_it_ends_with_its_time_and_with_its_key(
        self, service: Served, keys: Keys, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        header = await service.add_key("brief", Scope.WRITE)
        await becomes(service, header, 200)
        replayed = {"Cookie": (await self.cookie(service, header)).split(";")[0]}
        assert (await service.get("/metrics", headers=replayed)).status == 200
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + 12 * 3600 - 5)
        assert (await service.get("/metrics", headers=replayed)).status == 200
        monkeypatch.setattr(time, "time", lambda: now + 12 * 3600 + 1)
        assert (await service.get("/metrics", headers=replayed)).status == 401
        monkeypatch.undo()
        dao = AccessDAO(service.atlas.db, clock=service.atlas.clock, settings=service.atlas.settings)
        await dao.revoke("brief")
        await becomes(service, replayed, 401)
        await becomes(service, header, 401)

    async def test_scripts_and_other_sites_have_nothing_of_its_cookie(
        self, service: Served, keys: Keys
    ) -> None:
        plain = await self.cookie(service, keys[Scope.READ])
        assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(plain.split("; "))
        assert "Secure" not in plain
        assert "Domain" not in plain
        by_tls = await self.cookie(service, keys[Scope.READ], **{"X-Forwarded-Proto": "https"})
        assert "Secure" in by_tls.split("; ")
        # A cookie of another service of this host does no harm.
        both = {"Cookie": f"a[b=c; broken cookie; =; {plain.split(';')[0]}"}
        assert (await service.get("/metrics", headers=both)).status == 200

    async def test_another_site_cannot_act_by_it(self, service: Served, keys: Keys, sql: Any) -> None:
        cookie = (await self.cookie(service, keys[Scope.ADMIN])).split(";")[0]
        body = {"queries": ["theirs"]}
        for origin in (
            "https://evil.example", "null", "", "http://127.0.0.1", "http://127.0.0.1:1",
            service.url + ".evil.example", service.url + "0",
            "http://evil.example/127.0.0.1",
            service.url.replace("127.0.0.1", "127.0.0.1@evil.example"), "file://", "chrome-extension://abc",
        ):  # fmt: skip
            for path in ("/api/v1/topics", "/topics/seed", "/observe", "/logout", "/mcp"):
                answer = await service.post(path, body, headers={"Cookie": cookie, "Origin": origin})
                assert (origin, path, answer.status) == (origin, path, 403)
            upgrade = {
                "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
                "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==", "Cookie": cookie, "Origin": origin,
            }  # fmt: skip
            assert (await service.get("/ws", headers=upgrade)).status == 403
        assert await sql.fetchval("SELECT count(*) FROM search_queue") == 0


HIDDEN_WAYS = (
    "/static/../metrics", "/static/..%2fmetrics", "/static/%2e%2e/metrics", "/static/..;/metrics",
    "/healthz/../metrics", "/healthz/..%2fmetrics", "/healthz%2f..%2fmetrics", "/healthz;/metrics",
    "/healthz%00/metrics", "/login/../metrics", "/login%2F..%2Fmetrics", "//metrics", "/./metrics",
    "/metrics/", "/metrics/.", "/METRICS", "/Metrics", "/metrics%00", "/metrics;x=1", "/metrics%20",
    "/%6detrics/", "/metrics%2f", "/metrics\\", "/%2e/metrics", "/%c0%afmetrics", "/%ef%bc%8fmetrics",
    "/api/v1/../../metrics", "/api//v1/quota", "/api/v1/quota/", "/api%2fv1%2fquota/", "/openapi.json/",
    "/mcp/", "/ws/", "/login/", "/static", "/static/", "http://evil.example/metrics/",
)  # fmt: skip
FILES = (
    "/static/x/../../../../../../etc/passwd", "/static/..%2f..%2f..%2f..%2fetc%2fpasswd/x",
    "/static/x/..%2f..%2fapp.py", "/static/x/%2e%2e%2f%2e%2e%2fapp.py", "/static/x/..%5c..%5capp.py",
    "/static/x/%252e%252e%252fapp.py", "/static/x/..%c0%af..%c0%afapp.py", "/static/x/app.py%00.css",
    "/static//etc/passwd", "/static/%2fetc%2fpasswd", "/static/x/file:///etc/passwd",
    "/static/x/vendored.json",
    "/static/x/htmx.LICENSE", "/static/x/" + "a" * 5000, "/static/x/%F0%9F%92%A9.css",
)  # fmt: skip


class TestPaths:
    async def test_no_spelling_leads_around_the_key(self, service: Served, keys: Keys) -> None:
        key = f"X-API-Key: {keys[Scope.ADMIN]['X-API-Key']}"
        for target in (*HIDDEN_WAYS, "/metrics", "http://evil.example/metrics"):
            answer = await sent(service, request(target))
            in_the_open = target.startswith("/static/")
            assert answer.status in ((404, 400) if in_the_open else (401, 400)), target
            assert answer.reveals is None, target
        for target in HIDDEN_WAYS:
            answer = await sent(service, request(target, key))
            assert (target, answer.status) in ((target, 404), (target, 400)), answer.received[:500]
            assert b"location:" not in answer.received.lower(), target

    async def test_only_files_of_pages_are_served(self, service: Served) -> None:
        for target in FILES:
            answer = await sent(service, request(target))
            assert (target, answer.status) in ((target, 404), (target, 400))
            assert answer.reveals is None or answer.reveals in target.encode(), (target, answer.received)

    async def test_targets_that_are_none_are_refused(self, service: Served) -> None:
        for line in (
            b"GET * HTTP/1.1", b"OPTIONS * HTTP/1.1", b"CONNECT evil.example:443 HTTP/1.1",
            b"GET metrics HTTP/1.1",
            b"GET  HTTP/1.1", b"GET /metr\xffics HTTP/1.1", b"GET / HTTP/9.9", b"GET /",
            b"\x16\x03\x01\x02\x00\x01",
            b"GET /metr ics HTTP/1.1", b"get /metrics HTTP/1.1", b"PRI * HTTP/2.0",
            b"GET\t/metrics\tHTTP/1.1",
            b"GET /\x00 HTTP/1.1", b"G\xc3\x89T / HTTP/1.1", b"GET http:// HTTP/1.1",
            b"GET http://[::1/ HTTP/1.1",
        ):  # fmt: skip
            answer = await sent(service, line + b"\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            assert answer.status in (400, 404, 405), (line, answer.received)
            assert (answer.answers, answer.reveals) == (1, None), line


class TestHosts:
    async def test_no_other_name_leads_here(self, service: Served) -> None:
        port = service.url.rpartition(":")[2]
        for host in (
            "evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "127.0.0.1@evil.example",
            "localhost.evil",
            "", "localhost:0", "localhost:99999", "evil.example#localhost", "[::1", "127.0.0.1/../evil",
            "None",
        ):  # fmt: skip
            answer = await sent(
                service, f"GET /metrics HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
            )
            assert (host, answer.status) == (host, 403)
        for heads in (
            "",
            "Host: localhost\r\nHost: evil.example\r\n",
            "Host: localhost\r\nHost: localhost\r\n",
        ):
            answer = await sent(
                service, f"GET /metrics HTTP/1.1\r\n{heads}Connection: close\r\n\r\n".encode()
            )
            assert (heads, answer.status) == (heads, 400)

    async def test_what_a_request_says_of_its_host_leads_nobody_elsewhere(
        self, service: Served, keys: Keys
    ) -> None:
        key = f"X-API-Key: {keys[Scope.READ]['X-API-Key']}"
        for target in ("/api/v1/topics?limit=1", "/login?next=//evil.example", "/topics/", "/", "/nothing"):
            raw = (
                f"GET {target} HTTP/1.1\r\nHost: evil.example\r\n{key}\r\nX-Forwarded-Host: evil.example\r\n"
            )
            answer = await sent(service, f"{raw}Accept: text/html\r\nConnection: close\r\n\r\n".encode())
            assert b"evil.example" not in answer.received, target


class TestHeaders:
    async def test_line_breaks_in_a_request_become_no_headers(self, service: Served, keys: Keys) -> None:
        key = keys[Scope.WRITE]
        breaks = "%0d%0aSet-Cookie:%20a=b%0d%0a%0d%0a<script>alert(1)</script>"
        for path in (
            f"/login?next=/{breaks}", f"/api/v1/topics?limit=1&x={breaks}", f"/search?q={breaks}",
            f"/topics?done={breaks}", f"/?as=csv&table={breaks}", f"/nothing/{breaks}", f"/videos/{breaks}",
            f"/api/v1/search?q={breaks}&format=csv", f"/api/v1/events?after={breaks}",
        ):  # fmt: skip
            for accept in ("text/html", "*/*"):
                answer = await sent(
                    service, request(path, f"X-API-Key: {key['X-API-Key']}", f"Accept: {accept}")
                )
                head = answer.received.partition(b"\r\n\r\n")[0].lower()
                assert b"set-cookie" not in re.sub(rb"%0d%0a\S*", b"", head), path
                assert (answer.answers, (answer.status or 0) < 500) == (1, True), path

    async def test_pages_may_run_and_be_framed_by_nothing_else(self, service: Served, keys: Keys) -> None:
        for path in ("/", "/login", "/nothing", "/healthz", "/openapi.json", "/api/v1/topics?limit=0"):
            for header in (keys[Scope.READ], {}):
                answer = await service.get(path, headers=HTML | header, allow_redirects=False)
                told = answer.headers
                policy = dict(
                    each.strip().partition(" ")[::2] for each in told["Content-Security-Policy"].split(";")
                )
                assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
                assert policy["script-src"] == policy["style-src"] == policy["form-action"] == "'self'"
                assert (told["X-Content-Type-Options"], told["X-Frame-Options"]) == ("nosniff", "DENY")
                assert told["Cross-Origin-Resource-Policy"] == "same-origin"
                assert "Access-Control-Allow-Origin" not in told
                assert "Server" not in told


SMUGGLED = "GET /smuggled HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
AMBIGUOUS = {
    "length and chunks": "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    "two lengths": "Content-Length: 0\r\nContent-Length: 44\r\n\r\n",
    "two equal lengths": "Content-Length: 0\r\nContent-Length: 0\r\n\r\n",
    "a list of lengths": "Content-Length: 0, 44\r\n\r\n",
    "a signed length": "Content-Length: +0\r\n\r\n",
    "a negative length": "Content-Length: -1\r\n\r\n",
    "a hexadecimal length": "Content-Length: 0x0\r\n\r\n",
    "a length beyond 64 bits": "Content-Length: 18446744073709551616\r\n\r\n",
    "an unknown coding": "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunks not last": "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "a space before the colon": "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "a tab in the name": "Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n",
    "a folded header": "X: a\r\n Transfer-Encoding: chunked\r\n\r\n",
    "bare line feeds": "Content-Length: 0\n\n",
    "a bare carriage return": "X: a\rTransfer-Encoding: chunked\r\n\r\n",
    "a NUL": "X: a\0b\r\n\r\n",
    "a chunk's size with a sign": "Transfer-Encoding: chunked\r\n\r\n+0\r\n\r\n",
    "a chunk's size with 0x": "Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n",
    "a chunk too large": "Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n\r\n",
    "bare line feeds in chunks": "Transfer-Encoding: chunked\r\n\r\n0\n\n",
}


class TestSmuggling:
    async def test_what_can_be_read_in_two_ways_is_not_read(self, service: Served) -> None:
        for what, ambiguous in AMBIGUOUS.items():
            raw = f"POST /match HTTP/1.1\r\nHost: 127.0.0.1\r\n{ambiguous}{SMUGGLED}"
            answer = await sent(service, raw.encode("latin-1"))
            assert (what, answer.status, answer.answers) == (what, 400, 1), answer.received

    async def test_headers_after_a_body_are_none(self, service: Served, keys: Keys) -> None:
        key = keys[Scope.READ]["X-API-Key"]
        body = '{"context": {}}'
        chunked = f"{len(body):x}\r\n{body}\r\n0\r\nX-API-Key: {key}\r\nCookie: pleiades_session=x\r\n\r\n"
        answer = await sent(
            service, request("/match", "Transfer-Encoding: chunked", method="POST", body=chunked)
        )
        assert (answer.status, answer.answers) == (401, 1)

    async def test_requests_in_one_go_are_each_checked(self, service: Served, keys: Keys) -> None:
        key = f"X-API-Key: {keys[Scope.READ]['X-API-Key']}"
        first = f"GET /metrics?part=service HTTP/1.1\r\nHost: a\r\n{key}\r\n\r\n"
        answer = await sent(service, first.encode() + request("/metrics") + request("/metrics", key))
        assert re.findall(rb"HTTP/1\.1 (\d+)", answer.received) == [b"200", b"401"]
