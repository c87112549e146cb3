"""Patterns: matching and recommending at up to 100,000 of them, snapshots against JSON, and commits to Git.

The patterns have one to four conditions over a dozen fields: names with few and with very many values, some
skewed so that half of all patterns share one, numbers with thresholds, flags, and exclusions. Contexts have
ten fields of the same distributions. All is timed by the CPU that it took, on one core, so that neighbours
don't disturb; commits wait for the disk on top of that. Seeds are fixed.
"""

from __future__ import annotations

import gc
import json
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import numpy as np
import zstandard

from atlas.gitstore import GitStore
from maia.learning.column_file import id_of
from maia.learning.evidence import Counts, EvidenceKey, EvidenceRow
from maia.learning.forms import files
from maia.learning.importance import Importance, forget
from maia.learning.known_patterns import KnownPattern, known
from maia.learning.matching import Matcher
from maia.learning.observations import Scalar
from maia.learning.patterns import Condition, Operator, Pattern, PatternType
from maia.learning.recommending import Adviser
from maia.learning.snapshots import Remembered, Snapshot, difference, read, write
from tests.bench.figures import Figure
from tests.bench.stage import temporary_folder

T = TypeVar("T")

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
NEVER = Importance(0.0, 0.0, NOW)
SIZES = (1_000, 10_000, 100_000)
CONTEXTS = 1_000
BRUTE_CONTEXTS = 4
ADVISED_CONTEXTS = 300
IN_SNAPSHOT = 20_000
SEED = 20261129
GOAL_P99_MS = 5.0
SITES, DAYS = 3, 5
FILES = 1_000
ROUNDS = 7
AUTHOR = "Maia <maia@example.org>"

NAMES = {
    "agent": 4,
    "error": 20,
    "source": 12,
    "topic": 20_000,
    "channel": 50_000,
    "tag": 5_000,
    "category": 30,
}
LEVELS = ("hour", "load", "quota_left", "queue")
ACTIONS = (
    "search by topic",
    "search by region",
    "wait",
    "retry",
    "read the feed",
    "halve the batch",
    "use ring b",
)


async def figures() -> AsyncIterator[Figure]:
    for size in SIZES:
        patterns = made_patterns(size)
        for figure in _matching(patterns):
            yield figure
    for figure in _changing(patterns):
        yield figure
    for figure in _snapshots(patterns[:IN_SNAPSHOT]):
        yield figure
    async for figure in _git(patterns[:FILES]):
        yield figure


# Material


def _value(random: np.random.Generator, name: str) -> Scalar:
    if name in LEVELS:
        return round(float(random.uniform(0, 100)), 1)
    if name == "battery":
        return bool(random.random() < 0.5)
    # Squared twice, so that the first values are far more frequent.
    return f"{name} {int(NAMES[name] * random.random() ** 4)}"


def _condition(random: np.random.Generator, name: str) -> Condition:
    value = _value(random, name)
    if name in LEVELS:
        return Condition(name, list(Operator)[int(random.integers(2, 6))], value)
    return Condition(name, Operator.DIFFERS if random.random() < 0.05 else Operator.EQUALS, value)


def made_patterns(count: int) -> list[KnownPattern]:
    random = np.random.default_rng(SEED)
    fields = (*NAMES, *LEVELS, "battery")
    types = list(PatternType)
    stated = []
    for n in range(count):
        chosen = random.choice(len(fields), int(random.integers(1, 5)), replace=False)
        conditions = tuple(_condition(random, fields[at]) for at in sorted(chosen))
        action = ACTIONS[int(random.integers(len(ACTIONS)))] if random.random() < 0.5 else None
        statement = f"When {' and '.join(map(str, conditions))}, {action or 'views rise faster'}"
        signature = {"n": n, "conditions": [str(each) for each in conditions]}
        data = {"cost": int(random.integers(1, 101)), "typical_s": round(float(random.exponential(30)), 3)}
        pos, neg = int(random.exponential(30)), int(random.exponential(3))
        seen = NOW - timedelta(hours=float(random.exponential(400)))
        counts = Counts(pos, neg, round(float(random.exponential(5) * pos), 3), seen)
        stated.append(
            (Pattern(types[n % len(types)], signature, statement, conditions, action, data), counts)
        )
    return known(stated)


