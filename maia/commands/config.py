"""`maia config`: the settings in force, and what each of them means."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import typer

from maia.terminal import AsJson, load_settings, print_json, print_table

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", add_completion=False)

_INTRODUCTION = """\
# Configuration

Written by `make docs` from the settings themselves.

Settings come from these places; the first that has one wins:

1. the environment;
2. the file `.env` in the working directory;
3. secret files, each named like its setting, in `/run/secrets` or the folder of `PLEIADES_SECRETS_DIR`;
4. the YAML file that `PLEIADES_CONFIG` names, as `group: {name: value}`.

Lists and objects are written as JSON. A malformed value or an unknown name within a group is an error at
start that names its place; `maia doctor` names unknown `PLEIADES_*` variables and what was probably meant.
`maia config show` prints what is in force.
"""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting; `group` is None for those that stand alone."""

    variable: str
    path: tuple[str, ...]
    group: str | None
    about_group: str
    default: Any
    form: str
    description: str


@app.callback()
def config() -> None:
    """Show the settings in force, or describe them all."""


@app.command()
def docs() -> None:
    """Describe every setting, as Markdown."""
    typer.echo(documentation(), nl=False)


@app.command()
def show(
    everything: Annotated[bool, typer.Option("--all", help="Those at their defaults too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the settings in force that differ from their defaults; secrets stay hidden."""
    settings = load_settings()
    values = {setting.variable: (setting, _value(settings, setting.path)) for setting in every_setting()}
    chosen = {
        name: value for name, (setting, value) in values.items() if everything or value != setting.default
    }
    if as_json:
        print_json({name: _shown(value) for name, value in chosen.items()})
    elif chosen:
        print_table(("setting", "value"), [(name, str(_shown(value))) for name, value in chosen.items()])
    else:
        typer.echo("every setting is at its default; see them with: maia config show --all")


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
    fields = model.model_fields.items()
    # Those that stand alone first: a group is a section of its own.
    for name, field in sorted(fields, key=lambda item: _group_of(item[1]) is not None):
        inner = _group_of(field)
        here = (*path, name)
        if inner is not None:
            doc = (inner.__doc__ or "").split("\n")[0] if len(here) == 1 else about
            yield from _walk(inner, here, doc)
            continue
        yield Setting(
            variable=_variable(here, field),
            path=here,
            group=here[0] if len(here) > 1 else None,
            about_group=about,
            default=_at_default(here),
            form=_form(field),
            description=field.description or "",
        )


def _group_of(field: FieldInfo) -> type[BaseModel] | None:
    from pydantic import BaseModel

    annotation = field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _variable(path: tuple[str, ...], field: FieldInfo) -> str:
    from pydantic import AliasChoices

    if isinstance(field.validation_alias, AliasChoices):
        return str(field.validation_alias.choices[0])
    return "PLEIADES_" + "__".join(path).upper()


def _at_default(path: tuple[str, ...]) -> Any:
    """A setting's value where nothing sets it, with the defaults that its group was given."""
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


def _shown(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_shown(item) for item in value]
    if isinstance(value, dict):
        return {name: _shown(item) for name, item in value.items()}
    return value if isinstance(value, (bool, int, float, type(None))) else str(value)


def _form(field: FieldInfo) -> str:
    """The values that are accepted, where the description can't know: choices and bounds."""
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
        case _ if value is ...:
            return "the host's name"
    return f"`{value}`"
