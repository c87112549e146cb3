"""`maia queue`: lists, retries and parks topics of the search queue."""

from __future__ import annotations

from typing import Annotated

import typer

from atlas.wording import counted
from maia.commands.tables import Column, print_table
from maia.commands.terminal import AsJson, print_json, print_text, with_atlas
from maia.views.words import plain

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", add_completion=False)

_STATUSES = ("active", "cooling", "parked")
_SHOWN_OF_ERROR = 80

Queries = Annotated[
    list[str] | None, typer.Argument(metavar="QUERY", help="Topics, by their query.", show_default=False)
]
Ids = Annotated[
    list[int] | None,
    typer.Option("--id", help="A topic, by its id (see maia queue list).", show_default=False),
]


@app.callback()
def queue() -> None:
    """List, retry and park topics of the search queue."""


@app.command("list")
def list_topics(
    status: Annotated[
        str | None, typer.Option(help=f"Only topics that are {' or '.join(_STATUSES)}.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many topics to list.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List topics by priority.

    Of the first ones, the hunter chooses those from which it expects most; with the strategy `specification`
    it searches in this order. `asked` is how often a topic was asked about: a question that joins ten topics
    counts as a tenth for each. `growing` is how many of the videos that it found early have grown.
    """
    if status is not None and status not in _STATUSES:
        raise typer.BadParameter(f"{status!r} is not a status: use {', '.join(_STATUSES)}")
    from maia.views.queue import queue

    topics = with_atlas(lambda atlas: queue(atlas, status, limit)).topics
    if as_json:
        print_json(plain(topics))
        return
    if not topics:
        print_text("There are no such topics: add some with maia seed TOPIC.")
        return
    columns = (
        "id", Column("query", 20), Column("only", 14, wraps=True, rank=2), "status", Column("origin", rank=3),
        Column("mentions", rank=4), Column("asked", rank=3, right=True), "pages", "videos",
        Column("growing", rank=3), Column("attempts", rank=5),
        Column("held until", rank=6), Column("cools until", rank=2),
        Column("last error", 16, wraps=True, rank=1),
    )  # fmt: skip
    rows = [
        (
            str(topic.id), topic.query, str(topic.parameters) or None, topic.status, topic.origin,
            topic.mention_count, f"{round(topic.asks_total, 1):g}", topic.pages_total, topic.new_videos_total,
            topic.early_growing_total, topic.attempts, topic.lease_until, topic.cool_until,
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
    """Put parked topics back into the queue, and search failed ones again without a pause."""
    named = _named(queries, ids, everything=everything)
    from maia import acts

    _print_count(with_atlas(lambda atlas: acts.retry(atlas, named)), "put back", as_json=as_json)


@app.command()
def park(
    queries: Queries = None,
    ids: Ids = None,
    reason: Annotated[str, typer.Option(help="Why; shown in the queue.")] = "parked by hand",
    as_json: AsJson = False,
) -> None:
    """Take topics out of the queue until you retry them.

    A hunter that is searching one of them just now will not store its results.
    """
    named = _named(queries, ids)
    assert named is not None
    from maia import acts

    _print_count(with_atlas(lambda atlas: acts.park(atlas, named, reason)), "parked", as_json=as_json)


def _named(
    queries: list[str] | None, ids: list[int] | None, *, everything: bool = False
) -> list[int | str] | None:
    """The topics given, None for all; BadParameter unless there are either topics or --all."""
    named: list[int | str] = [*(queries or []), *(ids or [])]
    if everything and named:
        raise typer.BadParameter("give topics or --all, not both")
    if not everything and not named:
        raise typer.BadParameter("give the topics' queries or --id: maia queue list shows both")
    return None if everything else named


def _print_count(count: int, done: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"topics": count})
    else:
        hint = "" if count else ": no such topic (maia queue list shows them)"
        print_text(f"{done} {counted(count, 'topic')}{hint}")
