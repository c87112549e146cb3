"""The anomaly detector on the Numenta Anomaly Benchmark, and as a ranking of points on server metrics.

`make bench ARGS=anomalies` first reproduces two published figures, to check the scorer: Numenta's from its
raw scores, and the windowed Gaussian's by running that detector again. Then it scores ours: at the threshold
that suits the corpus best, as the benchmark does, and at the fixed one.

Half-split transfer chooses on one half of the series and scores the other, both ways. Chosen are either the
threshold alone, or also which aspects the detector combines and how long it is quiet after an alarm. The
second is the harder test. It still flatters, because the aspects themselves were found on the whole corpus.

The made-up server metrics are sampled every minute. They have days, weeks, trends, noise that bursts, and
labelled spikes, dips, shifts, ramps and noise. They are as hard as real ones: the difference to the value
before has an area under precision–recall of about .2 point by point. `--kpi` scores real ones: a CSV file, or
a folder of them, with the columns timestamp, value, label and perhaps KPI ID.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import tarfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from itertools import combinations
from math import erfc, hypot, log, sqrt
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from maia.learning.anomalies import ALARM, ASPECTS, DEFAULT_EVIDENCE, MEMORY, AnomalyDetector, scores_of
from maia.learning.nab import (
    OUTSIDE,
    PROFILES,
    Floats,
    Integers,
    ScoredSeries,
    probation_length,
    sweep,
    window_of_points,
    worth_of_points,
)
from tests.bench.figures import Figure

NUMENTA, WINDOWED_GAUSSIAN = 70.10, 39.65
PUBLISHED = {"ARTime": 74.9, "Numenta HTM": 70.1, "CAD OSE": 69.9, "KNN-CAD": 58.0, "relative entropy": 54.6}
"""Standard profile, from the benchmark's own table of results."""
CONFIGURATIONS = 13_250
"""How many configurations were scored on the whole corpus while the detector was made.

Each combination of evidence, threshold and quiet counts as one. The scoring function counted them, except
about 400 before it had a counter and 30 of the finished detector, which were counted by hand. They are some
1,000 detectors, most at ten thresholds or more. Of these, 301 are random combinations of evidence that only
served to measure how much such a search overfits: what does best on one half of the series, 73.8 there,
reaches 65.1 on the other.
"""
KPI_CONFIGURATIONS = 320
"""How many rankings were scored on made-up metrics, of other seeds than the bench's; counted by hand."""
FIRST_SEED = 40_000
QUIET = {"60 points and 3 %": (60, 0.03), "60 points and 1 %": (60, 0.01), "100 points": (100, 0.0)}
THRESHOLDS = np.arange(7.0, 13.01, 0.25)


@dataclass(frozen=True)
class Options:
    """What to run."""

    splits: int = 20
    kpis: int = 12
    kpi: Path | None = None


def add_options(parser: argparse.ArgumentParser) -> None:
    """The bench's own options."""
    group = parser.add_argument_group("anomalies")
    group.add_argument("--splits", type=int, default=Options.splits, help="random halves, used both ways")
    group.add_argument("--kpis", type=int, default=Options.kpis, help="made-up server metrics")
    group.add_argument("--kpi", type=Path, help="labelled CSV file, or a folder of them, to score as well")


def options_of(parsed: argparse.Namespace) -> Options:
    return Options(parsed.splits, parsed.kpis, parsed.kpi)


@dataclass(frozen=True, slots=True)
class Series:
    """A labelled series of the benchmark."""

    name: str
    at_s: Floats
    values: Floats
    windows: tuple[tuple[float, float], ...]

    @property
    def group(self) -> str:
        return self.name.split("/")[0]

    def scored(self, scores: Floats) -> ScoredSeries:
        return ScoredSeries(scores, self.at_s, self.windows)


def _folder() -> Path:
    default = Path(__file__).resolve().parents[3] / "shared"
    return Path(os.environ.get("PLEIADES_SHARED", default)) / "data" / "metrics"


