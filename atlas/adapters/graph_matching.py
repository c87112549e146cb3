"""Matching a template of links with variables against the knowledge graph, as AtomSpace's Get and And do.

A template becomes one SELECT. This module generates its text, the one exception to the rule that SQL is in
named statements: what it puts together are its own words and numbered parameters, and everything that comes
from outside is a parameter. Before the SELECT runs, PostgreSQL plans it; a plan that costs too much is
refused, and a statement that takes too long is ended.

A clause is read from one of its ends, through `incoming`, or, if only the link is known or nothing at all,
through `atoms`. What is best depends on what the other clauses have bound by then, so the planner is asked:
starting from the ends that are constants, each clause in turn is read from the end that makes the whole plan
cheapest. Costs over `atoms` don't compare, because nothing is known there of how many links an end has.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import combinations, permutations
from typing import Any, Final, assert_never
from uuid import UUID

import orjson

from atlas.adapters.graph import AtomType, GraphDAO
from atlas.adapters.graph_queries import Clause, Order, Property, Template, Term, Variable, Wanted, check
from atlas.db import Row, Transaction
from atlas.errors import QueryTooCostly, StatementTimeout

MAX_COST: Final = 1_000_000.0
"""PostgreSQL's units: about as many as rows that are looked at."""
TIMEOUT_S: Final = 10.0

_BY_LINK: Final = 0
"""A clause is read from its link; other numbers are the end from which it is read, counted from 1."""
_MOST_SIDES: Final = 3
_MOST_PLANS: Final = 24
_CHEAP: Final = 1_000.0
"""A plan that costs less is not improved: that takes longer than it saves."""
_LABEL: Final = "graph query"


@dataclass(frozen=True, slots=True)
class Matches:
    """Rows of atoms, with how often each was found if that was asked for; `total` if only they were counted.

    `more` says that there are more rows than the limit.
    """

    rows: tuple[tuple[UUID, ...], ...]
    tallies: tuple[int, ...] | None
    total: int | None
    more: bool
    cost: float


@dataclass(frozen=True, slots=True)
class Plan:
    """A query with its arguments, the cost of its plan in PostgreSQL's units, and the plan as it tells it."""

    sql: str
    arguments: tuple[Any, ...]
    cost: float
    lines: tuple[str, ...] = ()


class GraphMatchingDAO(GraphDAO):
    """Finds what matches a template in one space."""

    async def match(
        self, template: Template, wanted: Wanted, *, max_cost: float = MAX_COST, timeout_s: float = TIMEOUT_S
    ) -> Matches:
        """What matches, in no particular order unless one is asked for.

        QueryTooCostly if the plan costs too much, StatementTimeout if it takes too long all the same, and
        DataRefused if the template makes no sense.
        """
        check(template, wanted, await self.types())
        async with self._limited(timeout_s) as transaction:
            plan = await self._planned(transaction, template, wanted)
            if plan.cost > max_cost:
                raise QueryTooCostly(
                    f"the query would cost {plan.cost:,.0f}, and {max_cost:,.0f} is allowed: name an atom "
                    "that few links have, add a clause that leaves less, ask for fewer rows, or allow more"
                )
            rows = await self._run(transaction, plan, timeout_s)
        return _matches(rows, wanted, plan.cost)

    async def explain(self, template: Template, wanted: Wanted, *, timeout_s: float = TIMEOUT_S) -> Plan:
        """How a query would be run."""
        check(template, wanted, await self.types())
        async with self._limited(timeout_s) as transaction:
            plan = await self._planned(transaction, template, wanted)
            rows = await transaction.fetch_generated(_LABEL, f"EXPLAIN {plan.sql}", *plan.arguments)
        return replace(plan, lines=tuple(row[0] for row in rows))

    @asynccontextmanager
    async def _limited(self, timeout_s: float) -> AsyncIterator[Transaction]:
        """A transaction that only reads, and whose statements take at most so long."""
        async with self._executor.transaction() as transaction:
            await transaction.fetch(
                "graph_matching.limit_transaction", f"{max(timeout_s, 0.001) * 1000:.0f}ms"
            )
            yield transaction

    async def _run(self, transaction: Transaction, plan: Plan, timeout_s: float) -> list[Row]:
        try:
            return await transaction.fetch_generated(_LABEL, plan.sql, *plan.arguments)
        except StatementTimeout as error:
            raise StatementTimeout(
                f"the query took more than {timeout_s:g} s: name an atom that few links have, add a clause "
                "that leaves less, ask for fewer rows or for no order, or allow more time"
            ) from error

    async def _planned(self, transaction: Transaction, template: Template, wanted: Wanted) -> Plan:
        """The cheapest plan that is found by changing where each clause is read from, one after the other."""
        types = await self.types()
        sides = _first_sides(template)
        best = await self._plan(transaction, template, wanted, types, sides)
        tried = 1
        for nth, clause in enumerate(template.clauses):
            for side in _sides_of(clause):
                if best.cost < _CHEAP or tried >= _MOST_PLANS:
                    return best
                if side == sides[nth] or sides[nth] == _BY_LINK:
                    continue
                changed = [*sides[:nth], side, *sides[nth + 1 :]]
                other = await self._plan(transaction, template, wanted, types, changed)
                tried += 1
                if other.cost < best.cost:
                    best, sides = other, changed
        return best

    async def _plan(
        self,
        transaction: Transaction,
        template: Template,
        wanted: Wanted,
        types: Mapping[str, AtomType],
        sides: Sequence[int],
    ) -> Plan:
        sql, arguments = statement(self.space, types, template, wanted, sides)
        [row] = await transaction.fetch_generated(_LABEL, f"EXPLAIN (FORMAT JSON) {sql}", *arguments)
        plan = orjson.loads(row[0])[0]["Plan"]
        return Plan(sql, tuple(arguments), plan["Total Cost"])


