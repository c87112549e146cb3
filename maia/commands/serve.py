"""`maia serve`: runs every agent on its schedule, for an existing Prefect server."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from maia.commands.terminal import AsJson, load_settings, print_line, print_text

if TYPE_CHECKING:
    from flows.registry import ServedFlow

app = typer.Typer(rich_markup_mode="markdown", add_completion=False)


@app.command()
def serve(as_json: AsJson = False) -> None:
    """Run every agent on its schedule, for the Prefect server at PREFECT_API_URL, until Ctrl-C or SIGTERM.

    Each run is a process on this machine, and no work pool is needed. Several machines can serve the same
    Prefect server. `maia up` does all this with a Prefect server of its own.
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
            print_text(f"{flow.deployment} runs every {flow.interval_s:g} s")

    asyncio.run(serve_flows(settings, ready))
