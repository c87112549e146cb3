"""POST /observe: what agents of anybody's did, learnt as it comes."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Annotated, Any, Final

import orjson
from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
)
from starlette.requests import Request
from starlette.responses import Response

from atlas.scopes import Scope
from atlas.wording import counted
from maia.api.context import caller_of, service_of
from maia.api.hot import Operation, plain
from maia.api.problems import Problem
from maia.learner.observing import Remembered, hashed
from maia.learning.detectors.preferences import COUNT_FIELD, OFFER
from maia.learning.observations import SUCCESS, Observation, checked
from maia.learning.privacy import Pseudonyms
from maia.views.patterns import BelievedPattern

router = APIRouter(tags=["patterns"])

MOST_OBSERVATIONS: Final = 1_000
_MOST_FIELDS: Final = 37
"""The hour, the weekday and one more field are added."""
_LONGEST_NAME: Final = 80
_LONGEST_TEXT: Final = 200
_MOST_AMOUNT: Final = 2.0**53
_INTEGER_END: Final = 2**63
_MOST_OFFERED: Final = 1_000_000
_CLOCKS_DIFFER: Final = timedelta(days=1)
_QUICK_BYTES: Final = 65_536
"""What is longer is read beside the event loop."""


def _text(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not hold the character NUL")
    return text


def _name(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    return _text(text)


def _scalar(value: object) -> object:
    """A value of a context; ValueError if it is none, or is too long or too large."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        if len(value) > _LONGEST_TEXT:
            raise ValueError(f"has {len(value):,} characters; {_LONGEST_TEXT} are allowed")
        return _text(value)
    if isinstance(value, int):
        if not -_INTEGER_END <= value < _INTEGER_END:
            raise ValueError("is an integer of more than 64 bits: send it as a text")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("must be a finite number")
        return value
    raise ValueError("must be a text, number, boolean or null")


Name = Annotated[str, Field(min_length=1, max_length=_LONGEST_NAME), AfterValidator(_name)]
Amount = Annotated[float, Field(ge=0, le=_MOST_AMOUNT, allow_inf_nan=False)]
Scalar = Annotated[
    Any,
    AfterValidator(_scalar),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "maxLength": _LONGEST_TEXT},
                {"type": "number"},
                {"type": "boolean"},
                {"type": "null"},
            ]
        }
    ),
]


