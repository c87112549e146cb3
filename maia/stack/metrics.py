"""Serves metrics to Prometheus at a port of their own, for machines on which only agents run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_1_0_0

from atlas.composition import Atlas
from maia.errors import MaiaError
from maia.stack.exporter import Exporter


class MetricsError(MaiaError):
    """The metrics cannot be served."""


@asynccontextmanager
async def serve_metrics(atlas: Atlas, host: str, port: int) -> AsyncIterator[str]:
    """Serve /metrics, and /health, which says whether Atlas's services answer; yields the URL of /metrics."""
    exporter = Exporter(atlas)

    async def metrics(_: web.Request) -> web.Response:
        body = await exporter.exposition()
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_PLAIN_1_0_0})

    async def health(_: web.Request) -> web.Response:
        answers = await atlas.ping()
        healthy = all(answer == "ok" for answer in answers.values())
        return web.json_response(answers, status=200 if healthy else 503)

    served = web.Application()
    served.add_routes([web.get("/metrics", metrics), web.get("/health", health)])
    runner = web.AppRunner(served, access_log=None)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise MetricsError(
                f"cannot listen on {host}:{port} ({error.strerror}): stop the program that does, or set "
                "PLEIADES_METRICS__PORT to another port"
            ) from error
        bound = runner.addresses[0]
        yield f"http://{f'[{bound[0]}]' if ':' in bound[0] else bound[0]}:{bound[1]}/metrics"
    finally:
        await runner.cleanup()