def _at_s(text: str) -> float:
    """Seconds since 1970, of a number of seconds or of an ISO time without zone."""
    try:
        return float(text)
    except ValueError:
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def read_corpus(folder: Path) -> list[Series]:
    """The benchmark's series with their windows, in order of name."""
    with tarfile.open(folder / "nab_data_labels_config.tar.gz") as archive:
        labels = json.loads(_member(archive, "labels/combined_windows.json"))
        corpus = []
        for name, windows in sorted(labels.items()):
            rows = list(csv.DictReader(io.StringIO(_member(archive, f"data/{name}").decode())))
            at_s = np.array([_at_s(row["timestamp"]) for row in rows])
            values = np.array([float(row["value"]) for row in rows])
            bounds = tuple((_at_s(first), _at_s(last)) for first, last in windows)
            corpus.append(Series(name, at_s, values, bounds))
    return corpus


def read_scores(folder: Path, detector: str, corpus: Sequence[Series]) -> list[Floats]:
    """The raw scores that a detector's authors published."""
    with tarfile.open(folder / "nab_raw_anomaly_scores_3detectors.tar.gz") as archive:
        names = [f"{detector}/{s.group}/{detector}_{Path(s.name).stem}.scores.txt" for s in corpus]
        return [np.array(_member(archive, name).split(), dtype=np.float64) for name in names]


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    stream = archive.extractfile(name)
    assert stream is not None
    return stream.read()


def windowed_gaussian(values: Floats) -> Floats:
    """The benchmark's baseline: one minus the normal tail by the last 6,400 values, which move on every 100.

    Rounded to twelve digits, as the published run stored its scores; unrounded, they reach 40.13.
    """
    scores = np.zeros(len(values))
    first = pending = 0
    mean = deviation = 0.0
    for n, value in enumerate(values.tolist()):
        if n:
            scores[n] = 1 - 0.5 * erfc(abs(value - mean) / deviation / sqrt(2))
        if n >= 6_400:
            pending += 1
            if pending < 100:
                continue
            first, pending = first + 100, 0
        window = values[first : n + 1]
        mean, deviation = float(window.mean()), float(window.std()) or 1e-6
    return np.round(scores, 12)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a detector found at each point of a series, by aspect, and what an alarm there is worth."""

    by_aspect: Floats
    window: Integers
    worth: Floats

    @classmethod
    def of(cls, series: Series) -> Evidence:
        detector = AnomalyDetector()
        found = np.empty((len(series.values), len(ASPECTS)))
        for n, (at_s, value) in enumerate(zip(series.at_s.tolist(), series.values.tolist(), strict=True)):
            detector.update(at_s, value)
            found[n] = list(detector.evidence.values())
        window = window_of_points(series.scored(series.values))
        return cls(found, window, worth_of_points(window, PROFILES["standard"]))

    def raw_score(self, alarms: Sequence[int]) -> float:
        """The benchmark's raw score of these alarms, in the standard profile."""
        start = probation_length(len(self.window))
        counted = np.array([n for n in alarms if n >= start], dtype=np.int64)
        windows, worth = self.window[counted], self.worth[counted]
        total = float(worth[windows == OUTSIDE].sum())
        for number in range(int(self.window.max()) + 1):
            inside = worth[windows == number]
            total += float(inside.max()) if len(inside) else -1.0
        return total


def alarms_of(norm: Floats, threshold: float, quiet: tuple[int, float]) -> list[int]:
    """The detector's rule of alarms, for candidates of the transfer test: evidence, quiet and silence."""
    alarms: list[int] = []
    last, with_evidence = -1, np.inf
    for n in np.flatnonzero(norm >= threshold - 0.3 * log(1000 / 300)).tolist():
        silence = n - last
        if silence > quiet[0] + quiet[1] * min(n + 1, MEMORY):
            boosted = norm[n] + 0.3 * log(min(silence, 1000) / 300)
        else:
            boosted = norm[n] if norm[n] >= 1.5 * with_evidence else 0.0
        if boosted >= threshold:
            alarms.append(n)
            last, with_evidence = n, norm[n]
    return alarms


@dataclass(frozen=True, slots=True)
class Candidate:
    """One configuration of the transfer test, with its raw score on every series."""

    aspects: tuple[int, ...]
    quiet: str
    threshold: float
    raw_scores: Floats


