"""Synthesizes mixed worlds, in which finding what grows early is as hard as it should be.

Most videos hardly move, and what moves is spread over channels that can be watched and channels that nobody
knew. Sizes and upload rates of channels are log-normal over orders of magnitude; a channel keeps its own
hours and weekdays, and has better and worse weeks. Topics share tags with their neighbours, some tags are
hotter than others, and events make a topic hot for a day or two under a tag of their own. Views decay as a
power of age. A *breakout* gets 20 to several hundred times the views its channel would expect: 1.5 % of the
videos, more often on a few lucky channels, mostly from its first hours on. A tenth of the videos are older
than the world and have had their growth. Shorts start slowly; premieres and streams grow once they are live.
One in a hundred is a copy of another channel's video, with the same title, tags and length.

These are assumptions, made to be varied. Everything is drawn in arrays, from the seed alone.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from maia.emulator.catalogue import CatalogueChannel, CatalogueVideo
from maia.emulator.curves import HIDDEN, SampleRows
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

if TYPE_CHECKING:
    import numpy.typing as npt

    Ints = npt.NDArray[np.int64]
    Reals = npt.NDArray[np.float64]
    Flags = npt.NDArray[np.bool_]

PREMIERES_SHARE, STREAMS_SHARE, SHORTS_SHARE, OLDER_SHARE = 0.01, 0.02, 0.25, 0.1
BREAKOUT_SHARE, COPIES_SHARE = 0.015, 0.01
_LUCKY_SHARE, _LUCK = 0.05, 6.0
_EARLY_BREAKOUTS = 0.7
_EVENTS_A_DAY = 2.0
_HOUR, _DAY = 3600, 86400
_BLOCK = 10_000
_AGES_H = np.array(
    [0.5, 1, 2, 3.5, 6, 9, 14, 20, 28, 42, 64, 96, 150, 240, 400, 700, 1200, 2200, 4000, 8000, 16000]
)
_WEEKDAYS = np.array([1.0, 0.95, 1.0, 1.05, 1.2, 1.15, 1.05]) / 1.2
_COMMON_TAGS = ("viral", "trending", "2026", "new video", "fyp", "explore", "shorts")
_BLOCKED = ("RU", "DE GB FR", "US", "KR JP", "CN IN PK")


class Span(NamedTuple):
    """The seconds since 1970 between which a world's own videos are published."""

    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class _Channels:
    """The channels, and per channel the parameters from which its videos are drawn."""

    listed: list[CatalogueChannel]
    languages: list[Language]
    topic: Ints
    tag_offset: Ints
    rate: Reals
    """Uploads relative to those of other channels."""
    hour: Reals
    hour_spread: Reals
    weekdays: Flags
    """Per channel and weekday, whether it uploads then."""
    log_views: Reals
    """What a video of the channel may expect at last."""
    log_spread: Reals
    swing: Reals
    """How much better the best weeks are, with their period and phase."""
    period_s: Reals
    phase: Reals
    breakout: Reals


@dataclass(frozen=True, slots=True)
class _Event:
    """A topic that is hot for a while, under a tag of its own."""

    tag: str
    topic: int
    begin: float
    end: float
    log_boost: float


@dataclass(frozen=True, slots=True)
class _Uploads:
    """The videos in order of publication; counters grow from `grows_from` on."""

    owner: Ints
    published: Ints
    grows_from: Ints
    live_s: Ints
    """How long a premiere or stream is live; 0 for other videos."""
    scheduled: Flags
    short: Flags
    topic: Ints
    event: Ints
    """The place of its event, or -1."""


class World(NamedTuple):
    """The channels of a mixed world, and its videos with their samples, block by block."""

    channels: Sequence[CatalogueChannel]
    blocks: Iterator[tuple[list[CatalogueVideo], list[str], SampleRows]]


