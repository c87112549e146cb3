"""What stands before every route: keys, scopes, rates, origins, sizes, slow clients, and how it stops."""

from __future__ import annotations

import asyncio
import io
from contextlib import suppress
from typing import Any

import aiohttp
import pytest

from atlas.adapters.access import AccessDAO
from atlas.composition import Atlas
from atlas.scopes import Scope
from maia.api import serving
from maia.api.live import REVOKED
from tests.served import Served, served

pytestmark = pytest.mark.integration


def with_api(atlas: Atlas, **changes: Any) -> Atlas:
    """The same Atlas with other settings of the service."""
    from dataclasses import replace

    api = atlas.settings.api.model_copy(update=changes)
    return replace(atlas, settings=atlas.settings.model_copy(update={"api": api}))


class TestKeys:
    async def test_without_any_key_programs_of_this_machine_may_call(self, service: Served) -> None:
        assert (await service.get("/openapi.json")).status == 200

    @pytest.mark.parametrize(
        "headers",
        [{"X-Forwarded-For": "203.0.113.9"}, {"Forwarded": "for=203.0.113.9"}, {"X-Real-IP": "203.0.113.9"}],
    )
    async def test_but_nobody_through_a_proxy(self, service: Served, headers: dict[str, str]) -> None:
        answer = await service.get("/openapi.json", headers=headers)
        assert (answer.status, answer.json["status"]) == (401, 401)
        assert "maia keys api add" in answer.json["detail"]

    @pytest.mark.parametrize(
        "key",
        ["", "pk_", "x" * 10_000, "pk_000000000000_" + "A" * 43, "pk_0_é", "pk_000000000000_" + "A" * 42],
    )
    async def test_a_wrong_key_is_refused(self, service: Served, key: str) -> None:
        await service.add_key("ours", Scope.READ)
        answer = await service.get("/openapi.json", headers={"X-API-Key": key})
        assert answer.status == 401
        assert key not in answer.json["detail"] or not key

    async def test_once_there_is_a_key_everybody_needs_one(self, service: Served) -> None:
        header = await service.add_key("ours", Scope.READ)
        assert await _becomes(service, {}, 401)
        assert (await service.get("/openapi.json", headers=header)).status == 200

    async def test_a_revoked_key_is_refused_at_once(self, service: Served) -> None:
        header = await service.add_key("ours", Scope.READ)
        await service.add_key("theirs", Scope.READ)
        assert await _becomes(service, header, 200)
        dao = AccessDAO(service.atlas.db, clock=service.atlas.clock, settings=service.atlas.settings)
        assert await dao.revoke("ours") is not None
        assert await _becomes(service, header, 401)

    async def test_a_revoked_key_ends_its_streams(self, service: Served) -> None:
        header = await service.add_key("ours", Scope.READ)
        kept = await service.add_key("theirs", Scope.READ)
        assert await _becomes(service, header, 200)
        sockets = [
            await service.session.ws_connect(f"{service.url}/ws", headers=each) for each in (header, kept)
        ]
        for socket in sockets:
            await socket.send_str('{"subscribe": {}}')
            assert "subscribed" in await socket.receive_str()
        streams = [
            await service.session.get(f"{service.url}/api/v1/events", headers=each) for each in (header, kept)
        ]
        for stream in streams:
            assert (stream.status, await stream.content.readline()) == (200, b"retry: 2000\n")
        dao = AccessDAO(service.atlas.db, clock=service.atlas.clock, settings=service.atlas.settings)
        await dao.revoke("ours")
        async with asyncio.timeout(10):
            assert (await sockets[0].receive()).data == REVOKED
            with suppress(aiohttp.ClientPayloadError):
                await streams[0].read()
        assert not streams[1].content.at_eof()
        await asyncio.sleep(0.1)
        assert not sockets[1].closed
        # What is left open is complained about whenever garbage is collected.
        for stream in streams:
            stream.close()
        for socket in sockets:
            await socket.close()

    def test_others_are_never_let_in_without_a_key(self) -> None:
        for host in ("0.0.0.0", "192.0.2.1", "::", "example.org"):
            with pytest.raises(serving.CannotListen, match="maia keys api add"):
                serving.check_exposure(host, has_keys=False)
            serving.check_exposure(host, has_keys=True)
        for host in ("127.0.0.1", "::1", "localhost", "127.9.9.9"):
            serving.check_exposure(host, has_keys=False)


