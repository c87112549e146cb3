"""`maia metrics`: what Pleiades does, for Prometheus."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from maia.terminal import AsJson, print_line, with_atlas

if TYPE_CHECKING:
    from atlas.composition import Atlas

app = typer.Typer(rich_markup_mode="markdown", add_completion=False)


@app.command()
def metrics(
    once: Annotated[bool, typer.Option("--once", help="Print them once instead of serving them.")] = False,
    port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="Port to listen on, 0 for a free one; by default the setting's.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Serve /metrics to Prometheus, and /health, until Ctrl-C or SIGTERM.

    Everything is computed from the database when it is asked for: agents that come and go lose no count.
    """

    async def serve(atlas: Atlas) -> None:
        from maia.metrics import Exporter, exported

        if once:
            sys.stdout.write((await Exporter(atlas).exposition()).decode())
            return
        settings = atlas.settings
        async with exported(atlas, settings.host, settings.metrics.port if port is None else port) as url:
            if as_json:
                print_line({"event": "serving", "url": url, "pid": os.getpid()})
            else:
                typer.echo(f"metrics at {url}")
                sys.stdout.flush()
            await asyncio.Event().wait()

    with_atlas(serve)
