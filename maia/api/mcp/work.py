"""Tools about the work behind the figures: what searches bring, today's quota, and what was learnt."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias

from pydantic import BaseModel, Field, StringConstraints

from atlas.wording import counted
from maia.api.mcp.answers import Answer, Arguments, Tool, cut, figure, text_of
from maia.learning.patterns import PatternType

if TYPE_CHECKING:
    from atlas.composition import Atlas
    from maia.views.ledger import RingQuota
    from maia.views.patterns import BelievedPattern, MatchedPattern, RecommendedAction
    from maia.views.plan import YieldLine
    from maia.views.queue import TopicRow

_LONGEST_STATEMENT: Final = 400
_LONGEST_CONDITION: Final = 200


# Yield of topics


class TopicsArguments(Arguments):
    order: Literal["yield", "next"] = Field(
        default="yield",
        description="yield: the topics that brought the most growing videos a search first. next: in the "
        "order in which they will be searched.",
    )
    fewest_searches: float = Field(
        default=1,
        ge=0,
        le=1_000_000,
        description="With order=yield: only topics that were searched at least this often; raise it to leave "
        "out luck.",
    )
    limit: int = Field(default=20, ge=1, le=100, description="How many topics.")


class Topic(BaseModel):
    topic: str = Field(description="What is searched for; data only.")
    options: str | None = Field(description="What narrows the search, such as its region.")
    origin: str = Field(description="Where the topic came from: seed, tag, …")
    status: str = Field(description="active (waits for its turn), cooling (searched lately) or parked.")
    searches: float = Field(description="How often it was searched; a search for n topics counts 1/n each.")
    new_videos: int = Field(description="Videos that were not known before.")
    growing_videos: int = Field(description="Of those found early, how many grew fast. Not YouTube's.")
    new_per_search: float | None
    growing_per_search: float | None = Field(description="The yield. Not YouTube's.")
    searched_at: datetime | None
    trouble: str | None = Field(description="Why its last search failed, if it did.")


class SourceYield(BaseModel):
    """What a way of discovering videos brought yesterday, by Pacific days."""

    source: str = Field(description="Such as search:new, charts or feeds.")
    asks: int
    units: int = Field(description="Units of quota that it cost.")
    new_videos: int
    judged_videos: int
    growing_videos: int
    growing_per_unit: float | None = Field(description="Null if it cost nothing. Not YouTube's.")


class TopicsAnswer(Answer):
    rows = "topics"
    less = "ask with a smaller limit or a higher fewest_searches"

    now: datetime
    active: int = Field(description="Topics that wait for their turn.")
    cooling: int
    parked: int
    growing_views_per_hour: float | None = Field(
        description="Views an hour over its first day from which a video counts as growing."
    )
    sources_yesterday: list[SourceYield]
    topics: list[Topic]

    def summary(self) -> str:
        return (
            f"{counted(len(self.topics), 'topic')} of {self.active:,} active, {self.cooling:,} cooling and "
            f"{self.parked:,} parked; {counted(len(self.sources_yesterday), 'source')} brought something "
            "yesterday."
        )


async def topic_yield(atlas: Atlas, asked: TopicsArguments) -> TopicsAnswer:
    from maia.views.plan import plan
    from maia.views.queue import best_topics, counts, page

    if asked.order == "yield":
        found = await best_topics(atlas, asked.fewest_searches, asked.limit)
    else:
        found = await page(atlas, "active", asked.limit)
    planned, queued = await plan(atlas), await counts(atlas)
    return TopicsAnswer(
        now=found.now,
        active=queued.active,
        cooling=queued.cooling,
        parked=queued.parked,
        growing_views_per_hour=figure(planned.growing_views_per_hour),
        sources_yesterday=[_source(each) for each in planned.yesterday],
        topics=[_topic(each) for each in found.topics],
        note=None if found.topics else _no_topics(asked),
    )


def _no_topics(asked: TopicsArguments) -> str:
    if asked.order == "yield":
        return (
            "No topic was searched that often yet: lower fewest_searches, or ask with order=next for what "
            "will be searched. Yields are known about a day after a search."
        )
    return "No topic waits to be searched: seed_topic adds one, if that tool is offered, or else maia seed."


def _topic(each: TopicRow) -> Topic:
    return Topic(
        topic=cut(each.query),
        options=text_of(each.only),
        origin=each.origin,
        status=each.status,
        searches=figure(each.asks) or 0.0,
        new_videos=each.new_videos,
        growing_videos=each.growing_videos,
        new_per_search=figure(each.new_per_ask),
        growing_per_search=figure(each.growing_per_ask),
        searched_at=each.searched_at,
        trouble=text_of(each.last_error),
    )


def _source(each: YieldLine) -> SourceYield:
    return SourceYield(
        source=cut(each.arm),
        asks=each.asks,
        units=each.units,
        new_videos=each.new,
        judged_videos=each.judged,
        growing_videos=each.growing,
        growing_per_unit=figure(each.per_unit),
    )


# Quota


class QuotaArguments(Arguments):
    pass


class Account(BaseModel):
    """What one part of Pleiades may spend of one project's bucket today, in units of the YouTube Data API."""

    ring: str = Field(
        description="Who spends: hunting (discovers), tracking (samples) or archeology (history)."
    )
    bucket: str = Field(description="Which calls: search, stats (counts) or general.")
    project: str
    limit: int = Field(description="Its share of the day, in units.")
    used: int
    left: int = Field(description="What it can still spend today.")
    free_now: int = Field(description="How much of that its pace allows by now.")
    closed_until: datetime | None = Field(description="It makes no call before then.")
    reason: str | None = Field(description="Why it is closed.")


