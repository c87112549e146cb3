"""How search asks: forms, each an order of results, a window of time, and how topics are combined.

Pure functions of topics, instants and what was asked last. A form says which parameters a question has; the
page tokens of its answer belong to exactly these.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from itertools import pairwise
from math import ceil
from typing import Any, Final, Literal, Self

from atlas.adapters.queue import Topic
from atlas.config import DiscoverySettings, HunterSettings
from maia.youtube.methods import Duration, EventType, Order

Combination = Literal["topic", "any", "slices", "regions", "categories"]
"""One topic; several by OR; none, but a slice of time, a region or a category."""

LONGEST_OR_QUERY: Final = 500
"""Characters of a query that joins topics by OR; nobody documents a limit, and URLs may be far longer."""
NARROWEST_SLICE: Final = timedelta(minutes=30)
WIDEST_SLICE: Final = timedelta(hours=6)
FIRST_SLICES: Final = timedelta(hours=6)
"""How far back the very first slices begin."""
LATEST_SLICE: Final = timedelta(hours=18)
"""How far back a slice may begin: what is older is no longer early when it is found."""
REGIONS_EVERY: Final = timedelta(hours=6)
CATEGORIES_EVERY: Final = timedelta(hours=3)
CATEGORIES: Final = (10, 20, 24, 17, 22, 25, 23, 1, 28, 26, 2, 15, 19, 27)
"""The categories that uploaders can choose, roughly by how many of their videos grow."""
SHORTEST_REST: Final = 1 / 8
"""The part of the usual rest that a topic keeps even if everything found was new."""

_OPERATOR: Final = re.compile(r'["|]|(?<!\S)-\S')


@dataclass(frozen=True, slots=True)
class Form:
    """A way to ask. `prior_yield` is what a question is expected to find; only ratios matter."""

    name: str
    about: str
    order: Order
    combines: Combination
    prior_yield: float
    only_newer: bool = False
    """Whether to ask only for what is newer than the topic's last search."""

    @property
    def arm(self) -> str:
        return f"search:{self.name}"


FORMS: Final = (
    Form("slices", "any video of a slice of time, most viewed first", "viewCount", "slices", 4.0),
    Form("any", "several topics at once, most viewed of the last day", "viewCount", "any", 4.0),
    Form("anyrelevant", "several topics at once, most relevant of the last day", "relevance", "any", 3.0),
    Form("views", "one topic, most viewed of the last day", "viewCount", "topic", 4.0),
    Form(
        "categories", "any video of a category, most viewed of the last day", "viewCount", "categories", 2.0
    ),
    Form("regions", "any video of a region, most viewed of the last day", "viewCount", "regions", 2.0),
    Form("date", "one topic, newest first", "date", "topic", 2.0, only_newer=True),
    Form("relevance", "one topic, most relevant of the last day", "relevance", "topic", 2.5),
)
"""Forms with their priors: measured ratios, drawn together, as nobody knows how YouTube answers each.

The closer the priors, the sooner the first days show which form is best; a form of which little is expected
is asked so rarely that it takes a week to prove itself.
"""

