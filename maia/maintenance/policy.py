"""The policy of actions: whether one may be taken now, and if not, why, and when it may.

An action is held back while another attempt at the same thing is under way, during its cool-down, beyond its
limit an hour, outside the maintenance windows if it disturbs the agents, and while another host restarts
something. After some attempts in a row without lasting effect it is left to people.

An attempt had lasting effect if its target was well for `lasting_s` after it. The row ends there, where a
person asked for the action, and where the pause before the next attempt was so long that it was no answer to
the last: a backup that fails every night is tried again every night.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final, Self

from atlas.adapters.actions import Attempt, AttemptState, History, Permission
from atlas.maintainer_settings import MaintainerSettings
from atlas.wording import counted
from maia.maintenance.windows import Windows

HOUR: Final = timedelta(hours=1)
LONGEST_PAUSE: Final = timedelta(hours=12)
"""Attempts further apart than this do not count as one row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How often an action may be taken on one thing, and the windows for one that disturbs the agents."""

    cool_down: timedelta
    most_an_hour: int
    give_up_after: int
    lasting: timedelta
    host_spacing: timedelta
    windows: Windows

    @classmethod
    def of(cls, settings: MaintainerSettings, cool_down_s: float | None = None) -> Self:
        """The limits that the settings name, with the action's own cool-down if it has one."""
        actions = settings.actions
        cool_down_s = actions.cool_down_s if cool_down_s is None else cool_down_s
        return cls(
            cool_down=timedelta(seconds=cool_down_s),
            most_an_hour=actions.most_an_hour,
            give_up_after=actions.give_up_after,
            lasting=timedelta(seconds=actions.lasting_s),
            host_spacing=timedelta(seconds=actions.host_spacing_s),
            windows=Windows.of(settings.windows, settings.time_zone),
        )


class Held(StrEnum):
    """Why an action is held back, most important first."""

    RUNNING = "running"
    OTHER_HOST = "other_host"
    GIVEN_UP = "given_up"
    HOURLY_LIMIT = "hourly_limit"
    COOL_DOWN = "cool_down"
    WINDOW = "window"


BINDS_PEOPLE: Final = frozenset({Held.RUNNING, Held.OTHER_HOST})
"""What also holds back an action that a person asked for."""


@dataclass(frozen=True, slots=True)
class Hold:
    """A reason why an action is held back, and until when; None if nobody can say."""

    held: Held
    text: str
    until: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """An action that somebody wants to take: whether it disturbs, restarts, and was asked for by a person."""

    disturbs: bool = False
    is_restart: bool = False
    asked: bool = False


def decide(request: Request, history: History, limits: Limits, now: datetime) -> Permission:
    """Whether the action may be taken now, and if not, why, and when it may be."""
    latest = history.attempts[0] if history.attempts else None
    settled = latest is not None and has_settled(latest, limits.lasting, now)
    history = _possible_attempts(history, now)
    held = holds(request, history, limits, now)
    if not held:
        return Permission(permitted=True, settled=settled)
    at = permitted_at(request, history, limits, now)
    text = "; ".join(hold.text for hold in held) + _possible(held, at, now, limits.windows)
    return Permission(permitted=False, reason=text, at=at, settled=settled)


def _possible_attempts(history: History, now: datetime) -> History:
    """The history without what ended far in the future: a clock was ahead then, and may be right by now."""

    def is_possible(attempt: Attempt) -> bool:
        return attempt.finished_at is None or attempt.finished_at - now <= HOUR

    return replace(
        history,
        attempts=tuple(filter(is_possible, history.attempts)),
        elsewhere=tuple(filter(is_possible, history.elsewhere)),
    )


def holds(request: Request, history: History, limits: Limits, now: datetime) -> list[Hold]:
    """Everything that holds the action back now, most important first."""
    found = _holds(request, history, limits, now)
    if request.asked:
        found = (hold for hold in found if hold.held in BINDS_PEOPLE)
    return sorted(found, key=lambda hold: list(Held).index(hold.held))


def permitted_at(request: Request, history: History, limits: Limits, now: datetime) -> datetime | None:
    """The first instant from now on at which nothing would hold the action back; None if nobody can say.

    That is if nothing else happens until then. What ends by time doesn't come back, but for the window.
    """
    at = now
    if history.attempts:
        latest, *earlier = history.attempts
        history = replace(history, attempts=(needed_again(latest, limits.lasting, now), *earlier))
    while held := holds(request, history, limits, at):
        ends = [hold.until for hold in held]
        if None in ends:
            return None
        at = max(end for end in ends if end is not None)
    return at


def has_settled(attempt: Attempt, lasting: timedelta, now: datetime) -> bool:
    """Whether an attempt has had lasting effect by now, or its target has got well otherwise."""
    return attempt.settled or (attempt.well_since is not None and now - attempt.well_since >= lasting)


