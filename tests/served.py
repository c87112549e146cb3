"""Serves the HTTP service on a real socket within a test, and calls it with a real client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from atlas.adapters.access import AccessDAO
from atlas.adapters.changes import ChangesDAO, order
from atlas.composition import Atlas
from atlas.scopes import Scope
from maia.api import serving


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; `json` is None if its body isn't JSON."""

    status: int
    headers: Any
    body: bytes
    json: Any


@dataclass(frozen=True, slots=True)
class Served:
    """A service that is being served, and a session of a client."""

    url: str
    session: aiohttp.ClientSession
    atlas: Atlas

    async def ask(self, method: str, path: str, **options: Any) -> Answer:
        async with self.session.request(method, f"{self.url}{path}", **options) as answer:
            body = await answer.read()
            is_json = answer.content_type.endswith(("/json", "+json"))
            return Answer(
                answer.status, answer.headers, body, await answer.json(content_type=None) if is_json else None
            )

    async def get(self, path: str, **options: Any) -> Answer:
        return await self.ask("GET", path, **options)

    async def post(self, path: str, data: Any = None, **options: Any) -> Answer:
        return await self.ask("POST", path, json=data, **options)

    async def until(self, path: str, holds: Callable[[Any], bool], seconds: float = 20) -> Answer:
        """The first answer of a path whose JSON is as wanted; every answer before it must be a 200, too."""
        async with asyncio.timeout(seconds):
            while True:
                answer = await self.get(path)
                assert answer.status == 200, (path, answer.status, answer.json)
                if holds(answer.json):
                    return answer
                await asyncio.sleep(0.02)

    async def add_key(
        self, name: str, scope: Scope, requests_per_minute: int | None = None
    ) -> dict[str, str]:
        """Add a key; returns the header that presents it."""
        dao = AccessDAO(self.atlas.db, clock=self.atlas.clock, settings=self.atlas.settings)
        key = await dao.add(name, scope, requests_per_minute)
        return {"X-API-Key": key.get_secret_value()}


async def until_readable(changes: ChangesDAO) -> None:
    """Wait until feeds tell of all that was stored so far.

    They do once earlier transactions have ended, of which those in other databases of the server count, too.
    """
    frontier = order(await changes.frontier())
    async with asyncio.timeout(60):
        while order(await changes.cursor()) < frontier:
            await asyncio.sleep(0.02)


@asynccontextmanager
async def served(atlas: Atlas) -> AsyncIterator[Served]:
    """Serve an Atlas on a free port of this machine until the block ends."""
    listener = serving.listen("127.0.0.1", 0)
    ready = asyncio.Event()
    task = asyncio.create_task(serving.serve(atlas, listener, ready.set))
    waiting = asyncio.create_task(ready.wait())
    try:
        await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        async with aiohttp.ClientSession() as session:
            yield Served(serving.url_of(listener, atlas.settings.api), session, atlas)
    finally:
        waiting.cancel()
        task.cancel()
        await asyncio.wait([task, waiting])
