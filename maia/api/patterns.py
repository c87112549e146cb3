"""The pattern engine over HTTP: lists, explains, imports, pins and forgets patterns; matches and advises."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from secrets import randbits
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from atlas.adapters.patterns import PatternsDAO
from atlas.scopes import Scope
from maia.api.context import READ, WRITE, Service, service_of
from maia.api.hot import Operation, answered, hot
from maia.api.problems import Problem, ProblemDetails
from maia.learner.copies import CopyRefused, checked, merge
from maia.learning.evidence import EvidenceKey, EvidenceRow
from maia.learning.matching import MOST_PER_ACTION
from maia.learning.patterns import Condition, Operator, Pattern, PatternType
from maia.learning.recommending import USUAL_REASONS
from maia.learning.snapshots import Remembered, Snapshot
from maia.views.engine import EngineStatistics, PatternPage
from maia.views.patterns import Advice, Matches, PatternDetails, pattern
from maia.views.words import plain

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from maia.api.engine import Engine

router = APIRouter(tags=["patterns"])

MOST_AT_ONCE: Final = 1_000
FURTHEST: Final = 1_000_000
_MOST_COUNT: Final = 10**12
_ID: Final = "0123456789abcdef0123456789abcdef"

_PATTERN_EXAMPLE: Final = {
    "id": _ID, "type": "tool_usage", "statement": "Feeds find videos early at night.",
    "conditions": ["agent = hunter", "hour < 6"], "action": "feeds", "strength": 0.87, "confidence": 0.79,
    "high": 0.93, "support": 60, "pos": 53, "neg": 7, "reward": 412.0, "sites": 1, "days": 9,
    "last_seen": "2026-11-02T11:58:03Z", "created_at": "2026-10-20T02:10:00Z",
    "updated_at": "2026-11-01T02:10:00Z", "pinned": False, "importance": 3.2, "data": {}, "of_sites": 1,
}  # fmt: skip
_MATCH_EXAMPLE: Final = {
    "id": _ID, "type": "tool_usage", "statement": "Feeds find videos early at night.", "action": "feeds",
    "met": ["agent = hunter", "hour < 6"], "missed": [], "score": 0.78, "strength": 0.87,
    "confidence": 0.79, "high": 0.93, "support": 60, "last_seen": "2026-11-02T11:58:03Z",
}  # fmt: skip

Scalar = Annotated[str, Field(max_length=2_000)] | int | float | bool | None
PatternId = Annotated[
    str,
    Path(
        alias="id",
        max_length=32,
        description="The pattern's id, or its first characters if no other has them.",
    ),
]
Types = Annotated[list[PatternType] | None, Query(max_length=20, description="Only patterns of these types.")]
MinConfidence = Annotated[float, Query(ge=0, le=1, description="Only patterns of at least this confidence.")]
Limit = Annotated[int, Query(ge=1, le=MOST_AT_ONCE, description="How many to answer at most.")]
Offset = Annotated[int, Query(ge=0, le=FURTHEST, description="How many to leave out before.")]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


Context = Annotated[
    Mapping[Annotated[str, Field(min_length=1, max_length=80)], Scalar],
    Field(max_length=100, description="What is so now: texts, numbers, booleans and nulls by name."),
]


class MatchRequest(_Strict):
    """A context, and how many patterns are wanted."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"context": {"agent": "hunter", "hour": 3}, "limit": 5}]}
    )

    context: Context
    limit: int = Field(default=20, ge=1, le=MOST_AT_ONCE, description="How many to answer at most.")
    min_confidence: float = Field(default=0.0, ge=0, le=1, description="Only patterns at least so confident.")


