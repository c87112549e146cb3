"""Which topics to search next: by the early growing videos that an ask of each is expected to find.

A topic's yield is Poisson with a rate that differs between topics even if all that is known of them is the
same. A small log-linear regression on that context (how many stored videos, channels and mentions it has, how
many of its videos grew, its category) gives the prior mean; the posterior is Gamma. `choose` draws from each
posterior and takes the highest draws (Thompson sampling). A part of the asks goes to topics never tried, and
some of that to any of them at random, so that none starves. A topic asked a short while ago has little new,
so its draw counts less.

A question that joins several topics by OR finds the same videos twice if the topics overlap: `choose_groups`
fills each group with topics whose videos, or else whose words, overlap little.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from maia.learning.velocity import Booleans, Floats, Integers

_CONTEXT: Final = 6
"""Columns of the regression: 1, videos, channels, mentions, the share that grew, and attention."""


@dataclass(frozen=True, slots=True)
class TopicRecord:
    """A topic of the queue, with what its asks brought and what is known from stored videos that carry it."""

    id: int
    query: str
    asks: float = 0.0
    """How many asks are judged; one of several topics joined by OR counts as its part of an ask."""
    early_growing: float = 0.0
    """What those asks brought."""
    pending: float = 0.0
    """Asks that are not judged yet."""
    mentions: int = 0
    videos: int = 0
    channels: int = 0
    judged: int = 0
    """Of its videos, how many are known to have grown or not."""
    growing: int = 0
    category: int | None = None
    attention: float = 0.0
    """Its short-term importance in the knowledge graph, now."""
    asked_h: float | None = None
    """Hours since it was last asked; None: never."""
    members: frozenset[Hashable] = field(default=frozenset())
    """Some of its videos or channels, by which the overlap of two topics is measured."""


@dataclass(frozen=True, slots=True)
class TopicSettings:
    """How topics are drawn."""

    prior_yield: float = 1.0
    """Early growing videos per ask of a topic, before any was judged."""
    shape: float = 0.7
    """Shape of the prior: how alike topics with the same context are. Below 1, a few are far better than the
    rest.
    """
    ridge: float = 4.0
    attention_slope: float = 0.0
    """The first guess of what attention brings, before any topic was asked; what it does bring is learnt."""
    growing_share: float = 0.05
    growing_weight: float = 5.0
    """The share of a topic's videos that grew is shrunk towards `growing_share` by this many videos."""
    recovery_h: float = 12.0
    """After this time, a topic has about two thirds of its full yield again."""
    random_share: float = 0.25
    """The part of the asks for untried topics that goes to any of them, whatever its context."""
    category_weight: float = 10.0
    """How many early growing videos it takes to believe half of what a category's topics differ by."""

    def __post_init__(self) -> None:
        positive = (self.prior_yield, self.shape, self.ridge, self.growing_weight, self.recovery_h)
        if min(positive) <= 0 or self.category_weight <= 0:
            raise ValueError("yields, shapes, weights and times of topics must be positive")
        if not 0 < self.growing_share < 1 or not 0 <= self.random_share <= 1:
            raise ValueError("growing_share must be between 0 and 1, and random_share within them")


DEFAULTS: Final = TopicSettings()


@dataclass(frozen=True, slots=True)
class Expectation:
    """Gamma posteriors of the early growing videos per ask, one per topic: shape / rate is the mean."""

    shape: Floats
    rate: Floats

    @property
    def mean(self) -> Floats:
        return self.shape / self.rate


def expect(topics: Sequence[TopicRecord], settings: TopicSettings = DEFAULTS) -> Expectation:
    """The posterior of each topic's yield, by its own asks and by what topics with its context brought."""
    asks = np.array([topic.asks for topic in topics], dtype=np.float64)
    found = np.array([topic.early_growing for topic in topics], dtype=np.float64)
    prior = _prior_mean(topics, asks, found, settings)
    return Expectation(settings.shape + found, settings.shape / prior + asks)


def _prior_mean(
    topics: Sequence[TopicRecord], asks: Floats, found: Floats, settings: TopicSettings
) -> Floats:
    if not len(topics):
        return np.zeros(0)
    context = _context(topics, settings)
    weights = _fit(context, asks, found, settings)
    mean = np.exp(np.clip(context @ weights, -7.0, 7.0)) * settings.prior_yield
    return mean * _category_factors(topics, mean * asks, found, settings)


