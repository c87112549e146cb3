"""Read settings from their sources, accept the forms they may be written in, and explain wrong ones."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, get_args

from pydantic import AliasChoices, BaseModel
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    InitSettingsSource,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
)

from atlas import paths
from atlas.errors import ConfigError

PREFIX: Final = "PLEIADES_"
ENV_FILE: Final = ".env"

_MAX_BYTES: Final = 1 << 20
_MAX_NODES: Final = 100_000
_MAX_DEPTH: Final = 50


# The forms of lists and objects


def listed(separator: str = ",", *, json_begins: str = r"\[") -> Callable[[Any], Any]:
    """A validator that also takes a list as text: as JSON, or as items between separators (a pattern)."""

    def parse(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if re.match(json_begins, value.strip()):
            return _from_json(value)
        return [item for part in re.split(separator, value) if (item := part.strip())]

    return parse


def mapped(value: Any) -> Any:
    """Take an object as text as well: as JSON, or as `name=value,name=value`."""
    if not isinstance(value, str):
        return value
    if value.strip().startswith("{"):
        return _from_json(value)
    pairs = [part.partition("=") for part in value.split(",") if part.strip()]
    if not all(name.strip() and equals for name, equals, _ in pairs):
        raise ValueError('must be written as name=value,name=value or as JSON, {"name": value}')
    return {name.strip(): given.strip() for name, _, given in pairs}


def grouped(value: Any) -> Any:
    """Take a group of settings as JSON text as well."""
    if not isinstance(value, str):
        return value
    if value.strip().startswith("{"):
        return _from_json(value)
    raise ValueError('is a group: set its names one by one, or write JSON, {"name": value}')


def _from_json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"is not JSON at {place} ({error.msg})") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None


# The sources of settings, in order of precedence


class _DeferringSource(EnvSettingsSource):
    """Leaves values that aren't JSON to the field's own validator, which knows its other forms and name."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
            return value
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value


class _Environment(_DeferringSource):
    pass


class _EnvFile(_DeferringSource, DotEnvSettingsSource):
    pass


class _Secrets(_DeferringSource, NestedSecretsSettingsSource):
    def _load_env_vars(self) -> Mapping[str, str | None]:
        """The files' contents by name; an empty file sets nothing, as an empty variable doesn't."""
        return {name: value for name, value in super()._load_env_vars().items() if value}


def check_env_file() -> None:
    """Raise ConfigError for the first line of `.env` that isn't NAME=value; dotenv would only skip it."""
    from dotenv.parser import parse_stream

    if not paths.is_file(ENV_FILE):
        return
    try:
        text = Path(ENV_FILE).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{ENV_FILE} cannot be read: {_reason_of(error)}") from None
    for binding in parse_stream(io.StringIO(text)):
        if binding.error:
            raise ConfigError(f"{ENV_FILE}, line {binding.original.line}: write NAME=value, one a line")


def sources_of(
    settings_cls: type[BaseSettings],
    overrides: PydanticBaseSettingsSource,
    env_file: PydanticBaseSettingsSource,
    secret_files: PydanticBaseSettingsSource,
) -> tuple[PydanticBaseSettingsSource, ...]:
    """All sources of settings, in order of precedence."""
    assert isinstance(env_file, DotEnvSettingsSource)
    try:
        secrets = _Secrets(secret_files, secrets_dir=_secrets_folder(), secrets_dir_missing="ok")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"a secret file in {_secrets_folder()} cannot be read: {_reason_of(error)}"
        ) from None
    return (
        overrides,
        _Environment(settings_cls),
        _EnvFile(settings_cls, env_file=env_file.env_file),
        secrets,
        InitSettingsSource(settings_cls, init_kwargs=_read_yaml(settings_cls)),
    )


def _secrets_folder() -> str:
    return os.environ.get("PLEIADES_SECRETS_DIR") or "/run/secrets"


def _reason_of(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _read_yaml(settings_cls: type[BaseSettings]) -> dict[str, Any]:
    """Read the file in PLEIADES_CONFIG; ConfigError for a name that no setting has."""
    path = os.environ.get("PLEIADES_CONFIG")
    if not path:
        return {}
    content = _parse_yaml(path)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"PLEIADES_CONFIG: {path} must hold `group: {{name: value}}`")
    fields = {str(key).lower(): value for key, value in content.items()}
    for name in sorted(fields.keys() - settings_cls.model_fields.keys()):
        raise ConfigError(
            f"PLEIADES_CONFIG: {path} has no setting {name}{_suggestion(name, settings_cls.model_fields)}"
        )
    return fields


