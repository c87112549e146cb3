"""Attention at work: what grows and what operators do stimulates atoms, and wages spread over the graph.

| stimulus | of | atoms |
|---|---|---|
| a video was found to grow, when its first 24 hours were known | 1 | the video |
| `tracker.breakout` | 2 | the video |
| `operator.act`: `seed`, `pin` | 5 | the topic; the channel, and the tags of the video |
| `operator.act`: `watch` | 2 | the channel, and the tags of the video |
| `operator.act`: `retry` | 1 | the topic |

Parking and no longer watching pay nothing, and take nothing back. The numbers are our choice: an operator's
word counts for more than a video's. What an act stimulates shares its wage.

Each source is read from a cursor of its own, which moves in the transaction that stores what came of it. So
nothing is paid twice, whatever fails, and of two processes one pays.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol
from uuid import UUID

import numpy as np
from scipy.sparse import csr_array

from atlas.adapters.graph import AT_ONCE, Attention, GraphDAO, Sources, node_handle
from atlas.adapters.graph_attention import GraphAttentionDAO, GrowingVideo, HeldAttention
from atlas.adapters.graph_feeding import GraphFeedDAO
from atlas.adapters.patterns import PatternsDAO
from atlas.composition import Atlas
from atlas.conflicts import retry_conflicts
from atlas.errors import LeaseLost
from atlas.events import Event
from atlas.queries import topic_key
from maia.graph.arrays import NO_ATOM, Float64s, GraphArrays
from maia.graph.attention import attention_gained, conductance, least_important
from maia.graphing.present import present_arrays
from maia.learning.importance import ECONOMY

logger = logging.getLogger(__name__)

BREAKOUT: Final = "tracker.breakout"
ACT: Final = "operator.act"
STIMULI: Final[Mapping[str, float]] = {"seed": 5.0, "pin": 5.0, "watch": 2.0, "retry": 1.0}
"""Of operators' acts."""
OF_BREAKOUT: Final = 2.0
OF_GROWTH: Final = 1.0

LEAST_STI: Final = 0.001
"""Less than this is neither paid out nor kept: a ten-thousandth of a wage. So far it does matter how many
stimuli are paid together.
"""
LEAST_LTI: Final = 0.00003
"""About what `LEAST_STI` becomes."""
MOST_RAISED: Final = 20_000
"""How many atoms one page of stimuli raises, those that gain most."""
MOST_KEPT: Final = 200_000
"""How many atoms have attention at most; those of very-long-term importance come on top."""
MOST_LINKS: Final = 2
"""A tag or topic that more videos use than this isn't loose."""

_AT_ONCE: Final = 20_000
_NEARLY: Final = 0.8
"""Estimates of how many atoms there are may be off by less than the rest."""
_LATE: Final = timedelta(minutes=10)
"""No transaction that judges videos ends later than this after the instant it notes."""
_REMEMBERED: Final = timedelta(days=7)
"""How far back a new cursor begins: of older wages next to nothing is left."""
_HOUR: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Stimulus:
    """What an atom is stimulated by, of so many wages, at an instant."""

    handle: UUID
    amount: float
    at: datetime


@dataclass(frozen=True, slots=True)
class Spread:
    """How many stimuli were paid, of how many the atom isn't there, and how many times one was raised."""

    stimuli: int = 0
    unknown: int = 0
    raised: int = 0

    def __add__(self, other: Spread) -> Spread:
        return Spread(self.stimuli + other.stimuli, self.unknown + other.unknown, self.raised + other.raised)


@dataclass(frozen=True, slots=True)
class _Page:
    """Stimuli, and the position after them."""

    stimuli: Sequence[Stimulus]
    end: str
    is_last: bool


class _Source(Protocol):
    name: str

    def start(self) -> str:
        """Where a new cursor begins."""

    async def read(self, position: str) -> _Page:
        """What comes after a position."""


async def spread_attention(atlas: Atlas, arrays: GraphArrays | None = None) -> Spread:
    """Pay the wages of what stimulated the graph since this was last done, and let them spread.

    `arrays` is the graph, which is read if it isn't given and there is anything to pay. Atoms that it doesn't
    have get nothing, so feed the graph first.
    """
    payer = _Payer(atlas, arrays)
    total = Spread()
    for source in (_Events(atlas), _Verdicts(atlas)):
        total += await payer.pay_all(source)
    if total.raised:
        rates = ECONOMY.rent_per_hour, ECONOMY.learning_per_hour
        await payer.dao.fade(*rates, least_sti=LEAST_STI, least_lti=LEAST_LTI, most=MOST_KEPT)
    return total


