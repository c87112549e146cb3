"""Parses command-line arguments: time spans, dates and times, folders, contexts, videos and channels."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import typer
from typer.core import TyperCommand, TyperGroup

from atlas import paths

NameKind = Literal["video", "channel", "handle", "user"]

_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(m|min|h|d|w)")
_UNITS = {"m": "minutes", "min": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_LONGEST_SPAN = timedelta(days=3660)
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_VIDEO_ID = re.compile(r"[A-Za-z0-9_-]{11}")
_LIKE_AN_OPTION = re.compile(r"-(?!-[a-z-]+$)[A-Za-z0-9_-]{10}$")
"""A video's id that begins with a dash, unless it could be the name of a long option."""
_HANDLE = re.compile(r"@[\w.·-]{1,60}")
_LIKE_AN_ADDRESS = re.compile(r"(?:https?://|(?:www\.|m\.|music\.)?youtube(?:-nocookie)?\.com/|youtu\.be/)")
_CHANNEL_ID = re.compile(r"UC[A-Za-z0-9_-]{22}")
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_WITH_VIDEO_ID = {"shorts", "live", "embed", "v"}
_HOSTS = re.compile(r"(?:(?:www|m|music)\.)?youtube(?:-nocookie)?\.com|youtu\.be")


class Named(NamedTuple):
    """A video or a channel as the user named it: by id, or a channel by its @handle or its user name.

    `kind` is None if the text could be either.
    """

    kind: NameKind | None
    id: str


def parse_span(text: str | None, option: str) -> timedelta | None:
    """A length of time such as 90m, 24h, 7d or 2w."""
    if text is None:
        return None
    match = _SPAN.fullmatch(text.strip().lower())
    span = timedelta(**{_UNITS[match[2]]: float(match[1])}) if match and len(match[1]) < 9 else timedelta(0)
    if not timedelta(0) < span <= _LONGEST_SPAN:
        raise typer.BadParameter(f"{text!r} is not a time span such as 90m, 24h, 7d or 2w", param_hint=option)
    return span


def parse_moment(text: str | None, option: str, such_as: str = "2026-11-02T08:00:00Z") -> datetime | None:
    """A date and time with a time zone, which must be given: a guessed one could be hours off."""
    if text is None:
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not a time such as {such_as}", param_hint=option) from error
    if instant.tzinfo is None:
        raise typer.BadParameter(f"{text!r} has no time zone: add Z for UTC", param_hint=option)
    return instant.astimezone(UTC)


def parse_day_or_moment(text: str | None, option: str) -> datetime | None:
    """A date and time, or the start of a day in UTC."""
    if text is not None and _DAY.fullmatch(text):
        try:
            day = date.fromisoformat(text)
        except ValueError as error:
            raise typer.BadParameter(f"{text} does not exist", param_hint=option) from error
        return datetime(day.year, day.month, day.day, tzinfo=UTC)
    return parse_moment(text, option, "2026-11-02T08:00:00Z, nor a day such as 2026-11-02")


def parse_since(text: str, option: str) -> timedelta | datetime:
    """A start: a time span before now, a day in UTC, or a date and time."""
    if _SPAN.fullmatch(text.strip().lower()):
        span = parse_span(text, option)
        assert span is not None
        return span
    try:
        moment = parse_day_or_moment(text, option)
    except typer.BadParameter as error:
        raise typer.BadParameter(
            f"{text!r} is neither a time span such as 24h or 7d, nor a day such as 2026-11-02, nor a time "
            "such as 2026-11-02T08:00:00Z",
            param_hint=option,
        ) from error
    assert moment is not None
    return moment


def parse_folder(text: str) -> Path:
    """A folder, which need not exist yet. An empty one is refused: it would be the working folder."""
    if not text.strip():
        raise typer.BadParameter("the folder has no name: write its path, or . for the working folder")
    folder = Path(text)
    if paths.is_file(folder):
        raise typer.BadParameter(f"{text} is a file, and no folder")
    return folder


def parse_context(fields: Sequence[str], text: str | None) -> dict[str, Any]:
    """A context of FIELD=VALUE pairs, a JSON object, or both; typer.BadParameter if it holds no scalars."""
    context: dict[str, Any] = {}
    if text is not None:
        found = _json_value(text)
        if not isinstance(found, dict):
            raise typer.BadParameter(f"{text!r} is not a JSON object", param_hint="--context")
        context |= found
    for each in fields:
        name, separator, value = each.partition("=")
        if not separator or not name.strip():
            raise typer.BadParameter(f"{each!r} is not FIELD=VALUE, such as agent=hunter or hour=3")
        context[name.strip()] = _typed(value)
    if not context:
        raise typer.BadParameter("say what is so now, such as agent=hunter hour=3")
    for name, value in context.items():
        is_scalar = value is None or isinstance(value, (str, int, float))
        if not is_scalar or (isinstance(value, float) and not math.isfinite(value)):
            raise typer.BadParameter(f"{name} must be a text, a finite number, true, false or null")
    return context


def _typed(text: str) -> Any:
    """A number, true, false, null or a quoted text as JSON has it; anything else is text as it is."""
    value = _json_value(text.strip())
    return text if isinstance(value, (dict, list, _NoJson)) else value


