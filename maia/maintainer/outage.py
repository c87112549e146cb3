"""Tells people that the database can't be used, which no maintainer can store, and that it is back.

What was told is remembered in a small file in the data folder, and in this process in case nothing can be
written there. The file is overwritten in place, which needs no free space. Each host tells of an outage by
itself, because without the database hosts know nothing of each other.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from atlas.adapters.incidents import Incident, IncidentsDAO
from atlas.composition import Atlas, check_free_disk, clock_of
from atlas.config import Settings
from atlas.errors import CannotStore, DatabaseError
from atlas.notifier import Notifier
from maia.maintainer.ping import ping
from maia.maintenance.findings import Finding, Severity
from maia.maintenance.wording import span_text

logger = logging.getLogger(__name__)

STAMP: Final = "maintainer-outage.json"
UNREACHABLE: Final = "database.unreachable"
CANNOT_STORE: Final = "database.cannot_store"

_STAMP_BYTES: Final = 512
_LONGEST_REASON: Final = 200
_MOST_FINDINGS: Final = 10


@dataclass(frozen=True, slots=True)
class Outage:
    """Since when the database can't be used, and when people were last told; None if they were not.

    `well_since` says since when it could be used again.
    """

    key: str
    since: datetime
    told_at: datetime | None
    reason: str
    well_since: datetime | None = None


_remembered: dict[Path, Outage | None] = {}
"""What this process knows, by data folder; it is right where the file could not be written."""


async def report_outage(
    settings: Settings, error: Exception, *, findings: Sequence[Finding] = (), now: datetime | None = None
) -> bool:
    """Tell people that the database can't be used because of `error`, unless they were told lately.

    `findings` are listed with it. Also tells the dead-man's switch. Returns False if people were to be told
    and nobody was reached. Never raises: it must work when nothing else does.
    """
    now = now or clock_of(settings).now()
    told = True
    with _stamp(settings.data_folder) as stamp:
        if stamp is not None:
            outage = stamp.outage or Outage(_key_of(error), now, None, str(error)[:_LONGEST_REASON])
            outage = replace(outage, well_since=None)
            resend = timedelta(seconds=settings.maintainer.alerts.resend_s)
            if outage.told_at is None or not timedelta() <= now - outage.told_at < resend:
                told = await _tell(settings, outage, error, findings, now)
                outage = replace(outage, told_at=now) if told else outage
            stamp.write(outage)
    await ping(settings, failed=True)
    return told


async def report_recovery(atlas: Atlas) -> bool:
    """Tell people that an outage is over, once the database could store for a while; returns whether it is.

    The outage becomes an incident that has just ended, so that what it caused is listed with it for a while,
    rather than told of by itself.
    """
    folder = atlas.settings.data_folder
    if _remembered.get(folder) is None and not (folder / STAMP).exists():
        return False
    with _stamp(folder) as stamp:
        if stamp is None or (outage := stamp.outage) is None:
            return False
        now = atlas.clock.now()
        try:
            if outage.key == CANNOT_STORE:
                check_free_disk(atlas)
            well_since = outage.well_since or now
            await _record(atlas, outage, well_since)
        except DatabaseError as error:
            logger.warning("the database still can't store anything: %s", error)
            return False
        alerts = atlas.settings.maintainer.alerts
        if now - well_since < timedelta(seconds=alerts.recovery_settle_s):
            stamp.write(replace(outage, well_since=well_since))
            return False
        if outage.told_at is not None and alerts.recovery:
            title, body = _recovered(outage, well_since)
            if not await atlas.notifier.deliver(title, body, level="error", is_recovery=True):
                # The next run tries again; the incident is open already.
                return True
        stamp.clear()
    return True


def _key_of(error: Exception) -> str:
    return CANNOT_STORE if isinstance(error, CannotStore) else UNREACHABLE


async def _tell(
    settings: Settings, outage: Outage, error: Exception, findings: Sequence[Finding], now: datetime
) -> bool:
    what = "can't store anything" if outage.key == CANNOT_STORE else "can't be used"
    lasts = "" if outage.told_at is None else f" (for {span_text(now - outage.since)})"
    lines = [
        f"The database {what} on {settings.node_id}{lasts}: {error}",
        "  Next: maia doctor",
        "Until it is back, no agent works, and nothing else is told of.",
    ]
    lines += [
        f"Also: {each.text} [{each.key}]"
        for each in sorted(findings, key=lambda each: each.severity is not Severity.ERROR)[:_MOST_FINDINGS]
        if each.severity is not Severity.INFO
    ]
    still = "" if outage.told_at is None else " (still)"
    # Without the database, its own cool-downs would be of no use.
    notifier = Notifier(None, settings.notifier)
    return await notifier.deliver(f"Error: {outage.key}{still}", "\n".join(lines), level="error")


def _recovered(outage: Outage, ended: datetime) -> tuple[str, str]:
    began = f"{outage.since:%Y-%m-%d %H:%M} UTC"
    body = f"The database is back, after {span_text(ended - outage.since)} from {began}: {outage.reason}"
    return f"Recovered: {outage.key}", body


async def _record(atlas: Atlas, outage: Outage, ended: datetime) -> None:
    incident = Incident(
        key=outage.key, component="database", node=atlas.settings.node_id, severity="error",
        text=outage.reason or "the database could not be used", command="maia doctor",
        opened_at=min(outage.since, ended), seen_at=ended, well_since=ended,
        note="People were told of this by the maintainer's own file, as the database was away.",
    )  # fmt: skip
    async with atlas.db.transaction() as transaction:
        dao = IncidentsDAO(transaction, clock=atlas.clock, settings=atlas.settings)
        if await dao.open_past(incident):
            payload = {"key": outage.key, "seconds": (ended - outage.since).total_seconds()}
            await atlas.events.append("incident.outage", payload, agent="maintainer", executor=transaction)


# The file


class _Stamp:
    """The file, locked; without a handle, where it can't be opened, only the process remembers."""

    def __init__(self, folder: Path, handle: int | None) -> None:
        self._folder, self._handle = folder, handle
        # What this process knows was written later, or could not be written at all.
        self.outage = _remembered[folder] if folder in _remembered else self._read()

    def _read(self) -> Outage | None:
        if self._handle is None:
            return None
        try:
            written = json.loads(os.pread(self._handle, _STAMP_BYTES, 0))
            since, told_at, well_since = (
                None if written[name] is None else datetime.fromisoformat(written[name])
                for name in ("since", "told_at", "well_since")
            )
            if since is None:
                return None
            return Outage(str(written["key"]), since, told_at, str(written["reason"]), well_since)
        except (OSError, ValueError, TypeError, KeyError):
            # Empty, or torn by a crash: better to tell people twice than not at all.
            return None

    def write(self, outage: Outage) -> None:
        """Remember an outage, in the file if that is possible."""
        _remembered[self._folder] = outage
        if self._handle is None:
            return
        fields = {
            "key": outage.key,
            "since": outage.since.isoformat(),
            "told_at": outage.told_at and outage.told_at.isoformat(),
            "well_since": outage.well_since and outage.well_since.isoformat(),
        }
        written = json.dumps(fields | {"reason": outage.reason}).encode()
        if len(written) > _STAMP_BYTES:
            written = json.dumps(fields | {"reason": ""}).encode()
        try:
            os.pwrite(self._handle, written.ljust(_STAMP_BYTES), 0)
            os.fsync(self._handle)
        except OSError as error:
            logger.warning("only this process remembers the outage: %s", error.strerror)
        else:
            # Other processes may change the file from now on.
            del _remembered[self._folder]

    def clear(self) -> None:
        """Forget the outage; where the file can't be removed, at least this process does."""
        _remembered[self._folder] = None
        if self._handle is not None:
            # Not removed: another process may be waiting for this very file.
            with suppress(OSError):
                os.pwrite(self._handle, b" " * _STAMP_BYTES, 0)
                del _remembered[self._folder]


@contextmanager
def _stamp(folder: Path) -> Iterator[_Stamp | None]:
    """The file of the last outage, while nobody else has it; None if somebody is telling people right now."""
    handle = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / STAMP, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        logger.warning("only this process will remember the outage: %s", error.strerror)
    try:
        if handle is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
            except OSError:
                # Some network file systems have no locks.
                pass
        yield _Stamp(folder, handle)
    finally:
        if handle is not None:
            with suppress(OSError):
                os.close(handle)
