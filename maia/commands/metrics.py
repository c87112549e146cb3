"""`maia metrics`: serves metrics to Prometheus, or prints them once."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Annotated

import typer

from maia.commands.terminal import AsJson, print_line, print_text, with_atlas

if TYPE_CHECKING:
    from atlas.composition import Atlas

app = typer.Typer(rich_markup_mode="markdown", add_completion=False)


@app.command()
def metrics(
    once: Annotated[bool, typer.Option("--once", help="Print the metrics once and exit.")] = False,
    port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="Port to listen on; 0 picks a free one. [default: PLEIADES_METRICS__PORT]",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Serve metrics to Prometheus at /metrics, and a health check at /health, until Ctrl-C or SIGTERM.

    Each request computes the metrics from the database, so agents need not run for their counts to be there.
    """

    async def serve(atlas: Atlas) -> None:
        from maia.stack.metrics import Exporter, serve_metrics

        if once:
            print_text((await Exporter(atlas).exposition()).decode().rstrip("\n"))
            return
        settings = atlas.settings
        async with serve_metrics(
            atlas, settings.host, settings.metrics.port if port is None else port
        ) as url:
            if as_json:
                print_line({"event": "serving", "url": url, "pid": os.getpid()})
            else:
                print_text(f"metrics at {url}")
            await asyncio.Event().wait()

    with_atlas(serve)
