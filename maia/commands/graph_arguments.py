"""What the commands of `maia graph` share: arguments, spaces, and how wrong ones are told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Annotated, NoReturn, TypeVar

import typer

from maia.commands.terminal import with_atlas

if TYPE_CHECKING:
    from atlas.composition import Atlas

OneAtom = Annotated[
    str, typer.Argument(metavar="ATOM", help="Such as tag:music, in quotes if it has spaces.")
]
Atoms = Annotated[
    list[str], typer.Argument(metavar="ATOM…", help="Such as tag:music, in quotes if it has spaces.")
]
LinkTypes = Annotated[
    list[str] | None,
    typer.Option(
        "--type", "-t", metavar="TYPE", help="Only links of this type; may be repeated.", show_default=False
    ),
]
Hops = Annotated[int, typer.Option("--hops", min=1, max=2, help="How many links away.")]
SpaceName = Annotated[
    str | None,
    typer.Option(
        "--space",
        metavar="NAME",
        help="A read-only copy of another site's graph. [default: this site's own]",
        show_default=False,
    ),
]

_T = TypeVar("_T")


def in_space(name: str | None, work: Callable[[Atlas, int], Awaitable[_T]]) -> _T:
    """Run a command's coroutine with an Atlas and a space's number; what can't be read is wrong usage."""

    async def opened(atlas: Atlas) -> _T:
        from atlas.adapters.graph import OWN
        from maia.graphing.forms import FormError
        from maia.views.graph import space_named

        try:
            return await work(atlas, OWN if name is None else await space_named(atlas, name))
        except FormError as error:
            raise typer.BadParameter(str(error)) from error

    return with_atlas(opened)


def of_types(types: Sequence[str] | None) -> str:
    """Of which types, in a sentence; nothing if of all."""
    return f" of the type {' or '.join(types)}" if types else ""


def refuse(message: str) -> NoReturn:
    """End the command with a message and the status of a failure."""
    from maia.graphing.naming import NoSuchAtom

    raise NoSuchAtom(message)
