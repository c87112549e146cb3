"""What a site publishes through Redis: its own, as it happens, and nothing of what others told it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from pydantic import SecretStr

from atlas.adapters.patterns import NewEvidence
from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.errors import ConfigError, UnknownCursor
from atlas.testing import SettingsFactory, ThrowAwayServer
from maia.federation import publishing
from maia.federation.messages import decode
from maia.federation.publishing import SiteDesk, streaming
from maia.federation.refusals import Refused
from maia.federation.site import Site
from maia.federation.streams import NoAnswer, Place
from tests.federated import FederatedSite, federated, pattern

pytestmark = pytest.mark.integration


@pytest_asyncio.fixture
async def two(
    postgres: ThrowAwayServer, template: str, settings_factory: SettingsFactory, clock: FixedClock
) -> AsyncIterator[tuple[FederatedSite, FederatedSite]]:
    async with federated(postgres, template, settings_factory, clock) as (one, other):
        yield one, other


async def test_a_site_publishes_its_own_as_it_happens(
    two: tuple[FederatedSite, FederatedSite], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = two
    desk, theirs = SiteDesk(Site(one.atlas)), SiteDesk(Site(other.atlas))
    await one.learn("from before")
    await one.until_readable()
    begin = await desk.changes(None)
    assert (begin.message, begin.more) == (None, False)
    await one.learn("ours", 3, 1)
    await one.until_readable()
    told = await desk.changes(begin.cursor)
    assert told.message is not None
    assert await theirs.merge(told.message)
    assert await other.sums() == {pattern("ours").id: (3, 1)}

    # What it brought is not published there, even if more is learnt of it.
    begin = await theirs.changes(None)
    await one.learn("ours", 2)
    await one.until_readable()
    again = await desk.changes(told.cursor)
    assert again.message is not None
    assert await theirs.merge(again.message)
    assert await other.sums() == {pattern("ours").id: (5, 1)}
    assert (await theirs.changes(begin.cursor)).message is None
    await other.learn("ours", 4)
    await other.until_readable()
    answer = await theirs.changes(begin.cursor)
    assert answer.message is not None
    [row] = decode(answer.message).tables["patterns"]["evidence"]
    assert row[1] == await other.federation.site.dao.own_node()

    # An operator's forgetting goes on, whoever counted.
    await other.patterns.forget([pattern("ours").id], "operator")
    await other.until_readable()
    forgotten = await theirs.changes(answer.cursor)
    assert forgotten.message is not None
    assert await desk.merge(forgotten.message)
    assert pattern("ours").id not in await one.sums()

    # Much is told in several messages.
    monkeypatch.setattr(publishing, "_ROWS", 3)
    cursor, messages = (await desk.changes(None)).cursor, 0
    for number in range(5):
        await one.learn(f"one of many {number}")
        await one.until_readable()
    while True:
        part = await desk.changes(cursor)
        cursor = part.cursor
        if part.message is not None:
            assert await theirs.merge(part.message), "each text comes with its evidence"
            messages += 1
        if not part.more:
            break
    assert messages >= 4
    assert {pattern(f"one of many {number}").id for number in range(5)} <= (await other.sums()).keys()


async def test_evidence_without_its_text_is_asked_for(two: tuple[FederatedSite, FederatedSite]) -> None:
    one, other = two
    desk, theirs = SiteDesk(Site(one.atlas)), SiteDesk(Site(other.atlas))
    await one.learn("known to one")
    await one.until_readable()
    cursor = (await desk.changes(None)).cursor
    await one.patterns.count([await _again(one, "known to one")])
    await one.until_readable()
    told = await desk.changes(cursor)
    assert told.message is not None
    assert not await theirs.merge(told.message)
    ours = await desk.node()

    async def ask(about: str, message: bytes) -> bytes:
        return await desk.answer(about, message)

    await theirs.catch_up(ours, ask)
    assert await one.known() == await other.known()
    with pytest.raises(Refused, match="does not know such a question"):
        await desk.answer("the weather", b"")

    place = Place("17-4", "0123456789abcdef", 12)
    await theirs.keep({ours: place})
    assert await theirs.places() == {ours: place}


async def test_why_a_question_failed_is_kept_until_one_is_answered(
    two: tuple[FederatedSite, FederatedSite],
) -> None:
    one, other = two
    desk, theirs = SiteDesk(Site(one.atlas)), SiteDesk(Site(other.atlas))
    ours = await desk.node()

    async def refuse(about: str, message: bytes) -> bytes:
        raise NoAnswer(f"the site {ours} answers: \x00{'no' * 500}")

    with pytest.raises(NoAnswer):
        await theirs.catch_up(ours, refuse)
    [failure] = await other.federation.site.dao.failures()
    assert (failure.place, failure.node, failure.failed_at) == (f"redis/{ours}", ours, one.atlas.clock.now())
    assert failure.told.startswith(f"the site {ours} answers: ␀nono")
    assert (len(failure.told), failure.told[-1]) == (500, "…")
    await theirs.catch_up(ours, desk.answer)
    assert await other.federation.site.dao.failures() == []


async def _again(site: FederatedSite, name: str) -> NewEvidence:
    now = site.atlas.clock.now()
    return NewEvidence(pattern(name).id, now.date(), 1, 0, 1.0, now)


async def test_what_somebody_else_wrote_there_is_no_place(two: tuple[FederatedSite, FederatedSite]) -> None:
    desk = SiteDesk(Site(two[0].atlas))
    for cursor in ("rubbish", "[]", '{"patterns": 7}', '{"patterns": "rubbish"}'):
        with pytest.raises(UnknownCursor):
            await desk.changes(cursor)
    with pytest.raises(UnknownCursor):
        await desk.changes((await SiteDesk(Site(two[1].atlas)).changes(None)).cursor)


async def test_redis_needs_a_token(settings_factory: SettingsFactory, clock: FixedClock) -> None:
    settings = settings_factory(redis_url=SecretStr("redis://127.0.0.1:1"))
    async with Atlas.open(settings, clock=clock) as atlas:
        with pytest.raises(ConfigError, match="PLEIADES_FEDERATION__TOKEN"):
            async with streaming(atlas):
                pass
