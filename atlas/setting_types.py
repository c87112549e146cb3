"""The types of settings: groups, and values that are checked as they are read."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator

from atlas import sources


def _aware(instant: datetime) -> datetime:
    if instant.tzinfo is None:
        raise ValueError("an instant needs a time zone, such as 2026-11-21T08:00:00Z")
    return instant.astimezone(UTC)


def http_url(text: str) -> str:
    """The text, if it is a URL of HTTP; ValueError otherwise."""
    try:
        url = urlsplit(text)
        _ = url.port
    except ValueError:
        url = urlsplit("")
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError("must be a URL such as https://host or http://127.0.0.1:8780")
    return text


def _secret_http_url(secret: SecretStr) -> SecretStr:
    http_url(secret.get_secret_value())
    return secret


def _unset_if_empty(value: Any) -> Any:
    """None for an empty path, which would be the working folder; an empty variable sets nothing either."""
    return None if isinstance(value, str) and not value.strip() else value


Fraction = Annotated[float, Field(ge=0, le=1)]
Instant = Annotated[datetime, AfterValidator(_aware)]
HttpUrl = Annotated[str, AfterValidator(http_url)]
SecretHttpUrl = Annotated[SecretStr, AfterValidator(_secret_http_url)]
OptionalPath = Annotated[Path | None, BeforeValidator(_unset_if_empty)]
Texts = Annotated[tuple[str, ...], BeforeValidator(sources.listed())]
# A comma within {2,3} belongs to the expression, and [a-z] is one.
Patterns = Annotated[
    tuple[str, ...], BeforeValidator(sources.listed(r",(?!\d*\})", json_begins=r"\[\s*[\"\]]"))
]
# A comma within a URL belongs to it.
Urls = Annotated[
    tuple[SecretStr, ...], BeforeValidator(sources.listed(r"[,\s]+(?=[A-Za-z][A-Za-z0-9+.-]*://)"))
]


class Group(BaseModel):
    """A group of settings: frozen, strict about names, and without NaN and infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _text_is_json(cls, value: Any) -> Any:
        return sources.grouped(value)