def _first_sides(template: Template) -> list[int]:
    """Where to read each clause from at first: from a constant, or from what clauses before it bind."""
    sides = [_BY_LINK] * len(template.clauses)
    bound: set[Variable] = set()
    waiting = dict(enumerate(template.clauses))
    while waiting:
        nth = max(waiting, key=lambda each: (_boundness(waiting[each], bound), -each))
        clause = waiting.pop(nth)
        ends = [each + 1 for each, term in enumerate(clause.outgoing) if not isinstance(term, Variable)]
        ends += [each + 1 for each, term in enumerate(clause.outgoing) if term in bound]
        sides[nth] = _BY_LINK if clause.link in bound or not ends else ends[0]
        bound |= {clause.link, *clause.variables}
    return sides


def _boundness(clause: Clause, bound: set[Variable]) -> int:
    if any(not isinstance(term, Variable) for term in clause.outgoing):
        return 2
    return int(clause.link in bound or any(term in bound for term in clause.outgoing))


def _sides_of(clause: Clause) -> Iterable[int]:
    return range(1, min(len(clause.outgoing), _MOST_SIDES) + 1)


def statement(
    space: int, types: Mapping[str, AtomType], template: Template, wanted: Wanted, sides: Sequence[int]
) -> tuple[str, list[Any]]:
    """The SELECT of a query and its arguments, if each clause is read from an end of it, or its link (0)."""
    return _Statement(space, types, wanted.half).text(template, wanted, sides)


