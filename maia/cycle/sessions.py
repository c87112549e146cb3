"""Tracks which agent run the current task belongs to, for the run's id on its log records and events."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from uuid import uuid4


@dataclass(frozen=True, slots=True)
class Session:
    """An agent's run. If Prefect started it, the id is that of the flow run."""

    agent: str
    id: str


_current: ContextVar[Session | None] = ContextVar("session", default=None)


def current() -> Session | None:
    """The current session, if any."""
    return _current.get()


def id_of_run() -> str:
    """The id of the current session, or a new id for a run that is about to start."""
    session = _current.get()
    return session.id if session else str(uuid4())


@contextmanager
def about(agent: str, session_id: str) -> Iterator[None]:
    """Make this the session of the block and of the tasks started in it."""
    token = _current.set(Session(agent, session_id))
    try:
        yield
    finally:
        _current.reset(token)
