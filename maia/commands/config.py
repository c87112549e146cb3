"""`maia config`: shows the current settings, and what each of them means."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import typer

from maia.commands.tables import Column, print_table
from maia.commands.terminal import AsJson, load_settings, print_json, print_text

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", add_completion=False)

_INTRODUCTION = """\
# Configuration

Every setting, with its default and meaning. (`make docs` writes this page from the code.)

Each setting is read from the first of these places that has it:

1. the environment;
2. the file `.env` in the working directory;
3. secret files, each named like its setting, in `/run/secrets` or in the folder `PLEIADES_SECRETS_DIR`;
4. the YAML file that `PLEIADES_CONFIG` names, as `group: {name: value}`.

Write a list as `a,b` or as JSON, `["a", "b"]`; an object as `name=value,name=value` or as JSON. Names end in
their unit: `_s` is seconds, `_h` hours, `_mb` megabytes.

A malformed value, or an unknown name within a group, stops every command with an error that says where it is
and how to write it. `maia doctor` lists unknown `PLEIADES_*` variables and suggests what you may have meant.
`maia config show` prints the current values.
"""


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting; `group` is None if it belongs to no group."""

    variable: str
    path: tuple[str, ...]
    group: str | None
    about_group: str
    default: Any
    form: str
    description: str


@app.callback()
def config() -> None:
    """Show the current settings, or describe every setting."""


@app.command()
def docs() -> None:
    """Describe every setting, as Markdown."""
    print_text(documentation().rstrip("\n"))


@app.command()
def show(
    everything: Annotated[bool, typer.Option("--all", help="Include settings at their defaults.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the current settings that differ from their defaults; secrets stay hidden."""
    settings = load_settings()
    values = {setting.variable: (setting, _value(settings, setting.path)) for setting in every_setting()}
    chosen = {
        name: value for name, (setting, value) in values.items() if everything or value != setting.default
    }
    if as_json:
        print_json({name: _printable(value) for name, value in chosen.items()})
    elif chosen:
        rows = [(name, str(_printable(value))) for name, value in chosen.items()]
        print_table(("setting", Column("value", 20, wraps=True)), rows)
    else:
        print_text("every setting is at its default; see them with: maia config show --all")


def every_setting() -> list[Setting]:
    """Every setting there is, in the order of the source."""
    from atlas.config import Settings

    return list(_walk(Settings, (), ""))


def closest(variable: str) -> str | None:
    """The setting whose variable looks most like this one."""
    from difflib import get_close_matches

    names = [setting.variable for setting in every_setting()]
    return next(iter(get_close_matches(variable.upper(), names, n=1, cutoff=0.6)), None)


def documentation() -> str:
    """Every setting as Markdown."""
    text = _INTRODUCTION
    group: str | None = ""
    for setting in every_setting():
        if setting.group != group:
            group = setting.group
            title = f"`{group}`: {setting.about_group}" if group else "Names fixed by convention"
            text += f"\n## {title}\n\n| variable | default | meaning |\n|---|---|---|\n"
        meaning = f"{setting.description} {setting.form}".strip()
        text += f"| `{setting.variable}` | {_default(setting.default)} | {meaning.replace('|', '&#124;')} |\n"
    return text


def _walk(model: type[BaseModel], path: tuple[str, ...], about: str) -> Iterator[Setting]:
    from atlas.config import Settings
    from atlas.sources import group_of, variable_of

    fields = model.model_fields.items()
    # Settings without a group come first, as each group becomes a section.
    for name, field in sorted(fields, key=lambda item: group_of(item[1]) is not None):
        inner = group_of(field)
        here = (*path, name)
        if inner is not None:
            doc = (inner.__doc__ or "").split("\n")[0] if len(here) == 1 else about
            yield from _walk(inner, here, doc)
            continue
        yield Setting(
            variable=variable_of(here, Settings),
            path=here,
            group=here[0] if len(here) > 1 else None,
            about_group=about,
            default=_at_default(here),
            form=_form(field),
            description=field.description or "",
        )


def _at_default(path: tuple[str, ...]) -> Any:
    """A setting's default, which the group's own default may override."""
    from atlas.config import Settings

    first, *rest = path
    field = Settings.model_fields[first]
    if field.default_factory is not None:
        return ...
    value = field.default
    for name in rest:
        value = getattr(value, name)
    return value


def _value(settings: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        settings = getattr(settings, name)
    return settings


def _printable(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_printable(item) for item in value]
    if isinstance(value, dict):
        return {name: _printable(item) for name, item in value.items()}
    return value if isinstance(value, (bool, int, float, type(None))) else str(value)


def _form(field: FieldInfo) -> str:
    """The choices or bounds of a setting, which its description leaves out."""
    choices = _choices(field.annotation)
    if choices:
        return "One of " + ", ".join(f"`{choice}`" for choice in choices) + "."
    bounds = {
        sign: getattr(constraint, name)
        for constraint in field.metadata
        for name, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
        if getattr(constraint, name, None) is not None
    }
    return "(" + ", ".join(f"{sign} {limit}" for sign, limit in bounds.items()) + ")" if bounds else ""


def _choices(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return next((found for part in get_args(annotation) if (found := _choices(part))), ())


def _default(value: Any) -> str:
    match value:
        case None:
            return "unset"
        case bool():
            return f"`{str(value).lower()}`"
        case () | {}:
            return "empty"
        case tuple():
            return f"`{','.join(map(str, value))}`"
        case _ if value is ...:
            return "the host's name"
    return f"`{value}`"