class _Statement:
    """Puts a SELECT together: relations, conditions, parameters, and where each variable is found."""

    def __init__(self, space: int, types: Mapping[str, AtomType], half: float) -> None:
        self._types = types
        self._arguments: list[Any] = []
        self._numbers: dict[tuple[str, Any], str] = {}
        self._relations: list[str] = []
        self._conditions: list[str] = []
        self._places: dict[Variable, list[str]] = {}
        self._atoms: dict[Variable, str] = {}
        self._space = self._parameter(space, "smallint")
        self._half = half

    def text(self, template: Template, wanted: Wanted, sides: Sequence[int]) -> tuple[str, list[Any]]:
        """The statement and its arguments."""
        for nth, (clause, side) in enumerate(zip(template.clauses, sides, strict=True)):
            self._read(f"c{nth}", clause, side)
        for typed in template.typed:
            self._conditions.append(
                f"{self._atom(typed.variable)}.type = ANY ({self._parameter(list(typed.types), 'text[]')})"
            )
        for bound in template.bounded:
            value = self._parameter(bound.value, "float8")
            self._conditions.append(
                f"{self._property(bound.variable, bound.property)} {bound.comparison} {value}"
            )
        order = [self._key(each) for each in wanted.order]
        for places in self._places.values():
            self._conditions += [f"{places[0]} = {other}" for other in places[1:]]
        for each in template.different:
            self._conditions.append(f"{self._place(each.variable)} <> {self._place(each.other)}")
        for nth, clause in enumerate(template.absent):
            self._conditions.append(self._absence(f"n{nth}", clause))
        return self._select(wanted, order), self._arguments

    def _select(self, wanted: Wanted, order: Sequence[tuple[str, str]]) -> str:
        columns = [self._place(each) for each in wanted.variables]
        source = f"FROM {', '.join(self._relations)}\nWHERE {' AND '.join(self._conditions)}"
        listed = ", ".join(f"{column} AS h{nth}" for nth, column in enumerate(columns))
        by = f"\nGROUP BY {', '.join([*columns, *(key for key, _ in order)])}"
        if wanted.mode == "count":
            return f"SELECT count(*) AS total\n{source}"
        if wanted.mode == "count_distinct":
            return f"SELECT count(*) AS total FROM (\nSELECT {listed}\n{source}{by}\n) AS found"  # noqa: S608
        keys = [f"{key} {direction} NULLS LAST" for key, direction in order]
        if wanted.mode == "tally":
            keys.append("tally DESC")
        keys += [f"h{nth}" for nth in range(len(columns))] if keys else []
        sort = f"\nORDER BY {', '.join(keys)}" if keys else ""
        end = f"{sort}\nLIMIT {self._parameter(wanted.limit + 1, 'bigint')}"
        match wanted.mode:
            case "rows":
                return f"SELECT {listed}\n{source}{end}"
            case "distinct":
                return f"SELECT {listed}\n{source}{by}{end}"
            case "tally":
                return f"SELECT {listed}, count(*) AS tally\n{source}{by}{end}"
        assert_never(wanted.mode)

    # Clauses

    def _read(self, alias: str, clause: Clause, side: int) -> None:
        """Add a clause to the relations; what it binds to the places."""
        ends, link = self._relation(alias, clause, side)
        self._places.setdefault(clause.link, []).append(link)
        for term, end in zip(clause.outgoing, ends, strict=True):
            if isinstance(term, Variable):
                self._places.setdefault(term, []).append(end)
            else:
                self._conditions.append(f"{end} = {self._place(term)}")

    def _relation(self, alias: str, clause: Clause, side: int) -> tuple[list[str], str]:
        """Add the relations that have a clause's links; returns where their ends and they themselves are."""
        if len(clause.outgoing) == 2 and side != _BY_LINK:
            return self._binary(alias, clause, side)
        symmetric, arity = self._types[clause.type].is_symmetric, len(clause.outgoing)
        self._relations.append(f"atoms AS {alias}")
        self._conditions += [
            f"{alias}.space = {self._space}",
            f"{alias}.type = {self._parameter(clause.type, 'text')}",
            f"{alias}.sources > 0",
            f"cardinality({alias}.outgoing) = {arity}",
        ]
        places = [str(nth + 1) for nth in range(arity)]
        if symmetric and arity > 1:
            places = self._permuted(alias, arity)
        ends = [f"{alias}.outgoing[{place}]" for place in places]
        self._atoms.setdefault(clause.link, alias)
        if side != _BY_LINK:
            self._relations.append(f"incoming AS {alias}i")
            self._conditions += [
                f"{alias}i.space = {self._space}",
                f"{alias}i.type = {self._parameter(clause.type, 'text')}",
                f"{alias}i.link = {alias}.handle",
                f"{alias}i.position = {places[side - 1]}",
            ]
            ends[side - 1] = f"{alias}i.target"
        return ends, f"{alias}.handle"

    def _binary(self, alias: str, clause: Clause, side: int) -> tuple[list[str], str]:
        """Read links of two from one end; the other one is in the same row."""
        self._relations.append(f"incoming AS {alias}")
        self._conditions += [
            f"{alias}.space = {self._space}",
            f"{alias}.type = {self._parameter(clause.type, 'text')}",
            f"{alias}.other IS NOT NULL",
        ]
        if self._types[clause.type].is_symmetric:
            # Both rows of a link are matches, but those of one from an atom to itself are the same.
            self._conditions.append(f"({alias}.position = 1 OR {alias}.target <> {alias}.other)")
        else:
            self._conditions.append(f"{alias}.position = {side}")
        ends = [f"{alias}.target", f"{alias}.other"]
        return (ends if side == 1 else ends[::-1]), f"{alias}.link"

    def _permuted(self, alias: str, arity: int) -> list[str]:
        """Add all orders of a symmetric link's ends; of orders that are equal, only one counts."""
        orders = ", ".join(str(each) for each in permutations(range(1, arity + 1)))
        names = [f"e{nth}" for nth in range(arity)]
        self._relations.append(f"(VALUES {orders}) AS {alias}p ({', '.join(names)})")
        places = [f"{alias}p.{name}" for name in names]
        self._conditions += [
            f"({one} < {two} OR {alias}.outgoing[{one}] <> {alias}.outgoing[{two}])"
            for one, two in combinations(places, 2)
        ]
        return places

    def _absence(self, alias: str, clause: Clause) -> str:
        """That there is no such link; variables that nothing else binds stand for any atom."""
        relations, conditions = self._relations, self._conditions
        self._relations, self._conditions = [], []
        bound = [nth + 1 for nth, term in enumerate(clause.outgoing) if self._is_bound(term)]
        ends, _ = self._relation(alias, clause, bound[0])
        local: dict[Variable, str] = {}
        for term, end in zip(clause.outgoing, ends, strict=True):
            if isinstance(term, Variable) and not self._is_bound(term):
                self._conditions.append(f"{local.setdefault(term, end)} = {end}")
            else:
                self._conditions.append(f"{end} = {self._place(term)}")
        for nth, typed in enumerate(clause.typed):
            place = local.get(typed.variable) or self._place(typed.variable)
            self._relations.append(f"atoms AS {alias}t{nth}")
            self._conditions += [
                f"{alias}t{nth}.space = {self._space}",
                f"{alias}t{nth}.handle = {place}",
                f"{alias}t{nth}.type = ANY ({self._parameter(list(typed.types), 'text[]')})",
            ]
        inner = f"FROM {', '.join(self._relations)} WHERE {' AND '.join(self._conditions)}"
        self._relations, self._conditions = relations, conditions
        return f"NOT EXISTS (SELECT {inner})"

    # Atoms and their properties

    def _is_bound(self, term: Term) -> bool:
        return not isinstance(term, Variable) or term in self._places

    def _place(self, term: Term) -> str:
        return self._places[term][0] if isinstance(term, Variable) else self._parameter(term, "uuid")

    def _atom(self, variable: Variable) -> str:
        """The alias of the row of `atoms` that has a variable's atom; it is joined if it isn't there yet."""
        alias = self._atoms.get(variable)
        if alias is None:
            alias = self._atoms[variable] = f"v{len(self._atoms)}"
            self._relations.append(f"atoms AS {alias}")
            self._conditions += [f"{alias}.space = {self._space}", f"{alias}.sources > 0"]
            self._places.setdefault(variable, []).append(f"{alias}.handle")
        return alias

    def _property(self, variable: Variable, name: Property) -> str:
        if name in ("sti", "lti"):
            return (
                f"coalesce((SELECT t.{name} FROM atom_attention AS t "  # noqa: S608
                f"WHERE t.space = {self._space} AND t.handle = {self._place(variable)}), 0)"
            )
        atom = self._atom(variable)
        match name:
            case "strength":
                return f"coalesce({atom}.positive / nullif({atom}.count, 0), 0.5)"
            case "confidence":
                return f"{atom}.count / ({atom}.count + {self._parameter(self._half, 'float8')})"
        return f"{atom}.{name}"

    def _key(self, order: Order) -> tuple[str, str]:
        return self._property(order.variable, order.property), "DESC" if order.descending else "ASC"

    def _parameter(self, value: Any, type_: str) -> str:
        """The number of a parameter, with its type; equal values share one."""
        key = type_, tuple(value) if isinstance(value, list) else value
        if key not in self._numbers:
            self._arguments.append(value)
            self._numbers[key] = f"${len(self._arguments)}::{type_}"
        return self._numbers[key]


def _matches(rows: Sequence[Row], wanted: Wanted, cost: float) -> Matches:
    if wanted.mode in ("count", "count_distinct"):
        return Matches((), None, rows[0]["total"], more=False, cost=cost)
    width, kept = len(wanted.variables), rows[: wanted.limit]
    return Matches(
        rows=tuple(tuple(row)[:width] for row in kept),
        tallies=tuple(row["tally"] for row in kept) if wanted.mode == "tally" else None,
        total=None,
        more=len(rows) > wanted.limit,
        cost=cost,
    )
