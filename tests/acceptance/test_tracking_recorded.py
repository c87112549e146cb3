"""Recorded counts go through the tracker at their recorded instants; what is stored is what pandas makes of
the CSV."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from atlas.adapters.maia import MaiaDAO
from atlas.adapters.tracking import Target
from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.config import TrackerSettings
from atlas.testing import SettingsFactory
from maia.emulator import Emulator, Project
from maia.emulator.catalogue import Catalogue, CatalogueChannel, CatalogueVideo, new_catalogue
from maia.emulator.curves import HIDDEN, Sample
from maia.tracker.measuring import Cohorts, Counts, Meter, Reading
from tests.acceptance.tracking import (
    DAY,
    HOUR,
    assert_nothing_is_strange,
    enrol,
    recorded,
    tracker_of,
)

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(600)]

MUSIC = "music_videos_10to30min_2023.csv.gz"
HOURLY = "trending_hourly_KR_2025-02.csv.gz"
ALWAYS_DUE: dict[str, Any] = {
    "hot_interval_h": 0.001, "warm_interval_h": 0.001, "cold_interval_h": 0.001, "slowest": 1, "fastest": 1,
    "retention_days": 1096,
}  # fmt: skip
"""The recorded instants are nearer together than the zones' intervals."""
ROUNDS_IN_CYCLE = 200
PREMIERED = 2
Floats = npt.NDArray[np.float64]


def read(path: Path, instant: str) -> pd.DataFrame:
    """The samples in order of time: video, at, views, likes, comments; NaN is what is hidden."""
    rows = pd.read_csv(path)
    rows["at"] = pd.to_datetime(rows[instant], utc=True)
    for counter in ("likes", "comments"):
        if counter not in rows:
            rows[counter] = np.nan
    return rows.sort_values(["at", "video_id"])[["video_id", "at", "views", "likes", "comments"]]


def hide(samples: pd.DataFrame, share: float) -> pd.DataFrame:
    """The same with the views of some samples hidden."""
    hidden = np.random.default_rng(5).random(len(samples)) < share
    return samples.assign(views=samples["views"].astype(float).mask(hidden))


# The independent computation


def by_pandas(samples: pd.DataFrame, epoch: datetime) -> pd.DataFrame:
    """Every known count with its velocity: the gain since the last known one of the same method, an hour."""
    known = samples.dropna(subset="views").sort_values(["video_id", "at"])
    series = known.groupby(["video_id", known["at"] >= epoch])
    known["hours"] = series["at"].diff().dt.total_seconds() / 3600
    known["velocity"] = series["views"].diff() / known["hours"]
    known["smoothed"], known["size"] = np.nan, np.nan
    for rows in series.groups.values():
        chosen = known.loc[rows]
        known.loc[rows, ["smoothed", "size"]] = smoothed(chosen["at"], chosen["velocity"].to_numpy())
    before = series["smoothed"].shift()
    known["acceleration"] = (known["smoothed"] - before) / known["hours"]
    known["acceleration_size"] = (known["size"] + series["size"].shift()) / known["hours"]
    return known


def smoothed(at: pd.Series, velocity: Floats, half_life_h: float = 6.0) -> Floats:
    """By definition: the mean of the steps' velocities, each weighted by how much of the kernel lies on its
    step; and the same of their sizes, as a measure of what rounding may do."""
    age_h = (at - at.iloc[0]).dt.total_seconds().to_numpy() / 3600
    means = np.full((len(age_h), 2), np.nan)
    for now in range(1, len(age_h)):
        # What is 60 half-lives old weighs less than a double can tell from nothing.
        first = max(1, int(np.searchsorted(age_h, age_h[now] - 60 * half_life_h)))
        ends = np.exp2((age_h[first - 1 : now + 1] - age_h[now]) / half_life_h)
        weights, values = np.diff(ends), velocity[first : now + 1]
        means[now] = weights @ values / weights.sum(), weights @ np.abs(values) / weights.sum()
    return means


def assert_equal(stored: pd.Series, expected: pd.Series, size: pd.Series | None = None) -> None:
    """The same unknown ones, and the known ones equal to 1e-9 of their size."""
    stored, expected = stored.astype(float), expected.astype(float)
    assert (stored.isna() == expected.isna()).all(), stored[stored.isna() != expected.isna()]
    apart = (stored - expected).abs() / (expected.abs() if size is None else size)
    apart = apart.where(stored != expected, 0.0)
    assert not (apart > 1e-9).any(), apart[apart > 1e-9]