def mixed_world(*, videos: int, channels: int, span: Span, seed: int, premieres: float | None) -> World:
    """Draw a mixed world. A block has videos, their channels' titles, and their samples."""
    random = np.random.default_rng([seed, 0x4D495845])
    sources = _channels(random, channels, span)
    events = _events(random, span)
    share = PREMIERES_SHARE if premieres is None else premieres
    uploads = _uploads(random, sources, events, videos, span, share)
    # A generator of its own, so that everything else is the same with and without copies.
    copying = np.random.default_rng([seed, 0x434F5059])
    blocks = _blocks(random, sources, events, uploads, span)
    return World(
        sources.listed,
        ((_with_copies(copying, videos), titles, samples) for videos, titles, samples in blocks),
    )


def _channels(random: np.random.Generator, count: int, span: Span) -> _Channels:
    names = tuple(LANGUAGE_WEIGHTS)
    weights = np.array(list(LANGUAGE_WEIGHTS.values()), np.float64)
    languages = [names[n] for n in random.choice(len(names), count, p=weights / weights.sum())]
    popularity = random.permutation(1 / np.arange(1, len(TOPICS) + 1) ** 0.5)
    topic = random.choice(len(TOPICS), count, p=popularity / popularity.sum())
    log_size = random.normal(9.0, 1.8, count)
    lucky = random.random(count) < _LUCKY_SHARE
    luck = np.where(lucky, _LUCK, 1.0)
    regular = random.random(count) < 0.4
    weekdays = np.where(regular[:, None], random.random((count, 7)) < 0.45, True)
    weekdays[np.arange(count), random.integers(0, 7, count)] = True
    offsets = np.array([UTC_OFFSET_H[language] for language in languages])
    titles = _channel_titles(random, languages, topic)
    return _Channels(
        _listed(random, titles, languages, topic, log_size, span),
        languages,
        topic,
        random.integers(0, 1 << 16, count),
        np.exp(random.normal(0.0, 1.2, count) + 0.1 * (log_size - 9.0)),
        (random.normal(17.5, 3.5, count) - offsets) % 24,
        np.where(regular, np.exp(random.normal(-1.0, 0.7, count)), random.uniform(2.0, 8.0, count)),
        weekdays,
        np.log(np.exp(log_size) + 60.0) + random.normal(-1.8, 0.9, count) + np.where(lucky, 0.3, 0.0),
        random.uniform(0.9, 1.9, count),
        np.abs(random.normal(0.0, 0.8, count)),
        random.uniform(5, 40, count) * _DAY,
        random.random(count),
        BREAKOUT_SHARE * luck / (1 + _LUCKY_SHARE * (_LUCK - 1)),
    )


def _channel_titles(random: np.random.Generator, languages: Sequence[Language], topic: Ints) -> list[str]:
    drawn = random.integers(0, 1 << 30, (len(languages), 4)).tolist()
    titles = []
    for language, number, (form, place, thing, n) in zip(languages, topic.tolist(), drawn, strict=True):
        name, forms = TOPICS[number].names[language], CHANNEL_FORMS[language]
        titles.append(
            forms[form % len(forms)].format(
                name=name,
                Name=name.title(),
                place=PLACES[place % len(PLACES)],
                thing=THINGS[thing % len(THINGS)],
                n=2 + n % 9997,
            )
        )
    return titles


def _listed(
    random: np.random.Generator,
    titles: Sequence[str],
    languages: Sequence[Language],
    topic: Ints,
    log_size: Reals,
    span: Span,
) -> list[CatalogueChannel]:
    count = len(titles)
    sizes = (np.exp(log_size) + 1).astype(np.int64).tolist()
    hidden = (random.random(count) < 0.02).tolist()
    opened = (span.begin - random.integers(500, 4000, count) * _DAY).tolist()
    places = random.integers(0, 1 << 30, count).tolist()
    listed = []
    for n, name in enumerate(_identifiers(random, count, 16)):
        countries, tags = COUNTRIES[languages[n]], TOPICS[int(topic[n])].tags
        listed.append(
            CatalogueChannel(
                f"UC{name}",
                titles[n],
                f"{titles[n]}: {', '.join(tags[:3])}.",
                opened[n],
                countries[places[n] % len(countries)],
                f"@{name[:10].lower()}",
                None if hidden[n] else sizes[n],
            )
        )
    return listed


