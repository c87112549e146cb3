"""Synthesizes catalogues: plausible channels, uploads and view growth, from a seed.

Channel sizes are log-normal. Uploads follow the channel's local hour and weekday. The view rate decays as a
power of age with a daily swing, and one video in a hundred breaks out days after publication. Topics share
tags with their neighbours, so a search can reach every topic from any tag. A few counters are hidden, a few
videos are removed, and views fall in 0.4 % of the samples. Optionally, some videos are premieres, announced
hours or days before they go live.
"""

from __future__ import annotations

import base64
from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import accumulate
from math import exp, pi, sin
from pathlib import Path
from random import Random
from typing import Literal

from maia.emulator.catalogue import (
    CatalogueChannel,
    CatalogueError,
    CatalogueVideo,
    CatalogueWriter,
    new_catalogue,
)
from maia.emulator.curves import HIDDEN, Sample
from maia.emulator.mixed import Span, World, mixed_world
from maia.emulator.vocabulary import (
    CHANNEL_FORMS,
    COUNTRIES,
    LANGUAGE_WEIGHTS,
    PLACES,
    TAG_FORMS,
    THINGS,
    TITLE_FORMS,
    TOPICS,
    UTC_OFFSET_H,
    Language,
)

WorldKind = Literal["plain", "mixed"]

DEFAULT_START = datetime(2026, 10, 1, tzinfo=UTC)
_HOUR, _DAY = 3600, 86400
_UPLOADS_BY_HOUR = tuple(accumulate(1.05 + sin(2 * pi * (hour - 11) / 24) for hour in range(24)))
_UPLOADS_BY_WEEKDAY = (1.0, 0.95, 1.0, 1.05, 1.2, 1.15, 1.05)
_BREAKOUT_SHARE, _REMOVED_SHARE, _FALL_SHARE = 0.01, 0.007, 0.004
_HIDDEN_LIKES_SHARE, _HIDDEN_COMMENTS_SHARE = 0.03, 0.02


@dataclass(frozen=True, slots=True)
class _Source:
    """A channel, and the parameters from which its videos are drawn."""

    channel: CatalogueChannel
    language: Language
    topic: int
    tag_offset: int
    audience: float


