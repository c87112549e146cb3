"""Parses a method's query parameters, and rejects those that the API would reject."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from maia.emulator.facts import STANDARD_PARAMETERS, EmulatedMethod, Parameter
from maia.emulator.fields import ANYTHING, InvalidFields, Mask, check_fields, parse_fields
from maia.emulator.refusals import (
    ErrorResponse,
    forbidden_part,
    invalid_argument,
    invalid_parameter,
    invalid_region,
    missing_parameter,
    needs_user,
    unknown_parameter,
    unknown_part,
)

# Only a video's owner may request these parts.
_OWNERS_PARTS = frozenset({"fileDetails", "processingDetails", "suggestions"})
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")
_LEFT_OUT_OF_TOKENS = frozenset({"pageToken", "part", *STANDARD_PARAMETERS})


@dataclass(slots=True)
class Arguments:
    """A request's typed parameters. A parameter without a value or default is absent."""

    method: EmulatedMethod
    given: dict[str, Any]
    parts: tuple[str, ...]
    mask: Mask = field(default_factory=dict)
    mask_text: str = ""
    pretty: bool = False

    def get(self, name: str) -> Any:
        value = self.given.get(name)
        if value is None and (default := self.method.parameters[name].default) is not None:
            return int(default) if self.method.parameters[name].kind == "integer" else default
        return value

    def bound_to_token(self) -> str:
        """The method and the parameters with which a page token is valid, as text."""
        asked = sorted(
            (name, str(value)) for name, value in self.given.items() if name not in _LEFT_OUT_OF_TOKENS
        )
        return f"{self.method.name}{asked}"


def read_arguments(method: EmulatedMethod, pairs: Iterable[tuple[str, str]]) -> Arguments:
    """Check and convert the query's pairs; raise an ErrorResponse where the API responds 400, 401 or 403."""
    given: dict[str, Any] = {}
    for name, text in pairs:
        parameter = method.parameters.get(name) or STANDARD_PARAMETERS.get(name)
        if parameter is None:
            raise unknown_parameter(name)
        if parameter.repeated:
            values = [value.strip() for value in text.split(",") if value.strip()]
            given[name] = [*given.get(name, ()), *values]
        else:
            given[name] = _value(name, parameter, text)
    for name, parameter in method.parameters.items():
        if parameter.required and not given.get(name):
            raise missing_parameter(name)
        if parameter.needs_user and given.get(name) not in (None, False):
            raise needs_user(name)
    if given.get("access_token") or given.get("oauth_token"):
        raise ErrorResponse.of(
            401, "Invalid Credentials", "authError", parameter="Authorization", location_type="header"
        )
    if given.get("alt", "json") != "json":
        raise invalid_argument()
    mask_text = given.get("fields", "")
    mask = _mask(mask_text, method) if mask_text else ANYTHING
    return Arguments(
        method, given, _parts(method, given["part"]), mask, mask_text, given.get("prettyPrint", False)
    )


def _parts(method: EmulatedMethod, asked: list[str]) -> tuple[str, ...]:
    for part in asked:
        if part not in method.parts:
            raise unknown_part(part, method.name.partition(".")[0].removesuffix("s"))
        if part in _OWNERS_PARTS:
            raise forbidden_part()
    return tuple(sorted(set(asked)))


def _mask(text: str, method: EmulatedMethod) -> Mask:
    try:
        mask = parse_fields(text)
        check_fields(mask, method.shape)
    except InvalidFields as error:
        raise invalid_parameter("fields", f"Invalid field selection {error}") from error
    return mask


def _value(name: str, parameter: Parameter, text: str) -> Any:
    if parameter.values and text not in parameter.values:
        offered = [value for value in parameter.values if not value.endswith("Unspecified")]
        raise invalid_parameter(
            name, f"Invalid value '{text}'. Values must be one of: {', '.join(sorted(offered))}"
        )
    match parameter.kind:
        case "integer":
            return _integer(name, parameter, text)
        case "boolean":
            if text.lower() not in ("true", "false", "1", "0"):
                raise invalid_parameter(name, f"Invalid value '{text}'. Values must be one of: true, false")
            return text.lower() in ("true", "1")
        case "datetime":
            return _instant(name, text)
        case _:
            return text


def _integer(name: str, parameter: Parameter, text: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,10}", text):
        raise invalid_parameter(name, f"Invalid value '{text}'. Values must be whole numbers.")
    value = int(text)
    if not parameter.minimum <= value <= parameter.maximum:
        bounds = f"[{parameter.minimum}, {parameter.maximum}]"
        raise invalid_parameter(name, f"Invalid value '{text}'. Values must be within the range: {bounds}")
    return value


def _instant(name: str, text: str) -> float:
    """Seconds since 1970; an instant without a UTC offset is refused."""
    try:
        if not _RFC_3339.fullmatch(text):
            raise ValueError(text)
        return (
            datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text.upper())).astimezone(UTC).timestamp()
        )
    except (ValueError, OverflowError) as error:
        message = (
            f"Invalid value '{text}'. Illegal timestamp format; timestamps must end with 'Z' or have a valid "
            "timezone offset."
        )
        raise invalid_parameter(name, message) from error


def check_region(name: str, text: str | None) -> None:
    """Refuse text that cannot be an ISO 3166-1 alpha-2 code."""
    if text is not None and not re.fullmatch(r"[A-Za-z]{2}", text):
        raise invalid_region(name)


def category_number(text: str | None) -> int | None:
    """The category's number; None if there is none, or for 0, which means all."""
    if text is None or text == "0":
        return None
    if not re.fullmatch(r"[0-9]{1,4}", text):
        raise invalid_argument()
    return int(text)