async def forget_atoms(atlas: Atlas) -> int:
    """Remove the tags and topics that `atoms_to_forget` names, with their links; returns how many atoms went.

    One comes back when a video that carries it changes, and then has to prove itself again.
    """
    dao = GraphDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    leaving, gone = await atoms_to_forget(atlas), 0
    for first in range(0, len(leaving), AT_ONCE):
        batch = leaving[first : first + AT_ONCE]
        gone += len(await dao.remove(batch, Sources.FACTS | Sources.DERIVED))
    return gone


async def atoms_to_forget(atlas: Atlas) -> list[UUID]:
    """Which tags and topics to remove so that no more than `graph.max_atoms` remain, the first to go first.

    Links count as atoms and go with their ends. Only loose atoms are named, so it may be fewer than needed:
    those that hardly any video uses, of which people say nothing, and that have no very-long-term importance.
    First go those that never got attention, then by the LTI that they will have.
    """
    dao = _attention_dao(atlas)
    feeding = GraphFeedDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    most, estimate = atlas.settings.graph.max_atoms, await feeding.estimate_atoms()
    # Counting reads the whole graph, so that it is only done if there may be too many.
    if estimate is not None and estimate < _NEARLY * most:
        return []
    excess = await dao.count_atoms() - most
    if excess <= 0:
        return []
    chosen: list[UUID] = []
    for atom in await dao.loose_unattended(MOST_LINKS, excess):
        if excess <= 0:
            return chosen
        chosen.append(atom.handle)
        excess -= 1 + atom.links
    attended = await dao.loose_attended(MOST_LINKS)
    held = [each.attention for each in attended if each.attention]
    for place in _order_of_leaving(held, atlas.clock.now()):
        if excess <= 0:
            break
        chosen.append(attended[place].handle)
        excess -= 1 + attended[place].links
    return chosen


def _order_of_leaving(held: Sequence[HeldAttention], now: datetime) -> list[int]:
    sti, lti, hours, vlti = _columns(held, now)
    order: list[int] = least_important(sti, lti, hours, vlti, len(held)).tolist()
    return order


class _Payer:
    """Pays stimuli of one graph."""

    def __init__(self, atlas: Atlas, arrays: GraphArrays | None) -> None:
        self._atlas, self._arrays = atlas, arrays
        self._links: csr_array | None = None
        self.dao = _attention_dao(atlas)
        self._graph = GraphDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        self._cursors = PatternsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)

    async def pay_all(self, source: _Source) -> Spread:
        """Pay page after page of a source, until there is no more or another process pays."""
        total, position = Spread(), await self._cursors.cursor(source.name, source.start())
        while True:
            page = await source.read(position)
            if page.end == position:
                return total
            try:
                total += await self._pay(source.name, position, page)
            except LeaseLost:
                logger.debug("another process spreads attention, too")
                return total
            if page.is_last:
                return total
            position = page.end

    async def _pay(self, source: str, start: str, page: _Page) -> Spread:
        now = self._atlas.clock.now()
        gained: Mapping[UUID, tuple[float, float]] = {}
        unknown = 0
        if page.stimuli:
            if self._arrays is None:
                self._arrays = await present_arrays(self._atlas)
            gained, unknown = await asyncio.to_thread(self._gained, page.stimuli, now)
        async for trial in retry_conflicts():
            with trial:
                async with self._cursors.transaction() as cursors:
                    # First of all, so that another process that pays the same waits here, and then gives up.
                    await cursors.move_cursor(source, start, page.end)
                    await self._raise(cursors, gained, now)
        return Spread(len(page.stimuli), unknown, len(gained))

    async def _raise(
        self, ours: PatternsDAO, gained: Mapping[UUID, tuple[float, float]], now: datetime
    ) -> None:
        if not gained:
            return
        held = await self.dao.joining(ours).hold(list(gained))
        raised = await asyncio.to_thread(_raised, held, gained, now)
        await self._graph.joining(ours).attend(raised, now)

    def _gained(
        self, stimuli: Sequence[Stimulus], now: datetime
    ) -> tuple[dict[UUID, tuple[float, float]], int]:
        """What each atom gains, those that gain most, and how many stimuli are of atoms that aren't there."""
        arrays = self._arrays
        assert arrays is not None
        if self._links is None:
            self._links = conductance(arrays)
        places = arrays.places([each.handle for each in stimuli])
        known = places != NO_ATOM
        wages = np.array([each.amount for each in stimuli]) * ECONOMY.wage
        ages_h = np.array([max((now - each.at) / _HOUR, 0.0) for each in stimuli])
        sti, lti = attention_gained(self._links, places[known], wages[known], ages_h[known])
        worth = np.flatnonzero((sti >= LEAST_STI) | (lti >= LEAST_LTI))
        worth = worth[np.argsort(-sti[worth], kind="stable")][:MOST_RAISED]
        gains = zip(worth.tolist(), sti[worth].tolist(), lti[worth].tolist(), strict=True)
        return {arrays.handle(place): (short, long) for place, short, long in gains}, int((~known).sum())


