"""The attention of topics, by which the graph steers the hunter."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Final

from atlas.adapters.graph import node_handle
from atlas.adapters.graph_attention import GraphAttentionDAO
from atlas.composition import Atlas

_TYPES: Final = ("topic", "tag")
"""A topic's atom, and that of the tag which it searches for."""
_HOUR: Final = timedelta(hours=1)


async def attention_of_topics(atlas: Atlas, keys: Iterable[str]) -> dict[str, float]:
    """The short-term importance of topics now, with that of their tags, by their keys, if they have any."""
    # It loads NumPy, which a hunter with nothing to do has no need of.
    from maia.learning.importance import ECONOMY

    dao = GraphAttentionDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    key_of = {node_handle(type_, key): key for key in keys for type_ in _TYPES}
    now, found = atlas.clock.now(), dict[str, float]()
    for handle, held in (await dao.held(list(key_of))).items():
        sti, _ = ECONOMY.after(held.sti, held.lti, (now - held.attended_at) / _HOUR)
        key = key_of[handle]
        found[key] = found.get(key, 0.0) + float(sti)
    return found
