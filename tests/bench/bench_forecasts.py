"""How good the forecasts of views are, by age class, on recorded and on emulated curves.

`make bench ARGS=forecasts` plays each set of curves in the order of time: at each sample the views 24 hours
and 7 days later are forecast, and the outcome is learnt when the count that tells it is taken. What it is
compared with is refitted once a day on the same outcomes. Only forecasts after a warm-up are scored, and only
age classes with enough of them.

- *daily*: recorded charts of 13 days, about 20,000 videos, one count a day while a video is on a chart. Most
  young videos have one count only, so no velocity.
- *3-hourly*: a mixed world of the emulator, whose recorded points it joins as the emulator itself does. Its
  videos are found in their first three hours or, one half, at some age up to ten days; then they are counted
  every 3 h on the first day, every 6 h in the first week, and daily for another.
- *charts of 2017*: recorded, 791 videos, one count a day for 15 days.

The recorded sets are read where PLEIADES_SHARED says, and left out where they are not. Szabo–Huberman is the
median log growth of the age class; damped velocity is velocity × 24 h × the median factor of the age class,
and Szabo–Huberman without a velocity. Boosting is scikit-learn's, if it is installed.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from maia.emulator.curves import Curves, SampleRows
from maia.emulator.mixed import Span, mixed_world
from maia.learning.calibration import average_precision, score, top_of_groups
from maia.learning.forecast_groups import CLASSES
from maia.learning.forecasts import DAY_H, HORIZONS_H, WEEK_H, Forecaster, Forecasts
from maia.learning.typical_curve import views_later
from maia.learning.velocity import (
    AGE_CLASS_EDGES_H,
    Booleans,
    Floats,
    Integers,
    Tracks,
    advance,
    age_class,
)
from maia.learning.video_snapshots import Snapshots, snapshots_of_tracks
from tests.bench.figures import Figure

CONFIGURATIONS_TRIED: Final = 101
"""Settings and variants of the forecaster that were compared before the defaults were fixed: on the daily set
and on emulated worlds of seeds 1 to 4, 100 and 102, three of the last also on the charts of 2017. World 101
was not used for that."""
LEAST: Final = 200
"""An age class with fewer scored forecasts than this has no row."""
_HOUR_S: Final = 3600.0
_WIDEST_H: Final = 30.0
_WARM_UP_H: Final = {DAY_H: 72.0, WEEK_H: 336.0}
"""A day or a week until the first outcome, and some time to learn."""
_PEERS: Final = ("damped velocity", "Szabo–Huberman")


@dataclass(frozen=True)
class Options:
    """How large the emulated worlds are, and how many."""

    videos: int = 8000
    days: int = 36
    seeds: int = 2


def add_options(parser: argparse.ArgumentParser) -> None:
    """The bench's own options."""
    group = parser.add_argument_group("forecasts")
    group.add_argument("--videos", type=int, default=Options.videos, help="videos of an emulated world")
    group.add_argument("--forecast-days", type=int, default=Options.days, help="its days")
    group.add_argument("--forecast-seeds", type=int, default=Options.seeds, help="emulated worlds")


def options_of(parsed: argparse.Namespace) -> Options:
    return Options(parsed.videos, parsed.forecast_days, parsed.forecast_seeds)


@dataclass(frozen=True, slots=True)
class Samples:
    """Counts of videos, ordered by video and time; `grows_from_s` is when the video was published."""

    video: Integers
    at_s: Floats
    grows_from_s: Floats
    views: Floats

    @classmethod
    def of(cls, video: Integers, at_s: Floats, grows_from_s: Floats, views: Floats) -> Samples:
        kept = at_s > grows_from_s
        order = np.lexsort((at_s[kept], video[kept]))
        at, starts, counts = (column[kept][order] for column in (at_s, grows_from_s, views))
        return cls(video[kept][order], at, starts, counts)


