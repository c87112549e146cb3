"""The pattern matcher: the same matches as trying everything, in all forms, and within its limits."""

from __future__ import annotations

import asyncio
import operator
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atlas.adapters.graph import Atom, Attention, Evidence, Link, NewAtom, Node, Sources, node_handle
from atlas.adapters.graph_columns import GraphColumnsDAO
from atlas.adapters.graph_matching import GraphMatchingDAO, Matches, statement
from atlas.adapters.graph_queries import (
    Bounded,
    Clause,
    Different,
    Order,
    Template,
    Term,
    Typed,
    Variable,
    Wanted,
)
from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.config import Settings
from atlas.errors import DataRefused, QueryTooCostly, StatementTimeout

pytestmark = pytest.mark.integration

Binding = dict[Variable, UUID]
SYMMETRIC = {"co_occurs", "similar"}
TYPES = ("tagged", "uploaded_by", "co_occurs", "similar", "related_to")

nodes = st.builds(Node, st.sampled_from(["video", "tag"]), st.sampled_from("abc"))
evidence = st.builds(Evidence, st.integers(0, 3), st.integers(0, 3))


def links(ends: st.SearchStrategy[Any]) -> st.SearchStrategy[Link]:
    return st.builds(
        Link,
        st.sampled_from(TYPES),
        st.lists(ends, min_size=1, max_size=3).map(tuple),
        evidence,
        st.none() | st.integers(0, 3).map(float),
    )


graphs = st.lists(links(nodes | links(nodes)), min_size=3, max_size=14)
variables = st.sampled_from([Variable(name) for name in "xyzl"])


DrawnClause = tuple[Variable, int, tuple[Variable | None, ...]]


@dataclass(frozen=True)
class Drawn:
    """A random query. Each clause is like a link of the graph, by number, with variables for some ends."""

    clauses: tuple[DrawnClause, ...]
    absent: tuple[DrawnClause, ...]
    typed: tuple[Typed, ...]
    different: tuple[tuple[Variable, Variable], ...]
    bounded: tuple[Bounded, ...]


clauses = st.tuples(
    st.sampled_from([Variable(name) for name in "klmnopqxl"]),
    st.integers(0, 20),
    st.lists(variables | st.none(), min_size=3, max_size=3).map(tuple),
)
queries = st.builds(
    Drawn,
    st.lists(clauses, min_size=1, max_size=3).map(tuple),
    st.lists(clauses, max_size=1).map(tuple),
    st.lists(
        st.builds(Typed, variables, st.sampled_from([("video",), ("tag", "tagged"), TYPES])), max_size=1
    ).map(tuple),
    st.lists(st.tuples(variables, variables), max_size=1).map(tuple),
    st.lists(
        st.builds(
            Bounded, variables, st.sampled_from(["strength", "confidence", "count", "weight"]),
            st.sampled_from([">=", "<=", ">", "<"]), st.sampled_from([0.0, 0.001, 0.5, 2.0]),
        ),
        max_size=1,
    ).map(tuple),
)  # fmt: skip


def template_of(drawn: Drawn, atoms: Sequence[Atom]) -> Template:
    """The query about the atoms of a graph, without what is about no variable of a clause."""

    links = [each for each in atoms if each.outgoing]

    def clause(drawn_clause: DrawnClause, link: Variable | None = None) -> Clause:
        name, number, ends = drawn_clause
        like = links[number % len(links)]
        outgoing = tuple(end or handle for end, handle in zip(ends, like.outgoing or (), strict=False))
        return Clause(link or name, like.type, outgoing)

    template = Template(tuple(map(clause, drawn.clauses)), typed=drawn.typed)
    known = set(template.variables)
    return replace(
        template,
        absent=tuple(
            each
            for each in (clause(one, Variable("absent")) for one in drawn.absent)
            if any(isinstance(term, UUID) or term in known for term in each.outgoing)
        ),
        different=tuple(Different(*pair) for pair in drawn.different if known.issuperset(pair)),
        bounded=tuple(each for each in drawn.bounded if each.variable in known),
    )


