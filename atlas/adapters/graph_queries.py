"""Queries of the knowledge graph: templates of links with variables, what to answer, and what makes sense."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args
from uuid import UUID

from atlas.adapters.graph import MOST_OUTGOING, AtomType
from atlas.errors import DataRefused

Property: TypeAlias = Literal["strength", "confidence", "count", "weight", "sti", "lti", "name"]
Comparison: TypeAlias = Literal[">=", "<=", ">", "<"]
PROPERTIES: Final[tuple[Property, ...]] = get_args(Property)
Mode: TypeAlias = Literal["rows", "distinct", "tally", "count", "count_distinct"]
BOUNDABLE: Final = PROPERTIES[:-1]
COMPARISONS: Final[tuple[Comparison, ...]] = get_args(Comparison)

MOST_CLAUSES: Final = 8
MOST_VARIABLES: Final = 20
MOST_CONDITIONS: Final = 20
MOST_ROWS: Final = 10_000
MOST_SYMMETRIC: Final = 4
"""Symmetric links of more atoms are not matched: each order of their ends is a match of its own."""


@dataclass(frozen=True, slots=True, order=True)
class Variable:
    """Something to be found; equal names are the same atom. An implied one is a link that nobody named."""

    name: str
    is_implied: bool = False

    def __str__(self) -> str:
        return f"?{self.name}"


Term: TypeAlias = Variable | UUID


@dataclass(frozen=True, slots=True)
class Typed:
    """A variable is an atom of one of some types."""

    variable: Variable
    types: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Clause:
    """There is a link of a type with an outgoing set; the link itself is bound to a variable, too.

    `typed` is for links that must not be there: of which types the atoms are that variables there stand for.
    """

    link: Variable
    type: str
    outgoing: tuple[Term, ...]
    typed: tuple[Typed, ...] = ()

    @property
    def variables(self) -> list[Variable]:
        """Those in its outgoing set."""
        return [term for term in self.outgoing if isinstance(term, Variable)]


@dataclass(frozen=True, slots=True)
class Different:
    """A variable is another atom than a variable or a constant."""

    variable: Variable
    other: Term


@dataclass(frozen=True, slots=True)
class Bounded:
    """A property of a variable's atom is at least, at most, above or below a number.

    What has no weight meets no bound of it.
    """

    variable: Variable
    property: Property
    comparison: Comparison
    value: float


@dataclass(frozen=True, slots=True)
class Template:
    """What to find: atoms for all variables, so that all conditions hold at once.

    `absent` are links that there must not be. A variable that is only in one of these stands for any atom.
    """

    clauses: tuple[Clause, ...] = ()
    absent: tuple[Clause, ...] = ()
    typed: tuple[Typed, ...] = ()
    different: tuple[Different, ...] = ()
    bounded: tuple[Bounded, ...] = ()

    @property
    def variables(self) -> tuple[Variable, ...]:
        """The variables to be bound, in the order in which they are first named."""
        found: dict[Variable, None] = {}
        for clause in self.clauses:
            found.update(dict.fromkeys([clause.link, *clause.variables]))
        found.update(dict.fromkeys(each.variable for each in self.typed))
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Order:
    """Sort by a property of a variable's atom."""

    variable: Variable
    property: Property
    descending: bool = True


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to return of the matches: for each the atoms of `variables`.

    `distinct` leaves out repetitions and `tally` counts them, the most frequent first. `count` only counts
    the matches, `count_distinct` those that differ. `half` is the evidence of a confidence of one half.
    """

    variables: tuple[Variable, ...]
    mode: Mode = "rows"
    order: tuple[Order, ...] = ()
    limit: int = 100
    half: float = 800.0


def check(template: Template, wanted: Wanted, types: Mapping[str, AtomType]) -> None:
    """DataRefused if a query makes no sense: the generator relies on what is checked here."""
    every = [*template.clauses, *template.absent]
    conditions = len(template.typed) + len(template.different) + len(template.bounded)
    conditions += sum(len(each.typed) for each in template.absent)
    variables = set(template.variables)
    for amount, most, noun in (
        (len(every), MOST_CLAUSES, "clauses"),
        (len({each for each in variables if not each.is_implied}), MOST_VARIABLES, "variables"),
        (conditions, MOST_CONDITIONS, "conditions"),
        (wanted.limit, MOST_ROWS, "rows"),
    ):
        if amount > most:
            raise DataRefused(f"a query has at most {most:,} {noun}, this one has {amount:,}")
    if not template.clauses and not template.typed:
        raise DataRefused("a query needs a clause, such as tagged(?video, tag:music)")
    for clause in every:
        _check_clause(clause, types)
    for clause in template.absent:
        if all(isinstance(term, Variable) and term not in variables for term in clause.outgoing):
            raise DataRefused(
                f"the {clause.type} after `not` must have an atom or a variable of another clause"
            )
    _check_names(template, wanted, types, variables)


def _check_clause(clause: Clause, types: Mapping[str, AtomType]) -> None:
    type_ = types.get(clause.type)
    if type_ is None or not type_.is_link:
        known = ", ".join(each.name for each in types.values() if each.is_link)
        raise DataRefused(f"{clause.type[:50]!r} is no type of links; there are {known}")
    if not 1 <= len(clause.outgoing) <= (MOST_SYMMETRIC if type_.is_symmetric else MOST_OUTGOING):
        raise DataRefused(
            f"{clause.type} has {len(clause.outgoing)} ends: of those whose order means nothing, "
            f"a query can have 1 to {MOST_SYMMETRIC}, of others to {MOST_OUTGOING}"
        )


def _check_names(
    template: Template, wanted: Wanted, types: Mapping[str, AtomType], variables: set[Variable]
) -> None:
    for typed in (*template.typed, *(each for clause in template.absent for each in clause.typed)):
        if unknown := [each for each in typed.types if each not in types]:
            raise DataRefused(f"{unknown[0][:50]!r} is no type of atoms; there are {', '.join(types)}")
    used = [*(each.variable for each in template.bounded), *(each.variable for each in wanted.order)]
    used += wanted.variables
    used += (each.variable for each in template.different)
    used += (each.other for each in template.different if isinstance(each.other, Variable))
    if unbound := [each for each in used if each not in variables]:
        raise DataRefused(f"{unbound[0]} is in no clause that must be there; name a variable that is")
    if not wanted.variables and wanted.mode != "count":
        raise DataRefused("say which variables to show: the query has no named one")
    if any(each.comparison not in COMPARISONS or each.property not in BOUNDABLE for each in template.bounded):
        raise DataRefused(f"bounds are {' '.join(COMPARISONS)} of {', '.join(BOUNDABLE)}")
    if any(each.property not in PROPERTIES for each in wanted.order):
        raise DataRefused(f"the order may be by {', '.join(PROPERTIES)}")
    if wanted.mode in ("distinct", "tally") and any(
        each.variable not in wanted.variables for each in wanted.order
    ):
        raise DataRefused("different rows can only be in the order of variables that are shown")