def _identifiers(random: np.random.Generator, count: int, size: int) -> list[str]:
    """Distinct ids in the API's form, of `size` bytes each."""
    ids: dict[str, None] = {}
    while len(ids) < count:
        content = random.bytes(size * (count - len(ids)))
        for start in range(0, len(content), size):
            ids[base64.urlsafe_b64encode(content[start : start + size]).rstrip(b"=").decode()] = None
    return list(ids)


def _events(random: np.random.Generator, span: Span) -> list[_Event]:
    count = random.poisson(_EVENTS_A_DAY * (span.end - span.begin) / _DAY)
    begins = np.sort(random.uniform(span.begin - _DAY, span.end, count))
    return [
        _Event(
            f"{PLACES[random.integers(len(PLACES))]} {THINGS[random.integers(len(THINGS))]} {n}".lower(),
            int(random.integers(len(TOPICS))),
            begin,
            begin + random.uniform(0.5, 3.0) * _DAY,
            float(random.uniform(0.6, 2.0)),
        )
        for n, begin in enumerate(begins.tolist())
    ]


def _uploads(
    random: np.random.Generator,
    channels: _Channels,
    events: Sequence[_Event],
    count: int,
    span: Span,
    premieres: float,
) -> _Uploads:
    owner = random.choice(len(channels.rate), count, p=channels.rate / channels.rate.sum())
    published = _upload_times(random, channels, owner, span)
    older = random.random(count) < OLDER_SHARE
    ages = np.exp(random.uniform(np.log(0.5), np.log(400), count)) * _DAY
    published = np.where(older, span.begin - ages.astype(np.int64), published)
    order = np.lexsort((owner, published))
    owner, published, older = owner[order], published[order], older[order]
    kind = random.random(count)
    premiere = (kind < premieres) & ~older
    stream = (kind >= premieres) & (kind < premieres + STREAMS_SHARE) & ~older
    scheduled = premiere | (stream & (random.random(count) < 0.5))
    announced_s = np.minimum(np.exp(random.normal(3.0, 1.0, count)) * _HOUR, 14 * _DAY).astype(np.int64)
    starts = (published + announced_s) // 900 * 900 + 900 + random.integers(5, 90, count)
    short = (random.random(count) < SHORTS_SHARE) & ~premiere & ~stream
    length_s = np.minimum(np.exp(random.normal(6.2, 1.0, count)) + 8, 12 * _HOUR).astype(np.int64)
    stream_s = np.exp(random.normal(8.8, 0.6, count)).astype(np.int64)
    topic = _video_topics(random, channels.topic[owner])
    return _Uploads(
        owner,
        published,
        np.where(scheduled, starts, published),
        np.where(premiere, length_s, np.where(stream, stream_s, 0)),
        scheduled,
        short,
        topic,
        _joined_events(random, events, topic, published),
    )


def _upload_times(random: np.random.Generator, channels: _Channels, owner: Ints, span: Span) -> Ints:
    """When each video is published: at its channel's hours, on its weekdays, within the span."""
    times = random.integers(span.begin, span.end, len(owner))
    wrong = np.arange(len(owner))
    # Where the span has no weekday or hour of a channel's, the last of a few tries stands.
    for _ in range(12):
        of = owner[wrong]
        first_day, last_day = span.begin // _DAY, (span.end - 1) // _DAY
        days = random.integers(first_day, last_day + 1, len(of))
        hours = (channels.hour[of] + random.normal(0, 1, len(of)) * channels.hour_spread[of]) % 24
        drawn = days * _DAY + (hours * _HOUR).astype(np.int64)
        # 1970 began on a Thursday.
        weekday = (days + 3) % 7
        fits = channels.weekdays[of, weekday] & (random.random(len(of)) < _WEEKDAYS[weekday])
        inside = (drawn >= span.begin) & (drawn < span.end)
        times[wrong] = np.where(inside, drawn, times[wrong])
        wrong = wrong[~(fits & inside)]
        if not len(wrong):
            break
    return times


def _video_topics(random: np.random.Generator, own: Ints) -> Ints:
    """Mostly the channel's topic, now and then a neighbouring one or any."""
    chance = random.random(len(own))
    neighbour = own + random.choice((-1, 1), len(own))
    anything = random.integers(0, len(TOPICS), len(own))
    return np.where(chance < 0.85, own, np.where(chance < 0.95, neighbour, anything)) % len(TOPICS)


