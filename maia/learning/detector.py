"""What a detector is: a class that reads observations one batch at a time and says what holds.

Other packages add detectors by the entry point group `pleiades.detectors`. A detector is pure: it knows no
clock, file or network, and keeps what it must remember in its state, in bounded memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Final, Generic, Literal, Self, TypeVar

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


class ObservationDetector(Detector[Observation]):
    """A detector that reads what agents did."""

    reads: ClassVar[Reads] = "observations"


class MeasurementDetector(Detector[Measurement]):
    """A detector that reads series of measurements."""

    reads: ClassVar[Reads] = "measurements"


class CurveDetector(Detector[ViewCurve]):
    """A detector that reads how videos' views grew."""

    reads: ClassVar[Reads] = "curves"
