"""Renders pages: templates in which every text of others is made harmless, and figures in our words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import quote, urlencode

import orjson
from jinja2 import Environment, PackageLoader, StrictUndefined, pass_context
from markupsafe import Markup
from starlette.responses import HTMLResponse, Response

from atlas import csvform, foreign
from atlas.scopes import Scope
from atlas.wording import counted
from maia.api.context import service_of
from maia.api.pages.assets import assets, url_of
from maia.api.problems import Problem
from maia.graphing.forms import NodeForm
from maia.maintenance.wording import size_text, span_text
from maia.views.figures import compact
from maia.views.svg import Plots, Series
from maia.views.words import ATTRIBUTION, plain

if TYPE_CHECKING:
    from jinja2.runtime import Context
    from starlette.requests import Request

EVENTS: Final = "/api/v1/events"
NAVIGATION: Final = (
    ("/", "Rising"),
    ("/topics", "Topics"),
    ("/learnt", "Patterns"),
    ("/graph", "Graph"),
    ("/quota", "Quota and agents"),
    ("/health", "Health"),
)
_NOTHING: Final = "–"
_OURS: Final = frozenset({"as", "table"})


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of a table that a page shows, for those who want them as CSV or JSON.

    `derived` says that they have figures of ours beside YouTube's. `api` is the address, with parameters, at
    which the API has the same rows.
    """

    rows: Sequence[object]
    derived: bool = False
    api: str | None = None


def page(
    request: Request,
    template: str,
    *,
    http_status: int = 200,
    tables: Mapping[str, Table] | None = None,
    **context: Any,
) -> Response:
    """A page; or, if the request asks for one of its tables (`?table=NAME&as=csv`), that table alone."""
    tables = tables or {}
    if (form := request.query_params.get("as")) is not None:
        return _table(request.query_params.get("table"), form, tables)
    atlas, caller = service_of(request).atlas, getattr(request.state, "caller", None)
    values = {
        "request": request,
        "path": request.url.path,
        "now": atlas.clock.now(),
        "caller": caller,
        "navigation": NAVIGATION,
        "asset": url_of,
        "plots": Plots(),
        "may_operate": caller is not None and caller.scope.permits(Scope.ADMIN),
        "may_write": caller is not None and caller.scope.permits(Scope.WRITE),
        "attribution": ATTRIBUTION,
        "events": EVENTS,
        "here": _address(request),
        "tables": tables,
    }
    text = environment().get_template(template).render(values | context)
    return HTMLResponse(text, http_status, headers={"Vary": "Accept"})


def _address(request: Request) -> str:
    """The address of a page with its parameters, as it loads itself anew."""
    return f"{quote(request.url.path)}{f'?{request.url.query}' if request.url.query else ''}"


# Tables as files


def _table(name: str | None, form: str, tables: Mapping[str, Table]) -> Response:
    table = tables.get(name or "")
    if table is None or form not in ("csv", "json"):
        known = ", ".join(tables) or "none"
        raise Problem(404, f"this page has no such table: ask for as=csv or as=json of table={known}")
    rows = [plain(row) for row in table.rows]
    headers = {"Content-Disposition": f'attachment; filename="{name}.{form}"'}
    if form == "json":
        told = {"attribution": ATTRIBUTION} if table.derived else {}
        return Response(orjson.dumps(told | {"rows": rows}), headers=headers, media_type="application/json")
    flat = [_flat(row) for row in rows]
    columns = list(dict.fromkeys(column for row in flat for column in row))
    # Rows may be copied elsewhere, where nothing else would say whose figures these are.
    last = {"attribution": ATTRIBUTION} if table.derived else {}
    cells = [[(row | last).get(column) for column in (*columns, *last)] for row in flat]
    content = csvform.document([*columns, *last], cells, csvform.CsvForm.GUARDED)
    return Response(content, headers=headers, media_type="text/csv; charset=utf-8")


def _flat(row: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested objects as columns with a dot in their name, lists as text."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{before}{name}.")
        elif isinstance(value, list):
            flat[f"{before}{name}"] = orjson.dumps(value).decode()
        else:
            flat[f"{before}{name}"] = value
    return flat


