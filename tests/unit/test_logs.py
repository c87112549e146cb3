"""What the entry points log: where to, in which form, and without secrets."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from atlas.config import LogSettings, Settings
from atlas.testing import IsolatedSettings
from maia import logs

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