def _context(topics: Sequence[TopicRecord], settings: TopicSettings) -> Floats:
    """One row per topic, in logarithms; of about unit size, as the ridge treats columns alike."""
    counts = np.array(
        [(t.videos, t.channels, t.mentions, t.judged, t.growing) for t in topics], dtype=np.float64
    )
    share = (counts[:, 4] + settings.growing_weight * settings.growing_share) / (
        counts[:, 3] + settings.growing_weight
    )
    columns = (np.ones(len(topics)), *(np.log1p(counts[:, k]) / 3 for k in range(3)))
    attention = np.log1p(np.array([max(t.attention, 0.0) for t in topics], dtype=np.float64)) / 3
    context: Floats = np.column_stack((*columns, np.log(share / settings.growing_share), attention))
    return context


def _first_guess(settings: TopicSettings) -> Floats:
    """Before any ask: topics of many channels and of growing videos bring more. Modest, as it is only a
    guess.
    """
    return np.array([0.0, 0.0, 0.6, 0.2, 0.4, settings.attention_slope])


def _fit(context: Floats, asks: Floats, found: Floats, settings: TopicSettings) -> Floats:
    """Poisson regression with a ridge around the first guess, by Newton's method; no asks give the guess
    itself.
    """
    guess = _first_guess(settings)
    tried = asks > 0
    if not tried.any():
        return guess
    rows, exposure, count = context[tried], asks[tried] * settings.prior_yield, found[tried]
    # The level is free: it takes whatever the world is like. Slopes are held back by the ridge.
    ridge = np.diag([0.05, *([settings.ridge] * (_CONTEXT - 1))])
    weights = guess.copy()
    weights[0] = np.log((count.sum() + 0.5) / (exposure * np.exp(np.clip(rows @ guess, -7, 7))).sum())
    centre = weights.copy()
    centre[1:] = guess[1:]
    for _ in range(25):
        mean = exposure * np.exp(np.clip(rows @ weights, -7.0, 7.0))
        # Topics differ beyond their context, so the variance is mean + mean²/shape.
        trust = 1 / (1 + mean / settings.shape)
        gradient = rows.T @ (trust * (count - mean)) - ridge @ (weights - centre)
        step = np.linalg.solve((rows * (trust * mean)[:, None]).T @ rows + ridge, gradient)
        weights = weights + np.clip(step, -1.0, 1.0)
        if np.abs(step).max() < 1e-6:
            break
    return weights


def _category_factors(
    topics: Sequence[TopicRecord], expected: Floats, found: Floats, settings: TopicSettings
) -> Floats:
    """By how much the topics of each category do better than their other context says, shrunk towards 1."""
    names = sorted({topic.category for topic in topics if topic.category is not None})
    number = {name: k for k, name in enumerate(names)}
    of_topic = np.array([-1 if t.category is None else number[t.category] for t in topics])
    known = of_topic >= 0
    sums = [np.bincount(of_topic[known], values[known], len(names) or 1) for values in (found, expected)]
    factors = (sums[0] + settings.category_weight) / (sums[1] + settings.category_weight)
    by_topic: Floats = np.where(known, factors[np.maximum(of_topic, 0)], 1.0)
    return by_topic


def freshness(topics: Sequence[TopicRecord], settings: TopicSettings = DEFAULTS) -> Floats:
    """The part of a topic's yield that is there again since it was last asked: 1 if it never was."""
    asked = np.array([np.inf if t.asked_h is None else max(t.asked_h, 0.0) for t in topics])
    recovered: Floats = 1 - np.exp(-asked / settings.recovery_h)
    return recovered


def choose(
    topics: Sequence[TopicRecord],
    n: int,
    *,
    seed: int,
    fresh_share: float = 1 / 3,
    settings: TopicSettings = DEFAULTS,
) -> tuple[TopicRecord, ...]:
    """Up to `n` topics to ask now, the highest draws first; the same topics in any order give the same.

    `fresh_share` of them are topics that were never asked, as long as there are any.
    """
    if not 0 <= fresh_share <= 1:
        raise ValueError(f"fresh_share must be within 0 and 1, not {fresh_share}")
    ranked, by_draw, by_chance = _draw(topics, seed, settings)
    chosen = _pick(_is_fresh(ranked), by_draw, by_chance, max(n, 0), fresh_share, settings)
    return tuple(ranked[k] for k in chosen)


