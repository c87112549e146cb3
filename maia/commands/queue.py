"""`maia queue`: the topics that wait, cool or are parked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from maia.terminal import AsJson, print_json, print_table, with_atlas

if TYPE_CHECKING:
    from atlas.adapters.maia import MaiaDAO
    from atlas.composition import Atlas

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", add_completion=False)

_T = TypeVar("_T")
_STATUSES = ("active", "cooling", "parked")
_SHOWN_OF_ERROR = 80

Queries = Annotated[
    list[str] | None, typer.Argument(metavar="[QUERY]", help="Topics, by their query.", show_default=False)
]
Ids = Annotated[
    list[int] | None, typer.Option("--id", help="Topics, by the id that list shows.", show_default=False)
]


@app.callback()
def queue() -> None:
    """List, retry and park topics of the search queue."""


@app.command("list")
def list_topics(
    status: Annotated[
        str | None, typer.Option(help=f"Only these: {', '.join(_STATUSES)}.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most topics to list.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List topics, those to be searched next first."""
    if status is not None and status not in _STATUSES:
        raise typer.BadParameter(f"{status!r} is no status: use {', '.join(_STATUSES)}")
    topics = _with_dao(lambda dao: dao.list_topics(status, limit))
    if as_json:
        print_json(topics)
        return
    columns = (
        "id", "query", "status", "origin", "mentions", "pages", "videos", "attempts", "held until",
        "cools until", "last error",
    )  # fmt: skip
    rows = [
        (
            str(topic.id), topic.query, topic.status, topic.origin, topic.mention_count, topic.pages_total,
            topic.new_videos_total, topic.attempts, topic.lease_until, topic.cool_until,
            (topic.last_error or "")[:_SHOWN_OF_ERROR] or None,
        )
        for topic in topics
    ]  # fmt: skip
    print_table(columns, rows)


@app.command()
def retry(
    queries: Queries = None,
    ids: Ids = None,
    everything: Annotated[bool, typer.Option("--all", help="Every parked topic.")] = False,
    as_json: AsJson = False,
) -> None:
    """Put parked topics back into the queue, and end the pause of those that failed."""
    named = _named(queries, ids, everything=everything)
    _tell(_with_dao(lambda dao: dao.retry_topics(named)), "put back", as_json=as_json)


@app.command()
def park(
    queries: Queries = None,
    ids: Ids = None,
    reason: Annotated[str, typer.Option(help="Why, for whoever finds them parked.")] = "parked by hand",
    as_json: AsJson = False,
) -> None:
    """Take topics out of the queue until they are retried; whoever is at work on one loses it."""
    named = _named(queries, ids)
    assert named is not None
    _tell(_with_dao(lambda dao: dao.park_topics(named, reason)), "parked", as_json=as_json)


def _named(
    queries: list[str] | None, ids: list[int] | None, *, everything: bool = False
) -> list[int | str] | None:
    """The topics given, None for all; whoever gives none or both is told."""
    named: list[int | str] = [*(queries or []), *(ids or [])]
    if everything and named:
        raise typer.BadParameter("give topics or --all, not both")
    if not everything and not named:
        raise typer.BadParameter("name topics by their query or by --id: maia queue list shows both")
    return None if everything else named


def _tell(count: int, done: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"topics": count})
    else:
        hint = "" if count else ": no such topic (maia queue list shows them)"
        typer.echo(f"{done} {count} topic{'s' if count != 1 else ''}{hint}")


def _with_dao(work: Callable[[MaiaDAO], Awaitable[_T]]) -> _T:
    async def on(atlas: Atlas) -> _T:
        from atlas.adapters.maia import MaiaDAO

        return await work(MaiaDAO(atlas.db, clock=atlas.clock, settings=atlas.settings))

    return with_atlas(on)
