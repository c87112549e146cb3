"""A small knowledge graph for tests: tags that go together, videos that carry them, channels, topics."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from atlas.adapters.graph import Attention, Evidence, GraphDAO, Link, Node, Sources, node_handle
from atlas.composition import Atlas

TAGS: Final = ("lofi", "chill", "study", "jazz", "beats", "a/b?c&d")
VIDEOS: Final = 12
ONCE: Final = Evidence(1)
AWKWARD: Final = "\"'><script>alert(1)</script>{{7*7}}\u202egnp, (x)"


def graph_of(atlas: Atlas) -> GraphDAO:
    return GraphDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)


def links() -> list[Link]:
    """Each video has a channel, a category, a topic that found it, and two tags; tags go together."""
    found = []
    topic = Node("topic", "lo fi")
    for n in range(VIDEOS):
        video = Node("video", f"video{n}")
        found += [
            Link("uploaded_by", (video, Node("channel", f"UC-{n % 3}")), ONCE),
            Link("inherits", (video, Node("category", "10"))),
            Link("found_by", (video, topic), ONCE),
            *(Link("tagged", (video, Node("tag", TAGS[(n * k) % len(TAGS)])), ONCE) for k in (1, 5)),
        ]
    for n, tag in enumerate(TAGS[1:], 1):
        together = (Node("tag", TAGS[0]), Node("tag", tag))
        found.append(Link("co_occurs", together, Evidence(n, 3), 0.5 * n))
    found.append(Link("similar", (Node("video", "video1"), Node("video", "video2")), weight=0.75))
    found.append(Link("inherits", (topic, Node("tag", "lofi"))))
    found.append(Link("related_to", (topic, Node("concept", AWKWARD)), Evidence(3, 1), 0.9))
    return found


async def store_graph(atlas: Atlas, at: datetime | None = None) -> None:
    """Store the graph, in which the first tag has most attention."""
    graph = graph_of(atlas)
    await graph.add(links(), Sources.FACTS)
    attention = {node_handle("tag", tag): Attention(9.0 - n, 2.0) for n, tag in enumerate(TAGS[:3])}
    await graph.attend(attention, at or atlas.clock.now())
