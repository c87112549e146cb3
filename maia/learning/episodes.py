"""Episodes: the actions from the begin of a piece of work to its end, and what usually comes in their course.

The detector of task sequences sees three actions back, as they come. Here whole episodes are searched for
closed frequent sequences with anything in between, which takes all of them at once.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final

from maia.learning.detectors.significance import Screen, fisher_greater
from maia.learning.detectors.task_sequences import LAST_ACTIONS
from maia.learning.detectors.wording import coarse, of_ten, who
from maia.learning.evidence import Counts
from maia.learning.frequent import (
    FrequentSequence,
    TooManyPatternsError,
    frequent_sequences,
    without_contained,
)
from maia.learning.observations import CYCLE, Observation
from maia.learning.patterns import Condition, Finding, Operator, Pattern, PatternType

PAUSE: Final = timedelta(hours=1)
"""What comes after a longer pause belongs to another piece of work."""

_LONGEST_EPISODE: Final = 200
_LONGEST_SEQUENCE: Final = 6
_MOST_SEQUENCES: Final = 20_000
_LEAST_EPISODES: Final = 20
_LEAST_SHARE_OF_EPISODES: Final = 0.01
_LEAST_SHARE: Final = 0.5

Items = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Episode:
    """What an agent did from begin to end, without repetitions of an action right after itself."""

    agent: str
    begun: datetime
    ended: datetime
    actions: Items


@dataclass(slots=True)
class _Open:
    begun: datetime
    last: datetime
    actions: list[str]


class Episodes:
    """Gathers the complete episodes of observations; of more than `most` actions only the latest are kept."""

    def __init__(self, most: int = 1_000_000) -> None:
        self._most, self._kept = most, 0
        self._complete: deque[Episode] = deque()
        self._open: dict[tuple[str, str], _Open] = {}

    def add(self, observations: Iterable[Observation]) -> None:
        """Add observations, in the order in which they were stored."""
        for each in observations:
            key = (each.agent, each.session)
            known = self._open.get(key)
            if known is not None and each.at - known.last > PAUSE:
                self._complete_one(key)
                known = None
            if known is None:
                known = self._open[key] = _Open(each.at, each.at, [])
            known.last = max(known.last, each.at)
            ends = each.action == CYCLE
            # That it ends would be told of every action that is done before.
            if not ends and (not known.actions or known.actions[-1] != each.action):
                known.actions.append(each.action)
            if ends or len(known.actions) >= _LONGEST_EPISODE:
                self._complete_one(key)

    def complete(self, now: datetime) -> list[Episode]:
        """The episodes that nothing can be added to any more at this instant."""
        for key in [key for key, each in self._open.items() if now - each.last > PAUSE]:
            self._complete_one(key)
        return list(self._complete)

    def _complete_one(self, key: tuple[str, str]) -> None:
        ended = self._open.pop(key)
        self._complete.append(Episode(key[0], ended.begun, ended.last, tuple(ended.actions)))
        self._kept += len(ended.actions)
        while self._kept > self._most:
            self._kept -= len(self._complete.popleft().actions)


def episode_sequences(episodes: Iterable[Episode]) -> list[Finding]:
    """What usually comes later in an episode once other actions have been done in this order.

    Of the frequent sequences (those of at least a hundredth of an agent's episodes) the shortest that say it
    are reported: the last action must follow in most episodes that have the others and, by Fisher's test with
    the false discovery rate controlled, more often than where one of the others is missing. The closed
    sequence that always comes with it is told as its course. Each episode counts on the UTC day on which it
    began: once for the pattern if the sequence is in it, once against it if just the last action is not. So
    the same episodes always give the same counts.
    """
    by_agent: defaultdict[str, list[Episode]] = defaultdict(list)
    for each in episodes:
        by_agent[each.agent].append(each)
    return [finding for agent in sorted(by_agent) for finding in _of_agent(agent, by_agent[agent])]


def _of_agent(agent: str, episodes: Sequence[Episode]) -> list[Finding]:
    supports = _supports([each.actions for each in episodes])
    accepted = _accepted(supports, len(episodes))
    courses: defaultdict[int, list[Items]] = defaultdict(list)
    if accepted:
        for items in without_contained(supports):
            courses[supports[items]].append(items)
    return [_finding(agent, items, _course(items, courses[supports[items]]), episodes) for items in accepted]


def _accepted(supports: Mapping[Items, int], episodes: int) -> list[Items]:
    screen: Screen[Items] = Screen(_LEAST_EPISODES)
    for items in sorted(supports):
        if len(items) > 1 and supports[items] > _LEAST_SHARE * supports[items[:-1]]:
            screen.look(items, supports[items], _chance(items, supports, episodes))
    return screen.settle()


def _course(items: Items, closed: Iterable[Items]) -> Items:
    """The longest of some sequences that contains this one."""
    return max(
        (each for each in closed if _first_items_in(items, each) == len(items)),
        key=lambda each: (len(each), each),
    )


def _supports(rows: Sequence[Items]) -> dict[Items, int]:
    """In how many rows each frequent sequence is; rarer ones are left out where there are too many."""
    least = max(_LEAST_EPISODES, round(_LEAST_SHARE_OF_EPISODES * len(rows)))
    while True:
        try:
            found: list[FrequentSequence] = frequent_sequences(
                rows, least, longest=_LONGEST_SEQUENCE, most=_MOST_SEQUENCES
            )
        except TooManyPatternsError:
            least *= 2
        else:
            return {each.items: each.support for each in found}


def _chance(items: Items, supports: Mapping[Items, int], episodes: int) -> float:
    """How probable it is that one of the actions before the last one says nothing about it."""
    *before, then = items
    without = [(*before[:at], *before[at + 1 :]) for at in range(len(before))]
    return max(
        _chance_against(
            (supports[items], supports[items[:-1]]), (supports[*each, then], supports.get(each, episodes))
        )
        for each in without
    )


def _chance_against(these: tuple[int, int], all_: tuple[int, int]) -> float:
    """Fisher's test that the last action comes more often in these episodes than in the others of all."""
    came, of = these
    others_came, others = all_[0] - came, all_[1] - of
    if others_came > others:
        return 1.0
    return fisher_greater(came, of - came, others_came, others - others_came)


def _finding(agent: str, items: Items, course: Items, episodes: Sequence[Episode]) -> Finding:
    pos: Counter[date] = Counter()
    neg: Counter[date] = Counter()
    last_seen: dict[date, datetime] = {}
    for each in episodes:
        met = _first_items_in(items, each.actions)
        if met < len(items) - 1:
            continue
        day = each.begun.date()
        (pos if met == len(items) else neg)[day] += 1
        last_seen[day] = max(each.ended, last_seen.get(day, each.ended))
    days = {day: Counts(pos[day], neg[day], 0.0, last_seen[day]) for day in sorted(last_seen)}
    *before, then = items
    share = pos.total() / (pos.total() + neg.total())
    pattern = Pattern(
        PatternType.TASK_SEQUENCE,
        {"agent": agent, "in_episode": before, "then": then},
        f"once {who(agent)} has done {', then '.join(before)}, with anything in between, "
        f"{then} comes later in the same session {of_ten(share)}",
        (
            Condition("agent", Operator.EQUALS, agent),
            Condition(LAST_ACTIONS[0], Operator.EQUALS, before[-1]),
        ),
        data={"share": coarse(share), "course": list(course)},
    )
    return Finding(pattern, days)


def _first_items_in(items: Items, actions: Items) -> int:
    """How many of the items, from the first one, come in this order."""
    met = 0
    for action in actions:
        if met < len(items) and action == items[met]:
            met += 1
    return met