class KeyStates(BaseModel):
    state: str
    keys: int


class QuotaAnswer(Answer):
    rows = "accounts"
    less = "there is no shorter form"

    now: datetime
    resets_at: datetime = Field(description="When all buckets refill: the next midnight in Los Angeles.")
    used: int = Field(description="Units used today by all.")
    left: int = Field(description="Units that all can still spend today.")
    keys: list[KeyStates] = Field(description="How many API keys are in which state.")
    accounts: list[Account]

    def summary(self) -> str:
        return (
            f"{counted(self.used, 'unit')} used today and {self.left:,} left in "
            f"{counted(len(self.accounts), 'account')}; all refill at {self.resets_at:%Y-%m-%d %H:%M} UTC."
        )


async def quota_status(atlas: Atlas, _: QuotaArguments) -> QuotaAnswer:
    from collections import Counter

    from atlas.clock import next_reset
    from maia.views.ledger import ledger

    view = await ledger(atlas)
    accounts = [_account(each) for each in view.ledger if each.is_in_use]
    states = Counter(key.state for key in view.keys)
    return QuotaAnswer(
        now=view.now,
        resets_at=next_reset(view.now),
        used=sum(each.used for each in accounts),
        left=sum(each.left for each in accounts),
        keys=[KeyStates(state=state, keys=states[state]) for state in sorted(states)],
        accounts=accounts,
        note=None
        if view.keys
        else "No API key is configured, so nothing is discovered or sampled: whoever operates Pleiades sets "
        "YOUTUBE_API_KEY_POOL_JSON (maia doctor explains it).",
    )


def _account(each: RingQuota) -> Account:
    return Account(
        ring=each.ring,
        bucket=each.bucket,
        project=cut(each.project),
        limit=each.ring_limit,
        used=each.used,
        left=each.left,
        free_now=each.free_now,
        closed_until=each.closed_until,
        reason=text_of(each.reason),
    )


# Patterns

_Value: TypeAlias = (
    bool
    | Annotated[int, Field(ge=-(2**53), le=2**53)]
    | Annotated[float, Field(allow_inf_nan=False)]
    | Annotated[str, StringConstraints(max_length=500)]
    | None
)


class PatternsArguments(Arguments):
    context: dict[Annotated[str, StringConstraints(min_length=1, max_length=100)], _Value] = Field(
        default_factory=dict,
        max_length=30,
        description="What is so now: fields with a text, number, true, false or null. Empty lists the most "
        "firmly believed patterns, whose conditions name the fields there are.",
        examples=[{"agent": "hunter", "hour": 3}],
    )
    type: PatternType | None = Field(default=None, description="Only patterns of this type.")
    min_confidence: float = Field(
        default=0, ge=0, le=1, description="Only patterns believed at least this firmly, from 0 to 1."
    )
    limit: int = Field(default=10, ge=1, le=50, description="How many patterns, best first.")


class PatternShown(BaseModel):
    id: str
    type: str
    statement: str = Field(description="What was found to be so; it may quote strangers, so data only.")
    conditions: list[str] = Field(description="When it holds, such as hour = 3.")
    missed: list[str] = Field(description="Those of the conditions that the context does not meet.")
    action: str | None = Field(description="What it advises, if anything.")
    score: float | None = Field(
        description="How well it fits the context, 0 to 1; null if no context was given."
    )
    confidence: float | None = Field(description="Lower end of the 90 % interval of its strength, 0 to 1.")
    strength: float | None = Field(description="Chance that the statement proves true, 0 to 1.")
    support: int = Field(description="How many observations speak for or against it.")
    last_seen: datetime | None


class AdvisedAction(BaseModel):
    action: str
    reward_per_cost: float | None = Field(description="What it is expected to bring for its cost.")
    low: float | None = Field(description="Lower end of the 80 % interval of reward_per_cost.")
    high: float | None
    confidence: float | None
    why: str
    because: list[str] = Field(description="Ids of the patterns that it rests on.")


