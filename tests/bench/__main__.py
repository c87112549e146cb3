"""`python -m tests.bench [NAME…] [--json]` runs the benches and prints their figures.

A bench is a module `tests/bench/bench_<name>.py` with `async def figures() -> AsyncIterator[Figure]`. One
with options of its own has `add_options(parser)` and `options_of(parsed)` too; `figures` takes the result. An
option that several have is for all of them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from rich.console import Console

from tests.bench.figures import Figure, Ticks, table_of

NAMES = sorted(path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_*.py"))


async def run(names: list[str], options: Mapping[str, Any], progress: Console) -> list[Figure]:
    """The figures of some benches, printed as they are measured."""
    measured: list[Figure] = []
    for name in names:
        progress.print(f"[bold]{name}[/bold]")
        given = (options[name],) if name in options else ()
        async for figure in _bench(name).figures(*given):
            ratio = "" if figure.ratio is None else f"; ratio {figure.ratio:.2f}"
            progress.print(f"  {figure.what}: {figure.ours:,.4g} {figure.unit}{ratio}")
            measured.append(figure)
    return measured


def _names(parser: argparse.ArgumentParser) -> list[str]:
    """The benches that the command line names, whose own options are not known yet."""
    named = [argument for argument in sys.argv[1:] if argument in NAMES]
    if unknown := {a for a in sys.argv[1:2] if not a.startswith("-")} - set(NAMES):
        parser.error(f"no such bench: {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    return named or NAMES


def _bench(name: str) -> ModuleType:
    return import_module(f"tests.bench.bench_{name}")


def _parsers(names: list[str]) -> dict[str, argparse.ArgumentParser]:
    """The parsers of those benches that have options of their own, by name."""
    parsers = {}
    for name in names:
        if hasattr(_bench(name), "add_options"):
            parsers[name] = argparse.ArgumentParser(
                add_help=False, allow_abbrev=False, usage=argparse.SUPPRESS, description=f"{name}:"
            )
            _bench(name).add_options(parsers[name])
    return parsers


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description="Measure Pleiades.", allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(NAMES)}; by default all")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    names = _names(parser)
    parsers, rest, given = _parsers(names), sys.argv[1:], {}
    parser.epilog = "\n".join(each.format_help() for each in parsers.values())
    for name, own in parsers.items():
        parsed, unknown = own.parse_known_args()
        rest = [word for word in rest if word in unknown]
        given[name] = parsed
    options = parser.parse_args(rest)
    # What a bench misses, it says before the first one runs.
    of_benches = {name: _bench(name).options_of(parsed) for name, parsed in given.items()}
    before = Ticks.now()
    measured = asyncio.run(run(names, of_benches, Console(stderr=True, emoji=False)))
    steal, load = Ticks.now().steal_since(before), os.getloadavg()[0]
    if options.json:
        told = {"figures": [figure.as_dict() for figure in measured], "steal": steal, "load": load}
        json.dump(told, sys.stdout, indent=1)
        print()
        return
    console = Console(emoji=False)
    console.print(table_of(measured))
    console.print(f"{os.cpu_count()} cores, {steal:.1%} of their time stolen, load {load:.1f} at the end.")


if __name__ == "__main__":
    main()
