"""What people see of the knowledge graph: what atoms are called, what is near them, and how much there is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from atlas.adapters.graph import GraphDAO, Sources
from atlas.adapters.graph_embeddings import GraphEmbeddingsDAO
from atlas.queries import clean_text

FAN_OUT: Final = 2_000
"""So many links of an atom are looked at, where many are: of those of popular tags, a sample."""
SECOND_FAN_OUT: Final = 300
"""The same where neighbours of neighbours are looked for, which takes the square of it."""


@dataclass(frozen=True, slots=True)
class CalledAtom:
    """What an atom is, and what people call it; None if they have no other name for it."""

    handle: UUID
    type: str
    name: str | None
    outgoing: Sequence[UUID] | None
    shown: str | None


@dataclass(frozen=True, slots=True)
class NearAtom:
    """An atom one or two links away.

    `paths` is how many links or pairs of links lead there. Next to the start, there is the weight of the
    heaviest link, and `link` is the one with most evidence; else `via` is the atom between that has the
    fewest links, and `closeness` that of Adamic and Adar. `met` counts the links looked at for all.
    """

    handle: UUID
    hops: int
    paths: int
    types: Sequence[str]
    weight: float | None
    link: UUID | None
    via: UUID | None
    closeness: float | None
    met: int


@dataclass(frozen=True, slots=True)
class TypeCount:
    """How many atoms of a type certain sources say are there, and their evidence."""

    type: str
    is_link: bool
    sources: Sources
    atoms: int
    positive: float
    count: float
    seen_at: datetime


@dataclass(frozen=True, slots=True)
class AttentionTotals:
    """How many atoms have attention, how many of them are never forgotten, and how much it is."""

    atoms: int
    kept: int
    sti: float
    lti: float
    attended_at: datetime | None


class GraphViewsDAO(GraphDAO):
    """Reads what is shown of the atoms of one space."""

    def embeddings(self) -> GraphEmbeddingsDAO:
        """What reads the vectors of this site's own atoms, on the same connection."""
        return GraphEmbeddingsDAO(self._executor, clock=self._clock, settings=self._settings)

    async def by_prefix(self, first: UUID, last: UUID, limit: int = 2) -> list[UUID]:
        """The handles of atoms from one handle to another."""
        rows = await self._executor.fetch("graph_views.by_prefix", self.space, first, last, limit)
        return [row["handle"] for row in rows]

    async def called(self, handles: Sequence[UUID]) -> dict[UUID, CalledAtom]:
        """What those of the atoms that are there are called."""
        rows = await self._executor.fetch("graph_views.called", self.space, list(handles))
        return {row["handle"]: CalledAtom(*row) for row in rows}

    async def by_name(
        self, prefixes: Mapping[str, str], *, after: tuple[str, str] = ("", ""), limit: int = 100
    ) -> list[UUID]:
        """Nodes of some types, by type and name, behind the node of a type and name.

        Their names begin with the prefix that is given for their type.
        """
        type_, name = after
        begins = [clean_text(each) for each in prefixes.values()]
        rows = await self._executor.fetch(
            "graph_views.by_name", self.space, list(prefixes), begins, type_, limit, clean_text(name)
        )
        return [row["handle"] for row in rows]

    async def near(
        self,
        handle: UUID,
        types: Sequence[str] | None = None,
        *,
        by_weight_alone: bool = False,
        limit: int = 100,
        fan_out: int = FAN_OUT,
    ) -> list[NearAtom]:
        """The atoms at the other ends of an atom's links of two, by weight times observations for the link.

        A rare pair can have a great weight by chance, but not if it was met often.
        """
        wanted = None if types is None else list(types)
        rows = await self._executor.fetch(
            "graph_views.neighbours", self.space, handle, wanted, limit, fan_out, by_weight_alone
        )
        return [NearAtom(*row) for row in rows]

    async def second_neighbours(
        self,
        handle: UUID,
        types: Sequence[str] | None = None,
        *,
        of_type: str | None = None,
        limit: int = 100,
        fan_out: int = SECOND_FAN_OUT,
    ) -> list[NearAtom]:
        """The atoms two links away and not one, the closest first."""
        wanted = None if types is None else list(types)
        rows = await self._executor.fetch(
            "graph_views.second_neighbours", self.space, handle, wanted, limit, fan_out, of_type
        )
        return [NearAtom(*row) for row in rows]

    async def count_links(
        self, handles: Sequence[UUID], types: Sequence[str] | None = None, *, limit: int
    ) -> int:
        """How many links of two some atoms have, counted up to a limit."""
        wanted = None if types is None else list(types)
        found: int = await self._executor.fetchval(
            "graph_views.count_links", self.space, list(handles), wanted, limit
        )
        return found

    async def expand(
        self, handles: Sequence[UUID], types: Sequence[str] | None = None, *, limit: int
    ) -> list[UUID]:
        """The atoms at the other ends of some atoms' links of two, each once, in no order."""
        wanted = None if types is None else list(types)
        rows = await self._executor.fetch("graph_views.expand", self.space, list(handles), wanted, limit)
        return [row["handle"] for row in rows]

    async def touching(
        self, handles: Sequence[UUID], others: Sequence[UUID], types: Sequence[str] | None = None
    ) -> UUID | None:
        """The first of the other atoms that has a link of two with one of the atoms, whose links are read."""
        wanted = None if types is None else list(types)
        found: UUID | None = await self._executor.fetchval(
            "graph_views.touching", self.space, list(handles), wanted, list(others)
        )
        return found

    async def between(
        self,
        handles: Sequence[UUID],
        others: Sequence[UUID],
        types: Sequence[str] | None = None,
        *,
        avoid: Sequence[UUID] = (),
    ) -> UUID | None:
        """The first atom that has links of two with one of the atoms and with one of the others.

        The fewer links the atoms have, the less memory that takes; the others may have many.
        """
        wanted = None if types is None else list(types)
        found: UUID | None = await self._executor.fetchval(
            "graph_views.between", self.space, list(handles), wanted, list(others), list(avoid)
        )
        return found

    async def incoming_counts(self, handles: Sequence[UUID]) -> dict[UUID, dict[str, int]]:
        """How many links of each type have atoms in their outgoing sets."""
        rows = await self._executor.fetch("graph_views.incoming_counts", self.space, list(handles))
        found: dict[UUID, dict[str, int]] = {}
        for row in rows:
            found.setdefault(row["handle"], {})[row["type"]] = row["links"]
        return found

    async def counts(self) -> list[TypeCount]:
        """How many atoms there are, by type and source."""
        rows = await self._executor.fetch("graph_views.counts", self.space)
        return [
            TypeCount(
                row["type"], row["is_link"], Sources(row["sources"]), row["atoms"], row["positive"],
                row["count"], row["seen_at"],
            )
            for row in rows
        ]  # fmt: skip

    async def attention_totals(self) -> AttentionTotals:
        """How much attention all atoms have, as it was when it was last set."""
        row = await self._executor.fetchrow("graph_views.attended", self.space)
        assert row is not None
        return AttentionTotals(*row)

    async def count_tombstones(self) -> int:
        """How many atoms are gone and remembered as such."""
        found: int = await self._executor.fetchval("graph_views.tombstones", self.space)
        return found

    async def sizes(self) -> dict[str, int]:
        """How many bytes each table of the graph takes on disk, indexes included, of all spaces together."""
        rows = await self._executor.fetch("graph_views.sizes")
        return {row["name"]: row["bytes"] for row in rows}
