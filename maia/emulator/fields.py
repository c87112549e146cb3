"""Partial responses: parses `fields` masks such as `a,b/c,d(e,f/*)` and applies them to JSON values."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

ANYTHING: Mask = {}
Mask = dict[str, "Mask"]
"""The names to keep (`*`: all), each with a mask for its value. An empty mask keeps everything below it."""

_TOKEN = re.compile(r"\s*(?:([A-Za-z_][\w.-]*|\*)|([,/()]))\s*")


class InvalidFields(ValueError):
    """The mask is malformed, or selects a field that the response does not have."""


@lru_cache(256)
def parse_fields(text: str) -> Mask:
    """Parse a mask; InvalidFields holds the offending text. The result is cached: do not change it."""
    tokens: list[str] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise InvalidFields(text[position:])
        tokens.append(match[1] or match[2])
        position = match.end()
    mask, rest = _selection(tokens, 0)
    if rest != len(tokens):
        raise InvalidFields("".join(tokens[rest:]))
    return mask


def _selection(tokens: list[str], start: int) -> tuple[Mask, int]:
    mask: Mask = {}
    position = start
    while True:
        position = _selector(tokens, position, mask)
        if position >= len(tokens) or tokens[position] != ",":
            return mask, position
        position += 1


def _selector(tokens: list[str], position: int, mask: Mask) -> int:
    """Parse `name`, `name/…` or `name(…)` into `mask`; return the position after it."""
    if position >= len(tokens) or tokens[position] in ",/()":
        raise InvalidFields("".join(tokens[position:]) or "".join(tokens))
    name, position = tokens[position], position + 1
    inner: Mask = {}
    if position < len(tokens) and tokens[position] == "/":
        position = _selector(tokens, position + 1, inner)
    elif position < len(tokens) and tokens[position] == "(":
        inner, position = _selection(tokens, position + 1)
        if position >= len(tokens) or tokens[position] != ")":
            raise InvalidFields("".join(tokens))
        position += 1
    mask[name] = _union(mask[name], inner) if name in mask else inner
    return position


def _union(left: Mask, right: Mask) -> Mask:
    if not left or not right:
        return ANYTHING
    both = {name: _union(left[name], right[name]) for name in left.keys() & right.keys()}
    return {**left, **right, **both}


def check_fields(mask: Mask, shape: Mask) -> None:
    """Raise InvalidFields for the first selected field that `shape`, the mask of all fields, lacks."""
    for name, inner in mask.items():
        if not shape or name == "*":
            continue
        if name not in shape:
            raise InvalidFields(name)
        check_fields(inner, shape[name])


def select(value: Any, mask: Mask) -> Any:
    """The part of a JSON value that `mask` keeps. A mask applies to every item of a list."""
    if not mask:
        return value
    if isinstance(value, list):
        return [select(item, mask) for item in value]
    if not isinstance(value, dict):
        return value
    kept: dict[str, Any] = {}
    for name, inner in value.items():
        below = _below(mask, name)
        if below is not None and (not below or isinstance(inner, (dict, list))):
            kept[name] = select(inner, below)
    return kept


def _below(mask: Mask, name: str) -> Mask | None:
    named, starred = mask.get(name), mask.get("*")
    if named is None:
        return starred
    return named if starred is None else _union(named, starred)
