"""Sites with graphs in databases of their own, whose messages a test carries."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import asyncpg
from pydantic import SecretStr

from atlas.adapters.changes import ChangesDAO
from atlas.adapters.claims import Claim, ClaimsDAO
from atlas.adapters.graph import GraphDAO
from atlas.clock import Clock
from atlas.composition import Atlas
from atlas.testing import SettingsFactory, ThrowAwayServer
from maia.federation.exchange import Answering, Exchange, Exchanged
from maia.federation.site import Site
from tests.federated import TOKEN
from tests.served import until_readable


@dataclass
class GraphSite:
    """A site that nobody calls but the test; `place` stands for its address."""

    atlas: Atlas
    database: str

    def __post_init__(self) -> None:
        self.site = Site(self.atlas)
        self.place = self.database

    @property
    def graph(self) -> GraphDAO:
        return GraphDAO(self.atlas.db, clock=self.atlas.clock, settings=self.atlas.settings)

    @property
    def claims(self) -> ClaimsDAO:
        return self.site.dao.claims()

    def set(self, **changes: Any) -> None:
        """Let these be the settings of its federation from now on."""
        federation = self.atlas.settings.federation.model_copy(update=changes)
        settings = self.atlas.settings.model_copy(update={"federation": federation})
        self.site = Site(replace(self.atlas, settings=settings))

    async def exchange(self, message: bytes) -> bytes:
        await self.site.prepare()
        return await Answering(self.site).exchange(message)

    async def compare(self, message: bytes) -> bytes:
        await self.site.prepare()
        return await Answering(self.site).compare(message)

    async def call(self, other: GraphSite, *, compare: bool = False) -> Exchanged:
        """Exchange with another site."""
        for each in (self, other):
            await each.site.prepare()
            await until_readable(
                ChangesDAO(each.atlas.db, clock=each.atlas.clock, settings=each.atlas.settings)
            )
        return await Exchange(self.site, other).run(compare=compare)

    async def all_claims(self) -> list[Claim]:
        """What it holds of all sites, as it would be sent."""
        handles = await self.claims.handles([""], None, None, 100_000)
        return [*(await self.claims.whole(handles)).claims]

    async def atoms(self) -> dict[UUID, tuple[Any, ...]]:
        """All that sites must agree on: which atoms there are, and what is believed of them."""
        rows = await self._fetch(
            "SELECT handle, type, name, outgoing, positive, count FROM atoms WHERE space = 0 AND sources > 0"
        )
        return {row["handle"]: tuple(row)[1:] for row in rows}

    async def check(self) -> None:
        """Nothing dangles, nothing waits that could be there, and incoming sets are those of the links."""
        dangling = await self._fetch(
            "SELECT FROM atoms AS a CROSS JOIN unnest(a.outgoing) AS o (handle) LEFT JOIN atoms AS e "
            "ON e.space = a.space AND e.handle = o.handle AND e.sources > 0 "
            "WHERE a.sources > 0 AND e.handle IS NULL"
        )
        assert dangling == []
        links = (
            "SELECT space, o.handle, nth, a.handle FROM atoms AS a CROSS JOIN unnest(outgoing) WITH "
            "ORDINALITY AS o (handle, nth) WHERE sources > 0"
        )
        incoming = "SELECT space, target, position, link FROM incoming"
        used = await self._fetch(f"({links} EXCEPT {incoming}) UNION ALL ({incoming} EXCEPT {links})")
        assert used == []
        waiting = await self._fetch(
            "SELECT FROM waiting_links AS w WHERE NOT EXISTS (SELECT FROM unnest(w.outgoing) AS o (handle) "
            "LEFT JOIN atoms AS e ON e.space = 0 AND e.handle = o.handle AND e.sources > 0 "
            "WHERE e.handle IS NULL)"
        )
        assert waiting == []

    async def _fetch(self, statement: str) -> list[Any]:
        connection = await asyncpg.connect(self.atlas.db.url_of())
        try:
            return list(await connection.fetch(statement))
        finally:
            await connection.close()


@asynccontextmanager
async def graph_site(
    postgres: ThrowAwayServer,
    database: str,
    settings_factory: SettingsFactory,
    clock: Clock,
    name: str | None = None,
    **federation: Any,
) -> AsyncIterator[GraphSite]:
    """A site over a database; it takes a name unless that is of a copy, which chooses one itself."""
    settings = settings_factory(
        database_url=SecretStr(postgres.dsn_of(database)),
        federation={"token": TOKEN, "cluster_name": "test", "graph": "all", **federation},
    )
    async with Atlas.open(settings, clock=clock) as atlas:
        if name is not None:
            connection = await asyncpg.connect(postgres.dsn_of(database))
            await connection.execute(
                "UPDATE site SET node = $1, counts_in = database_identity(), identity = database_identity()",
                name,
            )
            await connection.close()
        yield GraphSite(atlas, database)


@asynccontextmanager
async def graph_sites(
    postgres: ThrowAwayServer,
    template: str,
    settings_factory: SettingsFactory,
    clock: Clock,
    sites: int,
    **federation: Any,
) -> AsyncIterator[Sequence[GraphSite]]:
    """So many sites of one cluster, which tell each other of everything."""
    async with AsyncExitStack() as stack:
        made = []
        for nth in range(sites):
            database = postgres.create_database(template)
            stack.callback(postgres.drop_database, database)
            made.append(
                await stack.enter_async_context(
                    graph_site(postgres, database, settings_factory, clock, f"site-{nth}", **federation)
                )
            )
        yield made
