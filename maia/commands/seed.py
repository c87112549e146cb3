"""`maia seed`: puts topics at the front of the search queue."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from atlas.wording import counted
from maia.commands.arguments import parse_day_or_moment
from maia.commands.terminal import AsJson, print_json, print_text, with_atlas

if TYPE_CHECKING:
    from atlas.composition import Atlas
    from atlas.queries import SearchParameters

app = typer.Typer(rich_markup_mode="markdown", add_completion=False)

# Room for a million topics of 64 bytes, which is as many as the queue takes by default.
_MOST_BYTES: Final = 64 << 20


@app.command()
def seed(
    queries: Annotated[
        list[str] | None, typer.Argument(metavar="QUERY", help="What to search for.", show_default=False)
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            help="Read queries from this file, one per line; # starts a comment line. - is stdin.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    published_after: Annotated[
        str | None, typer.Option(metavar="DAY", help="Only videos from that day on.", show_default=False)
    ] = None,
    published_before: Annotated[
        str | None, typer.Option(metavar="DAY", help="Only videos from before that day.", show_default=False)
    ] = None,
    region: Annotated[
        str | None, typer.Option(help="Only videos available there: DE, JP, …", show_default=False)
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="Prefer this language: de, zh-Hans, …", show_default=False)
    ] = None,
    duration: Annotated[
        str | None,
        typer.Option(help="short (under 4 min), medium, or long (over 20 min).", show_default=False),
    ] = None,
    category: Annotated[
        str | None, typer.Option(help="Only this category, by name or number.", show_default=False)
    ] = None,
    event_type: Annotated[
        str | None, typer.Option(help="Only broadcasts: upcoming, live or completed.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Put topics at the front of the search queue.

    The hunter searches for them exactly as you write them, in that order, before any tag. A topic that is
    already in the queue moves to the front, even if it was searched before or is parked. The same words with
    other search options (such as --region) are a separate topic.
    """
    wanted = [*(queries or []), *_read(file)]
    parameters = _parameters(
        published_after=parse_day_or_moment(published_after, "--published-after"),
        published_before=parse_day_or_moment(published_before, "--published-before"),
        region=region,
        language=language,
        duration=duration,
        category=category,
        event_type=event_type,
    )
    if blank := [query for query in wanted if not query.strip()]:
        raise typer.BadParameter(f"the topic {blank[0]!r} is blank: give at least one word")
    if not wanted:
        raise typer.BadParameter('give at least one topic, such as maia seed "lofi hip hop", or --file FILE')

    async def add(atlas: Atlas) -> int:
        from maia import acts

        return await acts.seed(atlas, wanted, parameters)

    added = with_atlas(add)
    if as_json:
        narrowed = {"parameters": parameters.as_json()} if parameters else {}
        print_json({"given": len(wanted), "added": added} | narrowed)
    else:
        only = f" ({parameters})" if parameters else ""
        topics = counted(len(wanted), "topic")
        print_text(f"seeded {topics}{only}, {added} of them new or active again; search with: maia hunter")


def _parameters(*, category: str | None, **given: Any) -> SearchParameters:
    """The search options, with the category as a number; BadParameter says what is wrong with them."""
    from atlas.errors import DataRefused
    from atlas.queries import SearchParameters
    from maia.youtube.categories import category_of

    try:
        number = None if category is None else category_of(category).id
        return SearchParameters(category=number, **given)
    except (DataRefused, ValueError) as error:
        raise typer.BadParameter(str(error)) from error


def _read(file: Path | None) -> list[str]:
    if file is None:
        return []
    from atlas.documents import DocumentError, decode, read_bounded, read_bytes

    try:
        if str(file) == "-":
            content = read_bounded(sys.stdin.buffer, _MOST_BYTES, "standard input")
        else:
            content = read_bytes(file, _MOST_BYTES)
        text = decode(content, str(file))
    except DocumentError as error:
        raise typer.BadParameter(str(error), param_hint="--file") from error
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]
