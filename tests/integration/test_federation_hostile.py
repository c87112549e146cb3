"""Peers that are hostile or broken: refused, counted, isolated, and nothing here is changed."""

from __future__ import annotations

import io
import json
import logging
import math
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import date, timedelta
from typing import Any

import aiohttp
import msgpack
import pytest
import pytest_asyncio
import zstandard
from aiohttp import web
from pydantic import SecretStr

from atlas.clock import FixedClock
from atlas.service_settings import FederationSettings
from atlas.testing import SettingsFactory, ThrowAwayServer
from maia.federation import http, messages
from maia.federation.exchange import PeerFailed
from maia.federation.messages import Envelope, Section, encode, microseconds
from maia.learning.patterns import PatternType, pattern_id
from maia.views import federation as views
from maia.views.words import plain
from tests.federated import TOKEN, FederatedSite, federated
from tests.served import Answer

pytestmark = pytest.mark.integration

DAY = date(2026, 11, 2).toordinal() - date(1970, 1, 1).toordinal()
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}


@pytest_asyncio.fixture
async def site(
    postgres: ThrowAwayServer, template: str, settings_factory: SettingsFactory, clock: FixedClock
) -> AsyncIterator[FederatedSite]:
    """A site that knows one pattern, and keeps ten."""
    async with federated(
        postgres, template, settings_factory, clock, 1, learner={"max_patterns": 10}
    ) as made:
        await made[0].learn("ours", 3, 1)
        yield made[0]


def text(name: str, **changes: Any) -> list[Any]:
    """A record of a pattern's text, as it travels."""
    signature = {"name": name}
    record = {
        "id": bytes.fromhex(pattern_id(PatternType.TOOL_USAGE, signature)), "type": "tool_usage",
        "signature": json.dumps(signature), "statement": f"{name} pays", "conditions": "[]", "action": name,
        "data": "{}", "created": 10**15, "updated": 10**15, "version": 1, "forgotten": None,
        "remembered": None,
    }  # fmt: skip
    return [*(record | changes).values()]


def row(name: str, **changes: Any) -> list[Any]:
    """A record of evidence, as it travels."""
    record = {
        "id": text(name)[0], "node": "evil", "day": DAY, "pos": 1, "neg": 0, "reward": 1.0,
        "seen": DAY * 86_400_000_000, "version": 1,
    }  # fmt: skip
    return [*(record | changes).values()]


def message(
    now: FixedClock,
    texts: Sequence[list[Any]] = (),
    evidence: Sequence[list[Any]] = (),
    *,
    version: int = 1,
    **changes: Any,
) -> bytes:
    """A message with these records that is right but for the changes of its envelope."""
    tables = {"texts": texts, "evidence": evidence}
    section = Section(kind="patterns", version=version, counts=messages.counts_of(tables))
    envelope = {
        "cluster": "test", "node": "evil", "role": "learner", "clock": microseconds(now.now()),
        "sections": [section],
    }  # fmt: skip
    return encode(Envelope(**(envelope | changes)), {"patterns": tables})


async def send(
    site: FederatedSite, body: Any, headers: Mapping[str, str] = AUTHORIZED, path: str = "exchange"
) -> Answer:
    return await site.served.ask("POST", f"/federation/{path}", data=body, headers=headers)


async def refusals(site: FederatedSite) -> dict[str, int]:
    return {each.reason: each.count for each in await site.federation.site.dao.refusals()}