class TestRates:
    async def test_a_caller_makes_as_many_requests_as_it_may(self, service: Served) -> None:
        header = await service.add_key("slow", Scope.READ, requests_per_minute=5)
        answers = [await service.get("/openapi.json", headers=header) for _ in range(8)]
        statuses = [answer.status for answer in answers]
        assert statuses[:5] == [200] * 5
        assert 429 in statuses
        refused = answers[statuses.index(429)]
        assert int(refused.headers["Retry-After"]) >= 1

    async def test_a_clock_that_was_set_back_locks_nobody_out(self, service: Served, sql: Any) -> None:
        header = await service.add_key("slow", Scope.READ, requests_per_minute=3)
        while (await service.get("/openapi.json", headers=header)).status != 429:
            pass
        await sql.execute("UPDATE request_rates SET minute = minute + 60")
        assert (await service.get("/openapi.json", headers=header)).status == 200

    async def test_the_rate_is_the_same_over_all_processes(self, atlas: Atlas) -> None:
        async with served(atlas) as first, served(atlas) as second:
            header = await first.add_key("busy", Scope.READ, requests_per_minute=20)
            both = [first, second] * 20
            answers = await asyncio.gather(*(each.get("/openapi.json", headers=header) for each in both))
        # A minute may end meanwhile, of which a part counts.
        assert 20 <= [answer.status for answer in answers].count(200) <= 21


class TestOrigins:
    async def test_a_name_that_was_made_to_lead_here_is_refused(self, service: Served) -> None:
        answer = await service.get("/openapi.json", headers={"Host": "evil.example"})
        assert answer.status == 403

    async def test_pages_of_other_sites_may_not_act(self, service: Served) -> None:
        answer = await service.post("/nothing", {}, headers={"Origin": "https://evil.example"})
        assert answer.status == 403
        ours = await service.post("/nothing", {}, headers={"Origin": service.url})
        assert ours.status == 404


class TestBodies:
    async def test_one_that_is_too_long_is_refused(self, service: Served) -> None:
        answer = await service.ask("POST", "/nothing", data=io.BytesIO(b" " * (2**20 + 1)))
        assert answer.status == 413

    async def test_a_head_that_takes_too_long_ends_the_connection(self, atlas: Atlas) -> None:
        async with served(with_api(atlas, head_timeout_s=0.2)) as service:
            host, _, port = service.url.removeprefix("http://").rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-")
            assert await asyncio.wait_for(reader.read(), timeout=10) == b""
            writer.close()


class TestAnswers:
    async def test_head_is_answered_as_get_without_the_body(self, service: Served) -> None:
        for path in ("/login", "/openapi.json", "/videos/none"):
            whole = await service.get(path, headers={"Accept-Encoding": "identity"})
            head = await service.ask("HEAD", path)
            assert (head.status, head.body) == (whole.status, b"")
            assert head.headers["Content-Length"] == f"{len(whole.body)}"
            assert head.headers.get("ETag") == whole.headers.get("ETag")
        stream = await asyncio.wait_for(service.ask("HEAD", "/api/v1/events"), 10)
        assert (stream.status, stream.body) == (200, b"")

    async def test_what_the_client_has_is_not_sent_again(self, service: Served) -> None:
        first = await service.get("/openapi.json")
        again = await service.get("/openapi.json", headers={"If-None-Match": first.headers["ETag"]})
        assert (again.status, again.body) == (304, b"")
        assert again.headers["ETag"] == first.headers["ETag"]

    async def test_browsers_run_our_files_alone(self, service: Served) -> None:
        policy = (await service.get("/healthz")).headers["Content-Security-Policy"]
        assert "unsafe" not in policy
        assert "default-src 'none'" in policy

    async def test_what_is_not_there_says_where_to_look(self, service: Served) -> None:
        answer = await service.get("/nothing")
        assert (answer.status, answer.headers["Content-Type"]) == (404, "application/problem+json")
        assert "/openapi.json" in answer.json["detail"]


async def _becomes(service: Served, headers: dict[str, str], status: int) -> bool:
    """Whether the answer gets a status within a moment: other processes hear of a change by a notice."""
    for _ in range(100):
        if (await service.get("/openapi.json", headers=headers)).status == status:
            return True
        await asyncio.sleep(0.05)
    return False
