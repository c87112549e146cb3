"""What YouTube would show of a catalogue at an instant: search, uploads, feeds and charts, without HTTP.

The emulator's methods are built on this, and simulations call it directly, thousands of times a second:

    with Catalogue.open("mixed.catalogue") as catalogue:
        world = World(catalogue, REALISTIC)
        at = catalogue.span[0].timestamp() + 7 * 86400
        page = world.search(at, "guitar|telescope", order="viewCount", published_after=at - 86400)
        page.numbers, page.total, page.more      # the first 50; the next page is start=50
        world.uploads(channel_id, at).numbers    # newest first; None: there is no such channel
        world.feed(channel_id, at).entries       # [(number, views)] of the 15 newest; None: 404
        world.chart(at, region="KR", category_id=10).numbers
        catalogue.views_at(np.array(page.numbers), at), catalogue.ids[n], catalogue.channel_of[n]

Videos are the catalogue's numbers, instants seconds since 1970 (UTC). How the answers differ from the
catalogue is a `Realism`; with the default they don't. An answer depends on nothing but the catalogue, the
realism, the question and the instant, so worlds can share a catalogue and be asked in any order.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from math import exp
from typing import TYPE_CHECKING, Any

import numpy as np

from maia.emulator.catalogue import MOST_RESULTS, Catalogue
from maia.emulator.columns import descending
from maia.emulator.realism import NONE, Realism
from maia.emulator.regions import affinity, primary
from maia.emulator.search_index import Hits, parse_query
from maia.youtube.methods import Duration, EventType, Order

if TYPE_CHECKING:
    import numpy.typing as npt

    Numbers = npt.NDArray[np.int64]
    Reals = npt.NDArray[np.float64]

MOST_CHARTED = 200
FEED_ENTRIES = 15
MOST_TOTAL = 1_000_000
_TRENDING_ENDED_AT = 1_753_056_000
"""21 July 2025: since then YouTube charts only music, films and games."""
_CHARTED_SINCE = (1, 10, 20, 30, 44)
_HOUR = 3600.0
_TABLE = 1 << 16
_SORTED_FOR_A_SEARCH = 4 * MOST_RESULTS


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a result: its videos, an estimate of all results, and whether another page follows.

    `last` is how many results can be paged through, which no answer says.
    """

    numbers: list[int]
    total: int
    last: int
    more: bool

    @classmethod
    def cut(cls, listed: list[int], start: int, size: int) -> Page:
        """The page of a list that can be paged to its end."""
        end = len(listed)
        return cls(listed[start : start + size], end, end, 0 < size < end - start)


@dataclass(frozen=True, slots=True)
class Feed:
    """A channel's feed: its newest videos with their views (None: hidden).

    The copy was made at `made_at` and stays the same until `fresh_until`. It shows the instant `as_of`, which
    is earlier if the copy was already old when it was made.
    """

    as_of: float
    made_at: float
    fresh_until: float
    entries: list[tuple[int, int | None]]


