"""The graph of several sites: what each says all know, and truth that no echo can raise."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atlas.adapters.claims import Claim, Claims
from atlas.adapters.federation import Conflicts, FederationDAO
from atlas.adapters.graph import (
    DEEPEST,
    OWN,
    AtomType,
    Evidence,
    GraphDAO,
    Link,
    Node,
    Sources,
    link_handle,
    node_handle,
)
from atlas.adapters.graph_columns import GraphColumnsDAO
from atlas.adapters.graph_loading import GraphLoadingDAO
from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.testing import NOON, SettingsFactory, ThrowAwayServer
from maia.federation.atoms import AtomRecords
from maia.federation.departing import SiteNotForgotten, claiming_site, forget_site
from maia.federation.messages import decode
from maia.federation.publishing import SiteDesk
from maia.federation.refusals import Refused
from maia.learning.truth import TruthValue
from tests.graph_histories import ATOMS, History, expected, handle_of, outgoing_of
from tests.graph_sites import GraphSite, graph_sites

pytestmark = pytest.mark.integration

MUSIC, LIVE, CRAZE = Node("tag", "music"), Node("tag", "live"), Node("concept", "craze")


handle = handle_of


class _Undone(Exception):
    """Ends a transaction without a trace."""


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

    # What every peer would refuse keeps nothing else back.
    await one.graph.add([Node("tag", "loud", Evidence(10**12 + 1)), Node("tag", "quiet", Evidence(10**12))])
    assert (await one.call(two)).failed is None
    kept = await two.graph.get([node_handle("tag", name) for name in ("loud", "quiet")])
    assert [each.name for each in kept] == ["quiet"]


async def test_a_departed_site_is_forgotten_at_all_sites(
    sites: Sequence[GraphSite], clock: FixedClock
) -> None:
    one, two, three = sites
    about = Link("related_to", (Node("concept", "mine"), MUSIC), Evidence(2), 0.5)
    await one.graph.add([about, LIVE, Node("tag", "music", Evidence(5))])
    await two.graph.add([Node("tag", "music", Evidence(1, 3)), LIVE])
    # A link of another site to what only the departed one says waits from then on.
    await one.call(two)
    await three.call(two)
    await three.graph.add([Link("related_to", (node_handle("concept", "mine"), handle(LIVE)))])
    await three.call(two)
    [found, _] = await two.claims.sites()
    assert (found.site, found.claims, found.alone) == ("site-0", 4, 1)
    with pytest.raises(SiteNotForgotten, match=r"was seen at .* leave there, or give --force"):
        await claiming_site(two.atlas, "site-0")
    with pytest.raises(SiteNotForgotten, match="several sites begin with 'site': site-0, site-2"):
        await claiming_site(two.atlas, "site")
    with pytest.raises(SiteNotForgotten, match=r"no other site 'site-1' says .* these do: site-0, site-2"):
        await claiming_site(two.atlas, "site-1")
    clock.advance(timedelta(days=2))
    await three.call(two)
    assert await forget_site(two.atlas, await claiming_site(two.atlas, "site-0")) == 4
    [event] = await two.atlas.events.since(0, kinds=["graph.site_forgotten"])
    assert event.payload == {"site": "site-0", "claims": 4}
    await three.call(two, compare=True)
    await agree(two, three)
    left = {row[1] or row[0]: row[3:] for row in (await two.atoms()).values()}
    # What three said of it, it says still.
    assert left == {"music": (1, 4), "live": (0, 0), "mine": (0, 0), "related_to": (0, 0)}
    assert [each.site for each in await three.claims.sites()] == ["site-1"]
    assert await three.site.dao.count_sites(NOON) == 2
    # If it is alive after all, it hears so when it compares, and says what holds.
    for caller in (one, one, three):
        await caller.call(two, compare=True)
    await agree(one, two, three)
    assert (await three.atoms())[handle(MUSIC)][3:] != (1, 4)


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
    # What is nested deeper than it could be written goes on waiting.
    known, top, tower = {*await two.atoms()}, handle(CRAZE), list[Claim]()
    for _ in range(DEEPEST + 2):
        ends, top = (top,), link_handle("related_to", [top])
        tower.insert(0, Claim(top, "c", True, 0, 0, None, NOON, 1, "related_to", outgoing=ends))
    async with two.site.dao.transaction() as dao:
        await dao.claims().merge(Claims(tower), "c")
    assert {*await two.atoms()} - known == {each.handle for each in tower[2:]}


async def test_what_is_told_is_up_to_the_site(sites: Sequence[GraphSite], clock: FixedClock) -> None:
    one, two, three = sites
    for each in sites:
        each.set(graph="people")
        await each.site.prepare()
    video = Node("video", "dQw4w9WgXcQ")
    await one.graph.add([Link("tagged", (video, MUSIC)), Link("co_occurs", (MUSIC, LIVE))], Sources.FACTS)
    await one.graph.add([Link("related_to", (handle(MUSIC), CRAZE))], Sources.PEOPLE)
    await one.call(two)
    # The ends of a link come along, whoever says so.
    assert sorted(row[0] for row in (await two.atoms()).values()) == ["concept", "related_to", "tag"]
    one.set(graph="topics")
    await one.call(two)
    assert sorted(row[0] for row in (await two.atoms()).values()) == [
        "co_occurs", "concept", "related_to", "tag", "tag",
    ]  # fmt: skip
    one.set(graph="all")
    await one.call(two)
    await agree(one, two)
    # Facts about videos that are erased are not told by name.
    clock.advance(timedelta(hours=1))
    await one.graph.remove([handle(video)], Sources.FACTS)
    [gone] = (await one.claims.whole([handle(video)])).claims
    assert (gone.present, gone.type, gone.name, gone.outgoing) == (False, None, None, None)
    await one.call(two)
    await agree(one, two)
    assert handle(video) not in await two.atoms()
    # What is erased is not taken from others either, even if they said so first.
    two.set(graph="all")
    await two.graph.add([Link("tagged", (Node("video", "erased"), MUSIC))], Sources.FACTS)
    await one.call(two)
    assert node_handle("video", "erased") in await one.atoms()
    await one.graph.remove([node_handle("video", "erased")], Sources(15))
    await one.call(two, compare=True)
    assert node_handle("video", "erased") not in await one.atoms()
    assert "tagged" not in {row[0] for row in (await one.atoms()).values()}
    await one.check()
    # Who exchanges no graph is left alone, and still exchanges patterns.
    three.set(graph="off")
    done = await one.call(three)
    assert "exchanges no graph" in done.refused["atoms"]
    assert await three.atoms() == {}
    assert [each.count for each in await three.site.dao.refusals()] == []


async def test_a_site_decides_whom_to_believe_at_any_time(
    sites: Sequence[GraphSite], clock: FixedClock
) -> None:
    one, two, three = sites
    await one.graph.add([Node("tag", "music", Evidence(60, 40))])
    await two.graph.add([Node("tag", "music", Evidence(1, 9))])
    clock.advance(timedelta(hours=1))
    await three.graph.add([Node("tag", "music", Evidence(2, 0))])
    for other in (two, three, two):
        await one.call(other)
    for conflicts, believed in (
        ("latest", (2, 2)),
        ("confident", (60, 100)),
        ("merge", pytest.approx((61.67, 109.6), rel=1e-3)),
    ):
        for each in sites:
            each.set(conflicts=conflicts)
            await each.site.prepare()
            [music] = await each.graph.get([handle(MUSIC)])
            assert (music.positive, music.count) == believed
        await agree(*sites)
    assert music.count == pytest.approx(100 + 0.8 * 10 + 0.8 * 2)
    # What is counted here counts at once.
    await one.graph.add([Node("tag", "music", Evidence(100))], counting=True)
    [music] = await one.graph.get([handle(MUSIC)])
    assert music.count == pytest.approx(200 + 0.8 * 10 + 0.8 * 2)


async def test_types_of_ones_own_come_along(sites: Sequence[GraphSite]) -> None:
    one, two, three = sites
    for site, is_symmetric in ((one, False), (three, True)):
        await site.graph.add_type(AtomType("sponsors", is_link=True, is_symmetric=is_symmetric, what="pays"))
    ends = sorted([MUSIC, CRAZE], key=handle, reverse=True)
    await one.graph.add([Link("sponsors", (ends[0], ends[1]))])
    for other in (two, three):
        await one.call(other)
    assert await two.atoms() == await one.atoms()
    assert {row[0] for row in (await three.atoms()).values()} == {"tag", "concept"}


async def test_a_restored_copy_counts_once(sites: Sequence[GraphSite], clock: FixedClock) -> None:
    one, two, three = sites
    await one.graph.add([Node("tag", "music", Evidence(10))])
    history = History([one, two, three], clock, random.Random(1))
    await history.back_up(0)
    await one.graph.add([Node("tag", "music", Evidence(20)), CRAZE])
    await one.call(two)
    await history.restore(0)
    name = await one.site.dao.own_node()
    assert name.startswith("site-0.")
    await one.call(two, compare=True)
    await three.call(two)
    await agree(one, two, three)
    # What it said since comes back, and what it says again takes the place of what it said before.
    assert handle(CRAZE) in await one.atoms()
    assert (await three.graph.get([handle(MUSIC)]))[0].count == 10
    await one.graph.remove([handle(CRAZE)])
    await one.call(two)
    await three.call(two)
    await agree(one, two, three)
    assert handle(CRAZE) not in await three.atoms()
    renamed = await one.site.dao.rename()
    assert renamed != name
    await one.call(two)
    assert {claim.node for claim in await two.all_claims()} == {renamed}
    # Whoever pretends to be a later copy of it is outbid by another name.
    [ours] = (await one.claims.whole([handle(MUSIC)])).claims
    forged = replace(ours, node=f"site-0.{10**17 - 5}", pos=10**6)
    async with three.site.dao.transaction() as dao:
        await dao.claims().merge(Claims([forged]), "evil")
    await one.call(three)
    assert (await one.graph.get([handle(MUSIC)]))[0].count > 10**5
    assert await one.site.dao.rename() == f"site-0.{10**17 - 4}"
    await one.call(three)
    await one.call(two)
    await agree(one, two, three)
    assert (await three.graph.get([handle(MUSIC)]))[0].count == 10


async def test_who_hears_that_it_said_what_it_does_not_says_so(sites: Sequence[GraphSite]) -> None:
    one, two, three = sites
    await one.graph.add([CRAZE, MUSIC])
    await one.call(two)
    # As if its disk had been set back, or what it took back were forgotten.
    await History([one], one.atlas.clock, random.Random(1)).begin("merge")  # type: ignore[arg-type]
    await one.graph.add([MUSIC])
    await one.call(two, compare=True)
    await one.call(two)
    await agree(one, two)
    assert {*await two.atoms()} == {handle(MUSIC)}
    # When all atoms are replaced, what others say is heard again.
    await three.graph.add([Link("related_to", (LIVE, CRAZE))])
    await one.call(three)
    loading = GraphLoadingDAO(one.atlas.db, clock=one.atlas.clock, settings=one.atlas.settings)
    columns = GraphColumnsDAO(one.atlas.db, clock=one.atlas.clock, settings=one.atlas.settings)
    await loading.load(OWN, await columns.read(OWN))
    assert {*await one.atoms()} == {handle(MUSIC)}
    await one.call(three)
    await one.call(two)
    assert await one.atoms() == await two.atoms() == await three.atoms()
    assert len(await one.atoms()) == 4


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": "another"}, "not what its handle says"),
        ({"type": "concept"}, "not what its handle says"),
        ({"type": None}, "isn't said what"),
        ({"outgoing": (UUID(int=1),)}, "isn't said what"),
        ({"present": False}, "taken back, and yet described"),
        ({"pos": -1}, "greater than or equal to 0"),
        ({"pos": 10**13}, "less than or equal to"),
        ({"version": 10**17}, "less than or equal to"),
        ({"version": 2 * 10**15}, "from the future"),
        ({"seen_at": datetime(2030, 1, 1, tzinfo=UTC)}, "from the future"),
        ({"weight": float("nan")}, "finite"),
        ({"node": "no name"}, "match pattern"),
        ({"node": f"site.{10**17}"}, "is no name"),
        ({"name": "x" * 301}, "at most 300"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], reason: str) -> None:
    now = datetime(2026, 11, 2, 12, tzinfo=UTC)
    sound = Claim(handle(MUSIC), "evil", True, 1, 0, None, now, 10**15, "tag", "music")
    kind = AtomRecords(90)
    assert kind.check(kind.packed(Claims([sound])), now) == Claims([sound], [])
    with pytest.raises(Refused, match=reason):
        kind.check(kind.packed(Claims([replace(sound, **changes)])), now)
    link = Claim(UUID(int=0), "evil", True, 0, 0, None, now, 1, "co_occurs", None, (UUID(int=2), UUID(int=1)))
    unsorted = replace(link, handle=link_handle("co_occurs", link.outgoing or ()))
    symmetric = AtomType("co_occurs", is_link=True, is_symmetric=True, what="-")
    with pytest.raises(Refused, match="not what its handle says"):
        kind.check(kind.packed(Claims([unsorted], [symmetric])), now)


async def test_new_atoms_have_a_quota(sites: Sequence[GraphSite]) -> None:
    one, two, _ = sites
    two.set(most_new_atoms=5)
    await one.graph.add([Node("concept", f"c{n}") for n in range(6)])
    with pytest.raises(Refused, match="more than 5 new atoms a day"):
        await one.call(two)
    assert await two.atoms() == {}
    two.set(most_new_atoms=6)
    await one.call(two)
    await one.graph.add([Node("concept", "one more")])
    with pytest.raises(Refused, match="MOST_NEW_ATOMS"):
        await one.call(two)


async def test_what_passes_through_redis_is_ones_own(sites: Sequence[GraphSite]) -> None:
    one, two, _ = sites
    desk, theirs = SiteDesk(one.site), SiteDesk(two.site)
    await two.graph.add([MUSIC])
    await one.call(two)
    begin = await desk.changes(None)
    await one.graph.add([Link("co_occurs", (MUSIC, LIVE))])
    await two.call(one)
    told = await desk.changes(begin.cursor)
    assert told.message is not None
    assert {row[1] for row in decode(told.message).tables["atoms"]["atoms"]} == {"site-0"}
    assert await theirs.merge(told.message)
    await agree(one, two)


def _claim(atom: Node | Link, node: str, version: int, seed: int) -> Claim:
    """A state of a register."""
    drawn = random.Random(f"{atom} {node} {version} {seed}")
    seen_at = datetime(2026, 11, 1, tzinfo=UTC) + timedelta(hours=drawn.randrange(5))
    if drawn.random() < 0.3:
        return Claim(handle_of(atom), node, False, 0, 0, None, seen_at, version)
    pos, neg = drawn.randrange(50), drawn.randrange(50)
    told = Claim(handle_of(atom), node, True, pos, neg, None, seen_at, version, atom.type)
    if isinstance(atom, Node):
        return replace(told, name=atom.name)
    return replace(told, outgoing=outgoing_of(atom))


claims = st.lists(
    st.builds(
        _claim,
        st.sampled_from(ATOMS),
        st.sampled_from(["a", "a.17", "b", "c.3"]),
        st.integers(1, 3),
        st.integers(0, 1),
    ),
    min_size=1,
    max_size=40,
)


async def test_in_whatever_order_claims_come_the_same_is_believed(atlas: Atlas) -> None:
    found: list[tuple[list[Claim], random.Random]] = []

    @settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
    @given(claims, st.randoms(use_true_random=False))
    def collect(drawn: list[Claim], chance: random.Random) -> None:
        found.append((drawn, random.Random(chance.randrange(2**32))))

    collect()
    federation = FederationDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    for drawn, chance in found:
        conflicts: Conflicts = chance.choice(["merge", "latest", "confident"])
        states = []
        for _ in range(2):
            order = chance.sample(drawn, len(drawn)) + chance.sample(drawn, chance.randrange(len(drawn) + 1))
            with contextlib.suppress(_Undone):
                async with federation.transaction() as dao:
                    await dao.prefer(conflicts)
                    while order:
                        taken = order[: chance.randrange(1, 15)]
                        await dao.claims().merge(Claims(taken), "another")
                        order = order[len(taken) :]
                    handles = [handle_of(atom) for atom in ATOMS]
                    there = (
                        await GraphDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
                        .joining(dao)
                        .get(handles)
                    )
                    kept = (await dao.claims().whole(handles)).claims
                    states.append(({atom.handle: (atom.positive, atom.count) for atom in there}, {*kept}))
                    raise _Undone
        assert states[0] == states[1]
        assert states[0][0] == expected([*states[0][1]], conflicts)


async def test_whatever_happens_all_end_equal(sites: Sequence[GraphSite], clock: FixedClock) -> None:
    history = History(sites, clock, random.Random(20261130))
    await history.begin("merge")
    for _ in range(30):
        await history.step()
    await history.settle()