class RecommendRequest(_Strict):
    """A context in which something is to be done."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"context": {"agent": "hunter", "hour": 3}, "explore": True, "seed": 7}]
        }
    )

    context: Context
    limit: int = Field(default=5, ge=1, le=100, description="How many actions to answer at most.")
    because: int = Field(
        default=USUAL_REASONS,
        ge=1,
        le=MOST_PER_ACTION,
        description="How many patterns to name for each action at most, the best ones.",
    )
    explore: bool = Field(
        default=False, description="Rank by a draw from what may be true, to try what is uncertain."
    )
    seed: int | None = Field(
        default=None, ge=0, lt=2**63, description="Makes the draws repeatable; only with explore."
    )


class NewCondition(_Strict):
    """A predicate over one field of a context."""

    field: str = Field(min_length=1, max_length=80)
    operator: Operator = Field(strict=False)
    value: Scalar


class GivenEvidence(_Strict):
    """How often the pattern proved true and how often not on a day. Sending it again adds nothing."""

    pos: int = Field(ge=0, le=_MOST_COUNT, description="How often it proved true.")
    neg: int = Field(ge=0, le=_MOST_COUNT, description="How often it proved false.")
    reward: float = Field(default=0.0, ge=-1e100, le=1e100, description="The sum of the rewards.")
    day: date | None = Field(default=None, strict=False, description="In UTC. [default: today]")
    last_seen: datetime | None = Field(
        default=None, strict=False, description="With its time zone. [default: now, or the end of the day]"
    )


class NewPattern(_Strict):
    """A pattern to import. Its id is made from its type and signature."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "tool_usage",
                    "statement": "Feeds find videos early at night.",
                    "conditions": [
                        {"field": "agent", "operator": "=", "value": "hunter"},
                        {"field": "hour", "operator": "<", "value": 6},
                    ],
                    "action": "feeds",
                    "evidence": [{"pos": 53, "neg": 7}],
                }
            ]
        }
    )

    type: PatternType = Field(strict=False)
    statement: str = Field(min_length=1, max_length=2_000, description="The sentence that people read.")
    signature: dict[str, Any] | None = Field(
        default=None,
        min_length=1,
        description="What it is about: the same for the same pattern everywhere. "
        "[default: its conditions, and its action or else its statement]",
    )
    conditions: list[NewCondition] = Field(default=[], max_length=100)
    action: str | None = Field(default=None, min_length=1, max_length=200, description="What it advises.")
    data: dict[str, Any] = Field(default={}, description="Figures that go with it.")
    evidence: list[GivenEvidence] = Field(default=[], max_length=366)

    def as_pattern(self) -> Pattern:
        """The pattern; ValueError if an operator can't compare its value."""
        conditions = tuple(Condition(each.field, each.operator, each.value) for each in self.conditions)
        signature = self.signature or {
            "conditions": [each.as_dict() for each in conditions],
            "about": self.action or self.statement,
        }
        return Pattern(self.type, signature, self.statement, conditions, self.action, self.data)


class Changed(BaseModel):
    """Which pattern was changed."""

    id: str = Field(examples=[_ID])
    changed: bool = Field(description="False if it was so already.")


def _problem(description: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {"application/problem+json": {"schema": ProblemDetails.model_json_schema()}},
    }


_UNKNOWN: Final[dict[int | str, dict[str, Any]]] = {
    404: _problem("No pattern has this id."),
    409: _problem("Several patterns' ids begin so."),
}
_BODY: Final[dict[int | str, dict[str, Any]]] = {
    400: _problem("The body can't be read."),
    408: _problem("The body arrived too slowly."),
    413: _problem("The body is too long."),
}


def _example(value: object, status: int = 200) -> dict[int | str, dict[str, Any]]:
    return {status: {"content": {"application/json": {"example": value}}}}


@router.get(
    "/patterns",
    dependencies=[READ],
    response_model=PatternPage,
    responses=_example({"patterns": [_PATTERN_EXAMPLE], "total": 1, "offset": 0, "limit": 50}),
)
async def list_patterns(
    request: Request,
    type_: Annotated[Types, Query(alias="type")] = None,
    min_confidence: MinConfidence = 0.0,
    limit: Limit = 50,
    offset: Offset = 0,
) -> Response:
    """List patterns, the most firmly believed first."""
    page = await _engine(request).page(type_, min_confidence, limit, offset)
    return answered(plain(page))