class Naive:
    """Tries every atom for every variable."""

    def __init__(self, atoms: Sequence[Atom]) -> None:
        self._atoms = {each.handle: each for each in atoms}

    def match(self, template: Template) -> list[Binding]:
        found: list[Binding] = [{}]
        for clause in template.clauses:
            found = [longer for binding in found for longer in self._links(clause, binding)]
        for typed in template.typed:
            found = [
                binding | {typed.variable: handle}
                for binding in found
                for handle, atom in self._atoms.items()
                if atom.type in typed.types and binding.get(typed.variable, handle) == handle
            ]
        return [each for each in found if self._holds(template, each)]

    def _links(self, clause: Clause, binding: Binding) -> Iterator[Binding]:
        for handle, atom in self._atoms.items():
            if atom.type != clause.type or len(atom.outgoing or ()) != len(clause.outgoing):
                continue
            outgoing = tuple(atom.outgoing or ())
            for ends in set(permutations(outgoing)) if atom.type in SYMMETRIC else [outgoing]:
                longer = dict(binding)
                if all(
                    longer.setdefault(term, end) == end if isinstance(term, Variable) else term == end
                    for term, end in zip((clause.link, *clause.outgoing), (handle, *ends), strict=True)
                ):
                    yield longer

    def _holds(self, template: Template, binding: Binding) -> bool:
        return (
            all(binding[each.variable] != self._of(each.other, binding) for each in template.different)
            and all(self._is_within(each, binding) for each in template.bounded)
            and not any(True for each in template.absent for _ in self._links(each, binding))
        )

    @staticmethod
    def _of(term: Term, binding: Binding) -> UUID:
        return binding[term] if isinstance(term, Variable) else term

    def _is_within(self, bound: Bounded, binding: Binding) -> bool:
        value = self.value(binding[bound.variable], bound.property)
        if value is None:
            return False
        compare = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
        return bool(compare[bound.comparison](value, bound.value))

    def value(self, handle: UUID, name: str) -> float | None:
        atom = self._atoms[handle]
        match name:
            case "strength":
                return atom.positive / atom.count if atom.count else 0.5
            case "confidence":
                return atom.count / (atom.count + 800)
        found: float | None = getattr(atom, name)
        return found


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as running:
        yield running


@pytest.fixture
def matching(
    runner: asyncio.Runner, atlas_settings: Settings, clock: FixedClock
) -> Iterator[GraphMatchingDAO]:
    """On a runner, because Hypothesis calls what it repeats outside of a loop."""
    opening = Atlas.open(atlas_settings, clock=clock)
    atlas = runner.run(opening.__aenter__())
    yield GraphMatchingDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    runner.run(opening.__aexit__(None, None, None))


# Many queries of each graph, as storing one takes longer than asking.
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(graph=graphs, asked=st.lists(queries, min_size=8, max_size=8))
def test_matches_are_those_of_trying_everything(
    runner: asyncio.Runner, matching: GraphMatchingDAO, graph: list[Link], asked: list[Drawn]
) -> None:
    runner.run(compare(matching, graph, asked))


async def compare(dao: GraphMatchingDAO, graph: list[Link], asked: list[Drawn]) -> None:
    await dao._executor.execute("graph.empty_incoming", dao.space)
    await dao._executor.execute("graph.empty_atoms", dao.space)
    await dao.add(graph)
    atoms = await every_atom(dao)
    naive = Naive(atoms)
    for nth, drawn in enumerate(asked):
        template = template_of(drawn, atoms)
        bindings = naive.match(template)
        shown = template.variables
        expected = Counter(tuple(each[variable] for variable in shown) for each in bindings)
        assert Counter((await dao.match(template, Wanted(shown, limit=10_000))).rows) == expected
        # From wherever it is read, there is the same in it.
        await same_from(dao, template, nth % 4, expected)
        few = shown[:1]
        tallies = Counter(row[:1] for row in expected.elements())
        if nth % 2:
            tallied = await dao.match(template, Wanted(few, "tally", limit=10_000))
            assert dict(zip(tallied.rows, tallied.tallies or (), strict=True)) == tallies
            assert list(tallied.tallies or ()) == sorted(tallies.values(), reverse=True)
            assert (await dao.match(template, Wanted(few, "count_distinct"))).total == len(tallies)
        else:
            distinct = await dao.match(template, Wanted(few, "distinct", limit=10_000))
            assert sorted(distinct.rows) == sorted(tallies)
            assert (await dao.match(template, Wanted((), "count"))).total == len(bindings)


