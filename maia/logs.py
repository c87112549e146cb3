"""Logging as the entry points configure it: to stderr, readable or as JSON lines, without secrets."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

from maia import sessions

if TYPE_CHECKING:
    from atlas.config import Settings

# Google's API keys have this form, so even one that is not in the settings is recognised.
_ANY_API_KEY = re.compile(r"AIza[0-9A-Za-z_-]{35}")
# Whoever the user is: a URL that is logged by a library may be of any service.
_PASSWORD_IN_URL = re.compile(r"(?<=://)[^\s/@:\"']*:[^\s/@\"']+(?=@)")
_KEY_IN_QUERY = re.compile(r"(?<=[?&]key=)[^\s&\"']+")
# Others' secrets that stand in the environment of our processes.
_SECRET_VARIABLES = (
    "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "PREFECT_API_KEY", "PREFECT_API_AUTH_STRING",
    "PREFECT_SERVER_API_AUTH_STRING", "POSTGRES_PASSWORD", "PGPASSWORD",
)  # fmt: skip
_HIDDEN = "[hidden]"
_SHORTEST_SECRET = 4
_RUN_DIGITS = 8
_COLOURS = {logging.DEBUG: "2", logging.WARNING: "33", logging.ERROR: "31", logging.CRITICAL: "1;31"}
_CHATTY = {
    "aiosqlite": logging.INFO,
    "httpcore": logging.WARNING,
    "httpx": logging.WARNING,
    "stamina": logging.ERROR,
}
_RUNS = ("prefect.flow_runs", "prefect.task_runs")
_STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure(settings: Settings) -> None:
    """Log as the settings ask for; replaces what was configured before."""
    _install(settings.log.level, json_lines=settings.log.json_lines, secrets=dict(_secrets(settings)))


def configure_plainly(level: str) -> None:
    """Log readably at `level`, while there are no settings to go by."""
    _install(level, json_lines=False, secrets=dict(_ambient_secrets()))


def handler() -> StderrHandler:
    """For processes that Prefect configures, by flows/logging.yml: servers, workers, and their runs."""
    from atlas import config
    from atlas.errors import ConfigError

    try:
        settings = config.load()
    except ConfigError:
        # Whoever uses the settings will tell what is wrong with them.
        return _handler("INFO", json_lines=False, secrets=dict(_ambient_secrets()))
    _quieten(settings.log.level)
    made = _handler(settings.log.level, json_lines=settings.log.json_lines, secrets=dict(_secrets(settings)))
    # There nobody else tells why a run failed.
    made.filters[:] = [_tells_failures]
    return made


def _install(level: str, *, json_lines: bool, secrets: Mapping[str, str]) -> None:
    root = logging.getLogger()
    root.handlers[:] = [_handler(level, json_lines=json_lines, secrets=secrets)]
    root.setLevel(level)
    _quieten(level)


def _handler(level: str, *, json_lines: bool, secrets: Mapping[str, str]) -> StderrHandler:
    made = StderrHandler()
    made.setLevel(level)
    made.addFilter(_tells_enough)
    made.setFormatter(_JsonFormatter(secrets) if json_lines else _ConsoleFormatter(secrets))
    return made


def _quieten(level: str) -> None:
    for name, least in _CHATTY.items():
        logging.getLogger(name).setLevel(logging.DEBUG if level == "DEBUG" else least)


def _tells_enough(record: logging.LogRecord) -> bool:
    """Whether nobody else tells it: Prefect repeats how each run went, failures with their traceback."""
    if record.name.partition(".")[0] != "prefect" or logging.getLogger().isEnabledFor(logging.DEBUG):
        return True
    return record.levelno >= logging.WARNING and not record.name.startswith(_RUNS)


def _tells_failures(record: logging.LogRecord) -> bool:
    """Of what Prefect says, only what went wrong; its tasks are our steps, and maia tells of those."""
    name, debugs = record.name, logging.getLogger("maia").isEnabledFor(logging.DEBUG)
    if name.startswith("prefect") and not debugs:
        return record.levelno >= logging.WARNING and not name.startswith("prefect.task_runs")
    return True


def _ambient_secrets() -> Iterator[tuple[str, str]]:
    for name in _SECRET_VARIABLES:
        if value := os.environ.get(name):
            yield value, _HIDDEN
            # USER:PASSWORD, as for basic authentication.
            yield value.rpartition(":")[2], _HIDDEN


def _secrets(settings: Settings) -> Iterator[tuple[str, str]]:
    """Each secret of the settings with what stands for it in a log."""
    for keys in settings.key_pool.values():
        for key in keys:
            yield key.key.get_secret_value(), key.fingerprint
    for url in (settings.database_url, settings.redis_url, *settings.notifier.urls):
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
    """Writes to whatever `sys.stderr` is by then: a progress display puts itself in between.

    Prefect leaves a root handler alone whose name is public, and replaces others.
    """

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, value: TextIO) -> None:
        raise AttributeError("this handler always writes to sys.stderr")


class _Redacting(logging.Formatter):
    """Writes records without secrets, wherever in message, arguments or traceback they stand."""

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
        for secret in (_ANY_API_KEY, _PASSWORD_IN_URL, _KEY_IN_QUERY):
            text = secret.sub(_HIDDEN, text)
        return text


def _forms(text: str) -> set[str]:
    """How a text may stand in a line: as it is, quoted by Python, by JSON, or by both."""
    quoted = {text, repr(text)[1:-1]}
    return quoted | {json.dumps(form, ensure_ascii=False)[1:-1] for form in quoted}


class _ConsoleFormatter(_Redacting):
    """`12:00:01 WARNING maia.hunter [4f1c9a02]: message`, in colours on a terminal; the run, if any."""

    def format(self, record: logging.LogRecord) -> str:
        level = record.levelname
        if record.levelno in _COLOURS and _may_colour():
            level = f"\x1b[{_COLOURS[record.levelno]}m{level}\x1b[0m"
        session = sessions.current()
        run = f" [{session.id[-_RUN_DIGITS:]}]" if session else ""
        text = f"{self.formatTime(record, '%H:%M:%S')} {level} {record.name}{run}: {record.getMessage()}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return self.redact(text)


class _JsonFormatter(_Redacting):
    """One JSON object a line, with the record's `extra` fields."""

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
        return self.redact(orjson.dumps(line, default=str, option=options).decode())


def _session_fields() -> dict[str, str]:
    session = sessions.current()
    return {"agent": session.agent, "run": session.id} if session else {}


def _may_colour() -> bool:
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
