"""The least that an HTTP service in Python costs: one bare route of Starlette, on uvicorn at its fastest.

`python -m tests.bench.floor` serves it on a free port, and prints where.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket

import orjson
import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_ANSWER = orjson.dumps([{"id": f"{n:032x}", "statement": f"Statement {n}.", "score": 0.5} for n in range(5)])


async def floor(request: Request) -> Response:
    """Read JSON, answer JSON."""
    orjson.loads(await request.body())
    return Response(_ANSWER, media_type="application/json")


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        assert sockets is not None
        url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
        print(json.dumps({"url": url, "pid": os.getpid()}), flush=True)


async def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    app = Starlette(routes=[Route("/floor", floor, methods=["POST"])])
    config = uvicorn.Config(app, http="httptools", access_log=False, log_config=None, timeout_keep_alive=30)
    await _Server(config).serve(sockets=[listener])


if __name__ == "__main__":
    try:
        uvloop.run(main())
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise SystemExit(143) from None