def _joined_events(
    random: np.random.Generator, events: Sequence[_Event], topic: Ints, published: Ints
) -> Ints:
    """Which event each video belongs to; a quarter of the topic's videos join one while it lasts."""
    joined = np.full(len(topic), -1)
    joins = random.random(len(topic)) < 0.25
    for place, event in enumerate(events):
        low, high = np.searchsorted(published, (event.begin, event.end))
        part = slice(low, high)
        joined[part][(topic[part] == event.topic) & joins[part]] = place
    return joined


def _vocabulary() -> list[list[str]]:
    """Each topic's tags, the commonest first."""
    forms = (
        *TAG_FORMS,
        *(f"{{}} {place.lower()}" for place in PLACES),
        *(f"{{}} {t.lower()}" for t in THINGS),
    )
    return [[form.format(tag) for form in forms for tag in topic.tags] for topic in TOPICS]


class _Tags:
    """The tags of videos, and how much the hotter ones among them add to the views."""

    def __init__(self, random: np.random.Generator, channels: _Channels) -> None:
        self._random, self._offsets = random, channels.tag_offset
        self._words = _vocabulary()
        self._each = len(self._words[0])
        self._heat = random.normal(0.0, 0.8, (len(self._words), self._each))

    def draw(self, uploads: _Uploads, block: slice) -> tuple[list[list[str]], Reals]:
        """The tags of a block of videos, and the logarithm of what they add."""
        random, topic = self._random, uploads.topic[block]
        how_many = random.integers(3, 11, len(topic))
        video = np.repeat(np.arange(len(topic)), how_many)
        chance = random.random(len(video))
        beside = np.where(chance < 0.06, random.choice((-1, 1), len(video)), 0)
        of_topic = (topic[video] + beside) % len(TOPICS)
        rank = np.minimum(random.pareto(0.9, len(video)), 1e6).astype(np.int64) % self._each
        common = len(TOPICS[0].tags)
        own = common + (rank + self._offsets[uploads.owner[block]][video]) % (self._each - common)
        place = np.where(rank < common, rank, own)
        heat = np.bincount(video, self._heat[of_topic, place], len(topic)) / how_many
        tags: list[list[str]] = [[] for _ in range(len(topic))]
        for n, number, word in zip(video.tolist(), of_topic.tolist(), place.tolist(), strict=True):
            tags[n].append(self._words[number][word])
        return tags, heat


def _blocks(
    random: np.random.Generator,
    channels: _Channels,
    events: Sequence[_Event],
    uploads: _Uploads,
    span: Span,
) -> Iterator[tuple[list[CatalogueVideo], list[str], SampleRows]]:
    drawn = _identifiers(random, len(uploads.owner), 8)
    ids = [video_id for _, video_id in sorted(zip(uploads.published.tolist(), drawn, strict=True))]
    tags = _Tags(random, channels)
    trend = random.normal(0.0, 0.5, len(TOPICS))
    boosts = np.array([event.log_boost for event in events] + [0.0])
    for first in range(0, len(ids), _BLOCK):
        block = slice(first, min(first + _BLOCK, len(ids)))
        words, heat = tags.draw(uploads, block)
        log_extra = heat + trend[uploads.topic[block]] + boosts[uploads.event[block]]
        samples = _samples(random, channels, uploads, block, log_extra, span)
        videos = _videos(random, channels, events, uploads, block, ids, words, span)
        titles = [channels.listed[n].title for n in uploads.owner[block].tolist()]
        yield videos, titles, samples


