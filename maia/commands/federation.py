"""`maia federation`: shows and steers what sites exchange."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from atlas.wording import counted
from maia.commands.tables import Column, print_table
from maia.commands.terminal import AsJson, print_json, print_line, print_text, with_atlas
from maia.views.words import plain

if TYPE_CHECKING:
    from atlas.composition import Atlas
    from maia.federation.exchange import Exchanged
    from maia.views.federation import FederationStatus, PeerStatus

_SILENT_S: Final = 3600.0
"""A site that was not heard for so long, or for three intervals if that is longer, is silent."""
_NAME: Final = 16
"""The length of a site's name, which people compare between sites and copy from table to table."""

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", add_completion=False)


@app.callback()
def federation() -> None:
    """Let sites learn together: show them, exchange with them now, or leave them."""


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show this site, the others, and which messages were refused and which exchanges failed, and why."""
    from maia.views import federation as views

    found = with_atlas(views.status)
    if as_json:
        print_json(plain(found))
        return
    _print_site(found)
    _print_peers(found)
    refused = {"unknown": found.refused, **{peer.node: peer.refused for peer in found.peers}}
    rows = [
        (node, each.reason, each.count, each.last_at, each.last_told)
        for node, refusals in refused.items()
        for each in refusals
    ]
    if rows:
        print_table(
            (
                Column("site", _NAME), Column("refused", 12), Column("times", right=True),
                Column("last", rank=1), Column("why", 16, wraps=True),
            ),
            rows,
            title="Refused messages",
        )  # fmt: skip
    failed = {"unknown": found.failed, **{peer.node: peer.failed for peer in found.peers}}
    failures = [
        (each.place, node, each.failed_at, each.told) for node, those in failed.items() for each in those
    ]
    if failures:
        print_table(
            (
                Column("called", 12), Column("site", _NAME, rank=1), Column("failed"),
                Column("why", 24, wraps=True),
            ),
            failures,
            title="Failed exchanges",
        )  # fmt: skip


@app.command()
def peers(as_json: AsJson = False) -> None:
    """List the other sites, with what was exchanged with each."""
    from maia.views import federation as views

    found = with_atlas(views.status)
    if as_json:
        print_json(plain(found.peers))
    else:
        _print_peers(found)


@app.command()
def sync(
    compare: Annotated[
        bool | None,
        typer.Option(
            "--compare/--no-compare",
            help="Also compare everything, and repair what differs. [default: at every tenth exchange]",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Exchange with all peers that the settings name, now.

    For example:

    - `maia federation sync`
    - `maia federation sync --compare`
    """

    async def run(atlas: Atlas) -> list[Exchanged]:
        from maia.federation.running import Federation

        return await Federation(atlas).sync(compare=compare)

    done = with_atlas(run)
    if as_json:
        print_json(plain(done))
    elif not done:
        print_text(
            "The settings name no peer to call. If none is to call this site either, set "
            "PLEIADES_FEDERATION__COORDINATOR_URL or PLEIADES_FEDERATION__PEERS."
        )
    else:
        print_table(
            (
                Column("peer", 12), Column("site", _NAME, rank=1), Column("messages", rank=3, right=True),
                Column("sent", right=True), Column("received", right=True), Column("changed", right=True),
                Column("differed", rank=2, right=True), Column("result", 12, wraps=True),
            ),
            [
                (
                    each.place, each.node, each.messages, each.sent, each.received, each.changed,
                    each.differing if each.compared else None, _result(each),
                )
                for each in done
            ],
        )  # fmt: skip
    if failed := [each.failed for each in done if each.failed]:
        if not as_json:
            print_text("\n".join(failed))
        raise typer.Exit(1)