def _is_fresh(topics: Sequence[TopicRecord]) -> Booleans:
    return np.array([t.asks == 0 and t.pending == 0 and t.asked_h is None for t in topics], dtype=bool)


def _draw(
    topics: Sequence[TopicRecord], seed: int, settings: TopicSettings
) -> tuple[list[TopicRecord], Floats, Floats]:
    """The topics by id, a draw of each one's yield now, and a number at random."""
    ordered = sorted(topics, key=lambda topic: topic.id)
    posterior = expect(ordered, settings)
    random = np.random.default_rng(seed & 0xFFFFFFFFFFFF)
    draws = random.standard_gamma(posterior.shape) / posterior.rate * freshness(ordered, settings)
    return ordered, draws, random.random(len(ordered))


def _pick(
    fresh: Booleans, draws: Floats, by_chance: Floats, n: int, fresh_share: float, settings: TopicSettings
) -> list[int]:
    """Row numbers: tried topics by their draws, untried ones by their draws and some of them by chance."""
    untried, tried = np.flatnonzero(fresh), np.flatnonzero(~fresh)
    wanted = min(len(untried), max(round(n * fresh_share), n - len(tried)))
    at_random = round(wanted * settings.random_share)
    best = untried[np.argsort(-draws[untried], kind="stable")]
    picked = best[: wanted - at_random]
    others = best[wanted - at_random :]
    lucky = others[np.argsort(-by_chance[others], kind="stable")][:at_random]
    known = tried[np.argsort(-draws[tried], kind="stable")][: n - wanted]
    return _interleaved(np.concatenate((picked, lucky)), known)


def _interleaved(fresh: Integers, known: Integers) -> list[int]:
    """Both in their order, spread evenly, so that any beginning of the list has its part of fresh ones."""
    position = np.concatenate(
        (
            (np.arange(len(known)) + 0.5) / max(len(known), 1),
            (np.arange(len(fresh)) + 0.5) / max(len(fresh), 1),
        )
    )
    return [int(k) for k in np.concatenate((known, fresh))[np.argsort(position, kind="stable")]]


def choose_groups(
    topics: Sequence[TopicRecord],
    groups: int,
    size: int,
    *,
    seed: int,
    fresh_share: float = 1 / 3,
    longest_query: int | None = None,
    separator: str = "|",
    settings: TopicSettings = DEFAULTS,
) -> tuple[tuple[TopicRecord, ...], ...]:
    """Up to `groups` sets of up to `size` topics to join by OR; no topic is in two of them.

    A group is opened by the best topic left and takes those with the highest draw × (1 − overlap with what
    the group has). `longest_query` limits the characters of its queries joined by `separator`.
    """
    if size < 1:
        raise ValueError(f"a group has at least one topic, not {size}")
    # Twice as many as needed, so that there is a choice without overlap.
    pool = list(choose(topics, 2 * groups * size, seed=seed, fresh_share=fresh_share, settings=settings))
    chosen: list[tuple[TopicRecord, ...]] = []
    while pool and len(chosen) < groups:
        chosen.append(_group(pool, size, longest_query, separator))
    return tuple(group for group in chosen if group)


def _group(
    pool: list[TopicRecord], size: int, longest_query: int | None, separator: str
) -> tuple[TopicRecord, ...]:
    """Take one group out of the pool, which is in order of preference."""
    group = [pool.pop(0)]
    length = len(group[0].query)
    # Position stands for the draw: the pool mixes tried and untried topics, whose draws don't compare.
    cost = {topic.id: overlap(group[0], topic) * len(pool) + k for k, topic in enumerate(pool)}
    while len(group) < size and pool:
        fitting = [
            t
            for t in pool
            if longest_query is None or length + len(separator) + len(t.query) <= longest_query
        ]
        if not fitting:
            break
        best = min(fitting, key=lambda topic: (cost[topic.id], topic.id))
        pool.remove(best)
        length += len(separator) + len(best.query)
        group.append(best)
        for topic in pool:
            cost[topic.id] += overlap(best, topic) * len(pool)
    return tuple(group)


def overlap(one: TopicRecord, other: TopicRecord) -> float:
    """From 0 to 1: the share of the smaller topic's members that the other has too, or of its words."""
    first, second = one.members, other.members
    if not first or not second:
        first, second = frozenset(one.query.casefold().split()), frozenset(other.query.casefold().split())
    smaller = min(len(first), len(second))
    return len(first & second) / smaller if smaller else 0.0
