"""Bodies and parameters made to break whoever reads them, and answers that must not tell what nobody asked.

Here are a few of each; tests/attacks tries all of them everywhere.
"""

from __future__ import annotations

import json
import logging
from typing import Any, NoReturn

import pytest

from atlas.composition import Atlas
from atlas.scopes import Scope
from maia import logs
from maia.api import discovery
from tests import hostile
from tests.attacking import RawAnswer, request, sent
from tests.dashboard import store_shown
from tests.hostile import HTML
from tests.served import Served

pytestmark = pytest.mark.integration

FEW_VALUES = {
    name: hostile.VALUES[name] for name in ("NaN", "an integer of 400 digits", "half a character", "deeper")
}
FEW_BODIES = {name: hostile.BODIES[name] for name in ("a list", "bottomless", "UTF-16")}
FEW_PARAMETERS = ("%00", "%ED%A0%80", "9" * 400, "NaN")


async def test_no_value_body_or_parameter_is_too_much(service: Served, sql: Any) -> None:
    await store_shown(sql)
    assert await hostile.ask_with_values(service, FEW_VALUES, places=1) > 30
    await hostile.ask_with_bodies(service, FEW_BODIES)
    assert await hostile.ask_with_parameters(service, FEW_PARAMETERS) > 100
    await hostile.ask_pages(service, FEW_PARAMETERS[:1])


class TestAssistants:
    """MCP over HTTP, by requests that no client of its kind would make."""

    async def test_no_argument_is_too_much_for_a_tool(self, service: Served, sql: Any) -> None:
        await store_shown(sql)
        few = {name: FEW_VALUES[name] for name in ("half a character", "deeper")}
        await hostile.ask_tools(service, few, places=3)

    async def test_what_is_no_message_is_refused(self, service: Served) -> None:
        for what, body in hostile.BODIES.items():
            answer = await hostile.call_mcp(service, body)
            assert 400 <= answer.status < 500, (what, answer.status, answer.body[:300])
            assert RawAnswer(answer.body).reveals is None, (what, answer.body[:300])
        for method in ("GET", "DELETE", "PUT"):
            assert (await service.ask(method, "/mcp")).status == 405
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "../../etc/passwd"}}
        answer = await hostile.call_mcp(service, json.dumps(message).encode())
        assert "there is no such tool" in answer.json["error"]["message"]

    async def test_a_key_that_only_reads_writes_nothing(self, service: Served, sql: Any) -> None:
        key = await service.add_key("reader", Scope.READ)
        message = {
            "jsonrpc": "2.0", "id": 1, "method": "tools/call",
            "params": {"name": "seed_topic", "arguments": {"topic": "theirs"}},
        }  # fmt: skip
        answer = await hostile.call_mcp(service, json.dumps(message).encode(), **key)
        assert answer.json["result"]["isError"] is True
        assert await sql.fetchval("SELECT count(*) FROM search_queue") == 0
        wrong = {"X-API-Key": key["X-API-Key"][:-1] + "~"}
        assert (await hostile.call_mcp(service, json.dumps(message).encode(), **wrong)).status == 401


class TestSecrets:
    async def test_a_key_is_in_no_log_answer_or_metric(
        self, service: Served, capsys: pytest.CaptureFixture[str]
    ) -> None:
        header = await service.add_key("ours", Scope.ADMIN)
        key = header["X-API-Key"]
        secret, told = key[16:], b""
        logs.configure_plainly("DEBUG")
        wrong = {"X-API-Key": f"{key}x"}
        for headers in (header, {"Authorization": f"Bearer {key}"}, wrong, {"Cookie": key}):
            for path in ("/metrics", "/api/v1/topics?limit=x", "/nothing", "/", "/login"):
                answer = await service.get(path, headers=headers)
                told += answer.body + str(answer.headers).encode()
            told += (await service.post("/api/v1/topics", {"queries": [""]}, headers=headers)).body
        for given in (key, f"{key}x"):
            form = {"key": given, "next": "/quota"}
            answer = await service.ask("POST", "/login", data=form, headers=HTML, allow_redirects=False)
            told += answer.body + str(answer.headers).encode()
        # Nobody should send it there, but somebody will.
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        upgrade |= {"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}
        for path in (f"/metrics?key={key}", f"/ws?key={key}"):
            assert (await service.get(path, headers=upgrade if "ws" in path else {})).status == 401
        assert secret.encode() not in told
        logging.getLogger("maia").info("a client asks for /metrics?key=%s", key)
        logged = capsys.readouterr().err
        assert "[hidden]" in logged
        assert secret not in logged
        assert " ERROR " not in logged

    @pytest.mark.parametrize("accept", ["application/json", "text/html"])
    async def test_an_error_that_nobody_expected_tells_nothing(
        self, service: Served, monkeypatch: pytest.MonkeyPatch, accept: str
    ) -> None:
        async def fail(_: Atlas) -> NoReturn:
            raise RuntimeError("SELECT secret FROM postgresql://user:password@db in /home/us/app.py")

        monkeypatch.setattr(discovery, "ledger", fail)
        answer = await sent(service, request("/api/v1/quota", f"Accept: {accept}"))
        assert (answer.status, answer.reveals) == (500, None)
        assert b"defect" in answer.received
        for word in (b"secret", b"password", b"RuntimeError"):
            assert word not in answer.received
