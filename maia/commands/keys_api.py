"""`maia keys api`: adds, lists and revokes the keys with which programs call the HTTP service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from atlas.csvform import rfc3339
from atlas.scopes import Scope
from maia.commands.tables import Column, print_table
from maia.commands.terminal import AsJson, print_json, print_text, with_atlas

if TYPE_CHECKING:
    from typing import Any

    from atlas.adapters.access import AccessDAO, AccessKey
    from atlas.composition import Atlas

app = typer.Typer(rich_markup_mode="markdown", no_args_is_help=True, add_completion=False)

_COLUMNS = (
    "name", "id", "scope", Column("a minute", rank=3, right=True), Column("added", rank=2),
    Column("last used", rank=1), Column("revoked", rank=1),
)  # fmt: skip


@app.callback()
def keys_api() -> None:
    """Add, list and revoke the keys with which programs and browsers call the HTTP service (maia api).

    As long as there is none, the service can be called from this machine alone.
    """


@app.command()
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the key is for, such as grafana.")],
    scope: Annotated[
        Scope, typer.Option(help="read looks, write also seeds and watches, admin also operates.")
    ] = Scope.READ,
    rate: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=10_000_000,
            metavar="N",
            help="Requests a minute. [default: PLEIADES_API__REQUESTS_PER_MINUTE]",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Add a key, and show it: this once, as only a digest of it is stored.

    For example:

    - `maia keys api add grafana`
    - `maia keys api add notebook --scope write --rate 600`
    - `curl -H "X-API-Key: $KEY" http://127.0.0.1:8080/api/v1/videos`
    """
    key = with_atlas(lambda atlas: _dao(atlas).add(name, scope, rate)).get_secret_value()
    if as_json:
        print_json({"name": name, "scope": scope, "requests_per_minute": rate, "key": key})
        return
    print_text(f"The key {name} ({scope}), which is shown this once:", stderr=True)
    print_text(key)
    print_text("Send it in the header X-API-Key, or sign in to the dashboard with it.", stderr=True)


@app.command("list")
def list_keys(
    revoked: Annotated[bool, typer.Option("--revoked", help="Show revoked keys, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the keys, without their secrets."""
    found = with_atlas(lambda atlas: _dao(atlas).keys(revoked=revoked))
    if as_json:
        print_json([_as_dict(key) for key in found])
    elif found:
        columns = _COLUMNS if revoked else _COLUMNS[:-1]
        rows = [
            (
                key.name, key.id, key.scope.value, key.requests_per_minute or "default",
                key.created_at.date(), key.last_used_on, key.revoked_at,
            )[: len(columns)]
            for key in found
        ]  # fmt: skip
        print_table(columns, rows)
    else:
        print_text(
            "There is no key, so only programs of this machine may call. To add one: maia keys api add NAME"
        )


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(metavar="NAME|ID", help="The key's name or id.")],
    as_json: AsJson = False,
) -> None:
    """Revoke a key: every process refuses it at once, and what was signed in with it."""
    from maia.errors import MaiaError

    id_ = with_atlas(lambda atlas: _dao(atlas).revoke(key))
    if id_ is None:
        raise MaiaError(f"no valid key has the name or id {key!r}; maia keys api list shows them")
    if as_json:
        print_json({"revoked": id_})
    else:
        print_text(f"revoked {id_}")


def _dao(atlas: Atlas) -> AccessDAO:
    from atlas.adapters.access import AccessDAO

    return AccessDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)


def _as_dict(key: AccessKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "scope": key.scope.value,
        "requests_per_minute": key.requests_per_minute,
        "created_at": rfc3339(key.created_at),
        "last_used_on": None if key.last_used_on is None else key.last_used_on.isoformat(),
        "revoked_at": None if key.revoked_at is None else rfc3339(key.revoked_at),
    }