class _TooLarge(Exception):
    """A YAML document is nested too deeply or expands too much; `line` is where it exceeds the limit."""

    def __init__(self, line: int) -> None:
        self.line = line


def _parse_yaml(path: str) -> Any:
    import yaml

    try:
        with Path(path).open("rb") as file:
            text = file.read(_MAX_BYTES + 1).decode("utf-8")
        if len(text) > _MAX_BYTES:
            raise ConfigError(f"PLEIADES_CONFIG: {path} is longer than {_MAX_BYTES:,} bytes")
        _check_yaml(text)
        return yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"PLEIADES_CONFIG: {path} cannot be read: {_reason_of(error)}") from error
    except _TooLarge as error:
        raise ConfigError(f"PLEIADES_CONFIG: {path} nests too much at line {error.line}") from None
    # With explicit types, such as !!timestamp x, PyYAML also fails in the last two ways.
    except (yaml.YAMLError, ValueError, AttributeError, LookupError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None)
        raise ConfigError(
            f"PLEIADES_CONFIG: {path} is not YAML{place}{f' ({problem})' if problem else ''}; "
            "write `group: {name: value}`"
        ) from None


def _check_yaml(text: str) -> None:
    """Refuse documents that would take forever to build: deep nesting, and aliases that multiply."""
    import yaml

    sizes: dict[str, int] = {}
    open_: list[tuple[str | None, int]] = []
    nodes = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        match event:
            case yaml.CollectionStartEvent():
                open_.append((event.anchor, nodes))
                nodes += 1
            case yaml.CollectionEndEvent():
                anchor, before = open_.pop()
                if anchor:
                    sizes[anchor] = nodes - before
            case yaml.ScalarEvent():
                nodes += 1
                if event.anchor:
                    sizes[event.anchor] = 1
            case yaml.AliasEvent():
                # An alias inside its own anchor has no size yet: it is endless.
                nodes += sizes.get(str(event.anchor), _MAX_NODES)
        if len(open_) > _MAX_DEPTH or nodes > _MAX_NODES:
            raise _TooLarge(event.start_mark.line + 1 if event.start_mark else 1)


# What is wrong with a setting


def described(detail: Mapping[str, Any], settings_cls: type[BaseModel], overrides: Mapping[str, Any]) -> str:
    """One line for one of pydantic's errors: the variable, the problem, an example, where it was set."""
    path = tuple(detail["loc"])
    if not path:
        return _own_message(detail)
    names = tuple(str(part) for part in path if not isinstance(part, int))
    field, owner = _find_field(settings_cls, names)
    variable = variable_of(names, settings_cls)
    item = next((f", item {part + 1}" for part in path if isinstance(part, int)), "")
    problem = _problem(detail)
    if detail["type"] == "extra_forbidden":
        problem += _suggestion(variable, _variables_of(owner, names[:-1])) if owner else ""
    elif detail["type"] != "value_error" and field is not None:
        problem += _example(variable, field)
    return f"{variable}{item}: {problem}{_origin(names, variable, overrides)}"


def variable_of(path: tuple[str, ...], settings_cls: type[BaseModel]) -> str:
    """The environment variable of a setting."""
    first = path[0]
    field = settings_cls.model_fields.get(first)
    alias = field.validation_alias if field else None
    if isinstance(alias, AliasChoices):
        return str(alias.choices[0])
    fixed = {str(name) for name in fixed_names(settings_cls)}
    return first.upper() if first in fixed else PREFIX + "__".join(path).upper()


def fixed_names(settings_cls: type[BaseModel]) -> frozenset[str]:
    """The names of settings whose environment variables have no prefix, as variables and in YAML."""
    return frozenset(
        str(choice)
        for field in settings_cls.model_fields.values()
        if isinstance(field.validation_alias, AliasChoices)
        for choice in field.validation_alias.choices
    )


