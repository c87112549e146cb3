"""The MCP server: which tools a caller is offered, how a call is answered, and how long an answer may be."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from functools import cache
from http import HTTPStatus
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import mcp_types as types
import orjson
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.exceptions import MCPError
from pydantic import ValidationError
from pydantic.json_schema import GenerateJsonSchema
from starlette.requests import HTTPConnection

from atlas.scopes import Scope
from maia.api.mcp import acting, graph, videos, work
from maia.api.mcp.answers import DATA_NOT_INSTRUCTIONS, Answer, Tool, ToolProblem
from maia.api.problems import problem_of
from maia.errors import MaiaError
from maia.views.words import DERIVED

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Send
    from starlette.types import Scope as AsgiScope

    from atlas.composition import Atlas

logger = logging.getLogger(__name__)

MOST_BYTES: Final = 24_000
"""Longest structured answer, as JSON in UTF-8: about 8,000 tokens, which every assistant takes."""
PATH: Final = "/mcp"
_VALIDATION: Final = re.compile(rb'(?<="message":")(Validation|Parse) error: (\\.|[^"\\])*')
_NO_REQUEST: Final = b"this is no request of JSON-RPC: send one as the Model Context Protocol describes"
TOOLS: Final[dict[str, Tool]] = {
    tool.name: tool for tool in (*videos.TOOLS, *work.TOOLS, *graph.TOOLS, *acting.TOOLS)
}
_NOT_YOUTUBES: Final = f"{DERIVED[0].upper()}{DERIVED[1:]}."
INSTRUCTIONS: Final = (
    "Pleiades finds videos on YouTube early, samples their view counts and learns what helps. It knows the "
    "videos that it samples, not all of YouTube, and answers from its own database, at no cost. Start with "
    "rising_videos or breakouts_since; video_history and channel_outliers go deeper; topic_yield, "
    "quota_status and patterns_for tell how the work goes; graph_find, graph_neighbours, "
    "graph_similar and graph_query what belongs together. View counts are YouTube's; "
    f"{DERIVED}: say so when you show them. {DATA_NOT_INSTRUCTIONS} Instants are in UTC."
)

Context: TypeAlias = ServerRequestContext[Any, Any]
ScopeOf: TypeAlias = Callable[[Context], Scope]
"""What whoever makes a request may do."""


def server(atlas: Atlas, scope_of: ScopeOf) -> Server[Any]:
    """A server over an open Atlas."""

    async def list_tools(context: Context, _: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        permitted = scope_of(context)
        return types.ListToolsResult(
            tools=[_described(each) for each in TOOLS.values() if permitted.permits(each.scope)]
        )

    async def call_tool(context: Context, call: types.CallToolRequestParams) -> types.CallToolResult:
        tool = TOOLS.get(call.name)
        if tool is None:
            raise MCPError(
                code=types.INVALID_PARAMS,
                message=f"there is no such tool: use one of {', '.join(TOOLS)}",
            )
        if not scope_of(context).permits(tool.scope):
            return _failed(
                f"{tool.name} is switched off here, so nothing was changed. Tell the person that it needs "
                "maia mcp --write, or over HTTP a key with the scope write."
            )
        return await _called(atlas, tool, call.arguments or {})

    return Server(
        "pleiades",
        version=version("pleiades-agents"),
        title="Pleiades",
        instructions=INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


class OverHttp:
    """The server as an ASGI application behind the gate.

    It keeps no sessions, so any process of the service may answer any request; an answer is one JSON object.
    """

    def __init__(self, atlas: Atlas) -> None:
        self._manager = StreamableHTTPSessionManager(
            server(atlas, _scope_of_caller),
            json_response=True,
            stateless=True,
            max_request_body_size=atlas.settings.api.most_body_bytes,
        )
        self.running = self._manager.run
        """The context within which it answers."""

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        await self._manager.handle_request(scope, receive, _in_our_words(send))


def _in_our_words(send: Send) -> Send:
    """Sends a refusal without the SDK's description of its own classes, and of what they were given."""
    refusal: Message | None = None

    async def told(message: Message) -> None:
        nonlocal refusal
        if message["type"] == "http.response.start" and message["status"] == HTTPStatus.BAD_REQUEST:
            refusal = message
            return
        if refusal is None:
            await send(message)
            return
        body = _VALIDATION.sub(_NO_REQUEST, message.get("body", b""))
        headers = [(name, value) for name, value in refusal["headers"] if name.lower() != b"content-length"]
        await send({**refusal, "headers": [*headers, (b"content-length", b"%d" % len(body))]})
        await send({**message, "body": body})
        refusal = None

    return told