SPECIFICATION: Final = "search:specification"
"""The arm of the original order: one topic by priority, every page to the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The parameters of a search; a page token is valid only with exactly these."""

    q: str | None = None
    order: Order
    published_after: datetime | None = None
    published_before: datetime | None = None
    region_code: str | None = None
    relevance_language: str | None = None
    video_category_id: int | None = None
    video_duration: Duration | None = None
    event_type: EventType | None = None
    max_results: int

    def arguments(self) -> dict[str, Any]:
        """As arguments of `YouTube.search`."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def as_json(self) -> dict[str, Any]:
        """The inverse of `of_json`."""
        given = ((name, value) for name, value in self.arguments().items() if value is not None)
        return {name: v.isoformat() if isinstance(v, datetime) else v for name, v in given}

    @classmethod
    def of_json(cls, stored: Mapping[str, Any]) -> Self:
        known = {each.name for each in fields(cls)}
        given = {name: value for name, value in stored.items() if name in known}
        for name in ("published_after", "published_before"):
            if name in given:
                given[name] = datetime.fromisoformat(given[name])
        return cls(**given)


def topic_request(
    form: Form, topic: Topic, now: datetime, hunter: HunterSettings, discovery: DiscoverySettings
) -> Request:
    """Ask about one topic, within the form's window and the topic's own parameters."""
    own, after = topic.parameters, _whole_second(now - timedelta(hours=discovery.window_h))
    starts = [after, own.published_after, topic.published_after if form.only_newer else None]
    after = max(start for start in starts if start)
    if own.published_before and own.published_before <= after:
        # It asks for a span in the past, in which the window would leave nothing.
        return Request(
            q=topic.query, order=form.order, published_after=topic.search_after, **_own(topic, hunter)
        )
    return Request(q=topic.query, order=form.order, published_after=after, **_own(topic, hunter))


def original_request(topic: Topic, hunter: HunterSettings) -> Request:
    """Ask about one topic as the specification does: everything since the last search, by one order."""
    return Request(
        q=topic.query, order=hunter.order, published_after=topic.search_after, **_own(topic, hunter)
    )


def _own(topic: Topic, hunter: HunterSettings) -> dict[str, Any]:
    """The parameters that a topic may have of its own, or else from the settings."""
    own = topic.parameters
    return {
        "published_before": own.published_before,
        "region_code": own.region or hunter.region_code,
        "relevance_language": own.language or hunter.relevance_language,
        "video_category_id": own.category,
        "video_duration": own.duration,
        "event_type": own.event_type,
        "max_results": hunter.results_per_page,
    }


def any_request(
    form: Form, query: str, now: datetime, hunter: HunterSettings, discovery: DiscoverySettings
) -> Request:
    """Ask about several topics joined by OR."""
    return Request(
        q=query,
        order=form.order,
        published_after=_whole_second(now - timedelta(hours=discovery.window_h)),
        region_code=hunter.region_code,
        relevance_language=hunter.relevance_language,
        max_results=hunter.results_per_page,
    )


def quoted(query: str) -> str:
    """A topic as one alternative of an OR: in quotation marks unless it is a single plain word."""
    plain = query.replace('"', " ").replace("|", " ")
    words = plain.split()
    return words[0] if len(words) == 1 and not words[0].startswith("-") else f'"{" ".join(words)}"'


def is_joinable(query: str) -> bool:
    """Whether a topic still means the same as one alternative of an OR.

    One with operators of its own, such as `boating|sailing -fishing`, does not, unless it is a phrase.
    """
    return quoted(query) == query or _OPERATOR.search(query) is None


def joined(queries: Iterable[str], longest: int = LONGEST_OR_QUERY) -> str:
    """The queries joined by OR; those that would make it longer than `longest` are left out."""
    query = ""
    for alternative in map(quoted, queries):
        longer = f"{query}|{alternative}" if query else alternative
        if len(longer) <= longest:
            query = longer
    return query


@dataclass(frozen=True, slots=True)
class Slice:
    """A span of publication times, `start` ≤ t < `end`."""

    start: datetime
    end: datetime

    @property
    def key(self) -> str:
        return f"slices@{self.start:%Y-%m-%dT%H:%M:%SZ}"


def slices(covered_until: datetime | None, now: datetime, n: int, lag: timedelta) -> tuple[Slice, ...]:
    """Up to `n` slices that continue where the last one ended, and end `lag` before now.

    They share the time since then, so the fewer questions a day has, the wider each slice. Nothing is asked
    while there is less than the narrowest slice; what is older than the latest start is left out.
    """
    end = _whole_second(now - lag)
    start = max(covered_until or end - FIRST_SLICES, _whole_second(now - LATEST_SLICE))
    span = end - start
    if n < 1 or span < NARROWEST_SLICE:
        return ()
    count = min(n, span // NARROWEST_SLICE)
    count = min(n, max(count, ceil(span / WIDEST_SLICE)))
    edges = [start + _whole_seconds(span * k / count) for k in range(count)] + [end]
    return tuple(Slice(*edge) for edge in pairwise(edges))


def slice_request(form: Form, span: Slice, hunter: HunterSettings) -> Request:
    """Ask for the videos of a slice of time."""
    return Request(
        order=form.order,
        published_after=span.start,
        published_before=span.end,
        region_code=hunter.region_code,
        relevance_language=hunter.relevance_language,
        max_results=hunter.results_per_page,
    )


def region_request(
    form: Form, region: str, now: datetime, hunter: HunterSettings, discovery: DiscoverySettings
) -> Request:
    """Ask for the videos of a region."""
    return Request(
        order=form.order,
        published_after=_whole_second(now - timedelta(hours=discovery.window_h)),
        region_code=region,
        relevance_language=hunter.relevance_language,
        max_results=hunter.results_per_page,
    )


def category_request(
    form: Form, category: int, now: datetime, hunter: HunterSettings, discovery: DiscoverySettings
) -> Request:
    """Ask for the videos of a category."""
    return Request(
        order=form.order,
        published_after=_whole_second(now - timedelta(hours=discovery.window_h)),
        region_code=hunter.region_code,
        relevance_language=hunter.relevance_language,
        video_category_id=category,
        max_results=hunter.results_per_page,
    )


def due(
    subjects: Sequence[str], last_asked: Mapping[str, datetime], now: datetime, every: timedelta, n: int
) -> tuple[str, ...]:
    """Up to `n` subjects last asked at least `every` ago: those never asked first, then the longest ago."""
    waiting = [each for each in subjects if each not in last_asked or now - last_asked[each] >= every]
    # sorted() is stable: among those never asked, the first comes first.
    return tuple(
        sorted(waiting, key=lambda each: last_asked.get(each, datetime.min.replace(tzinfo=now.tzinfo)))
    )[: max(n, 0)]


def is_worth_another_page(found: int, promising: int) -> bool:
    """Whether a next page is worth more than a fresh question: half of this one was new and looks growing."""
    return found > 0 and 2 * promising >= found


def rest(usual: timedelta, found: int, new: int) -> timedelta:
    """How long a topic rests after it was asked about: less, the more of what was found was new."""
    return usual * max(SHORTEST_REST, 1 - new / found if found else 1.0)


def _whole_second(instant: datetime) -> datetime:
    return instant.replace(microsecond=0)


def _whole_seconds(span: timedelta) -> timedelta:
    return timedelta(seconds=span // timedelta(seconds=1))
