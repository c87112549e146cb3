"""What narrows the topics that are seeded, as it is given on the command line."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from atlas.queries import SearchParameters
from maia.commands import seed


class Acts:
    """What reaches the event log."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    async def append_many(self, events: list[Any], **_: Any) -> list[int]:
        self.events += events
        return []


@pytest.fixture
def acts() -> Acts:
    return Acts()


@pytest.fixture
def seeded(monkeypatch: pytest.MonkeyPatch, acts: Acts) -> list[tuple[list[str], SearchParameters]]:
    """What reaches the queue."""
    stored: list[tuple[list[str], SearchParameters]] = []

    class Queue:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        async def seed(self, queries: list[str], parameters: SearchParameters) -> int:
            stored.append((queries, parameters))
            return len(queries)

        async def topic_ids(self, named: list[str]) -> list[int]:
            return [7 + n for n in range(len(named))]

    class Atlas:
        db = clock = settings = None
        events = acts

    def with_atlas(work: Any) -> int:
        return int(asyncio.run(work(Atlas())))

    monkeypatch.setattr("atlas.adapters.queue.QueueDAO", Queue)
    monkeypatch.setattr(seed, "with_atlas", with_atlas)
    return stored


def run(*arguments: str) -> Result:
    return CliRunner().invoke(seed.app, arguments)


def test_options_become_the_topics_parameters(seeded: list[Any], acts: Acts) -> None:
    result = run(
        "Straße", "jazz", "--published-after", "2026-01-01", "--published-before", "2026-02-01T12:00:00Z",
        "--region", "jp", "--language", "de", "--duration", "long", "--category", "music",
        "--event-type", "completed",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert seeded == [
        (
            ["Straße", "jazz"],
            SearchParameters(
                published_after=datetime(2026, 1, 1, tzinfo=UTC),
                published_before=datetime(2026, 2, 1, 12, tzinfo=UTC),
                region="JP", language="de", duration="long", category=10, event_type="completed",
            ),
        )
    ]  # fmt: skip
    assert "seeded 2 topics (published after 2026-01-01T00:00:00Z" in result.output
    chosen = {
        "kind": "topic", "count": 2, "category_id": 10, "region": "JP", "language": "de", "duration": "long",
        "event_type": "completed",
    }  # fmt: skip
    assert acts.events == [("operator.act", {"action": "seed", "context": chosen, "topics": [7, 8]})]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--region", "UK"), "GB"),
        (("--duration", "endless"), "short"),
        (("--category", "gardening"), "gardening"),
        (("--published-after", "yesterday"), "yesterday"),
        (("--published-after", "2026-02-01", "--published-before", "2026-01-01"), "earlier"),
    ],
)
def test_what_the_api_would_refuse_is_refused_before_anything_is_stored(
    seeded: list[Any], arguments: tuple[str, ...], told: str
) -> None:
    result = run("jazz", *arguments)
    assert result.exit_code == 2
    assert told in result.output
    assert seeded == []
