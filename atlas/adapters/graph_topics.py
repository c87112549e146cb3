"""What the knowledge graph knows of topics before they are asked about."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from atlas.adapters.dao import DAO
from atlas.adapters.graph import node_handle


@dataclass(frozen=True, slots=True)
class GraphTopic:
    """What is known of a topic: the number of its category, and the tag that tells most of its community."""

    key: str
    category: int | None
    leading: UUID | None


class GraphTopicsDAO(DAO):
    """Reads what this site's own graph knows of topics."""

    async def known(self, keys: Collection[str]) -> dict[str, GraphTopic]:
        """Those of the topics of which anything is known, by their keys."""
        ordered = sorted(set(keys))
        topics, tags = ([node_handle(type_, key) for key in ordered] for type_ in ("topic", "tag"))
        rows = await self._executor.fetch("graph_topics.known", ordered, topics, tags)
        return {row["key"]: GraphTopic(row["key"], _number(row["category"]), row["leading"]) for row in rows}


def _number(category: str | None) -> int | None:
    """Facts name categories by their numbers; people may add others."""
    return int(category) if category is not None and category.isdecimal() else None