def group_of(field: FieldInfo | None) -> type[BaseModel] | None:
    """The group of settings in a field; None if it is a single setting."""
    annotation = field.annotation if field else None
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _find_field(
    model: type[BaseModel], path: tuple[str, ...]
) -> tuple[FieldInfo | None, type[BaseModel] | None]:
    """The field of a setting, and the group that contains it or would contain it."""
    *groups, name = path
    for at, group in enumerate(groups):
        field = model.model_fields.get(group)
        if (values := _values_of(field)) is not None:
            # The next part is a key chosen by the operator.
            return (values.model_fields.get(name), values) if len(path) - at > 2 else (field, None)
        inner = group_of(field)
        if inner is None:
            return field, None
        model = inner
    by_alias = {
        str(choice): field
        for field in model.model_fields.values()
        if isinstance(field.validation_alias, AliasChoices)
        for choice in field.validation_alias.choices
    }
    return model.model_fields.get(name) or by_alias.get(name), model


def _values_of(field: FieldInfo | None) -> type[BaseModel] | None:
    """The group that is the type of an object's values, if it is one."""
    values = get_args(field.annotation)[-1:] if field else ()
    return next((v for v in values if isinstance(v, type) and issubclass(v, BaseModel)), None)


def _variables_of(group: type[BaseModel], path: tuple[str, ...]) -> list[str]:
    return [PREFIX + "__".join((*path, name)).upper() for name in group.model_fields]


def _suggestion(name: str, known: Any) -> str:
    """The name that was probably meant, as the end of a sentence."""
    near = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def _own_message(detail: Mapping[str, Any]) -> str:
    return str(detail["msg"]).removeprefix("Value error, ")


_LIMITS: Final = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
    "string_too_long": ("no longer than", "max_length"),
}
_KINDS: Final = {
    "int": "must be a whole number",
    "float": "must be a number",
    "finite_number": "must be a finite number",
    "decimal": "must be a number",
    "bool": "must be true or false",
    "datetime": "must be an instant such as 2026-11-21T08:00:00Z",
    "path": "must be a path",
    "tuple": "must be a list, such as a,b",
    "dict": 'must be an object, such as {"name": value}',
    "model": "is a group: write its names one by one, as PREFIX__NAME=value or group: {name: value}",
    "string_too_short": "must not be empty",
    "string_pattern": "is not of the right form",
    "string": "must be text",
    "secret": "must be text",
    "missing": "is missing",
    "extra_forbidden": "there is no such setting",
}


def _problem(detail: Mapping[str, Any]) -> str:
    kind, context = str(detail["type"]), detail.get("ctx", {})
    if kind == "literal_error":
        return f"must be {context['expected']}".replace("'", "")
    if kind in _LIMITS:
        words, name = _LIMITS[kind]
        limit = context[name]
        shown = f"{limit:,.0f}" if limit == int(limit) else f"{limit:g}"
        return f"must be {words} {shown}" + (" characters" if name == "max_length" else "")
    for beginning, problem in _KINDS.items():
        if kind.startswith(beginning):
            return problem
    return _own_message(detail)


def _example(variable: str, field: FieldInfo) -> str:
    """An example of the setting, as the end of a sentence."""
    examples = field.examples or ([field.default] if isinstance(field.default, (int, float, str)) else [])
    return "".join(
        f", such as {variable}={str(example).lower() if isinstance(example, bool) else example}"
        for example in examples[:1]
    )


def _origin(names: tuple[str, ...], variable: str, overrides: Mapping[str, Any]) -> str:
    """Where the wrong value was set, unless in the environment."""
    if names[0] in overrides:
        return ""
    wanted = {variable, *(PREFIX + "__".join(names[:length]).upper() for length in range(1, len(names) + 1))}
    secrets = Path(_secrets_folder())
    for place, given in (
        ("", os.environ),
        (f" (set in {ENV_FILE})", _env_file_values()),
        (f" (set in {secrets})", {file.name: "set" for file in _files_of(secrets)}),
    ):
        if any(given.get(name) for name in given if name.upper() in wanted):
            return place
    path = os.environ.get("PLEIADES_CONFIG")
    return f" (set in {path})" if path else ""


def _env_file_values() -> Mapping[str, str | None]:
    from dotenv import dotenv_values

    return dotenv_values(ENV_FILE) if paths.is_file(ENV_FILE) else {}


def _files_of(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []
