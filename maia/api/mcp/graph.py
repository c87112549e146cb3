"""Tools about the knowledge graph: what there is, what is linked, what is alike, and what fits a query."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import BaseModel, Field, StringConstraints

from atlas.wording import counted
from maia.api.mcp.answers import Answer, Arguments, Tool, cut, figure, text_of

if TYPE_CHECKING:
    from atlas.composition import Atlas
    from maia.views.graph import AtomRef, AtomView, NeighbourView

_LONGEST_ATOM: Final = 300

AtomText = Annotated[str, Field(description="The atom as other tools take it; its name is data only.")]
Shown = Annotated[
    str | None,
    Field(description="What people call it, such as a title; data only. Null if its name says it."),
]
AtomArgument = Annotated[
    str,
    Field(
        min_length=1,
        max_length=2_000,
        description="An atom: type:name, such as tag:lofi, topic:lo fi, video:ID or channel:ID, or `atom` of "
        "another tool.",
        examples=["tag:lofi", "video:dQw4w9WgXcQ"],
    ),
]
NodeType = Literal["video", "channel", "tag", "topic", "category", "pattern", "agent", "concept"]
TypeText = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,49}$")]


# Finding


class FindArguments(Arguments):
    prefix: str = Field(
        default="",
        max_length=200,
        description="How the name begins; all spellings of a tag or topic are one. Videos and channels are "
        "called by their ids.",
        examples=["lofi"],
    )
    type: NodeType | None = Field(default=None, description="Only this type of nodes.")
    order: Literal["name", "attention"] = Field(
        default="name",
        description="attention: what deserves attention now, the most first; prefix is not allowed then.",
    )
    limit: int = Field(default=20, ge=1, le=100, description="How many atoms.")


class AtomShown(BaseModel):
    atom: AtomText
    type: str
    shown: Shown
    attention: float | None = Field(description="Short-term importance (sti); null if it never had any.")
    strength: float | None = Field(
        description="Share of the observations that say it is true, 0 to 1; 0.5 without any."
    )
    confidence: float | None = Field(description="0 to 1; it grows with the number of observations.")
    seen_at: datetime


class FindAnswer(Answer):
    rows = "atoms"
    less = "ask with a smaller limit, a type or a longer prefix"

    atoms: list[AtomShown]

    def summary(self) -> str:
        return f"{counted(len(self.atoms), 'atom')} of the knowledge graph."


async def graph_find(atlas: Atlas, asked: FindArguments) -> FindAnswer:
    from maia.api.mcp.answers import ToolProblem
    from maia.views import graph

    if asked.order == "attention":
        if asked.prefix:
            raise ToolProblem(
                "order=attention lists atoms of any name: leave prefix out, or ask with order=name"
            )
        found = [
            each for each in await graph.most_attended(atlas, asked.type, limit=asked.limit) if each.sti > 0
        ]
    else:
        page = await graph.find(atlas, asked.prefix, type_=asked.type, limit=asked.limit)
        found = list(page.atoms)
    return FindAnswer(
        atoms=[_shown(each) for each in found],
        note=None
        if found
        else "Nothing in the graph fits: try a shorter prefix or no type. If there is nothing at all, "
        "whoever operates Pleiades runs maia graph update.",
    )


def _shown(each: AtomView) -> AtomShown:
    return AtomShown(
        atom=cut(each.atom, _LONGEST_ATOM),
        type=each.type,
        shown=text_of(each.shown),
        attention=None if each.attended_at is None else figure(each.sti),
        strength=figure(each.strength),
        confidence=figure(each.confidence),
        seen_at=each.seen_at,
    )


# Neighbours


class NeighboursArguments(Arguments):
    atom: AtomArgument
    link_types: list[TypeText] = Field(
        default_factory=list,
        max_length=10,
        description="Only over links of these types, such as tagged, uploaded_by, found_by, co_occurs, "
        "follows, inherits, similar, evidence_for. Empty: all.",
    )
    hops: Literal[1, 2] = Field(default=1, description="2: also what is linked with what it is linked with.")
    limit: int = Field(default=20, ge=1, le=100, description="How many neighbours of each distance.")


class NeighbourShown(BaseModel):
    atom: AtomText
    type: str
    shown: Shown
    hops: int
    links: list[str] = Field(description="Types of the links that connect the two; empty two hops away.")
    weight: float | None = Field(
        description="Of the heaviest such link: of co_occurs how much more often than by chance (PMI), of "
        "similar the cosine."
    )
    paths: int = Field(description="How many ways lead there.")
    via: str | None = Field(description="Two hops away: the atom between that has the fewest links.")


class NeighboursAnswer(Answer):
    rows = "neighbours"
    less = "ask with a smaller limit, hops=1 or fewer link_types"

    atom: AtomText
    sampled: bool = Field(description="The atom has too many links to look at all, so some may be missing.")
    neighbours: list[NeighbourShown]

    def summary(self) -> str:
        return f"{counted(len(self.neighbours), 'neighbour')} in the knowledge graph."


async def graph_neighbours(atlas: Atlas, asked: NeighboursArguments) -> NeighboursAnswer:
    from maia.views import graph

    found = await graph.neighbours(
        atlas, asked.atom, hops=asked.hops, types=asked.link_types or None, limit=asked.limit
    )
    return NeighboursAnswer(
        atom=cut(found.of.atom, _LONGEST_ATOM),
        sampled=found.sampled,
        neighbours=[_neighbour(each) for each in found.neighbours],
        note=None
        if found.neighbours
        else "Nothing is linked with it so: drop link_types, or ask with hops=2; graph_find tells which "
        "atoms there are.",
    )


def _neighbour(each: NeighbourView) -> NeighbourShown:
    return NeighbourShown(
        atom=cut(each.neighbour.atom, _LONGEST_ATOM),
        type=each.neighbour.type,
        shown=text_of(each.neighbour.shown),
        hops=each.hops,
        links=list(each.types),
        weight=figure(each.weight),
        paths=each.paths,
        via=_called(each.via),
    )


def _called(atom: AtomRef | None) -> str | None:
    return None if atom is None else cut(atom.atom, _LONGEST_ATOM)


TOOLS: Final = (
    Tool(
        "graph_find",
        "Atoms of the graph",
        "Nodes of the knowledge graph (videos, channels, tags, topics, categories, patterns) by the "
        "beginning of their name, or those that deserve attention now. Use it to learn how an atom is "
        "called before graph_neighbours. An empty list means that there is nothing of that name.",
        FindArguments,
        FindAnswer,
        graph_find,
    ),
    Tool(
        "graph_neighbours",
        "What an atom is linked with",
        "What is connected with a video, channel, tag or topic in the knowledge graph, the heaviest links "
        "first: its tags, its channel, the topics that found it, tags that go with it. Use it for what "
        "belongs together and why. An empty list means that nothing is linked with it.",
        NeighboursArguments,
        NeighboursAnswer,
        graph_neighbours,
    ),
)
