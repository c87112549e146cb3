"""Which atoms are most like another one: by derived links, by their vectors, or else by what they share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal
from uuid import UUID

from atlas.adapters.graph import OWN
from atlas.adapters.graph_views import GraphViewsDAO
from maia.graphing.nearest import nearest_atoms

_SIMILAR: Final = "similar"
_MOST_LINKS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Likeness:
    """Atoms with how much they are alike, the likest first, and how that was told.

    By `links`, it is the weight of a derived link `similar`, a cosine. An atom without such links has the
    cosines of its vector with those of others, by `vectors`. Without one, it is the closeness of Adamic and
    Adar: atoms are alike that share `neighbours` which few others have.
    """

    by: Literal["links", "vectors", "neighbours"]
    atoms: tuple[tuple[UUID, float], ...]


async def similar_atoms(dao: GraphViewsDAO, handle: UUID, limit: int = 10) -> Likeness:
    """The atoms most like one that is there, of the same type."""
    near = await dao.near(handle, [_SIMILAR], by_weight_alone=True, limit=limit, fan_out=_MOST_LINKS)
    if near:
        return Likeness("links", tuple((each.handle, each.weight or 0.0) for each in near))
    [atom] = await dao.get([handle])
    nearest = await nearest_atoms(dao, atom, limit) if dao.space == OWN else []
    if nearest:
        return Likeness("vectors", tuple(nearest))
    near = await dao.second_neighbours(handle, of_type=atom.type, limit=limit)
    return Likeness("neighbours", tuple((each.handle, each.closeness or 0.0) for each in near))
