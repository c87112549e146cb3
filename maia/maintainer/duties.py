"""The maintainer's duties: what it does on a schedule. To add one, add its record to `DUTIES`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Final

from atlas.composition import Atlas
from atlas.errors import ConfigError
from maia.maintainer.actions import Action, Taken, Takes


@dataclass(frozen=True, slots=True, kw_only=True)
class DutyReport:
    """What a run of a duty found and did. `summary` is one sentence; `details` are plain values for JSON.

    `failed` says that it could not do its duty; actions that failed are told by themselves.
    """

    summary: str
    details: Mapping[str, Any] = field(default_factory=dict)
    failed: bool = False


@dataclass(slots=True)
class DutyContext:
    """What a duty works with. `asked` if a person asked for it now, rather than the schedule."""

    atlas: Atlas
    taker: Takes
    asked: bool = False
    on_progress: Callable[[str, int, int], None] | None = None
    """To be called with what is being done, and how much of how much is done."""
    taken: list[Taken] = field(default_factory=list)

    async def take(self, action: Action) -> Taken | None:
        """Take an action as far as it is allowed, and note what became of it."""
        taken = await self.taker.take(action)
        if taken is not None:
            self.taken.append(taken)
        return taken

    def progress(self, what: str, done: int, of: int) -> None:
        """Tell people how far the duty has come."""
        if self.on_progress is not None:
            self.on_progress(what, done, of)


LIGHT_LOCK: Final = "maintainer"
HEAVY_LOCK: Final = "maintainer heavy"

Run = Callable[[DutyContext], Awaitable[DutyReport]]


@dataclass(frozen=True, slots=True, kw_only=True)
class DutyRecord:
    """A duty, and the import path of the function that runs it. `maia.maintenance.schedules` says when.

    A duty of a host runs on every host by itself, all others once for all hosts. One that is `heavy` takes
    long or changes much, so that only one of them runs at a time, and never holds up the light ones.
    """

    name: str
    about: str
    implementation: str
    of_host: bool = False
    heavy: bool = False

    @property
    def lock(self) -> str:
        """The lock under which it runs, so that no other maintainer runs it, or one of the same weight."""
        return HEAVY_LOCK if self.heavy else LIGHT_LOCK

    def load(self) -> Run:
        """Import the duty's function."""
        module, _, name = self.implementation.partition(":")
        found: Run = getattr(import_module(module), name)
        return found


DUTIES: tuple[DutyRecord, ...] = (
    DutyRecord(
        name="health",
        about="Judge the health of everything, raise and clear alerts, repair what is allowed.",
        implementation="maia.maintainer.health:watch_health",
        of_host=True,
    ),
    DutyRecord(
        name="backup",
        about="Back the database up into the vault, and delete backups that rotation does not keep.",
        implementation="maia.maintainer.backups:back_up",
        heavy=True,
    ),
    DutyRecord(
        name="cleanup",
        about="Delete what is older than its retention from the database and the vault, and tidy tables.",
        implementation="maia.maintainer.cleanup:clean_up",
        heavy=True,
    ),
    DutyRecord(
        name="tidy",
        about="Delete this host's abandoned temporary files, and rotate its logs.",
        implementation="maia.maintainer.tidy:tidy_host",
        heavy=True,
        of_host=True,
    ),
    DutyRecord(
        name="updates",
        about="Look for updates of the system, of our environment and of our release.",
        implementation="maia.maintainer.updates:check_updates",
        of_host=True,
    ),
    DutyRecord(
        name="upgrade",
        about="Install the updates that are allowed, and go back if anything fails.",
        implementation="maia.maintainer.updates:upgrade",
        heavy=True,
        of_host=True,
    ),
    DutyRecord(
        name="report",
        about="Write the weekly report into the vault, and announce it.",
        implementation="maia.maintainer.reports:write_report",
    ),
    DutyRecord(
        name="suggestions",
        about="Renew the suggestions that hold now, and withdraw those that no longer hold.",
        implementation="maia.maintainer.suggestions:make_suggestions",
    ),
)
"""Every duty, in the order in which those that are due at once are run."""


def check_duties(names: Collection[str]) -> None:
    """ConfigError if there is no duty of such a name."""
    known = [duty.name for duty in DUTIES]
    for name in names:
        if name not in known:
            raise ConfigError(f"there is no duty {name!r}; the duties are {', '.join(known)}")
