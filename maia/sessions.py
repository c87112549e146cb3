"""Which agent's run the code at hand belongs to: its id stands on every log record and event of that run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from uuid import uuid4


@dataclass(frozen=True, slots=True)
class Session:
    """An agent's run; of one that Prefect started the id is the flow run's."""

    agent: str
    id: str


_current: ContextVar[Session | None] = ContextVar("session", default=None)


def current() -> Session | None:
    """The session around, if there is one."""
    return _current.get()


def id_of_run() -> str:
    """The id of the session around, or a new one for a run that is about to begin."""
    session = _current.get()
    return session.id if session else str(uuid4())


@contextmanager
def about(agent: str, session_id: str) -> Iterator[None]:
    """Within it, and in the tasks that are begun there, this is the session."""
    token = _current.set(Session(agent, session_id))
    try:
        yield
    finally:
        _current.reset(token)