def made_contexts(count: int) -> list[dict[str, Scalar]]:
    random = np.random.default_rng(SEED + 1)
    fields = (*NAMES, *LEVELS, "battery")
    return [
        {fields[at]: _value(random, fields[at]) for at in random.choice(len(fields), 10, replace=False)}
        for _ in range(count)
    ]


# Matching


def _matching(patterns: Sequence[KnownPattern]) -> Iterator[Figure]:
    size = f"{len(patterns):,} patterns"
    built_s, matcher = _timed(lambda: _built(patterns))
    contexts = made_contexts(CONTEXTS)
    for context in contexts[:50]:
        matcher.match(context, NOW)
    took = _each_ms(contexts, lambda context: matcher.match(context, NOW))
    brute = _each_ms(contexts[:BRUTE_CONTEXTS], lambda context: _brute_force(patterns, context))
    peer = statistics.median(brute)
    yield Figure(f"match, {size}: p50", _p(took, 50), "ms", peer, "every pattern", at_most=True)
    goal = GOAL_P99_MS if len(patterns) == SIZES[-1] else None
    met = np.mean([_met_share(patterns, context) for context in contexts[:BRUTE_CONTEXTS]])
    yield Figure(
        f"match, {size}: p99", _p(took, 99), "ms", goal=goal, at_most=True,
        note=f"a context meets conditions of {met:.0%} of them",
    )  # fmt: skip
    contexts = contexts[:ADVISED_CONTEXTS]
    adviser = Adviser(matcher)
    advised = _each_ms(contexts, lambda context: adviser.recommend(context, NOW))
    yield Figure(f"recommend, {size}: p50", _p(advised, 50), "ms")
    found = np.mean([len(adviser.recommend(context, NOW, limit=99).actions) for context in contexts[:50]])
    yield Figure(
        f"recommend, {size}: p99",
        _p(advised, 99),
        "ms",
        note=f"{found:.1f} of {len(ACTIONS)} actions on average",
    )
    yield Figure(f"build the index, {size}", built_s * 1e6 / len(patterns), "µs a pattern")


def _built(patterns: Sequence[KnownPattern]) -> Matcher:
    matcher = Matcher(patterns)
    matcher.match({}, NOW)
    return matcher


def _brute_force(patterns: Sequence[KnownPattern], context: Mapping[str, Scalar]) -> list[KnownPattern]:
    def score(each: KnownPattern) -> float:
        conditions = each.pattern.conditions
        met = sum(condition.holds(context) for condition in conditions)
        age = (NOW - (each.last_seen or NOW)) / timedelta(days=30)
        return met / len(conditions) * each.confidence * 2**-age

    return sorted(patterns, key=score, reverse=True)[:20]


def _met_share(patterns: Sequence[KnownPattern], context: Mapping[str, Scalar]) -> float:
    return statistics.mean(any(c.holds(context) for c in each.pattern.conditions) for each in patterns)


