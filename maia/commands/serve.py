"""`maia serve`: every agent on its schedule, for a Prefect server that is there."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from maia.terminal import AsJson, load_settings, print_line

if TYPE_CHECKING:
    from flows.registry import ServedFlow

app = typer.Typer(rich_markup_mode="markdown", add_completion=False)


@app.command()
def serve(as_json: AsJson = False) -> None:
    """Serve every agent on its schedule to the Prefect server of PREFECT_API_URL, until Ctrl-C or SIGTERM.

    Runs are processes of this machine; no work pool is needed. Any number of machines may serve at once.
    `maia up` does this by itself, with a server of its own.
    """
    from flows import environment

    settings = load_settings()
    environment.prepare()
    from flows.serving import serve as serve_flows

    def ready(agents: Sequence[ServedFlow]) -> None:
        if as_json:
            print_line({"event": "serving", "intervals_s": {flow.name: flow.interval_s for flow in agents}})
            return
        for flow in agents:
            typer.echo(f"{flow.deployment} runs every {flow.interval_s:g} s")

    asyncio.run(serve_flows(settings, ready))
