"""Speaks MCP over two pipes, so that signals are heard and answers in progress are finished.

The SDK's own transport reads stdin in a thread that keeps the process alive until the client writes again,
and drops the requests that are being answered when the client closes stdin.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import anyio
import mcp_types as types
from mcp.shared.message import SessionMessage
from pydantic import ValidationError

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
    from mcp.server.lowlevel import Server

logger = logging.getLogger(__name__)

_CHUNK_BYTES: Final = 64 * 1024
_LAST_ANSWERS_S: Final = 5.0
"""How long requests may take that are being answered when the client closes stdin."""

_T = TypeVar("_T")


async def converse(server: Server[Any], source: int, sink: int, most_bytes: int) -> None:
    """Serve one client that writes to the descriptor `source` and reads from `sink`, until it leaves."""
    requests, received = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    answers, sent = anyio.create_memory_object_stream[SessionMessage](0)
    pipes = _Pipes(source, sink, most_bytes)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pipes.read, requests, answers.clone())
        tasks.start_soon(pipes.write, sent, tasks.cancel_scope)
        await server.run(received, answers, server.create_initialization_options())


class _Pipes:
    """One JSON-RPC message a line, both ways."""

    def __init__(self, source: int, sink: int, most_bytes: int) -> None:
        self._source, self._sink, self._most_bytes = source, sink, most_bytes
        self._unanswered: set[types.RequestId] = set()
        self._answered = asyncio.Event()

    async def read(
        self,
        requests: MemoryObjectSendStream[SessionMessage | Exception],
        answers: MemoryObjectSendStream[SessionMessage],
    ) -> None:
        """Pass on what the client writes; what can't be read is answered with an error."""
        async with requests, answers:
            async for line in self._lines():
                try:
                    if line is None:
                        raise ValueError(f"a message must not have more than {self._most_bytes:,} bytes")
                    message = types.jsonrpc_message_adapter.validate_json(line, by_name=False)
                except ValueError as error:
                    await answers.send(SessionMessage(_refusal(error)))
                    continue
                if isinstance(message, types.JSONRPCRequest):
                    self._unanswered.add(message.id)
                await requests.send(SessionMessage(message))
            await self._finish()

    async def write(
        self, answers: MemoryObjectReceiveStream[SessionMessage], everything: anyio.CancelScope
    ) -> None:
        """Write what the server sends; without a reader there is nothing left to do."""
        async with answers:
            async for answer in answers:
                message = answer.message
                line = message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n"
                try:
                    await _unawaited_by_exit(partial(_write_all, self._sink, line))
                except OSError as error:
                    logger.debug("the client reads no more: %s", error)
                    everything.cancel()
                    return
                if isinstance(message, (types.JSONRPCResponse, types.JSONRPCError)):
                    if message.id is not None:
                        self._unanswered.discard(message.id)
                    self._answered.set()

    async def _finish(self) -> None:
        """Wait until all requests are answered; those that the client cancelled never are."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_ANSWERS_S):
                while self._unanswered:
                    self._answered.clear()
                    await self._answered.wait()

    async def _lines(self) -> AsyncIterator[bytes | None]:
        """The lines that the client writes; None for one that is too long."""
        begun, is_too_long = b"", False
        while chunk := await self._chunk():
            *ended, rest = chunk.split(b"\n")
            for piece in ended:
                line, begun = begun + piece, b""
                if is_too_long or len(line) > self._most_bytes:
                    is_too_long = False
                    yield None
                elif line.strip():
                    yield line
            begun += rest
            if len(begun) > self._most_bytes:
                begun, is_too_long = b"", True
        if is_too_long or begun.strip():
            yield None if is_too_long else begun

    async def _chunk(self) -> bytes:
        try:
            return await _unawaited_by_exit(partial(os.read, self._source, _CHUNK_BYTES))
        except OSError as error:
            logger.debug("the client writes no more: %s", error)
            return b""


def _refusal(error: ValueError) -> types.JSONRPCError:
    why = "it is no JSON-RPC message" if isinstance(error, ValidationError) else str(error)
    told = types.ErrorData(code=types.PARSE_ERROR, message=f"a line could not be read: {why}")
    return types.JSONRPCError(jsonrpc="2.0", id=None, error=told)


def _write_all(sink: int, line: bytes) -> None:
    left = memoryview(line)
    while left:
        left = left[os.write(sink, left) :]


async def _unawaited_by_exit(work: Callable[[], _T]) -> _T:
    """Await blocking work in a thread that doesn't keep the process alive: nothing can interrupt it."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_T] = loop.create_future()

    def settle(result: _T | None, error: OSError | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except OSError as raised:
            error = raised
        # The loop may have been closed meanwhile.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, daemon=True).start()
    return await done
