"""Builds a new environment from a wheelhouse, by uv or else by pip, and tests that it works."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from atlas.wording import counted
from maia.maintenance.programs import plain_environment, run
from maia.maintenance.updating.environments import Environment
from maia.maintenance.updating.errors import UpdateFailed
from maia.maintenance.wording import size_text

_RESERVE_BYTES: Final = 256 << 20
_MARGIN: Final = 1.2
_TEST_TIMEOUT_S: Final = 300.0
_IMPORT_ALL: Final = """
import importlib, json, pkgutil, sys
packages, skipped = json.loads(sys.argv[1])
def load(name):
    try:
        return importlib.import_module(name)
    except Exception as error:
        sys.exit(f"{name} can't be imported: {type(error).__name__}: {error}")
count = 0
for package in packages:
    found = load(package)
    for each in pkgutil.walk_packages(found.__path__, package + ".", onerror=load):
        if each.name not in skipped and not each.name.endswith(".__main__"):
            load(each.name)
            count += 1
    if not found.__path__[0].startswith(sys.prefix):
        sys.exit(f"{package} was imported from {found.__path__[0]}, outside of the environment")
print(count)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """What is installed, and how to find out that it works: its packages, and arguments for its Python.

    `skipped` are modules that can't be imported without an extra.
    """

    distribution: str
    packages: tuple[str, ...]
    commands: tuple[tuple[str, ...], ...] = ()
    skipped: tuple[str, ...] = ()


PLEIADES: Final = Product(
    distribution="pleiades-agents",
    packages=("atlas", "maia", "flows"),
    commands=(("-I", "-m", "maia", "--version"), ("-I", "-m", "maia", "--help")),
    skipped=("atlas.testing",),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Builder:
    """Builds environments out of wheels alone: nothing is downloaded, and no package's code is run."""

    wheelhouse: Path
    constraints: Path | None
    base_python: Path
    timeout_s: float
    uv: Path | None = None

    def commands(
        self, environment: Environment, requirements: Sequence[str], work: Path
    ) -> list[tuple[str, ...]]:
        """The commands that build it, in order."""
        constrained = ("-c", str(self.constraints)) if self.constraints else ()
        wheels = ("--no-index", "--find-links", str(self.wheelhouse), *constrained, *requirements)
        if self.uv is not None:
            quiet = ("--quiet", "--no-config", "--no-progress", "--offline", "--cache-dir", str(work))
            uv = str(self.uv)
            return [
                (
                    uv,
                    "venv",
                    *quiet,
                    "--no-python-downloads",
                    "--python",
                    str(self.base_python),
                    str(environment.path),
                ),
                (uv, "pip", "install", *quiet, "--python", str(environment.python), "--no-build", *wheels),
                (uv, "pip", "check", *quiet, "--python", str(environment.python)),
            ]
        pip = (
            str(environment.python),
            "-I",
            "-m",
            "pip",
            "--isolated",
            "--disable-pip-version-check",
            "--no-input",
        )
        return [
            (str(self.base_python), "-I", "-m", "venv", str(environment.path)),
            (*pip, "install", "--no-cache-dir", "--progress-bar", "off", "--only-binary", ":all:", *wheels),
            (*pip, "check"),
        ]

    async def build(
        self, environment: Environment, requirements: Sequence[str], work: Path, lock: int
    ) -> None:
        """Make the environment at its own path, for it can't be moved; UpdateFailed says what was missing."""
        temporary = work / "tmp"
        temporary.mkdir(parents=True, exist_ok=True)
        surroundings = plain_environment() | {"TMPDIR": str(temporary), "PIP_ROOT_USER_ACTION": "ignore"}
        try:
            for argv in self.commands(environment, requirements, work / "cache"):
                finished = await run(
                    argv, timeout_s=self.timeout_s, environment=surroundings, pass_fds=(lock,)
                )
                finished.check()
        finally:
            shutil.rmtree(work, ignore_errors=True)


def check_space(root: Path, needed_bytes: int) -> None:
    """UpdateFailed unless the disk has room for an environment of this size, and some to spare."""
    free = shutil.disk_usage(root).free
    wanted = int(needed_bytes * _MARGIN) + _RESERVE_BYTES
    if free < wanted:
        raise UpdateFailed(
            f"{root} has {size_text(free)} free, but the new environment needs {size_text(wanted)}: "
            "free some space (maia system cleanup), or lower PLEIADES_MAINTAINER__UPDATES__KEEP"
        )


async def smoke_test(
    environment: Environment, product: Product, *, timeout_s: float = _TEST_TIMEOUT_S
) -> str:
    """Import every module in the new environment, and run its commands there; UpdateFailed if one fails.

    Its Python is called by its own path, not through the link, as the services are.
    """
    asked = json.dumps([product.packages, product.skipped])
    tests: Sequence[tuple[str, ...]] = (("-I", "-c", _IMPORT_ALL, asked), *product.commands)
    outs = []
    for arguments in tests:
        finished = await run((str(environment.python), *arguments), timeout_s=timeout_s)
        if finished.status:
            what = "" if arguments[1] == "-c" else f"{' '.join(arguments[1:])} failed: "
            raise UpdateFailed(f"its test failed: {what}{finished.last_words}")
        outs.append(finished.out.strip())
    return f"{counted(int(outs[0]), 'module')} imported, {counted(len(product.commands), 'command')} run"


def find_uv(*pythons: Path) -> Path | None:
    """The program uv beside one of these Pythons, or on the path."""
    beside = [python.with_name("uv") for python in pythons]
    found = next((uv for uv in beside if os.access(uv, os.X_OK)), None) or shutil.which("uv")
    return None if found is None else Path(found)
