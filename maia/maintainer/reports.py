"""The weekly report: written into the vault as HTML, Markdown and JSON, and announced once.

The report itself is stored in the database first. If the vault refuses it, its objects wait there like all
others; a vault that the settings require gets it with the next report. `maia report` shows it meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import orjson
from pydantic import TypeAdapter, ValidationError

from atlas.adapters.reports import ReportsDAO, WrittenReport
from atlas.errors import VaultError
from atlas.notifier import Notifier
from atlas.wording import counted
from maia.agents import AGENTS
from maia.maintainer.duties import DutyContext, DutyReport
from maia.maintainer.rendering import as_html, as_markdown, summary_of, title_of
from maia.views.report import VERSION, Report
from maia.views.report_reading import report
from maia.views.weeks import Week

if TYPE_CHECKING:
    from atlas.composition import Atlas

logger = logging.getLogger(__name__)

FOLDER: Final = "reports"
_MOST_REPORTS: Final = 60


@dataclass(frozen=True, slots=True)
class Written:
    """A written report: its objects in the vault, why it is not there, and whether it was announced now.

    With both objects and a refusal, the objects wait in the database.
    """

    report: Report
    objects: tuple[str, ...]
    refusal: str | None
    announced: bool

    @property
    def place(self) -> str:
        """Where it is, and what to do if that is not the vault; it goes on after "the report"."""
        if self.refusal is None:
            return f"is in the vault as {', '.join(self.objects)}"
        refused = f"is in the database only, as the vault refused it: {self.refusal.rstrip('.')}."
        if self.objects:
            return (
                f"{refused} The hunter and the tracker offer it to the vault again; "
                "to see what is wrong with that: maia doctor"
            )
        return (
            f"{refused} Mend the vault, which maia doctor checks, and then: "
            f"maia report --week {self.report.week} --write"
        )


async def write_report(context: DutyContext) -> DutyReport:
    """The duty: write the report of the week that ended, and remove names from reports that are too old."""
    atlas = context.atlas
    week = Week.of(atlas.clock.now(), atlas.settings.maintainer.time_zone).before
    context.progress(f"writing the report of {week}", 0, 2)
    written = await write(atlas, week)
    context.progress("looking through earlier reports", 1, 2)
    unnamed, retried = await remove_names(atlas), await write_refused(atlas)
    details: dict[str, Any] = {
        "week": str(week), "objects": list(written.objects), "refusal": written.refusal,
        "announced": written.announced, "is_empty": written.report.is_empty, "without_names": unnamed,
        "written_later": retried,
    }  # fmt: skip
    summary = (
        f"the report of {week} {written.place}"
        if written.refusal
        else f"wrote the report of {week} to {written.objects[0]}"
    )
    return DutyReport(summary=summary, details=details, failed=not written.objects)


async def write(atlas: Atlas, week: Week) -> Written:
    """Write a week's report, in place of an earlier one, and announce it unless that was done."""
    made = await report(atlas, week, [agent.name for agent in AGENTS])
    dao = _dao(atlas)
    await _keep(dao, made)
    objects, refusal = await _into_vault(atlas, dao, made)
    return Written(made, objects, refusal, await _announce(atlas, dao, made))


async def stored(atlas: Atlas, week: Week | None = None) -> tuple[Report, WrittenReport] | None:
    """The report that was written for a week, or the last one; None if none was, or it can't be read."""
    found = await _dao(atlas).report(None if week is None else str(week))
    if found is None or (read := read_report(found)) is None:
        return None
    return read, found


def read_report(written: WrittenReport) -> Report | None:
    """The report from its stored data; None if another version of Pleiades wrote it in another form."""
    try:
        read: Report = _adapter().validate_json(written.data or "{}")
    except ValidationError as error:
        logger.warning(
            "the report of %s can't be read: %s from this version's",
            written.week,
            counted(error.error_count(), "field differs", "fields differ"),
            extra={"action": "report_unreadable"},
        )
        return None
    return read if read.version == VERSION else None


