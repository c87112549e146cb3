"""`maia migrate`: the schema, brought up to date."""

from __future__ import annotations

from typing import Annotated

import typer

from maia.terminal import AsJson, ExitStatus, load_settings, print_json, run

app = typer.Typer(rich_markup_mode="markdown", add_completion=False)


@app.command()
def migrate(
    check: Annotated[
        bool, typer.Option("--check", help="Only say what is pending; exit status 1 if anything is.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Bring the database's schema up to date.

    Every command does so by itself unless PLEIADES_DATABASE__MIGRATE=false. Several at once apply each
    migration once.
    """
    names = run(_migrate(check=check))
    if as_json:
        print_json({"pending" if check else "applied": names})
    elif check:
        typer.echo(
            f"pending: {', '.join(names)}; apply with: maia migrate" if names else "nothing is pending"
        )
    else:
        typer.echo(f"applied: {', '.join(names)}" if names else "the schema is up to date")
    if check and names:
        raise typer.Exit(ExitStatus.FAILED)


async def _migrate(*, check: bool) -> list[str]:
    from atlas.db import Database

    settings = load_settings()
    by_hand = settings.model_copy(
        update={"database": settings.database.model_copy(update={"migrate": False})}
    )
    async with Database.open(by_hand) as database:
        return await (database.pending_migrations() if check else database.migrate())
