"""What the facts about videos, topics and patterns say in the graph. Pure: rows in, nodes and links out.

An agent's way to find videos is a node, too: `hunter:` and the name of its arm. Titles and names of
categories stay where they are: whoever shows a graph looks them up.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias
from uuid import UUID

from atlas.adapters.graph import link_handle, node_handle
from atlas.adapters.graph_feeding import LinkRow, NodeRow, PatternFacts, VideoFacts
from atlas.queries import topic_key
from atlas.tags import tag_of
from maia.youtube.categories import CATEGORIES

VIDEO_LINKS: Final = ("tagged", "uploaded_by", "found_by", "inherits")
TOPIC_LINKS: Final = ("inherits",)
PATTERN_LINKS: Final = ("evidence_for",)

Links: TypeAlias = tuple[str, str, Sequence[Collection[str]]]
"""A type of links, a type of nodes that they lead to, and the names of these nodes for each subject."""

AGENTS: Final = frozenset({"hunter", "tracker", "learner", "maintainer"})
"""The agents of which patterns tell."""

_NUMBER_OF: Final = {category.title: str(number) for number, category in CATEGORIES.items()}
_LONGEST: Final = 300


@dataclass(slots=True)
class Atoms:
    """Nodes and links by their handles, each once."""

    nodes: dict[UUID, NodeRow] = field(default_factory=dict)
    links: dict[UUID, LinkRow] = field(default_factory=dict)

    def node(self, type_: str, name: str) -> UUID:
        """Add a node; returns its handle."""
        handle = node_handle(type_, name)
        if handle not in self.nodes:
            self.nodes[handle] = NodeRow(handle, type_, name)
        return handle

    def link(self, type_: str, first: UUID, second: UUID) -> None:
        """Add a link."""
        handle = link_handle(type_, (first, second))
        self.links[handle] = LinkRow(handle, type_, first, second)


def ends_of(videos: Sequence[VideoFacts], tags: Sequence[Collection[str]]) -> list[Links]:
    """The links that videos have; `tags` are the keys of each one's tags."""
    return [
        ("uploaded_by", "channel", [(each.channel_id,) for each in videos]),
        ("inherits", "category", [() if (of := each.category_id) is None else (str(of),) for each in videos]),
        ("found_by", "agent", [[f"hunter:{arm}" for arm in each.arms] for each in videos]),
        ("found_by", "topic", [each.topics for each in videos]),
        ("tagged", "tag", tags),
    ]


def shown_spelling(name: str, met: Iterable[str]) -> str | None:
    """The commonest spelling of a tag, of equally common ones the first; None if that is its name."""
    counts: dict[str, int] = {}
    for spelling in met:
        counts[spelling] = counts.get(spelling, 0) + 1
    if not counts:
        return None
    best = min(counts, key=lambda spelling: (-counts[spelling], spelling))
    return None if best == name else best


def named_by(pattern: PatternFacts) -> set[tuple[str, str]]:
    """What a pattern was learnt about, as types and names of nodes, which need not be there.

    Its conditions and its signature name things as values of fields that say what these are.
    """
    found: set[tuple[str, str]] = set()
    for name, value in (*_conditions(pattern.conditions), *_signature(pattern.signature)):
        named = _node_of(name, value)
        if named is not None and 1 <= len(named[1]) <= _LONGEST:
            found.add(named)
    return found


def _conditions(conditions: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    for each in conditions:
        if each.get("operator") == "=" and each.get("value") is not None:
            yield str(each.get("field")), str(each["value"])


def _signature(signature: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if isinstance(agent := signature.get("agent"), str):
        yield "agent", agent
    if isinstance(series := signature.get("series"), str):
        yield "agent", series.partition(" ")[0]
    if isinstance(about := signature.get("field"), str):
        for role in ("tool", "better", "worse", "from", "to"):
            if isinstance(value := signature.get(role), str):
                yield about, value
    conditions = signature.get("conditions")
    for each in conditions if isinstance(conditions, list) else ():
        if isinstance(each, list) and len(each) == 3 and each[1] == "=" and each[2] is not None:
            yield str(each[0]), str(each[2])


def _node_of(name: str, value: str) -> tuple[str, str] | None:
    match name.rstrip("_0123456789"):
        case "agent":
            return ("agent", value) if value in AGENTS else None
        case "arm":
            return "agent", f"hunter:{value}"
        case "channel" | "channel_id":
            return "channel", value
        case "category" | "category_id":
            return "category", _NUMBER_OF.get(value, value)
        case "topic":
            return "topic", topic_key(value)
        case "tag":
            tag = tag_of(value)
            return tag and ("tag", tag[0])
    return None
