"""The source `charts`: the most popular videos of regions, which come whole, now and then.

Since July 2025 YouTube's charts show only music, movies and gaming, so a chart is asked for by region and one
of these categories, at most once per interval by all hunters together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar, Final

from atlas.adapters.discovery import DiscoveryDAO, NewQuestion, Question
from atlas.adapters.maia import MaiaDAO
from atlas.composition import Atlas
from atlas.config import Bucket
from maia.discovery.forms import due
from maia.discovery.source import CHARTS, Ask, Finding, Source, Stored
from maia.youtube.client import YouTube
from maia.youtube.errors import BadRequest, Gone

CATEGORIES: Final = {10: "music", 20: "gaming", 1: "film"}
"""The categories that still have charts."""

_TOKEN_LIFETIME = timedelta(hours=12)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChartsAsk(Ask):
    """The first page of a region's chart of a category."""

    question: Question

    @property
    def region(self) -> str:
        return str(self.question.question["region"])

    @property
    def category(self) -> int:
        return int(self.question.question["category"])


class Charts(Source[ChartsAsk, Finding]):
    """The first pages of charts, one unit of the general bucket each."""

    name: ClassVar[str] = CHARTS

    def __init__(self, atlas: Atlas, youtube: YouTube) -> None:
        self.atlas, self.youtube = atlas, youtube
        self.settings = atlas.settings.discovery
        self.dao = DiscoveryDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)

    @property
    def arms(self) -> Mapping[str, Bucket]:
        return {CHARTS: "general"}

    async def claim(self, wanted: Mapping[str, int]) -> list[ChartsAsk]:
        count, now = wanted.get(CHARTS, 0), self.atlas.clock.now()
        every = timedelta(hours=self.settings.charts_every_h)
        subjects = {
            f"chart {region} {category}": {"region": region, "category": category}
            for category in CATEGORIES
            for region in self.settings.regions
        }
        if count < 1:
            return []
        async with self.dao.transaction() as dao:
            await dao.lock_questions(CHARTS)
            claimed = await dao.claim_open_questions(CHARTS, count, now - _TOKEN_LIFETIME)
            asked = await dao.last_asked(CHARTS, now - every)
            chosen = due([*subjects], asked, now, every, count - len(claimed))
            claimed += await dao.add_questions(
                CHARTS,
                [NewQuestion(f"{each}@{now:%Y-%m-%dT%H:%M:%SZ}", subjects[each]) for each in chosen],
            )
        return [_ask(question) for question in claimed]

    async def put(self, ask: ChartsAsk) -> Finding:
        asked_at = self.atlas.clock.now()
        try:
            page = await self.youtube.most_popular(ask.region, ask.category)
        except (BadRequest, Gone) as refusal:
            if refusal.reason not in _NO_CHART:
                raise
            # Some regions have no chart of some categories, which is an answer like any other.
            return Finding(ask=ask, asked_at=asked_at)
        videos = {video.id: video for video in page.items}
        return Finding(ask=ask, asked_at=asked_at, ids=tuple(videos), videos=tuple(videos.values()))

    async def complete(self, dao: MaiaDAO, finding: Finding, stored: Stored) -> None:
        ask = finding.ask
        assert isinstance(ask, ChartsAsk)
        await self.dao.joining(dao.queue).complete_question(
            ask.question,
            next_token=None,
            issued_at=finding.asked_at,
            results=len(finding.ids),
            digest=None,
        )

    async def release(
        self, asks: Sequence[ChartsAsk], error: str | None = None, *, count_attempt: bool = False
    ) -> None:
        questions = [ask.question for ask in asks]
        await self.dao.release_questions(questions, error=error, count_attempt=count_attempt)


_NO_CHART = ("videoChartNotFound", "notFound")


def _ask(question: Question) -> ChartsAsk:
    region, category = question.question["region"], question.question["category"]
    return ChartsAsk(
        arm=CHARTS,
        key=question.key,
        about=f"chart of {CATEGORIES.get(category, category)} in {region}",
        question=question,
    )