# What is stored


async def logged(sql: Any) -> pd.DataFrame:
    columns = ["video_id", "at", "views", "likes", "comments", "velocity", "methodology"]
    rows = await sql.fetch(
        "SELECT video_id, sampled_at, views, likes, comments, velocity, methodology FROM video_stats_log"
    )
    frame = pd.DataFrame([tuple(row) for row in rows], columns=columns)
    frame["at"] = pd.to_datetime(frame["at"], utc=True)
    return frame.set_index(["video_id", "at"]).sort_index()


States = dict[tuple[str, pd.Timestamp], tuple[float | None, float | None]]
"""Smoothed velocity and acceleration of a video's clock after its known count of an instant."""


async def note_states(sql: Any, states: States) -> None:
    rows = await sql.fetch(
        "SELECT video_id, last_at, velocity, acceleration FROM video_clock"
        " WHERE samples > 0 AND last_at IS NOT NULL"
    )
    states.update({(row[0], pd.Timestamp(row[1])): (row[2], row[3]) for row in rows})


def assert_stored(log: pd.DataFrame, states: States, samples: pd.DataFrame, epoch: datetime) -> None:
    """The log and the clock are what pandas computes of the samples."""
    expected = by_pandas(samples, epoch).set_index(["video_id", "at"])
    everything = samples.set_index(["video_id", "at"])
    assert log.index.is_unique
    assert len(log) == len(everything)
    for counter in ("views", "likes", "comments"):
        assert_equal(log[counter].reindex(everything.index), everything[counter])
    hidden = everything.index[everything["views"].isna()]
    assert log.loc[hidden, "velocity"].isna().all()
    assert_equal(log["velocity"].reindex(expected.index), expected["velocity"])
    instants = log.index.get_level_values("at")
    assert (log["methodology"] == np.where(instants < epoch, 1, 2)).all()

    found = pd.DataFrame.from_dict(states, orient="index", columns=["smoothed", "acceleration"])
    found.index = pd.MultiIndex.from_tuples(found.index, names=["video_id", "at"])
    # A clock is not written before its first sample; if ingestion stored a count, that sample is the second.
    later = expected[expected.groupby("video_id").cumcount() > 0]
    assert_equal(found["smoothed"].reindex(later.index), later["smoothed"], later["size"])
    assert_equal(
        found["acceleration"].reindex(later.index), later["acceleration"], later["acceleration_size"]
    )


# The music set, by the tracker's measuring and storage


def told(row: Any, published_at: datetime) -> Any:
    """A video as the API tells it when it is found."""
    return SimpleNamespace(
        id=row.video_id, channel_id=f"UC{row.video_id[:2]}", channel_title="Music", title=row.video_id,
        description="", published_at=published_at, category_id=10, tags=("music",), duration_s=200,
        live_broadcast_content="none", default_language="ja", etag=None, view_count=count(row.views),
        like_count=count(row.likes), comment_count=count(row.comments), scheduled_start_at=None,
        actual_start_at=None, actual_end_at=None,
    )  # fmt: skip


def count(value: float) -> int | None:
    return None if np.isnan(value) else int(value)