def _changing(patterns: Sequence[KnownPattern]) -> Iterator[Figure]:
    """What a change costs where the next match comes at once, so that the index must be ready each time."""
    size = f"{len(patterns):,} patterns"
    stated = [(each.pattern, each.counts) for each in patterns]
    took_s, _ = _timed(lambda: known(stated))
    yield Figure("compute strength and confidence", took_s * 1e6 / len(patterns), "µs a pattern")
    matcher = _built(patterns[:-1000])
    context = made_contexts(1)[0]

    def add(each: KnownPattern) -> None:
        matcher.add(each)
        matcher.match(context, NOW)

    match_ms = statistics.mean(_each_ms(range(200), lambda _: matcher.match(context, NOW)))
    added = _each_ms(patterns[-1000:], add)
    yield Figure(
        f"add one of {size}, mean over 1,000",
        statistics.mean(added) - match_ms,
        "ms",
        note="without the match",
    )
    yield Figure(f"add one of {size} and match, the slowest", max(added), "ms")
    gained = [replace(each, counts=each.counts + Counts(1)) for each in patterns[:20_000]]
    took_s, _ = _timed(lambda: matcher.add(*gained))
    yield Figure(f"take new evidence, {size}", took_s * 1e6 / len(gained), "µs a pattern")
    random = np.random.default_rng(SEED)
    importances = {each.id: Importance(float(random.exponential(20)), 1.0, NOW) for each in patterns}
    took_s, gone = _timed(lambda: forget(importances, len(patterns) // 2, NOW + timedelta(hours=5)))
    yield Figure(f"choose {len(gone):,} of {size} to forget", took_s * 1e3, "ms")


# Snapshots


def _made_snapshot(patterns: Sequence[KnownPattern]) -> Snapshot:
    random = np.random.default_rng(SEED + 2)
    evidence: dict[EvidenceKey, EvidenceRow] = {}
    for each in patterns:
        for site in range(SITES):
            for day in range(DAYS):
                at = NOW - timedelta(days=day, seconds=float(random.uniform(0, 40_000)))
                pos, neg = int(random.exponential(3)), int(random.exponential(0.5))
                row = EvidenceRow(pos, neg, round(float(random.exponential(5)), 3), at, 1 + pos + neg)
                evidence[EvidenceKey(each.id, f"site-{site}", at.date())] = row
    remembered = {
        each.id: Remembered(
            each.pattern, importance=Importance(float(random.exponential(20)), 1.0, NOW), created_at=NOW
        )
        for each in patterns
    }
    return Snapshot(NOW, remembered, evidence)


def _snapshots(patterns: Sequence[KnownPattern]) -> Iterator[Figure]:
    snapshot = _made_snapshot(patterns)
    rows = f"{len(snapshot.patterns):,} patterns, {len(snapshot.evidence):,} rows"
    as_json_s, as_json = _timed(lambda: _as_json(snapshot))
    compressed_s, compressed = _timed(lambda: zstandard.ZstdCompressor(level=6).compress(as_json))
    from_json_s, _ = _timed(lambda: _from_json(compressed))
    mb = len(as_json) / 1e6
    write_s, written = min((_timed(lambda: write(snapshot)) for _ in range(3)), key=lambda each: each[0])
    read_s, found = min((_timed(lambda: read(written)) for _ in range(3)), key=lambda each: each[0])
    if found != snapshot:
        raise RuntimeError("what was read is not what was written")
    note = f"{rows}; as JSON {mb:,.0f} MB"
    yield Figure("snapshot: size against JSON", len(written) / 1e6, "MB", mb, "JSON", at_most=True, note=note)
    yield Figure(
        "snapshot: size against JSON in zstd", len(written) / 1e6, "MB", len(compressed) / 1e6, "JSON + zstd",
        at_most=True,
    )  # fmt: skip
    peer = mb / (as_json_s + compressed_s)
    yield Figure("snapshot: write", mb / write_s, "MB of JSON/s", peer, "JSON + zstd")
    peer = mb / from_json_s
    yield Figure("snapshot: read, verify", mb / read_s, "MB of JSON/s", peer, "JSON + zstd, unverified")
    key, row = next(iter(snapshot.evidence.items()))
    changed = replace(
        snapshot, evidence={**snapshot.evidence, key: replace(row, pos=row.pos + 1, version=99)}
    )
    took_s, increment = _timed(lambda: write(difference(snapshot, id_of(written), changed)))
    yield Figure(
        "snapshot: increment of one changed row", len(increment), "bytes", note=f"in {took_s * 1e3:,.0f} ms"
    )


def _as_json(snapshot: Snapshot) -> bytes:
    """The same content as one plain JSON document."""
    patterns = [
        {**asdict(each.pattern), "id": id_, "pinned": each.pinned, **asdict(each.importance or NEVER)}
        for id_, each in snapshot.patterns.items()
    ]
    rows = [{**key._asdict(), **asdict(row)} for key, row in snapshot.evidence.items()]
    return json.dumps({"patterns": patterns, "evidence": rows}, default=str, separators=(",", ":")).encode()


def _from_json(compressed: bytes) -> Snapshot:
    found: dict[str, Any] = json.loads(zstandard.ZstdDecompressor().decompress(compressed))
    patterns = {}
    for each in found["patterns"]:
        conditions = tuple(
            Condition(c["field"], Operator(c["operator"]), c["value"]) for c in each["conditions"]
        )
        type_, data = PatternType(each["type"]), each["data"]
        pattern = Pattern(type_, each["signature"], each["statement"], conditions, each["action"], data)
        patterns[each["id"]] = Remembered(pattern, each["pinned"], Importance(each["sti"], each["lti"], NOW))
    evidence = {}
    for each in found["evidence"]:
        seen = datetime.fromisoformat(each["last_seen"])
        key = EvidenceKey(each["pattern_id"], each["node"], datetime.fromisoformat(each["day"]).date())
        evidence[key] = EvidenceRow(each["pos"], each["neg"], each["sum_reward"], seen, each["version"])
    return Snapshot(NOW, patterns, evidence)


# Git


async def _git(patterns: Sequence[KnownPattern]) -> AsyncIterator[Figure]:
    first, same, few, pushed = [], [], [], []
    bodies = files(patterns)
    for _ in range(ROUNDS):
        with temporary_folder() as folder:
            store = GitStore(folder / "patterns.git")
            first.append(await _committing(store, bodies))
            same.append(await _committing(store, bodies))
            some = {path: body + b" " for path, body in list(bodies.items())[:10]}
            few.append(await _committing(store, {**bodies, **some}))
            remote = GitStore(folder / "remote.git")
            await remote.commit({}, "Begin", AUTHOR, "main", NOW)
            began = time.process_time()
            await GitStore(folder / "patterns.git", remote=str(folder / "remote.git")).push("main")
            pushed.append((time.process_time() - began) * 1e3)
    took_s, _ = _timed(lambda: files(patterns))
    size = f"{len(bodies):,} files"
    yield Figure(f"Git: write {size} as JSON", took_s * 1e3, "ms")
    yield Figure(
        f"Git: first commit of {size}",
        min(first),
        "ms",
        105,
        "prototype",
        at_most=True,
        note="CPU, best of 7",
    )
    yield Figure(
        f"Git: no change in {size}", min(same), "ms", 43, "prototype", at_most=True, note="CPU, best of 7"
    )
    yield Figure(f"Git: 10 of {size} changed", min(few), "ms", note="CPU, best of 7")
    yield Figure(f"Git: push {size} to a local remote", min(pushed), "ms", note="CPU, best of 7")


async def _committing(store: GitStore, bodies: Mapping[str, bytes]) -> float:
    """CPU milliseconds for a commit."""
    began = time.process_time()
    await store.commit(bodies, "Learn", AUTHOR, "main", NOW)
    return (time.process_time() - began) * 1e3


# Timing


def _timed(function: Callable[[], T]) -> tuple[float, T]:
    gc.collect()
    began = time.process_time()
    result = function()
    return time.process_time() - began, result


def _each_ms(items: Sequence[T], function: Callable[[T], object]) -> list[float]:
    took = []
    for item in items:
        began = time.process_time()
        function(item)
        took.append((time.process_time() - began) * 1e3)
    return took


def _p(took: Sequence[float], percent: float) -> float:
    return float(np.percentile(took, percent))
