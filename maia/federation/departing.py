"""Sites that have departed for good, whose word on the graph nobody takes back any more."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from atlas.adapters.claims import ClaimingSite
from atlas.adapters.federation import FederationDAO
from atlas.composition import Atlas
from maia.errors import MaiaError

KIND: Final = "graph.site_forgotten"
ALIVE: Final = timedelta(days=1)
"""A site that was seen within this time, and didn't leave, may well say something yet."""


class SiteNotForgotten(MaiaError):
    """There is no such site, or it is alive; nothing was taken back."""


async def claiming_site(atlas: Atlas, name: str, *, force: bool = False) -> ClaimingSite:
    """The site of a name, or of the first characters of one, that says that atoms are there.

    SiteNotForgotten if none or several are meant, or if it is alive and not `force`.
    """
    known = await _dao(atlas).claims().sites()
    found = [each for each in known if each.site == name] or [
        each for each in known if name and each.site.startswith(name)
    ]
    if len(found) != 1:
        raise SiteNotForgotten(_none_or_several(name, found, known))
    [site] = found
    has_left = site.left_at is not None and (site.seen_at is None or site.left_at >= site.seen_at)
    if not force and not has_left and site.seen_at and atlas.clock.now() - site.seen_at < ALIVE:
        raise SiteNotForgotten(
            f"the site {site.site} was seen at {site.seen_at:%Y-%m-%d %H:%M} UTC, and would say everything "
            "again: run maia federation leave there, or give --force if it is gone all the same"
        )
    return site


async def forget_site(atlas: Atlas, site: ClaimingSite) -> int:
    """Take back what a site says of atoms, in its place, and note that it has left; returns how many claims.

    Atoms that nobody else says are there are gone then, with all links to them. The other sites of the
    cluster learn of both as of any change.
    """
    dao = _dao(atlas)
    claims = await dao.claims().take_back(site.site)
    await dao.depart(site.site)
    await atlas.events.append(KIND, {"site": site.site, "claims": claims}, agent="operator")
    return claims


def _none_or_several(name: str, found: Sequence[ClaimingSite], known: Sequence[ClaimingSite]) -> str:
    if found:
        return f"several sites begin with {name!r}: {', '.join(each.site for each in found)}"
    others = ", ".join(each.site for each in known)
    return f"no other site {name!r} says that atoms are there" + (
        f"; these do: {others}" if others else ", nor does any other"
    )


def _dao(atlas: Atlas) -> FederationDAO:
    return FederationDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
