"""`maia mcp`: serves tools to an AI assistant over stdin and stdout."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from maia.commands.terminal import print_text, with_atlas

if TYPE_CHECKING:
    from atlas.composition import Atlas

app = typer.Typer(rich_markup_mode="markdown", add_completion=False)


@app.command()
def mcp(
    write: Annotated[
        bool,
        typer.Option("--write", help="Also offer the tools that change something: seed_topic and watch."),
    ] = False,
) -> None:
    """Serve what is known to an AI assistant, by the Model Context Protocol over stdin and stdout.

    The assistant starts it: add it to its configuration with the command `maia` and the argument `mcp`. It
    needs no key, and ends when the assistant closes stdin, at SIGTERM and at Ctrl-C. Logs go to stderr. Over
    HTTP, the service offers the same tools at /mcp (maia api).

    For example:

    - `claude mcp add pleiades -- maia mcp`
    - `maia mcp --write`
    """
    if sys.stdin.isatty():
        print_text(
            "This waits for an AI assistant on stdin, which should start it: docs/service.md says how.\n"
            "Press Ctrl-C to stop.",
            stderr=True,
        )
    with _claimed_streams() as (source, sink):

        async def converse(atlas: Atlas) -> None:
            from atlas.scopes import Scope
            from maia.api.mcp import stdio
            from maia.api.mcp.server import server

            scope = Scope.WRITE if write else Scope.READ
            await stdio.converse(
                server(atlas, lambda _: scope), source, sink, atlas.settings.api.most_body_bytes
            )

        with_atlas(converse)


@contextmanager
def _claimed_streams() -> Iterator[tuple[int, int]]:
    """Take stdin and stdout for the protocol: meanwhile prints go to stderr and children read nothing."""
    sys.stdout.flush()
    source, sink = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    try:
        yield source, sink
    finally:
        sys.stdout.flush()
        # A thread may still wait for input, so the descriptors are not closed.
        os.dup2(source, 0)
        os.dup2(sink, 1)
