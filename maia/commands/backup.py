"""`maia backup`: creates, lists, verifies and restores backups of the database."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from atlas.wording import counted
from maia.commands.arguments import parse_folder
from maia.commands.tables import Column, print_table
from maia.commands.terminal import (
    AsJson,
    ExitStatus,
    load_settings,
    print_json,
    print_text,
    progress_bar,
    run,
    with_atlas,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from atlas.backups.manifest import Manifest
    from atlas.backups.shelf import Shelf, Shelved, Verification
    from atlas.composition import Atlas
    from atlas.config import Settings
    from maia.maintainer.backups import Made

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", add_completion=False)

_LATEST: Final = "latest"

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="A backup, as maia backup list names it, or latest.")
]
Identity = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="File with the secret key of an encrypted backup (AGE-SECRET-KEY-1…). "
        "[default: PLEIADES_MAINTAINER__BACKUPS__IDENTITY_FILE]",
        show_default=False,
        exists=True,
        dir_okay=False,
    ),
]


@app.callback()
def backup() -> None:
    """Create, list, verify and restore backups of the database.

    Backups are compressed, checked, and encrypted if there is a recipient. They are kept in the vault, or in
    the folder PLEIADES_MAINTAINER__BACKUPS__PATH. Listing, verifying and restoring need no database.
    """


@app.command()
def create(
    verify: Annotated[
        bool | None,
        typer.Option(
            "--verify/--no-verify",
            help="Restore it to a throw-away server afterwards, and compare every table. "
            "[default: PLEIADES_MAINTAINER__BACKUPS__VERIFY]",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Back up the database now.

    It is a consistent copy, made while everything runs on. Meanwhile claims are slower, so prefer a quiet
    hour. If it is killed, nothing is left but parts that no command takes for a backup.

    For example:

    - `maia backup create`
    - `maia backup create --verify`
    """

    async def make(atlas: Atlas) -> Made:
        from atlas.backups.shelf import Shelf
        from maia.maintainer import backups

        verified = atlas.settings.maintainer.backups.verify if verify is None else verify
        with progress_bar("dumping") as update:
            return await backups.make(
                atlas, Shelf.of(atlas.settings, atlas.db), verified=verified, on_progress=_showing(update)
            )

    made = with_atlas(make)
    problem = made.verification.problem if made.verification else None
    if as_json:
        print_json(
            _described(made.manifest) | _verification(made.verification) | {"unverified": made.unverified}
        )
    elif problem is None:
        from maia.maintainer.backups import told

        print_text(f"{_capital(told(made))}.")
    else:
        print_text(f"The backup {made.manifest.name} is no good: {problem}", stderr=True)
    if problem is not None:
        raise typer.Exit(ExitStatus.FAILED)


@app.command("list")
def list_backups(as_json: AsJson = False) -> None:
    """List the backups: when, how large, whether encrypted and verified, and what they are kept as.

    A backup that is kept as nothing is deleted by the next rotation. Rotation keeps
    PLEIADES_MAINTAINER__BACKUPS__DAILY, __WEEKLY and __MONTHLY. One from the future was named by a clock that
    was ahead: it counts as none of these, and as the latest only if there is no other.
    """
    settings = load_settings()
    now = _now(settings)

    async def look() -> tuple[list[Shelved], list[str], str]:
        shelf = _shelf(settings)
        return await shelf.list(now), (await shelf.names())[1], shelf.place

    shelved, incomplete, place = run(look())
    kept = _kept(settings, shelved, now)
    if as_json:
        print_json(
            {
                "place": place,
                "backups": [_as_dict(each, kept.get(each.name, ())) for each in shelved],
                "incomplete": incomplete,
            }
        )
        return
    if not shelved:
        print_text(f"There is no backup in {place} yet: maia backup create makes one.")
    else:
        columns = (
            "backup", Column("rows", right=True, rank=3), Column("size", right=True),
            Column("encrypted", rank=2), Column("verified", rank=1), Column("kept as", 8, wraps=True),
        )  # fmt: skip
        print_table(
            columns, [_row(each, kept.get(each.name, ())) for each in shelved], title=f"Backups in {place}"
        )
    for each in shelved:
        if each.problem:
            print_text(f"{each.name}: {each.problem}")
    if future := [each.name for each in shelved if each.from_future]:
        daily = settings.maintainer.backups.daily
        print_text(
            f"From the future: {', '.join(future)}. A clock was ahead when it was made, or this machine's is "
            f"behind (here it is {now:%Y-%m-%d %H:%M} UTC: correct that first). While there is another "
            f"backup, latest does not mean it, and rotation deletes it once {daily} of the last {2 * daily} "
            f"days have another one, unless it is of the next {counted(daily, 'day')}."
        )
    if incomplete:
        print_text(
            f"Incomplete, and no backups: {', '.join(incomplete)}. Either one is being made now, or it was "
            "killed; rotation deletes the latter after a day."
        )


