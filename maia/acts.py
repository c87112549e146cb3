"""What operators do, by whichever door, recorded as events: the learner learns from them what they prefer.

An act says what was done and what is known of the thing it was done to: a video's category, channel, tags,
length and zone, or a topic's search options. What somebody typed, such as a topic's words, is not recorded,
but which topics of the queue an act names is, by their numbers: the knowledge graph attends to them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal
from uuid import uuid4

from atlas.errors import DatabaseError
from maia.views.words import ZoneName, length_of, zone_name, zone_number

if TYPE_CHECKING:
    from atlas.adapters.board import BoardDAO, VideoDetails
    from atlas.adapters.incidents import Incident
    from atlas.adapters.watches import Watch, WatchesChanged
    from atlas.composition import Atlas
    from atlas.queries import SearchParameters
    from maia.learning.observations import Scalar

logger = logging.getLogger(__name__)

Act = Literal["seed", "watch", "pin", "unwatch", "park", "retry", "uploads", "enable_key"]

KIND: Final = "operator.act"
MOST_ACTS: Final = 50
"""How many acts one command records; of more things, the first ones count."""

_MOST_TAGS: Final = 5
_LONGEST_TAG: Final = 80
_OPTIONS: Final = ("region", "language", "duration", "event_type")


async def record(
    atlas: Atlas, action: Act, things: Sequence[Mapping[str, Scalar]], named: Sequence[int | str] = ()
) -> None:
    """Append an event for each thing, of one session; a failure is only logged, as the act itself is done.

    `named` are topics, by id or query, which the first event lists by their ids.
    """
    try:
        topics_named = await _ids_of(atlas, named)
        events = [
            (
                KIND,
                {
                    "action": action,
                    "context": {name: value for name, value in thing.items() if value is not None},
                    **({"topics": topics_named} if nth == 0 and topics_named else {}),
                },
            )
            for nth, thing in enumerate(things[:MOST_ACTS])
        ]
        await atlas.events.append_many(events, agent="operator", session=str(uuid4()))
    except DatabaseError as error:
        logger.warning("what you did is not recorded: %s", error, extra={"action": "event_lost"})


async def _ids_of(atlas: Atlas, named: Sequence[int | str]) -> list[int]:
    from atlas.adapters.queue import QueueDAO

    if not named:
        return []
    dao = QueueDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    return await dao.topic_ids(named[:MOST_ACTS])


async def watched_things(atlas: Atlas, watches: Sequence[Watch]) -> list[dict[str, Scalar]]:
    """What is known of videos and channels that somebody begins or ceases to watch."""
    from atlas.adapters.board import BoardDAO

    board = BoardDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    return [await _watched_thing(board, watch) for watch in watches[:MOST_ACTS]]


async def _watched_thing(board: BoardDAO, watch: Watch) -> dict[str, Scalar]:
    thing: dict[str, Scalar] = {"kind": watch.kind.value}
    if watch.kind == "channel":
        return thing | {"channel_id": watch.id}
    video = await board.video(watch.id)
    return thing if video is None else thing | _video(video)


def _video(video: VideoDetails) -> dict[str, Scalar]:
    tags = {f"tag_{n}": tag[:_LONGEST_TAG] for n, tag in enumerate(video.tags[:_MOST_TAGS], start=1)}
    return {
        "category_id": video.category_id,
        "channel_id": video.channel_id,
        "length": length_of(video.duration_s),
        "zone": zone_name(video.zone),
        **tags,
    }


def topics(count: int, parameters: SearchParameters | None = None) -> dict[str, Scalar]:
    """So many topics, which all have the same search options."""
    given: Mapping[str, Any] = parameters.as_json() if parameters else {}
    thing: dict[str, Scalar] = {"kind": "topic", "count": count, "category_id": given.get("category")}
    return thing | {name: given.get(name) for name in _OPTIONS}


# The acts themselves, as the command line, the service and assistants carry them out


async def seed(atlas: Atlas, queries: Sequence[str], parameters: SearchParameters | None = None) -> int:
    """Put topics at the front of the queue; returns how many are new or active again."""
    from atlas.adapters.queue import QueueDAO

    added = await QueueDAO(atlas.db, clock=atlas.clock, settings=atlas.settings).seed(queries, parameters)
    await record(atlas, "seed", [topics(len(queries), parameters)], queries)
    return added


async def park(atlas: Atlas, named: Sequence[int | str], reason: str) -> int:
    """Take topics, by id or query, out of the queue; returns how many."""
    from atlas.adapters.queue import QueueDAO

    dao = QueueDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    return await _of_topics(atlas, "park", await dao.park_topics(named, reason), named)


async def retry(atlas: Atlas, named: Sequence[int | str] | None) -> int:
    """Put parked topics (None: all) back into the queue, and end the pauses of failed ones."""
    from atlas.adapters.queue import QueueDAO

    dao = QueueDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    return await _of_topics(atlas, "retry", await dao.retry_topics(named), named or ())


async def _of_topics(atlas: Atlas, action: Act, count: int, named: Sequence[int | str]) -> int:
    if count:
        await record(atlas, action, [topics(count)], named)
    return count


async def watch(atlas: Atlas, watches: Sequence[Watch], zone: ZoneName | None = None) -> WatchesChanged:
    """Watch videos and channels; with a zone, pin them to it."""
    from atlas.adapters.watches import WatchesDAO

    things = await watched_things(atlas, watches)
    dao = WatchesDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    changed = await dao.add(watches, zone_number(zone))
    pinned = {"pinned": zone} if zone else {}
    await record(atlas, "pin" if zone else "watch", [thing | pinned for thing in things])
    return changed


async def unwatch(atlas: Atlas, watches: Sequence[Watch]) -> WatchesChanged:
    """Stop watching videos and channels; recorded if any of them was watched."""
    from atlas.adapters.watches import WatchesDAO

    things = await watched_things(atlas, watches)
    changed = await WatchesDAO(atlas.db, clock=atlas.clock, settings=atlas.settings).remove(watches)
    if changed.watches:
        await record(atlas, "unwatch", things)
    return changed


async def acknowledge(atlas: Atlas, incident: str, note: str | None) -> Incident | None:
    """Keep an open incident, by key or id, silent until it is over or worse; None if none is open."""
    from atlas.adapters.incidents import IncidentsDAO

    async with atlas.db.transaction() as transaction:
        dao = IncidentsDAO(transaction, clock=atlas.clock, settings=atlas.settings)
        found = await dao.acknowledge(incident, atlas.clock.now(), note)
        if found is not None:
            payload = {"key": found.key, "severity": found.severity, "note": found.note}
            await atlas.events.append("incident.acknowledged", payload, executor=transaction)
    return found
