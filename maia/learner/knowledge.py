"""The detectors at work: restored from their stored states, taught in batches, and asked what they found."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, Protocol, Self, TypeVar

from atlas.adapters.dao import json_text
from atlas.adapters.patterns import Alarm as StoredAlarm
from atlas.adapters.patterns import Model, NewEvidence, PatternContent
from atlas.errors import ConfigError
from maia.learning.admission import MOST_COUNT, MOST_REWARD, fault_of_pattern
from maia.learning.detector import ENTRY_POINTS, Alarm, Detector, MeasurementDetector, Reads
from maia.learning.detectors import BUILT_IN
from maia.learning.evidence import Counts
from maia.learning.observations import storable
from maia.learning.patterns import Finding, Pattern, combined
from maia.learning.states import NewerState, StateError
from maia.views.patterns import columns_of

logger = logging.getLogger(__name__)

DetectorClass = type[Detector[Any]]
MODELS_OF_DETECTORS: Final = "detector."
"""Begins the names under which the learner agent stores its detectors' states."""
_MOST_SOUND: Final = 20_000


def detector_classes(off: Collection[str] = ()) -> list[DetectorClass]:
    """The installed detectors, ours and those of other packages, without those that are `off`.

    One that can't be loaded is left out, with an error in the log. ConfigError if `off` names one that isn't
    installed, or if two have one name.
    """
    # Ours do not depend on how Pleiades was installed.
    found: dict[str, DetectorClass] = {each.name: each for each in BUILT_IN}
    points = sorted(installed_points(), key=lambda point: (point.name, point.value))
    for point in points:
        loaded: DetectorClass | None = None
        if point.name not in off:
            with _survived(point.name):
                loaded = _class_of(point)
        if loaded is not None and found.setdefault(loaded.name, loaded) is not loaded:
            raise ConfigError(
                f"two installed detectors are named {loaded.name!r}; {point.value} is one of them"
            )
    names = found.keys() | {point.name for point in points}
    if unknown := sorted(set(off) - names):
        raise ConfigError(
            f"PLEIADES_LEARNER__OFF names {unknown[0]!r}, which is none of {', '.join(sorted(names))}"
        )
    return [each for name, each in sorted(found.items()) if name not in off]


def installed_points() -> Sequence[EntryPoint]:
    """The entry points of detectors; looked for once on a path, which reads files of all packages."""
    return _points_on(tuple(sys.path))


@lru_cache(maxsize=4)
def _points_on(_: tuple[str, ...]) -> Sequence[EntryPoint]:
    return tuple(entry_points(group=ENTRY_POINTS))


def _class_of(point: EntryPoint) -> DetectorClass:
    loaded = point.load()
    if not (isinstance(loaded, type) and issubclass(loaded, Detector)):
        raise TypeError(f"{point.value} is no class of detectors")
    # What it must have besides.
    _ = loaded.name, loaded.reads, loaded.version
    return loaded


@contextmanager
def _survived(name: str) -> Iterator[None]:
    """Log an error of a detector, and go on after the block without it."""
    try:
        yield
    except ConfigError:
        raise
    except Exception:
        logger.exception(
            "detector %s failed and is left out now; PLEIADES_LEARNER__OFF=%s switches it off",
            name,
            name,
            extra={"action": "detector_failed"},
        )


@dataclass(frozen=True, slots=True)
class Learnt:
    """What the detectors found in a page of inputs: one finding a pattern, and alarms of series."""

    findings: Sequence[Finding] = ()
    alarms: Sequence[Alarm] = ()


