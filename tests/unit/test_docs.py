"""What README and docs name exists: commands, options, settings, make targets, files, modules, alerts."""

from __future__ import annotations

import pkgutil
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import atlas
import flows
import maia
from maia import cli
from maia.api import measuring
from maia.commands.config import documentation, every_setting
from maia.emulator.realism import PRESETS, assumptions, written
from maia.stack import families

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
BLOCK = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
# Paths that a reader makes, or that the product writes.
MADE_BY_READERS = {"maia/census/__init__.py", "maia/census/cycle.py", "docker/.env", "docker/secrets/"}
PACKAGES = ("atlas", "flows", "maia")
SOURCES = [Path(package.__file__).parent for package in (atlas, flows, maia) if package.__file__]
# Read by the settings' own sources, or only by what starts containers.
BESIDES_SETTINGS = {"PLEIADES_CONFIG", "PLEIADES_SECRETS_DIR", "PLEIADES_IMAGE", "PLEIADES_"}

# What people read besides the pages: comments, descriptions of alerts, notices.
OTHERS = sorted(
    path
    for folder in (".github", "deployments", "docker")
    for path in (ROOT / folder).rglob("*")
    if path.is_file() and path.suffix != ".json" and path.name != ".env" and path.parent.name != "secrets"
)


def of(files: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("page", files, ids=lambda page: str(page.relative_to(ROOT)))


pages, pages_and_others = of(PAGES), of([*PAGES, *OTHERS])


def code_of(page: Path) -> list[str]:
    """Every command line of the page's blocks, and every span of code in its text."""
    text = page.read_text("utf-8")
    blocks = re.findall(r"^```(?:sh)?\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line.partition("#")[0].strip() for block in blocks for line in block.splitlines()]
    spans = re.findall(r"`([^`\n]+)`", BLOCK.sub("", text))
    return [code for code in (*lines, *spans) if code]


def invocations_of_maia(page: Path) -> list[list[str]]:
    found = []
    for code in code_of(page):
        start = re.search(r"(?:^|[\s/])maia (?=[a-z-])", code)
        if start and "=" not in code[: start.start()]:
            found.append(shlex.split(re.split(r" (?:&&|\|) ", code[start.end() :])[0]))
    return found


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the page's headings."""
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def source_is_gone(path: str) -> bool:
    """Whether the path is in a package that is only installed here, as when the wheel is tested."""
    return path.removeprefix("../").partition("/")[0] in PACKAGES and not (ROOT / "atlas").exists()


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the words name, and the words after its name."""
    name, *rest = words
    assert name in cli.COMMANDS, f"maia {name}: no such command"
    command, path = cli.load_command(name), f"maia {name}"
    # Groups may hold groups.
    while rest and (inner := getattr(command, "commands", {})):
        if rest[0] not in inner and (default := getattr(command, "default", None)):
            return inner[default], rest
        if rest[0].startswith("-"):
            break
        path = f"{path} {rest[0]}"
        assert rest[0] in inner, f"{path}: no such command"
        command, rest = inner[rest[0]], rest[1:]
    return command, rest


@pages_and_others
def test_commands_and_their_options_exist(page: Path) -> None:
    for words in invocations_of_maia(page):
        if words[0].startswith("-"):
            continue
        # What follows is a command of maia again.
        command, rest = command_of(words[2:] if words[:2] == ["daemon", "run"] and words[2:] else words)
        options = [(*each.opts, *each.secondary_opts) for each in command.params]
        known = {option for names in options for option in names} | {"--help"}
        for option in (word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)):
            assert option in known, f"maia {' '.join(words)}: no option {option}"


def test_such_commands_are_found_at_all() -> None:
    readme = [words[0] for words in invocations_of_maia(ROOT / "README.md")]
    assert {"doctor", "seed", "hunter", "status", "queue", "keys"} <= set(readme)
    every = {words[0] for page in PAGES for words in invocations_of_maia(page)}
    assert set(cli.COMMANDS) <= every


@pages_and_others
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
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text("utf-8")):
        file, _, anchor = target.partition("#")
        if target.startswith("https://") or source_is_gone(file):
            continue
        linked = page.parent / file if file else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@pages
def test_paths_exist(page: Path) -> None:
    for code in code_of(page):
        path = code.removesuffix("*.sql").removesuffix("*")
        if "/" not in path or re.search(r"[^\w./@-]", path) or path in MADE_BY_READERS:
            continue
        if path.partition("/")[0] in {each.name for each in ROOT.iterdir()} | set(PACKAGES):
            assert source_is_gone(path) or (ROOT / path).exists(), code


@pages
def test_modules_exist(page: Path) -> None:
    for code in code_of(page):
        if re.fullmatch(r"(atlas|maia|flows)(\.\w+)+", code):
            assert pkgutil.resolve_name(code), code


def test_the_settings_page_is_up_to_date() -> None:
    assert (ROOT / "docs/configuration.md").read_text("utf-8") == documentation(), "run make docs"


def test_the_metrics_page_is_up_to_date() -> None:
    page = (ROOT / "docs/monitoring.md").read_text("utf-8")
    for table in (families.FAMILIES, measuring.FAMILIES, families.OTHER_NAMES):
        described = families.documentation(table)
        assert described in page, f"put there what maia.stack.families.documentation() says:\n{described}"


def test_every_alert_is_explained() -> None:
    groups = yaml.safe_load((ROOT / "deployments/prometheus/rules/pleiades.yml").read_text("utf-8"))["groups"]
    page = (ROOT / "docs/monitoring.md").read_text("utf-8")
    for rule in (rule for group in groups for rule in group["rules"] if "alert" in rule):
        assert f"| `{rule['alert']}` | {rule['labels']['severity']} |" in page


def test_metrics_and_alerts_exist() -> None:
    alerts = (ROOT / "deployments/prometheus/rules/pleiades.yml").read_text("utf-8")
    known = {family.name for family in (*families.FAMILIES, *measuring.FAMILIES)} | set(
        re.findall(r"alert: (\w+)", alerts)
    )
    for page in PAGES:
        named = re.findall(r"`(pleiades_(?!\w+__)\w+|Pleiades[A-Z]\w+)`", page.read_text("utf-8"))
        assert set(named) <= known, page


def test_symptoms_quote_messages_that_exist() -> None:
    page = (ROOT / "docs/operations.md").read_text("utf-8")
    symptoms = re.findall(r"^\| (.*?) \|", page.partition("## Exit statuses")[0], re.MULTILINE)
    quoted = [text for symptom in symptoms for text in re.findall(r'"(.+?)"', symptom)]
    assert len(quoted) >= 3
    source = "".join(path.read_text("utf-8") for folder in SOURCES for path in folder.rglob("*.py"))
    joined = re.sub(r'"\s*\n\s*f?"', "", source)
    for part in (part.strip() for text in quoted for part in text.split("…")):
        assert part in joined, part


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


def test_the_page_of_the_emulator_lists_every_assumption() -> None:
    page = (ROOT / "docs" / "emulator.md").read_text("utf-8")
    rows = []
    for name, assumed in assumptions().items():
        values = (written(getattr(preset, name)) or "–" for preset in PRESETS.values())
        rows.append(f"| `{name}` | {' | '.join(values)} | {assumed} |")
    assert re.findall(r"^\| `\w+` \|.*$", page, re.MULTILINE) == rows
