"""`maia keys`: the quota ledger and the state of each API key; `maia keys api`: keys of the HTTP service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from maia.commands import keys_api
from maia.commands.arguments import ListsByDefault
from maia.commands.tables import Column, print_table
from maia.commands.terminal import AsJson, print_json, with_atlas
from maia.views.words import plain

if TYPE_CHECKING:
    from atlas.composition import Atlas
    from maia.views.ledger import Ledger


class _Keys(ListsByDefault):
    """A group whose command `show` is meant when none is named; its help tells of all."""

    default = "show"


app = typer.Typer(cls=_Keys, rich_markup_mode="markdown", add_completion=False)
app.add_typer(keys_api.app, name="api")

_LINE = (
    "ring", Column("project", 8), "bucket", "used", Column("reserved", rank=5), Column("free now", rank=2),
    "left today", Column("ring's limit", rank=4), Column("lent", rank=6), Column("closed until", rank=1),
    Column("reason", 14, wraps=True, rank=3),
)  # fmt: skip


@app.callback()
def keys() -> None:
    """Show today's quota of YouTube's API, or manage the keys of the HTTP service (api)."""


@app.command()
def show(
    ring: Annotated[
        str | None, typer.Option(help="Only this ring: hunting, tracking or archeology.", show_default=False)
    ] = None,
    enable: Annotated[
        str | None,
        typer.Option(
            metavar="FINGERPRINT",
            help="Enable this key again, once you have fixed why it was disabled.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show today's API quota: units used and left, and the state of each key.

    A ring is the group of keys that one agent uses, and a bucket is one of YouTube's separate daily quotas.
    The day ends at midnight in Los Angeles. Units are released over the day: `free now` is how many of those
    released so far are left to spend, `left today` how many will be in the whole day. `lent` are units that
    the ring borrows from the archeology ring, which takes them back when it needs them; archeology's own
    line shows what it lends. Keys are shown by fingerprint only.
    """
    found = with_atlas(lambda atlas: _ledger(atlas, ring, enable))
    if as_json:
        print_json(plain(found))
        return
    print_ledger(found)
    columns = (
        "key", Column("project", 8), Column("rings", 10, wraps=True, rank=5), "state",
        Column("calls today", rank=4), Column("failures in a row", rank=3), Column("tried again", rank=2),
        Column("reason", 14, wraps=True, rank=1),
    )  # fmt: skip
    rows = [
        (
            key.fingerprint, key.project, ", ".join(key.rings), key.state, key.calls, key.failures,
            key.retry_at, key.reason,
        )
        for key in found.keys
    ]  # fmt: skip
    print_table(columns, rows, title="Keys")


async def _ledger(atlas: Atlas, ring: str | None, enable: str | None) -> Ledger:
    from atlas.config import RINGS
    from atlas.errors import ConfigError
    from atlas.keyring import KeyRing
    from maia import acts
    from maia.views.ledger import ledger

    rings = [name for name in RINGS if ring in (None, name)]
    if not rings:
        raise ConfigError(f"there is no ring {ring!r}; the rings are {', '.join(RINGS)}")
    # If none has a key, KeyRing raises an error that says what to set.
    first = next((name for name in rings if atlas.settings.key_pool[name]), rings[0])
    keys_of = KeyRing(first, atlas=atlas)
    if enable is not None:
        await keys_of.enable_key(enable)
        await acts.record(atlas, "enable_key", [{"kind": "key"}])
    return await ledger(atlas, None if ring is None else first)


def print_ledger(found: Ledger) -> None:
    """Print the ledger as a table, without buckets that are not in use."""
    rows = [
        (
            row.ring, row.project, row.bucket, row.used, row.reserved, row.free_now, row.left, row.ring_limit,
            f"{row.loan:+}" if row.loan else None, row.closed_until, row.reason,
        )
        for row in found.ledger
        if row.is_in_use
    ]  # fmt: skip
    print_table(_LINE, rows, title="Quota of this Pacific day")
