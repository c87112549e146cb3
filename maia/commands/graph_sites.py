"""`maia graph forget-site`: dropping what a site said that is gone for good."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from atlas.wording import counted
from maia.commands.terminal import AsJson, print_json, print_text, with_atlas

if TYPE_CHECKING:
    from atlas.adapters.claims import ClaimingSite
    from atlas.composition import Atlas


def forget_site(
    site: Annotated[
        str,
        typer.Argument(metavar="SITE", help="Its name in maia federation status, or how that begins."),
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would go.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Also if the site was seen within a day.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take back what a site said of atoms that has departed for good, here and so at all other sites.

    Atoms that only it said are there go, with all links to them; of others, its observations no longer count.
    If it comes back after all, it says everything again. For example:

    - `maia graph forget-site 8f3c2a91 --dry-run`
    - `maia graph forget-site 8f3c2a91d04b7e65`
    """
    if as_json and not (yes or dry_run):
        raise typer.BadParameter("with --json nobody is asked: add --yes or --dry-run", param_hint="--json")

    async def look(atlas: Atlas) -> ClaimingSite:
        from maia.federation.departing import claiming_site

        return await claiming_site(atlas, site, force=force or dry_run)

    found = with_atlas(look)
    told = f"{counted(found.claims, 'atom')}, {found.alone:,} of which nobody else says are there"
    if dry_run:
        if as_json:
            print_json({"site": found.site, "claims": found.claims, "alone": found.alone, "forgotten": False})
        else:
            print_text(f"The site {found.site} says that there are {told}. Nothing was changed.")
        return
    if not yes:
        typer.confirm(f"Take back what {found.site} says of {told}, at all sites?", abort=True)

    async def forget(atlas: Atlas) -> int:
        from maia.federation.departing import forget_site

        return await forget_site(atlas, found)

    claims = with_atlas(forget)
    if as_json:
        print_json({"site": found.site, "claims": claims, "alone": found.alone, "forgotten": True})
    else:
        print_text(f"Took back what {found.site} said of {counted(claims, 'atom')}.")
