"""The graph of several sites: what each says all know, and truth that no echo can raise."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from uuid import UUID

import pytest
import pytest_asyncio

from atlas.adapters.graph import Evidence, GraphDAO, Link, Node, Sources, link_handle, node_handle
from atlas.clock import FixedClock
from atlas.testing import SettingsFactory, ThrowAwayServer
from maia.learning.truth import TruthValue
from tests.graph_sites import GraphSite, graph_site, graph_sites

pytestmark = pytest.mark.integration

MUSIC, LIVE, CRAZE = Node("tag", "music"), Node("tag", "live"), Node("concept", "craze")


def handle(node: Node) -> UUID:
    return node_handle(node.type, node.name)


@pytest_asyncio.fixture
async def sites(
    postgres: ThrowAwayServer, template: str, settings_factory: SettingsFactory, clock: FixedClock
) -> AsyncIterator[Sequence[GraphSite]]:
    async with graph_sites(postgres, template, settings_factory, clock, 3) as made:
        yield made


async def agree(*sites: GraphSite) -> None:
    first = sites[0]
    for each in sites:
        await each.check()
        assert await each.atoms() == await first.atoms()
        assert {*await each.all_claims()} == {*await first.all_claims()}


async def test_what_each_says_all_know(sites: Sequence[GraphSite], clock: FixedClock) -> None:
    one, two, three = sites
    inner = Link("co_occurs", (MUSIC, LIVE), Evidence(3, 1), 0.5)
    await one.graph.add([Link("evidence_for", (Node("pattern", "p"), inner), Evidence(2)), inner])
    await two.graph.add([Node("tag", "music", Evidence(9000, 1000))])
    await one.graph.add([Node("tag", "music", Evidence(720, 6480))])
    done = await one.call(two)
    assert done.failed is None
    assert (done.sent, done.changed) == (5 + 4, 1)
    await three.call(two)
    await agree(one, two, three)
    [music] = await three.graph.get([handle(MUSIC)])
    assert music.sources == Sources.SITES
    both = TruthValue.of_counts(9000, 1000).revised(TruthValue.of_counts(720, 6480))
    assert TruthValue.of_counts(music.positive, music.count - music.positive).confidence == pytest.approx(
        both.confidence
    )
    assert music.positive / music.count == pytest.approx(both.strength)
    # Nothing more to say, whoever asks, and however often.
    for caller, called in ((one, two), (two, three), (three, one), (one, three)):
        done = await caller.call(called, compare=True)
        assert (done.changed, done.differing) == (0, 0)
    await agree(one, two, three)
    assert (await three.graph.get([handle(MUSIC)]))[0].count == music.count

    # What one takes back stays as long as another says so, with its links at those that say so.
    clock.advance(timedelta(hours=1))
    await one.graph.remove([handle(MUSIC)])
    for _ in range(2):
        await one.call(two)
        await three.call(two)
    await agree(one, two, three)
    assert handle(MUSIC) in await one.atoms()
    assert {row[0] for row in (await one.atoms()).values()} == {"tag", "pattern"}
    assert (await one.graph.get([handle(MUSIC)]))[0].count == 10_000
    await two.graph.remove([handle(MUSIC)])
    for _ in range(2):
        await one.call(two)
        await three.call(two)
    await agree(one, two, three)
    assert handle(MUSIC) not in await three.atoms()


async def carry(source: GraphSite, target: GraphSite, *handles: UUID) -> list[UUID]:
    """Let one message with all claims about some atoms arrive; returns the atoms that links wait for."""
    whole = await source.claims.whole(handles)
    async with target.site.dao.transaction() as dao:
        return [*(await dao.claims().merge(whole, source.place)).missing]


async def test_links_wait_for_their_ends(sites: Sequence[GraphSite]) -> None:
    one, two, _ = sites
    inner = Link("related_to", (MUSIC, CRAZE))
    outer = Link("evidence_for", (Node("pattern", "p"), inner), Evidence(1))
    await one.graph.add([outer])
    inside = link_handle("related_to", [handle(MUSIC), handle(CRAZE)])
    outside = link_handle("evidence_for", [node_handle("pattern", "p"), inside])
    assert {*await carry(one, two, outside)} == {node_handle("pattern", "p"), inside}
    assert {*await carry(one, two, inside, node_handle("pattern", "p"))} == {handle(MUSIC), handle(CRAZE)}
    assert await carry(one, two, handle(MUSIC)) == []
    await two.check()
    assert {*await two.atoms()} == {handle(MUSIC), node_handle("pattern", "p")}
    # The end that is missing is said here first.
    await two.graph.add([CRAZE])
    assert {*await two.atoms()} == {*await one.atoms()}
    await two.check()
    # An end that is taken back before its links are.
    await one.graph.remove([handle(MUSIC)])
    await carry(one, two, handle(MUSIC))
    await two.check()
    assert {*await two.atoms()} == {handle(CRAZE), node_handle("pattern", "p")}
    await carry(one, two, outside, inside)
    await one.call(two)
    await agree(one, two)
