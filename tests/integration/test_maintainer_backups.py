"""The duty that backs up and rotates, and the commands of `maia backup`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from atlas.backups import manifest as manifests
from atlas.backups.manifest import CHECKSUM, Contents, Manifest, Part, Table
from atlas.backups.shelf import Shelf, Verification
from atlas.composition import Atlas
from atlas.config import Settings
from atlas.testing import NOON, IsolatedSettings, SettingsFactory
from maia.commands import backup
from maia.maintainer import backups
from maia.maintainer.actions import Action, ActionFailed, ActionState, Taken
from maia.maintainer.backups import EVENT, back_up
from maia.maintainer.duties import DutyContext
from maia.maintenance.wording import size_text

pytestmark = pytest.mark.integration

DAY = timedelta(days=1)


@pytest.fixture
def atlas_settings(settings_factory: SettingsFactory, tmp_path: Path) -> Settings:
    return settings_factory(
        maintainer={"backups": {"path": tmp_path / "backups", "daily": 3, "weekly": 1, "monthly": 1}}
    )


@pytest.fixture
def shelf(atlas_settings: Settings) -> Shelf:
    return Shelf.of(atlas_settings)


class Taker:
    """Takes every action, or only plans it."""

    def __init__(self, *, applies: bool) -> None:
        self._applies = applies

    async def take(self, action: Action) -> Taken | None:
        plan = await action.plan()
        if plan is None:
            return None
        state, result = ActionState.PLANNED, ""
        if self._applies:
            try:
                state, result = ActionState.APPLIED, await action.apply(plan)
            except ActionFailed as error:
                state, result = ActionState.FAILED, str(error)
        return Taken(kind=action.kind, target=action.target, state=state, plan=plan, result=result)


def context(atlas: Atlas, *, applies: bool) -> DutyContext:
    return DutyContext(atlas=atlas, taker=Taker(applies=applies))


async def shelved(shelf: Shelf, days_ago: float, problem: str | None = None) -> str:
    """A small backup of some days ago, as rotation sees it."""
    at = NOON - days_ago * DAY
    name = manifests.new_name(at)
    body = name.encode()
    part = Part(name="part-00001.zst", size_bytes=len(body), sha256=sha256(body).hexdigest())
    contents = Contents(
        name=name, created_at=at, pleiades_version="1", method="copy", tool_version=18, server_version="18",
        schema="public", migration=1, database_bytes=1000, dump_bytes=500, checksum=CHECKSUM,
        tables=(Table(name="t", rows=1, checksum="1"),),
    )  # fmt: skip
    await shelf._store.write({f"{name}/{part.name}": body})
    await shelf.commit(
        Manifest(
            contents=contents, parts=(part,), sha256=part.sha256, level=1, recipient_fingerprint=None,
            seconds=1, node="n",
        )
    )  # fmt: skip
    if problem is not None:
        await shelf.note(name, Verification(at=at, problem=problem))
    return name


async def abandoned(shelf: Shelf, days_ago: float) -> str:
    name = manifests.new_name(NOON - days_ago * DAY)
    await shelf._store.write({f"{name}/part-00001.zst": b"half"})
    return name


def names(found: Collection[Any]) -> set[str]:
    return {each.name for each in found}


async def test_a_plan_changes_nothing_and_says_what_and_how_much(
    atlas: Atlas, shelf: Shelf, tmp_path: Path
) -> None:
    old = [await shelved(shelf, days) for days in (1, 2, 3, 4)]
    left = await abandoned(shelf, 2)
    before = sorted(tmp_path.rglob("*"))
    work = context(atlas, applies=False)
    report = await back_up(work)
    assert sorted(tmp_path.rglob("*")) == before
    creation, rotation = work.taken
    assert creation.plan.text.startswith("Back up the database of ")
    assert "about" in creation.plan.text
    assert "claims are slower" in creation.plan.text
    assert (rotation.plan.details["superfluous"], rotation.plan.details["abandoned"]) == ([old[3]], [left])
    assert report.summary == f"the newest good backup is {old[0]}"
    assert await atlas.events.latest(1, kinds=[EVENT]) == []


async def test_it_backs_up_rotates_and_tells(atlas: Atlas, shelf: Shelf) -> None:
    old = [await shelved(shelf, days) for days in (1, 2, 3, 4)]
    running, left = await abandoned(shelf, 0.5), await abandoned(shelf, 2)
    work = context(atlas, applies=True)
    report = await back_up(work)
    assert [taken.state for taken in work.taken] == [ActionState.APPLIED] * 2
    assert not report.failed
    found = await shelf.list(NOON)
    # The last three days with the new one, which is this week's and this month's too.
    assert names(found[1:]) == {old[0], old[1]}
    assert (await shelf.names())[1] == [running], left
    [event] = await atlas.events.latest(1, kinds=[EVENT])
    manifest = found[0].manifest
    assert manifest is not None
    assert event.payload["name"] == manifest.name
    assert event.payload["bytes"] == manifest.size_bytes
    assert event.payload["verified"] is False
    assert manifest.name in report.summary


async def test_one_from_the_future_hides_no_other(atlas: Atlas, shelf: Shelf) -> None:
    newest, future = await shelved(shelf, 1), await shelved(shelf, -400)
    left = await abandoned(shelf, -400)
    report = await back_up(context(atlas, applies=False))
    said = f"the newest good backup is {newest}; named by a clock that was ahead: {future} (maia backup list"
    assert report.summary.startswith(said)
    assert report.details["newest_good"] == NOON - DAY
    # It stays until there are others of three days; what is left of an incomplete one goes at once.
    await back_up(context(atlas, applies=True))
    assert future in names(await shelf.list(NOON))
    assert (await shelf.names())[1] == [], left
    older = await shelved(shelf, 2)
    await back_up(context(atlas, applies=True))
    assert names((await shelf.list(NOON))[1:]) == {newest, older}


async def test_only_good_backups_count(atlas: Atlas, shelf: Shelf) -> None:
    good = await shelved(shelf, 9)
    bad = await shelved(shelf, 1, problem="table videos is missing")
    work = context(atlas, applies=False)
    report = await back_up(work)
    assert report.summary.startswith(f"the newest good backup is {good}; 1 backup can't be used ({bad})")
    assert report.details["damaged"] == [bad]


async def test_a_backup_that_fails_fails_the_duty(
    atlas: Atlas, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = await shelved(shelf, 3)
    async with atlas.db.only_one(backups.LOCK):
        work = context(atlas, applies=True)
        report = await back_up(work)
    assert report.failed
    assert "Another process is making a backup" in work.taken[0].result
    assert names(await shelf.list(NOON)) == {kept}


async def test_it_is_verified_where_the_settings_say_so(
    atlas: Atlas, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def verify(*_: Any, **__: Any) -> Verification:
        return Verification(at=NOON, problem="table videos has other values")

    monkeypatch.setattr(backups, "verify", verify)
    settings = atlas.settings.maintainer
    verifying = settings.model_copy(update={"backups": settings.backups.model_copy(update={"verify": True})})
    strict = replace(atlas, settings=atlas.settings.model_copy(update={"maintainer": verifying}))
    work = context(strict, applies=True)
    assert (await back_up(work)).failed
    assert "is no good: table videos has other values" in work.taken[0].result
    [event] = await atlas.events.latest(1, kinds=[EVENT])
    assert (event.payload["verified"], event.payload["problem"]) == (False, "table videos has other values")


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1536, "1.5 KiB"), (64 * 2**20, "64 MiB"), (3 * 2**40, "3 TiB")],
)
def test_sizes_are_readable(size: float, text: str) -> None:
    assert size_text(size) == text


# Commands


@pytest.fixture
def cli(run_maia: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs `maia backup` with its folder in tmp_path."""
    monkeypatch.setenv("PLEIADES_MAINTAINER__BACKUPS__PATH", str(tmp_path / "backups"))

    def run(*arguments: str, status: int = 0) -> tuple[str, str]:
        ended, out, err = run_maia("backup", *arguments)
        assert ended == status, err
        return out, err

    return run