async def same_from(dao: GraphMatchingDAO, template: Template, side: int, expected: Counter[Any]) -> None:
    """What is found is also found if each clause is read from this end, or the last, or from its link (0)."""
    sides = [min(side, len(each.outgoing)) for each in template.clauses]
    sql, arguments = statement(
        dao.space, await dao.types(), template, Wanted(template.variables, limit=10_000), sides
    )
    async with dao.transaction() as inside:
        rows = await inside._executor.fetch_generated("test", sql, *arguments)  # type: ignore[attr-defined]
    assert Counter(tuple(row) for row in rows) == expected


async def every_atom(dao: GraphMatchingDAO) -> list[Atom]:
    reading = GraphColumnsDAO(dao._executor, clock=dao._clock, settings=dao._settings)
    pairs = (await reading.read(dao.space)).rows["handle"].tolist()
    found = await dao.get([UUID(int=high << 64 | low) for high, low in pairs])
    return sorted(found, key=lambda each: each.handle)


@pytest_asyncio.fixture
async def music(atlas: Atlas, sql: Any) -> GraphMatchingDAO:
    """Videos of two channels tagged music, some of them live."""
    dao = GraphMatchingDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    atoms: list[NewAtom] = []
    for nth in range(20):
        video = Node("video", f"v{nth:02}")
        atoms += [
            Link("tagged", (video, Node("tag", "music")), Evidence(nth)),
            Link("uploaded_by", (video, Node("channel", "one" if nth % 3 else "two"))),
        ]
        if nth % 4 == 0:
            atoms.append(Link("tagged", (video, Node("tag", "live")), weight=float(nth)))
    await dao.add(atoms, Sources.FACTS)
    await dao.attend({node_handle("video", "v07"): Attention(5, 1)}, atlas.clock.now())
    await sql.execute("ANALYZE atoms, incoming")
    return dao


VIDEO, CHANNEL, LINK = Variable("video"), Variable("channel"), Variable("link")
TAGGED = Clause(LINK, "tagged", (VIDEO, node_handle("tag", "music")))
OF = Clause(Variable("of", is_implied=True), "uploaded_by", (VIDEO, CHANNEL))


def names(found: Matches, place: int = 0) -> list[str]:
    by_handle = {node_handle("video", f"v{nth:02}"): f"v{nth:02}" for nth in range(20)}
    by_handle |= {node_handle("channel", name): name for name in ("one", "two")}
    return [by_handle[row[place]] for row in found.rows]


