"""`maia hunter`: one or more cycles of the hunter, as a Prefect flow or directly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from maia.terminal import AsJson, ExitStatus, load_settings, print_json

if TYPE_CHECKING:
    from atlas.config import Settings

app = typer.Typer(rich_markup_mode="markdown", add_completion=False)

_STATUSES = {"unavailable": ExitStatus.UNAVAILABLE, "keys_rejected": ExitStatus.CONFIGURATION}


@app.command()
def hunter(
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Topics claimed in a cycle; by default the setting's.", show_default=False),
    ] = None,
    cycles: Annotated[
        int, typer.Option(min=1, help="Cycles to run; fewer if the ring closes or nothing is left.")
    ] = 1,
    direct: Annotated[bool, typer.Option("--direct", help="Without Prefect: quicker, no history.")] = False,
    as_json: AsJson = False,
) -> None:
    """Search YouTube for the queue's topics, store what is found, queue its tags.

    As a Prefect flow, on the server of PREFECT_API_URL or else on one that lives as long as the flow.
    Exit statuses: 0 also when nothing is due or the ring is closed (it says until when), 69 when neither
    YouTube nor the database answers, 75 after a 429, 78 without a usable key, until somebody mends it.
    """
    statistics = hunt(load_settings(), batch_size, cycles, direct=direct)
    if as_json:
        print_json(statistics)
    else:
        typer.echo(summary(statistics))
    status = _STATUSES.get(statistics["outcome"], ExitStatus.DONE)
    if status:
        raise typer.Exit(status)


def hunt(
    settings: Settings, batch_size: int | None, cycles: int, *, direct: bool, **options: Any
) -> dict[str, Any]:
    """Run the cycles and return their statistics; SystemExit as the hunter raises it."""
    import asyncio

    if direct:
        from maia.hunter import run_direct

        return asyncio.run(run_direct(settings, batch_size, cycles, **options))
    from flows import environment

    # Before a server is started for nothing.
    settings.ring_keys("hunting")
    environment.prepare()
    from flows import server
    from flows.hunter import run

    with server.reachable():
        return asyncio.run(run(settings, batch_size, cycles, **options))


def summary(statistics: dict[str, Any]) -> str:
    """What the cycles did, in a sentence or two."""
    units = ", ".join(f"{count:,} {bucket}" for bucket, count in statistics["units"].items()) or "none"
    counted = (
        (statistics["topics"], "topics"),
        (statistics["pages"], "pages"),
        (statistics["found"], "results"),
        (statistics["new"], "new videos"),
        (statistics["tags"], "new topics"),
    )
    text = ", ".join(f"{count:,} {what}" for count, what in counted)
    text += f" in {statistics['seconds']:.1f} s; units: {units}"
    skipped = ", ".join(f"{count:,} {reason}" for reason, count in statistics["skipped"].items())
    if skipped:
        text += f"; skipped: {skipped}"
    return f"{text}\n{statistics['detail']}" if statistics["detail"] else text
