"""Two sites that exchange over HTTP: what each learns, both know, whatever is repeated, lost or hostile."""

from __future__ import annotations

import re
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import date, datetime, timedelta
from hashlib import sha256
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from atlas.adapters.federation import Digest, FederationDAO
from atlas.adapters.patterns import NewEvidence, PatternsDAO, StoredEvidence
from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.db import sql_of
from atlas.testing import SettingsFactory, ThrowAwayServer
from maia.federation import exchange
from maia.federation.peers import Called
from tests.federated import FederatedSite, federated, pattern

pytestmark = pytest.mark.integration


@pytest_asyncio.fixture
async def sites(
    postgres: ThrowAwayServer, template: str, settings_factory: SettingsFactory, clock: FixedClock
) -> AsyncIterator[Sequence[FederatedSite]]:
    async with federated(postgres, template, settings_factory, clock) as made:
        yield made


@pytest.fixture
def run_at() -> Callable[[FederatedSite, str], Awaitable[None]]:
    """Runs SQL in a site's database."""

    async def run(site: FederatedSite, statement: str) -> None:
        connection = await asyncpg.connect(site.atlas.db.url_of())
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    return run


async def test_what_each_learns_both_know(sites: Sequence[FederatedSite]) -> None:
    one, two = sites
    one.call(two)
    shared = await one.learn("shared", 3, 1)
    await two.learn("shared", 5, 2)
    only_one, only_two = await one.learn("one"), await two.learn("two", 0, 4)
    [done] = await one.sync()
    assert (done.sent, done.received, done.refused) == (4, 4, {})
    assert await one.sums() == {shared: (8, 3), only_one: (1, 0), only_two: (0, 4)}
    assert await one.known() == await two.known()
    [again] = await one.sync()
    assert again.changed == 0
    [known] = await one.patterns.known(ids=[shared])
    assert known.sites == 2
    await one.learn("shared", 2)
    [then] = await one.sync()
    assert (then.sent, then.received, then.changed) == (1, 0, 0), "a row of evidence, without its text"
    assert (await two.sums())[shared] == (10, 3)


