"""What README and docs tell exists: commands, options, settings, make targets, files."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest

from maia import cli, metrics
from maia.commands.config import documentation, every_setting

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
# Read by the settings' own sources, or by Prefect.
PACKAGES = ("atlas", "flows", "maia")
BESIDES_SETTINGS = {"PLEIADES_CONFIG", "PLEIADES_SECRETS_DIR", "PLEIADES_IMAGE", "PLEIADES_"}

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def code_of(page: Path) -> list[str]:
    """Every command line of the page's blocks, and every span of code in its text."""
    text = page.read_text("utf-8")
    blocks = re.findall(r"^```(?:sh)?\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line.partition("#")[0].strip() for block in blocks for line in block.splitlines()]
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    return [code for code in (*lines, *spans) if code]


def invocations_of_maia(page: Path) -> list[list[str]]:
    found = []
    for code in code_of(page):
        start = re.search(r"(?:^|[\s/])maia (?=[a-z-])", code)
        if start and "=" not in code[: start.start()]:
            found.append(shlex.split(re.split(r" (?:&&|\|) ", code[start.end() :])[0]))
    return found


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the words name, and the words after its name."""
    name, *rest = words
    assert name in cli.COMMANDS, f"maia {name}: no such command"
    command = cli.load_command(name)
    inner = getattr(command, "commands", {})
    if rest and inner and not rest[0].startswith("-"):
        assert rest[0] in inner, f"maia {name} {rest[0]}: no such command"
        return inner[rest[0]], rest[1:]
    return command, rest


@pages
def test_commands_and_their_options_exist(page: Path) -> None:
    for words in invocations_of_maia(page):
        if words[0].startswith("-"):
            continue
        command, rest = command_of(words)
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        for option in (word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)):
            assert option in known, f"maia {' '.join(words)}: no option {option}"


def test_such_commands_are_found_at_all() -> None:
    readme = [words[0] for words in invocations_of_maia(ROOT / "README.md")]
    assert {"doctor", "seed", "hunter", "status", "queue", "keys"} <= set(readme)
    every = {words[0] for page in PAGES for words in invocations_of_maia(page)}
    assert set(cli.COMMANDS) <= every


@pages
def test_settings_exist(page: Path) -> None:
    known = {setting.variable for setting in every_setting()} | BESIDES_SETTINGS
    named = set(re.findall(r"\bPLEIADES_[A-Z_]*", page.read_text("utf-8")))
    assert named <= known


@pages
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for code in code_of(page):
        words = code.split()
        if words and words[0] == "make":
            named = [word for word in words[1:] if re.fullmatch(r"[a-z-]+", word)]
            assert set(named) <= targets, code


@pages
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text("utf-8")):
        package_is_installed_only = target.partition("/")[0] in PACKAGES and not (ROOT / "atlas").exists()
        if not target.startswith("https://") and not package_is_installed_only:
            assert (page.parent / target).exists(), target


@pages
def test_modules_exist(page: Path) -> None:
    for code in code_of(page):
        if re.fullmatch(r"(atlas|maia|flows)(\.[a-z]+)+", code):
            path = ROOT / code.replace(".", "/")
            source_is_gone = not (ROOT / "atlas").exists()
            assert source_is_gone or path.with_suffix(".py").exists() or path.is_dir(), code


def test_the_settings_page_is_up_to_date() -> None:
    assert (ROOT / "docs/configuration.md").read_text("utf-8") == documentation(), "run make docs"


def test_the_metrics_page_is_up_to_date() -> None:
    page = (ROOT / "docs/operations.md").read_text("utf-8")
    assert metrics.documentation() in page, "put there what maia.metrics.documentation() says"


def test_every_setting_says_what_it_is_for() -> None:
    assert [setting.variable for setting in every_setting() if len(setting.description) < 10] == []


def test_the_readme_is_short_and_begins_with_its_two_commands() -> None:
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert len(lines) <= 150
    first = lines.index("```sh")
    assert first < 25
    assert [line.split("#")[0].strip() for line in lines[first + 1 : first + 3]] == ["make demo", "make test"]


def test_constraints_name_only_packages_and_versions() -> None:
    pin = re.compile(r'[a-z0-9][a-z0-9.-]*==[0-9][0-9a-z.+!-]*( ; python_version == "3\.1\d"( or .*)?)?')
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#") and not pin.fullmatch(line)] == []


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    required = [
        *project["project"]["dependencies"],
        *(item for extra in project["project"]["optional-dependencies"].values() for item in extra),
        *(item for group in project["dependency-groups"].values() for item in group),
    ]
    names = {re.split(r"[^A-Za-z0-9._-]", item)[0].lower().replace("_", "-") for item in required}
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()}
    assert names <= pinned