def synthesize(
    path: Path,
    *,
    videos: int,
    channels: int,
    days: float,
    seed: int,
    start: datetime = DEFAULT_START,
    premieres: float | None = None,
    world: WorldKind = "plain",
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write a catalogue; the same arguments give the same catalogue.

    `premieres` is the share of videos that are premieres; by default none of a plain world, and a few of a
    mixed one. `progress` is called with the number of videos written so far.
    """
    if premieres is not None and not 0 <= premieres <= 1:
        raise CatalogueError(
            f"the share of premieres (--premieres) must be between 0 and 1, not {premieres:g}"
        )
    if videos < 1 or channels < 1 or days <= 0:
        raise CatalogueError(
            "a catalogue needs at least one video, one channel and some time (--days above 0)"
        )
    begin = int(start.timestamp())
    end = begin + int(days * _DAY)
    origin = {
        "made_by": "synthesize", "videos": videos, "channels": channels, "days": days, "seed": seed,
        "start": f"{start.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}", "premieres": premieres, "world": world,
    }  # fmt: skip
    report = progress or (lambda _: None)
    with new_catalogue(path, {name: value for name, value in origin.items() if value is not None}) as writer:
        if world == "mixed":
            drawn = mixed_world(
                videos=videos, channels=channels, span=Span(begin, end), seed=seed, premieres=premieres
            )
            _write_mixed(writer, drawn, report)
        else:
            _write_plain(writer, videos, channels, begin, end, seed, premieres or 0.0, report)


def _write_mixed(writer: CatalogueWriter, world: World, report: Callable[[int], None]) -> None:
    writer.add_channels(world.channels)
    for videos, titles, samples in world.blocks:
        for video, title in zip(videos, titles, strict=True):
            writer.add(video, title, ())
            if writer.videos % 500 == 0:
                report(writer.videos)
        writer.add_samples(samples)


def _write_plain(
    writer: CatalogueWriter,
    videos: int,
    channels: int,
    begin: int,
    end: int,
    seed: int,
    premieres: float,
    report: Callable[[int], None],
) -> None:
    random = Random(f"pleiades catalogue {seed}")  # noqa: S311  a seed must give the same catalogue
    # A generator of its own, so that the other videos are the same with and without premieres.
    announcements = Random(f"pleiades premieres {seed}")  # noqa: S311
    sources = [_source(random, begin) for _ in range(channels)]
    writer.add_channels(source.channel for source in sources)
    for published_at, video_id, number in _uploads(random, sources, videos, begin, end):
        source = sources[number]
        video = _video(random, source, video_id, published_at, end)
        samples = _samples(random, source, published_at, end)
        if announcements.random() < premieres:
            video, samples = _premiere(announcements, source, video, end)
        writer.add(video, source.channel.title, samples)
        if writer.videos % 500 == 0:
            report(writer.videos)


def _identifier(random: Random, size: int) -> str:
    return base64.urlsafe_b64encode(random.randbytes(size)).rstrip(b"=").decode()


def _source(random: Random, begin: int) -> _Source:
    language = random.choices(tuple(LANGUAGE_WEIGHTS), tuple(LANGUAGE_WEIGHTS.values()))[0]
    topic = random.randrange(len(TOPICS))
    name = TOPICS[topic].names[language]
    title = random.choice(CHANNEL_FORMS[language]).format(
        name=name,
        Name=name.title(),
        place=random.choice(PLACES),
        thing=random.choice(THINGS),
        n=random.randrange(2, 999),
    )
    subscribers = int(random.lognormvariate(9.0, 2.0)) + 1
    channel_id = "UC" + _identifier(random, 16)
    channel = CatalogueChannel(
        channel_id,
        title,
        f"{title}: {', '.join(TOPICS[topic].tags[:3])}.",
        begin - random.randrange(30 * _DAY, 4000 * _DAY),
        random.choice(COUNTRIES[language]),
        f"@{channel_id[2:12].lower()}",
        None if random.random() < 0.02 else subscribers,
    )
    return _Source(channel, language, topic, random.randrange(1 << 16), float(subscribers))


def _uploads(
    random: Random, sources: Sequence[_Source], videos: int, begin: int, end: int
) -> Iterator[tuple[int, str, int]]:
    """When each video is published, its id and the number of its channel, in order of publication."""
    diligence = list(accumulate(random.lognormvariate(0, 1.0) for _ in sources))
    owners = random.choices(range(len(sources)), cum_weights=diligence, k=videos)
    ids: set[str] = set()
    uploads = []
    for owner in owners:
        while (video_id := _identifier(random, 8)) in ids:
            pass
        ids.add(video_id)
        uploads.append((_upload_time(random, sources[owner].language, begin, end), video_id, owner))
    uploads.sort()
    return iter(uploads)


def _upload_time(random: Random, language: Language, begin: int, end: int) -> int:
    local_hour = bisect(_UPLOADS_BY_HOUR, random.random() * _UPLOADS_BY_HOUR[-1])
    hour = (local_hour - UTC_OFFSET_H[language]) % 24
    while True:
        day = random.randrange(begin // _DAY, end // _DAY + 1)
        instant = day * _DAY + hour * _HOUR + random.randrange(_HOUR)
        # 1970 began on a Thursday.
        if begin <= instant < end and random.random() * 1.2 < _UPLOADS_BY_WEEKDAY[(day + 3) % 7]:
            return instant
        if end - begin < _DAY:
            return random.randrange(begin, end)


def _tag(random: Random, source: _Source, topic_number: int) -> str:
    """A tag of a topic. A few tags are common; of the rest each channel prefers its own."""
    tags = TOPICS[topic_number % len(TOPICS)].tags
    rank = min(int(random.paretovariate(0.9)) - 1, len(tags) * len(TAG_FORMS) - 1)
    if rank >= len(tags):
        rank = len(tags) + (rank + source.tag_offset) % (len(tags) * (len(TAG_FORMS) - 1))
    return TAG_FORMS[rank // len(tags)].format(tags[rank % len(tags)])


def _video(random: Random, source: _Source, video_id: str, published_at: int, end: int) -> CatalogueVideo:
    topic = TOPICS[source.topic]
    name = topic.names[source.language]
    tags = [_tag(random, source, source.topic) for _ in range(random.randrange(3, 11))]
    if random.random() < 0.25:
        tags.append(_tag(random, source, source.topic + random.choice((-1, 1))))
    if random.random() < 0.04:
        tags.append(_tag(random, source, random.randrange(len(TOPICS))))
    if source.language != "en":
        tags.insert(0, name)
    if random.random() < 0.3:
        tags.append(source.channel.title.lower())
    title = random.choice(TITLE_FORMS[source.language]).format(
        name=name, Name=name[:1].upper() + name[1:], tag=tags[-1], n=random.randrange(2, 100)
    )
    removed = random.random() < _REMOVED_SHARE
    return CatalogueVideo(
        video_id,
        source.channel.id,
        title[:100],
        published_at,
        description=f"{title}\n\n{source.channel.title}: {', '.join(dict.fromkeys(tags[:4]))}.\nhttps://youtu.be/{video_id}",
        category_id=topic.category_id,
        tags=() if random.random() < 0.06 else tuple(dict.fromkeys(tags)),
        duration_s=min(int(random.lognormvariate(6.0, 1.1)) + 8, 12 * _HOUR),
        language=source.language,
        removed_at=random.randrange(published_at, end + 1) + 60 if removed else None,
    )


def _premiere(
    random: Random, source: _Source, video: CatalogueVideo, end: int
) -> tuple[CatalogueVideo, list[Sample]]:
    """Turn a video into a premiere announced hours or days ahead; it airs if its start is before `end`."""
    announced_s = min(random.lognormvariate(3.0, 1.0) * _HOUR, 14 * _DAY)
    scheduled_at = (video.published_at + int(announced_s)) // 900 * 900 + 900
    starts_at = scheduled_at + random.randrange(5, 90)
    aired = starts_at < end
    broadcast = replace(
        video,
        scheduled_start_at=scheduled_at,
        actual_start_at=starts_at if aired else None,
        actual_end_at=starts_at + (video.duration_s or 0) if aired else None,
    )
    samples = _samples(random, source, starts_at, end) if aired else [Sample(video.published_at, 0, 0, 0)]
    return broadcast, samples


def _sample_times(random: Random, published_at: int, end: int) -> Iterator[int]:
    """Irregular sample times, further and further apart, and finally `end`."""
    age = 0.5 * _HOUR
    while (at := published_at + int(age * (0.9 + 0.2 * random.random()))) < end:
        yield at
        age *= 1.9 if age < 4 * _HOUR else 1.35
    if end > published_at:
        yield end


def _samples(random: Random, source: _Source, published_at: int, end: int) -> list[Sample]:
    """Counters that follow V × (1 − (1 + age/τ)^−α) with a daily swing and, rarely, a late breakout."""
    ceiling = max(3.0, source.audience * random.lognormvariate(-1.6, 1.1))
    tau, alpha = random.lognormvariate(3.0, 0.6), random.uniform(0.5, 1.5)
    breakout = random.random() < _BREAKOUT_SHARE
    wave, wave_at, width = random.uniform(8, 150), random.uniform(12, 240), random.uniform(2, 20)
    like_share, comment_share = random.lognormvariate(-3.4, 0.5), random.lognormvariate(-6.0, 0.8)
    likes_hidden = random.random() < _HIDDEN_LIKES_SHARE
    comments_hidden = random.random() < _HIDDEN_COMMENTS_SHARE
    swing = -sin(2 * pi * (published_at % _DAY) / _DAY)
    samples: list[Sample] = []
    likes = comments = dropped = 0
    for at in _sample_times(random, published_at, end):
        age = (at - published_at) / _HOUR
        swung = max(0.0, age + 1.2 * (sin(2 * pi * (at % _DAY) / _DAY) + swing) * min(1.0, age / 24))
        grown = ceiling * (1 - (1 + swung / tau) ** -alpha)
        if breakout:
            grown += ceiling * wave / (1 + exp(max(-60.0, min(60.0, (wave_at - age) / width))))
        if samples and random.random() < _FALL_SHARE:
            dropped += int(grown * random.uniform(0.001, 0.01)) + 1
        views = max(0, int(grown) - dropped)
        likes = max(likes, int(grown * like_share * (1 + exp(-age / 12))))
        comments = max(comments, int(grown * comment_share))
        samples.append(
            Sample(at, views, HIDDEN if likes_hidden else likes, HIDDEN if comments_hidden else comments)
        )
    return samples