async def test_matches_are_ordered_limited_bounded_and_counted(music: GraphMatchingDAO) -> None:
    template = Template((TAGGED, OF))
    by_count = Wanted((VIDEO, CHANNEL), order=(Order(LINK, "count"),), limit=3)
    found = await music.match(template, by_count)
    assert (names(found), found.more) == (["v19", "v18", "v17"], True)
    assert names(found, 1) == ["one", "two", "one"]
    last = replace(by_count, order=(Order(VIDEO, "name", descending=False),), limit=20)
    found = await music.match(template, last)
    assert (names(found)[:2], found.more) == (["v00", "v01"], False)
    attended = replace(by_count, order=(Order(VIDEO, "sti"), Order(VIDEO, "name")), limit=2)
    assert names(await music.match(template, attended)) == ["v07", "v19"]
    tally = await music.match(template, Wanted((CHANNEL,), "tally"))
    assert (names(tally), tally.tallies) == (["one", "two"], (13, 7))
    ordered = Wanted((CHANNEL,), "tally", (Order(CHANNEL, "name"),))
    assert names(await music.match(template, ordered)) == ["two", "one"]
    heavy = Template(
        (Clause(LINK, "tagged", (VIDEO, node_handle("tag", "live"))), OF),
        bounded=(Bounded(LINK, "weight", ">=", 8),),
    )
    assert sorted(names(await music.match(heavy, Wanted((VIDEO,))))) == ["v08", "v12", "v16"]
    absent = Clause(Variable("none", is_implied=True), "tagged", (VIDEO, node_handle("tag", "live")))
    assert (await music.match(replace(template, absent=(absent,)), Wanted((), "count"))).total == 15


async def test_a_costly_or_slow_query_is_refused_and_says_what_to_do(music: GraphMatchingDAO) -> None:
    apart = (Clause(Variable(f"l{n}"), "tagged", (Variable(f"v{n}"), Variable(f"t{n}"))) for n in range(6))
    template = Template(tuple(apart))
    wanted = Wanted(template.variables, "count")
    with pytest.raises(QueryTooCostly, match="is allowed: name an atom"):
        await music.match(template, wanted, max_cost=10_000)
    with pytest.raises(StatementTimeout, match=r"took more than 0\.2 s: name an atom"):
        await music.match(template, wanted, max_cost=1e300, timeout_s=0.2)
    plan = await music.explain(Template((TAGGED, OF)), Wanted((VIDEO,)))
    assert plan.cost < 1_000
    assert plan.lines[0].startswith("Limit")
    assert "music" not in plan.sql
    # Afterwards the connection has its own limits again, and may write.
    assert (await music.add([Node("tag", "new")])).added == 1


REFUSED = (
    (Template(), Wanted(()), "needs a clause"),
    (Template((replace(TAGGED, type="tag"),)), Wanted((VIDEO,)), "no type of links; there are co_occurs"),
    (Template((TAGGED,), typed=(Typed(VIDEO, ("x",)),)), Wanted((VIDEO,)), "'x' is no type of atoms"),
    (Template((TAGGED,) * 9), Wanted((VIDEO,)), "at most 8 clauses, this one has 9"),
    (Template((TAGGED,)), Wanted((VIDEO,), limit=10_001), "at most 10,000 rows"),
    (Template((TAGGED,)), Wanted(()), "which variables to show"),
    (Template((TAGGED,)), Wanted((CHANNEL,)), "?channel is in no clause"),
    (Template((TAGGED,), (OF,)), Wanted((CHANNEL,)), "?channel is in no clause"),
    (Template((TAGGED,), (replace(OF, outgoing=(CHANNEL,)),)), Wanted((VIDEO,)), "after `not`"),
    (Template((replace(TAGGED, type="similar", outgoing=(VIDEO,) * 5),)), Wanted((VIDEO,)), "has 5 ends"),
    (Template((TAGGED,), bounded=(Bounded(LINK, "1; DROP", ">=", 1),)), Wanted((VIDEO,)), "bounds are"),
    (Template((TAGGED,), bounded=(Bounded(LINK, "count", "= 1 OR", 1),)), Wanted((VIDEO,)), "bounds are"),
    (Template((TAGGED,)), Wanted((VIDEO,), order=(Order(LINK, "x)"),)), "the order may be by"),
    (Template((TAGGED,)), Wanted((VIDEO,), "tally", (Order(LINK, "count"),)), "that are shown"),
)  # fmt: skip


async def test_queries_that_make_no_sense_are_refused(atlas: Atlas) -> None:
    dao = GraphMatchingDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    for asked, wanted, told in REFUSED:
        with pytest.raises(DataRefused, match=re.escape(told)):
            await dao.match(asked, wanted)
