"""Commands that install the optional packages of this distribution's extras."""

from __future__ import annotations

import json
import re
import shlex
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import unquote, urlsplit

DISTRIBUTION = "pleiades-agents"
"""Our name on the package index, where `pleiades` is an unrelated project."""


def how_to_install(extra: str) -> str:
    """The command that installs an extra into this environment, without looking our name up in an index.

    In a clone it reinstalls the clone with the extra; after a wheel it installs the extra's packages.
    """
    clone = _clone()
    if clone is not None:
        return f"{_pip()} install -e {shlex.quote(f'{_short(clone)}[{extra}]')}"
    return " ".join([_pip(), "install", *map(shlex.quote, _requirements(extra))])


def _clone() -> Path | None:
    """The folder of an editable installation; None if this is none."""
    try:
        origin = json.loads(distribution(DISTRIBUTION).read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, json.JSONDecodeError):
        return None
    if not origin.get("dir_info", {}).get("editable"):
        return None
    return Path(unquote(urlsplit(origin["url"]).path))


def _requirements(extra: str) -> list[str]:
    try:
        declared = distribution(DISTRIBUTION).requires or []
    except PackageNotFoundError:
        declared = []
    marker = re.compile(rf"""\bextra\s*==\s*["']{re.escape(extra)}["']""")
    return [line.partition(";")[0].strip() for line in declared if marker.search(line)] or [
        f"{DISTRIBUTION}[{extra}]"
    ]


def _pip() -> str:
    """This environment's pip, or in container images, whose environment has none, the one outside it."""
    pip = Path(sys.executable).with_name("pip")
    return shlex.quote(_short(pip)) if pip.exists() else f"pip --python {shlex.quote(sys.executable)}"


def _short(path: Path) -> str:
    """The path, relative to the current folder if it is inside it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
