"""`maia metrics`: shows what machines were doing, serves metrics to Prometheus, or prints those once."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Final

import typer

from maia.commands.arguments import ServesByDefault
from maia.commands.tables import Column, as_renderable
from maia.commands.terminal import (
    AsJson,
    as_text,
    console,
    print_json,
    print_line,
    print_text,
    span_between,
    span_text,
    with_atlas,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Group

    from atlas.adapters.telemetry import Usage
    from atlas.composition import Atlas
    from maia.views.hosts import Host, Hosts

app = typer.Typer(cls=ServesByDefault, rich_markup_mode="markdown", add_completion=False)

_WIDE: Final = 120
_USAGES: Final = 10
"""How many commands, and how many methods, are shown; --json has all."""
_HOSTS: Final = (
    Column("host", 8), Column("age", right=True), Column("cpu", right=True),
    Column("cpu over time"), Column("load", rank=2, right=True), Column("memory", right=True),
    Column("memory over time", rank=3), Column("swap", rank=7, right=True), Column("disk", right=True),
    Column("free", rank=5, right=True), Column("net in/s", rank=4, right=True),
    Column("out/s", rank=4, right=True), Column("read/s", rank=6, right=True),
    Column("written/s", rank=6, right=True), Column("°C", rank=8, right=True),
    Column("battery", rank=8, right=True), Column("ours", rank=9, right=True),
    Column("busiest", 12, rank=10),
)  # fmt: skip


@app.callback()
def metrics() -> None:
    """Show what machines were doing and what was used, or serve metrics to Prometheus."""


@app.command()
def serve(
    once: Annotated[bool, typer.Option("--once", help="Print the metrics once and exit.")] = False,
    port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="Port to listen on; 0 picks a free one. [default: PLEIADES_METRICS__PORT]",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Serve metrics to Prometheus at /metrics, and a health check at /health, until Ctrl-C or SIGTERM.

    Each request computes the metrics from the database, so agents need not run for their counts to be there.
    `maia metrics` alone means this. `maia metrics show` shows what the machines were doing.
    """

    async def serve(atlas: Atlas) -> None:
        from maia.stack.exporter import Exporter
        from maia.stack.metrics import serve_metrics

        if once:
            print_text((await Exporter(atlas).exposition()).decode().rstrip("\n"))
            return
        settings = atlas.settings
        async with serve_metrics(
            atlas, settings.host, settings.metrics.port if port is None else port
        ) as url:
            if as_json:
                print_line({"event": "serving", "url": url, "pid": os.getpid()})
            else:
                print_text(f"metrics at {url}")
            await asyncio.Event().wait()

    with_atlas(serve)


@app.command()
def show(
    node: Annotated[
        str | None, typer.Option(help="Only this machine, by its NODE_ID.", show_default=False)
    ] = None,
    hours: Annotated[float, typer.Option(min=0.1, max=26_304, help="How many hours to look back.")] = 24,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it anew every few seconds, until Ctrl-C.")
    ] = False,
    every: Annotated[
        float, typer.Option(min=0.5, max=3600, metavar="SECONDS", help="With --watch: how often.")
    ] = 5,
    as_json: AsJson = False,
) -> None:
    """Show what each machine was doing, and which commands and methods of the API were used.

    Percentages and sparklines are of processors and memory, in a container of those that it may use. Samples
    come every minute under `maia up`, elsewhere from each agent's cycle. `ours` is the memory of Pleiades.

    For example:

    - `maia metrics show --hours 2`
    - `maia metrics show --node tower --watch`
    """

    async def look(atlas: Atlas) -> None:
        from maia.views.hosts import hosts

        with _display(watch=watch, as_json=as_json) as display:
            display(await hosts(atlas, hours, node))
            while watch:
                await asyncio.sleep(every)
                display(await hosts(atlas, hours, node))

    with_atlas(look)


# In the terminal