@app.command()
def verify(name: Name = _LATEST, identity: Identity = None, as_json: AsJson = False) -> None:
    """Restore a backup to a throw-away server, and compare the rows and the checksum of every table.

    This proves that it can be restored. It takes as much disk as the database, for a while, in the folder for
    temporary files (TMPDIR). Exit status 1 if anything differs.

    For example:

    - `maia backup verify`
    - `maia backup verify 2026-11-29T01-30-00Z-0a1b2c --identity key.txt`
    """
    settings = load_settings()

    async def check() -> tuple[Manifest, Verification]:
        from atlas.backups import restoration
        from atlas.composition import clock_of

        shelf = _shelf(settings)
        manifest = await shelf.find(name, _now(settings))
        with progress_bar("restoring") as update:
            return manifest, await restoration.verify(
                shelf, manifest, settings, clock_of(settings),
                identity=_identity(manifest, settings, identity), on_progress=_showing(update),
            )  # fmt: skip

    manifest, verification = run(check())
    if as_json:
        print_json(_described(manifest) | _verification(verification))
    elif verification.problem is None:
        contents = manifest.contents
        print_text(
            f"{manifest.name} is good: all of it, {counted(len(contents.tables), 'table')} and "
            f"{counted(contents.rows, 'row')}, was restored with equal counts and checksums."
        )
    else:
        print_text(f"{manifest.name} is no good: {verification.problem}", stderr=True)
    if verification.problem is not None:
        raise typer.Exit(ExitStatus.FAILED)


@app.command()
def restore(
    name: Name,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            envvar="RESTORE_URL",
            help="An empty database to restore to. Other users see arguments: set RESTORE_URL instead if the "
            "URL has a password.",
            show_default=False,
        ),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="A folder for a new embedded server, to restore to that.",
            show_default=False,
            parser=parse_folder,
        ),
    ] = None,
    identity: Identity = None,
    as_json: AsJson = False,
) -> None:
    """Restore a backup into an empty database, and check that all of it is there.

    It never touches a database that has tables, and none in use. A backup that is torn or was changed is
    refused, and leaves the target empty. Stop the agents before you let them use the restored database.

    For example:

    - `maia backup restore latest --data-dir /var/lib/pleiades-restored`
    - `RESTORE_URL=postgresql://… maia backup restore 2026-11-29T01-30-00Z-0a1b2c --identity key.txt`
    """
    if (to is None) == (data_dir is None):
        raise typer.BadParameter("say where to: --to URL (or RESTORE_URL), or --data-dir DIR, and not both")
    if to is not None:
        _check_url(to)
    settings = load_settings()
    began_s = time.monotonic()
    manifest = run(_restore(settings, name, to, data_dir, identity))
    seconds = round(time.monotonic() - began_s, 3)
    if as_json:
        print_json(_described(manifest) | {"restored_in_seconds": seconds})
        return
    contents = manifest.contents
    print_text(
        f"Restored {counted(contents.rows, 'row')} in {counted(len(contents.tables), 'table')} from "
        f"{manifest.name} in {seconds:.0f} s, with equal counts and checksums."
    )
    print_text("To use it: stop every process of Pleiades, set")
    for each in _wanted_settings(settings, data_dir):
        print_text(f"  {each}")
    print_text("and then run maia migrate --check and maia doctor.")