async def test_many_records_go_in_several_messages(
    sites: Sequence[FederatedSite], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = sites
    one.call(two)
    monkeypatch.setattr(exchange, "PAGE", 3)
    for nth in range(5):
        await one.learn(f"one {nth}")
        await two.learn(f"two {nth}")
    [done] = await one.sync()
    assert (done.sent, done.received) == (10, 10)
    assert done.messages >= 4
    assert await one.known() == await two.known()
    assert len(await one.sums()) == 10


async def test_evidence_whose_pattern_is_not_known_brings_the_pattern_along(
    sites: Sequence[FederatedSite], run_at: Callable[[FederatedSite, str], Awaitable[None]]
) -> None:
    one, two = sites
    one.call(two)
    shared = await one.learn("shared", 4)
    await one.sync()
    await run_at(two, "DELETE FROM patterns")
    await one.learn("shared", 1)
    await one.sync()
    assert await two.sums() == {shared: (5, 0)}
    assert await one.known() == await two.known()


async def test_a_comparison_repairs_what_no_feed_tells_of(
    sites: Sequence[FederatedSite],
    run_at: Callable[[FederatedSite, str], Awaitable[None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, two = sites
    one.call(two)
    monkeypatch.setattr(exchange, "WHOLE", 2)
    for nth in range(40):
        await one.learn(f"one {nth}")
        await two.learn(f"two {nth}", 2)
    await one.sync()
    await run_at(two, "DELETE FROM patterns WHERE action LIKE 'one%' AND id < '8'")
    await run_at(one, "DELETE FROM patterns WHERE action LIKE 'two%' AND id > '8'")
    await run_at(one, "UPDATE pattern_evidence SET pos = 1 WHERE pos = 2")
    [done] = await one.sync(compare=True)
    assert done.compared
    assert done.differing > 10
    assert await one.known() == await two.known()
    assert len(await one.sums()) == 80
    [again] = await one.sync(compare=True)
    assert (again.differing, again.sent, again.received) == (0, 0, 0)
    # It was noted when this machine's clock was ahead.
    await run_at(one, "UPDATE federation_peers SET compared_at = compared_at + interval '300 days'")
    [later] = await one.sync(compare=None)
    assert later.compared


class TestForgetting:
    async def test_what_an_operator_forgets_is_forgotten_everywhere(
        self, sites: Sequence[FederatedSite], clock: FixedClock
    ) -> None:
        one, two = sites
        one.call(two)
        id_ = await one.learn("shared")
        await two.learn("shared")
        await one.sync()
        clock.advance(timedelta(hours=1))
        await two.patterns.forget([id_], "operator")
        await one.learn("shared")
        await one.sync()
        assert await one.sums() == await two.sums() == {}
        assert await one.known() == await two.known()
        clock.advance(timedelta(hours=1))
        await one.patterns.remember([id_])
        await one.sync()
        await two.learn("shared", 7)
        await one.sync()
        assert await one.sums() == await two.sums() == {id_: (7, 0)}

    async def test_what_a_learner_forgets_is_its_own_affair_until_there_is_newer_evidence(
        self, sites: Sequence[FederatedSite], clock: FixedClock
    ) -> None:
        one, two = sites
        one.call(two)
        id_ = await one.learn("shared", 3)
        await one.sync()
        clock.advance(timedelta(hours=1))
        await two.patterns.forget([id_], "learner")
        await one.sync(compare=True)
        assert await two.sums() == {}
        assert await one.sums() == {id_: (3, 0)}
        [again] = await one.sync(compare=True)
        assert again.sent == again.received == 0, "what can't be repaired is not sent again and again"
        clock.advance(timedelta(hours=1))
        await one.learn("shared", 2)
        await one.sync()
        assert await two.sums() == {id_: (5, 0)}

    async def test_pins_are_each_sites_own(self, sites: Sequence[FederatedSite]) -> None:
        one, two = sites
        one.call(two)
        id_ = await one.learn("shared")
        await two.learn("shared")
        await two.patterns.pin([id_])
        await one.sync()
        assert [[each.pinned for each in await site.patterns.known()] for site in sites] == [[False], [True]]


class TestRestored:
    async def test_a_restored_copy_counts_under_a_new_name_and_gets_its_rows_back(
        self, sites: Sequence[FederatedSite], run_at: Callable[[FederatedSite, str], Awaitable[None]]
    ) -> None:
        one, two = sites
        one.call(two)
        id_ = await two.learn("shared", 3)
        await one.sync()
        # As if it had been restored from a backup that was made before it counted.
        await run_at(two, "DELETE FROM patterns")
        await run_at(two, "UPDATE site SET identity = 'another', counts_in = 'another'")
        await two.learn("shared", 5)
        await one.sync(compare=None)
        nodes = [(row.node, row.pos) for row in await one.patterns.evidence([id_])]
        assert [pos for _, pos in nodes] == [3, 5]
        assert nodes[0][0] == "site-1"
        assert re.fullmatch(r"site-1\.\d{16}", nodes[1][0])
        assert await one.sums() == await two.sums() == {id_: (8, 0)}
        assert await one.known() == await two.known()
        assert [each.sites for each in await one.patterns.known()] == [1], "it is one site all the same"

    async def test_a_disk_that_was_set_back_is_noticed_and_can_be_renamed(
        self, sites: Sequence[FederatedSite], run_at: Callable[[FederatedSite, str], Awaitable[None]]
    ) -> None:
        one, two = sites
        one.call(two)
        id_ = await one.learn("shared", 3)
        await one.sync()
        dao = two.federation.site.dao
        read = (await dao.positions("site-0"))["patterns"]
        database, xid, rest = read.split("-", 2)
        await dao.move("site-0", "patterns", f"{database}-{int(xid, 16) + 10**6:x}-{rest}")
        await one.sync()
        await one.sync()
        [refusal] = await one.federation.site.dao.refusals()
        assert (refusal.node, refusal.reason) == ("site-1", "set back")
        assert "maia federation rename" in refusal.last_told
        assert re.fullmatch(r"site-0\.\d{16}", await one.federation.site.dao.rename())
        await one.learn("shared", 4)
        await one.sync()
        assert await two.sums() == {id_: (7, 0)}


async def test_what_everybody_tells_everybody_hears(
    postgres: ThrowAwayServer, template: str, settings_factory: SettingsFactory, clock: FixedClock
) -> None:
    """A star: the sites at its points never call each other."""
    async with federated(postgres, template, settings_factory, clock, 3) as (hub, one, two):
        one.call(hub)
        two.call(hub, two)
        id_ = ""
        for pos, site in enumerate((hub, one, two), 1):
            id_ = await site.learn("shared", pos)
        await one.sync()
        assert (await two.sync())[1].refused == {"all": "it is this site itself"}
        await one.sync()
        assert [await site.sums() for site in (hub, one, two)] == [{id_: (6, 0)}] * 3
        shown = (await one.served.get(f"/patterns/{id_}")).json["pattern"]
        assert (shown["sites"], shown["of_sites"]) == (3, 3)
        assert "3 of 3" in (await one.served.get(f"/learnt/{id_}")).body.decode()
        status = (await hub.served.get("/federation/status")).json
        assert (status["site"], status["cluster"], status["sites"]) == ("site-0", "test", 3)
        assert {peer["node"] for peer in status["peers"]} == {"site-1", "site-2"}
        assert (await two.federation.leave())[hub.url.removeprefix("http://")] is None
        assert (await hub.served.get("/federation/status")).json["sites"] == 2
        await one.sync()
        shown = (await one.served.get(f"/patterns/{id_}")).json["pattern"]
        assert (shown["sites"], shown["of_sites"]) == (3, 3), "what it counted stays"


async def test_in_a_mesh_a_row_passes_between_two_sites_at_most_once(
    postgres: ThrowAwayServer, template: str, settings_factory: SettingsFactory, clock: FixedClock
) -> None:
    async with federated(postgres, template, settings_factory, clock, 3) as sites:
        for site in sites:
            site.call(*(other for other in sites if other is not site))
            await site.learn("shared")
        for site in (*sites, *sites, *sites):
            await site.sync()
        one, two, three = sites
        await one.learn("shared", 4)
        passed = [
            (done.sent, done.received)
            for site in (one, two, three, one, two, three)
            for done in await site.sync()
        ]
        # One tells both others, and those tell each other.
        assert passed == [(1, 0), (1, 0), (0, 0), (1, 0), *[(0, 0)] * 8]
        assert await one.known() == await two.known() == await three.known()


async def test_an_address_that_was_this_sites_own_may_lead_to_another_later(
    sites: Sequence[FederatedSite],
) -> None:
    one, two = sites
    id_ = await two.learn("shared", 3)
    await two.until_readable()
    now_s, leads_to, calls = 100.0, one, 0

    class Address:
        place = "site.example:443"

        async def exchange(self, message: bytes) -> bytes:
            nonlocal calls
            calls += 1
            if leads_to is one:
                raise exchange.CallsItself("it is this site itself")
            return await leads_to.federation.answering.exchange(message)

        async def compare(self, message: bytes) -> bytes:
            return await leads_to.federation.answering.compare(message)

    called = Called(one.federation.site, Address(), clock=lambda: now_s)
    for _ in range(2):
        assert (await called.sync()).refused == {"all": "it is this site itself"}
    assert calls == 1
    leads_to = two
    now_s += 3_599
    await called.sync()
    assert calls == 1
    now_s += 1
    done = await called.sync()
    assert (done.failed, done.refused, done.node) == (None, {}, "site-1")
    assert await one.sums() == {id_: (3, 0)}


async def test_what_an_answer_told_is_told_again_if_it_was_lost(sites: Sequence[FederatedSite]) -> None:
    one, two = sites
    one.call(two)
    two.call(one)
    await one.learn("shared")
    await one.sync()
    await two.sync()
    learnt = await two.learn("lost", 2)
    await two.until_readable()

    class Lossy:
        place = two.url.removeprefix("http://")

        async def exchange(self, message: bytes) -> bytes:
            await two.federation.answering.exchange(message)
            raise exchange.PeerFailed("the connection broke")

        compare = exchange

    with pytest.raises(exchange.PeerFailed):
        await exchange.Exchange(one.federation.site, Lossy()).run()
    assert learnt not in await one.sums()
    await two.sync()
    assert (await one.sums())[learnt] == (2, 0)


class TestStore:
    async def test_reading_on_looks_at_no_more_than_what_changed(self, atlas: Atlas, sql: Any) -> None:
        patterns = PatternsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        contents = [pattern(f"pattern {nth}") for nth in range(2_000)]
        now = atlas.clock.now()
        counted = [NewEvidence(each.id, now.date(), 1, 0, 1.0, now) for each in contents]
        await patterns.store(contents)
        await patterns.count(counted)
        await sql.execute("ANALYZE patterns, pattern_evidence")
        place = await sql.fetchval("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
        await patterns.count(counted[:1])
        plan = await sql.fetch(
            f"EXPLAIN (ANALYZE, COSTS OFF) {sql_of('federation.since')}",
            place, "", "", date.min, place + 10, "", date.min, 100,
        )  # fmt: skip
        text = "\n".join(row[0] for row in plan)
        assert "Seq Scan" not in text
        assert "patterns_by_change" in text
        assert "pattern_evidence_by_change" in text

    async def test_digests_are_as_defined_wherever_they_are_computed(self, atlas: Atlas, sql: Any) -> None:
        patterns = PatternsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        now = datetime.fromisoformat("2026-11-02T12:00:00.000001Z")
        content = pattern("shared")
        await patterns.store([content])
        rows = [
            StoredEvidence(content.id, "site-0", now.date(), 3, 1, 0.1, now, 2),
            StoredEvidence(content.id, "site-\u00e9", now.date(), 0, 0, -0.0, now, 1),
        ]
        await patterns.merge_evidence(rows)
        told = [
            ("e", content.id, row.node, 20_759, row.pos, row.neg,
             struct.pack(">d", row.sum_reward + 0.0).hex(), 1_793_620_800_000_001, row.version)
            for row in rows
        ]  # fmt: skip
        # The pattern's own text was stored at noon.
        text = ("p", content.id, 1, 1_793_620_800_000_000, -1, -1, "shared pays", "[]", "shared", "{}")
        hashes = [sha256("\x1f".join(map(str, each)).encode()).digest()[:8] for each in (*told, text)]
        total = sum((int.from_bytes(each, signed=True) + 2**63) % 2**64 for each in hashes) % 2**64
        dao = FederationDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        await sql.execute(
            "SET DateStyle = 'German'; SET TimeZone = 'Asia/Tokyo'; SET extra_float_digits = -5"
        )
        for prefix, digits in (("", 2), (content.id[:2], 2)):
            found = await dao.digests([prefix], digits, date.min)
            bucket = content.id[: len(prefix) + digits]
            assert found == {bucket: Digest(3, total)}
            [row] = await sql.fetch(sql_of("federation.digests"), [prefix], digits, date.min)
            assert (row["rows"], int(row["total"])) == (3, total)