@cache
def _adapter() -> TypeAdapter[Report]:
    return TypeAdapter(Report)


def documents(made: Report) -> Mapping[str, bytes]:
    """A report's objects in the vault, by name."""
    stem = f"{FOLDER}/{made.week}"
    return {
        f"{stem}.html": as_html(made).encode(),
        f"{stem}.md": as_markdown(made).encode(),
        f"{stem}.json": orjson.dumps(made.as_dict(), option=orjson.OPT_INDENT_2),
    }


async def write_refused(atlas: Atlas) -> int:
    """Write the reports into the vault that it refused for good; returns how many it took."""
    dao, done = _dao(atlas), 0
    for each in await dao.list(_MOST_REPORTS):
        if each.objects:
            continue
        found = await dao.report(each.week)
        read = None if found is None else read_report(found)
        if read is not None:
            _, refusal = await _into_vault(atlas, dao, read)
            if refusal is not None:
                break
            done += 1
    return done


async def remove_names(atlas: Atlas) -> int:
    """Remove names of videos from reports that may no longer keep them; returns from how many."""
    dao = _dao(atlas)
    plainer = await reports_without_names(atlas)
    for each in plainer:
        await _keep(dao, each)
        await _into_vault(atlas, dao, each)
    return len(plainer)


async def reports_without_names(atlas: Atlas) -> list[Report]:
    """The reports that name videos which may no longer be named, without these names.

    That is so once a report is as old as other metadata may get, and for videos that are gone or deleted.
    """
    dao, now = _dao(atlas), atlas.clock.now()
    kept = timedelta(days=atlas.settings.maintainer.retention.metadata_days)
    plainer = []
    for written in await dao.with_names():
        read = read_report(written)
        if read is None:
            continue
        named = [riser.id for riser in read.risers if riser.title or riser.channel_title]
        lost = None if written.made_at < now - kept else await dao.not_kept(named)
        if lost is None or lost:
            plainer.append(read.without_names(lost))
    return plainer


async def _keep(dao: ReportsDAO, made: Report) -> None:
    await dao.write(
        made.week,
        (made.begins_at, made.ends_at),
        made.made_at,
        summary_of(made),
        made.as_dict(),
        has_names=made.has_names,
    )


async def _into_vault(atlas: Atlas, dao: ReportsDAO, made: Report) -> tuple[tuple[str, ...], str | None]:
    """Store a report's objects, and note their names; also returns why the vault refused them."""
    objects, waits = documents(made), None
    try:
        for name, body in objects.items():
            waits = await atlas.vault.store(name, body) or waits
    except VaultError as error:
        logger.warning(
            "the report of %s is kept in the database: %s", made.week, error, extra={"action": "report_kept"}
        )
        await dao.note_objects(made.week, [], str(error))
        return (), str(error)
    await dao.note_objects(made.week, [*objects])
    return tuple(objects), waits


async def _announce(atlas: Atlas, dao: ReportsDAO, made: Report) -> bool:
    """Tell people of a report of a week that is over, once; returns whether it reached anyone now."""
    at = atlas.clock.now()
    if not (atlas.settings.maintainer.reports.announce and made.is_complete and atlas.settings.notifier.urls):
        return False
    if not await dao.claim_announcement(made.week, at):
        return False
    # The settings ask for it, so it is sent even where only graver alerts are.
    wanted = atlas.settings.notifier.model_copy(update={"level": "info"})
    notifier = Notifier(atlas.db, wanted)
    reached = await notifier.notify(title_of(made), _body(made), level="info", key=f"report {made.week}")
    if not reached:
        await dao.return_announcement(made.week, at)
    return reached


def _body(made: Report) -> str:
    return f"{summary_of(made)}\nAll of it: maia report --week {made.week}"


def _dao(atlas: Atlas) -> ReportsDAO:
    return ReportsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
