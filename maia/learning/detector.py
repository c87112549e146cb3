"""What a detector is: a class that reads observations one batch at a time and says what holds.

Other packages add detectors by the entry point group `pleiades.detectors`. A detector is pure: it knows no
clock, file or network, and keeps what it must remember in its state, in bounded memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, Final, Generic, Literal, Self, TypeVar

from maia.learning.observations import Measurement, Observation, ViewCurve
from maia.learning.patterns import Finding, PatternType

ENTRY_POINTS: Final = "pleiades.detectors"

Reads = Literal["observations", "measurements", "curves"]
Input = TypeVar("Input", Observation, Measurement, ViewCurve)


class Detector(ABC, Generic[Input]):
    """Learns patterns of some types from one kind of input.

    Input mostly comes in the order of time, but late and repeated instants must not break a detector.
    `tests/unit/test_detectors.py` is the contract that each has to keep.
    """

    name: ClassVar[str]
    """Names its state; never change it."""
    version: ClassVar[int] = 1
    """The version of its state."""
    types: ClassVar[frozenset[PatternType]]
    reads: ClassVar[Reads] = "observations"

    @abstractmethod
    def observe(self, batch: Sequence[Input]) -> None:
        """Learn from a batch."""

    @abstractmethod
    def patterns(self) -> list[Finding]:
        """The patterns that gained evidence since the last call, with just that evidence."""

    @abstractmethod
    def state(self) -> bytes:
        """Everything that it has learnt, including evidence that was not handed out yet."""

    @classmethod
    @abstractmethod
    def from_state(cls, state: bytes) -> Self:
        """A detector that goes on as the one that wrote the state; StateError if it can't."""


AlarmKind = Literal["anomaly", "threshold", "change_point"]


@dataclass(frozen=True, slots=True)
class Alarm:
    """A series was odd, too high, or shifted at an instant; `score` is in [0, 1]."""

    series: str
    at: datetime
    kind: AlarmKind
    value: float
    score: float
    detail: str

    def content(self) -> list[Any]:
        """Everything as a list, for states."""
        return [self.series, self.at.timestamp(), self.kind, self.value, self.score, self.detail]

    @classmethod
    def of_content(cls, content: Sequence[Any]) -> Self:
        series, at_s, kind, value, score, detail = content
        return cls(series, datetime.fromtimestamp(at_s, UTC), kind, value, score, detail)


class ObservationDetector(Detector[Observation]):
    """A detector that reads what agents did."""

    reads: ClassVar[Reads] = "observations"


class MeasurementDetector(Detector[Measurement]):
    """A detector that reads series of measurements."""

    reads: ClassVar[Reads] = "measurements"

    def alarms(self) -> list[Alarm]:
        """What it raised since the last call; none by default."""
        return []


class CurveDetector(Detector[ViewCurve]):
    """A detector that reads how videos' views grew."""

    reads: ClassVar[Reads] = "curves"