# The environment of templates


@cache
def environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("maia.api", "templates"),
        autoescape=True,
        finalize=_harmless,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "compact": _known(compact),
        "number": _known(lambda value: f"{value:,.0f}"),
        "percent": _known(_percent),
        "score": _known(lambda value: f"{value:.2f}"),
        "size": _known(size_text),
        "span": _known(span_text),
        "brief": _known(lambda seconds: f"{seconds:.1f} s" if seconds < 10 else span_text(seconds)),
        "hours": _known(lambda hours: span_text(hours * 3600)),
        "duration": _known(_duration),
        "when": when,
        "ago": ago,
        "clock": clock,
        "words": lambda value: str(value).replace("_", " "),
        "pathpart": lambda value: quote(str(value), safe=""),
    }
    environment.globals |= {
        "Series": Series, "counted": counted, "download": download, "in_graph": in_graph,
        "with_": with_parameters,
    }  # fmt: skip
    return environment


def make_ready() -> None:
    """Read and compile all that pages are made of, which takes a second where it is done first."""
    from maia.views import curves, forecasts  # noqa: F401 - loads what a leaderboard computes with

    assets()
    for name in environment().list_templates(extensions=["j2"]):
        environment().get_template(name)


def _harmless(value: Any) -> Any:
    """What is printed: without control characters, and then escaped unless it is ours."""
    return foreign.one_line(value) if type(value) is str else value


def _known(function: Callable[[Any], str]) -> Callable[[Any], str]:
    """The function, with a dash for what is not known."""

    def told(value: Any) -> str:
        return _NOTHING if value is None or value != value else function(value)

    return told


def _percent(share: float) -> str:
    if 0 < share < 0.01:
        return "<1 %"
    return ">99 %" if 0.99 < share < 1 else f"{share:.0%}".replace("%", " %")


def _duration(seconds: int) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def when(instant: datetime | None) -> Markup | str:
    """An instant in UTC, to the minute."""
    if instant is None:
        return _NOTHING
    there = instant.astimezone(UTC)
    return Markup('<time datetime="{}">{}</time>').format(
        there.isoformat(timespec="seconds"), f"{there:%Y-%m-%d %H:%M}"
    )


def clock(instant: datetime) -> Markup:
    """An instant in UTC to the second, as logs need it."""
    there = instant.astimezone(UTC)
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        there.isoformat(timespec="seconds"), f"{there:%Y-%m-%d %H:%M:%S} UTC", f"{there:%m-%d %H:%M:%S}"
    )


@pass_context
def ago(context: Context, instant: datetime | None) -> Markup | str:
    """How long ago an instant is, or how far ahead; the instant itself is shown on pointing at it."""
    if instant is None:
        return _NOTHING
    passed: timedelta = context["now"] - instant
    told = f"{span_text(passed)} ago" if passed >= timedelta() else f"in {span_text(-passed)}"
    there = instant.astimezone(UTC)
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        there.isoformat(timespec="seconds"), f"{there:%Y-%m-%d %H:%M} UTC", told
    )


def in_graph(type_: str, name: str) -> str:
    """The address of what lies around a node of the knowledge graph."""
    return f"/graph/{quote(str(NodeForm(type_, name)), safe='')}"


@pass_context
def download(context: Context, name: str, form: Literal["csv", "json"]) -> str:
    """The address of a table of this page, with the page's own parameters."""
    table: Table = context["tables"][name]
    if table.api is not None:
        return f"{table.api}&format=csv" if form == "csv" else table.api
    return _with(context["request"], {"table": name, "as": form})


@pass_context
def with_parameters(context: Context, **parameters: object) -> str:
    """The address of this page with other parameters; None takes one away."""
    return _with(context["request"], parameters)


def _with(request: Request, parameters: Mapping[str, object]) -> str:
    given = {
        name: value
        for name, value in request.query_params.items()
        if value and name not in _OURS | parameters.keys()
    }
    wanted = given | {name: str(value) for name, value in parameters.items() if value is not None}
    return f"{quote(request.url.path)}{f'?{urlencode(wanted)}' if wanted else ''}"
