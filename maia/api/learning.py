"""The learning service over HTTP: patterns in its own shape, and runs of the learner."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import datetime
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Annotated, Any, Final
from uuid import uuid4

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request

from atlas.adapters.patterns import PatternsDAO
from atlas.errors import AtlasError
from maia import logs
from maia.api.context import READ, WRITE, service_of
from maia.api.problems import Problem, ProblemDetails
from maia.cycle import sessions
from maia.cycle.agent import run_directly
from maia.cycle.outcome import EXIT_STATUSES, Outcome
from maia.errors import MaiaError
from maia.learner.cycle import ANOTHER, FULL, LOCK, Learner
from maia.learning.patterns import PatternType
from maia.log_keeping import kept_log
from maia.views.patterns import BelievedPattern
from maia.views.words import plain

if TYPE_CHECKING:
    from atlas.composition import Atlas
    from atlas.config import Settings

router = APIRouter(tags=["learning"], prefix="/api/v1/patterns")

_FORCE: Final = "force"
_STOP_S: Final = 5.0
_ID: Final = "0123456789abcdef0123456789abcdef"
_RUN: Final = "6f3c8a1e-3f0e-4d9e-9d56-0a4a2c6d2a11"


class PatternData(BaseModel):
    """What a pattern says."""

    pattern: str = Field(description="The sentence that people read.")
    conditions: list[str] = Field(examples=[["cpu_percent > 80"]])
    actions: list[str] = Field(description="What it advises; none if it only describes.")
    details: dict[str, Any] = Field(description="Figures that go with it.")


class LearntPattern(BaseModel):
    """A pattern; its confidence is the lower bound of the 90 % interval of the chance that it holds."""

    id: str
    type: PatternType
    confidence: float
    created_at: datetime
    updated_at: datetime
    support: int = Field(description="How many observations speak for it or against it.")
    sites: int = Field(description="How many sites counted them.")
    data: PatternData

    @classmethod
    def of(cls, believed: BelievedPattern) -> LearntPattern:
        return cls(
            id=believed.id,
            type=believed.type,
            confidence=believed.confidence,
            created_at=believed.created_at,
            updated_at=believed.updated_at,
            support=believed.support,
            sites=believed.sites,
            data=PatternData(
                pattern=believed.statement,
                conditions=list(believed.conditions),
                actions=[] if believed.action is None else [believed.action],
                details=plain(believed.data),
            ),
        )


class LearntPatterns(BaseModel):
    """Some of the patterns, the most firmly believed first."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "patterns": [
                        {
                            "id": _ID, "type": "threshold", "confidence": 0.82,
                            "created_at": "2026-10-20T02:10:00Z", "updated_at": "2026-11-01T02:10:00Z",
                            "support": 41, "sites": 1,
                            "data": {
                                "pattern": "The load is high when a backup runs.",
                                "conditions": ["cpu_percent > 80"], "actions": ["notify_admin"],
                                "details": {},
                            },
                        }
                    ],
                    "total": 1, "offset": 0, "limit": 50,
                }
            ]
        }
    )  # fmt: skip

    patterns: list[LearntPattern]
    total: int = Field(description="How many there are of the kind.")
    offset: int
    limit: int


class LearnRequest(BaseModel):
    """What a run of the learner is to do besides."""

    model_config = ConfigDict(
        strict=True, extra="forbid", json_schema_extra={"examples": [{"force": True, "full_analysis": False}]}
    )

    force: bool = Field(
        default=False, description="Judge, forecast and advise again, even if nothing is new."
    )
    full_analysis: bool = Field(default=False, description="Also search the whole history for sequences.")

    @property
    def options(self) -> list[str]:
        """Those of the learner in the registry of agents."""
        return [name for name, is_set in ((_FORCE, self.force), (FULL, self.full_analysis)) if is_set]


