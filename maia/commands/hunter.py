"""`maia hunter`: one or more cycles of the hunter, as a Prefect flow or directly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from maia.running import Cycles, Direct, conclude, in_words, progress_bar, run_agent
from maia.terminal import AsJson, load_settings

if TYPE_CHECKING:
    from maia.hunter import Progress

app = typer.Typer(rich_markup_mode="markdown", add_completion=False)

_COUNTED = {
    "topics": "topics", "pages": "pages", "found": "results", "new": "new videos", "tags": "new topics",
}  # fmt: skip


@app.command()
def hunter(
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Topics claimed in a cycle; by default the setting's.", show_default=False),
    ] = None,
    cycles: Cycles = 1,
    direct: Direct = False,
    as_json: AsJson = False,
) -> None:
    """Search YouTube for the queue's topics, store what is found, queue its tags.

    As a Prefect flow, on the server of PREFECT_API_URL or else on one that lives as long as the flow.
    Exit statuses: 0 also when nothing is due or the ring is closed (it says until when), 69 when neither
    YouTube nor the database answers, 75 after a 429, 78 without a usable key, until somebody mends it.
    """
    with progress_bar(described) as on_progress:
        statistics = run_agent(
            "hunter", "hunting", load_settings(), batch_size, cycles, direct=direct, on_progress=on_progress
        )
    conclude(statistics, summary, as_json=as_json)


def described(progress: Progress) -> str:
    """A cycle under way."""
    return f"cycle {progress.cycle}: {progress.query}"


def summary(statistics: dict[str, Any]) -> str:
    """What the cycles did, in a sentence or two."""
    return in_words(statistics, _COUNTED)