@contextmanager
def _display(*, watch: bool, as_json: bool) -> Iterator[Callable[[Hosts], None]]:
    """Yield what shows a view: in place of the last one on a terminal, or else below it."""
    from maia.views.words import plain

    out = console()
    if as_json:
        show = print_line if watch else print_json
        yield lambda found: show(plain(found))
    elif not (watch and out.is_terminal):
        yield lambda found: out.print(_rendered(found, out.width))
    else:
        from rich.live import Live

        with Live(console=out, auto_refresh=False, vertical_overflow="crop") as live:
            yield lambda found: live.update(_rendered(found, out.width), refresh=True)


def _rendered(found: Hosts, width: int) -> Group:
    from rich.console import Group
    from rich.text import Text

    span = span_text((found.now - found.since).total_seconds() / 3600)
    if not found.hosts:
        nothing = Text(
            f"No machine was sampled in the last {span}. maia up samples its own every minute, and each "
            "agent's cycle does it once (PLEIADES_MONITORING__ENABLED)."
        )
        return Group(nothing, *_usages(found.usage, width))
    title = f"Machines in the last {span}, as of {as_text(found.now)}"
    rows = [_row(host, found, wide=width >= _WIDE) for host in found.hosts]
    notes = [
        Text(f"{host.node}: {', '.join(host.pressure.reasons)}", style="yellow")
        for host in found.hosts
        if host.pressure
    ]
    return Group(as_renderable(_HOSTS, rows, width, title=title), *notes, *_usages(found.usage, width))


def _row(host: Host, found: Hosts, *, wide: bool) -> tuple[str | None, ...]:
    from maia.commands.plots import compact

    now = host.latest

    def percent(value: float | None) -> str | None:
        return None if value is None else f"{value:.0f} %"

    def amount(value: float | None) -> str | None:
        return None if value is None else f"{compact(value).replace('B', 'G')}B"

    def number(value: float | None, form: str) -> str | None:
        return None if value is None else format(value, form)

    busiest = ", ".join(f"{load.name} {load.cpu_percent:.0f} %" for load in (now.processes or ())[:3])
    battery = None if now.battery_percent is None else f"{now.battery_percent:.0f} %"
    return (
        host.node, span_between(now.at, found.now), percent(now.cpu_percent),
        _sparkline(host.figures("cpu_percent"), wide=wide), number(now.load_1, ".1f"),
        percent(now.memory_percent), _sparkline(host.figures("memory_percent"), wide=wide),
        percent(now.swap_percent), percent(now.disk_percent), amount(now.disk_free_bytes),
        amount(now.received_bytes_per_s), amount(now.sent_bytes_per_s),
        amount(now.disk_read_bytes_per_s), amount(now.disk_written_bytes_per_s),
        number(now.temperature_c, ".0f"), battery, amount(now.own_rss_bytes), busiest or None,
    )  # fmt: skip


def _sparkline(values: Sequence[float | None], *, wide: bool) -> str:
    """Bars between 0 and 100 %; in a narrow terminal one for the mean of each two spans."""
    from maia.commands.plots import bars_of

    if not wide:
        pairs = (
            [v for v in values[place : place + 2] if v is not None] for place in range(0, len(values), 2)
        )
        values = [sum(pair) / len(pair) if pair else None for pair in pairs]
    return bars_of(values, most=100.0)


def _usages(usage: Sequence[Usage], width: int) -> list[Group]:
    """A table of commands and one of calls, where there are any."""
    tables = []
    for kind, title in (("command", "Commands"), ("call", "Calls of the API")):
        lines = [line for line in usage if line.kind == kind]
        if not lines:
            continue
        rows = [
            (line.name, line.count, line.errors, line.seconds / max(line.count, 1), line.last_at)
            for line in lines[:_USAGES]
        ]
        columns = (Column("name", 12), "count", "errors", "mean s", Column("last", rank=1))
        shown = f", {_USAGES} of {len(lines)}" if len(lines) > _USAGES else ""
        tables.append(as_renderable(columns, rows, width, title=f"\n{title}{shown}"))
    return tables
