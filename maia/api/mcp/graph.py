"""Tools about the knowledge graph: what there is, what is linked, what is alike, and what fits a query."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import BaseModel, Field, StringConstraints

from atlas.wording import counted
from maia.api.mcp.answers import Answer, Arguments, Tool, cut, figure, text_of

if TYPE_CHECKING:
    from atlas.composition import Atlas
    from maia.views.graph_answers import AtomRef, AtomView, NeighbourView

_LONGEST_ATOM: Final = 300
_TIMEOUT_S: Final = 5.0

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
    title: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="Instead of prefix: channels, then videos, whose titles have all these words.",
        examples=["lofi study"],
    )
    type: NodeType | None = Field(default=None, description="Only this type of nodes.")
    order: Literal["name", "attention"] = Field(
        default="name",
        description="attention: what deserves attention now, the most first; no prefix or title then.",
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
        if asked.prefix or asked.title:
            raise ToolProblem(
                "order=attention lists atoms of any name: leave prefix and title out, or ask with order=name"
            )
        found = [
            each for each in await graph.most_attended(atlas, asked.type, limit=asked.limit) if each.sti > 0
        ]
    elif asked.title is not None:
        page = await graph.find_titled(atlas, asked.title, type_=asked.type, limit=asked.limit)
        found = list(page.atoms)
    else:
        page = await graph.find(atlas, asked.prefix, type_=asked.type, limit=asked.limit)
        found = list(page.atoms)
    return FindAnswer(
        atoms=[_shown(each) for each in found],
        note=None
        if found
        else "Nothing in the graph fits: try a shorter prefix, or words of a title. If there is nothing at "
        "all, whoever operates Pleiades runs maia graph update.",
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


# Similar atoms


class SimilarArguments(Arguments):
    atom: AtomArgument
    limit: int = Field(default=10, ge=1, le=50, description="How many atoms, the likest first.")


class SimilarShown(BaseModel):
    atom: AtomText
    type: str
    shown: Shown
    likeness: float | None = Field(
        description="by=links or vectors: the cosine of what they are linked with, 0 to 1. by=neighbours: "
        "larger is liker, without an upper end."
    )
    attention: float | None = Field(description="Short-term importance (sti); null if it never had any.")


class SimilarAnswer(Answer):
    rows = "similar"
    less = "ask with a smaller limit"

    atom: AtomText
    by: Literal["links", "vectors", "neighbours"] = Field(
        description="links: computed beforehand of all that atoms are linked with. vectors: the same, just "
        "computed. neighbours: they share neighbours that few others have."
    )
    similar: list[SimilarShown]

    def summary(self) -> str:
        return f"{counted(len(self.similar), 'similar atom')} of the same type, by {self.by}."


async def graph_similar(atlas: Atlas, asked: SimilarArguments) -> SimilarAnswer:
    from maia.views import graph

    found = await graph.similar(atlas, asked.atom, limit=asked.limit)
    return SimilarAnswer(
        atom=cut(found.of.atom, _LONGEST_ATOM),
        by=found.by,
        similar=[
            SimilarShown(
                atom=cut(each.atom.atom, _LONGEST_ATOM),
                type=each.atom.type,
                shown=text_of(each.atom.shown),
                likeness=figure(each.likeness),
                attention=None if each.atom.attended_at is None else figure(each.atom.sti),
            )
            for each in found.atoms
        ],
        note=None
        if found.atoms
        else "Nothing is known to be like it: graph_neighbours tells what it is linked with.",
    )


# Queries


class QueryArguments(Arguments):
    query: str = Field(
        min_length=1,
        max_length=4_000,
        description="Links with variables, between commas: type(?variable, atom). Types of links: "
        "tagged(video, tag), uploaded_by(video, channel), found_by(video, topic or agent), inherits(video or "
        "topic, category; topic, tag), co_occurs(tag, tag), follows(topic, topic), similar(video, video), "
        "evidence_for(pattern, atom). ?v:video is of a type; [weight >= 2] bounds the link before it; "
        "?v.sti > 0 bounds a variable; ?a != ?b; not tagged(?v, tag:live).",
        examples=["tagged(?video, tag:lofi), uploaded_by(?video, ?channel)"],
    )
    show: list[Annotated[str, StringConstraints(max_length=60)]] = Field(
        default_factory=list, max_length=10, description="The variables to answer. Empty: all."
    )
    mode: Literal["rows", "distinct", "tally", "count", "count_distinct"] = Field(
        default="rows",
        description="rows; distinct ones; tally: distinct ones with how often each was found, the most "
        "frequent first; or only how many there are.",
    )
    limit: int = Field(default=20, ge=1, le=100, description="How many rows.")


class QueryRowShown(BaseModel):
    atoms: list[str] = Field(
        description="An atom for each of variables, with what people call it after a dash; data only."
    )
    found: int | None = Field(description="With mode=tally: how often.")


class QueryToolAnswer(Answer):
    rows = "matches"
    less = "ask with a smaller limit, fewer variables to show, or mode=count"

    variables: list[str]
    total: int | None = Field(description="With mode=count or count_distinct: how many there are.")
    more: bool = Field(description="There are more rows than the limit.")
    matches: list[QueryRowShown]

    def summary(self) -> str:
        if self.total is not None:
            return f"{counted(self.total, 'match', 'matches')}."
        return (
            f"{counted(len(self.matches), 'match', 'matches')}{', and there are more' if self.more else ''}."
        )


async def graph_query(atlas: Atlas, asked: QueryArguments) -> QueryToolAnswer:
    from atlas.errors import StatementTimeout
    from maia.api.mcp.answers import ToolProblem
    from maia.views import graph

    try:
        found = await graph.query(
            atlas, asked.query, show=asked.show, mode=asked.mode, limit=asked.limit, timeout_s=_TIMEOUT_S
        )
    except StatementTimeout as error:
        raise ToolProblem(str(error)) from error
    missing = ", ".join(cut(each) for each in found.missing[:5])
    return QueryToolAnswer(
        variables=list(found.variables),
        total=found.total,
        more=found.more,
        matches=[
            QueryRowShown(atoms=[_in_a_row(each) for each in row.atoms], found=row.tally)
            for row in found.rows
        ],
        note=None
        if found.rows or found.total
        else f"The graph has no {missing}: graph_find tells how atoms are called."
        if missing
        else "Nothing matches: leave out a link or a bound; graph_neighbours tells how an atom is linked.",
    )


def _in_a_row(each: AtomView) -> str:
    atom = cut(each.atom, _LONGEST_ATOM)
    return atom if each.shown is None else f"{atom} – {cut(each.shown)}"


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
    Tool(
        "graph_similar",
        "What is like an atom",
        "The videos, channels, tags or topics that are most like one of them, by what they are linked with. "
        "Use it for more of the same kind. An empty list means that nothing is known to be like it.",
        SimilarArguments,
        SimilarAnswer,
        graph_similar,
    ),
    Tool(
        "graph_query",
        "A query of the graph",
        "What matches a template of links with variables, such as all channels whose videos carry two tags. "
        "Use it for questions that one atom's neighbours don't answer. A query that would cost too much is "
        "refused with what to change; an empty list means that nothing matches.",
        QueryArguments,
        QueryToolAnswer,
        graph_query,
    ),
)