class World:
    """A catalogue as search, playlists, feeds and charts show it."""

    def __init__(self, catalogue: Catalogue, realism: Realism = NONE) -> None:
        self.catalogue, self.realism = catalogue, realism
        self._charts: dict[tuple[float, str, int | None], list[int]] = {}
        table = np.random.default_rng(realism.seed)
        self._normal = table.standard_normal(_TABLE)
        self._uniform = table.random(_TABLE)
        self._shown_from, self._counts_lag_s = self._index_columns()

    def search(
        self,
        at: float,
        query: str | None = None,
        *,
        order: Order = "relevance",
        published_after: float | None = None,
        published_before: float | None = None,
        region: str | None = None,
        language: str | None = None,
        channel_id: str | None = None,
        category_id: int | None = None,
        duration: Duration | None = None,
        event_type: EventType | None = None,
        start: int = 0,
        size: int = 50,
    ) -> Page:
        """The results `start` to `start + size` of search.list; both publication bounds are inclusive.

        Noise in the ranking is the same for an hour, so that pages asked for one after another fit together.
        """
        realism = self.realism
        if realism.window_ignored:
            published_after = published_before = None
        if order in realism.ignored_orders:
            order = "relevance"
        asked_for = None if query is None else parse_query(query, realism.query_words, realism.or_words)
        hits = self.catalogue.matching(asked_for, at, published_after, published_before)
        if region is not None:
            hits = self.catalogue.watchable_in(region.upper(), hits)
        hits = self.catalogue.having(
            hits,
            at,
            channel_id=channel_id,
            category_id=category_id,
            duration=duration,
            event_type=event_type,
        )
        hits = self._indexed(hits, at, without_query=query is None)
        asked = f"{query}|{order}|{published_after}|{published_before}|{region}|{language}|{channel_id}"
        salt = self._salt(f"{asked}|{category_id}|{duration}|{event_type}|{at // _HOUR}")
        suits = self._suits(region, language)
        ranked = self._ranked(hits, order, at, salt, suits, by_relevance=query is not None)
        ranked = self._rearranged(ranked, salt)
        end = min(len(ranked), self._last_result(salt, without_query=query is None))
        numbers = self._left_on_page(ranked[start : min(end, start + size)], salt)
        total = self._estimated(len(hits.numbers), salt)
        return Page(numbers.tolist(), total, end, 0 < size < end - start)

    def uploads(self, channel_id: str, at: float, *, start: int = 0, size: int = 50) -> Page | None:
        """The channel's visible videos, newest first; None if there is no such channel yet."""
        channel = self.catalogue.channel(channel_id)
        if channel is None or channel.published_at > at:
            return None
        return Page.cut(self.listed_uploads(channel_id, at), start, size)

    def listed_uploads(self, channel_id: str, at: float) -> list[int]:
        """All of a channel's uploads playlist, in its order."""
        realism = self.realism
        listed = self.catalogue.uploads_of(channel_id, at)
        if not listed or not (realism.uploads_delay_min or realism.uploads_disorder):
            return listed
        numbers = np.array(listed, np.int64)
        published = self.catalogue.columns.published[numbers].astype(np.float64)
        delay_s = 60 * realism.uploads_delay_min * self._chance(numbers, "upload delay")
        there = published + delay_s <= at
        numbers, published = numbers[there], published[there]
        misplaced = self._chance(numbers, "upload order") < realism.uploads_disorder
        behind = np.append(published[1:], -np.inf) - 0.5
        ordered = np.argsort(-np.where(misplaced, behind, published), kind="stable")
        misplaced_first: list[int] = numbers[ordered].tolist()
        return misplaced_first

    def feed(self, channel_id: str, at: float) -> Feed | None:
        """The channel's feed; None if it is 404."""
        channel = self.catalogue.channel(channel_id)
        copy = self._feed_copy(channel_id, at)
        if copy is None or channel is None or channel.published_at > copy[0]:
            return None
        as_of, made_at, fresh_until = copy
        newest = self.catalogue.uploads_of(channel_id, as_of)[:FEED_ENTRIES]
        counts = self.catalogue.counts
        return Feed(as_of, made_at, fresh_until, [(n, counts(n, as_of).views) for n in newest])

    def _feed_copy(self, channel_id: str, at: float) -> tuple[float, float, float] | None:
        """What instant the served copy of a feed shows, when it was made and ends; None if it is missing."""
        realism = self.realism
        period = 60 * realism.feed_cache_min
        phase = self._draw(f"feed phase {channel_id}") * period
        copy = (at - phase) // (period or 60.0)
        drawn = f"{channel_id} {copy:.0f}"
        if realism.feed_missing and self._draw(f"feed missing {drawn}") < realism.feed_missing:
            return None
        as_of = made_at = copy * period + phase if period else at
        if realism.feed_stale and self._draw(f"feed stale {drawn}") < realism.feed_stale:
            as_of -= _HOUR * realism.feed_stale_h * self._draw(f"feed age {drawn}")
        return as_of, made_at, made_at + period

    def chart(
        self,
        at: float,
        *,
        region: str = "US",
        category_id: int | None = None,
        start: int = 0,
        size: int = 50,
    ) -> Page:
        """The mostPopular chart of a region and category (None: all): the most views gained in seven days.

        How many of a video's views came from the region is estimated from its country and language.
        """
        return Page.cut(self._charted(at, region.upper(), category_id), start, size)

    def _charted(self, at: float, region: str, category_id: int | None) -> list[int]:
        instant = at // (_HOUR * self.realism.chart_every_h) * _HOUR * self.realism.chart_every_h
        slot = (instant, region, category_id)
        if slot not in self._charts:
            if len(self._charts) > 256:
                self._charts.clear()
            self._charts[slot] = self._most_popular(instant, region, category_id)
        return self._charts[slot]

    def _most_popular(self, instant: float, region: str, category_id: int | None) -> list[int]:
        catalogue, columns = self.catalogue, self.catalogue.columns
        hits = catalogue.watchable_in(region, catalogue.matching(None, instant))
        hits = catalogue.having(hits, instant, category_id=category_id)
        if instant >= _TRENDING_ENDED_AT:
            hits = hits.where(np.isin(columns.category[hits.numbers], _CHARTED_SINCE))
        numbers = hits.numbers[::-1]
        gained = catalogue.views_at(numbers, instant) - catalogue.views_at(numbers, instant - 7 * 86400)
        gained_there = gained * self._affinity(region)[columns.origin[numbers]]
        charted: list[int] = numbers[descending(gained_there, MOST_CHARTED)].tolist()
        return charted

    def _index_columns(self) -> tuple[Reals, Reals]:
        """When search starts to show each video (inf: never), and how old its counts in search are."""
        realism, columns = self.realism, self.catalogue.columns
        numbers = np.arange(len(columns.published))
        sizes = np.array([self.catalogue.subscribers.get(id_) or 1000 for id_ in self.catalogue.channel_ids])
        size = np.clip((np.log10(np.maximum(sizes, 1)) - 3) / 3, 0, 1)[columns.channel] if len(sizes) else 0
        unindexed = realism.unindexed_small + (realism.unindexed_large - realism.unindexed_small) * size
        delay_s = _HOUR * realism.index_delay_h * np.exp(self._noise(numbers, "index delay"))
        shown_from = columns.published + delay_s
        shown_from[self._chance(numbers, "unindexed") < unindexed] = np.inf
        return shown_from, 2 * _HOUR * realism.counts_lag_h * self._chance(numbers, "counts lag")

    def _indexed(self, hits: Hits, at: float, *, without_query: bool) -> Hits:
        """Only the hits that search shows."""
        hits = hits.where(self._shown_from[hits.numbers] <= at)
        if without_query and self.realism.empty_share < 1:
            hits = hits.where(self._chance(hits.numbers, "empty query") < self.realism.empty_share)
        return hits

    def _suits(self, region: str | None, language: str | None) -> Reals | None:
        """By origin, how much more relevant a region and a language make videos; None if no more."""
        origins, realism = self.catalogue.origins, self.realism
        factors = np.ones(len(origins))
        if region is not None:
            factors += realism.region_weight * self._affinity(region.upper())
        if language is not None:
            spoken = [primary(of or "") == primary(language) for _, of in origins]
            factors *= 1 + realism.language_weight * np.array(spoken, np.float64)
        return factors if (factors != 1).any() else None

    def _affinity(self, region: str) -> Reals:
        return np.array([affinity(region, *origin) for origin in self.catalogue.origins])

    def _ranked(
        self, hits: Hits, order: Order, at: float, salt: int, suits: Reals | None, *, by_relevance: bool
    ) -> Numbers:
        """The best hits in the order of a search, ranked by what the index knows at the instant."""
        realism = self.realism
        weighs = realism.popularity_weight or realism.ranking_noise or realism.counts_lag_h
        weighs = weighs or (suits is not None and order == "relevance")
        if not weighs or order not in ("relevance", "viewCount"):
            return self.catalogue.ordered(hits, order, at, by_relevance=by_relevance, most=MOST_RESULTS)
        newest_first = hits.numbers[::-1]
        views = self.catalogue.views_at(newest_first, at - self._counts_lag_s[newest_first])
        keys: Reals = views.astype(np.float64)
        if order == "relevance":
            text = hits.scores[::-1] if by_relevance else np.ones(len(newest_first))
            keys = text * (1 + realism.popularity_weight * np.log10(1.0 + views))
            if suits is not None:
                keys = keys * suits[self.catalogue.columns.origin[newest_first]]
        if realism.ranking_noise:
            keys = keys * np.exp(realism.ranking_noise * self._normal[(newest_first * 40503 + salt) % _TABLE])
        return newest_first[descending(keys, MOST_RESULTS)]

    def _rearranged(self, ranked: Numbers, salt: int) -> Numbers:
        """Moves some results up behind a better one of their channel, and shows some again further down."""
        realism = self.realism
        if realism.crowding and len(ranked):
            channels = self.catalogue.columns.channel[ranked]
            _, first, of = np.unique(channels, return_index=True, return_inverse=True)
            crowded = self._uniform[(ranked * 30011 + salt) % _TABLE] < realism.crowding
            places = np.where(crowded, first[of], np.arange(len(ranked)))
            ranked = ranked[np.argsort(places, kind="stable")]
        if realism.repeats and len(ranked):
            repeated = np.flatnonzero(self._uniform[(ranked * 52361 + salt) % _TABLE] < realism.repeats)
            later = repeated + 1 + (ranked[repeated] * 7 + salt) % 60
            places = np.concatenate([np.arange(len(ranked)), later])
            everything = np.concatenate([ranked, ranked[repeated]])
            ranked = everything[np.argsort(places, kind="stable")][:MOST_RESULTS]
        return ranked

    def _last_result(self, salt: int, *, without_query: bool) -> int:
        """How many results can be paged through."""
        realism = self.realism
        most = min(MOST_RESULTS, realism.empty_most) if without_query else MOST_RESULTS
        if realism.early_end and self._uniform[salt % _TABLE] < realism.early_end:
            most = min(most, 50 + salt // _TABLE % 201)
        return most

    def _left_on_page(self, numbers: Numbers, salt: int) -> Numbers:
        if not self.realism.short_pages:
            return numbers
        return numbers[self._uniform[(numbers * 11003 + salt) % _TABLE] >= self.realism.short_pages]

    def _estimated(self, results: int, salt: int) -> int:
        """totalResults: an estimate, as rough as the API's at best."""
        if self.realism.totals_error:
            results = min(
                MOST_TOTAL, int(results * exp(self.realism.totals_error * self._normal[salt % _TABLE]))
            )
        return estimated(results)

    def _salt(self, text: str) -> int:
        digest = blake2b(f"{self.realism.seed}|{text}".encode(), digest_size=5).digest()
        return int.from_bytes(digest)

    def _draw(self, text: str) -> float:
        """A random number from 0 to 1 that belongs to the text."""
        return self._salt(text) / (1 << 40)

    def _chance(self, numbers: Numbers, what: str) -> Reals:
        """A random number from 0 to 1 for each video, always the same for the same purpose."""
        chances: npt.NDArray[Any] = self._uniform[(numbers * 40503 + self._salt(what)) % _TABLE]
        return chances

    def _noise(self, numbers: Numbers, what: str) -> Reals:
        """A standard normal number for each video, always the same for the same purpose."""
        noise: npt.NDArray[Any] = self._normal[(numbers * 40503 + self._salt(what)) % _TABLE]
        return noise


def estimated(results: int) -> int:
    """An estimate as rough as the API's: above a hundred, rounded up to two significant figures."""
    unit: int = 10 ** max(0, len(str(results)) - 2)
    return -(-results // unit) * unit