@pytest.fixture
def no_database(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes the commands that follow find no database."""
    return lambda: monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:9/none")


def test_commands_make_list_and_restore_without_the_database(
    cli: Any,
    no_database: Callable[[], None],
    empty_database_url: str,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = json.loads(cli("create", "--json")[0])
    no_database()
    listed, _ = cli("list")
    assert made["name"] in listed
    assert "daily, weekly" in " ".join(listed.split())
    assert max(map(len, listed.splitlines())) <= 160
    [described] = json.loads(cli("list", "--json")[0])["backups"]
    assert (described["name"], described["kept_as"]) == (made["name"], ["daily", "weekly", "monthly"])
    monkeypatch.setenv("RESTORE_URL", empty_database_url)
    restored, _ = cli("restore", "latest")
    assert "with equal counts and checksums" in restored
    assert "maia migrate --check" in restored
    assert "the database is not empty" in cli("restore", "latest", "--to", database_url, status=1)[1]


def test_commands_say_what_to_do_next(cli: Any, no_database: Callable[[], None], tmp_path: Path) -> None:
    no_database()
    assert "maia backup create makes one" in cli("list")[0]
    assert "maia backup create makes one" in cli("verify", status=1)[1]
    assert "--to URL" in cli("restore", "latest", status=2)[1]
    _, wrong = cli("restore", "latest", "--to", "mysql://u:secret@h/d", status=2)
    assert "--to" in wrong
    assert "secret" not in wrong
    _, empty = cli("restore", "latest", "--data-dir", "", status=2)
    assert "the folder has no name" in empty
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    _, no_folder = cli("restore", "latest", "--data-dir", str(tmp_path / "file"), status=2)
    assert "Invalid value for '--data-dir'" in no_folder


def test_the_list_names_one_from_the_future(cli: Any, shelf: Shelf) -> None:
    past = asyncio.run(shelved(shelf, 1))
    future = asyncio.run(shelved(shelf, (NOON - datetime.now(UTC)) / DAY - 400))
    listed = " ".join(cli("list")[0].split())
    assert f"From the future: {future}. A clock was ahead" in listed
    assert past in listed
    described = json.loads(cli("list", "--json")[0])["backups"]
    assert [(each["name"], each["from_future"]) for each in described] == [(past, False), (future, True)]
    assert described[1]["kept_as"] == ["from the future"]


def test_a_vault_that_is_a_folder_stays_where_it_is_after_a_restore(tmp_path: Path) -> None:
    settings = IsolatedSettings().model_copy(update={"data_dir": tmp_path, "vault_provider": "file"})
    target = tmp_path / "restored"
    assert backup._wanted_settings(settings, target) == [f"PLEIADES_DATA_DIR={target}"]
    (tmp_path / "vault").mkdir()
    assert f"PLEIADES_VAULT__PATH={tmp_path / 'vault'}" in backup._wanted_settings(settings, target)
    assert backup._wanted_settings(settings, None) == ["DATABASE_URL to that URL"]
