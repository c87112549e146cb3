"""The view of what patterns changed: shares of the hunter's plans, and suggestions that rest on them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from atlas.adapters.comments import Comment
    from atlas.adapters.discovery import ShareByPattern
    from atlas.composition import Atlas

_SHOWN_OF_ID: Final = 8
"""So much of a pattern's id stands in the reasons of a plan."""
_REASON: Final = re.compile(r"prior ×(\S+) by pattern ([0-9a-f]{8,32})")


@dataclass(frozen=True, slots=True)
class Changed:
    """Something that a pattern changed: for whom, what, and how. `pattern` is the beginning of its id."""

    day: date
    whose: Literal["hunter", "people"]
    what: str
    how: str
    pattern: str


async def changed(atlas: Atlas, limit: int, pattern_id: str | None = None) -> tuple[Changed, ...]:
    """What patterns changed last, or what one of them did, newest first."""
    from atlas.adapters.comments import CommentsDAO
    from atlas.adapters.discovery import DiscoveryDAO

    db, clock, settings = atlas.db, atlas.clock, atlas.settings
    beginning = None if pattern_id is None else pattern_id[:_SHOWN_OF_ID]
    plans = await DiscoveryDAO(db, clock=clock, settings=settings).plans_by_patterns(limit, beginning)
    advice = await CommentsDAO(db, clock=clock, settings=settings).on_patterns(limit, pattern_id)
    found = [*map(_planned, plans), *(_suggested(each, pattern_id) for each in advice)]
    return tuple(sorted(found, key=lambda each: each.day, reverse=True)[:limit])


def _planned(share: ShareByPattern) -> Changed:
    match = _REASON.search(share.reason)
    return Changed(
        day=share.pacific_day,
        whose="hunter",
        what=f"share of {share.arm} in the day's plan",
        how=f"prior ×{match[1] if match else '?'}, so that it got {100 * share.share:.0f} % of its units",
        pattern=match[2] if match else "",
    )


def _suggested(comment: Comment, pattern_id: str | None) -> Changed:
    state = "open" if comment.closed_at is None else f"closed by {comment.closed_by or 'the system'}"
    return Changed(
        day=comment.made_at.date(),
        whose="people",
        what=comment.text,
        how=f"suggested; {state}{f': {comment.reason}' if comment.reason else ''}",
        pattern=pattern_id or str(comment.evidence["patterns"][0]),
    )
