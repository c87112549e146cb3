"""How well the learner's expectations of calls came true, from the events of the calls."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from maia.learning.observations import SUCCESS
from maia.learning.templates import FailureClass, class_of_reason

if TYPE_CHECKING:
    from atlas.composition import Atlas
    from atlas.events import Event

MOST_STEPS: Final = 10_000
"""The newest calls that are looked at."""
_KINDS: Final = ("hunter.step", "tracker.step")
_GROUPS: Final = 10
_EDGE: Final = 1e-4


@dataclass(frozen=True, slots=True)
class Call:
    """A call that was made: whether it succeeded or else its failure's class, and what was expected."""

    failure_class: FailureClass | None
    expected: float | None = None
    expected_class: str | None = None

    @property
    def succeeded(self) -> bool:
        return self.failure_class is None


@dataclass(frozen=True, slots=True)
class Decile:
    """A tenth of the calls, by how likely success was thought: the mean expected, and what came."""

    calls: int
    expected: float
    succeeded: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """Expectations against outcomes. All but the first three are about calls of which something was expected.

    `log_loss` is in nats, and `base_log_loss` that of always expecting their share of successes, which nobody
    knows beforehand. `classes_right` is the share of failures whose class was expected.
    """

    calls: int
    succeeded: float | None
    likeliest_failure: str | None
    """The class of most failures."""
    expecting: int
    expected: float | None
    log_loss: float | None
    base_log_loss: float | None
    classes_right: float | None
    deciles: tuple[Decile, ...]


async def calibration(atlas: Atlas, since: datetime) -> Calibration:
    """Compare expectations with outcomes of the calls since an instant, or of the newest 10,000 of them."""
    events = await atlas.events.latest(MOST_STEPS, kinds=_KINDS)
    return calibrated([call for event in events if event.at >= since for call in _calls(event)])


def calibrated(calls: Sequence[Call]) -> Calibration:
    """The figures of some calls."""
    told = [call for call in calls if call.expected is not None]
    pairs = sorted((call.expected or 0.0, call.succeeded) for call in told)
    failures = Counter(call.failure_class.value for call in calls if call.failure_class is not None)
    rate = _mean(succeeded for _, succeeded in pairs)
    failed = [call for call in told if not call.succeeded]
    return Calibration(
        calls=len(calls),
        succeeded=_mean(call.succeeded for call in calls),
        likeliest_failure=max(failures, key=lambda each: (failures[each], each), default=None),
        expecting=len(pairs),
        expected=_mean(expected for expected, _ in pairs),
        log_loss=_mean(_loss(expected, succeeded) for expected, succeeded in pairs),
        base_log_loss=None if rate is None else _mean(_loss(rate, succeeded) for _, succeeded in pairs),
        classes_right=_mean(call.failure_class == call.expected_class for call in failed),
        deciles=tuple(_deciles(pairs)),
    )


def _calls(event: Event) -> Iterable[Call]:
    """The call that a step's event tells of; none if it was only cut off, or needed no call."""
    outcome = event.payload.get("outcome")
    if not isinstance(outcome, str) or event.payload.get("action") == "feed_counts":
        return
    failure_class = None if outcome == SUCCESS else class_of_reason(outcome)
    if failure_class is FailureClass.INTERRUPTED:
        return
    expected = event.payload.get("expected") or {}
    yield Call(failure_class, expected.get("success"), expected.get("failure_class"))


def _loss(expected: float, succeeded: bool) -> float:
    inside = min(max(expected, _EDGE), 1 - _EDGE)
    return -math.log(inside if succeeded else 1 - inside)


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return math.fsum(found) / len(found) if found else None


def _deciles(pairs: Sequence[tuple[float, bool]]) -> Iterable[Decile]:
    """Ten groups of about as many calls, the least likely to succeed first."""
    for place in range(_GROUPS):
        group = pairs[place * len(pairs) // _GROUPS : (place + 1) * len(pairs) // _GROUPS]
        if group:
            expected, succeeded = zip(*group, strict=True)
            yield Decile(len(group), sum(expected) / len(group), sum(succeeded) / len(group))