def _raised(
    held: Mapping[UUID, HeldAttention], gained: Mapping[UUID, tuple[float, float]], now: datetime
) -> dict[UUID, Attention]:
    """What atoms have now of what they had, with what they gain."""
    raised = {handle: Attention(*gain) for handle, gain in gained.items()}
    short_term, long_term, hours, _ = _columns(held.values(), now)
    sti, lti = ECONOMY.after(short_term, long_term, hours)
    for each, short, long in zip(held.values(), sti.tolist(), lti.tolist(), strict=True):
        gain = gained[each.handle]
        raised[each.handle] = Attention(short + gain[0], long + gain[1], each.vlti)
    return raised


def _columns(held: Iterable[HeldAttention], now: datetime) -> Float64s:
    """Rows of STI, LTI, hours since they were set, and very-long-term importance."""
    rows = [(each.sti, each.lti, (now - each.attended_at) / _HOUR, each.vlti) for each in held]
    return np.array(rows, np.float64).reshape(-1, 4).T


# Sources


class _Verdicts:
    """Videos that were found to grow."""

    name = "attention verdicts"

    def __init__(self, atlas: Atlas) -> None:
        self._dao, self._clock = _attention_dao(atlas), atlas.clock

    def start(self) -> str:
        return _position(GrowingVideo(self._clock.now() - _REMEMBERED, ""))

    async def read(self, position: str) -> _Page:
        instant, _, video_id = position.partition(" ")
        after = GrowingVideo(datetime.fromisoformat(instant), video_id)
        videos = await self._dao.growing_videos(after, self._clock.now() - _LATE, _AT_ONCE)
        stimuli = [
            Stimulus(node_handle("video", each.video_id), OF_GROWTH, each.judged_at) for each in videos
        ]
        end = _position(videos[-1]) if videos else position
        return _Page(stimuli, end, is_last=len(videos) < _AT_ONCE)


def _position(video: GrowingVideo) -> str:
    return f"{video.judged_at.astimezone(UTC).isoformat()} {video.video_id}"


class _Events:
    """Breakouts and operators' acts, from the event log."""

    name = "attention events"

    def __init__(self, atlas: Atlas) -> None:
        self._atlas, self._dao = atlas, _attention_dao(atlas)

    def start(self) -> str:
        return "0"

    async def read(self, position: str) -> _Page:
        # Taken first: what the log shows up to here is complete, also where no event is of our kinds.
        complete = await self._atlas.events.cursor()
        events = await self._atlas.events.since(int(position), kinds=(BREAKOUT, ACT), limit=_AT_ONCE)
        is_last = len(events) < _AT_ONCE
        end = max(events[-1].id if events else 0, complete if is_last else 0, int(position))
        keys = await self._dao.topic_keys(_topic_ids(events)) if events else {}
        stimuli = [each for event in events for each in _stimuli(event, keys)]
        return _Page(stimuli, str(end), is_last)


def _topic_ids(events: Iterable[Event]) -> list[int]:
    return [id_ for event in events for id_ in _ids(event.payload.get("topics"))]


def _ids(value: object) -> list[int]:
    return [id_ for id_ in value if type(id_) is int] if isinstance(value, list) else []


def _stimuli(event: Event, keys: Mapping[int, str]) -> list[Stimulus]:
    """What an event stimulates; nothing if its payload isn't as it should be."""
    payload = event.payload
    if event.kind == BREAKOUT:
        video = payload.get("video_id")
        handles = [node_handle("video", video)] if isinstance(video, str) else []
        amount = OF_BREAKOUT
    else:
        handles = _handles_of_act(payload, keys)
        amount = STIMULI.get(str(payload.get("action")), 0.0)
    return [Stimulus(handle, amount / len(handles), event.at) for handle in handles] if amount else []


def _handles_of_act(payload: Mapping[str, Any], keys: Mapping[int, str]) -> list[UUID]:
    handles = [node_handle("topic", keys[id_]) for id_ in _ids(payload.get("topics")) if id_ in keys]
    context = payload.get("context")
    if isinstance(context, Mapping):
        if isinstance(channel := context.get("channel_id"), str):
            handles.append(node_handle("channel", channel))
        tags = [text for name, text in context.items() if name.startswith("tag_") and isinstance(text, str)]
        handles += [node_handle("tag", topic_key(tag)) for tag in tags]
    return handles


def _attention_dao(atlas: Atlas) -> GraphAttentionDAO:
    return GraphAttentionDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