class Knowledge:
    """Detectors with what they have learnt; to be stored together with the cursor up to which they learnt."""

    def __init__(
        self,
        detectors: Iterable[Detector[Any]],
        observations: Mapping[str, int] | None = None,
        prefix: str = MODELS_OF_DETECTORS,
    ) -> None:
        self._detectors, self._prefix = list(detectors), prefix
        self._observations = dict(observations or {})
        self._failed: set[str] = set()
        self._sound: dict[str, tuple[object, ...]] = {}
        """What patterns say that were found before, and are no fault."""

    @classmethod
    def restore(
        cls, classes: Iterable[DetectorClass], models: Mapping[str, Model], prefix: str = MODELS_OF_DETECTORS
    ) -> Knowledge:
        """The detectors as stored. One whose state is damaged starts anew; its patterns stay.

        `prefix` begins the names of their states: whoever learns from other inputs has states of its own.

        ConfigError if a newer version wrote a state: this one must not overwrite it.
        """
        detectors, observations = [], {}
        for each in classes:
            model = models.get(prefix + each.name)
            with _survived(each.name):
                detectors.append(restored_model(each, model))
            observations[each.name] = model.observations if model else 0
        return cls(detectors, observations, prefix)

    @staticmethod
    def model_names(classes: Iterable[DetectorClass], prefix: str = MODELS_OF_DETECTORS) -> list[str]:
        """The names under which the states of these detectors are stored."""
        return [prefix + each.name for each in classes]

    async def learn(self, inputs: Sequence[Any], reads: Reads) -> Learnt:
        """Teach the detectors that read such inputs; returns what they found.

        A detector that raises, or finds what can't be stored, is left out from then on, with an error in the
        log, so that one that is broken doesn't keep the others from learning.
        """
        findings: list[Finding] = []
        alarms: list[Alarm] = []
        for detector in self._working(reads):
            # A page takes seconds on a slow machine: in between, whoever wants the process to stop is heard.
            await asyncio.sleep(0)
            with self._leaving_out(detector):
                detector.observe(inputs)
                found = [self._checked(each) for each in detector.patterns()]
                raised = detector.alarms() if isinstance(detector, MeasurementDetector) else []
                findings += found
                alarms += raised
                self._observations[detector.name] = self._observations.get(detector.name, 0) + len(inputs)
        return Learnt(combined(findings), alarms)

    def models(self, reads: Reads) -> list[Model]:
        """The states of the detectors that read such inputs."""
        made = []
        for detector in self._working(reads):
            learnt = self._observations.get(detector.name, 0)
            with self._leaving_out(detector):
                name = self._prefix + detector.name
                made.append(Model(name, detector.version, _state_of(detector), learnt))
        return made

    def _checked(self, finding: Finding) -> Finding:
        """The finding; ValueError, TypeError or DataRefused if it can't be stored as it is."""
        pattern = finding.pattern
        said = pattern.statement, pattern.conditions, pattern.action
        if self._sound.get(pattern.id) != said:
            # JSON has no NaN: among the figures it becomes null.
            if fault := fault_of_pattern(replace(pattern, data={})):
                raise ValueError(f"it found a pattern of type {pattern.type}, but {fault}")
            if len(self._sound) >= _MOST_SOUND:
                self._sound.clear()
            self._sound[pattern.id] = said
        json_text(dict(pattern.data))
        for day, counts in finding.evidence.items():
            if max(counts.pos, counts.neg) > MOST_COUNT or not abs(counts.reward) <= MOST_REWARD:
                raise ValueError(f"its evidence of {day} is beyond all bounds: {counts}")
            if counts.last_seen is not None and counts.last_seen.tzinfo is None:
                raise ValueError(f"its evidence of {day} was seen at an instant without time zone")
        return finding

    @property
    def observations(self) -> int:
        """From how many inputs the detector has learnt that was taught most."""
        return max(self._observations.values(), default=0)

    @property
    def failed(self) -> frozenset[str]:
        """The detectors that raised an error."""
        return frozenset(self._failed)

    @contextmanager
    def _leaving_out(self, detector: Detector[Any]) -> Iterator[None]:
        """A block after which the detector is used no more if it failed there."""
        works = False
        with _survived(detector.name):
            yield
            works = True
        if not works:
            self._failed.add(detector.name)

    def _working(self, reads: Reads) -> list[Detector[Any]]:
        return [each for each in self._detectors if each.reads == reads and each.name not in self._failed]


class _Stateful(Protocol):
    """Something with a state: a detector, or the forecaster."""

    def __init__(self) -> None: ...

    @classmethod
    def from_state(cls, state: bytes) -> Self: ...


S = TypeVar("S", bound=_Stateful)


def restored_model(of: type[S], model: Model | None) -> S:
    """A model as it was stored; a new one if there is none, or if its state is damaged.

    ConfigError if a newer version wrote the state: this one must not overwrite it.
    """
    if model is None:
        return of()
    try:
        return of.from_state(model.state)
    except NewerState as error:
        raise ConfigError(f"{error}: update Pleiades here too") from error
    except StateError as error:
        logger.error("%s; it starts anew", error, extra={"action": "state_damaged"})
        return of()


def _state_of(detector: Detector[Any]) -> bytes:
    state = detector.state()
    if not isinstance(state, bytes):
        raise TypeError(f"its state is {type(state).__name__}, not bytes")
    return state


def alarms_to_store(alarms: Iterable[Alarm]) -> list[StoredAlarm]:
    """Alarms as rows."""
    return [StoredAlarm(*astuple(alarm)) for alarm in alarms]


def to_store(findings: Iterable[Finding]) -> tuple[list[PatternContent], list[NewEvidence]]:
    """Findings as rows."""
    patterns, evidence = [], []
    for finding in findings:
        id_ = finding.pattern.id
        patterns.append(content_of(finding.pattern, id_))
        evidence += [
            NewEvidence(id_, day, counts.pos, counts.neg, counts.reward, counts.last_seen)
            for day, counts in sorted(finding.evidence.items())
            if counts != Counts() and counts.last_seen is not None
        ]
    return patterns, evidence


def content_of(pattern: Pattern, id_: str | None = None) -> PatternContent:
    """A pattern as it is stored."""
    columns = columns_of(pattern, id_)
    kept: dict[str, Any] = {name: storable(value) for name, value in columns.items()}
    return PatternContent(**kept)
