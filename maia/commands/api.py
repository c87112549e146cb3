"""`maia api`: serves patterns, discovery and the dashboard over HTTP."""

from __future__ import annotations

import gc
import os
import sys
from typing import TYPE_CHECKING, Annotated, Final

import typer

from maia.commands.terminal import AsJson, print_line, print_text, with_atlas

if TYPE_CHECKING:
    from atlas.composition import Atlas

_SWITCH_S: Final = 0.001

app = typer.Typer(rich_markup_mode="markdown", add_completion=False)


@app.command()
def api(
    host: Annotated[
        str | None,
        typer.Option(help="Address to listen on. [default: HOST, or 127.0.0.1]", show_default=False),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Port; 0 picks a free one. [default: PORT, or 8080]", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Serve patterns, discovery and the dashboard over HTTP, until Ctrl-C or SIGTERM.

    Open the URL that it prints in a browser. Programs find everything described at /openapi.json. As long as
    no key is configured, only programs of this machine may call it; maia keys api add makes a key. Any number
    of these processes may run over one database.

    For example:

    - `maia api`
    - `maia api --host 0.0.0.0 --port 80`
    - `curl http://127.0.0.1:8080/api/v1/videos`
    """

    async def run(atlas: Atlas) -> None:
        from atlas.adapters.access import AccessDAO
        from maia.api import serving

        dao = AccessDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        address = atlas.settings.host if host is None else host
        serving.check_exposure(address, has_keys=bool(await atlas.db.through_outages(dao.keys)))
        listener = serving.listen(address, atlas.settings.port if port is None else port)
        url = serving.url_of(listener, atlas.settings.api)

        def ready() -> None:
            # What is loaded now stays: collecting garbage need not look at it, which would stop all answers.
            gc.collect()
            gc.freeze()
            if as_json:
                print_line({"event": "serving", "url": url, "pid": os.getpid()})
            else:
                print_text(f"The dashboard is at {url}\nPress Ctrl-C to stop.")

        # What works beside the requests in threads must not keep them waiting for 5 ms each time.
        sys.setswitchinterval(_SWITCH_S)
        await serving.serve(atlas, listener, ready)

    with_atlas(run, fast=True)
