"""What the entry points log: where to, in which form, and without secrets."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from atlas.config import LogSettings, Settings
from atlas.testing import IsolatedSettings
from maia import logs
from maia.cycle import sessions

KEY = "top-secret-key-0001"
TOKEN = 'hf_"zy\\xw\tv'
PASSWORD = "hunter2-p%40ss"


@pytest.fixture(autouse=True)
def _own_configuration() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def settings(**log: object) -> Settings:
    return IsolatedSettings(
        database_url=SecretStr(f"postgresql://maia:{PASSWORD}@db.example/pleiades"),
        youtube_api_key_pool_json=SecretStr(json.dumps([KEY])),
        hf_token=SecretStr(TOKEN),
        notifier={"urls": ["json://user:password9@alerts.example"]},
        log=LogSettings.model_validate(log),
    )


SECRETS = (KEY, PASSWORD, "hunter2-p@ss", TOKEN, "password9", "AIza" + "x" * 35)


@pytest.mark.parametrize("json_lines", [False, True])
class TestRedaction:
    def test_no_secret_is_written_wherever_it_stands(
        self, capsys: pytest.CaptureFixture[str], json_lines: bool
    ) -> None:
        logs.configure(settings(json_lines=json_lines))
        logger = logging.getLogger("maia.test")
        for secret in SECRETS:
            logger.warning("in the message: " + secret)  # noqa: G003
            logger.warning("in an argument: %s", {"url": f"https://x/?key={secret}"})
            logger.warning("in an extra", extra={"action": secret})
            try:
                raise ValueError(f"no such key {secret}")
            except ValueError:
                logger.exception("in a traceback")

        written = capsys.readouterr().err
        assert len(written.splitlines()) >= 4 * len(SECRETS)
        assert [secret for secret in SECRETS if secret in written] == []
        assert [secret for secret in SECRETS if json.dumps(secret)[1:-1] in written] == []
        assert "xw" not in written

    def test_keys_stand_by_their_fingerprints(
        self, capsys: pytest.CaptureFixture[str], json_lines: bool
    ) -> None:
        configured = settings(json_lines=json_lines)
        logs.configure(configured)
        logging.getLogger("maia.test").warning("%s was refused", KEY)

        assert f"{configured.key_pool['hunting'][0].fingerprint} was refused" in capsys.readouterr().err

    def test_secrets_of_others_in_the_environment_are_hidden(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, json_lines: bool
    ) -> None:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
        monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "admin:letmein99")
        logs.configure(settings(json_lines=json_lines))
        logging.getLogger("maia.test").warning("%s, %s", "wJalrXUtnFEMI", {"password": "letmein99"})

        written = capsys.readouterr().err
        assert "wJalrXUtnFEMI" not in written
        assert "letmein99" not in written

    @pytest.mark.parametrize(
        ("told", "hidden"),
        [
            ("no answer from postgresql+asyncpg://prefect:s3cr3t@db:5432/prefect", "s3cr3t"),
            ("GET https://www.googleapis.com/youtube/v3/search?part=id&key=whatever1&q=x", "whatever1"),
        ],
    )
    def test_what_looks_like_a_secret_in_a_url_is_hidden_whosever_it_is(
        self, capsys: pytest.CaptureFixture[str], json_lines: bool, told: str, hidden: str
    ) -> None:
        logs.configure(settings(json_lines=json_lines))
        logging.getLogger("any.library").warning(told)

        written = capsys.readouterr().err
        assert hidden not in written
        assert "[hidden]" in written
        assert all(part in written for part in told.replace(hidden, "\0").split("\0")[1:])


class TestRuns:
    """The run and agent on each record."""

    def test_a_line_for_people_names_the_run(self, capsys: pytest.CaptureFixture[str]) -> None:
        logs.configure(settings())
        with sessions.about("hunter", "0197-4f1c9a02"):
            logging.getLogger("maia.hunter").info("found")
        logging.getLogger("maia.hunter").info("alone")

        first, second = capsys.readouterr().err.splitlines()
        assert first.endswith(" INFO maia.hunter [4f1c9a02]: found")
        assert second.endswith(" INFO maia.hunter: alone")

    def test_a_line_for_machines_names_run_and_agent(self, capsys: pytest.CaptureFixture[str]) -> None:
        logs.configure(settings(json_lines=True))
        with sessions.about("tracker", "run-1"):
            logging.getLogger("atlas.db").warning("slow")
        logging.getLogger("atlas.db").warning("alone")

        first, second = map(json.loads, capsys.readouterr().err.splitlines())
        assert (first["agent"], first["run"]) == ("tracker", "run-1")
        assert first.keys() - second.keys() == {"agent", "run"}

    async def test_tasks_of_two_runs_at_once_keep_theirs(self, capsys: pytest.CaptureFixture[str]) -> None:
        async def work(agent: str) -> None:
            with sessions.about(agent, f"run-of-{agent}"):
                await asyncio.sleep(0)
                await asyncio.create_task(say())

        async def say() -> None:
            await asyncio.sleep(0)
            logging.getLogger("maia.test").info("here")

        logs.configure(settings(json_lines=True))
        await asyncio.gather(work("hunter"), work("tracker"))
        told = {
            (line["agent"], line["run"]) for line in map(json.loads, capsys.readouterr().err.splitlines())
        }
        assert told == {("hunter", "run-of-hunter"), ("tracker", "run-of-tracker")}

    def test_a_run_takes_the_id_of_the_session_around_it(self) -> None:
        with sessions.about("hunter", "run-1"):
            assert sessions.id_of_run() == "run-1"
        assert sessions.current() is None
        assert sessions.id_of_run() != sessions.id_of_run()


class TestUnderPrefect:
    """What processes log that Prefect configures by flows/logging.yml."""

    PROGRAM = """