def candidates(evidence: Sequence[Evidence]) -> Iterator[Candidate]:
    """Every choice of at least three aspects, of quiet, and of a threshold."""
    for size in range(3, len(ASPECTS) + 1):
        for aspects in combinations(range(len(ASPECTS)), size):
            norms = [np.sqrt((found.by_aspect[:, aspects] ** 2).sum(axis=1)) for found in evidence]
            for name, quiet in QUIET.items():
                for threshold in THRESHOLDS:
                    alarms = [alarms_of(norm, float(threshold), quiet) for norm in norms]
                    raw = [found.raw_score(a) for found, a in zip(evidence, alarms, strict=True)]
                    yield Candidate(aspects, name, float(threshold), np.array(raw))


def transfer(tried: Sequence[Candidate], windows: Integers, splits: int) -> list[float]:
    """The normalised score on one half of the series of what did best on the other, both ways."""
    raw = np.array([candidate.raw_scores for candidate in tried])
    generator, scores = np.random.default_rng(1), []
    for _ in range(splits):
        order = generator.permutation(len(windows))
        halves = order[: len(order) // 2], order[len(order) // 2 :]
        for tuned, other in (halves, halves[::-1]):
            best = int(np.argmax(raw[:, tuned].sum(axis=1)))
            total = int(windows[other].sum())
            scores.append(100 * (raw[best, other].sum() + total) / (2 * total))
    return scores


@dataclass(frozen=True, slots=True)
class Labelled:
    """A server metric whose points are labelled."""

    at_s: Floats
    values: Floats
    labels: Integers


def average_precision(scores: Floats, labels: Integers) -> float:
    """The area under precision–recall, by steps in recall; ties count together."""
    order = np.argsort(-scores, kind="stable")
    last_of_ties = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    hits = np.cumsum(labels[order])[last_of_ties]
    return float(np.sum(np.diff(hits, prepend=0) * hits / (last_of_ties + 1)) / labels.sum())


def by_difference(metric: Labelled) -> Floats:
    return np.asarray(np.abs(np.diff(metric.values, prepend=metric.values[0])))


def by_day(metric: Labelled) -> Floats:
    """The residual to a running mean of the same ten minutes of the days before."""
    means: dict[int, float] = {}
    residuals = np.zeros(len(metric.values))
    for n, (at_s, value) in enumerate(zip(metric.at_s.tolist(), metric.values.tolist(), strict=True)):
        part = int(at_s % 86_400 // 600)
        mean = means.get(part, value)
        residuals[n] = abs(value - mean)
        means[part] = mean + 0.05 * (value - mean)
    return residuals


def by_mean(metric: Labelled) -> Floats:
    return np.asarray(np.abs(metric.values - metric.values.mean()))


def by_rank_sum(metric: Labelled) -> Floats:
    """The mean rank of difference and day: a combination without any scale."""
    ranks: list[Floats] = [
        np.argsort(np.argsort(f(metric))) / len(metric.values) for f in (by_difference, by_day)
    ]
    return np.asarray(-np.log(1.0001 - ranks[0]) - np.log(1.0001 - ranks[1]))


def ours(metric: Labelled) -> Floats:
    return np.array(scores_of(zip(metric.at_s.tolist(), metric.values.tolist(), strict=True)))


RANKINGS = {
    "ours": ours,
    "|difference|": by_difference,
    "day residual": by_day,
    "difference and day": by_rank_sum,
    "distance to the mean": by_mean,
}


def made_up(seed: int, days: int = 14) -> Labelled:
    """A server metric of its own kind for each seed; odd seeds have longer and larger anomalies."""
    typical_length, size = (13.0, 3.0) if seed % 2 else (2.7, 2.4)
    g, n = np.random.default_rng(seed), days * 1440
    level, spread = _daily(g, days), g.uniform(0.02, 0.12)
    values = level * (1 + spread * _noise(g, n, days))
    labels = np.zeros(n, dtype=np.int64)
    share = np.exp(g.uniform(np.log(0.005), np.log(0.06)))
    while labels.mean() < share:
        length = int(np.clip(typical_length * np.exp(g.normal(0, 1.2)), 1, 500))
        start = int(g.integers(1440, n - length))
        if labels[max(0, start - 30) : start + length + 30].any():
            continue
        part = values[start : start + length]
        part += _anomaly(g, length, size * spread * level.mean(), part)
        # People label a little too much at both ends.
        labels[start - int(g.integers(0, 2)) : start + length + int(g.integers(0, 4))] = 1
    kept = g.random(n) > 0.002
    at_s: Floats = np.arange(n, dtype=np.float64) * 60 + 1.5e9
    digits = 10.0 ** int(g.integers(2, 5))
    rounded = np.rint(np.maximum(values, 0) * digits) / digits
    return Labelled(np.asarray(at_s[kept]), np.asarray(rounded[kept], dtype=np.float64), labels[kept])


def _daily(g: np.random.Generator, days: int) -> Floats:
    """The level: a day of six harmonics, a weekend, a trend, and days that differ."""
    minute = np.arange(days * 1440)
    phase = minute % 1440 / 1440 * 2 * np.pi
    day = sum(
        (g.normal() / k**1.2 * np.cos(k * phase + g.uniform(0, 2 * np.pi)) for k in range(1, 7)),
        np.zeros(len(minute)),
    )
    of_days = np.repeat(g.normal(0, g.uniform(0, 0.15), days), 1440)
    smoothed = np.convolve(of_days, np.ones(600) / 600, "same")
    depth = g.choice([g.uniform(0.3, 0.9), g.uniform(0.05, 0.3), g.uniform(0, 0.08)], p=[0.4, 0.4, 0.2])
    weekend = 1 + g.uniform(-0.4, 0.1) * (minute // 1440 % 7 >= 5)
    trend = 1 + 0.02 * g.normal() * minute / (7 * 1440)
    return np.asarray(np.exp(depth * day / day.std() + smoothed) * weekend * trend)


def _noise(g: np.random.Generator, n: int, days: int) -> Floats:
    """Correlated and white noise of changing size, slow wandering, glitches, and perhaps a daily job."""
    memory, shocks = g.uniform(0, 0.8), g.standard_t(g.uniform(3, 8), n)
    shocks *= np.exp(np.repeat(g.normal(0, 0.3, n // 180 + 1), 180)[:n])
    rough, last = np.empty(n), 0.0
    for i in range(n):
        rough[i] = last = memory * last + shocks[i]
    wander = np.cumsum(g.normal(size=n))
    wander -= np.linspace(0, wander[-1], n)
    noise = rough / rough.std() + g.normal(size=n) * g.uniform(0, 0.7)
    noise += wander * g.uniform(0.3, 3) / wander.std()
    for _ in range(g.poisson(days * g.choice([0.5, 2, 6]))):
        start, length = int(g.integers(n)), int(g.integers(1, 6))
        noise[start : start + length] += g.normal() * g.uniform(2, 10)
    if g.random() < 0.35:
        minute, length = int(g.integers(1440)), int(g.integers(5, 40))
        for day in range(days):
            start = day * 1440 + minute + int(g.integers(-2, 3))
            noise[max(start, 0) : start + length] += 5
    return np.asarray(noise)


def _anomaly(g: np.random.Generator, length: int, unit: float, values: Floats) -> Floats:
    """What an anomaly adds to the values."""
    size = unit * np.exp(g.normal(1.3, 0.6)) * g.choice([1, -1], p=[0.65, 0.35])
    at = np.arange(length)
    match g.choice(["spike", "shift", "ramp", "noise", "dip"], p=[0.5, 0.15, 0.1, 0.15, 0.1]):
        case "spike":
            added = size * np.exp(-3 * at / length) * (1 + 0.3 * g.normal(size=length))
            return np.asarray(added * np.where(g.random(length) < 0.3, 0.3, 1))
        case "shift":
            return np.full(length, 0.8 * size)
        case "ramp":
            return np.asarray(size * (at + 1) / length)
        case "noise":
            return np.asarray(0.8 * size * g.normal(size=length))
        case _:
            return np.asarray(-np.minimum(abs(size), 0.9 * np.abs(values)))


def read_kpis(path: Path) -> list[Labelled]:
    """The labelled metrics of a CSV file, or of every CSV file of a folder."""
    found: dict[str, list[tuple[float, float, int]]] = {}
    for file in sorted(path.rglob("*.csv")) if path.is_dir() else [path]:
        with file.open(newline="") as stream:
            for row in csv.DictReader(stream):
                named = {name.strip().lower(): text for name, text in row.items()}
                label = next(named[n] for n in ("label", "is_anomaly", "anomaly") if n in named)
                at_s = _at_s(named["timestamp"] if "timestamp" in named else named["timestamps"])
                point = (at_s, float(named["value"]), int(float(label) > 0))
                found.setdefault(f"{file}:{named.get('kpi id', '')}", []).append(point)
    columns = [np.array(sorted(points)).T for points in found.values()]
    return [Labelled(at_s, values, labels.astype(np.int64)) for at_s, values, labels in columns]


def precision_table(title: str, metrics: Sequence[Labelled]) -> tuple[Table, dict[str, float]]:
    """The mean average precision of each ranking, over the metrics that have any label."""
    labelled = [metric for metric in metrics if metric.labels.any()]
    table = Table(
        "ranking", "mean", "median", "lowest", "ahead of |difference|", title=title, box=SIMPLE_HEAD
    )
    scored = {
        name: np.array([average_precision(f(metric), metric.labels) for metric in labelled])
        for name, f in RANKINGS.items()
    }
    for name, areas in scored.items():
        ahead = f"{(areas > scored['|difference|']).mean():.0%}"
        table.add_row(name, *(f"{x:.3f}" for x in (areas.mean(), np.median(areas), areas.min())), ahead)
    table.caption = (
        f"{len(labelled)} metrics, {np.mean([m.labels.mean() for m in labelled]):.1%} of points labelled"
    )
    return table, {name: float(areas.mean()) for name, areas in scored.items()}


def _by_group(corpus: Sequence[Series], scores: Sequence[Floats], threshold: float) -> Mapping[str, float]:
    """The standard score of each group of series that has windows, at the corpus's threshold."""
    figures = {}
    for group in sorted({series.group for series in corpus}):
        of_group = [s.scored(x) for s, x in zip(corpus, scores, strict=True) if s.group == group]
        if any(series.windows for series in of_group):
            figures[group] = sweep(of_group, PROFILES["standard"]).score_at(threshold)
    return figures


def _reproduced(folder: Path, corpus: Sequence[Series]) -> Iterator[Figure]:
    numenta = [s.scored(x) for s, x in zip(corpus, read_scores(folder, "numenta", corpus), strict=True)]
    gaussian = [series.scored(windowed_gaussian(series.values)) for series in corpus]
    for name, scored, published in (
        ("Numenta's raw scores, by our scorer", numenta, NUMENTA),
        ("windowed Gaussian, run again", gaussian, WINDOWED_GAUSSIAN),
    ):
        score = sweep(scored, PROFILES["standard"]).best_score
        yield Figure(
            f"NAB: {name}", score, "", published, "published", note=f"off by {score - published:+.3f}"
        )


def _scored(corpus: Sequence[Series]) -> tuple[list[Floats], float]:
    """Our scores, and the microseconds of CPU time that a point took."""
    scores, seconds = [], 0.0
    for series in corpus:
        points = list(zip(series.at_s.tolist(), series.values.tolist(), strict=True))
        begun = process_time()
        found = scores_of(points)
        seconds += process_time() - begun
        scores.append(np.array(found))
    return scores, 1e6 * seconds / sum(map(len, scores))


def _profiles(corpus: Sequence[Series], scores: Sequence[Floats], console: Console) -> Iterator[Figure]:
    scored = [series.scored(x) for series, x in zip(corpus, scores, strict=True)]
    table = Table(
        "profile", "best threshold", "score there", f"at the fixed {ALARM}", title="NAB", box=SIMPLE_HEAD
    )
    for name, profile in PROFILES.items():
        swept = sweep(scored, profile)
        fixed = swept.score_at(ALARM)
        table.add_row(name, f"{swept.best_threshold:.4f}", f"{swept.best_score:.2f}", f"{fixed:.2f}")
        goal = 70.0 if name == "standard" else None
        yield Figure(f"NAB {name}: best threshold", swept.best_score, "", goal=goal)
        yield Figure(f"NAB {name}: fixed threshold", fixed, "", goal=goal)
    for group, score in _by_group(corpus, scores, ALARM).items():
        table.add_row(group, "", "", f"{score:.2f}")
    table.caption = "; ".join(f"{name} {score}" for name, score in PUBLISHED.items())
    console.print(table)


def _transfers(corpus: Sequence[Series], splits: int, console: Console) -> Iterator[Figure]:
    evidence = [Evidence.of(series) for series in corpus]
    windows = np.array([len(series.windows) for series in corpus])
    tried = list(candidates(evidence))
    own_quiet, every_aspect = next(iter(QUIET)), tuple(range(len(ASPECTS)))
    own = [c for c in tried if c.quiet == own_quiet and c.aspects == every_aspect]
    table = Table("chosen on one half", "candidates", "mean", "lowest", "highest", "whole corpus, best",
                  title=f"Half-split transfer, {splits} splits both ways", box=SIMPLE_HEAD)  # fmt: skip
    for what, pool in (("threshold", own), ("threshold, aspects and quiet", tried)):
        scores = transfer(pool, windows, splits)
        best = max(float(c.raw_scores.sum()) for c in pool)
        whole = 100 * (best + windows.sum()) / (2 * windows.sum())
        figures = (np.mean(scores), np.min(scores), np.max(scores), whole)
        table.add_row(what, str(len(pool)), *(f"{x:.1f}" for x in figures))
        note = f"mean of {len(scores)}; {len(pool)} candidates; in sample {whole:.1f}"
        yield Figure(f"NAB half-split transfer: {what}", float(np.mean(scores)), "", goal=66.0, note=note)
    console.print(table)


def _check_rule(series: Series, scores: Floats) -> None:
    """The transfer test's rule of alarms must be the detector's own."""
    norm = np.array([hypot(*row) for row in Evidence.of(series).by_aspect])
    alarms = alarms_of(norm, DEFAULT_EVIDENCE, next(iter(QUIET.values())))
    assert alarms == np.flatnonzero(scores >= ALARM).tolist(), series.name


def _state_bytes(series: Series) -> int:
    """The packed size of the state after a series."""
    detector = AnomalyDetector()
    for at_s, value in zip(series.at_s.tolist(), series.values.tolist(), strict=True):
        detector.update(at_s, value)
    msgpack: Any = import_module("msgpack")
    return len(msgpack.packb(detector.state()))


def _benchmark(folder: Path, options: Options, console: Console) -> Iterator[Figure]:
    corpus = read_corpus(folder)
    yield from _reproduced(folder, corpus)
    scores, microseconds = _scored(corpus)
    yield from _profiles(corpus, scores, console)
    _check_rule(corpus[10], scores[10])
    yield from _transfers(corpus, options.splits, console)
    yield Figure("a point takes", microseconds, "µs of CPU time", goal=30.0, at_most=True)
    longest = max(corpus, key=lambda series: len(series.values))
    yield Figure(
        "state of a detector", _state_bytes(longest), "bytes", note=f"after {len(longest.values):,} points"
    )
    areas = [
        average_precision(x, (window_of_points(s.scored(x)) != OUTSIDE).astype(np.int64))
        for s, x in zip(corpus, scores, strict=True)
        if s.windows
    ]
    yield Figure(
        "points in NAB's windows: average precision", float(np.mean(areas)), "", note="windows are wide"
    )
    yield Figure(
        "configurations scored on NAB", CONFIGURATIONS, "", note=f"{KPI_CONFIGURATIONS} on made-up metrics"
    )


async def figures(options: Options) -> AsyncIterator[Figure]:
    """NAB's figures where its data is, then made-up metrics, then those of `--kpi`."""
    console = Console(stderr=True, emoji=False)
    folder = _folder()
    if (folder / "nab_data_labels_config.tar.gz").exists():
        for figure in _benchmark(folder, options, console):
            yield figure
    else:
        console.print(
            f"NAB is skipped: no data at {folder}; set PLEIADES_SHARED to the folder that holds data/."
        )
    sources = {"made-up metrics": [made_up(FIRST_SEED + n) for n in range(options.kpis)]}
    if options.kpi is not None:
        sources[str(options.kpi)] = read_kpis(options.kpi)
    for name, metrics in sources.items():
        table, areas = precision_table(name, metrics)
        console.print(table)
        own, peer = areas["ours"], areas["|difference|"]
        yield Figure(f"{name}: average precision", own, "", peer, "|difference|", goal=0.240 / 0.205)