def fruitless(attempts: Sequence[Attempt], lasting: timedelta, now: datetime) -> int:
    """How many of the last attempts, newest first, were in a row without lasting effect."""
    count, later = 0, None
    for attempt in attempts:
        began_anew = later is not None and later.at - (attempt.finished_at or attempt.at) > LONGEST_PAUSE
        if attempt.asked or began_anew or has_settled(attempt, lasting, now):
            break
        count, later = count + 1, attempt
    return count


# How attempts change


def needed_again(attempt: Attempt, lasting: timedelta, now: datetime) -> Attempt:
    """An attempt, once its action is needed again."""
    settled = has_settled(attempt, lasting, now)
    return replace(attempt, settled=settled, well_since=attempt.well_since if settled else None)


def seen_well(attempt: Attempt, lasting: timedelta, now: datetime) -> Attempt:
    """An attempt, once its target has been seen to be well."""
    if attempt.settled and attempt.well_since is not None:
        return attempt
    since = attempt.well_since or now
    return replace(attempt, well_since=since, settled=attempt.settled or now - since >= lasting)


def ended(attempt: Attempt, state: AttemptState, now: datetime) -> Attempt:
    """An attempt that has ended. What was applied counts as well until it is needed again."""
    well_since = now if state is AttemptState.APPLIED else None
    return replace(attempt, state=state, finished_at=now, well_since=well_since)


# The single limits


def _holds(request: Request, history: History, limits: Limits, now: datetime) -> Iterator[Hold]:
    attempts = history.attempts
    if attempts and attempts[0].state is AttemptState.RUNNING:
        yield Hold(Held.RUNNING, f"it has been under way since {_clock(attempts[0].at, now)}", None)
    if request.is_restart:
        yield from _other_hosts(history.elsewhere, limits.host_spacing, now)
    if (count := fruitless(attempts, limits.lasting, now)) >= limits.give_up_after:
        yield Hold(Held.GIVEN_UP, f"given up after {counted(count, 'attempt')} without lasting effect", None)
    yield from _cool_down(attempts, limits.cool_down, now)
    yield from _hourly_limit(attempts, limits.most_an_hour, now)
    if request.disturbs and now not in limits.windows:
        text = f"outside the maintenance window ({limits.windows})" if limits.windows.spans else _NO_WINDOW
        yield Hold(Held.WINDOW, text, limits.windows.next_within(now))


_NO_WINDOW = "there is no maintenance window (PLEIADES_MAINTAINER__WINDOWS)"


def _other_hosts(elsewhere: Sequence[Attempt], spacing: timedelta, now: datetime) -> Iterator[Hold]:
    for restart in elsewhere:
        what = f"{restart.node} restarts {restart.thing.target}"
        if restart.finished_at is None:
            yield Hold(Held.OTHER_HOST, f"{what} now", None)
        elif now < (until := restart.finished_at + spacing):
            yield Hold(
                Held.OTHER_HOST,
                f"{restart.node} restarted {restart.thing.target} at {_clock(restart.finished_at, now)}",
                until,
            )


def _cool_down(attempts: Sequence[Attempt], cool_down: timedelta, now: datetime) -> Iterator[Hold]:
    if not attempts:
        return
    until = max(attempt.finished_at or attempt.at for attempt in attempts) + cool_down
    if now < until:
        yield Hold(Held.COOL_DOWN, f"its cool-down of {_minutes(cool_down)} lasts", until)


def _hourly_limit(attempts: Sequence[Attempt], most: int, now: datetime) -> Iterator[Hold]:
    recent = sorted((attempt.at for attempt in attempts if attempt.at > now - HOUR), reverse=True)
    if len(recent) >= most:
        times = "once" if most == 1 else f"{most} times"
        yield Hold(Held.HOURLY_LIMIT, f"taken {times} within an hour", recent[most - 1] + HOUR)


# Words


def _possible(held: Sequence[Hold], at: datetime | None, now: datetime, windows: Windows) -> str:
    if at is not None:
        return f"; possible from {_local(at, now, windows)}"
    if any(hold.held is Held.GIVEN_UP for hold in held):
        return "; left to people: find the cause, then take it by hand"
    return ""


def _local(at: datetime, now: datetime, windows: Windows) -> str:
    local, today = at.astimezone(windows.zone), now.astimezone(windows.zone).date()
    form = "%H:%M %Z" if local.date() == today else "%Y-%m-%d %H:%M %Z"
    return local.strftime(form)


def _clock(at: datetime, now: datetime) -> str:
    at, today = at.astimezone(UTC), now.astimezone(UTC).date()
    return at.strftime("%H:%M UTC" if at.date() == today else "%Y-%m-%d %H:%M UTC")


def _minutes(span: timedelta) -> str:
    seconds = span.total_seconds()
    return f"{seconds / 60:g} min" if seconds >= 60 else f"{seconds:g} s"