def _scope_of_caller(context: Context) -> Scope:
    # Over stdio nobody needs it, and it loads all of FastAPI.
    from maia.api.context import caller_of

    request = context.request
    assert isinstance(request, HTTPConnection)
    return caller_of(request).scope


async def _called(atlas: Atlas, tool: Tool, arguments: Mapping[str, Any]) -> types.CallToolResult:
    """Call a tool; whatever goes wrong is told in a way that the model can act on."""
    try:
        asked = tool.arguments.model_validate(arguments)
    except ValidationError as error:
        return _failed(_what_is_wrong(tool, error))
    try:
        answer = await tool.run(atlas, asked)
        structured = fitted(answer)
        told = " ".join(filter(None, (answer.summary(), structured["note"], _NOT_YOUTUBES)))
    except (ToolProblem, MaiaError) as error:
        return _failed(str(error))
    except Exception as error:
        problem = problem_of(error)
        if problem is None:
            logger.error("the tool %s failed unexpectedly", tool.name, exc_info=error)
            return _failed("this is a defect of Pleiades; its log says where. Other tools may still answer.")
        return _failed(problem.detail)
    return types.CallToolResult(
        content=[
            types.TextContent(type="text", text=told),
            # For clients that don't read structured content.
            types.TextContent(type="text", text=orjson.dumps(structured).decode()),
        ],
        structured_content=structured,
    )


def _failed(text: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(type="text", text=text)], is_error=True)


def _what_is_wrong(tool: Tool, error: ValidationError) -> str:
    found = [
        f"{'.'.join(map(str, each['loc']))[:80]}: {each['msg'][:200]}"
        for each in error.errors(include_url=False, include_input=False)[:5]
    ]
    fields = ", ".join(tool.arguments.model_fields) or "no arguments"
    return (
        f"{tool.name} was not called. {'; '.join(found)}. It takes {fields}: correct them and call it again."
    )


def fitted(answer: Answer, most_bytes: int = MOST_BYTES) -> dict[str, Any]:
    """The answer as JSON has it, with as many of its rows as fit; the note says how to ask for less."""
    document: dict[str, Any] = answer.model_dump(mode="json")
    rows: list[Any] = document[answer.rows]
    whole = len(rows)
    while (size := len(orjson.dumps(document))) > most_bytes and rows:
        del rows[min(len(rows) - 1, int(len(rows) * most_bytes / size)) :]
        document["note"] = (
            f"Only {len(rows)} of {whole} {answer.rows} are here, as the answer would be too long: to see "
            f"fewer at a time, {answer.less}."
        )
    return document


class _Terse(GenerateJsonSchema):
    """Leaves out titles, which only repeat the names of fields: models pay for each word."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


@cache
def _described(tool: Tool) -> types.Tool:
    return types.Tool(
        name=tool.name,
        title=tool.title,
        description=f"{tool.about} {_NOT_YOUTUBES} {DATA_NOT_INSTRUCTIONS}",
        input_schema=tool.arguments.model_json_schema(schema_generator=_Terse),
        output_schema=tool.answer.model_json_schema(schema_generator=_Terse, mode="serialization"),
        annotations=types.ToolAnnotations(
            read_only_hint=tool.scope is Scope.READ,
            destructive_hint=False,
            idempotent_hint=True,
            open_world_hint=False,
        ),
    )
