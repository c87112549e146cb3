"""`maia comments`: lists suggestions with the command that acts on each, and people's comments."""

from __future__ import annotations

from contextlib import aclosing
from datetime import UTC
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from atlas.categories import Category
from maia.commands.terminal import AsJson, console, print_json, print_line, print_text, with_atlas

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from atlas.adapters.comments import Comment, CommentsDAO
    from atlas.composition import Atlas
    from maia.views.comments import CommentChange

app = typer.Typer(rich_markup_mode="markdown", add_completion=False)

_STYLES: Final = {"new": "green", "changed": "yellow", "closed": "dim", "withdrawn": "dim", "open": ""}


@app.command()
def comments(
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what changes, until Ctrl-C.")
    ] = False,
    add: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Add a comment; needs --category.", show_default=False),
    ] = None,
    category: Annotated[
        Category | None,
        typer.Option(help="Only this category, or that of the comment to add.", show_default=False),
    ] = None,
    close: Annotated[
        int | None,
        typer.Option(
            metavar="ID",
            min=1,
            help="Close a suggestion or comment: it is done, or you decided against it.",
            show_default=False,
        ),
    ] = None,
    reason: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Why it is closed.", show_default=False)
    ] = None,
    author: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Who you are. [default: your user name]", show_default=False),
    ] = None,
    also_closed: Annotated[bool, typer.Option("--all", help="Also show what was closed.")] = False,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=1000, help="How many to show at most.")
    ] = 50,
    as_json: AsJson = False,
) -> None:
    """List suggestions, each with its grounds and the command that acts on it, and what people noted.

    The learner and the maintainer renew their suggestions as they run, and withdraw what no longer holds.
    What you close stays closed until it says something else.

    For example:

    - `maia comments` lists what is open, newest first.
    - `maia comments -f` goes on with what is new, changed, closed or withdrawn.
    - `maia comments --add "the disk was replaced today" --category storage`
    - `maia comments --close 12 --reason "the proxy asks for a password"`
    - `maia comments --all --json | jq '.[] | select(.category == "security")'`
    """
    _check(follow=follow, add=add, category=category, close=close, reason=reason)
    if add is not None:
        assert category is not None
        with_atlas(_adding(add, category, author, as_json=as_json))
    elif close is not None:
        with_atlas(_closing(close, author, reason, as_json=as_json))
    elif follow:
        with_atlas(lambda atlas: _follow(atlas, category, as_json=as_json))
    else:
        found = with_atlas(lambda atlas: _read(atlas, limit, category, also_closed=also_closed))
        _print(found, also_closed=also_closed, as_json=as_json)


def _check(
    *, follow: bool, add: str | None, category: str | None, close: int | None, reason: str | None
) -> None:
    if sum([follow, add is not None, close is not None]) > 1:
        raise typer.BadParameter("--follow, --add and --close: give one of them")
    if add is not None and category is None:
        raise typer.BadParameter("--add needs a --category, such as --category storage")
    if reason is not None and close is None:
        raise typer.BadParameter("--reason says why something is closed: it needs --close ID")


def _adding(
    text: str, category: Category, author: str | None, *, as_json: bool
) -> Callable[[Atlas], Awaitable[None]]:
    async def run(atlas: Atlas) -> None:
        id_ = await _dao(atlas).add(text, category, author or _user(atlas))
        if as_json:
            print_json({"id": id_, "category": category})
        else:
            print_text(f"Comment {id_} is added; to close it: maia comments --close {id_}")

    return run


def _closing(
    id_: int, author: str | None, reason: str | None, *, as_json: bool
) -> Callable[[Atlas], Awaitable[None]]:
    async def run(atlas: Atlas) -> None:
        from maia.errors import MaiaError

        dao = _dao(atlas)
        closed = await dao.close(id_, author or _user(atlas), reason)
        comment = await dao.comment(id_)
        if comment is None:
            raise MaiaError(f"there is no comment {id_}; to see those there are: maia comments")
        if as_json:
            print_json(_as_dict(comment))
        elif closed:
            print_text(f"Closed: {comment.text}")
        else:
            print_text(f"It is closed already: {comment.text}")

    return run


