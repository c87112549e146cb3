"""The upkeep view: what is wrong or was lately, what is suggested, and the last weekly report."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from atlas.adapters.comments import Comment
    from atlas.adapters.incidents import Incident
    from atlas.adapters.reports import WrittenReport
    from atlas.composition import Atlas

MOST_INCIDENTS: Final = 50
MOST_COMMENTS: Final = 50


@dataclass(frozen=True, slots=True)
class IncidentLine:
    """Something that is or was wrong; over since `recovered_at`. `explained_by` is the incident behind it."""

    id: int
    key: str
    severity: str
    text: str
    command: str | None
    node: str
    opened_at: datetime
    recovered_at: datetime | None
    acknowledged_at: datetime | None
    explained_by: str | None
    note: str | None


@dataclass(frozen=True, slots=True)
class CommentLine:
    """A suggestion of the system (without an author) or a comment, and the command that acts on it."""

    id: int
    category: str
    text: str
    command: str | None
    made_at: datetime
    author: str | None


@dataclass(frozen=True, slots=True)
class ReportLine:
    """A weekly report, in its most telling figures."""

    week: str
    made_at: datetime
    summary: str


@dataclass(frozen=True, slots=True)
class Upkeep:
    """Incidents, open ones first; what is suggested, newest first; the last report, if one was written."""

    incidents: tuple[IncidentLine, ...]
    comments: tuple[CommentLine, ...]
    report: ReportLine | None


async def upkeep(atlas: Atlas) -> Upkeep:
    """Read what the maintainer noted, and what was suggested."""
    from atlas.adapters.comments import CommentsDAO
    from atlas.adapters.incidents import IncidentsDAO
    from atlas.adapters.reports import ReportsDAO

    db, clock, settings = atlas.db, atlas.clock, atlas.settings
    incidents = await IncidentsDAO(db, clock=clock, settings=settings).incidents(
        closed=True, limit=MOST_INCIDENTS
    )
    comments = await CommentsDAO(db, clock=clock, settings=settings).comments(MOST_COMMENTS)
    written = await ReportsDAO(db, clock=clock, settings=settings).report()
    lines = sorted(map(_incident, incidents), key=lambda each: each.recovered_at is not None)
    return Upkeep(tuple(lines), tuple(map(_comment, comments)), None if written is None else _report(written))


def _incident(incident: Incident) -> IncidentLine:
    return IncidentLine(
        id=incident.id,
        key=incident.key,
        severity=incident.severity,
        text=incident.text,
        command=incident.command,
        node=incident.node,
        opened_at=incident.opened_at,
        recovered_at=incident.recovered_at,
        acknowledged_at=incident.acknowledged_at,
        explained_by=incident.cause,
        note=incident.note,
    )


def _comment(comment: Comment) -> CommentLine:
    return CommentLine(
        comment.id, comment.category, comment.text, comment.command, comment.made_at, comment.author
    )


def _report(written: WrittenReport) -> ReportLine:
    return ReportLine(written.week, written.made_at, written.summary)