def _samples(
    random: np.random.Generator,
    channels: _Channels,
    uploads: _Uploads,
    block: slice,
    log_extra: Reals,
    span: Span,
) -> SampleRows:
    """The samples of a block of videos."""
    owner, start = uploads.owner[block], uploads.grows_from[block][:, None]
    count, aired = len(owner), uploads.grows_from[block] < span.end
    at = start + (_AGES_H * random.uniform(0.93, 1.07, (count, len(_AGES_H))) * _HOUR).astype(np.int64)
    at = np.minimum(np.where(aired[:, None], at, uploads.published[block][:, None]), span.end)
    kept = np.ones(at.shape, np.bool_)
    kept[:, 1:] = at[:, :-1] < np.minimum(at[:, 1:], span.end)
    week = channels.swing[owner] * np.sin(
        2 * np.pi * (uploads.published[block] / channels.period_s[owner] + channels.phase[owner])
    )
    log_views = channels.log_views[owner] + log_extra + week
    log_views += channels.log_spread[owner] * random.normal(0, 1, count)
    ceiling = np.maximum(np.exp(np.minimum(log_views, 17.5)), 3.0)
    breakout = _breakout_sizes(random, channels.breakout[owner], ceiling)
    age = np.maximum(at - start, 0) / _HOUR
    grown = ceiling[:, None] * _growth(random, uploads, block, at, age, breakout)
    dropped = np.where(random.random(at.shape) < 0.004, grown * random.uniform(0.001, 0.01, at.shape) + 1, 0)
    dropped[:, 0] = 0
    views = np.maximum(grown.astype(np.int64) - np.cumsum(dropped.astype(np.int64), axis=1), 0)
    like_share = np.exp(random.normal(-3.4, 0.5, count))[:, None]
    likes = np.maximum.accumulate((grown * like_share * (1 + np.exp(-age / 12))).astype(np.int64), axis=1)
    comment_share = np.exp(random.normal(-6.0, 0.8, count))[:, None]
    comments = np.maximum.accumulate((grown * comment_share).astype(np.int64), axis=1)
    likes[random.random(count) < 0.03] = HIDDEN
    comments[random.random(count) < 0.02] = HIDDEN
    numbers = np.repeat(np.arange(block.start, block.stop), kept.sum(axis=1))
    return SampleRows(numbers, at[kept], views[kept], likes[kept], comments[kept])


def _breakout_sizes(random: np.random.Generator, chance: Reals, expected: Reals) -> Reals:
    """How many times the expected views a breakout adds, and 0 for other videos."""
    size = 20 * np.exp(np.abs(random.normal(0.0, 1.1, len(chance))))
    # Nothing reaches more than some millions this way: a large channel has less to break out of.
    most = np.exp(random.normal(15.0, 1.0, len(chance))) / expected
    return np.where(random.random(len(chance)) < chance, np.minimum(size, most), 0.0)


def _growth(
    random: np.random.Generator, uploads: _Uploads, block: slice, at: Ints, age: Reals, breakout: Reals
) -> Reals:
    """What part of its expected views each video has at an age: more than 1 for breakouts."""
    count = len(at)
    one: Any = (count, 1)
    tau, alpha = np.exp(random.normal(2.3, 0.7, one)), random.uniform(0.5, 1.4, one)
    day = 2 * np.pi / _DAY
    start = uploads.grows_from[block][:, None]
    tide = 1.2 * (np.sin(day * (start % _DAY)) - np.sin(day * (at % _DAY)))
    swung = np.maximum(0.0, age + tide * np.minimum(1.0, age / 24))
    grown = 1 - (1 + swung / tau) ** -alpha
    onset = np.where(uploads.short[block][:, None], np.exp(random.normal(1.0, 0.6, one)), 0.05)
    grown *= 1 - np.exp(-((age / onset) ** 2))
    early = random.random(count) < _EARLY_BREAKOUTS
    middle = np.where(early, np.exp(random.normal(2.0, 0.6, count)), np.exp(random.normal(4.5, 0.7, count)))
    width = (middle * random.uniform(0.15, 0.35, count))[:, None]
    before = 1 / (1 + np.exp(middle[:, None] / width))
    wave = 1 / (1 + np.exp(np.clip((middle[:, None] - age) / width, -60, 60))) - before
    part: Reals = grown + breakout[:, None] * np.maximum(wave, 0.0)
    return part


