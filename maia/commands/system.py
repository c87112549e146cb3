"""`maia system`: the health of everything, clean-up, updates, and the embedded server, each on demand."""

from __future__ import annotations

import typer

from maia.commands.system_actions import actions
from maia.commands.system_cleanup import cleanup
from maia.commands.system_health import health
from maia.commands.system_server import server
from maia.commands.system_update import update

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", add_completion=False)


@app.callback()
def system() -> None:
    """Show the system's health, clean up, look for updates, control the embedded server."""


for verb in (health, actions, update, cleanup, server):
    app.command()(verb)