class Replay:
    """Takes recorded samples through claims, measuring and storage, each at its instant."""

    def __init__(self, atlas: Atlas, clock: FixedClock, sql: Any) -> None:
        self.clock, self.sql = clock, sql
        self.dao = MaiaDAO(atlas.db, clock=clock, settings=atlas.settings)
        self.settings = atlas.settings.tracker
        self.states: States = {}

    async def begin(self, firsts: pd.DataFrame, published: dict[str, datetime]) -> None:
        for row in firsts.itertuples():
            self.clock.instant = row.at.to_pydatetime()
            await self.dao.ingest_video_metadata(told(row, published[row.video_id]))

    async def cycle(self, rounds: Sequence[pd.DataFrame]) -> None:
        """Some rounds of a sample a video, with the cohorts as they stand and what they add to them."""
        days = sorted({at.date() for samples in rounds for at in samples["at"]})
        meter = Meter(self.settings, Cohorts(await self.dao.cohorts(days)))
        for samples in rounds:
            await self.take(meter, samples)
        await self.dao.merge_cohorts(meter.cohorts.take_added(), Cohorts.merge)

    async def take(self, meter: Meter, samples: pd.DataFrame) -> None:
        rows = {row.video_id: row for row in samples.itertuples()}
        self.clock.instant = samples["at"].max().to_pydatetime()
        targets = await self.dao.claim_videos([*rows])
        assert {target.id for target in targets} == rows.keys()
        self.note(targets)
        readings = [reading(target, rows[target.id]) for target in targets]
        norms = await self.dao.channel_norms(meter.norm_keys(readings))
        measured = meter.measure(readings, norms)
        stored = await self.dao.update_video_stats_batch(measured.updates)
        assert (stored.samples, stored.lost) == (len(rows) - len(measured.not_later), ())

    def note(self, targets: Iterable[Target]) -> None:
        """A claim returns the clock as the last sample left it."""
        for target in targets:
            if target.samples and target.last_at is not None:
                state = target.velocity, target.acceleration
                self.states[target.id, pd.Timestamp(target.last_at)] = state


def reading(target: Target, row: Any) -> Reading:
    counts = Counts(count(row.views), count(row.likes), count(row.comments))
    return Reading(target, row.at.to_pydatetime(), counts)


async def test_music_sampled_every_ten_to_thirty_minutes_is_measured_exactly(
    settings_factory: SettingsFactory, clock: FixedClock, sql: Any
) -> None:
    [path] = recorded(MUSIC)
    samples = read(path, "captured_at")
    assert (samples.sort_values(["video_id", "at"]).groupby("video_id")["views"].diff() < 0).sum() > 100
    nth = samples.groupby("video_id").cumcount()
    firsts = samples[nth == 0].sort_values("views")
    published = {row.video_id: row.at.to_pydatetime() - DAY for row in firsts.itertuples()}
    # Two were counted from before their premiere.
    for row in firsts.head(PREMIERED).itertuples():
        published[row.video_id] = row.at.to_pydatetime() + 6 * HOUR
    rounds = [group for _, group in samples[nth > 0].groupby(nth)]

    settings = settings_factory(tracker=ALWAYS_DUE)
    async with Atlas.open(settings, clock=clock) as atlas:
        replay = Replay(atlas, clock, sql)
        await replay.begin(firsts, published)
        for begin in range(0, len(rounds), ROUNDS_IN_CYCLE):
            await replay.cycle(rounds[begin : begin + ROUNDS_IN_CYCLE])
        await note_states(sql, replay.states)
        log = await logged(sql)
        assert_stored(log, replay.states, samples, TrackerSettings().methodology_epoch)
        await assert_nothing_is_strange(sql)
        await assert_an_instant_counts_once(replay, samples, log)


async def assert_an_instant_counts_once(replay: Replay, samples: pd.DataFrame, log: pd.DataFrame) -> None:
    """The last sample of each again, at its own instant, is no sample and no division by nothing."""
    await replay.sql.execute("UPDATE video_clock SET next_due_at = last_at")
    lasts = samples.groupby("video_id").tail(1)
    clocks = (
        "SELECT velocity, acceleration, weight, last_at, last_views, samples FROM video_clock ORDER BY 4, 1"
    )
    before = await replay.sql.fetch(clocks)
    await replay.cycle([lasts.assign(views=lasts["views"] + 1000)])
    assert await replay.sql.fetch(clocks) == before
    pd.testing.assert_frame_equal(await logged(replay.sql), log)


# The hourly set and a stretch of the music set, by whole cycles over HTTP


def catalogue_of(path: Path, samples: pd.DataFrame) -> Path:
    """A catalogue that counts as recorded; a video is published a day before its first sample."""
    firsts = samples.groupby("video_id")["at"].min().sort_values(kind="stable")
    with new_catalogue(path, {"made_by": "test"}) as writer:
        writer.add_channels([CatalogueChannel("UC" + "0" * 22, "Recorded")])
        for video_id, first in sorted(firsts.items(), key=lambda item: (item[1], item[0])):
            rows = samples[samples["video_id"] == video_id]
            born = int((first - DAY).timestamp())
            video = CatalogueVideo(video_id, "UC" + "0" * 22, video_id, born, category_id=24)
            writer.add(video, "Recorded", [sample(row) for row in rows.itertuples()])
    return path


