"""Routes that are called most often: plain Starlette, one strict model a body, described in OpenAPI by hand.

They cost half of what a route of FastAPI does, which resolves dependencies and validates answers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

import orjson
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from atlas.scopes import Scope
from maia.api.context import caller_of, declares
from maia.api.openapi import complete_examples
from maia.api.problems import Problem, ProblemDetails

if TYPE_CHECKING:
    from fastapi import APIRouter, FastAPI
    from starlette.types import ASGIApp, Receive, Send
    from starlette.types import Scope as ASGIScope

Body = TypeVar("Body", bound=BaseModel)
_MOST_ERRORS: Final = 20
_REF: Final = "#/components/schemas/{model}"
_REFUSALS: Final = {
    400: "The body can't be read.",
    401: "No valid key.",
    403: "The key lacks the scope that this needs.",
    408: "The body arrived too slowly.",
    413: "The body is too long.",
    422: "A value is not as described here.",
    429: "More requests than the key may make in a minute.",
    503: "The database does not answer.",
}


@dataclass(frozen=True, slots=True)
class Operation:
    """What OpenAPI says of a hot route; `answer` is the type of what it answers with 200."""

    summary: str
    description: str
    tag: str
    body: type[BaseModel] | Mapping[str, Any]
    """Its model, or what OpenAPI says of it."""
    answer: Any
    example: Mapping[str, Any]
    """Of an answer; that of a body stands in its model."""
    extra: Mapping[int, str] = field(default_factory=dict)
    """Further statuses, with what they mean."""
    parameters: Sequence[Mapping[str, Any]] = ()

    def described(self, schemas: dict[str, Any]) -> dict[str, Any]:
        """The operation object; adds the schemas that it refers to."""
        problem = {"application/problem+json": {"schema": _schema(ProblemDetails, schemas)}}
        answer = {"schema": _schema(self.answer, schemas), "example": dict(self.example)}
        body: Any = self.body
        if isinstance(body, type):
            body = {"required": True, "content": {"application/json": {"schema": _schema(body, schemas)}}}
        return {
            "tags": [self.tag],
            "summary": self.summary,
            "description": self.description,
            "operationId": self.summary.lower().replace(" ", "_"),
            "security": [{"key": []}, {"bearer": []}],
            **({"parameters": [*self.parameters]} if self.parameters else {}),
            "requestBody": body,
            "responses": {
                "200": {"description": "Done.", "content": {"application/json": answer}},
                **{
                    str(status): {"description": why, "content": problem}
                    for status, why in sorted({**_REFUSALS, **self.extra}.items())
                },
            },
        }


_operations: Final[dict[Callable[..., Any], Operation]] = {}


def hot(
    router: APIRouter, path: str, scope: Scope, operation: Operation
) -> Callable[[Callable[[Request, Any], Awaitable[object]]], Callable[[Request], Awaitable[Response]]]:
    """Add a route for POST: the function gets the request and the validated body, and returns the answer.

    It may return the JSON of the answer instead.
    """
    assert isinstance(operation.body, type)
    validate = TypeAdapter(operation.body).validate_json

    def add(
        answer: Callable[[Request, Any], Awaitable[object]],
    ) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            try:
                body = validate(await request.body())
            except ValidationError as error:
                raise _refused(error) from None
            return answered(await answer(request, body))

        return plain(router, path, scope, operation)(endpoint)

    return add


def plain(
    router: APIRouter, path: str, scope: Scope, operation: Operation
) -> Callable[[Callable[[Request], Awaitable[Response]]], Callable[[Request], Awaitable[Response]]]:
    """Add a route for POST whose function reads the body by itself."""

    def add(answer: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        @declares(scope)
        async def endpoint(request: Request) -> Response:
            caller_of(request).require(scope)
            return await answer(request)

        _operations[endpoint] = operation
        router.add_route(path, endpoint, methods=["POST"])
        return endpoint

    return add


class Shortcut:
    """Leads requests to hot routes past FastAPI, whose way to a route costs as much as many an answer."""

    def __init__(
        self,
        app: ASGIApp,
        routers: Iterable[APIRouter],
        on_error: Callable[[Request, Exception], Awaitable[Response]],
    ) -> None:
        self._app, self._on_error = app, on_error
        self._endpoints = {route.path: route.endpoint for route in _routes(routers)}

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        endpoint = self._endpoints.get(scope.get("path", ""))
        if endpoint is None or scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        scope["endpoint"] = endpoint
        request = Request(scope, receive, send)
        try:
            response = await endpoint(request)
        except Exception as error:  # noqa: BLE001 - it is answered
            response = await self._on_error(request, error)
        await response(scope, receive, send)


def _routes(routers: Iterable[APIRouter]) -> list[Route]:
    """The hot routes of these routers."""
    return [
        route
        for router in routers
        for route in router.routes
        if isinstance(route, Route) and route.endpoint in _operations
    ]


def answered(value: object, status: int = 200) -> Response:
    """JSON of plain values and dataclasses; NaN and infinity become null. Bytes are JSON already."""
    if isinstance(value, bytes):
        return Response(value, status, media_type="application/json")
    return Response(
        orjson.dumps(value, option=orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS),
        status,
        media_type="application/json",
    )


def _refused(error: ValidationError) -> Problem:
    found = [
        {
            "where": ".".join(("body", *map(str, each["loc"]))),
            "why": each["msg"].removeprefix("Value error, "),
        }
        for each in error.errors(include_url=False, include_context=False, include_input=False)[:_MOST_ERRORS]
    ]
    told = "; ".join(f"{each['where']}: {each['why']}" for each in found[:3])
    return Problem(422, f"{told}: GET /openapi.json describes what is expected", errors=found)


def describe(app: FastAPI, routers: Iterable[APIRouter]) -> None:
    """Let the OpenAPI document of an application contain the hot routes of its routers, too."""
    described = [(route.path, _operations[route.endpoint]) for route in _routes(routers)]
    without = app.openapi

    def openapi() -> dict[str, Any]:
        is_whole = app.openapi_schema is not None
        document = without()
        if is_whole:
            return document
        paths = document.setdefault("paths", {})
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for path, operation in described:
            paths.setdefault(path, {}).setdefault("post", operation.described(schemas))
        complete_examples(document)
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _schema(of: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    mode: Any = "validation" if isinstance(of, type) and issubclass(of, BaseModel) else "serialization"
    made = TypeAdapter(of).json_schema(ref_template=_REF, mode=mode)
    for name, schema in made.pop("$defs", {}).items():
        schemas.setdefault(name, schema)
    name = made.get("title")
    if not isinstance(name, str):
        return made
    schemas.setdefault(name, made)
    return {"$ref": _REF.format(model=name)}