import logging
from maia.cycle import sessions
logging.getLogger("maia.hunter").setLevel("INFO")
logging.getLogger("prefect.flow_runs").info("beginning")
logging.getLogger("prefect.task_runs").error("a step failed")
logging.getLogger("prefect.flow_runs").error("it failed with top-secret-key-0001")
for reason in ("cancelled by the runtime environment", "aborted by a termination signal"):
    logging.getLogger("prefect.engine").error(f"Crash detected! Execution was {reason}.")
    logging.getLogger("prefect.flow_runs").error(f"Finished in state Crashed('Execution was {reason}.')")
early = "Submitting(type=PENDING)", "InfrastructurePending('soon', type=PENDING)"
for state in ("Running()", "Pending()", *early):
    logging.getLogger("prefect.engine").error(f"Finished in state {state}")
logging.getLogger("httpx").info("GET /")
with sessions.about("hunter", "run-1"):
    logging.getLogger("maia.hunter").info("found")
"""

    def logged(self, **environment: str) -> list[str]:
        finished = self.finished(self.PROGRAM, **environment)
        assert finished.returncode == 0, finished.stderr
        return finished.stderr.splitlines()

    def finished(self, program: str, **environment: str) -> subprocess.CompletedProcess[str]:
        from flows import environment as surroundings

        chosen = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        chosen |= {"YOUTUBE_API_KEY_POOL_JSON": json.dumps([KEY]), "PREFECT_LOGGING_TO_API_ENABLED": "0"}
        surroundings.prepare(chosen)
        program = f"from prefect.logging.configuration import setup_logging\nsetup_logging()\n{program}"
        return subprocess.run(
            [sys.executable, "-c", program], env=chosen | environment, capture_output=True, text=True,
        )  # fmt: skip

    def test_lines_for_machines_without_secrets_and_chatter(self, tmp_path: Path) -> None:
        lines = self.logged(PLEIADES_LOG__JSON_LINES="true", PREFECT_HOME=str(tmp_path))
        failed, found = map(json.loads, lines)
        assert failed["message"].startswith("it failed with key-")
        assert (found["message"], found["agent"], found["run"]) == ("found", "hunter", "run-1")

    def test_a_run_that_is_told_to_end_leaves_no_traceback(self, tmp_path: Path) -> None:
        raising = """
