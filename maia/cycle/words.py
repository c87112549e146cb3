"""Describes in words what cycles did, and when there is more to do."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from atlas.wording import counted


def in_words(statistics: Mapping[str, Any], nouns: Mapping[str, tuple[str, str]]) -> str:
    """What cycles did, in a sentence or two: first the statistics that have nouns, of one and of more."""
    text = ", ".join(counted(statistics[name], one, more) for name, (one, more) in nouns.items())
    units = ", ".join(f"{count:,} {bucket}" for bucket, count in statistics["units"].items()) or "none"
    text += f" in {statistics['seconds']:.1f} s; units: {units}"
    skipped = ", ".join(f"{count:,} {reason}" for reason, count in statistics["skipped"].items())
    if skipped:
        text += f"; skipped: {skipped}"
    return f"{text}\n{statistics['detail']}" if statistics["detail"] else text


def coming(at: datetime | None, now: datetime) -> str:
    """A future instant and how far off it is: "2026-11-02 12:40 UTC, in 40 min"; "" if there is none."""
    if at is None or at <= now:
        return ""
    minutes = -(-(at - now) // timedelta(minutes=1))
    off = f"{minutes} min"
    if minutes >= 120:
        off = f"{minutes / 60:.0f} h" if minutes < 4320 else f"{minutes / 1440:.0f} d"
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC, in {off}"