class NewObservation(BaseModel):
    """One action, and what came of it."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    agent: Name = Field(description="Who acted.", examples=["deployer"])
    session: Annotated[str, Field(min_length=1, max_length=_LONGEST_TEXT), AfterValidator(_name)] = Field(
        description="Holds actions that belong together, in their order.", examples=["deploy-1207"]
    )
    action: Name = Field(description="What was done.", examples=["migrate"])
    at: AwareDatetime | None = Field(
        default=None,
        description="When, with its time zone; by default now. At most a day ahead, and not older than "
        "evidence is kept (PLEIADES_LEARNER__MAX_RETENTION_DAYS).",
        examples=[None],
    )
    outcome: Name = Field(default=SUCCESS, description="`success`, or a name for how it failed.")
    context: dict[Name, Scalar] = Field(
        default_factory=dict,
        max_length=_MOST_FIELDS,
        description="Under which circumstances: scalars by name. `hour` and `weekday` (UTC, 0 is Monday) are "
        "set from `at`. IP addresses, UUIDs, e-mail addresses and secrets are replaced by pseudonyms.",
        examples=[{"region": "eu-1", "goal": "release"}],
    )
    reward: float = Field(
        default=0.0,
        ge=-_MOST_AMOUNT,
        le=_MOST_AMOUNT,
        allow_inf_nan=False,
        description="In what it was done for; only compared within one kind of action.",
    )
    cost: Amount = Field(default=0.0, description="In what the action spends.")
    duration_s: Amount | None = Field(default=None, description="How long it took, in seconds.")
    key: Annotated[str, Field(min_length=1, max_length=_LONGEST_TEXT), AfterValidator(_name)] | None = Field(
        default=None,
        description="Names this observation among yours: sent again under the same key, it counts once.",
        examples=[None],
    )


class Reader:
    """Reads the body of a request as observations without personal data; refuses it whole, or not at all."""

    def __init__(
        self, pseudonyms: Pseudonyms, remembered: Remembered, now: datetime, retention_days: float
    ) -> None:
        self._pseudonyms, self._remembered, self._now = pseudonyms, remembered, now
        self._retention_days = retention_days
        self._oldest, self._latest = now - timedelta(days=retention_days), now + _CLOCKS_DIFFER

    def read(self, body: bytes) -> tuple[list[Observation], list[str | None]]:
        """The observations in order, and their keys; RequestValidationError says what is wrong where."""
        is_list = body.lstrip()[:1] == b"["
        try:
            given = _MANY.validate_json(body) if is_list else [_ONE.validate_json(body)]
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False, include_context=False)
            raise RequestValidationError(
                [{**each, "loc": ("body", *each["loc"])} for each in found]
            ) from None
        observations, faults = [], []
        for number, each in enumerate(given):
            where: tuple[str | int, ...] = ("body", number) if is_list else ("body",)
            if fault := self._fault_of(each):
                faults.append({"loc": (*where, *fault[0]), "msg": fault[1]})
            else:
                observations.append(self._observation(each))
        if faults:
            raise RequestValidationError(faults)
        return observations, [each.key for each in given]

    def _fault_of(self, each: NewObservation) -> tuple[tuple[str, ...], str] | None:
        """Where an observation says what can't be, and why it can't."""
        if each.at is not None and each.at > self._latest:
            return ("at",), "is yet to come: check the clock and the time zone"
        if each.at is not None and each.at < self._oldest:
            return ("at",), (
                f"is more than {counted(self._retention_days, 'day')} ago, for which evidence is not kept: "
                "learn a log of the past with maia learn"
            )
        if each.agent == OFFER:
            place = ("context", COUNT_FIELD) if COUNT_FIELD in each.context else ("reward",)
            count = each.context.get(COUNT_FIELD, each.reward)
            if isinstance(count, (int, float)) and count > _MOST_OFFERED:
                return place, f"nobody offers more than {_MOST_OFFERED:,} things at once"
        return None

    def _observation(self, each: NewObservation) -> Observation:
        at = (each.at or self._now).astimezone(UTC)
        text = self._pseudonyms.text
        context = self._remembered.context(each.context) | {"hour": at.hour, "weekday": at.weekday()}
        return checked(
            agent=text(each.agent),
            session=hashed(text(each.session)),
            action=text(each.action),
            at=at,
            outcome=text(each.outcome),
            context=context,
            reward=each.reward,
            cost=each.cost,
            duration_s=each.duration_s,
        )


@dataclass(frozen=True, slots=True)
class Learnt:
    """What was stored, and what was learnt of it."""

    accepted: int
    """Observations that were stored: all of them, or there was an error and none was."""
    patterns: Sequence[BelievedPattern]
    """The patterns that changed as these were learnt, as they are believed now: at most 1,000."""
    pending: bool
    """Whether some of it is still to be learnt; it will be, without being sent again."""
    repeated: int = 0
    """Observations that were known already, by their keys, and so were not counted again."""


_ONE: Final = TypeAdapter(NewObservation)
_MANY: Final = TypeAdapter(Annotated[list[NewObservation], Field(max_length=MOST_OBSERVATIONS)])
_SCHEMA: Final = NewObservation.model_json_schema()
_EXAMPLE: Final = {
    "agent": "deployer",
    "session": "deploy-1207",
    "action": "migrate",
    "outcome": "lock_timeout",
    "context": {"region": "eu-1", "goal": "release"},
    "cost": 1.0,
    "duration_s": 30.2,
}
_BODY: Final = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "oneOf": [_SCHEMA, {"type": "array", "items": _SCHEMA, "maxItems": MOST_OBSERVATIONS}],
            },
            "examples": {
                "one": {"summary": "One observation", "value": _EXAMPLE},
                "many": {"summary": "Several", "value": [_EXAMPLE, {**_EXAMPLE, "outcome": SUCCESS}]},
            },
        }
    },
}
_KEY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Names this request among yours. Sent again with the same key, as its answer was lost, it "
    "counts once; so does each observation of a list. Keys are known for as long as observations are kept.",
    "schema": {"type": "string", "minLength": 1, "maxLength": _LONGEST_TEXT, "pattern": "^[!-~]+$"},
    "example": "deploy-1207-migrate",
}
_ANSWER: Final = {"accepted": 1, "patterns": [], "pending": False, "repeated": 0}


@plain(
    router,
    "/observe",
    Scope.WRITE,
    Operation(
        "Learn from what was done",
        "Learn from one observation, or from a list of up to 1,000, all of them or none.\n\n"
        "What was answered is stored durably, and learnt once, whatever fails. A request without an answer "
        "may or may not be stored: with an Idempotency-Key it can be sent again and counts once. The answer "
        "waits a moment for what is learnt; after that, `pending` is true.",
        "patterns",
        _BODY,
        Learnt,
        _ANSWER,
        parameters=(_KEY,),
    ),
)
async def observe(request: Request) -> Response:
    service = service_of(request)
    observing = service.observing
    named = _key_of(request)
    body = await request.body()
    retention_days = service.atlas.settings.learner.max_retention_days
    reader = Reader(*await observing.cleaning(), service.atlas.clock.now(), retention_days)
    if len(body) <= _QUICK_BYTES:
        observations, keys = reader.read(body)
    else:
        observations, keys = await asyncio.to_thread(reader.read, body)
    hashes = _hashes(caller_of(request).id or "", named, keys)
    outcome = await observing.observe(observations, hashes)
    head = b'{"accepted":%d,"pending":%s,"repeated":%d,"patterns":[' % (
        len(observations),
        b"true" if outcome.pending else b"false",
        outcome.repeated,
    )
    return Response(head + b",".join(outcome.patterns.values()) + b"]}", media_type="application/json")


def _key_of(request: Request) -> str | None:
    """The key of the whole request; Problem 422 if it is none."""
    key = request.headers.get("idempotency-key")
    if key is not None and not (0 < len(key) <= _LONGEST_TEXT and all("!" <= each <= "~" for each in key)):
        raise Problem(
            422,
            f"Idempotency-Key must have 1 to {_LONGEST_TEXT} printable ASCII characters and no blanks: "
            "send a UUID, for example",
        )
    return key


def _hashes(caller: str, named: str | None, keys: Sequence[str | None]) -> list[bytes | None] | None:
    """What tells observations that are sent again from others; None if nothing does.

    Each caller has keys of its own. The key of a request stands for each of its observations, by its place.
    """
    if named is None and not any(keys):
        return None
    hashes: list[bytes | None] = []
    for number, key in enumerate(keys):
        if key is None and named is None:
            hashes.append(None)
            continue
        name = ("request", named, number) if key is None else ("observation", key)
        hashes.append(blake2b(orjson.dumps((caller, *name)), digest_size=16).digest())
    return hashes
