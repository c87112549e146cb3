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

if TYPE_CHECKING:
    from atlas.config import Settings

# Google's API keys have this form, so even one that is not in the settings is recognised.
_ANY_API_KEY = re.compile(r"AIza[0-9A-Za-z_-]{35}")
_HIDDEN = "[hidden]"
_SHORTEST_SECRET = 4
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
    _install(level, json_lines=False, secrets={})


def _install(level: str, *, json_lines: bool, secrets: Mapping[str, str]) -> None:
    handler = StderrHandler()
    handler.setLevel(level)
    handler.addFilter(_tells_enough)
    handler.setFormatter(_JsonFormatter(secrets) if json_lines else _ConsoleFormatter(secrets))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name, least in _CHATTY.items():
        logging.getLogger(name).setLevel(logging.DEBUG if level == "DEBUG" else least)


def _tells_enough(record: logging.LogRecord) -> bool:
    """Whether nobody else tells it: Prefect repeats how each run went, failures with their traceback."""
    if record.name.partition(".")[0] != "prefect" or logging.getLogger().isEnabledFor(logging.DEBUG):
        return True
    return record.levelno >= logging.WARNING and not record.name.startswith(_RUNS)


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
        return _ANY_API_KEY.sub(_HIDDEN, text)


def _forms(text: str) -> set[str]:
    """How a text may stand in a line: as it is, quoted by Python, by JSON, or by both."""
    quoted = {text, repr(text)[1:-1]}
    return quoted | {json.dumps(form, ensure_ascii=False)[1:-1] for form in quoted}


class _ConsoleFormatter(_Redacting):
    """`12:00:01 WARNING maia.hunter: message`, coloured on a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        level = record.levelname
        if record.levelno in _COLOURS and _may_colour():
            level = f"\x1b[{_COLOURS[record.levelno]}m{level}\x1b[0m"
        text = f"{self.formatTime(record, '%H:%M:%S')} {level} {record.name}: {record.getMessage()}"
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
            **extra,
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        options = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY
        return self.redact(orjson.dumps(line, default=str, option=options).decode())


def _may_colour() -> bool:
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