def daily_samples(folder: Path) -> Samples:
    """The daily charts, one sample for each video and run of captures."""
    samples = pd.read_csv(folder / "trending_daily_KR_JP_US_2025-11_samples.csv.gz")
    videos = pd.read_csv(folder / "trending_daily_KR_JP_US_2025-11_videos.csv.gz")
    rows = samples.merge(videos[["video_id", "published_at"]], on="video_id")
    rows["at"] = _seconds(rows.captured_at)
    rows = rows.sort_values(["video_id", "at"])
    rows = rows[rows.groupby("video_id")["at"].diff().fillna(np.inf) > 1.5 * _HOUR_S]
    codes = np.unique(rows.video_id.to_numpy(dtype=str), return_inverse=True)[1]
    return Samples.of(
        codes, rows["at"].to_numpy(float), _seconds(rows.published_at), rows.views.to_numpy(float)
    )


def kaggle_samples(folder: Path) -> Samples:
    """The charts of 2017; their captures have a date only, and count as of midnight."""
    rows = pd.read_csv(folder / "kaggle_USvideos_2017-11-14_28.csv.gz")
    rows["at"] = _seconds(pd.to_datetime(rows.trending_date, format="%y.%d.%m"))
    rows = rows.sort_values(["video_id", "at"]).drop_duplicates(["video_id", "at"])
    codes = np.unique(rows.video_id.to_numpy(dtype=str), return_inverse=True)[1]
    return Samples.of(
        codes, rows["at"].to_numpy(float), _seconds(rows.publish_time), rows.views.to_numpy(float)
    )


def _seconds(texts: Any) -> Floats:
    instants = pd.to_datetime(texts, utc=True).dt.as_unit("ns").astype("int64").to_numpy()
    return np.asarray(instants / 1e9, dtype=np.float64)


