"""Errors as problem details (RFC 9457): what went wrong, and what to do about it."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import orjson
from pydantic import BaseModel, Field
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from atlas import errors
from atlas.wording import counted
from maia.graphing.forms import FormError
from maia.graphing.naming import NoSuchAtom

if TYPE_CHECKING:
    from starlette.requests import Request

logger = logging.getLogger(__name__)

MEDIA_TYPE: Final = "application/problem+json"
TOLD_EVERY_S: Final = 10.0
_LONGEST_DETAIL: Final = 1_000
_LONGEST_REASON: Final = 300

_STATUS_OF: Final[Sequence[tuple[type[Exception], HTTPStatus, bool]]] = (
    (errors.DataRefused, HTTPStatus.UNPROCESSABLE_ENTITY, True),
    (errors.ObjectNotFound, HTTPStatus.NOT_FOUND, True),
    (errors.UnknownCursor, HTTPStatus.GONE, True),
    (errors.QueryTooCostly, HTTPStatus.UNPROCESSABLE_ENTITY, True),
    (errors.StatementTimeout, HTTPStatus.SERVICE_UNAVAILABLE, False),
    (errors.TransactionConflict, HTTPStatus.SERVICE_UNAVAILABLE, False),
    (errors.DatabaseUnavailable, HTTPStatus.SERVICE_UNAVAILABLE, False),
    (errors.CannotStore, HTTPStatus.INSUFFICIENT_STORAGE, False),
    (errors.VaultError, HTTPStatus.SERVICE_UNAVAILABLE, False),
    (FormError, HTTPStatus.UNPROCESSABLE_ENTITY, True),
    (NoSuchAtom, HTTPStatus.NOT_FOUND, True),
)
"""The status of our errors, and whether their text is for those who call; the rest is for who operates us."""


class ProblemDetails(BaseModel):
    """An error, as RFC 9457 describes it."""

    type: str = Field(default="about:blank", description="Always about:blank: the title says what it is.")
    title: str = Field(description="The meaning of the status.", examples=["Not Found"])
    status: int = Field(description="The HTTP status.", examples=[404])
    detail: str = Field(
        description="What went wrong, and what to do about it.",
        examples=["no pattern has this id: GET /patterns lists them"],
    )
    errors: list[dict[str, Any]] | None = Field(
        default=None, description="Each value that was refused: where it is, and why."
    )
    run: str | None = Field(default=None, description="The run that is under way, if that is the reason.")


class Problem(Exception):
    """Ends a request with problem details."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        errors: Sequence[Mapping[str, Any]] | None = None,
        headers: Mapping[str, str] | None = None,
        run: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.errors, self.headers = status, detail, errors, dict(headers or {})
        self.run = run

    @property
    def title(self) -> str:
        return HTTPStatus(self.status).phrase

    def response(self) -> Response:
        body: dict[str, Any] = {
            "type": "about:blank",
            "title": self.title,
            "status": self.status,
            "detail": self.detail[:_LONGEST_DETAIL],
        }
        if self.errors is not None:
            body["errors"] = [
                # They name fields of the request as it does.
                {name: str(value)[:_LONGEST_REASON] for name, value in each.items()}
                for each in self.errors
            ]
        if self.run is not None:
            body["run"] = self.run
        return Response(orjson.dumps(body), self.status, self.headers, MEDIA_TYPE)


class Failures:
    """Logs requests that fail for lack of a resource, few lines for many: an outage fails all of them.

    For each kind of error there is a line when it begins, then one with a count every `every_s` as long as
    requests fail, and one when none has for that long.
    """

    def __init__(self, every_s: float = TOLD_EVERY_S) -> None:
        self._every_s = every_s
        self._failed: Counter[type[Exception]] = Counter()

    def note(self, error: Exception) -> None:
        """Take note of a failed request."""
        kind = type(error)
        self._failed[kind] += 1
        if self._failed[kind] == 1:
            logger.warning("a request failed: %s", error)
            self._look_later(kind, str(error), told=1)

    def _look_later(self, kind: type[Exception], reason: str, told: int) -> None:
        asyncio.get_running_loop().call_later(self._every_s, self._tell, kind, reason, told)

    def _tell(self, kind: type[Exception], reason: str, told: int) -> None:
        failed = self._failed[kind]
        if failed == told:
            del self._failed[kind]
            logger.info("requests no longer fail, as %d did: %s", failed, reason)
            return
        more = counted(failed - told, "more request")
        logger.warning("%s failed in %g s: %s", more, self._every_s, reason)
        self._look_later(kind, reason, failed)


OF_CALLERS: Final[tuple[type[Exception], ...]] = (
    Problem,
    *(kind for kind, _, is_for_callers in _STATUS_OF if is_for_callers),
)
"""Errors that are answered with their own text: whoever asked is told, and nobody else need know."""

_failures = Failures()


def problem_of(error: Exception) -> Problem | None:
    """The problem that an error of ours is; None for a defect."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, ClientDisconnect):
        return Problem(HTTPStatus.BAD_REQUEST, "the request ended before its body did: send it again")
    for kind, status, is_for_callers in _STATUS_OF:
        if isinstance(error, kind):
            if is_for_callers:
                return Problem(status, str(error))
            _failures.note(error)
            return Problem(status, _ADVICE[status], headers={"Retry-After": "5"})
    return None


_ADVICE: Final = {
    HTTPStatus.SERVICE_UNAVAILABLE: "the database or the vault does not answer in time: try again in a few "
    "seconds; GET /api/v1/health says what is wrong",
    HTTPStatus.INSUFFICIENT_STORAGE: "the database has no space to store anything: nothing was stored; "
    "whoever operates it runs maia system health",
}


def described(status: int, description: str) -> dict[int | str, dict[str, Any]]:
    """The documentation of a problem that a route may answer, besides those of all routes."""
    schema = ProblemDetails.model_json_schema()
    return {status: {"description": description, "content": {MEDIA_TYPE: {"schema": schema}}}}


async def answer_problem(_: Request, error: Exception) -> Response:
    """Answer an error of ours, or one that nobody expected, with problem details."""
    problem = problem_of(error)
    if problem is None:
        logger.error("a request failed unexpectedly", exc_info=error)
        problem = Problem(500, "this is a defect of Pleiades; its log says where")
    return problem.response()
