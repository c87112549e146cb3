"""The emulator's quota: projects, their keys and limits, the units they spent and the calls they made."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Self

from atlas.clock import next_reset, pacific_day, pacific_midnight
from atlas.config import BUCKETS, Bucket
from maia.emulator.refusals import day_exhausted, key_invalid, minute_exhausted, quota_exceeded
from maia.errors import MaiaError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


class EmulatorError(MaiaError):
    """The emulator cannot be started with these options."""


@dataclass(frozen=True, slots=True)
class Project:
    """A Google Cloud project: units per Pacific day by bucket, queries per minute (None: unlimited)."""

    name: str
    search: int = 100
    stats: int = 10_000
    general: int = 10_000
    per_minute: int | None = None

    def limit(self, bucket: Bucket) -> int:
        return {"search": self.search, "stats": self.stats, "general": self.general}[bucket]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `NAME` or `NAME:search=100,stats=10000,general=10000,per_minute=600`; or ValueError."""
        name, _, rest = text.partition(":")
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not a project's name: use letters, digits, '.', '_' and '-'")
        limits: dict[str, int] = {}
        known = [field.name for field in fields(cls)][1:]
        for setting in filter(None, rest.split(",")):
            limit, _, value = setting.partition("=")
            if limit not in known or not value.isdecimal():
                raise ValueError(
                    f"{setting!r} is not a limit: write a number after one of {'=, '.join(known)}="
                )
            limits[limit] = int(value)
        return cls(name, **limits)


class Quota:
    """The units each project has spent, on days of the emulator's clock."""

    def __init__(self, projects: Iterable[Project], keys: Mapping[str, str]) -> None:
        self.projects = {project.name: project for project in projects}
        for key, project in keys.items():
            if project not in self.projects:
                raise EmulatorError(
                    f"a key belongs to project {project!r}, which is not configured: add --project {project}"
                )
            if not key:
                raise EmulatorError(f"the key of project {project!r} is empty")
        self._keys = dict(keys)
        self.calls: Counter[tuple[str, Bucket | None, str, int | str]] = Counter()
        self.refused: Counter[tuple[str, Bucket]] = Counter()
        self._used: Counter[tuple[str, Bucket]] = Counter()
        self._minute: Counter[tuple[str, int]] = Counter()
        self._day_from = self._day_to = 0.0

    def project_of(self, key: str) -> Project:
        """The project of a key: the configured one, or the longest NAME such that the key is `NAME-…`."""
        if (name := self._keys.get(key)) is not None:
            return self.projects[name]
        owners = [name for name in self.projects if key.startswith(f"{name}-") and len(key) > len(name) + 1]
        if not owners:
            raise key_invalid()
        return self.projects[max(owners, key=len)]

    def spend(self, project: Project, bucket: Bucket, now: datetime) -> None:
        """Spend a unit. Raises an ErrorResponse: per minute 429; per day 429 for search and 403 otherwise."""
        self._turn_day(now)
        limit = project.limit(bucket)
        if self._used[project.name, bucket] >= limit:
            self.refused[project.name, bucket] += 1
            raise day_exhausted(project.name, bucket, limit, now) if bucket == "search" else quota_exceeded()
        if project.per_minute is not None:
            minute = (project.name, int(now.timestamp()) // 60)
            if self._minute[minute] >= project.per_minute:
                self.refused[project.name, bucket] += 1
                raise minute_exhausted(project.name, project.per_minute)
            self._minute[minute] += 1
        self._used[project.name, bucket] += 1

    def used(self, project: str, bucket: Bucket, now: datetime) -> int:
        """Units spent on the Pacific day of `now`."""
        self._turn_day(now)
        return self._used[project, bucket]

    def reset(self) -> None:
        """Set all units and calls to zero."""
        for counter in (self.calls, self.refused, self._used, self._minute):
            counter.clear()

    def _turn_day(self, now: datetime) -> None:
        instant = now.timestamp()
        if self._day_from <= instant < self._day_to:
            return
        self._day_from = pacific_midnight(pacific_day(now)).timestamp()
        self._day_to = next_reset(now).timestamp()
        self._used.clear()
        self._minute.clear()

    def state(self, now: datetime) -> dict[str, Any]:
        """Units and limits by project and bucket, and calls by project, bucket, method and status."""
        projects = {
            name: {
                bucket: {
                    "used": (used := self.used(name, bucket, now)),
                    "limit": project.limit(bucket),
                    "left": max(0, project.limit(bucket) - used),
                    "refused": self.refused[name, bucket],
                }
                for bucket in BUCKETS
            }
            for name, project in self.projects.items()
        }
        calls = [
            {"project": project, "bucket": bucket, "method": method, "status": status, "calls": count}
            for (project, bucket, method, status), count in sorted(self.calls.items(), key=str)
        ]
        return {
            "pacific_day": str(pacific_day(now)),
            "resets_at": f"{next_reset(now):%Y-%m-%dT%H:%M:%SZ}",
            "projects": projects,
            "calls": calls,
        }