def sample(row: Any) -> Sample:
    views = count(row.views)
    return Sample(
        int(row.at.timestamp()), HIDDEN if views is None else views, count(row.likes), count(row.comments)
    )


async def track_at(
    factory: SettingsFactory, catalogue: Catalogue, samples: pd.DataFrame, sql: Any, **tracker: Any
) -> tuple[pd.DataFrame, States, list[dict[str, Any]]]:
    """A cycle at each recorded instant and one more, each video from its first on; the log, the clocks and
    the verdicts."""
    clock, states, verdicts = (
        FixedClock(samples["at"].min().to_pydatetime()),
        States(),
        list[dict[str, Any]](),
    )
    firsts = samples.groupby("video_id")["at"].min()
    async with (
        Emulator.serve(catalogue, clock=clock, projects=[Project("lab")]) as emulator,
        tracker_of(factory, emulator.url, clock, tracker=ALWAYS_DUE | tracker) as opened,
    ):
        for at in [*sorted(samples["at"].unique()), samples["at"].max() + HOUR]:
            clock.instant = at.to_pydatetime()
            await enrol(opened, firsts.index[firsts == at])
            verdicts.append((await opened.cycle()).as_dict())
            await note_states(sql, states)
    return await logged(sql), states, verdicts


def seen(log: pd.DataFrame) -> pd.DataFrame:
    """The log as samples: between the recorded ones of a video the emulator counts on."""
    return log.reset_index()[["video_id", "at", "views", "likes", "comments"]]


@pytest.mark.parametrize(
    ("hidden", "epoch"),
    [(0.0, None), (0.1, datetime(2025, 2, 22, 21, tzinfo=UTC))],
    ids=["as recorded", "some hidden, across the methodology epoch"],
)
async def test_the_hourly_set_is_sampled_and_measured_exactly(
    settings_factory: SettingsFactory, tmp_path: Path, sql: Any, hidden: float, epoch: datetime | None
) -> None:
    [path] = recorded(HOURLY)
    samples = hide(read(path, "committed_at"), hidden)
    assert len(samples) == 3334
    with Catalogue.open(catalogue_of(tmp_path / "hourly", samples)) as catalogue:
        settings = {"methodology_epoch": epoch} if epoch else {}
        log, states, verdicts = await track_at(settings_factory, catalogue, samples, sql, **settings)
    assert {verdict["outcome"] for verdict in verdicts[1:]} == {"done"}
    assert sum(verdict["missing"] + sum(verdict["skipped"].values()) for verdict in verdicts) == 0
    instants = samples.set_index(["video_id", "at"]).index
    for counter in ("views", "likes", "comments"):
        assert_equal(log[counter].reindex(instants), samples.set_index(["video_id", "at"])[counter])
    assert_stored(log, states, seen(log), epoch or TrackerSettings().methodology_epoch)
    assert (log["views"].isna().sum() > 100) == (hidden > 0)
    crossed = log[log["methodology"].diff() == 1]
    assert (len(crossed) > 20) == (epoch is not None)
    assert crossed["velocity"].isna().all()
    await assert_nothing_is_strange(sql)


async def test_a_stretch_of_the_music_set_comes_over_http_as_it_was_recorded(
    settings_factory: SettingsFactory, tmp_path: Path, sql: Any
) -> None:
    [path] = recorded(MUSIC)
    samples = read(path, "captured_at")
    # The stretch of 200 samples in which views fall most often.
    falls = samples.assign(falls=samples.groupby("video_id")["views"].diff() < 0)
    often = falls.groupby("video_id")["falls"].transform(lambda fallen: fallen.rolling(200).sum())
    end = falls.loc[often.idxmax()]
    chosen = samples[(samples["video_id"] == end.video_id) & (samples["at"] <= end["at"])].tail(200)
    with Catalogue.open(catalogue_of(tmp_path / "music", chosen)) as catalogue:
        log, states, _ = await track_at(settings_factory, catalogue, chosen, sql)
    log = log[log.index.get_level_values("at") <= end["at"]]
    assert_stored(log, states, chosen, TrackerSettings().methodology_epoch)
    assert (log["velocity"] < 0).sum() == often.max() > 2