@router.post(
    "/patterns",
    status_code=201,
    dependencies=[WRITE],
    response_model=PatternDetails,
    responses=_BODY
    | {
        200: {"model": PatternDetails, "description": "It was known; what is new in it was added."},
        409: _problem("An operator forgot this pattern."),
    },
)
async def import_pattern(request: Request, new: NewPattern) -> Response:
    """Import a pattern, with the evidence for it if there is any.

    A known one takes the statement, action and data, and the evidence is merged: what is sent twice counts
    once. Personal data must have been replaced before.
    """
    service = service_of(request)
    dao, now = _dao(service), service.atlas.clock.now()
    try:
        learnt = new.as_pattern()
        id_ = learnt.id
        version = await _next_version(dao, id_)
        copy = _copy(id_, learnt, new, version, now)
        copy = checked(copy, await service.engine.pseudonyms(), now)
        merged = await merge(dao, service.atlas.settings.learner, copy, now)
    except (CopyRefused, ValueError, OverflowError) as error:
        raise Problem(422, f"the pattern is refused: {error}") from error
    if merged.kept_forgotten:
        raise Problem(
            409, f"an operator forgot the pattern {id_}: maia patterns remember {id_[:12]} lets it be learnt"
        )
    found = await _explained(service, id_)
    answer = answered(plain(found), 201 if version == 1 else 200)
    answer.headers["Location"] = f"/patterns/{id_}"
    return answer


async def _next_version(dao: PatternsDAO, id_: str) -> int:
    """The version by which a text replaces the one that is known."""
    known = await dao.known(ids=[id_])
    return known[0].version + 1 if known else 1


def _copy(id_: str, learnt: Pattern, new: NewPattern, version: int, now: datetime) -> Snapshot:
    """What is imported, counted at a site of its own, so that sending it again counts nothing twice."""
    node = f"import-{id_[:16]}"
    evidence: dict[EvidenceKey, EvidenceRow] = {}
    for each in new.evidence:
        seen = each.last_seen or _seen_on(each.day, now)
        if seen.tzinfo is None:
            raise ValueError("last_seen must say its time zone, such as 2026-11-29T12:00:00Z")
        key = EvidenceKey(id_, node, each.day or seen.astimezone(UTC).date())
        if key in evidence:
            raise ValueError(f"there is evidence of {key.day} twice")
        evidence[key] = EvidenceRow(each.pos, each.neg, each.reward, seen.astimezone(UTC), 1)
    remembered = Remembered(learnt, version=version, created_at=now, updated_at=now)
    return Snapshot(now, {id_: remembered}, evidence)


def _seen_on(day: date | None, now: datetime) -> datetime:
    if day is None or day >= now.date():
        return now
    return datetime(day.year, day.month, day.day, 23, 59, 59, tzinfo=UTC)


@router.get(
    "/patterns/{id}",
    dependencies=[READ],
    response_model=PatternDetails,
    responses=_UNKNOWN
    | _example(
        {
            "pattern": _PATTERN_EXAMPLE,
            "signature": {"tool": "feeds"},
            "evidence": [
                {
                    "day": "2026-11-01",
                    "node": "9f0c",
                    "pos": 53,
                    "neg": 7,
                    "reward": 412.0,
                    "confidence": 0.79,
                }
            ],
        }
    ),
)
async def explain_pattern(request: Request, id_: PatternId) -> Response:
    """Explain a pattern: its conditions, its evidence by day, and how the confidence came about."""
    service = service_of(request)
    return answered(plain(await _explained(service, await _whole(_dao(service), id_))))


@router.delete("/patterns/{id}", dependencies=[WRITE], response_model=Changed, responses=_UNKNOWN)
async def forget_pattern(request: Request, id_: PatternId) -> Changed:
    """Delete a pattern with its evidence. It stays forgotten, whatever is seen."""
    changed = await _change(request, id_, lambda dao, ids: dao.forget(ids, "operator"))
    await _engine(request).forget(changed.id)
    return changed