@app.command()
def leave(
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False, as_json: AsJson = False
) -> None:
    """Tell all peers that this site leaves, and forget them. What was learnt from them stays.

    Stop maia up and maia federation run at this site before, and take the token and the peers out of its
    settings afterwards: as long as they are there, the next exchange brings it back.
    Without a token, the peers can't be told, and are only forgotten.
    """
    if not yes and as_json:
        raise typer.BadParameter("with --json nobody is asked: add --yes to leave", param_hint="--json")
    if not yes:
        typer.confirm("Tell the other sites that this one leaves, and forget them?", abort=True)

    async def run(atlas: Atlas) -> dict[str, str | None]:
        from maia.federation.running import Federation

        return await Federation(atlas).leave()

    told = with_atlas(run)
    if as_json:
        print_json({"told": plain(told)})
        return
    for place, failed in told.items():
        print_text(failed or f"{place}: told")
    print_text("This site has left. What it learnt from others stays.")
    if told:
        print_text(
            "Now take the token and the peers out of its settings, or the next exchange brings it back."
        )


@app.command()
def rename(as_json: AsJson = False) -> None:
    """Let this site count under a new name: for a database that was set back with its disk.

    One that was restored from a backup takes a new name by itself. It stays the same site.
    """

    async def work(atlas: Atlas) -> str:
        from atlas.adapters.federation import FederationDAO

        return await FederationDAO(atlas.db, clock=atlas.clock, settings=atlas.settings).rename()

    node = with_atlas(work)
    if as_json:
        print_json({"site": node})
    else:
        print_text(f"This site counts as {node} from now on.")


@app.command()
def run(as_json: AsJson = False) -> None:
    """Exchange with all peers at every interval until stopped, as maia up --federate does.

    Any number of these may run for a site: one works, and the others wait for their turn.
    """

    async def work(atlas: Atlas) -> None:
        from maia.federation.running import keep_syncing

        def ready() -> None:
            if as_json:
                print_line({"event": "federating", "cluster": atlas.settings.federation.cluster_name})
            else:
                print_text("Exchanging with the other sites. Press Ctrl-C to stop.")

        def tell(done: Exchanged) -> None:
            if as_json:
                print_line({"event": "exchanged", **plain(done)})

        await keep_syncing(atlas, ready, tell)

    with_atlas(work)


def _print_site(found: FederationStatus) -> None:
    print_text(f"This site is {found.site}, a {found.role}.")
    print_text(f"Its cluster {found.cluster} has {counted(found.sites, 'site')}.")
    if not found.has_token:
        print_text("It exchanges with nobody: set PLEIADES_FEDERATION__TOKEN, the same at each site.")
    elif not found.calls:
        print_text("It calls no peers, and answers those that call while maia up or maia api runs.")
    else:
        print_text(f"It calls {', '.join(found.calls)} every {found.sync_interval_s:g} s.")
    if found.has_token and not found.enabled:
        what = "For that" if found.calls else "For Redis"
        print_text(f"{what}, maia up --federate or maia federation run must be running.")


def _print_peers(found: FederationStatus) -> None:
    if not found.peers:
        print_text("No other site is known yet.")
        return
    print_table(
        (
            Column("site", _NAME), Column("role", rank=3), Column("at", 9, rank=4),
            Column("last heard", rank=1),
            Column("in", right=True), Column("out", right=True), Column("new here", right=True),
            Column("KB in", rank=5, right=True), Column("KB out", rank=5, right=True),
            Column("state", 9, wraps=True),
        ),
        [
            (
                peer.node, peer.role, peer.place, peer.heard_at, peer.records_in, peer.records_out,
                peer.changed, round(peer.bytes_in / 1e3), round(peer.bytes_out / 1e3),
                _state(peer, found.sync_interval_s),
            )
            for peer in found.peers
        ],
    )  # fmt: skip


def _state(peer: PeerStatus, interval_s: float) -> str:
    if peer.left_at is not None:
        return "left"
    if peer.isolated_until is not None:
        return f"isolated until {peer.isolated_until:%H:%M}"
    if peer.failed:
        return "failing"
    if peer.lag_s is None:
        return "told of"
    return "silent" if peer.lag_s > max(_SILENT_S, 3 * interval_s) else "well"


def _result(done: Exchanged) -> str:
    if done.failed:
        return "failed"
    if everything := done.refused.get("all"):
        return everything
    refused = ", ".join(f"{kind}: {told}" for kind, told in done.refused.items())
    return f"without {refused}" if refused else "well"
