"""Sites with databases of their own, which call each other over HTTP, within a test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import asyncpg
from pydantic import SecretStr

from atlas.adapters.changes import ChangesDAO
from atlas.adapters.patterns import NewEvidence, PatternContent, PatternsDAO
from atlas.clock import Clock
from atlas.composition import Atlas
from atlas.config import Settings
from atlas.testing import SettingsFactory, ThrowAwayServer
from maia.federation.exchange import Exchanged
from maia.federation.running import Federation
from maia.learning.patterns import PatternType, pattern_id
from tests.served import Served, served, until_readable

TOKEN = "the cluster's secret token"


@dataclass(slots=True)
class FederatedSite:
    """A site that is being served; `federation` calls the peers that `call` was told."""

    atlas: Atlas
    served: Served
    federation: Federation

    @property
    def url(self) -> str:
        return self.served.url

    @property
    def patterns(self) -> PatternsDAO:
        return PatternsDAO(self.atlas.db, clock=self.atlas.clock, settings=self.atlas.settings)

    def call(self, *peers: FederatedSite | str, **changes: Any) -> None:
        """Let the site call these peers from now on."""
        urls = tuple(SecretStr(each if isinstance(each, str) else each.url) for each in peers)
        settings = self.atlas.settings.federation.model_copy(update={"peers": urls, **changes})
        whole = self.atlas.settings.model_copy(update={"federation": settings})
        self.federation = Federation(replace(self.atlas, settings=whole))

    async def sync(self, *, compare: bool | None = False) -> list[Exchanged]:
        """Exchange with the peers; nothing may go wrong."""
        await self.until_readable()
        done = await self.federation.sync(compare=compare)
        assert [each.failed for each in done] == [None] * len(done)
        return done

    async def learn(self, name: str, pos: int = 1, neg: int = 0, *, at: datetime | None = None) -> str:
        """Count evidence for a pattern, as the learner does; returns its id."""
        at = at or self.atlas.clock.now()
        content = pattern(name)
        async with self.patterns.transaction() as dao:
            await dao.store([content])
            await dao.count([NewEvidence(content.id, at.date(), pos, neg, float(pos), at)])
        return content.id

    async def until_readable(self) -> None:
        """Wait until other sites can be told of all that was stored here."""
        await until_readable(ChangesDAO(self.atlas.db, clock=self.atlas.clock, settings=self.atlas.settings))

    async def known(self) -> dict[str, Any]:
        """All that sites must agree on: the texts, and the rows of evidence."""
        texts = {
            each.id: (each.statement, each.version, each.forgotten_at, each.remembered_at)
            async for each in self.patterns.all_patterns()
            if each.forgotten_by != "learner"
        }
        rows = sorted([row async for row in self.patterns.all_evidence()], key=str)
        return {"texts": texts, "evidence": rows}

    async def sums(self) -> Mapping[str, tuple[int, int]]:
        """The counts for and against each pattern."""
        return {each.id: (each.pos, each.neg) for each in await self.patterns.known()}


def pattern(name: str) -> PatternContent:
    """A pattern with this name; its id is that of its signature."""
    signature = {"name": name}
    return PatternContent(
        pattern_id(PatternType.TOOL_USAGE, signature), "tool_usage", signature, f"{name} pays", action=name
    )


@asynccontextmanager
async def federated(
    postgres: ThrowAwayServer,
    template: str,
    settings_factory: SettingsFactory,
    clock: Clock,
    sites: int = 2,
    **overrides: Any,
) -> AsyncIterator[Sequence[FederatedSite]]:
    """Serve that many sites of one cluster; which calls which is up to the test."""
    async with AsyncExitStack() as stack:
        made = []
        for nth in range(sites):
            name = postgres.create_database(template)
            stack.callback(postgres.drop_database, name)
            settings = settings_factory(
                database_url=SecretStr(postgres.dsn_of(name)),
                federation={"token": TOKEN, "cluster_name": "test", **overrides.pop("federation", {})},
                **overrides,
            )
            atlas = await stack.enter_async_context(Atlas.open(settings, clock=clock))
            await _name(settings, f"site-{nth}")
            service = await stack.enter_async_context(served(atlas))
            made.append(FederatedSite(atlas, service, Federation(atlas)))
        yield made


async def _name(settings: Settings, name: str) -> None:
    """Sites that are cloned from one database would have one name, and be one site."""
    assert settings.database_url is not None
    connection = await asyncpg.connect(settings.database_url.get_secret_value())
    try:
        await connection.execute("UPDATE site SET node = $1, counts_in = database_identity()", name)
    finally:
        await connection.close()
