"""Configures logging for all entry points: to stderr, as text or JSON lines, without secrets.

Control characters in foreign text are escaped, so that a record cannot manipulate a terminal.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

from atlas import foreign
from maia.cycle import sessions

if TYPE_CHECKING:
    from types import TracebackType

    from atlas.config import Settings

# The form of Google's API keys, to find even keys that are not in the settings.
_ANY_API_KEY = re.compile(r"AIza[0-9A-Za-z_-]{35}")
# With any user name, because a library may log the URL of any service.
_PASSWORD_IN_URL = re.compile(r"(?<=://)[^\s/@:\"']*:[^\s/@\"']+(?=@)")
# Keys of the HTTP service.
_ACCESS_KEY = re.compile(r"\bpk_[0-9a-f]{12}_[\w-]{20,}")
_KEY_IN_QUERY = re.compile(r"(?<=[?&]key=)[^\s&\"']+")
# Secrets of other programs that may be in our environment.
_SECRET_VARIABLES = (
    "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "PREFECT_API_KEY", "PREFECT_API_AUTH_STRING",
    "PREFECT_SERVER_API_AUTH_STRING", "POSTGRES_PASSWORD", "PGPASSWORD",
)  # fmt: skip
_HIDDEN = "[hidden]"
_SHORTEST_SECRET = 4
_RUN_DIGITS = 8
_INDENT = " " * 4
_COLOURS = {logging.DEBUG: "2", logging.WARNING: "33", logging.ERROR: "31", logging.CRITICAL: "1;31"}
_LEAST_LEVELS = {
    "aiosqlite": logging.INFO,
    "httpcore": logging.WARNING,
    "httpx": logging.WARNING,
    "mcp": logging.WARNING,
    "stamina": logging.ERROR,
    # It would log each WebSocket that comes and goes.
    "uvicorn": logging.WARNING,
}
# What Prefect says of a run that was told to end: at its work, as it started, and as it was told again. Only
# what is told to end finishes in a state that is no end.
_TOLD_TO_END = re.compile(
    r"Execution was (cancelled by the runtime environment|aborted by a termination signal)"
    r"|Finished in state (Scheduled|Pending|Running|Paused|Cancelling)\("
    r"|Finished in state .*\btype=(SCHEDULED|PENDING|RUNNING|PAUSED|CANCELLING)\)$",
    re.DOTALL,
)
_TERMINATION = "TerminationSignal"
"""The exception that Prefect raises in a run, anywhere, at SIGTERM."""
_RUN_LOGGERS = ("prefect.flow_runs", "prefect.task_runs")
# The exceptions that Prefect and its HTTP library raise when its server does not respond.
_UNREACHABLE = ("ConnectError", "ConnectTimeout", "ReadError", "ReadTimeout", "RemoteProtocolError",
                "ConnectionClosedError", "InvalidMessage", "InvalidStatus")  # fmt: skip
# Loggers that report runs which an outage ended.
_OBSERVERS = ("FlowRunCancellingObserver", "FlowRunSuspendingObserver")
_CONSEQUENCES = ("prefect.runner", *(f"prefect.{name}" for name in _OBSERVERS), "asyncio")
UNDER_MAIA_UP = "MAIA_UP"
"""Set in the environment of the processes that `maia up` starts."""

_OUTAGE_LASTS_S = 60.0
"""An outage of Prefect's server counts as over when there was no sign of it for this long."""

_OUTAGE_TOLERATED_S = 30.0
"""Under `maia up`, shorter outages are not reported: it reports itself that it restarts the server."""
_STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure(settings: Settings) -> None:
    """Configure logging from the settings, replacing any earlier configuration."""
    _install(settings.log.level, json_lines=settings.log.json_lines, secrets=dict(_secrets(settings)))


def configure_plainly(level: str) -> None:
    """Log as text at `level`, before the settings are loaded."""
    _install(level, json_lines=False, secrets=dict(_ambient_secrets()))


def handler() -> StderrHandler:
    """The handler for processes that Prefect configures with flows/logging.yml: servers, workers, runs."""
    from atlas import config
    from atlas.errors import ConfigError

    try:
        settings = config.load()
    except ConfigError:
        # The code that uses the settings reports what is wrong with them.
        return _handler("INFO", json_lines=False, secrets=dict(_ambient_secrets()))
    _quieten(settings.log.level)
    made = _handler(settings.log.level, json_lines=settings.log.json_lines, secrets=dict(_secrets(settings)))
    # In those processes only Prefect reports why a run failed.
    made.filters[:] = [_is_warning_or_ours]
    # Otherwise Prefect prints a traceback for each record that it fails to send to its server.
    logging.raiseExceptions = settings.log.level == "DEBUG"
    if settings.log.level != "DEBUG":
        _hide_terminations()
    return made


