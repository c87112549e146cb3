"""Attention in virtual time: the graph of what a hunter found, what stimulates it, and who is steered by it.

The graph is the product's as far as attention goes: videos with their tags and channels, and tags that occur
together. Growing videos stimulate it when they are judged, a day after publication, and perhaps sooner, when
their counts look like it; what comes of that is read by topic.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from scipy.sparse import coo_array, csr_array

from maia.graph.attention import SPREADING, Spreading, attention_gained, conductance_of
from maia.learning.growth import looks_growing
from maia.learning.importance import ECONOMY, Economy
from maia.learning.topics import TopicRecord
from maia.learning.velocity import Booleans, Floats, Integers
from tests.bench.discovery.scene import DAY, HOUR
from tests.bench.discovery.simulation import Desk
from tests.bench.discovery.strategies import Portfolio

_MOST_TOGETHER = 20
"""Links `co_occurs` of a tag."""
_LEAST_TOGETHER = 3
"""Videos that two tags must share."""


@dataclass(frozen=True)
class Steering:
    """How a hunter is steered."""

    spreading: Spreading = SPREADING
    economy: Economy = ECONOMY
    slope: float = 0.0
    early: bool = True
    """Whether videos stimulate as soon as they look like growing."""
    early_after_h: float = 2.0
    attended: int = 0
    """How many of the topics with the most attention there are to choose from beside the others."""


class Attention:
    """What attention the topics of a run have."""

    def __init__(self, desk: Desk, steering: Steering) -> None:
        self.desk, self.steering = desk, steering
        self.sti = np.zeros(len(desk.scene.queries))
        self.at_s = desk.now
        self._told = np.zeros(len(desk.scene.published), np.bool_)
        self._together: csr_array | None = None
        self._together_day = -1

    def update(self, judged: Integers, grows: Booleans) -> None:
        """Charge rent, and pay the videos that are known to grow since the last time."""
        steering, now = self.steering, self.desk.now
        paid = judged[grows]
        if steering.early:
            paid = np.concatenate((paid, self._promising()))
        self.sti, _ = steering.economy.after(self.sti, 0.0, (now - self.at_s) / HOUR)
        self.at_s = now
        if len(paid):
            self.sti += self._spread(paid)

    def _promising(self) -> Integers:
        """Early videos that look like growing, some hours after they were found."""
        desk, scene = self.desk, self.desk.scene
        with np.errstate(invalid="ignore"):
            due = ~self._told & (desk.now - desk.found_s >= self.steering.early_after_h * HOUR)
        numbers = np.flatnonzero(due)
        self._told[numbers] = True
        numbers = numbers[desk.now - scene.published[numbers] <= DAY]
        ages_h = np.maximum((desk.now - scene.published[numbers]) / HOUR, 0.02)
        views = scene.catalogue.views_at(numbers, desk.now)
        promising: Integers = numbers[looks_growing(ages_h, views, desk.threshold) >= 0.5]
        return promising

    def _spread(self, paid: Integers) -> Floats:
        """What reaches the topics of wages for these videos."""
        scene, topics = self.desk.scene, len(self.sti)
        found = np.flatnonzero(~np.isnan(self.desk.found_s))
        channels = scene.channel[found]
        first_video = topics + int(scene.channel.max()) + 1
        tags, rows = scene.topics_of(found)
        together = self._co_occurring(tags, rows, len(found)).tocoo()
        ends = np.concatenate(
            (
                np.stack((first_video + rows, tags)),
                np.stack((first_video + np.arange(len(found)), topics + channels)),
                np.stack((together.row, together.col)),
            ),
            axis=1,
        )
        strength = np.concatenate((np.ones(len(rows) + len(found)), together.data))
        is_hebbian = np.arange(len(strength)) >= len(rows) + len(found)
        links = conductance_of(first_video + len(found), ends, strength, is_hebbian, self.steering.spreading)
        places = first_video + np.searchsorted(found, paid)
        economy = self.steering.economy
        sti, _ = attention_gained(
            links, places, np.full(len(places), economy.wage), np.zeros(len(places)),
            self.steering.spreading, economy,
        )  # fmt: skip
        return sti[:topics].astype(np.float64)

    def _co_occurring(self, tags: Integers, rows: Integers, videos: int) -> csr_array:
        """Pointwise mutual information of the tags that come together most beyond chance, once a day."""
        if self._together is None or self.desk.day != self._together_day:
            self._together_day = self.desk.day
            carried = coo_array((np.ones(len(tags)), (rows, tags)), (videos, len(self.sti))).tocsr()
            self._together = _mutual_information(carried)
        return self._together


def _mutual_information(carried: csr_array) -> csr_array:
    videos = carried.shape[0]
    often = np.asarray(carried.sum(axis=0)).ravel()
    both = (carried.T @ carried).tocoo()
    kept = (both.row < both.col) & (both.data >= _LEAST_TOGETHER)
    row, col, count = both.row[kept], both.col[kept], both.data[kept]
    pmi = np.log(count * videos / (often[row] * often[col]))
    positive = pmi > 0
    row, col, pmi = row[positive], col[positive], pmi[positive]
    ends, values = np.concatenate((row, col)), np.concatenate((pmi, pmi))
    order = np.lexsort((-values, ends))
    starts = np.searchsorted(ends[order], np.arange(carried.shape[1]))
    rank = np.arange(len(order)) - starts[ends[order]]
    best = np.zeros(len(ends), np.bool_)
    best[order[rank < _MOST_TOGETHER]] = True
    kept = best[: len(row)] | best[len(row) :]
    return coo_array((pmi[kept], (row[kept], col[kept])), (carried.shape[1],) * 2).tocsr()


@dataclass
class Steered(Portfolio):
    """The portfolio, whose topics have attention."""

    steering: Steering = field(default_factory=Steering)
    attention: Attention | None = None

    def tick(self, desk: Desk, searches: int) -> None:
        if self.attention is None:
            self.attention = Attention(desk, self.steering)
            self.topic_settings = replace(self.topic_settings, attention_slope=self.steering.slope)
        super().tick(desk, searches)

    def _judge(self, desk: Desk) -> tuple[Integers, Booleans]:
        numbers, grows = super()._judge(desk)
        assert self.attention is not None
        self.attention.update(numbers, grows)
        return numbers, grows

    def _pool(self, desk: Desk) -> Integers:
        assert self.attention is not None
        pool, table = super()._pool(desk), desk.topics
        free = np.flatnonzero((table.mentions > 0) & (table.rests_until_s <= desk.now))
        best = free[np.argsort(-self.attention.sti[free], kind="stable")][: self.steering.attended]
        return np.union1d(pool, best[self.attention.sti[best] > 0])

    def _record(self, desk: Desk, k: int) -> TopicRecord:
        assert self.attention is not None
        hours = (desk.now - self.attention.at_s) / HOUR
        sti, _ = self.steering.economy.after(self.attention.sti[k], 0.0, hours)
        return replace(super()._record(desk, k), attention=float(sti))
