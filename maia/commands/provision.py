"""`maia provision`: the work pools, deployments and automations of a Prefect server."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maia.terminal import AsJson, load_settings, print_json

if TYPE_CHECKING:
    from flows.provisioning import Provision

app = typer.Typer(rich_markup_mode="markdown", add_completion=False)


@app.command()
def provision(
    pool: Annotated[
        list[str] | None,
        typer.Option(help="A work pool to make: process, docker or kubernetes. [default: all three]"),
    ] = None,
    deployments: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="Deploy all of this file too, such as deployments/prefect.yaml.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Give the Prefect server of PREFECT_API_URL its work pools, deployments and automations.

    One automation turns runs that fell silent into Crashed ones, the other tells of failed and crashed runs.
    Doing it again changes only what differs.
    """
    from flows import environment

    settings = load_settings()
    environment.prepare()
    from flows import provisioning

    chosen = pool or provisioning.POOLS
    if unknown := set(chosen) - set(provisioning.POOLS):
        raise typer.BadParameter(f"{', '.join(unknown)}: there are {', '.join(provisioning.POOLS)}")

    async def provide() -> list[Provision]:
        from flows import server

        await server.wait_until_answering(server.required_url(), settings.up.start_timeout_s)
        provided = await provisioning.provide_pools(chosen)
        if deployments is not None:
            provided += await provisioning.deploy(deployments)
        return provided + await provisioning.automate(settings.prefect.zombie_after_s)

    provided = asyncio.run(provide())
    if as_json:
        print_json([asdict(each) for each in provided])
        return
    for each in provided:
        typer.echo(f"{each.kind} {each.name}: {each.change}")
