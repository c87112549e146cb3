"""The facts of the PostgreSQL server itself."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from atlas.adapters.dao import DAO


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """What a server says about itself; address and port are None over a socket in the file system.

    `connections` are those of all clients but the one that asked.
    """

    version: str
    started_at: datetime
    now: datetime
    database: str
    address: str | None
    port: int | None
    is_replica: bool
    database_bytes: int
    all_bytes: int
    most_connections: int
    connections: int
    active: int


class ServerDAO(DAO):
    """Asks the server about itself."""

    async def facts(self) -> ServerFacts:
        row = await self._executor.fetchrow("server.facts")
        assert row is not None
        return ServerFacts(**dict(row))
