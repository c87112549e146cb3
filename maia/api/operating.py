"""What admins ask for runs beside the requests: one work at a time in each process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from math import inf
from typing import TYPE_CHECKING

from atlas.connections import connected_within
from atlas.errors import AtlasError
from maia.api.problems import Problem
from maia.errors import MaiaError
from maia.maintainer.asked import Target, Work, take

if TYPE_CHECKING:
    from atlas.composition import Atlas

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Came:
    """What came of a work, in a sentence."""

    title: str
    ended_at: datetime
    text: str
    failed: bool


class Operating:
    """The work that is under way in this process, if any, and what came of the last one."""

    def __init__(self, atlas: Atlas) -> None:
        self._atlas = atlas
        self._task: asyncio.Task[None] | None = None
        self.last: Came | None = None

    @property
    def is_busy(self) -> bool:
        return self._task is not None and not self._task.done()

    async def begin(self, work: Work, chosen: Collection[Target], by: str, patience_s: float) -> bool:
        """Begin a work on behalf of a caller; returns whether it is done within `patience_s`."""
        if self.is_busy:
            raise Problem(409, "something else that was asked for is under way: wait until it is done")
        logger.info(
            "%s asked for: %s (%s)", by, work.title, ", ".join(f"{kind} {target}" for kind, target in chosen),
            extra={"action": "asked_for"},
        )  # fmt: skip
        # It is as patient as an agent.
        with connected_within(inf):
            self._task = asyncio.ensure_future(self._run(work, chosen))
        done, _ = await asyncio.wait([self._task], timeout=patience_s)
        for task in done:
            task.result()
        return bool(done)

    async def end(self) -> None:
        """Cancel what is under way; what it did so far is recorded."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self, work: Work, chosen: Collection[Target]) -> None:
        try:
            report = await take(self._atlas, work, chosen, self._atlas.settings.api.actions)
        except (AtlasError, MaiaError, OSError) as error:
            logger.warning("%s failed: %s", work.title, error, extra={"action": "asked_failed"})
            self._note(work, str(error), failed=True)
        else:
            self._note(work, report.summary, failed=report.failed)

    def _note(self, work: Work, text: str, *, failed: bool) -> None:
        self.last = Came(work.title, self._atlas.clock.now(), text, failed)
