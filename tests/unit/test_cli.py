"""The command line: help, lazy imports, exit statuses, error messages."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from atlas.errors import (
    AtlasError,
    ConfigError,
    DatabaseError,
    DatabaseUnavailable,
    EmbeddedServerError,
    EmptyKeyRing,
    LeaseLost,
    RingClosed,
    VaultUnavailable,
)
from maia import cli
from maia.agents import AGENTS
from maia.commands import streams
from maia.commands.terminal import ExitStatus, status_of
from maia.emulator.catalogue import CatalogueError
from maia.errors import MaiaError, Unreachable
from tests.fork_server import FORKS

Fail = Callable[..., tuple[int, list[str], str]]
"""Lets a command fail with an error: its status, and what it printed to stdout and to stderr."""

HEAVY = ("prefect", "asyncpg", "aiohttp", "pydantic", "sqlalchemy", "atlas", "asyncio")


def maia(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `maia` in a process of its own that inherits no settings."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PLEIADES_") and name not in ("DATABASE_URL", "YOUTUBE_API_KEY_POOL_JSON")
    }
    wide = {**inherited, "NO_COLOR": "1", "COLUMNS": "200", **environment}
    return FORKS.run_and_wait(*arguments, environment=wide).completed


class TestHelp:
    @pytest.mark.parametrize("option", ["--help", "-h"])
    def test_lists_every_command_and_exit_status(self, option: str) -> None:
        finished = maia(option)

        assert finished.returncode == 0
        for name, line in cli.COMMANDS.items():
            assert f" {name} " in finished.stdout
            assert line in finished.stdout
        for status in ("0 success", "1 failure", "2 wrong", "69 ", "75 ", "78 ", "130 ", "143 "):
            assert status in finished.stdout

    @pytest.mark.parametrize("name", cli.COMMANDS)
    def test_every_command_has_its_own(self, name: str) -> None:
        finished = maia(name, "--help")

        assert (finished.returncode, finished.stderr) == (0, "")
        assert f"Usage: maia {name}" in finished.stdout

    @pytest.mark.parametrize("arguments", [("--help",), ("--version",), ()])
    def test_imports_nothing_heavy(self, arguments: tuple[str, ...]) -> None:
        finished = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "maia", *arguments], capture_output=True, text=True
        )
        imported = {
            line.rpartition("|")[2].strip().partition(".")[0]
            for line in finished.stderr.splitlines()
            if line.startswith("import time:")
        }

        assert "typer" in imported
        assert imported.isdisjoint(HEAVY)

    @pytest.mark.parametrize(
        "name", ["hunter", "status", "doctor", "seed", "demo", "top", "video", "watch", "export"]
    )
    def test_a_commands_help_imports_no_agent(self, name: str) -> None:
        code = (
            "import sys; from maia.cli import main\n"
            "try: main(sys.argv[1:])\n"
            "finally: print(*sys.modules, sep='\\n', file=sys.stderr)"
        )
        finished = subprocess.run(
            [sys.executable, "-c", code, name, "--help"], capture_output=True, text=True, check=True
        )

        loaded = {line.partition(".")[0] for line in finished.stderr.splitlines()}
        module = "running" if name in {agent.name for agent in AGENTS} else name
        assert f"maia.commands.{module}" in finished.stderr.splitlines()
        assert loaded.isdisjoint({"prefect", "asyncpg", "aiohttp"})

    def test_the_maintainer_loads_no_client_before_it_calls_anybody(self) -> None:
        code = "import sys, maia.maintainer.cycle; print(*sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert {"aiohttp", "atlas.backups"}.isdisjoint(done.stdout.split())

    def test_an_agent_may_have_further_commands(self) -> None:
        learner, hunter = cli.load_command("learner"), cli.load_command("hunter")
        assert set(learner.commands) == {"run", "score"}
        assert not hasattr(hunter, "commands")
        options = {option for parameter in learner.commands["run"].params for option in parameter.opts}
        assert {"--batch-size", "--cycles", "--direct", "--full", "--force", "--json"} <= options
        told = maia("learner", "--help").stdout
        assert "--direct" in told
        assert "maia learner score" in told
        assert "--since" in maia("learner", "score", "--help").stdout

    def test_has_no_colour_outside_a_terminal(self) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
        finished = subprocess.run(
            [sys.executable, "-m", "maia", "--help"], capture_output=True, text=True, env=environment
        )

        assert "\x1b[" not in finished.stdout

    def test_says_its_version(self) -> None:
        assert maia("--version").stdout.startswith("pleiades 0.")


class TestUsage:
    def test_without_a_command_shows_help_and_refuses(self) -> None:
        finished = maia()

        assert finished.returncode == ExitStatus.USAGE
        assert "Usage: maia" in finished.stdout + finished.stderr

    def test_a_misspelt_command_is_corrected(self) -> None:
        finished = maia("huntr")

        assert finished.returncode == ExitStatus.USAGE
        assert "Did you mean 'hunter'?" in finished.stderr

    @pytest.mark.parametrize(
        ("arguments", "hint"),
        [
            (("seed",), "maia seed"),
            (("queue", "park"), "maia queue list"),
            (("queue", "retry", "jazz", "--all"), "not both"),
            (("queue", "list", "--status", "lost"), "active, cooling, parked"),
            (("hunter", "--cycles", "0"), "--cycles"),
            (("hunter", "--batch-size", "-1"), "--batch-size"),
            (("demo", "--catalogue", "absent.catalogue"), "--catalogue"),
        ],
    )
    def test_wrong_arguments_say_what_is_right(self, arguments: tuple[str, ...], hint: str) -> None:
        finished = maia(*arguments)

        assert finished.returncode == ExitStatus.USAGE
        assert hint in finished.stderr

    def test_seeds_from_a_file_that_is_not_text(self, tmp_path: Path) -> None:
        file = tmp_path / "topics.txt"
        file.write_bytes(b"\xff\xfe\x00jazz")
        finished = maia("seed", "--file", str(file))

        assert finished.returncode == ExitStatus.USAGE
        assert "UTF-8" in finished.stderr


class TestErrors:
    @pytest.mark.parametrize(
        ("pool", "place"),
        [
            ('[{"key": "secret-key-one"', "line 1, column 26"),
            ('{"hunting": [{"kye": "secret-key-one"}]}', "hunting[0]"),
            ('{"huntng": ["secret-key-one"]}', "huntng"),
        ],
    )
    def test_a_malformed_key_pool_is_named_by_place_in_one_line(self, pool: str, place: str) -> None:
        finished = maia("hunter", "--direct", YOUTUBE_API_KEY_POOL_JSON=pool)

        assert finished.returncode == ExitStatus.CONFIGURATION
        [line] = finished.stderr.splitlines()
        assert line.startswith("maia: YOUTUBE_API_KEY_POOL_JSON")
        assert place in line
        assert "secret-key-one" not in finished.stderr

    def test_every_wrong_setting_gets_a_line(self) -> None:
        wrong = {"PLEIADES_HUNTER__BATCH_SIZE": "many", "PLEIADES_LOG__LEVEL": "LOUD"}
        finished = maia("status", **wrong)

        assert finished.returncode == ExitStatus.CONFIGURATION
        lines = finished.stderr.splitlines()
        assert len(lines) == 2
        for name in wrong:
            assert any(line.startswith(f"maia: {name}: ") for line in lines)

    @pytest.mark.parametrize(
        ("name", "value"), [("PREFECT_API_REQUEST_TIMEOUT", "soon"), ("PREFECT_API_URL", "http://[::1")]
    )
    def test_a_wrong_setting_of_prefect_is_named(self, name: str, value: str, tmp_path: Path) -> None:
        mine = {"YOUTUBE_API_KEY_POOL_JSON": '["a-key"]', "PREFECT_HOME": str(tmp_path)}
        finished = maia("hunter", **mine, **{name: value})

        assert finished.returncode == ExitStatus.CONFIGURATION
        # Prefect does not say which of several variables a URL comes from.
        assert re.match(rf"maia: {name}\b.*: Prefect refuses its value: ", finished.stderr.splitlines()[-1])
        assert "Traceback" not in finished.stderr

    @pytest.mark.parametrize("arguments", [("top", "--by", "velocty"), ("export", "--table", "vidos")])
    def test_a_wrong_choice_is_told_without_the_words_of_a_library(self, arguments: tuple[str, ...]) -> None:
        finished = maia(*arguments)

        assert finished.returncode == ExitStatus.USAGE
        assert f"Invalid value for '{arguments[-2]}': '{arguments[-1]}' is not one of " in finished.stderr

    def test_a_blank_topic_is_wrong_usage(self) -> None:
        finished = maia("seed", "jazz", " ")

        assert finished.returncode == ExitStatus.USAGE
        assert "the topic ' ' is blank: give at least one word" in finished.stderr

    def test_debug_shows_where_an_error_comes_from(self) -> None:
        finished = maia("--debug", "status", PLEIADES_HUNTER__BATCH_SIZE="many")

        assert finished.returncode == ExitStatus.CONFIGURATION
        assert "Traceback (most recent call last)" in finished.stderr
        assert finished.stderr.splitlines()[-1].startswith("maia: PLEIADES_HUNTER__BATCH_SIZE: ")

    @pytest.mark.parametrize(
        ("error", "status"),
        [
            (ConfigError(), ExitStatus.CONFIGURATION),
            (EmptyKeyRing(), ExitStatus.CONFIGURATION),
            (Unreachable(), ExitStatus.UNAVAILABLE),
            (DatabaseUnavailable(), ExitStatus.UNAVAILABLE),
            (EmbeddedServerError(), ExitStatus.UNAVAILABLE),
            (VaultUnavailable("gone"), ExitStatus.UNAVAILABLE),
            (RingClosed("hunting", "search", None, "spent"), ExitStatus.DONE),
            (DatabaseError(), ExitStatus.FAILED),
            (LeaseLost(), ExitStatus.FAILED),
            (AtlasError(), ExitStatus.FAILED),
            (MaiaError("lost"), ExitStatus.FAILED),
            (CatalogueError("no catalogue"), ExitStatus.FAILED),
            (ValueError("a defect"), None),
        ],
    )
    def test_statuses(self, error: Exception, status: ExitStatus | None) -> None:
        assert status_of(error) == status

    def test_a_defect_is_not_hidden(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def defective(**_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(cli, "app", defective)
        with pytest.raises(ZeroDivisionError):
            cli._status(["status"])

    @pytest.mark.parametrize(
        ("code", "status"), [(None, 0), (0, 0), (75, 75), (ExitStatus.USAGE, 2), ("why not", 1)]
    )
    def test_the_status_of_whoever_leaves_is_passed_on(
        self, monkeypatch: pytest.MonkeyPatch, code: str | int | None, status: int
    ) -> None:
        def leaving(**_: object) -> None:
            raise SystemExit(code)

        monkeypatch.setattr(cli, "app", leaving)
        assert cli._status([]) == status

    def test_ctrl_c_is_no_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted(**_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(cli, "app", interrupted)
        assert cli._status([]) == ExitStatus.INTERRUPTED


class TestErrorsAsJson:
    """Programs that ask for JSON get one object on stdout, whatever goes wrong; people read stderr."""

    @pytest.fixture
    def fail(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Fail:
        def run(error: BaseException, *arguments: str) -> tuple[int, list[str], str]:
            def failing(**_: object) -> None:
                raise error

            monkeypatch.setattr(cli, "app", failing)
            status = cli._status([*arguments])
            told = capsys.readouterr()
            return status, told.out.splitlines(), told.err

        return run

    def test_an_error_of_ours(self, fail: Fail) -> None:
        status, [line], told = fail(DatabaseUnavailable("it is away:\nstart it"), "status", "--json")
        assert json.loads(line) == {"error": "it is away:\nstart it", "exit_status": 69}
        assert (status, told) == (69, "maia: it is away:\nmaia: start it\n")

    def test_without_it_nothing_is_on_stdout(self, fail: Fail) -> None:
        for arguments in (["status"], ["seed", "--", "--json"]):
            assert fail(DatabaseUnavailable("it is away"), *arguments)[:2] == (69, [])

    def test_what_ended_a_cycle(self, fail: Fail) -> None:
        limited = SystemExit(75)
        limited.__cause__ = MaiaError("wait until 8 o'clock")
        status, [line], _ = fail(limited, "hunter", "--json")
        assert json.loads(line) == {"error": "wait until 8 o'clock", "exit_status": 75}
        assert status == 75

    @pytest.mark.parametrize("ended", [SystemExit(143), SystemExit(1), SystemExit(0)])
    def test_who_is_stopped_or_has_said_all_says_nothing(self, fail: Fail, ended: BaseException) -> None:
        assert fail(ended, "status", "--json")[1] == []

    def test_ctrl_c_is_told_unless_something_was_printed(
        self, fail: Fail, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        exiting = SystemExit(130)
        exiting.__context__ = KeyboardInterrupt()
        for ended in (KeyboardInterrupt(), exiting):
            status, [line], told = fail(ended, "status", "--json")
            assert json.loads(line) == {"error": "interrupted", "exit_status": 130}
            assert (status, told) == (130, "maia: interrupted\n")
            assert fail(ended, "status") == (130, [], "maia: interrupted\n")
        assert fail(SystemExit(130), "up") == (130, [], "")
        monkeypatch.setattr(streams, "has_printed", lambda: True)
        assert fail(KeyboardInterrupt(), "top") == (130, [], "")

    def test_ctrl_c_while_all_is_imported(self) -> None:
        code = (
            "import os, signal, sys\n"
            "class Finder:\n"
            "    def find_spec(self, name, *_):\n"
            "        name == 'maia.cli' and os.kill(os.getpid(), signal.SIGINT)\n"
            "sys.meta_path.insert(0, Finder())\n"
            "from maia.__main__ import main\n"
            "main()\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, "status", "--json"], capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (130, "maia: interrupted\n")
        assert json.loads(done.stdout) == {"error": "interrupted", "exit_status": 130}

    def test_a_defect(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        def defective(**_: object) -> None:
            raise ZeroDivisionError("by zero")

        monkeypatch.setattr(cli, "app", defective)
        with pytest.raises(ZeroDivisionError):
            cli.main(["status", "--json"])
        told = json.loads(capsys.readouterr().out)
        assert told == {"error": "ZeroDivisionError: by zero", "exit_status": 1}

    @pytest.mark.parametrize(
        ("arguments", "hint"),
        [
            (("status", "--json", "--nope"), "No such option: --nope"),
            (("no-such-command", "--json"), "no-such-command"),
            (("alerts", "ack", "--json"), "KEY|ID"),
        ],
    )
    def test_wrong_usage(
        self, arguments: tuple[str, ...], hint: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli._status([*arguments]) == ExitStatus.USAGE
        told = capsys.readouterr()
        assert hint in json.loads(told.out)["error"]
        assert hint in told.err

    def test_a_database_that_is_away(self) -> None:
        finished = maia(
            "status",
            "--json",
            DATABASE_URL="postgresql://nobody@127.0.0.1:1/none",
            PLEIADES_DATABASE__CONNECT_TIMEOUT_S="0.1",
        )
        told = json.loads(finished.stdout)
        assert (finished.returncode, told["exit_status"]) == (69, 69)
        assert finished.stderr.endswith("".join(f"maia: {line}\n" for line in told["error"].splitlines()))

    @pytest.mark.parametrize("stdout", ["a pipe without a reader", "/dev/full"])
    def test_the_status_is_that_of_the_error_whoever_reads_it(self, stdout: str) -> None:
        if stdout == "/dev/full":
            output = os.open(stdout, os.O_WRONLY)
        else:
            reading, output = os.pipe()
            os.close(reading)
        command = [sys.executable, "-m", "maia", "status", "--nope", "--json"]
        try:
            finished = subprocess.run(command, stdout=output, stderr=subprocess.DEVNULL, check=False)
        finally:
            os.close(output)
        assert finished.returncode == ExitStatus.USAGE


class TestConfig:
    def test_shows_what_differs_but_no_secret(self) -> None:
        finished = maia(
            "config",
            "show",
            "--json",
            PLEIADES_HUNTER__BATCH_SIZE="3",
            YOUTUBE_API_KEY_POOL_JSON='["secret-key-one"]',
            NODE_ID="here",
        )

        assert finished.returncode == 0
        assert '"PLEIADES_HUNTER__BATCH_SIZE": 3' in finished.stdout
        assert "PLEIADES_HUNTER__LEASE_S" not in finished.stdout
        assert "secret-key-one" not in finished.stdout

    def test_shows_all_if_asked(self) -> None:
        finished = maia("config", "show", "--all")

        assert "PLEIADES_QUOTA__SHARES__HUNTING__SEARCH" in finished.stdout
        assert "PLEIADES_LOG__LEVEL" in finished.stdout