@router.post("/patterns/{id}/pin", dependencies=[WRITE], response_model=Changed, responses=_UNKNOWN)
async def pin_pattern(request: Request, id_: PatternId) -> Changed:
    """Keep a pattern, however unimportant it becomes."""
    return await _change(request, id_, lambda dao, ids: dao.pin(ids))


@router.post("/patterns/{id}/unpin", dependencies=[WRITE], response_model=Changed, responses=_UNKNOWN)
async def unpin_pattern(request: Request, id_: PatternId) -> Changed:
    """Let a pinned pattern be forgotten again when it becomes unimportant."""
    return await _change(request, id_, lambda dao, ids: dao.pin(ids, pinned=False))


@hot(
    router,
    "/match",
    Scope.READ,
    Operation(
        "Match a context",
        "The patterns of which the context meets at least one condition, ranked by the share of conditions "
        "met × confidence × recency. If there are none, `reason` says why.",
        "patterns",
        MatchRequest,
        Matches,
        {"patterns": [_MATCH_EXAMPLE], "reason": None},
    ),
)
async def match(request: Request, wanted: MatchRequest) -> bytes:
    return await _engine(request).match(wanted.context, wanted.limit, wanted.min_confidence)


@hot(
    router,
    "/recommend",
    Scope.READ,
    Operation(
        "Recommend actions",
        "The actions with the highest expected reward per cost in a context, with their evidence and why: "
        "`because` names the best patterns for each, at most as many as the request's `because`. "
        "Only patterns all of whose conditions are met advise, and only those that are believed firmly "
        "enough. If nothing is advised, `reason` says why.",
        "patterns",
        RecommendRequest,
        Advice,
        {
            "actions": [
                {
                    "action": "feeds", "reward": 6.9, "interval_80": [5.8, 7.9], "interval_90": [5.5, 8.2],
                    "confidence": 0.79, "pos": 53, "neg": 7, "drawn": None, "because": [_MATCH_EXAMPLE],
                    "why": "Feeds find videos early at night. (because agent = hunter, hour < 6)",
                }
            ],
            "reason": None,
        },
    ),
)  # fmt: skip
async def recommend(request: Request, wanted: RecommendRequest) -> bytes:
    if wanted.seed is not None and not wanted.explore:
        raise Problem(422, "seed only applies with explore: leave it out, or set explore to true")
    seed = randbits(32) if wanted.seed is None else wanted.seed
    return await _engine(request).recommend(
        wanted.context, wanted.limit, wanted.because, explore=wanted.explore, seed=seed
    )


@router.get("/statistics", dependencies=[READ], response_model=EngineStatistics)
async def statistics(request: Request) -> Response:
    """What the pattern engine knows, and what this process of it has done."""
    service = service_of(request)
    return answered(plain(await service.engine.statistics(service.observing.taken)))


async def _change(
    request: Request, id_: str, change: Callable[[PatternsDAO, list[str]], Awaitable[int]]
) -> Changed:
    dao = _dao(service_of(request))
    whole = await _whole(dao, id_)
    return Changed(id=whole, changed=bool(await change(dao, [whole])))


async def _explained(service: Service, id_: str) -> PatternDetails:
    found = await pattern(service.atlas, id_)
    if found is None:
        raise Problem(404, f"the pattern {id_} was forgotten just now: GET /patterns lists the others")
    return found


async def _whole(dao: PatternsDAO, prefix: str) -> str:
    """The whole id that begins so; Problem 404 or 409 if there isn't exactly one."""
    found = await dao.beginning_with(prefix.strip().lower(), 4)
    if not found:
        raise Problem(404, "no pattern's id begins so: GET /patterns lists them")
    if len(found) > 1:
        raise Problem(409, f"the ids of several patterns begin so ({', '.join(found[:3])}): send more of it")
    return found[0]


def _engine(request: Request) -> Engine:
    return service_of(request).engine


def _dao(service: Service) -> PatternsDAO:
    atlas = service.atlas
    return PatternsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
