"""Write constraints.txt: what a fresh install takes, resolved by pip for each supported Python."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SUPPORTED = ("3.11", "3.12", "3.13")
TOOLS = ("pip", "setuptools")
HEADER = "# Every version a fresh install takes. Written by `make constraints`.\n"

Pins = dict[str, str]


def interpreters() -> dict[str, str]:
    """A working interpreter for each supported version, by version."""
    found: dict[str, str] = {}
    for version in SUPPORTED:
        pyenv = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python3"))
        for candidate in (shutil.which(f"python{version}"), *map(str, pyenv)):
            if candidate and _version(candidate) == version:
                found[version] = candidate
                break
    missing = set(SUPPORTED) - set(found)
    if missing:
        sys.exit(f"constraints hold for every supported Python: install {', '.join(sorted(missing))} first")
    return found


def _version(python: str) -> str | None:
    probe = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2])"
    answer = subprocess.run([python, "-c", probe], capture_output=True, text=True, check=False)
    return answer.stdout.strip() if answer.returncode == 0 else None


def resolve(python: str, known: Pins) -> Pins:
    """What pip would install with this interpreter, keeping to `known` wherever that is possible."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([python, "-m", "venv", folder], check=True)
        pip = [f"{folder}/bin/python", "-m", "pip", "--disable-pip-version-check", "--quiet"]
        subprocess.run([*pip, "install", "--upgrade", "pip"], check=True)
        preferred = Path(folder, "preferred.txt")
        preferred.write_text("".join(f"{name}=={version}\n" for name, version in known.items()))
        command = [*pip, "install", "--dry-run", "--ignore-installed", "--report", "-"]
        command += ["--group", "dev", "--group", "bench", "--group", "browser", *TOOLS, *_requirements()]
        answer = subprocess.run(
            [*command, "-c", str(preferred)], cwd=ROOT, check=False, capture_output=True, text=True
        )
        if answer.returncode:
            answer = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    items = (item["metadata"] for item in json.loads(answer.stdout)["install"])
    return {_canonical(item["name"]): item["version"] for item in items}


def _requirements() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project.get("optional-dependencies", {}).values()
    return [*project["dependencies"], *(requirement for extra in extras for requirement in extra)]


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def lines(resolved: dict[str, Pins]) -> list[str]:
    """One line a version, with a marker where only some Pythons take it."""
    pythons: dict[tuple[str, str], list[str]] = defaultdict(list)
    for python, pins in resolved.items():
        for pin in pins.items():
            pythons[pin].append(python)
    return [
        f"{name}=={version}{'' if len(versions) == len(resolved) else _marker(versions)}"
        for (name, version), versions in sorted(pythons.items())
    ]


def _marker(pythons: list[str]) -> str:
    return " ; " + " or ".join(f'python_version == "{python}"' for python in pythons)


def main() -> None:
    resolved: dict[str, Pins] = {}
    known: Pins = {}
    for version, python in interpreters().items():
        print(f"resolving for Python {version} …", file=sys.stderr)
        resolved[version] = resolve(python, known)
        known = {**resolved[version], **known}
    (ROOT / "constraints.txt").write_text(HEADER + "\n".join(lines(resolved)) + "\n")


if __name__ == "__main__":
    main()