async def test_whoever_lacks_the_token_gets_nothing(site: FederatedSite, clock: FixedClock) -> None:
    before = await site.known()
    bad = message(clock, [text("junk")], [row("junk")])
    for headers in (
        {}, {"Authorization": ""}, {"Authorization": "Bearer"}, {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {TOKEN}"}, {"Authorization": f"Bearer {TOKEN[:-1]}"}, {"X-API-Key": TOKEN},
        {"Authorization": "Bearer \u00e9\u00e9"},
    ):  # fmt: skip
        for path in ("exchange", "digests"):
            answer = await send(site, bad, headers, path)
            assert (answer.status, TOKEN in answer.json["detail"]) == (401, False)
    assert await site.known() == before
    assert (await refusals(site))["token"] >= 1
    # An API key opens everything else, but not this; and the token nothing else.
    assert (await site.served.get("/federation/status")).json["refused"][0]["reason"] == "token"
    assert (await site.served.post("/federation/sync", headers=AUTHORIZED)).status == 403


async def test_messages_that_are_wrong_are_refused_whole(site: FederatedSite, clock: FixedClock) -> None:
    before = await site.known()
    good = [text("junk")]
    year = timedelta(days=365)
    far = 2**53 - 1

    def of(evidence: Mapping[str, Any] | None = None, **changes: Any) -> bytes:
        bad_text = text("bad", **changes)
        return message(clock, [*good, bad_text], [row("junk"), row("bad", **(evidence or {}))])

    wrong: list[tuple[str, int, bytes]] = [
        ("malformed", 422, b""),
        ("malformed", 422, b"junk"),
        ("malformed", 422, zstandard.compress(b"\x00" * 100)),
        ("malformed", 422, zstandard.compress(b"\x05\x00\x00\x00" + b"\x93" * 5)),
        ("malformed", 422, message(clock, good)[:-3]),
        ("too large", 413, zstandard.compress(b"\x00" * (messages.MOST_PLAIN_BYTES + 1))),
        ("newer protocol", 409, _header({"protocol": 2, "unheard": "of"})),
        ("malformed", 422, _header({"protocol": 1, "cluster": "test"})),
        ("malformed", 422, _header({"protocol": -1})),
        ("malformed", 422, _header(
            {"protocol": 1, "cluster": "test", "node": "a\nb", "role": "learner", "clock": 1}
        )),
        ("another cluster", 403, message(clock, good, cluster="theirs")),
        ("clock", 422, message(clock, good, clock=microseconds(clock.now() + year))),
        ("clock", 422, message(clock, good, clock=microseconds(clock.now() - year))),
        ("our name", 409, message(clock, good, node="site-0")),
        ("records", 422, message(clock, [["a", "b"]])),
        ("records", 422, message(clock, [[*text("bad"), 1]])),
        ("records", 422, of(id=b"\x00" * 16)),
        ("records", 422, of(id=b"\x00")),
        ("records", 422, of(type="opinion")),
        ("records", 422, of(signature="not JSON")),
        ("records", 422, of(signature='{"name": NaN}')),
        ("records", 422, of(data='{"a": Infinity}')),
        ("records", 422, of(data='{"a": 1e999}')),
        ("records", 422, of(data='{"a": "\\u0000"}')),
        ("records", 422, of(data="[" * 10_000)),
        ("records", 422, of(data=json.dumps({"a": "x" * 200_001}))),
        ("records", 422, of(data=f'{{"a": {"9" * 5_000}}}')),
        ("records", 422, of(conditions='[{"field": "a", "operator": "≈", "value": 1}]')),
        ("records", 422, of(conditions="{}")),
        ("records", 422, of(statement="")),
        ("records", 422, of(statement="x" * 2_001)),
        ("records", 422, of(version=far)),
        ("records", 422, of(version=0)),
        ("records", 422, of(version=1.5)),
        ("records", 422, of(remembered=10**15, forgotten=10**14)),
        ("clock", 422, of(updated=microseconds(clock.now() + year))),
        ("clock", 422, of(forgotten=microseconds(clock.now() + year))),
        ("records", 422, of({"reward": math.nan})),
        ("records", 422, of({"reward": math.inf})),
        ("records", 422, of({"reward": 1e200})),
        ("records", 422, of({"pos": 10**12 + 1})),
        ("records", 422, of({"neg": -1})),
        ("records", 422, of({"pos": "1"})),
        ("records", 422, of({"version": far})),
        ("records", 422, of({"node": ""})),
        ("records", 422, of({"node": "x" * 101})),
        ("records", 422, of({"node": "a\x1b[2J"})),
        ("clock", 422, of({"day": DAY + 2})),
        ("clock", 422, of({"seen": microseconds(clock.now() + year)})),
    ]  # fmt: skip
    for nth, (reason, status, body) in enumerate(wrong):
        counted = (await refusals(site)).get(reason, 0)
        # Both ways, everything is taken by the same code.
        answer = await send(site, body, path=("exchange", "digests")[nth % 2])
        assert (nth, answer.status) == (nth, status), answer.json
        assert f"({reason})" in answer.json["detail"], (nth, answer.json)
        assert (await refusals(site))[reason] == counted + 1
    assert await site.known() == before
    assert await site.federation.site.dao.peers() == [], "who never sent anything right is no peer"


def _header(header: dict[str, Any]) -> bytes:
    packed = msgpack.packb(header)
    return zstandard.compress(len(packed).to_bytes(4, "little") + packed)


async def test_records_of_a_newer_kind_are_left_out_and_the_rest_is_taken(
    site: FederatedSite, clock: FixedClock
) -> None:
    before = await site.known()
    answer = await send(site, message(clock, [text("junk")], [row("junk")], version=2))
    assert answer.status == 200
    told = messages.decode(answer.body).envelope
    assert "version 2" in told.refused["patterns"]
    assert await site.known() == before
    assert await refusals(site) == {"newer records": 1}


async def test_evidence_under_our_own_name_changes_nothing(site: FederatedSite, clock: FixedClock) -> None:
    before = await site.known()
    forged = [row("ours", node="site-0", pos=10**6, version=50)]
    for path in ("exchange", "digests"):
        assert (await send(site, message(clock, [], forged), path=path)).status == 200
    assert await site.known() == before


async def test_a_million_junk_patterns_end_at_a_quota_and_in_isolation(
    site: FederatedSite, clock: FixedClock
) -> None:
    before = await site.sums()
    dao = site.federation.site.dao
    assert site.federation.site.quotas["patterns"].most == 50
    junk = [[text(f"junk {part} {nth}") for nth in range(20)] for part in range(8)]
    statuses = [(await send(site, message(clock, part))).status for part in junk]
    assert statuses == [200, 200, 429, 429, 429, 429, 429, 429]
    assert await refusals(site) == {"quota": 3, "isolated": 3}
    assert len(await site.sums()) == 1 + 40
    peer = await dao.peer("evil")
    assert peer is not None
    assert (peer.failures, peer.new_keys) == (3, 40)
    assert peer.isolated_until == clock.now() + timedelta(seconds=60)
    # Had it been set when this machine's clock was ahead, it would not hold for so long.
    await dao.isolate("evil", clock.now() + timedelta(days=300))
    assert (await send(site, message(clock, []))).status == 200
    # What it may bring no more, nobody may bring under other names beyond four times as much.
    for nth in range(5):
        more = [text(f"more {nth} {each}") for each in range(40)]
        status = (await send(site, message(clock, more, node=f"evil-{nth}"))).status
        assert status == (200 if nth < 4 else 429)
    assert len(await site.sums()) == 1 + 5 * 40 <= 1 + 4 * 50
    # The learner forgets them first: they never were of use.
    assert (await site.sums()).items() >= before.items()
    # A day later it is heard again.
    clock.advance(timedelta(days=1))
    assert (await send(site, message(clock, [text("another")]))).status == 200


async def test_what_is_too_long_is_not_read(site: FederatedSite) -> None:
    before = await site.known()
    answer = await send(site, io.BytesIO(b"\x00" * (messages.MOST_BYTES + 1)))
    assert answer.status == 413
    many = [[0] * 8] * (messages.MOST_RECORDS + 1)
    with pytest.raises(ValueError, match="less than or equal"):
        Section(kind="patterns", version=1, counts={"evidence": len(many)})
    assert await site.known() == before


class TestCalling:
    @pytest_asyncio.fixture
    async def trap(self) -> AsyncIterator[dict[str, Any]]:
        """A server that answers as `answer` says, and what it was asked."""
        trap: dict[str, Any] = {"asked": []}

        async def serve(request: web.Request) -> web.StreamResponse:
            trap["asked"].append((request.method, request.path))
            return trap["answer"](request)

        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", serve)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        trap["url"] = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield trap
        await runner.cleanup()

    async def test_answers_lead_nowhere_and_are_bounded(
        self, site: FederatedSite, clock: FixedClock, trap: dict[str, Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        before = await site.known()
        site.call(f"{trap['url']}/base/")
        caplog.set_level(logging.DEBUG)
        answers = {
            "is not followed": lambda _: web.Response(status=307, headers={"Location": trap["url"]}),
            "more than": lambda _: web.Response(body=b"x" * (messages.MOST_BYTES + 1)),
            "refused (malformed)": lambda _: web.Response(body=b"<html>"),
            "refused (another cluster)": lambda _: web.Response(body=message(clock, cluster="theirs")),
            "answers 500: no reason": lambda _: web.Response(status=500, text="x" * 10**6),
            "answers 502: no reason": lambda _: web.Response(status=502, text="[" * 10_000),
            "answers 403: a b": lambda _: web.json_response({"detail": "a\nb"}, status=403),
            "refused (records)": lambda _: web.Response(body=message(clock, [text("bad", version=0)])),
            "does not answer about patterns": lambda _: web.Response(
                body=message(clock, sections=[Section(kind="songs", version=1)])
            ),
            "can't be stored": lambda _: web.Response(
                body=message(clock, sections=[Section(kind="patterns", version=1, cursor="a\0")])
            ),
        }  # fmt: skip
        for told, answer in answers.items():
            trap["answer"] = answer
            [done] = await site.federation.sync()
            assert told in (done.failed or ""), done
        assert {path for _, path in trap["asked"]} == {
            "/base/federation/exchange", "/base/federation/digests",
        }  # fmt: skip
        assert await site.known() == before
        said = caplog.text + repr(await site.federation.site.dao.refusals())
        assert TOKEN not in said

    async def test_why_an_exchange_failed_is_shown_until_one_succeeds(
        self,
        postgres: ThrowAwayServer,
        template: str,
        settings_factory: SettingsFactory,
        clock: FixedClock,
        trap: dict[str, Any],
    ) -> None:
        async with federated(postgres, template, settings_factory, clock) as (one, two):

            async def seen() -> tuple[list[Any], list[list[Any]]]:
                status = plain(await views.status(one.federation.atlas))
                return status["failed"], [peer["failed"] for peer in status["peers"]]

            place = trap["url"].removeprefix("http://")
            one.call(trap["url"], two)
            trap["answer"] = lambda _: web.json_response({"detail": f"{TOKEN}?\n" + "x" * 999}, status=401)
            await one.federation.sync()
            told = f"{place} answers 401: …? {'x' * 297}"
            failure = {"place": place, "failed_at": "2026-11-02T12:00:00Z", "told": told}
            assert await seen() == ([failure], [[]])

            place = two.url.removeprefix("http://")
            one.call(two, cluster_name="other")
            await one.federation.sync()
            [[failure]] = (await seen())[1]
            assert "of another cluster: PLEIADES_FEDERATION__CLUSTER_NAME differs" in failure["told"]
            assert failure["told"].startswith(f"{place} answers 403: refused")
            assert (await seen())[0] == [], "that address is not called any more"
            one.call(two)
            assert [each.failed for each in await one.federation.sync()] == [None]
            assert await seen() == ([], [[]])

    async def test_no_request_can_name_a_peer(self, site: FederatedSite, trap: dict[str, Any]) -> None:
        admin = await _admin(site)
        for body in ({"peer": trap["url"]}, {"url": trap["url"]}, {"peers": [trap["url"]]}):
            answer = await site.served.post("/federation/sync", body, headers=admin)
            assert answer.status == 422
        answer = await site.served.post(f"/federation/sync?url={trap['url']}", headers=admin)
        assert (answer.status, answer.json) == (200, {"exchanged": []})
        assert trap["asked"] == []

    async def test_why_a_peer_can_not_be_reached_is_told_without_its_url(self) -> None:
        async with aiohttp.ClientSession() as session:
            peer = http.HttpPeer(session, "http://127.0.0.1:9/secret", SecretStr(TOKEN))
            with pytest.raises(PeerFailed, match="9 can't be reached: no connection; check") as failed:
                await peer.exchange(b"")
        assert "secret" not in str(failed.value)

    @pytest.mark.parametrize("limit", ["total", "sock_read"])
    async def test_a_peer_that_is_too_slow_is_said_to_be(self, limit: str) -> None:
        timeout = aiohttp.ClientTimeout(**{limit: 0.1})
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"http://127.0.0.1:{silent.getsockname()[1]}"
            async with aiohttp.ClientSession(timeout=timeout) as session:
                peer = http.HttpPeer(session, url, SecretStr(TOKEN))
                with pytest.raises(PeerFailed, match="does not answer in time"):
                    await peer.exchange(b"")

    def test_the_token_is_in_no_text_of_ours(self, site: FederatedSite) -> None:
        peer = http.HttpPeer(None, "http://[::1]:8080/x", SecretStr(TOKEN))  # type: ignore[arg-type]
        assert repr(peer) == "<HttpPeer [::1]:8080>"
        for url in (
            "http://user:hidden@a.example",
            "http://a.example/?key=hidden",
            "http://a.example/#hidden",
        ):
            with pytest.raises(ValueError, match="no user, password") as raised:
                FederationSettings(peers=(SecretStr(url),))
            assert "hidden" not in str(raised.value)
        assert TOKEN not in repr(site.atlas.settings)
        with pytest.raises(ValueError, match="16 characters"):
            FederationSettings(token=SecretStr("short"))


async def _admin(site: FederatedSite) -> dict[str, str]:
    from atlas.scopes import Scope

    return await site.served.add_key("admin", Scope.ADMIN)
