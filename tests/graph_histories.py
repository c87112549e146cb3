"""What can happen to a graph of several sites, and what must hold whenever all of it has been heard."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

import asyncpg

from atlas.adapters.claims import Claim, Claims
from atlas.adapters.graph import Evidence, Link, Node, Sources, link_handle, node_handle
from atlas.clock import FixedClock
from maia.federation.atoms import AtomRecords
from maia.learning.truth import OVERLAP
from tests.graph_sites import GraphSite

TABLES = ("atoms", "incoming", "atom_claims", "waiting_links")
NODES = [Node("tag", "a"), Node("tag", "b"), Node("concept", "c"), Node("topic", "d")]


def _atoms() -> list[Node | Link]:
    pairs = [Link("related_to", (one, two)) for one in NODES for two in NODES if one is not two][:6]
    pairs.append(Link("co_occurs", (NODES[0], NODES[1]), weight=0.5))
    nested = [Link("evidence_for", (NODES[3], pair)) for pair in pairs[:3]]
    return [*NODES, *pairs, *nested, Link("related_to", (nested[0], nested[1], NODES[2]))]


ATOMS = _atoms()
SYMMETRIC = {"co_occurs", "similar"}


def handle_of(atom: Node | Link | UUID) -> UUID:
    """The handle of an atom that is given in any way."""
    if isinstance(atom, UUID):
        return atom
    if isinstance(atom, Node):
        return node_handle(atom.type, atom.name)
    return link_handle(atom.type, outgoing_of(atom))


def outgoing_of(link: Link) -> tuple[UUID, ...]:
    """Its outgoing set in its final order."""
    ends = tuple(map(handle_of, link.outgoing))
    return tuple(sorted(ends)) if link.type in SYMMETRIC else ends


@dataclass
class History:
    """What happens to sites, drawn by a seed; messages are kept, and arrive at any time, again, or never."""

    sites: Sequence[GraphSite]
    clock: FixedClock
    drawn: random.Random
    messages: list[Claims] = field(default_factory=list)
    backups: set[int] = field(default_factory=set)
    happened: list[str] = field(default_factory=list)

    async def begin(self, conflicts: str) -> None:
        """Begin with empty graphs."""
        for nth, site in enumerate(self.sites):
            site.set(conflicts=conflicts)
            await self._run(
                site,
                f"TRUNCATE {', '.join(TABLES)}, federation_peers CASCADE",
                f"UPDATE site SET node = 'site-{nth}', counts_in = database_identity()",
            )
            await site.site.prepare()

    async def step(self) -> None:
        """One thing happens."""
        nth = self.drawn.randrange(len(self.sites))
        event = self.drawn.choice([self.add, self.add, self.remove, self.send, self.send, *[self.hear] * 4])
        if self.drawn.random() < 0.08:
            event = self.drawn.choice([self.back_up, self.restore])
        self.happened.append(f"{event.__name__} {nth}")
        self.clock.advance(timedelta(seconds=self.drawn.choice([0, 0, 1, 3600])))
        await event(nth)

    async def add(self, nth: int) -> None:
        evidence = Evidence(self.drawn.randrange(5), self.drawn.randrange(3))
        chosen = self.drawn.choice(ATOMS)
        atom = (
            Node(chosen.type, chosen.name, evidence)
            if isinstance(chosen, Node)
            else Link(chosen.type, chosen.outgoing, evidence, chosen.weight)
        )
        sources = self.drawn.choice([Sources.PEOPLE, Sources.FACTS])
        await self.sites[nth].graph.add([atom], sources, counting=self.drawn.random() < 0.5)

    async def remove(self, nth: int) -> None:
        there = sorted(await self.sites[nth].atoms())
        if there:
            sources = self.drawn.choice([Sources.PEOPLE, Sources.PEOPLE | Sources.FACTS])
            await self.sites[nth].graph.remove(self.drawn.sample(there, 1), sources)

    async def send(self, nth: int) -> None:
        claims = await self.sites[nth].all_claims()
        whole = Claims(self.drawn.sample(claims, self.drawn.randrange(len(claims) + 1)))
        self.messages.append(AtomRecords(90).check(AtomRecords(90).packed(whole), self.clock.now()))

    async def hear(self, nth: int) -> None:
        if self.messages:
            await self._merge(self.sites[nth], self.drawn.choice(self.messages))

    async def back_up(self, nth: int) -> None:
        statements = [
            f"DROP TABLE IF EXISTS old_{name}; CREATE TABLE old_{name} AS TABLE {name}" for name in TABLES
        ]
        await self._run(self.sites[nth], *statements)
        self.backups.add(nth)

    async def restore(self, nth: int) -> None:
        """Set a site back to its last copy, which then counts under a new name."""
        if nth not in self.backups:
            return
        columns = dict.fromkeys(TABLES, "*") | {
            "atom_claims": "present, is_link, weight, handle, node, pos, neg, seen_at, version, changed, "
            "brought_by"
        }
        site = self.sites[nth]
        await self._run(
            site,
            "SET session_replication_role = replica",
            *(f"DELETE FROM {name}" for name in TABLES),
            *(
                f"INSERT INTO {name}{'' if kept == '*' else f'({kept})'} SELECT {kept} FROM old_{name}"
                for name, kept in columns.items()
            ),
            "UPDATE site SET counts_in = NULL, identity = NULL",
        )
        await site.site.prepare()

    async def _merge(self, site: GraphSite, message: Claims) -> None:
        async with site.site.dao.transaction() as dao:
            await AtomRecords(90).merge(dao, message, "another")

    async def _run(self, site: GraphSite, *statements: str) -> None:
        connection = await asyncpg.connect(site.atlas.db.url_of())
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    async def settle(self) -> None:
        """Let all sites compare until nothing differs; then all hold the same, and it is what it must be."""
        await self._compare()
        await self.check()
        # Some of these may never have arrived, as a site was set back; from then on all are echoes.
        await self._repeat()
        await self._compare()
        await self.check()
        before = [await site.atoms() for site in self.sites]
        await self._repeat()
        assert [await site.atoms() for site in self.sites] == before, "an echo changed something"

    async def _repeat(self) -> None:
        for site in self.sites:
            for message in self.messages:
                await self._merge(site, message)

    async def _compare(self) -> None:
        for _ in range(6):
            done = [
                await caller.call(called, compare=True)
                for caller, called in zip(self.sites, [*self.sites[1:], self.sites[0]], strict=True)
            ]
            if not any(each.changed or each.differing for each in done):
                break

    async def check(self) -> None:
        claims = await self.sites[0].all_claims()
        believed = expected(claims, self.sites[0].site.settings.conflicts)
        for site in self.sites:
            await site.check()
            assert {*await site.all_claims()} == {*claims}, self.happened
            atoms = await site.atoms()
            assert {handle: row[3:] for handle, row in atoms.items()} == believed, self.happened


def expected(claims: Sequence[Claim], conflicts: str) -> Mapping[UUID, tuple[float, float]]:
    """What must be believed by these claims: the atoms that are there, with [positive, count]."""
    said: defaultdict[UUID, list[Claim]] = defaultdict(list)
    for claim in claims:
        if claim.present:
            said[claim.handle].append(claim)
    there: set[UUID] = set()
    while more := {
        handle
        for handle, those in said.items()
        if handle not in there and there.issuperset(those[0].outgoing or ())
    }:
        there |= more
    return {handle: _truth(said[handle], conflicts) for handle in there}


def _truth(claims: Sequence[Claim], conflicts: str) -> tuple[float, float]:
    def site(claim: Claim) -> str:
        return claim.node.partition(".")[0]

    by_name = sorted(claims, key=site)
    if conflicts == "latest":
        last = max(by_name, key=lambda claim: (claim.seen_at, site(claim)))
        return last.pos, last.pos + last.neg
    by_count = sorted(by_name, key=lambda claim: -(claim.pos + claim.neg))
    if conflicts == "confident":
        most = max(by_count, key=lambda claim: (claim.pos + claim.neg, site(claim)))
        return most.pos, most.pos + most.neg
    positive, count = float(by_count[0].pos), float(by_count[0].pos + by_count[0].neg)
    for claim in by_count[1:]:
        more = claim.pos + claim.neg
        if both := count + more:
            strength = (positive + claim.pos) / both
            count = both - OVERLAP * min(count, more)
            positive = strength * count
    return positive, count
