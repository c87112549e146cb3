"""Copies of parts of a peer's graph over HTTP: what they hold, and how they stay fresh."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from uuid import UUID

import pytest
import pytest_asyncio

from atlas.adapters.graph import OWN, Attention, Evidence, GraphDAO, Link, Node, Sources, Value, node_handle
from atlas.adapters.mirrors import GraphFilter, Mirror, MirrorsDAO
from atlas.clock import FixedClock
from atlas.errors import DataRefused
from atlas.testing import SettingsFactory, ThrowAwayServer
from maia.federation import mirror_keeping, mirroring
from maia.federation.http import place_of
from tests.federated import FederatedSite, federated

pytestmark = pytest.mark.integration

MUSIC, LIVE, JAZZ = (Node("tag", name) for name in ("music", "live", "jazz"))


def handle(node: Node) -> UUID:
    return node_handle(node.type, node.name)


def graph_of(site: FederatedSite, space: int = OWN) -> GraphDAO:
    return GraphDAO(site.atlas.db, clock=site.atlas.clock, settings=site.atlas.settings).of(space)


def mirrors_of(site: FederatedSite) -> MirrorsDAO:
    return MirrorsDAO(site.atlas.db, clock=site.atlas.clock, settings=site.atlas.settings)


@pytest_asyncio.fixture
async def two(
    postgres: ThrowAwayServer, template: str, settings_factory: SettingsFactory, clock: FixedClock
) -> AsyncIterator[Sequence[FederatedSite]]:
    async with federated(postgres, template, settings_factory, clock) as made:
        made[0].call(made[1])
        await graph_of(made[1]).add(
            [
                Link("co_occurs", (MUSIC, LIVE), Evidence(3, 1), 0.5),
                Link("co_occurs", (LIVE, JAZZ), Evidence(1, 3)),
                Link("evidence_for", (Node("pattern", "p"), Link("co_occurs", (MUSIC, LIVE)))),
                Node("concept", "craze"),
            ]
        )
        yield made


async def mirrored(site: FederatedSite, of: FederatedSite, name: str, wanted: GraphFilter) -> Mirror:
    mirror = await mirrors_of(site).add(name, place_of(of.url), wanted)
    [done] = await site.federation.refresh_mirrors([name])
    assert done.failed is None
    return mirror


async def held(site: FederatedSite, space: int) -> dict[str, int]:
    return await graph_of(site, space).count_by_type()


async def test_a_mirror_holds_what_its_filter_lets_through(two: Sequence[FederatedSite]) -> None:
    here, there = two
    for name, wanted, atoms in (
        ("all", GraphFilter(), {"tag": 3, "co_occurs": 2, "evidence_for": 1, "pattern": 1, "concept": 1}),
        ("tags", GraphFilter(("tag", "co_occurs")), {"tag": 3, "co_occurs": 2}),
        ("firm", GraphFilter(("tag", "co_occurs"), min_strength=0.5), {"tag": 3, "co_occurs": 1}),
        ("often", GraphFilter(("tag", "co_occurs"), min_count=5), {"tag": 3}),
        ("l", GraphFilter(prefix="l"), {"tag": 1}),
        ("near", GraphFilter(around=handle(MUSIC), hops=1), {"tag": 2, "co_occurs": 1}),
        ("far", GraphFilter(around=handle(MUSIC), hops=2), {"tag": 3, "co_occurs": 2}),
    ):
        mirror = await mirrored(here, there, name, wanted)
        assert await held(here, mirror.space) == atoms, name
        if name == "all":
            whole = mirror
    [link] = await graph_of(here, whole.space).incoming(handle(JAZZ))
    assert (link.positive, link.count, link.pos) == (1, 4, 0)
    assert await held(here, OWN) == {}
    # It is only read.
    copy = graph_of(here, whole.space)
    for writing in (
        copy.add([MUSIC]),
        copy.remove([handle(MUSIC)]),
        copy.set_values([Value(handle(MUSIC), "k", texts=["v"])]),
        copy.drop_values([(handle(MUSIC), "k")]),
        copy.attend({handle(MUSIC): Attention(1, 1)}, here.atlas.clock.now()),
    ):
        with pytest.raises(DataRefused, match="copy of another site's graph"):
            await writing
    await mirrors_of(here).remove("all")
    assert await held(here, whole.space) == {}
    assert "all" not in {each.name for each in await graph_of(here).spaces()}
    with pytest.raises(DataRefused, match="no mirror 'all'"):
        await here.federation.refresh_mirrors(["all"]) or await mirrors_of(here).get("all")


async def test_only_what_changed_is_fetched_and_all_of_it_at_once(
    two: Sequence[FederatedSite], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = two
    mirror = await mirrored(here, there, "tags", GraphFilter(("tag", "co_occurs")))
    await there.until_readable()
    [done] = await here.federation.refresh_mirrors()
    assert (done.fetched, done.dropped) == (0, 0)
    await graph_of(there).add([Link("co_occurs", (MUSIC, JAZZ)), Node("tag", "jazz", Evidence(7))])
    await graph_of(there).remove([handle(LIVE)])
    await there.until_readable()
    # If it ends early, all is as before.
    with monkeypatch.context() as patch:
        patch.setattr(mirroring, "_is_sound", lambda atom: atom.type != "tag")
        [failed] = await here.federation.refresh_mirrors()
        assert "makes no sense" in (failed.failed or "")
        assert await held(here, mirror.space) == {"tag": 3, "co_occurs": 2}
        assert "makes no sense" in ((await mirrors_of(here).get("tags")).failure or "")
    [done] = await here.federation.refresh_mirrors()
    assert (done.fetched, done.dropped, done.atoms) == (2, 3, 3)
    assert await held(here, mirror.space) == {"tag": 2, "co_occurs": 1}
    assert (await graph_of(here, mirror.space).get([handle(JAZZ)]))[0].positive == 7
    assert (await mirrors_of(here).get("tags")).failure is None


async def test_mirrors_follow_their_peers_within_a_moment(
    two: Sequence[FederatedSite], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = two
    monkeypatch.setattr(mirror_keeping, "GATHER_S", 0.01)
    monkeypatch.setattr(mirror_keeping, "LOOKED_EVERY_S", 0.05)
    mirror = await mirrored(here, there, "tags", GraphFilter(("tag",)))
    keeping = asyncio.create_task(here.federation.keep_mirrors())
    try:
        for nth in range(3):
            await graph_of(there).add([Node("tag", f"new {nth}")])
            async with asyncio.timeout(20):
                while (await held(here, mirror.space))["tag"] < 4 + nth:
                    await asyncio.sleep(0.02)
    finally:
        keeping.cancel()
        await asyncio.wait([keeping])


async def test_what_may_not_be_copied(two: Sequence[FederatedSite]) -> None:
    here, there = two
    await graph_of(there).add([Node("tag", "a fact")], Sources.FACTS)
    mirror = await mirrored(here, there, "tags", GraphFilter(("tag",)))
    assert await held(here, mirror.space) == {"tag": 3}
    off = there.atlas.settings.federation.model_copy(update={"graph": "off"})
    service = there.served.atlas
    whole = service.settings.model_copy(update={"federation": off})
    there.federation = type(there.federation)(replace(service, settings=whole))
    answer = there.federation.mirror_answering
    question = await here.federation.site.write([mirroring.Section(kind="mirror", version=1)], {"mirror": {}})
    with pytest.raises(mirroring.Refused, match="lets nobody copy"):
        await answer.answer(question)
