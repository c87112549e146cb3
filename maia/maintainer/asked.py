"""Work that people ask for from afar: what it would do first, and then what they chose of that.

It is taken and recorded as the maintainer's own actions are, by the same locks, but at once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Final

from atlas.composition import Atlas
from atlas.errors import AtlasError
from maia.errors import MaiaError
from maia.maintainer.actions import Action, ActionState, Plan, Taken
from maia.maintainer.backups import back_up
from maia.maintainer.cleanup import clean_up
from maia.maintainer.duties import HEAVY_LOCK, LIGHT_LOCK, DutyContext, DutyReport
from maia.maintainer.health import look, repair
from maia.maintainer.taking import Taker
from maia.maintainer.tidy import tidy_host

Target = tuple[str, str]
"""An action by its kind and what it is about."""


class Busy(MaiaError):
    """The maintainer, or somebody else, is at such work just now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Something that people may ask for. `lock` is that of the maintainer's duties of this kind."""

    name: str
    title: str
    about: str
    kinds: frozenset[str]
    lock: str
    run: Callable[[DutyContext], Awaitable[DutyReport]]


async def plans(atlas: Atlas, work: Work, allowed: Collection[str]) -> list[Taken]:
    """What the work would do now, as far as its kinds are allowed; changes nothing."""
    context = DutyContext(atlas, _Planner(work.kinds & frozenset(allowed)), asked=True)
    await work.run(context)
    return context.taken


async def take(atlas: Atlas, work: Work, chosen: Collection[Target], allowed: Collection[str]) -> DutyReport:
    """Do what was chosen of the work and is still to be done; Busy if others are at it."""
    kinds = work.kinds & frozenset(allowed)
    async with atlas.db.only_one(work.lock) as is_only:
        if not is_only:
            raise Busy("the maintainer is at work just now: ask again in a minute")
        wanted = frozenset(each for each in chosen if each[0] in kinds)
        return await work.run(
            DutyContext(atlas, _Chosen(Taker(atlas, kinds, asked=True), wanted), asked=True)
        )


class _Planner:
    """Plans actions of some kinds, and takes none."""

    def __init__(self, kinds: Collection[str]) -> None:
        self._kinds = kinds

    async def take(self, action: Action) -> Taken | None:
        if action.kind not in self._kinds:
            return None
        try:
            plan = await action.plan()
        except (AtlasError, MaiaError, OSError, TimeoutError) as error:
            failed = Plan(text=f"It can't be planned: {error}")
            return _taken(action, failed, ActionState.FAILED)
        return None if plan is None else _taken(action, plan, ActionState.PLANNED)


def _taken(action: Action, plan: Plan, state: ActionState) -> Taken:
    return Taken(kind=action.kind, target=action.target, state=state, plan=plan, result="")


class _Chosen:
    """Takes those actions that were chosen, and leaves the others."""

    def __init__(self, taker: Taker, chosen: Collection[Target]) -> None:
        self._taker, self._chosen = taker, chosen

    async def take(self, action: Action) -> Taken | None:
        return await self._taker.take(action) if (action.kind, action.target) in self._chosen else None


async def _clean_up(context: DutyContext) -> DutyReport:
    report = await clean_up(context)
    await tidy_host(context)
    return report


async def _repair(context: DutyContext) -> DutyReport:
    found = await look(context.atlas)
    failure = await repair(context, found.judgement.findings)
    mended = sum(each.state is ActionState.APPLIED for each in context.taken)
    summary = failure or (f"{mended} of {len(context.taken)} mended" if context.taken else "nothing to mend")
    return DutyReport(summary=f"{summary}.", failed=failure is not None)


WORKS: Final = (
    Work(
        name="cleanup",
        title="Clean up",
        about="Delete what is older than its retention, and bring tables in order.",
        kinds=frozenset({"cleanup", "partitions", "vacuum", "reindex"}),
        lock=HEAVY_LOCK,
        run=_clean_up,
    ),
    Work(
        name="backup",
        title="Back up",
        about="Back the database up now, and delete backups that rotation does not keep.",
        kinds=frozenset({"backup"}),
        lock=HEAVY_LOCK,
        run=back_up,
    ),
    Work(
        name="repairs",
        title="Repair",
        about="Mend what is found wrong now: services of this host that failed, tables, a full disk.",
        kinds=frozenset({"restart", "partitions", "vacuum", "reindex", "emergency"}),
        lock=LIGHT_LOCK,
        run=_repair,
    ),
)
"""Everything that can be asked for."""


def work_named(name: str) -> Work | None:
    """The work of that name; None if there is none."""
    return next((work for work in WORKS if work.name == name), None)