from prefect.exceptions import TerminationSignal

class Resource:
    def __del__(self):
        raise TerminationSignal(15)

Resource()
raise TerminationSignal(15)
"""
        usual, told = (
            self.finished(raising, PLEIADES_LOG__LEVEL=level, PREFECT_HOME=str(tmp_path)).stderr
            for level in ("DEBUG", "INFO")
        )
        assert (usual.count("Traceback"), told.count("Traceback")) == (2, 0)

    def test_other_ends_of_a_run_are_told(self, tmp_path: Path) -> None:
        program = """
import logging
logging.getLogger("prefect.engine").error("Finished in state Failed('it held top-secret-key-0001')")
logging.getLogger("prefect.engine").error("Finished in state TimedOut('too slow', type=FAILED)")
raise ValueError("odd")
"""
        failed, late, *traceback = self.finished(program, PREFECT_HOME=str(tmp_path)).stderr.splitlines()
        assert "Finished in state Failed('it held key-" in failed
        assert "TimedOut" in late
        assert traceback[-1] == "ValueError: odd"

    def test_settings_that_are_wrong_leave_it_readable(self, tmp_path: Path) -> None:
        lines = self.logged(PLEIADES_LOG__LEVEL="LOUD", PREFECT_HOME=str(tmp_path))
        assert lines[-1].endswith(" INFO maia.hunter [run-1]: found")


class TestForms:
    def test_a_line_for_people(self, capsys: pytest.CaptureFixture[str]) -> None:
        logs.configure(settings())
        logging.getLogger("maia.test").warning("disk at %d %%", 91, extra={"action": "disk"})

        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.endswith(" WARNING maia.test: disk at 91 %\n")

    def test_an_object_a_line_for_machines(self, capsys: pytest.CaptureFixture[str]) -> None:
        logs.configure(settings(json_lines=True))
        logging.getLogger("maia.test").info("two\nlines", extra={"action": "talk", "odd": {1: object}})

        [line] = capsys.readouterr().err.splitlines()
        entry = json.loads(line)
        assert entry["level"] == "INFO"
        assert entry["logger"] == "maia.test"
        assert entry["message"] == "two\nlines"
        assert entry["action"] == "talk"
        assert entry["time"].endswith("+00:00")

    def test_levels_hold_also_where_a_library_sets_its_own(self, capsys: pytest.CaptureFixture[str]) -> None:
        logs.configure(settings(level="ERROR"))
        chatty = logging.getLogger("chatty.library")
        chatty.setLevel(logging.DEBUG)
        chatty.warning("not told")
        chatty.error("told")

        assert "not told" not in (written := capsys.readouterr().err)
        assert "told" in written

    def test_what_prefect_says_of_each_run_is_told_only_to_who_debugs(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def say() -> str:
            for name, level in (("task_runs", logging.ERROR), ("flow_runs", logging.INFO)):
                record = logging.makeLogRecord({"name": f"prefect.{name}", "levelno": level, "msg": name})
                logging.getLogger().handle(record)
            for level in (logging.INFO, logging.WARNING):
                record = logging.makeLogRecord({"name": "prefect.x", "levelno": level, "msg": f"{level}"})
                logging.getLogger().handle(record)
            return capsys.readouterr().err

        logs.configure(settings())
        assert [line.rpartition(": ")[2] for line in say().splitlines()] == ["30"]
        logs.configure(settings(level="DEBUG"))
        told = [line.rpartition(": ")[2] for line in say().splitlines()]
        assert told == ["task_runs", "flow_runs", "20", "30"]

    def test_configuring_again_replaces(self, capsys: pytest.CaptureFixture[str]) -> None:
        logs.configure_plainly("DEBUG")
        logs.configure(settings())
        logging.getLogger("maia.test").warning("once")

        assert capsys.readouterr().err.count("once") == 1


@pytest.mark.parametrize("json_lines", [False, True])
def test_foreign_text_is_harmless_in_a_log(capsys: pytest.CaptureFixture[str], json_lines: bool) -> None:
    logs.configure(settings(json_lines=json_lines))
    title = "\x1b]0;owned\x07 \x9b2J \u202ered\n12:00:00 ERROR maia: forged"
    logging.getLogger("maia.test").warning("found %s", title, extra={"title": title})
    written = capsys.readouterr().err
    assert not set(written) & set("\x1b\x07\x9b\u202e")
    assert len([line for line in written.splitlines() if not line.startswith(" ")]) == 1
    assert "forged" in written
    if json_lines:
        assert json.loads(written)["title"] == title


class TestOutage:
    """Prefect's server out of reach: what a process logs of it."""

    @pytest.fixture
    def prefect(self, monkeypatch: pytest.MonkeyPatch) -> logging.Logger:
        monkeypatch.delenv(logs.UNDER_MAIA_UP, raising=False)
        logs.configure(settings(level="INFO"))
        return logging.getLogger("prefect.engine")

    @staticmethod
    def fail(logger: logging.Logger, error: Exception | None = None) -> None:
        try:
            try:
                raise error or ConnectionRefusedError(111, "refused")
            except (OSError, ValueError) as cause:
                raise RuntimeError("Failed to reach API") from cause
        except RuntimeError:
            logger.exception("Execution of a run exited with an unexpected exception")

    def test_it_is_one_line_however_many_parts_of_prefect_report_it(
        self, prefect: logging.Logger, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for _ in range(3):
            self.fail(prefect)
        logging.getLogger("prefect.runner.flow_run_executor").error("Process exited with status code: 1.")
        [line] = capsys.readouterr().err.splitlines()
        assert line.endswith(
            "WARNING prefect.engine: Prefect's server does not respond; retrying until it does"
        )

    def test_other_failures_keep_their_traceback(
        self, prefect: logging.Logger, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.fail(prefect, ValueError("a defect"))
        assert "ValueError: a defect" in capsys.readouterr().err
        self.fail(logging.getLogger("maia.hunter"))
        assert "ConnectionRefusedError" in capsys.readouterr().err

    def test_what_its_server_broke_off_when_told_to_stop_is_not_reported(
        self, prefect: logging.Logger, capsys: pytest.CaptureFixture[str]
    ) -> None:
        try:
            try:
                raise asyncio.CancelledError("Cancelled via cancel scope")
            except asyncio.CancelledError as cause:
                raise RuntimeError("Error flushing events") from cause
        except RuntimeError:
            prefect.exception("Error flushing 1 events")
        assert capsys.readouterr().err == ""

    @pytest.mark.parametrize("observer", ["FlowRunCancellingObserver", "FlowRunSuspendingObserver"])
    def test_what_its_observers_broke_off_is_not_reported(
        self, prefect: logging.Logger, capsys: pytest.CaptureFixture[str], observer: str
    ) -> None:
        """Prefect asks a cancelled task for its exception, which raises in a callback of the event loop."""
        try:
            raise asyncio.CancelledError
        except asyncio.CancelledError:
            text = f"Exception in callback {observer}._handle_polling_task_done(<Task cancelled>)"
            logging.getLogger("asyncio").exception(text)
        assert capsys.readouterr().err == ""

    def test_the_next_one_is_reported_again(
        self,
        prefect: logging.Logger,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        self.fail(prefect)
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + 3600)
        self.fail(prefect)
        assert capsys.readouterr().err.count("does not respond") == 2

    def test_under_maia_up_a_restart_is_not_reported_again(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from maia.maintenance import children

        monkeypatch.setenv(children.MARK, "some-mark")
        logs.configure(settings(level="INFO"))
        logger = logging.getLogger("prefect.engine")
        self.fail(logger)
        assert capsys.readouterr().err == ""
        now = time.time()
        # Sign after sign for longer than a restart takes.
        for passed_s in (20, 40):
            monkeypatch.setattr(time, "time", lambda passed_s=passed_s: now + passed_s)
            self.fail(logger)
        assert capsys.readouterr().err.count("does not respond") == 1
