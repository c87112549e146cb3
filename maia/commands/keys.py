"""`maia keys`: the quota ledger, and how each key stands."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maia.terminal import AsJson, print_json, print_table, with_atlas

if TYPE_CHECKING:
    from atlas.composition import Atlas
    from atlas.keyring import KeyStatus, LedgerLine

app = typer.Typer(rich_markup_mode="markdown", add_completion=False)

_LINE = ("ring", "project", "bucket", "used", "reserved", "allowed now", "left today", "ring's limit",
         "closed until", "reason")  # fmt: skip


@app.command()
def keys(
    ring: Annotated[
        str | None, typer.Option(help="Only this ring: hunting, tracking or archeology.", show_default=False)
    ] = None,
    enable: Annotated[
        str | None,
        typer.Option(
            metavar="FINGERPRINT",
            help="First put this key back into use, the cause that disabled it being mended.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the quota ledger of this Pacific day, in units, by ring, project and bucket.

    `allowed now` is what pace admits of the ring's limit so far, `left today` what the ring can still spend
    before midnight in Los Angeles. Keys are named by fingerprints only.
    """
    lines = with_atlas(lambda atlas: ledger(atlas, ring, enable=enable))
    statuses = {status.fingerprint: status for line in lines for status in line.keys}
    if as_json:
        ledger_lines = [asdict(line) | {"keys": [key.fingerprint for key in line.keys]} for line in lines]
        print_json({"ledger": ledger_lines, "keys": [_described(key, lines) for key in statuses.values()]})
        return
    print_ledger(lines)
    columns = (
        "key",
        "project",
        "rings",
        "state",
        "calls today",
        "failures in a row",
        "tried again",
        "reason",
    )
    print_table(columns, [tuple(_described(key, lines).values()) for key in statuses.values()], title="Keys")


async def ledger(atlas: Atlas, ring: str | None = None, *, enable: str | None = None) -> list[LedgerLine]:
    """The lines of one ring, or of every ring that has keys; EmptyKeyRing if there are none.

    A key to `enable` is put back into use first.
    """
    from atlas.config import RINGS, RingName
    from atlas.errors import ConfigError
    from atlas.keyring import KeyRing

    unknown = ring is not None and ring not in RINGS
    if unknown:
        raise ConfigError(f"there is no ring {ring!r}; the rings are {', '.join(RINGS)}")
    named: list[RingName] = [name for name in RINGS if ring in (None, name)]
    supplied = [name for name in named if atlas.settings.key_pool[name]]
    rings = [KeyRing(name, atlas=atlas) for name in supplied or named[:1]]
    if enable is not None:
        await rings[0].enable_key(enable)
    return [line for keys_of in rings for line in await keys_of.ledger()]


def print_ledger(lines: list[LedgerLine]) -> None:
    """Print the ledger as a table, without the buckets that a ring has no part in."""
    rows = [
        (
            line.ring, line.project, line.bucket, line.used, line.reserved, line.allowed, line.left,
            line.ring_limit, line.closed_until, line.reason,
        )
        for line in lines
        if line.ring_limit or line.used or line.reserved
    ]  # fmt: skip
    print_table(_LINE, rows, title="Quota of this Pacific day")


def _described(key: KeyStatus, lines: list[LedgerLine]) -> dict[str, Any]:
    holders = (
        line.ring for line in lines if any(other.fingerprint == key.fingerprint for other in line.keys)
    )
    return {
        "fingerprint": key.fingerprint,
        "project": key.project,
        "rings": ", ".join(dict.fromkeys(holders)),
        "state": str(key.state),
        "calls": key.calls,
        "failures": key.failures,
        "retry_at": key.retry_at,
        "reason": key.reason,
    }
