"""What is drawn around an atom: each type of links gets its share, however popular the atom is."""

from __future__ import annotations

from collections import Counter

import pytest

from atlas.adapters.graph import Evidence, Link, Node, Sources, node_handle
from atlas.adapters.neighbourhood import NeighbourhoodDAO
from atlas.composition import Atlas
from maia.graphing.naming import NoSuchAtom
from maia.views.surroundings import MOST_BEYOND, MOST_NEAR, surroundings
from tests.stored_graphs import graph_of

POPULAR = Node("tag", "popular")


async def test_a_popular_tag_is_drawn_with_what_goes_with_it(atlas: Atlas) -> None:
    videos = [Node("video", f"v{n}") for n in range(700)]
    links = [Link("tagged", (video, POPULAR), Evidence(1)) for video in videos]
    links += [Link("uploaded_by", (video, Node("channel", f"c{n % 4}"))) for n, video in enumerate(videos)]
    links += [Link("inherits", (video, Node("category", "10"))) for video in videos]
    for n in range(3):
        links.append(Link("co_occurs", (POPULAR, Node("tag", f"other{n}")), Evidence(2), float(n)))
    links.append(Link("related_to", (POPULAR, POPULAR)))
    links.append(Link("related_to", (Link("tagged", (videos[0], POPULAR)), Node("concept", "c"))))
    await graph_of(atlas).add(links, Sources.FACTS)

    found = await surroundings(atlas, "tag:popular")
    assert found == await surroundings(atlas, str(node_handle("tag", "popular")))
    assert found.atoms[0].atom == "tag:popular"
    hops = Counter(each.hops for each in found.atoms)
    assert (hops[0], 15 <= hops[1] <= MOST_NEAR, 1 <= hops[2] <= MOST_BEYOND) == (1, True, True)
    shown = {each.atom for each in found.atoms}
    assert {"tag:other0", "tag:other1", "tag:other2", "category:10"} <= shown
    with_middle = {max(each.first, each.second) for each in found.links if 0 in (each.first, each.second)}
    assert {nth for nth, each in enumerate(found.atoms) if each.hops == 1} == with_middle
    shares = {
        found.atoms[max(each.first, each.second)].atom: each.share
        for each in found.links
        if each.type == "co_occurs"
    }
    assert (shares["tag:other2"], shares["tag:other1"], shares["tag:other0"]) == (1.0, 0.5, 0.0)

    few = found.nearest(5)
    assert few.atoms == found.atoms[:5]
    assert all(max(each.first, each.second) < 5 for each in few.links)

    dao = NeighbourhoodDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    near = await dao.nearest(node_handle("tag", "popular"), 5)
    assert Counter(each.type for each in near) == {"tagged": 5, "co_occurs": 3}
    with pytest.raises(NoSuchAtom, match="there is no atom tag:nothing"):
        await surroundings(atlas, "tag:nothing")