def text_formatter(settings: Settings) -> logging.Formatter:
    """Formats records as their text alone, without secrets: for where time, level and run stand beside it."""
    return _TextFormatter(dict(_secrets(settings)))


def _install(level: str, *, json_lines: bool, secrets: Mapping[str, str]) -> None:
    root = logging.getLogger()
    root.handlers[:] = [_handler(level, json_lines=json_lines, secrets=secrets)]
    root.setLevel(level)
    _quieten(level)


def _handler(level: str, *, json_lines: bool, secrets: Mapping[str, str]) -> StderrHandler:
    made = StderrHandler()
    made.setLevel(level)
    made.addFilter(_is_not_repeated)
    made.setFormatter(_JsonFormatter(secrets) if json_lines else _ConsoleFormatter(secrets))
    return made


def _quieten(level: str) -> None:
    for name, least in _LEAST_LEVELS.items():
        logging.getLogger(name).setLevel(logging.DEBUG if level == "DEBUG" else least)


def _is_not_repeated(record: logging.LogRecord) -> bool:
    """Drop Prefect's reports of how each run went, with tracebacks: we report that ourselves."""
    if record.name.partition(".")[0] != "prefect" or logging.getLogger().isEnabledFor(logging.DEBUG):
        return True
    return record.levelno >= logging.WARNING and not record.name.startswith(_RUN_LOGGERS)


def _is_warning_or_ours(record: logging.LogRecord) -> bool:
    """Keep only warnings of Prefect's records, and none about tasks: those are our steps, which we report.

    A run that ends because the process was told to end is no error either.
    """
    name, debugs = record.name, logging.getLogger("maia").isEnabledFor(logging.DEBUG)
    if name.startswith("prefect") and not debugs:
        message = record.getMessage()
        if name.startswith("prefect.task_runs") or _TOLD_TO_END.search(message):
            return False
        return record.levelno >= logging.WARNING
    return True


def _hide_terminations() -> None:
    """Let a run end without a traceback if Prefect's exception at SIGTERM ends it, or was lost in it."""
    others, others_lost = sys.excepthook, sys.unraisablehook

    def uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if kind.__name__ != _TERMINATION:
            others(kind, error, traceback)

    def lost(told: sys.UnraisableHookArgs) -> None:
        # Whoever ends runs tells those again that go on.
        if told.exc_type.__name__ != _TERMINATION:
            others_lost(told)

    sys.excepthook, sys.unraisablehook = uncaught, lost


def _ambient_secrets() -> Iterator[tuple[str, str]]:
    for name in _SECRET_VARIABLES:
        if value := os.environ.get(name):
            yield value, _HIDDEN
            # Such a variable may hold USER:PASSWORD, for basic authentication.
            yield value.rpartition(":")[2], _HIDDEN


def _secrets(settings: Settings) -> Iterator[tuple[str, str]]:
    """Every secret in the settings, with its replacement in the log."""
    for keys in settings.key_pool.values():
        for key in keys:
            yield key.key.get_secret_value(), key.fingerprint
    ping_url = settings.maintainer.alerts.ping_url
    for url in (settings.database_url, settings.redis_url, ping_url, *settings.notifier.urls):
        if url is not None:
            yield from _parts_of_url(url.get_secret_value())
    if settings.hf_token is not None:
        yield settings.hf_token.get_secret_value(), _HIDDEN
    yield from _ambient_secrets()


def _parts_of_url(url: str) -> Iterator[tuple[str, str]]:
    from urllib.parse import unquote, urlsplit

    yield url, _HIDDEN
    try:
        password = urlsplit(url).password
    except ValueError:
        return
    if password:
        yield password, _HIDDEN
        yield unquote(password), _HIDDEN


class StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to the current `sys.stderr`, which a progress display may have replaced.

    The class is public because Prefect keeps a root handler only if its class name has no underscore.
    """

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self._outage = _Outage(tolerated_s=_OUTAGE_TOLERATED_S if UNDER_MAIA_UP in os.environ else 0.0)

    def handle(self, record: logging.LogRecord) -> bool:
        shown = self._outage.summarize(record)
        return False if shown is None else bool(super().handle(shown))

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, value: TextIO) -> None:
        raise AttributeError("this handler always writes to sys.stderr")


class _Outage:
    """Reduces an outage of Prefect's server to one line; Prefect itself reports it again and again."""

    def __init__(self, *, tolerated_s: float) -> None:
        self._tolerated_s = tolerated_s
        self._began_s = self._last_s = float("-inf")
        self._reported = False

    def summarize(self, record: logging.LogRecord) -> logging.LogRecord | None:
        """The record to log: a summary for the first of an outage, None for those that follow from it."""
        if not _is_prefects(record) or logging.getLogger("maia").isEnabledFor(logging.DEBUG):
            return record
        if any(isinstance(error, asyncio.CancelledError) for error in _errors(record)):
            # The server was stopped during work that it will repeat the next time.
            return None
        if not _is_outage(record):
            follows = record.created - self._last_s < _OUTAGE_LASTS_S and record.name.startswith(
                _CONSEQUENCES
            )
            return None if follows else record
        if record.created - self._last_s > _OUTAGE_LASTS_S:
            self._began_s, self._reported = record.created, False
        self._last_s = record.created
        if self._reported or record.created - self._began_s < self._tolerated_s:
            return None
        self._reported = True
        line = "Prefect's server does not respond; retrying until it does"
        return logging.makeLogRecord(
            vars(record) | {"levelno": logging.WARNING, "levelname": "WARNING", "msg": line}
            | {"args": None, "exc_info": None, "exc_text": None}
        )  # fmt: skip


def _is_prefects(record: logging.LogRecord) -> bool:
    # Its observers raise in a callback of the event loop, so asyncio reports it.
    return record.name.startswith("prefect") or (
        record.name == "asyncio" and any(name in record.getMessage() for name in _OBSERVERS)
    )


def _is_outage(record: logging.LogRecord) -> bool:
    """Whether the record's exception, or one of its causes, says that the server cannot be reached."""
    return any(
        isinstance(error, ConnectionError) or type(error).__name__ in _UNREACHABLE
        for error in _errors(record)
    )


def _errors(record: logging.LogRecord) -> Iterator[BaseException]:
    """The record's exception and its causes."""
    error = record.exc_info[1] if record.exc_info else None
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


class _Redacting(logging.Formatter):
    """Formats records without secrets, whether in the message, the arguments or the traceback."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        super().__init__()
        self._substitutes = {
            form: name
            for text, name in secrets.items()
            if len(text) >= _SHORTEST_SECRET
            for form in _forms(text)
        }
        longest_first = sorted(self._substitutes, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def redact(self, text: str) -> str:
        if self._pattern is not None:
            text = self._pattern.sub(lambda match: self._substitutes[match[0]], text)
        for secret in (_ANY_API_KEY, _ACCESS_KEY, _PASSWORD_IN_URL, _KEY_IN_QUERY):
            text = secret.sub(_HIDDEN, text)
        return text


def _forms(text: str) -> set[str]:
    """The forms that text may have in a log line: as it is, escaped by Python, by JSON, or by both."""
    quoted = {text, repr(text)[1:-1]}
    return quoted | {json.dumps(form, ensure_ascii=False)[1:-1] for form in quoted}


class _ConsoleFormatter(_Redacting):
    """`12:00:01 WARNING maia.hunter [4f1c9a02]: message`, with the run's id if any, coloured on terminals."""

    def format(self, record: logging.LogRecord) -> str:
        level = record.levelname
        if record.levelno in _COLOURS and _may_colour():
            level = f"\x1b[{_COLOURS[record.levelno]}m{level}\x1b[0m"
        session = sessions.current()
        run = f" [{session.id[-_RUN_DIGITS:]}]" if session else ""
        start = f"{self.formatTime(record, '%H:%M:%S')} {level} {record.name}{run}: "
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        # Indented, so that foreign text cannot pass for a line of the log.
        return start + self.redact(foreign.many_lines(text)).replace("\n", f"\n{_INDENT}")


class _TextFormatter(_Redacting):
    """The message, and below it the traceback, if any."""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return self.redact(foreign.many_lines(text))


class _JsonFormatter(_Redacting):
    """One JSON object per line, including the record's `extra` fields."""

    def format(self, record: logging.LogRecord) -> str:
        import orjson

        extra = {name: value for name, value in vars(record).items() if name not in _STANDARD_FIELDS}
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_session_fields(),
            **extra,
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        options = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY
        return foreign.json_document(self.redact(orjson.dumps(line, default=str, option=options).decode()))


def _session_fields() -> dict[str, str]:
    session = sessions.current()
    return {"agent": session.agent, "run": session.id} if session else {}


def _may_colour() -> bool:
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