def emulated_samples(options: Options, seed: int) -> Samples:
    """A mixed world; half of its own videos are counted from their first three hours on, half from later."""
    begin = 1_790_000_000
    span = Span(begin, begin + options.days * 86_400)
    world = mixed_world(
        videos=options.videos, channels=options.videos // 4, span=span, seed=seed, premieres=None
    )
    videos, parts = [], []
    for block, _, rows in world.blocks:
        videos += block
        parts.append(rows)
    rows = SampleRows(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    starts = np.array([video.actual_start_at or video.published_at for video in videos])
    random = np.random.default_rng([seed, 0xF0CA])
    ages_h = np.concatenate((np.arange(0, 24, 3), np.arange(24, 168, 6), np.arange(168, 360, 24)))
    drawn = random.uniform(0, 3, (len(videos), 1)) + random.uniform(-0.45, 0.45, (len(videos), len(ages_h)))
    at = np.round(starts[:, None] + (np.maximum(ages_h + drawn, 0.1)) * _HOUR_S)
    late = random.random(len(videos)) < 0.5
    found_h = np.where(late, np.exp(random.uniform(np.log(3), np.log(240), len(videos))), 0.0)
    number = np.broadcast_to(np.arange(len(videos))[:, None], at.shape)
    kept = (at < span.end) & (starts[:, None] >= begin) & (ages_h >= found_h[:, None])
    views = Curves(starts.tolist(), rows).column_at("views", number[kept], at[kept])
    return Samples.of(number[kept], at[kept], starts[number[kept]].astype(float), views.astype(float))


@dataclass(frozen=True, slots=True)
class Situations:
    """One row for each sample: what was known then, what came, and when that became known (NaN if never)."""

    video: Integers
    at_s: Floats
    snapshots: Snapshots
    two_samples: Snapshots
    """What is known from the last two samples alone."""
    later: dict[float, Floats]
    due_s: dict[float, Floats]

    def in_time_order(self) -> Situations:
        order = np.argsort(self.at_s, kind="stable")
        return Situations(
            self.video[order],
            self.at_s[order],
            self.snapshots[order],
            self.two_samples[order],
            {horizon_h: views[order] for horizon_h, views in self.later.items()},
            {horizon_h: due[order] for horizon_h, due in self.due_s.items()},
        )


def situations_of(samples: Samples) -> Situations:
    """Follow each video's samples as the tracker does."""
    first = np.flatnonzero(np.diff(samples.video, prepend=-1))
    rank = np.arange(len(samples.video)) - np.repeat(first, np.diff(np.append(first, len(samples.video))))
    columns = [np.empty(len(rank)) for _ in range(6)]
    owner = np.cumsum(rank == 0) - 1
    tracks = Tracks(*(unknown.copy() for unknown in _columns(Tracks.new(len(first)))))
    for turn in range(int(rank.max()) + 1):
        rows = np.flatnonzero(rank == turn)
        now = advance(_rows_of(tracks, owner[rows]), samples.at_s[rows], samples.views[rows]).tracks
        for kept, every, new in zip(columns, _columns(tracks), _columns(now), strict=True):
            kept[rows] = new
            every[owner[rows]] = new
    has_two, before = rank > 0, np.maximum(np.arange(len(rank)) - 1, 0)
    pair = advance(
        Tracks.new(len(rank)), samples.at_s[before], np.where(has_two, samples.views[before], np.nan)
    )
    pair = advance(pair.tracks, samples.at_s, samples.views)
    outcomes = {horizon_h: _outcomes(samples, horizon_h) for horizon_h in HORIZONS_H}
    return Situations(
        samples.video,
        samples.at_s,
        snapshots_of_tracks(Tracks(*columns), samples.grows_from_s),
        snapshots_of_tracks(pair.tracks, samples.grows_from_s),
        {horizon_h: later for horizon_h, (later, _) in outcomes.items()},
        {horizon_h: due for horizon_h, (_, due) in outcomes.items()},
    ).in_time_order()


def _columns(tracks: Tracks) -> tuple[Floats, ...]:
    return tracks.at_s, tracks.views, tracks.velocity, tracks.acceleration, tracks.weight, tracks.doubted


def _rows_of(tracks: Tracks, rows: Integers) -> Tracks:
    return Tracks(*(column[rows] for column in _columns(tracks)))


def _outcomes(samples: Samples, horizon_h: float) -> tuple[Floats, Floats]:
    """Views at the horizon, and when the count was taken that tells them."""
    span = 1e10
    keys = samples.video * span + (samples.at_s - samples.at_s.min())
    wanted = keys + horizon_h * _HOUR_S
    after = np.searchsorted(keys, wanted)
    before = after - 1
    beyond = (after == len(keys)) | (samples.video[np.minimum(after, len(keys) - 1)] != samples.video)
    later = np.minimum(after, len(keys) - 1)
    age = (samples.at_s - samples.grows_from_s) / _HOUR_S

    def of_later(column: Floats) -> Floats:
        return np.where(beyond, np.nan, column[later])

    views = views_later(
        age + horizon_h, age[before], samples.views[before], of_later(age), of_later(samples.views),
        widest_h=_WIDEST_H,
    )  # fmt: skip
    due = np.where(beyond, samples.at_s[before], samples.at_s[later])
    return views, np.where(np.isnan(views), np.nan, np.maximum(due, samples.at_s + horizon_h * _HOUR_S))


def turns(at_s: Floats, due_s: Floats) -> Iterator[tuple[Integers, Integers]]:
    """Hour by hour, the rows whose outcome has become known, and the rows to forecast then."""
    hours = at_s // _HOUR_S
    by_due = np.argsort(due_s, kind="stable")
    known = int(np.isfinite(due_s).sum())
    starts = np.flatnonzero(np.diff(hours, prepend=-1))
    learnt = 0
    for start, end in zip(starts, [*starts[1:], len(at_s)], strict=True):
        until = min(int(np.searchsorted(due_s[by_due[:known]], at_s[start])), known)
        yield by_due[learnt:until], np.arange(start, end)
        learnt = until


@dataclass(frozen=True, slots=True)
class Played:
    """Forecasts of every row, made before their outcomes were known, and the chance from two samples."""

    forecasts: Forecasts
    from_two: Floats
    seconds: float
    forecaster: Forecaster


def play(situations: Situations, horizon_h: float) -> Played:
    """Forecast and learn in the order of time."""
    forecaster, made = Forecaster(), Forecasts.unknown(len(situations.at_s))
    from_two, later = np.full(len(situations.at_s), np.nan), situations.later[horizon_h]
    began = time.perf_counter()
    for due, now in turns(situations.at_s, situations.due_s[horizon_h]):
        if len(due):
            forecaster.learn(situations.snapshots[due], later[due], horizon_h, made.median[due])
        new = forecaster.forecast(situations.snapshots[now], horizon_h)
        made.median[now], made.low[now], made.high[now] = new.median, new.low, new.high
        made.top_chance[now] = new.top_chance
        from_two[now] = forecaster.forecast(situations.two_samples[now], horizon_h).top_chance
    return Played(made, from_two, time.perf_counter() - began, forecaster)


Fitter = Callable[[Snapshots, Floats, float], Callable[[Snapshots], Floats]]


def play_refitted(situations: Situations, horizon_h: float, fit: Fitter) -> Floats:
    """The views that a model forecasts which is fitted once a day to the outcomes known by then."""
    made, later = np.full(len(situations.at_s), np.nan), situations.later[horizon_h]
    known: list[Integers] = []
    model: Callable[[Snapshots], Floats] | None = None
    fitted_on = -1.0
    for due, now in turns(situations.at_s, situations.due_s[horizon_h]):
        known.append(due)
        day = situations.at_s[now[0]] // 86_400
        if day != fitted_on and (rows := np.concatenate(known)).size:
            model, fitted_on = fit(situations.snapshots[rows], later[rows], horizon_h), day
        if model is not None:
            made[now] = model(situations.snapshots[now])
    return made


def szabo_huberman(snapshots: Snapshots, later: Floats, _: float) -> Callable[[Snapshots], Floats]:
    """Szabo and Huberman (2010): log views grow by a constant, here the median of the age class."""
    growth = _medians(age_class(snapshots.age_h), np.log1p(later) - np.log1p(snapshots.views))
    return lambda new: np.expm1(np.log1p(new.views) + growth[age_class(new.age_h)])


def damped_velocity(snapshots: Snapshots, later: Floats, horizon_h: float) -> Callable[[Snapshots], Floats]:
    """Velocity × horizon × the median factor of the age class; Szabo–Huberman without a velocity."""
    moving = snapshots.velocity > 0
    factor = (later - snapshots.views)[moving] / (snapshots.velocity[moving] * horizon_h)
    damping = _medians(age_class(snapshots.age_h[moving]), factor)
    otherwise = szabo_huberman(snapshots, later, horizon_h)

    def forecast(new: Snapshots) -> Floats:
        gained = damping[age_class(new.age_h)] * np.maximum(new.velocity, 0.0) * horizon_h
        return np.where(np.isnan(gained), otherwise(new), new.views + gained)

    return forecast


def boosting(snapshots: Snapshots, later: Floats, _: float) -> Callable[[Snapshots], Floats]:
    """Gradient boosting of log(1 + views gained), with the loss of the median, on the same knowledge."""
    ensemble = import_module("sklearn.ensemble")
    model = ensemble.HistGradientBoostingRegressor(loss="absolute_error", max_iter=200, random_state=0)
    model.fit(_table(snapshots), np.log1p(np.maximum(later - snapshots.views, 0.0)))
    return lambda new: new.views + np.expm1(np.maximum(model.predict(_table(new)), 0.0))


def _table(snapshots: Snapshots) -> Floats:
    week = 2 * np.pi * snapshots.hour_of_week / 168
    life = snapshots.views / np.maximum(snapshots.age_h, 0.25)
    columns = (
        np.log1p(snapshots.views), np.log1p(snapshots.age_h), np.log1p(np.maximum(snapshots.velocity, 0)),
        np.log1p(life), snapshots.acceleration / (np.abs(snapshots.velocity) + 1), snapshots.weight,
        np.sin(week), np.cos(week), np.sin(7 * week), np.cos(7 * week),
    )  # fmt: skip
    # A column that is NaN throughout can't be binned.
    return np.asarray(np.nan_to_num(np.column_stack(columns), nan=-9.0), dtype=np.float64)


def _medians(classes: Integers, values: Floats) -> Floats:
    """The median of each age class; of all of them for one without a value."""
    medians = np.full(CLASSES, np.median(values) if len(values) else np.nan)
    for number in np.unique(classes):
        medians[number] = np.median(values[classes == number])
    return medians


def class_name(number: int) -> str:
    """An age class in words, such as 6–12 h."""
    edges = [0.0, *AGE_CLASS_EDGES_H, np.inf]
    low, high = edges[number], edges[number + 1]
    if high <= 48:
        return f"{low:g}–{high:g} h"
    return f"over {low / 24:g} d" if np.isinf(high) else f"{low / 24:g}–{high / 24:g} d"


@dataclass(frozen=True, slots=True)
class Results:
    """A set of curves with everybody's forecasts for one horizon; `scored` are the rows that count."""

    name: str
    horizon_h: float
    situations: Situations
    played: Played
    peers: dict[str, Floats]
    scored: Booleans

    def error(self, views: Floats, rows: Booleans) -> float:
        actual = self.situations.later[self.horizon_h]
        return float(np.median(np.abs(np.log1p(views[rows]) - np.log1p(actual[rows]))))

    def figures(self) -> Iterator[Figure]:
        ages = self.situations.snapshots.age_h
        classes = age_class(ages)
        title = f"{self.name}, +{self.horizon_h / 24:g} d"
        bands = [("under 6 h", ages < 6), ("6–24 h", (ages >= 6) & (ages < 24)), ("from 24 h on", ages >= 24)]
        for name, member in bands:
            if (rows := self.scored & member).sum() >= LEAST:
                yield self._error_figure(f"{title}: error {name}", rows, 0.9 if "from" not in name else 1.0)
        for number in range(CLASSES):
            if (rows := self.scored & (classes == number)).sum() >= LEAST:
                yield from self._class_figures(f"{title}, {class_name(number)}", rows, number)

    def _error_figure(self, what: str, rows: Booleans, goal: float | None) -> Figure:
        ours, peer = self.error(self.played.forecasts.median, rows), self.error(self.peers[_PEERS[0]], rows)
        others = [
            f"{name} {self.error(views, rows):.4f}" for name, views in self.peers.items() if name != _PEERS[0]
        ]
        note = f"{int(rows.sum()):,} forecasts; {'; '.join(others)}"
        return Figure(what, ours, "", peer, _PEERS[0], goal, at_most=True, note=note)

    def _class_figures(self, title: str, rows: Booleans, number: int) -> Iterator[Figure]:
        made, actual = self.played.forecasts[rows], self.situations.later[self.horizon_h][rows]
        got = score(made.median, made.low, made.high, actual)
        yield self._error_figure(f"{title}: error", rows, None)
        off = abs(got.coverage - 0.8)
        note = (
            f"coverage {got.coverage:.3f} ({got.coverage_low:.3f} to {got.coverage_high:.3f}), log width "
            f"{got.width:.3f}, interval score {got.interval_score:.3f}"
        )
        yield Figure(f"{title}: coverage's distance from .80", off, "", goal=0.02, at_most=True, note=note)
        if (ranked := self.ranking(number)) is not None:
            ours, by_velocity, precision, cohort = ranked
            yield Figure(
                f"{title}: average precision of the top 5 % from two samples", ours, "", goal=0.75,
                note=f"by velocity {by_velocity:.3f}; precision at 5 % {precision:.3f}; {cohort:,} videos",
            )  # fmt: skip

    def ranking(self, number: int) -> tuple[float, float, float, int] | None:
        """How well the videos of an age class that gain most are found from two samples, each video once."""
        two = self.situations.two_samples
        rows = np.flatnonzero(
            self.scored & (age_class(two.age_h) == number) & np.isfinite(two.velocity + self.played.from_two)
        )
        rows = rows[np.unique(self.situations.video[rows], return_index=True)[1]]
        if len(rows) < LEAST:
            return None
        gained = self.situations.later[self.horizon_h][rows] - self.situations.snapshots.views[rows]
        top = top_of_groups(np.zeros(len(rows), np.int64), gained)
        ranking = self.played.from_two[rows]
        flagged = np.argsort(-ranking, kind="stable")[: int(top.sum())]
        by_velocity = average_precision(top, two.velocity[rows])
        return average_precision(top, ranking), by_velocity, float(top[flagged].mean()), len(rows)


def results_of(name: str, samples: Samples, horizon_h: float) -> Results:
    situations = situations_of(samples)
    fitters = dict(zip(_PEERS, (damped_velocity, szabo_huberman), strict=True))
    if find_spec("sklearn"):
        fitters["boosting"] = boosting
    peers = {peer: play_refitted(situations, horizon_h, fit) for peer, fit in fitters.items()}
    played = play(situations, horizon_h)
    known = np.isfinite(situations.later[horizon_h]) & np.isfinite(played.forecasts.median)
    for views in peers.values():
        known &= np.isfinite(views)
    scored = known & (situations.at_s >= situations.at_s.min() + _WARM_UP_H[horizon_h] * _HOUR_S)
    return Results(name, horizon_h, situations, played, peers, scored)


def rates(results: Results) -> Iterator[Figure]:
    """How fast it forecasts and learns, and how large its state is, on the last 10,000 rows."""
    rows = np.flatnonzero(np.isfinite(results.situations.later[results.horizon_h]))[-10_000:]
    snapshots, later = results.situations.snapshots[rows], results.situations.later[results.horizon_h][rows]
    forecaster = Forecaster.from_state(state := results.played.forecaster.state())

    def rate(job: Callable[[], object]) -> float:
        best = np.inf
        for _ in range(5):
            began = time.perf_counter()
            job()
            best = min(best, time.perf_counter() - began)
        return len(rows) / best

    yield Figure("forecasts", rate(lambda: forecaster.forecast(snapshots, results.horizon_h)), "videos/s")
    learning = rate(lambda: forecaster.learn(snapshots, later, results.horizon_h))
    yield Figure("learning", learning, "outcomes/s", goal=20_000)
    yield Figure("state, learnt one horizon", float(len(state)), "bytes")
    yield Figure("configurations tried", CONFIGURATIONS_TRIED, "")


def print_table(results: Results) -> None:
    """One row for each age class, to standard error."""
    table = Table(
        *("age", "forecasts", "error", *results.peers, "coverage", "width", "top 5 %", "by velocity"),
        title=f"{results.name}, +{results.horizon_h / 24:g} d", box=SIMPLE_HEAD,
    )  # fmt: skip
    classes = age_class(results.situations.snapshots.age_h)
    for number in range(CLASSES):
        rows = results.scored & (classes == number)
        if rows.sum() < LEAST:
            continue
        made = results.played.forecasts[rows]
        got = score(made.median, made.low, made.high, results.situations.later[results.horizon_h][rows])
        ranked = results.ranking(number)
        peers = [f"{results.error(views, rows):.4f}" for views in results.peers.values()]
        table.add_row(
            class_name(number), f"{rows.sum():,}", f"{got.error:.4f}", *peers, f"{got.coverage:.3f}",
            f"{got.width:.3f}", *(("", "") if ranked is None else (f"{ranked[0]:.3f}", f"{ranked[1]:.3f}")),
        )  # fmt: skip
    Console(stderr=True, width=130).print(table)


def sets(options: Options) -> Iterator[tuple[str, Samples, Sequence[float]]]:
    """The sets of curves that there are, and for which horizons each tells enough."""
    shared = Path(os.environ.get("PLEIADES_SHARED", Path(__file__).resolve().parents[3] / "shared"))
    folder = shared / "data" / "youtube"
    if folder.is_dir():
        yield "daily", daily_samples(folder), (DAY_H,)
        yield "charts of 2017", kaggle_samples(folder), (DAY_H,)
    else:
        Console(stderr=True).print(f"No recorded data at {folder}: set PLEIADES_SHARED to what holds data/.")
    for seed in range(100, 100 + options.seeds):
        yield f"3-hourly, world {seed}", emulated_samples(options, seed), HORIZONS_H


async def figures(options: Options) -> AsyncIterator[Figure]:
    results = None
    for name, samples, horizons_h in sets(options):
        for horizon_h in horizons_h:
            results = results_of(name, samples, horizon_h)
            print_table(results)
            for figure in results.figures():
                yield figure
    if results is not None:
        for figure in rates(results):
            yield figure
