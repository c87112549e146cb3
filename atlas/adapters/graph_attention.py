"""Attention in the knowledge graph: what stimulates it, what it raises, and which atoms may be forgotten."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from atlas.adapters.dao import DAO
from atlas.adapters.graph import OWN


@dataclass(frozen=True, slots=True)
class GrowingVideo:
    """A video, and when it was found to grow."""

    judged_at: datetime
    video_id: str


@dataclass(frozen=True, slots=True)
class HeldAttention:
    """The attention of an atom as it was when it was last set."""

    handle: UUID
    sti: float
    lti: float
    vlti: int
    attended_at: datetime


@dataclass(frozen=True, slots=True)
class LooseAtom:
    """An atom that may be forgotten, how many links of videos go with it, and its attention if it has any."""

    handle: UUID
    links: int
    attention: HeldAttention | None = None


class GraphAttentionDAO(DAO):
    """Reads stimuli, and keeps the attention of this site's own graph bounded."""

    async def growing_videos(self, after: GrowingVideo, until: datetime, most: int) -> list[GrowingVideo]:
        """Videos that were found to grow after one and not after an instant, in order."""
        rows = await self._executor.fetch(
            "graph_attention.growing_videos", after.judged_at, after.video_id, until, most
        )
        return [GrowingVideo(*row) for row in rows]

    async def topic_keys(self, ids: Iterable[int]) -> dict[int, str]:
        """The keys of topics by their ids."""
        rows = await self._executor.fetch("graph_attention.topic_keys", sorted(set(ids)))
        return {row["id"]: row["key"] for row in rows}

    async def held(self, handles: Sequence[UUID]) -> dict[UUID, HeldAttention]:
        """The attention of atoms that have any."""
        rows = await self._executor.fetch("graph.attention", OWN, list(handles))
        return {row["handle"]: HeldAttention(*row) for row in rows}

    async def hold(self, handles: Sequence[UUID]) -> dict[UUID, HeldAttention]:
        """The attention of atoms that have any, which nobody else changes until the transaction ends.

        The graph's lock comes first, as removing atoms takes it before it deletes their attention.
        """
        await self._executor.execute("graph.lock", False)
        rows = await self._executor.fetch("graph_attention.hold", OWN, sorted(handles))
        return {row["handle"]: HeldAttention(*row) for row in rows}

    async def fade(
        self, rent_per_hour: float, learning_per_hour: float, *, least_sti: float, least_lti: float, most: int
    ) -> int:
        """Delete attention of which next to nothing is left by now, and the least beyond `most`.

        Returns of how many atoms; what has very-long-term importance stays.
        """
        faded = await self._executor.execute(
            "graph_attention.fade", OWN, self._clock.now(), rent_per_hour, least_sti, learning_per_hour,
            least_lti,
        )  # fmt: skip
        learnt = learning_per_hour / (rent_per_hour - learning_per_hour)
        return faded + await self._executor.execute("graph_attention.crop", OWN, most, learnt)

    async def count_atoms(self) -> int:
        """How many atoms there are."""
        count: int = await self._executor.fetchval("graph_attention.count_atoms", OWN)
        return count

    async def loose_unattended(self, most_links: int, most: int) -> list[LooseAtom]:
        """Tags and topics that hardly any video uses and that never got attention, those of fewest first."""
        rows = await self._executor.fetch("graph_attention.loose_unattended", OWN, most_links, most)
        return [LooseAtom(*row) for row in rows]

    async def loose_attended(self, most_links: int) -> list[LooseAtom]:
        """Tags and topics that hardly any video uses and that have attention."""
        rows = await self._executor.fetch("graph_attention.loose_attended", OWN, most_links)
        return [
            LooseAtom(row["handle"], row["links"], HeldAttention(row["handle"], *row[2:])) for row in rows
        ]