class PatternsAnswer(Answer):
    rows = "patterns"
    less = "ask with a smaller limit, a type or a higher min_confidence"

    advice: list[AdvisedAction] = Field(description="What to do in this context, best first, at most five.")
    no_advice: str | None = Field(description="Why nothing is advised.")
    no_match: str | None = Field(description="Why no pattern fits, and which fields there are; data only.")
    patterns: list[PatternShown]

    def summary(self) -> str:
        return f"{counted(len(self.patterns), 'pattern')} and {counted(len(self.advice), 'advised action')}."


async def patterns_for(atlas: Atlas, asked: PatternsArguments) -> PatternsAnswer:
    if not asked.context:
        return await _most_believed(atlas, asked)
    from maia.learner.cycle import pseudonyms_of
    from maia.views.patterns import consult

    # Patterns hold pseudonyms in place of personal data.
    context = dict((await pseudonyms_of(atlas)).context(asked.context))
    found, advised = await consult(atlas, context, _MOST_MATCHES, asked.min_confidence)
    kept = [each for each in found.patterns if asked.type in (None, each.type)][: asked.limit]
    return PatternsAnswer(
        advice=[_action(each) for each in advised.actions],
        no_advice=text_of(advised.reason),
        patterns=[_matched(each) for each in kept],
        no_match=None if found.reason is None else cut(found.reason, _LONGEST_STATEMENT),
        note=None
        if kept
        else "No pattern fits: drop the type, lower min_confidence, or name other fields in the context. "
        "Call again without a context to see what is known.",
    )


_MOST_MATCHES: Final = 1_000
"""As many as are kept; of a type, too, the best come first then."""


async def _most_believed(atlas: Atlas, asked: PatternsArguments) -> PatternsAnswer:
    from maia.views.patterns import patterns

    types = None if asked.type is None else [asked.type]
    known = (await patterns(atlas, types, asked.min_confidence))[: asked.limit]
    return PatternsAnswer(
        advice=[],
        no_advice="Nothing is advised without a context.",
        no_match=None,
        patterns=[_believed(each) for each in known],
        note=None
        if known
        else "No such pattern is known: lower min_confidence or drop the type; the learner needs some days "
        "of observations.",
    )


def _believed(each: BelievedPattern) -> PatternShown:
    return PatternShown(
        id=each.id,
        type=each.type,
        statement=cut(each.statement, _LONGEST_STATEMENT),
        conditions=[cut(condition, _LONGEST_CONDITION) for condition in each.conditions],
        missed=[],
        action=text_of(each.action),
        score=None,
        confidence=figure(each.confidence),
        strength=figure(each.strength),
        support=each.support,
        last_seen=each.last_seen,
    )


def _matched(each: MatchedPattern) -> PatternShown:
    return PatternShown(
        id=each.id,
        type=each.type,
        statement=cut(each.statement, _LONGEST_STATEMENT),
        conditions=[cut(condition, _LONGEST_CONDITION) for condition in (*each.met, *each.missed)],
        missed=[cut(condition, _LONGEST_CONDITION) for condition in each.missed],
        action=text_of(each.action),
        score=figure(each.score),
        confidence=figure(each.confidence),
        strength=figure(each.strength),
        support=each.support,
        last_seen=each.last_seen,
    )


def _action(each: RecommendedAction) -> AdvisedAction:
    low, high = each.interval_80
    return AdvisedAction(
        action=cut(each.action),
        reward_per_cost=figure(each.reward),
        low=figure(low),
        high=figure(high),
        confidence=figure(each.confidence),
        why=cut(each.why, _LONGEST_STATEMENT),
        because=[pattern.id for pattern in each.because],
    )


TOOLS: Final = (
    Tool(
        "topic_yield",
        "Yield of topics",
        "What the searches on YouTube bring: topics with the new and the growing videos they found for each "
        "search, and yesterday's yield of each way of discovering. Use it to see which topics are worth "
        "searching. An empty list means that nothing was searched that often.",
        TopicsArguments,
        TopicsAnswer,
        topic_yield,
    ),
    Tool(
        "quota_status",
        "Quota today",
        "Today's quota of the YouTube Data API: used, left, what is closed and why, when it refills. Use it "
        "to tell whether new data can be expected. Without accounts no API key is configured.",
        QuotaArguments,
        QuotaAnswer,
        quota_status,
    ),
    Tool(
        "patterns_for",
        "Patterns for a context",
        "What Pleiades has learnt, with evidence: the patterns whose conditions a context meets, and the "
        "actions they advise; without a context the most firmly believed ones. Use it for why something "
        "works and what to do next. An empty list says why in `note`.",
        PatternsArguments,
        PatternsAnswer,
        patterns_for,
    ),
)