def _with_copies(random: np.random.Generator, videos: list[CatalogueVideo]) -> list[CatalogueVideo]:
    """Turn a few videos into near-duplicates of earlier ones; how they grow stays their own."""
    copies = np.flatnonzero(random.random(len(videos)) < COPIES_SHARE).tolist()
    for n, chance in zip(copies, random.random(len(copies)).tolist(), strict=True):
        copy, original = videos[n], videos[max(0, n - 1 - int(2000 * chance))]
        if original.channel_id == copy.channel_id or copy.is_broadcast or original.is_broadcast:
            continue
        videos[n] = replace(
            copy,
            title=original.title,
            description=original.title + copy.description.removeprefix(copy.title),
            category_id=original.category_id,
            tags=original.tags,
            duration_s=original.duration_s,
            language=original.language,
        )
    return videos


class _Draw(NamedTuple):
    """What chance decides about one video: numbers to choose by, chances from 0 to 1, and its length."""

    form: int
    number: int
    common_tag: int
    regions: int
    gets_common_tag: float
    gets_channel_tag: float
    is_removed: float
    removed_after: float
    has_no_tags: float
    is_blocked: float
    length_s: int


def _draws(random: np.random.Generator, short: Flags) -> Iterator[_Draw]:
    count = len(short)
    chosen = random.integers(0, 1 << 30, (4, count)).tolist()
    chances = random.random((6, count)).tolist()
    length_s = np.minimum(np.exp(random.normal(6.2, 1.0, count)) + 8, 12 * _HOUR)
    length_s = np.where(short, random.uniform(9, 60, count), length_s).astype(np.int64)
    return map(_Draw, *chosen, *chances, length_s.tolist())


def _videos(
    random: np.random.Generator,
    channels: _Channels,
    events: Sequence[_Event],
    uploads: _Uploads,
    block: slice,
    ids: Sequence[str],
    words: Sequence[list[str]],
    span: Span,
) -> list[CatalogueVideo]:
    draws = _draws(random, uploads.short[block])
    videos = []
    for n, video_id, tags, draw in zip(range(block.start, block.stop), ids[block], words, draws, strict=True):
        if (event := int(uploads.event[n])) >= 0:
            tags.append(events[event].tag)
        owner, topic = int(uploads.owner[n]), int(uploads.topic[n])
        channel, language = channels.listed[owner], channels.languages[owner]
        video = _described(video_id, int(uploads.published[n]), channel, language, topic, tags, draw, span)
        if uploads.live_s[n]:
            video = _broadcast(video, uploads, n, span)
        videos.append(video)
    return videos


def _described(
    video_id: str,
    published: int,
    channel: CatalogueChannel,
    language: Language,
    topic: int,
    tags: list[str],
    draw: _Draw,
    span: Span,
) -> CatalogueVideo:
    name = TOPICS[topic].names[language]
    if language != "en":
        tags.insert(0, name)
    title = TITLE_FORMS[language][draw.form % len(TITLE_FORMS[language])].format(
        name=name, Name=name[:1].upper() + name[1:], tag=tags[-1], n=2 + draw.number % 98
    )
    if draw.gets_common_tag < 0.2:
        tags.append(_COMMON_TAGS[draw.common_tag % len(_COMMON_TAGS)])
    if draw.gets_channel_tag < 0.2:
        tags.append(channel.title.lower())
    removed_at = published + 60 + int(draw.removed_after * (span.end - published))
    return CatalogueVideo(
        video_id,
        channel.id,
        title[:100],
        published,
        f"{title}\n\n{channel.description}",
        category_id=TOPICS[topic].category_id,
        tags=() if draw.has_no_tags < 0.06 else tuple(dict.fromkeys(tags)),
        duration_s=draw.length_s,
        language=language,
        removed_at=removed_at if draw.is_removed < 0.007 else None,
        blocked_in=tuple(_BLOCKED[draw.regions % len(_BLOCKED)].split()) if draw.is_blocked < 0.02 else (),
    )


def _broadcast(video: CatalogueVideo, uploads: _Uploads, n: int, span: Span) -> CatalogueVideo:
    """The video as a premiere or stream, which has not started if its start is beyond the span."""
    live_s, starts = int(uploads.live_s[n]), int(uploads.grows_from[n])
    aired = starts < span.end
    return replace(
        video,
        duration_s=live_s,
        scheduled_start_at=starts // 900 * 900 if uploads.scheduled[n] else None,
        actual_start_at=starts if aired else None,
        actual_end_at=starts + live_s if aired else None,
    )
