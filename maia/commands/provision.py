"""`maia provision`: sets up a Prefect server's work pools, deployments and automations."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maia.commands.terminal import AsJson, load_settings, print_json, print_text, run

if TYPE_CHECKING:
    from flows.provisioning import Provision

app = typer.Typer(rich_markup_mode="markdown", add_completion=False)


@app.command()
def provision(
    pool: Annotated[
        list[str] | None,
        typer.Option(help="A work pool to create: process, docker or kubernetes. [default: all three]"),
    ] = None,
    deployments: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="Also deploy everything in this file, such as deployments/prefect.yaml.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Set up the Prefect server at PREFECT_API_URL: work pools, deployments and automations.

    One automation marks runs as Crashed when they have stopped giving signs of life. The other alerts you to
    failed and crashed runs. If you run it again, it changes only what differs.
    """
    from flows import environment

    settings = load_settings()
    environment.prepare()
    from flows import provisioning

    chosen = pool or provisioning.POOLS
    if unknown := set(chosen) - set(provisioning.POOLS):
        raise typer.BadParameter(f"{', '.join(unknown)}: there are {', '.join(provisioning.POOLS)}")

    async def set_up() -> list[Provision]:
        from flows import server

        await server.wait_until_answering(server.required_url(), settings.up.start_timeout_s)
        provided = await provisioning.provide_pools(chosen)
        if deployments is not None:
            provided += await provisioning.deploy(deployments)
        return provided + await provisioning.automate(settings.prefect.zombie_after_s)

    provided = run(set_up())
    if as_json:
        print_json([asdict(each) for each in provided])
        return
    for each in provided:
        print_text(f"{each.kind} {each.name}: {each.change}")
