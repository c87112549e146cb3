"""Pools, statements, transactions and errors against a real server."""

from __future__ import annotations

from atlas.db import Database


async def test_the_server_answers(database: Database) -> None:
    await database.ping()
