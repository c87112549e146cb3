"""`maia migrate`: brings the database's schema up to date."""

from __future__ import annotations

from typing import Annotated

import typer

from maia.commands.terminal import AsJson, ExitStatus, load_settings, print_json, print_text, run

app = typer.Typer(rich_markup_mode="markdown", add_completion=False)


@app.command()
def migrate(
    check: Annotated[
        bool, typer.Option("--check", help="Only list pending migrations; exit status 1 if there are any.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Bring the database's schema up to date.

    Every command does this by itself unless PLEIADES_DATABASE__MIGRATE=false. It is safe to run several at
    once: each migration is applied only once.
    """
    names = run(_migrate(check=check))
    if as_json:
        print_json({"pending" if check else "applied": names})
    elif check:
        print_text(
            f"pending: {', '.join(names)}; apply with: maia migrate" if names else "nothing is pending"
        )
    else:
        print_text(f"applied: {', '.join(names)}" if names else "the schema is up to date")
    if check and names:
        raise typer.Exit(ExitStatus.FAILED)


async def _migrate(*, check: bool) -> list[str]:
    from atlas.db import Database

    settings = load_settings()
    not_automatic = settings.model_copy(
        update={"database": settings.database.model_copy(update={"migrate": False})}
    )
    async with Database.open(not_automatic) as database:
        return await (database.pending_migrations() if check else database.migrate())
