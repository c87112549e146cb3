"""Parse YOUTUBE_API_KEY_POOL_JSON, the API keys of each ring, in any of the forms that it may have."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from atlas.errors import ConfigError

RingName = Literal["hunting", "tracking", "archeology"]
RINGS: tuple[RingName, ...] = ("hunting", "tracking", "archeology")

VARIABLE = "YOUTUBE_API_KEY_POOL_JSON"
FORMS = 'write KEY, or KEY1,KEY2, or {"hunting": [{"key": "KEY", "project": "PROJECT"}]} by ring'

_BARE_KEY = re.compile(r"[A-Za-z0-9_.~-]+")


class ApiKey(BaseModel):
    """One API key and the Google Cloud project whose quota it spends."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: SecretStr = Field(min_length=1)
    project: str = Field(default="default", min_length=1, max_length=100)

    @cached_property
    def fingerprint(self) -> str:
        """A name that identifies the key without revealing it."""
        digest = hashlib.blake2b(self.key.get_secret_value().encode(), digest_size=5)
        return f"key-{digest.hexdigest()}"


KeyPool = Mapping[RingName, tuple[ApiKey, ...]]


def parse_key_pool(text: str) -> KeyPool:
    """Parse keys by ring, or one list for all rings; ConfigError names the place, never a key."""
    bare = _bare_keys(_unquoted(text.strip()))
    pool = _json(_unquoted(text.strip())) if bare is None else bare
    if isinstance(pool, list):
        keys = _parse_ring("", pool)
        return dict.fromkeys(RINGS, keys)
    if not isinstance(pool, dict):
        raise _error("top", "expected an object of rings or a list of keys")
    unknown = sorted(pool.keys() - set(RINGS))
    if unknown:
        raise _error(unknown[0], f"no such ring; the rings are {', '.join(RINGS)}")
    return {ring: _parse_ring(ring, pool.get(ring, [])) for ring in RINGS}


def _unquoted(text: str) -> str:
    """Remove quotes, which containers' env files pass on as part of the value."""
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1].strip() if quoted else text


def _bare_keys(text: str) -> list[str] | None:
    """`KEY` or `KEY1,KEY2`; None if it is anything else, such as JSON."""
    parts = [part for part in re.split(r"[,\s]+", text) if part]
    if not all(map(_BARE_KEY.fullmatch, parts)) or not parts:
        return None
    is_json = len(parts) == 1 and re.fullmatch(r"true|false|null|-?\d+(\.\d+)?", parts[0])
    return None if is_json else parts


def _json(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique_names)
    except json.JSONDecodeError as error:
        raise _error(f"line {error.lineno}, column {error.colno}", f"not JSON ({error.msg})") from None
    except RecursionError:
        raise _error("top", "the JSON is nested too deeply") from None


def _parse_ring(ring: str, entries: Any) -> tuple[ApiKey, ...]:
    if isinstance(entries, str):
        entries = _bare_keys(entries)
    if not isinstance(entries, list):
        raise _error(ring, "expected a list of keys")
    keys = tuple(_parse_key(f"{ring}[{index}]", entry) for index, entry in enumerate(entries))
    seen: set[str] = set()
    for index, key in enumerate(keys):
        if key.fingerprint in seen:
            raise _error(f"{ring}[{index}]", "this key appears twice")
        seen.add(key.fingerprint)
    return keys


def _parse_key(place: str, entry: Any) -> ApiKey:
    fields = {"key": entry} if isinstance(entry, str) else entry
    if not isinstance(fields, dict):
        raise _error(place, 'expected "KEY" or {"key": "KEY", "project": "PROJECT"}')
    try:
        key = ApiKey.model_validate(fields)
    except ValidationError as error:
        detail = error.errors(include_input=False)[0]
        where = ".".join((place, *(str(part) for part in detail["loc"])))
        raise _error(where, _problem(detail["type"])) from None
    if any(not "!" <= character <= "~" for character in key.key.get_secret_value()):
        raise _error(f"{place}.key", "a key must be ASCII without spaces")
    return key


def _problem(kind: str) -> str:
    match kind:
        case "missing":
            return "is missing"
        case "extra_forbidden":
            return "there is no such field; a key has the fields key and project"
        case "too_short" | "string_too_short":
            return "is empty"
        case "string_too_long":
            return "is longer than 100 characters"
    return "must be text"


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise _error(name, "this name appears twice")
    return dict(pairs)


def _error(place: str, problem: str) -> ConfigError:
    return ConfigError(f"{VARIABLE}, {place}: {problem}; {FORMS}")