async def _read(atlas: Atlas, limit: int, category: str | None, *, also_closed: bool) -> list[Comment]:
    return await _dao(atlas).comments(limit, also_closed=also_closed, category=category)


def _dao(atlas: Atlas) -> CommentsDAO:
    from atlas.adapters.comments import CommentsDAO

    return CommentsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)


def _user(atlas: Atlas) -> str:
    """The name of who runs this command; the machine's if they have none, as in some containers."""
    from getpass import getuser

    try:
        return getuser()
    except (OSError, KeyError):
        return atlas.settings.node_id


def _as_dict(comment: Comment) -> dict[str, Any]:
    from maia.views.words import plain

    described: dict[str, Any] = plain(comment)
    return described


def _print(found: Sequence[Comment], *, also_closed: bool, as_json: bool) -> None:
    if as_json:
        print_json([_as_dict(each) for each in found])
        return
    if not found:
        more = "" if also_closed else " What was closed: maia comments --all."
        print_text(
            "Nothing is suggested now: the learner and the maintainer look again as they run."
            f'{more} To note something: maia comments --add "…" --category reliability'
        )
        return
    for each in found:
        _print_block(each)
    print_text("Times are UTC. To close one: maia comments --close ID")


def _print_block(comment: Comment) -> None:
    """When and what about, and below it the text, the command that acts on it, and its grounds."""
    from rich.padding import Padding
    from rich.text import Text

    from atlas.foreign import one_line
    from maia.views.comments import brief

    by = f"  by {one_line(comment.author)}" if comment.author else ""
    out = console()
    head = Text(f"{comment.id:>4}  {comment.made_at.astimezone(UTC):%Y-%m-%d %H:%M}  ")
    out.print(head.append(comment.category, style="bold").append(by, style="dim"))
    lines = [
        (one_line(comment.text), ""),
        (f"→ {one_line(comment.command)}" if comment.command else "", "cyan"),
    ]
    lines += [(one_line(brief(comment.evidence)), "dim"), (_closed(comment), "dim")]
    for text, style in lines:
        if text:
            out.print(Padding(Text(text, style=style), (0, 0, 0, 6), expand=False))
    out.print()


def _closed(comment: Comment) -> str:
    from atlas.foreign import one_line

    if comment.closed_at is None:
        return ""
    by = f" by {comment.closed_by}" if comment.closed_by else ""
    why = f": {comment.reason}" if comment.reason else ""
    return one_line(f"closed {comment.closed_at.astimezone(UTC):%Y-%m-%d %H:%M}{by}{why}")


async def _follow(atlas: Atlas, category: str | None, *, as_json: bool) -> None:
    from maia.views.comments import follow

    if not as_json:
        console(stderr=True).print("Following comments; press Ctrl-C to stop. Times are UTC.", style="dim")
    async with aclosing(follow(atlas, category)) as changes:
        async for change in changes:
            _print_change(change, as_json=as_json)


def _print_change(change: CommentChange, *, as_json: bool) -> None:
    import sys

    from rich.text import Text

    from atlas.foreign import one_line
    from maia.views.comments import brief

    comment = change.comment
    if as_json:
        print_line({"change": change.change} | _as_dict(comment))
        return
    at = comment.closed_at or (comment.updated_at if change.change == "changed" else comment.made_at)
    line = Text(f"{at.astimezone(UTC):%Y-%m-%d %H:%M}  ")
    line.append(f"{change.change:<9}", style=_STYLES[change.change])
    line.append(f" {comment.id:>4} {comment.category}: ", style="bold")
    line.append(one_line(comment.text) + (f" ({comment.author})" if comment.author else ""))
    if change.change == "closed" and (comment.closed_by or comment.reason):
        line.append(f" [closed by {comment.closed_by or 'somebody'}: {comment.reason or 'no reason given'}]")
    elif comment.command:
        line.append(f"\n{'':>18}{comment.command}", style="cyan")
    if change.change in ("open", "new") and (grounds := brief(comment.evidence)):
        line.append(f"\n{'':>18}{grounds}", style="dim")
    console().print(line)
    sys.stdout.flush()
