"""What the graph knows of topics in virtual time: their categories and communities.

It is derived once a day from the videos found so far, as the product derives it. Communities are those of
videos, tags and channels, with the tag that tells most of each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from uuid import UUID

import numpy as np
from scipy.sparse import block_array, coo_array

from atlas.adapters.graph import node_handle
from atlas.adapters.graph_topics import GraphTopic
from maia.graph.adjacency import Adjacency
from maia.graph.clustering import cluster, telling
from maia.graphing.topics import NOTHING_KNOWN, KnownTopics
from maia.learning.observations import Scalar
from maia.learning.topics import TopicRecord
from maia.learning.velocity import Booleans, Integers
from tests.bench.discovery.simulation import Desk
from tests.bench.discovery.strategies import Portfolio, Question

_LEAST, _SHARE = 2, 0.2
"""A topic is of the commonest category of its videos, if so many and this share of them are of it."""


@dataclass(frozen=True)
class Asked:
    """A question that was put: when, about which topics, and the context in which the learner sees it."""

    at_s: float
    topics: Integers
    context: Mapping[str, Scalar]
    known: Mapping[str, Scalar]
    """The part of the context that the graph adds."""


@dataclass
class Knowing(Portfolio):
    """The portfolio, which knows of its topics what the graph does."""

    chooses: bool = True
    """Whether it chooses by that, too."""
    grouped: bool = False
    """Whether communities are found, which takes most of the time."""
    questions: list[Asked] = field(default_factory=list)
    known: KnownTopics = NOTHING_KNOWN
    _derived_day: int = -1

    def tick(self, desk: Desk, searches: int) -> None:
        if desk.day != self._derived_day:
            self._derived_day = desk.day
            self.known = _derived(desk, grouped=self.grouped)
        super().tick(desk, searches)

    def _record(self, desk: Desk, k: int) -> TopicRecord:
        record = super()._record(desk, k)
        return replace(record, category=self.known.category(str(k))) if self.chooses else record

    def _ask(self, desk: Desk, question: Question) -> None:
        form, topics = question.form, question.topics
        context: dict[str, Scalar] = {
            "goal": "find", "source": "search", "arm": form.arm, "bucket": "search", "topics": len(topics),
            "page": "next" if question.start else "first",
        }  # fmt: skip
        known = self.known.context([str(k) for k in topics.tolist()])
        self.questions.append(Asked(desk.now, topics, context, known))
        super()._ask(desk, question)


def _derived(desk: Desk, *, grouped: bool) -> KnownTopics:
    """What the graph knows of the topics of the videos found so far; a topic's key is its number."""
    scene, table, size = desk.scene, desk.topics, len(desk.scene.queries)
    found = np.flatnonzero(~np.isnan(desk.found_s))
    tags, rows = scene.topics_of(found)
    if not len(tags):
        return NOTHING_KNOWN
    # A topic is linked to the videos that questions about it found; these are about those that carry it.
    of_videos = scene.catalogue.columns.category[found[rows]].astype(np.int64)
    categories = _commonest(tags, of_videos, np.isfinite(table.asked_s), size)
    leading = _leading(scene.channel[found], tags, rows) if grouped else {}
    topics = {str(k): GraphTopic(str(k), categories.get(k), leading.get(k)) for k in np.unique(tags).tolist()}
    return KnownTopics(topics, topics)


def _commonest(topics: Integers, categories: Integers, asked: Booleans, size: int) -> dict[int, int]:
    """The category of each topic that was asked about and has one."""
    pairs, counts = np.unique(np.stack((topics, categories)), axis=1, return_counts=True)
    total = np.bincount(topics, minlength=size)[pairs[0]]
    kept = asked[pairs[0]] & (counts >= np.maximum(_LEAST, _SHARE * total))
    order = np.lexsort((-pairs[1, kept], counts[kept]))
    # Of several, the last one stays, which is the commonest.
    return dict(zip(pairs[0, kept][order].tolist(), pairs[1, kept][order].tolist(), strict=True))


def _leading(channels: Integers, tags: Integers, rows: Integers) -> dict[int, UUID]:
    """The tag that tells most of the community of each tag: its handle, by the tag's number."""
    topics, of_tag = np.unique(tags, return_inverse=True)
    makers, of_channel = np.unique(channels, return_inverse=True)
    videos = len(channels)
    tagged = coo_array((np.ones(len(rows)), (rows, of_tag)), (videos, len(topics)))
    uploaded = coo_array((np.ones(videos), (np.arange(videos), of_channel)), (videos, len(makers)))
    half = block_array(
        [[coo_array((videos, videos)), tagged, uploaded], [tagged.T, None, None], [uploaded.T, None, None]]
    )
    matrix = half.tocsr().astype(np.float32)
    places = np.arange(matrix.shape[0])
    graph = Adjacency(matrix, places, directed=False)
    found = cluster(graph)
    best = telling(graph, found, places[videos : videos + len(topics)], most=1)
    labels = found.labels[videos : videos + len(topics)].tolist()
    return {
        topic: node_handle("tag", str(topics[best[label][0] - videos]))
        for topic, label in zip(topics.tolist(), labels, strict=True)
        if len(best[label])
    }