class _NoJson:
    """Stands for a text that is no JSON."""


def _json_value(text: str) -> Any:
    try:
        value = json.loads(text, parse_constant=lambda _: _NoJson())
    except (ValueError, RecursionError):
        return _NoJson()
    return _NoJson() if isinstance(value, float) and not math.isfinite(value) else value


def parse_named(text: str) -> Named:
    """A video or a channel, given by its id or by its address on YouTube."""
    text = text.strip()
    if "/" in text or ("." in text and not text.startswith("@")):
        return _of_address(text)
    if _HANDLE.fullmatch(text):
        return Named("handle", text)
    if _CHANNEL_ID.fullmatch(text):
        return Named("channel", text)
    if _ID.fullmatch(text):
        # Ids of synthetic catalogues have other forms: the database knows which kind they are.
        return Named(None, text)
    raise typer.BadParameter(
        f"{text!r} is neither an id nor an address, such as https://www.youtube.com/watch?v=dQw4w9WgXcQ"
    )


def parse_video(text: str) -> str:
    """A video's id, given by itself or in an address."""
    named = parse_named(text)
    if named.kind not in (None, "video"):
        raise typer.BadParameter(f"{text!r} is a channel, not a video: maia channel shows it")
    return named.id


def parse_channel(text: str) -> Named:
    """A channel, given by its id, @handle, address or title; a title has the kind None."""
    text = text.strip()
    if not (text.startswith("@") or _CHANNEL_ID.fullmatch(text) or _LIKE_AN_ADDRESS.match(text)):
        return Named(None, text)
    named = parse_named(text)
    if named.kind == "video":
        raise typer.BadParameter(f"{text!r} is a video, not a channel: maia video shows it")
    return named


def looks_like_a_video(id_: str) -> bool:
    """Whether an id that is not stored has the form of a video id."""
    return _VIDEO_ID.fullmatch(id_) is not None


def _of_address(text: str) -> Named:
    try:
        parts = urlsplit(text if "://" in text else f"https://{text}")
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a YouTube address") from None
    host = (parts.hostname or "").lower()
    if not _HOSTS.fullmatch(host):
        raise typer.BadParameter(f"{text!r} is not a YouTube address")
    first, *rest = [part for part in parts.path.split("/") if part] or [""]
    first = unquote(first)
    if _HANDLE.fullmatch(first):
        return Named("handle", first)
    if first == "channel" and rest and _CHANNEL_ID.fullmatch(rest[0]):
        return Named("channel", rest[0])
    if first == "user" and rest:
        return Named("user", unquote(rest[0]))
    if first == "c" and rest:
        raise typer.BadParameter(_custom_address(text))
    candidates = {"watch": parse_qs(parts.query).get("v", [])} | dict.fromkeys(_WITH_VIDEO_ID, rest)
    found = [first, *rest] if host == "youtu.be" else candidates.get(first, [])
    if found and _VIDEO_ID.fullmatch(found[0]):
        return Named("video", found[0])
    raise typer.BadParameter(f"{text!r} is the address of neither a video nor a channel")


def _custom_address(text: str) -> str:
    return (
        f"{text} is a custom address, which the API cannot resolve: open it and give the @handle that the "
        "page shows, or the channel's id (Share, then Copy channel ID)"
    )


class TakesIds(TyperCommand):
    """A command whose arguments are ids, which may begin with a dash: `maia video -abcdefghij`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _ids_last(args, _options_of(self)))


class HasDefault(TyperGroup):
    """A group with a command that is meant when none of its commands is named."""

    default: ClassVar[str]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = bool(args) and args[0] in self.commands
        return super().parse_args(ctx, args if named else [self.default, *args])


class ShowsByDefault(HasDefault):
    """A group whose command `show` is meant when none of its commands is named."""

    default = "show"


class ListsByDefault(HasDefault):
    """A group whose command `list` is meant when none of its commands is named."""

    default = "list"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        # The help of all commands, rather than that of `list`.
        if args and args[0] in ("--help", "-h"):
            return TyperGroup.parse_args(self, ctx, args)
        return super().parse_args(ctx, args)


class ServesByDefault(HasDefault):
    """A group whose command `serve` is meant when none of its commands is named."""

    default = "serve"


class RunsByDefault(HasDefault):
    """A group whose command `run` is meant when none of its commands is named."""

    default = "run"


def _options_of(command: TyperCommand) -> dict[str, bool]:
    """Every option of a command, and whether a value follows it."""
    return {
        name: not getattr(parameter, "is_flag", True)
        for parameter in command.params
        for name in (*parameter.opts, *parameter.secondary_opts)
    }


def _ids_last(args: Sequence[str], options: Mapping[str, bool]) -> list[str]:
    """Move video ids that begin with a dash behind a `--`, so that they are not taken for options."""
    kept: list[str] = []
    ids: list[str] = []
    for place, argument in enumerate(args):
        if argument == "--":
            return [*kept, "--", *ids, *args[place + 1 :]]
        is_value = bool(kept) and options.get(args[place - 1], False)
        is_id = _LIKE_AN_OPTION.match(argument) and not (is_value or argument in options)
        (ids if is_id else kept).append(argument)
    return [*kept, "--", *ids] if ids else kept