def _wanted_settings(settings: Settings, data_dir: Path | None) -> list[str]:
    """The settings that let Pleiades use what was restored, and leave the vault where it is."""
    from maia.maintenance.leftovers import vault_folder

    if data_dir is None:
        return ["DATABASE_URL to that URL"]
    vault = vault_folder(settings)
    moves = vault is not None and vault.is_dir() and settings.vault.path is None
    return [f"PLEIADES_DATA_DIR={data_dir.absolute()}", *([f"PLEIADES_VAULT__PATH={vault}"] if moves else [])]


def _check_url(url: str) -> None:
    """Say that it is this address that is wrong, and not the one of the settings."""
    from atlas import dsn
    from atlas.errors import ConfigError

    try:
        dsn.parse(url)
    except ConfigError as error:
        raise typer.BadParameter(
            str(error).replace("DATABASE_URL", "it"), param_hint="--to (or RESTORE_URL)"
        ) from None


async def _restore(
    settings: Settings, name: str, to: str | None, data_dir: Path | None, identity: Path | None
) -> Manifest:
    from contextlib import AsyncExitStack

    from atlas.backups import restoration

    shelf = _shelf(settings)
    manifest = await shelf.find(name, _now(settings))
    async with AsyncExitStack() as stack:
        url = to
        if data_dir is not None:
            from atlas.embedded import EmbeddedServer

            restoration.check_room(manifest, data_dir)
            server = await stack.enter_async_context(EmbeddedServer.open(data_dir, settings.database))
            url = server.dsn
        assert url is not None
        update = stack.enter_context(progress_bar("restoring"))
        await restoration.restore(
            shelf, manifest, url, settings.database,
            identity=_identity(manifest, settings, identity), on_progress=_showing(update),
        )  # fmt: skip
    return manifest


def _shelf(settings: Settings) -> Shelf:
    from atlas.backups.shelf import Shelf

    return Shelf.of(settings)


def _now(settings: Settings) -> datetime:
    from atlas.composition import clock_of

    return clock_of(settings).now()


def _identity(manifest: Manifest, settings: Settings, given: Path | None) -> Path | None:
    from maia.maintainer.backups import identity_for

    return identity_for(manifest, settings, given)


def _showing(update: Any) -> Callable[[str, int, int], None]:
    return lambda text, done, of: update(done, of or None, text)


def _kept(settings: Settings, shelved: list[Shelved], now: datetime) -> dict[str, tuple[str, ...]]:
    from maia.maintainer.backups import instants_of, rotation_of

    good = {each.name: each for each in shelved if each.is_good}
    rotation = rotation_of(settings)
    return {name: tuple(tiers) for name, tiers in rotation.kept(instants_of(good), now).items()}


def _row(each: Shelved, tiers: tuple[str, ...]) -> tuple[object, ...]:
    from maia.maintenance.wording import size_text

    manifest = each.manifest
    if manifest is None:
        return (each.name, None, None, None, None, "unusable")
    verified = (
        None if each.verification is None else "failed" if each.verification.problem else each.verification.at
    )
    return (
        each.name, manifest.contents.rows, size_text(manifest.size_bytes),
        manifest.recipient_fingerprint is not None, verified, ", ".join(tiers),
    )  # fmt: skip


def _as_dict(each: Shelved, tiers: tuple[str, ...]) -> dict[str, Any]:
    described = {"name": each.name, "begun_at": each.begun_at, "from_future": each.from_future} | (
        _described(each.manifest) if each.manifest else {}
    )
    return described | {"problem": each.problem, "kept_as": tiers} | _verification(each.verification)


def _described(manifest: Manifest) -> dict[str, Any]:
    contents = manifest.contents
    return {
        "name": manifest.name,
        "created_at": contents.created_at,
        "bytes": manifest.size_bytes,
        "parts": len(manifest.parts),
        "rows": contents.rows,
        "tables": len(contents.tables),
        "database_bytes": contents.database_bytes,
        "dump_bytes": contents.dump_bytes,
        "method": contents.method,
        "server_version": contents.server_version,
        "pleiades_version": contents.pleiades_version,
        "migration": contents.migration,
        "recipient_fingerprint": manifest.recipient_fingerprint,
        "seconds": manifest.seconds,
        "node": manifest.node,
    }


def _verification(verification: Verification | None) -> dict[str, Any]:
    if verification is None:
        return {"verified_at": None, "verification_problem": None}
    return {"verified_at": verification.at, "verification_problem": verification.problem}


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