class LearnAnswer(BaseModel):
    """What a run of the learner did."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "success": True, "new_patterns": 5, "duration_seconds": 12.5, "run": _RUN,
                    "outcome": "done", "detail": None,
                }
            ]
        }
    )  # fmt: skip

    success: bool
    new_patterns: int
    duration_seconds: float
    run: str = Field(description="The run's id, which its events carry as their session.")
    outcome: str = Field(description="How it ended, such as done, or idle if there was nothing to learn.")
    detail: str | None = Field(description="What else there is to say, as why it failed.")


@router.get("", dependencies=[READ])
async def list_learnt_patterns(
    request: Request,
    type_: Annotated[
        PatternType | None, Query(alias="type", description="Only patterns of this type.")
    ] = None,
    confidence_min: Annotated[
        float, Query(ge=0, le=1, description="Only patterns of at least this confidence.")
    ] = 0.0,
    limit: Annotated[int, Query(ge=1, le=1_000, description="How many to answer at most.")] = 50,
    offset: Annotated[int, Query(ge=0, le=1_000_000, description="How many to leave out before.")] = 0,
) -> LearntPatterns:
    """List patterns, the most firmly believed first."""
    types = None if type_ is None else [type_]
    page = await service_of(request).engine.page(types, confidence_min, limit, offset)
    return LearntPatterns(
        patterns=[LearntPattern.of(each) for each in page.patterns],
        total=page.total,
        offset=offset,
        limit=limit,
    )


@router.post(
    "/learn",
    dependencies=[WRITE],
    responses={
        409: {
            "description": "A run is under way; the detail names it.",
            "content": {"application/problem+json": {"schema": ProblemDetails.model_json_schema()}},
        }
    },
)
async def learn(request: Request, wanted: LearnRequest) -> LearnAnswer:
    """Let the learner run now, as `maia learner --direct` does, and wait until it is done.

    It runs in a process of its own, and goes on if the client leaves.
    """
    return await service_of(request).learner_runs.run(wanted.options)


class LearnerRuns:
    """Runs of the learner that this process has begun: one at a time, each in a process of its own."""

    def __init__(self, atlas: Atlas) -> None:
        self._settings = atlas.settings
        self._dao = PatternsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        self._run: str | None = None
        self._process: BaseProcess | None = None

    async def run(self, options: Collection[str]) -> LearnAnswer:
        """Run a cycle; Problem 409 if any learner of this database is at work."""
        if under_way := self._run or await self._dao.run_under_way(LOCK):
            raise _under_way(under_way)
        if self._run is not None:
            raise _under_way(self._run)
        self._run = run = str(uuid4())
        try:
            found = await asyncio.shield(asyncio.ensure_future(self._in_process(run, options)))
        finally:
            if self._process is None:
                self._run = None
        if found.get("detail") == ANOTHER:
            raise _under_way(await self._dao.run_under_way(LOCK) or "just ended")
        outcome = Outcome(found["outcome"])
        return LearnAnswer(
            success=outcome not in EXIT_STATUSES and outcome is not Outcome.INTERRUPTED,
            new_patterns=found.get("new_patterns", 0),
            duration_seconds=found.get("seconds", 0.0),
            run=run,
            outcome=outcome.value,
            detail=found.get("detail"),
        )

    async def _in_process(self, run: str, options: Collection[str]) -> Mapping[str, Any]:
        context = multiprocessing.get_context("spawn")
        receiving, sending = context.Pipe(duplex=False)
        process = context.Process(target=_learn, args=(self._settings, run, [*options], sending), daemon=True)
        try:
            await asyncio.to_thread(process.start)
            self._process = process
            sending.close()
            await asyncio.to_thread(process.join)
            with suppress(EOFError):
                found: Mapping[str, Any] = receiving.recv()
                return found
            outcome = Outcome.INTERRUPTED if process.exitcode in (143, -15) else Outcome.FAILED
            return {"outcome": outcome, "detail": f"the run ended with status {process.exitcode}"}
        finally:
            receiving.close()
            self._process = self._run = None

    async def end(self) -> None:
        """Let a run that is under way stop, as the service does."""
        if (process := self._process) is not None:
            process.terminate()
            await asyncio.to_thread(process.join, _STOP_S)
            if process.exitcode is None:
                process.kill()


def _learn(settings: Settings, run: str, options: list[str], result: Connection) -> None:
    """What the process does: a cycle, whose statistics it sends."""
    logs.configure(settings)
    with sessions.about(Learner.name, run):
        try:
            work = run_directly(Learner, settings, options=options, around=kept_log)
            found: Mapping[str, Any] = asyncio.run(work)
        except (AtlasError, MaiaError) as error:
            found = {"outcome": Outcome.FAILED, "detail": str(error)}
    result.send(found)


def _under_way(run: str) -> Problem:
    return Problem(409, f"a run of the learner is under way ({run}): wait until it is done", run=run)
