"""`maia` as its users meet it: real processes, a real server, the emulator."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from maia.emulator.catalogue import Catalogue
from tests.acceptance.conftest import Stage, StageFactory

pytestmark = pytest.mark.acceptance

HELD = "SELECT count(*) FROM search_queue WHERE lease_token IS NOT NULL"


def run(
    *arguments: str, environment: dict[str, str], stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "maia", *arguments],
        env=environment,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )


class TestJourney:
    async def test_from_seeds_to_finds(
        self, stage_of: StageFactory, synthetic: Catalogue, tmp_path: Path
    ) -> None:
        stage: Stage = await stage_of(synthetic, search=100, general=1000)
        topics = tmp_path / "topics.txt"
        topics.write_text("# two topics\nstop motion\n\n  City Builder  \n", "utf-8")
        seeded = await stage.maia("seed", "animation", "--file", str(topics), "--json")
        assert (seeded.status, seeded.json) == (0, {"given": 3, "added": 3})
        again = await stage.maia("seed", "animation")
        assert again.stdout.startswith("seeded 1 topic, 0 of them new")

        queue = await stage.maia("queue", "list", "--json")
        assert [topic["query"] for topic in queue.json] == ["animation", "stop motion", "City Builder"]

        hunted = await stage.hunt("--batch-size", "2")
        assert (hunted.status, hunted.json["outcome"], hunted.json["pages"]) == (0, "done", 2)
        told = await stage.maia("hunter", "--direct", "--cycles", "2")
        assert told.status == 0
        assert "pages" in told.stdout
        assert "new videos" in told.stdout

        status = (await stage.maia("status", "--json")).json
        [videos] = (await stage.rows("SELECT count(*) FROM videos"))[0]
        assert status["found"]["videos"] == videos > 0
        assert [cycle["outcome"] for cycle in status["cycles"]["hunter"]] == ["done"] * 3
        assert status["vault"] == {"provider": "file", "waiting": 0}
        keys = (await stage.maia("keys", "--ring", "hunting", "--json")).json
        used = {line["bucket"]: line["used"] for line in keys["ledger"]}
        assert used["search"] == stage.emulator.used("lab", "search") > 0
        assert used["general"] == stage.emulator.used("lab", "general") > 0
        assert [key["state"] for key in keys["keys"]] == ["active"]

    async def test_people_read_tables(self, stage_of: StageFactory, synthetic: Catalogue) -> None:
        stage: Stage = await stage_of(synthetic)
        await stage.maia("seed", "stop motion")
        await stage.hunt()
        expected = {
            ("status",): [
                "Search queue",
                "Quota of this Pacific day",
                "Last hunter cycles",
                "everything is stored",
            ],
            ("keys",): ["hunting", "key-", "active"],
            ("queue", "list", "--limit", "1000"): ["stop motion", "seed", "tag"],
            ("migrate",): ["the schema is up to date"],
        }
        for arguments, words in expected.items():
            finished = await stage.maia(*arguments)
            assert finished.status == 0, finished.stderr
            assert [word for word in words if word not in finished.stdout] == []
            assert "\x1b[" not in finished.stdout
            assert "lab-key" not in finished.stdout + finished.stderr

    async def test_topics_are_parked_and_retried(self, stage_of: StageFactory, synthetic: Catalogue) -> None:
        stage: Stage = await stage_of(synthetic)
        await stage.maia("seed", "animation", "2048", "permaculture")
        [[number]] = await stage.rows("SELECT id FROM search_queue WHERE query = 'permaculture'")

        parked = await stage.maia(
            "queue", "park", "2048", "--id", str(number), "--reason", "off topic", "--json"
        )
        assert parked.json == {"topics": 2}
        listed = (await stage.maia("queue", "list", "--status", "parked", "--json")).json
        assert {topic["query"]: topic["last_error"] for topic in listed} == {
            "2048": "off topic",
            "permaculture": "off topic",
        }
        assert (await stage.maia("queue", "retry", "2048")).stdout == "put back 1 topic\n"
        assert (await stage.maia("queue", "retry", "--all", "--json")).json == {"topics": 1}
        unknown = await stage.maia("queue", "park", "no such topic")
        assert (unknown.status, "maia queue list" in unknown.stdout) == (0, True)
        acts = await stage.rows("SELECT payload FROM events WHERE kind = 'operator.act' ORDER BY id")
        told = [json.loads(payload) for (payload,) in acts]
        assert [(act["action"], act["context"]) for act in told] == [
            (action, {"kind": "topic", "count": count})
            for action, count in (("seed", 3), ("park", 2), ("retry", 1), ("retry", 1))
        ]
        assert not any(word in str(told) for word in ("animation", "2048", "permaculture", "off topic"))

    async def test_seeds_come_from_a_pipe_and_lists_go_into_one(self, environment: dict[str, str]) -> None:
        topics = "\n".join(f"topic number {n}" for n in range(2000))
        seeded = run("seed", "--file", "-", environment=environment, stdin=topics)
        assert seeded.returncode == 0, seeded.stderr
        listed = subprocess.run(
            f"{sys.executable} -m maia queue list --limit 2000 | head -1",
            shell=True,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (listed.returncode, "Traceback" in listed.stderr) == (0, False)

    def test_a_query_that_can_be_none_is_refused(self, environment: dict[str, str]) -> None:
        refused = run("seed", "x" * 201, environment=environment)
        assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)
        assert "at most 200" in refused.stderr


class TestMigrations:
    def test_what_is_pending_is_told_and_applied(
        self, environment: dict[str, str], empty_database_url: str
    ) -> None:
        environment["DATABASE_URL"] = empty_database_url
        pending = run("migrate", "--check", "--json", environment=environment)
        names = json.loads(pending.stdout)["pending"]
        assert pending.returncode == 1
        assert len(names) >= 3

        applied = run("migrate", "--json", environment=environment)
        assert (applied.returncode, json.loads(applied.stdout)) == (0, {"applied": names})
        assert run("migrate", "--check", environment=environment).stdout == "nothing is pending\n"

    def test_whoever_migrates_by_hand_is_told_to(
        self, environment: dict[str, str], empty_database_url: str
    ) -> None:
        environment |= {"DATABASE_URL": empty_database_url, "PLEIADES_DATABASE__MIGRATE": "false"}
        refused = run("status", environment=environment)
        assert refused.returncode == 1
        assert "maia migrate" in refused.stderr


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that the unprivileged user whom the embedded server runs as under root may pass."""
    with tempfile.TemporaryDirectory(prefix="pleiades-cli-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


class TestWithoutADatabase:
    def test_the_embedded_server_keeps_what_it_is_given_and_ends_with_the_command(
        self, environment: dict[str, str], open_folder: Path
    ) -> None:
        del environment["DATABASE_URL"]
        environment["PLEIADES_DATA_DIR"] = str(open_folder / "data")
        assert run("seed", "jazz", environment=environment).returncode == 0
        listed = run("queue", "list", "--json", environment=environment)

        assert [topic["query"] for topic in json.loads(listed.stdout)] == ["jazz"]
        assert [*open_folder.rglob("PG_VERSION")] != []
        assert [*open_folder.rglob("postmaster.pid")] == []

    def test_a_server_that_is_not_there_is_a_line_and_status_69(self, environment: dict[str, str]) -> None:
        environment |= {
            "DATABASE_URL": "postgresql://maia:opensesame@127.0.0.1:1/pleiades",
            "PLEIADES_DATABASE__CONNECT_TIMEOUT_S": "1",
            "YOUTUBE_API_KEY_POOL_JSON": '["lab-key"]',
        }
        for arguments in (("status",), ("hunter", "--direct"), ("seed", "jazz"), ("migrate",)):
            refused = run(*arguments, environment=environment)
            assert refused.returncode == 69, refused.stderr
            [line] = refused.stderr.splitlines()
            assert "is PostgreSQL running?" in line
            assert "opensesame" not in line

    def test_an_empty_ring_says_what_to_set(self, environment: dict[str, str]) -> None:
        for arguments in (("hunter", "--direct"), ("keys",)):
            refused = run(*arguments, environment=environment)
            assert refused.returncode == 78
            [line] = refused.stderr.splitlines()
            assert "no API key is configured for hunting" in line
            assert "YOUTUBE_API_KEY_POOL_JSON" in line

    def test_status_works_without_a_key(self, environment: dict[str, str]) -> None:
        finished = run("status", environment=environment)
        assert finished.returncode == 0
        assert "No API key is configured" in finished.stdout


class TestSignals:
    @pytest.mark.parametrize(("how", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    async def test_a_hunt_that_is_told_to_end_gives_its_claims_back(
        self, stage_of: StageFactory, synthetic: Catalogue, how: signal.Signals, status: int
    ) -> None:
        stage: Stage = await stage_of(synthetic, settings={"PLEIADES_HUNTER__LEASE_S": "3600"})
        await stage.maia("seed", "stop motion", "animation")
        stage.emulator.set_faults(["latency:1:videos.list"])
        hunter = await stage.start("hunter", "--direct")
        while not stage.emulator.calls:
            assert hunter.returncode is None
            await asyncio.sleep(0.05)
        assert await stage.rows(HELD) == [(2,)]
        hunter.send_signal(how)
        _, stderr = await hunter.communicate()

        assert (hunter.returncode, b"Traceback" in stderr) == (status, False), stderr.decode()
        assert await stage.rows(HELD) == [(0,)]

    @pytest.mark.parametrize(("how", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    async def test_an_emulator_ends_when_told(
        self, synthetic: Catalogue, environment: dict[str, str], how: signal.Signals, status: int
    ) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "maia", "emulator", "--catalogue", str(synthetic.path), "--port", "0", "--json"),
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        assert "url" in json.loads(await process.stdout.readline())
        process.send_signal(how)
        _, stderr = await process.communicate()
        assert (process.returncode, stderr) == (status, b"")


@pytest.mark.timeout(300)
class TestUnderPrefect:
    async def test_a_429_ends_the_process_with_75_and_the_next_one_makes_no_call(
        self, stage_of: StageFactory, synthetic: Catalogue, tmp_path: Path
    ) -> None:
        stage: Stage = await stage_of(synthetic)
        stage.environment["PREFECT_HOME"] = str(tmp_path / "prefect")
        await stage.maia("seed", "stop motion")
        stage.emulator.set_faults(["429-day:1:search.list"])
        limited = await stage.maia("hunter", "--json")
        assert limited.status == 75, limited.stderr
        assert await stage.rows(HELD) == [(0,)]

        calls = len(stage.emulator.calls)
        closed = await stage.maia("hunter", "--json")
        assert (closed.status, closed.json["outcome"]) == (0, "closed"), closed.stderr
        assert len(stage.emulator.calls) == calls

    async def test_an_error_of_ours_is_told_without_tracebacks(
        self, stage_of: StageFactory, synthetic: Catalogue, tmp_path: Path
    ) -> None:
        stage: Stage = await stage_of(synthetic)
        stage.environment["PREFECT_HOME"] = str(tmp_path / "prefect")
        stage.environment["YOUTUBE_API_KEY_POOL_JSON"] = '["nobodys-key"]'
        await stage.maia("seed", "stop motion")
        rejected = await stage.maia("hunter")

        assert (rejected.status, "Traceback" in rejected.stderr) == (78, False), rejected.stderr
        assert rejected.stderr.splitlines()[-1].startswith("maia: search.list: no key is left")
        assert "nobodys-key" not in rejected.stderr

    async def test_works_without_a_home_to_write_to_and_beside_a_dead_proxy(
        self, stage_of: StageFactory, synthetic: Catalogue, open_folder: Path
    ) -> None:
        stage: Stage = await stage_of(synthetic)
        stage.environment |= {"HOME": "/dev/null/nobody", "TMPDIR": str(open_folder)}
        for name in ("HTTP_PROXY", "https_proxy", "ALL_PROXY"):
            stage.environment[name] = "http://127.0.0.1:1"
        await stage.maia("seed", "stop motion")
        hunted = await stage.maia("hunter", "--json")
        assert (hunted.status, hunted.json["pages"]) == (0, 1), hunted.stderr
        assert (open_folder / f"pleiades-prefect-{os.geteuid()}").is_dir()

    async def test_a_server_that_is_not_there_is_told(
        self, stage_of: StageFactory, synthetic: Catalogue
    ) -> None:
        stage: Stage = await stage_of(synthetic)
        stage.environment["PREFECT_API_URL"] = "http://127.0.0.1:1/api"
        refused = await stage.maia("hunter")
        assert refused.status == 69
        # A slow machine is told what it waits for.
        [line] = [line for line in refused.stderr.splitlines() if not line.endswith(" …")]
        assert "PREFECT_API_URL" in line
        assert "maia hunter --direct" in line

        checked = await stage.maia("doctor", "--json")
        assert checked.status == 69
        [prefect] = [check for check in checked.json["checks"] if check["verdict"] == "failed"]
        assert prefect["subject"] == "Prefect"
        assert "PREFECT_API_URL: http://127.0.0.1:1/api does not answer" in prefect["finding"]
        assert "prefect server start" in prefect["remedy"]


class TestDoctor:
    async def test_all_is_well(self, stage_of: StageFactory, synthetic: Catalogue) -> None:
        stage: Stage = await stage_of(synthetic)
        finished = await stage.maia("doctor", "--json")
        assert finished.status == 0, finished.stdout
        assert finished.json["healthy"] is True
        verdicts = {check["subject"]: check["verdict"] for check in finished.json["checks"]}
        assert verdicts == {
            "Python": "ok", "variables": "ok", "temporary folder": "ok", "Prefect": "ok", "settings": "ok",
            "keys": "ok", "clock": "warning", "disk": "ok", "database": "ok", "migrations": "ok",
            "vault": "ok", "key in use": "ok", "quota": "ok", "YouTube API": "ok", "failure texts": "ok",
            "alerts": "warning", "maintainer": "warning", "service": "ok",
        }  # fmt: skip
        assert finished.json["ready"] is True
        assert stage.emulator.calls == []

    async def test_every_complaint_says_what_to_do(
        self, stage_of: StageFactory, synthetic: Catalogue, empty_database_url: str, tmp_path: Path
    ) -> None:
        stage: Stage = await stage_of(synthetic)
        (tmp_path / "vault").write_text("a file, where a folder should be")
        stage.environment |= {
            "DATABASE_URL": empty_database_url,
            "PLEIADES_HUNTR__BATCH_SIZE": "5",
            "PLEIADES_VAULT__PATH": str(tmp_path / "vault"),
            "PLEIADES_VAULT__REQUIRED": "true",
            "PLEIADES_YOUTUBE__BASE_URL": "http://127.0.0.1:1",
            "YOUTUBE_API_KEY_POOL_JSON": '{"tracking": ["lab-key"]}',
        }
        finished = await stage.maia("doctor", "--json")
        told = {check["subject"]: check for check in finished.json["checks"] if check["verdict"] != "ok"}
        assert finished.status == 78
        assert told["variables"]["remedy"] == "did you mean PLEIADES_HUNTER__BATCH_SIZE?"
        assert told["migrations"]["remedy"] == "apply them: maia migrate, or let the next command do it"
        assert told["vault"]["verdict"] == "failed"
        assert told["YouTube API"]["verdict"] == "failed"
        assert [subject for subject, check in told.items() if not check["remedy"]] == []
        assert await stage.rows("SELECT to_regclass('public.videos') IS NOT NULL") == [(True,)]

        text = await stage.maia("doctor")
        assert "✗ YouTube API" in text.stdout
        assert "→ did you mean PLEIADES_HUNTER__BATCH_SIZE?" in text.stdout

    async def test_a_key_that_youtube_rejected_is_not_ready(
        self, stage_of: StageFactory, synthetic: Catalogue
    ) -> None:
        stage: Stage = await stage_of(synthetic)
        stage.environment["YOUTUBE_API_KEY_POOL_JSON"] = "nobodys-key"
        await stage.maia("seed", "stop motion")
        assert (await stage.hunt()).status == 78

        finished = await stage.maia("doctor", "--json")
        [key] = [check for check in finished.json["checks"] if check["subject"] == "key in use"]
        assert (finished.status, finished.json["ready"]) == (78, False)
        assert key["verdict"] == "failed"
        assert " is disabled: " in key["finding"]
        assert "maia keys --enable key-" in key["remedy"]
        assert "nobodys-key" not in finished.stdout

    async def test_a_bucket_that_is_spent_is_not_ready_and_nothing_to_mend(
        self, stage_of: StageFactory, synthetic: Catalogue
    ) -> None:
        stage: Stage = await stage_of(synthetic, search=1)
        await stage.maia("seed", "stop motion", "lofi hip hop")
        assert (await stage.hunt("--cycles", "2")).json["units"]["search"] == 1

        finished = await stage.maia("doctor", "--json")
        closed = [check for check in finished.json["checks"] if check["blocks_agents"]]
        assert (finished.status, finished.json["healthy"], finished.json["ready"]) == (0, True, False)
        assert [check["finding"].partition(" until ")[0] for check in closed] == [
            "ring hunting, bucket search is closed"
        ]
        assert (await stage.maia("doctor")).stdout.endswith("0 failed; not ready yet, see above\n")

    async def test_goes_the_way_of_the_agents(self, stage_of: StageFactory, synthetic: Catalogue) -> None:
        stage: Stage = await stage_of(synthetic)
        stage.environment["PLEIADES_YOUTUBE__BASE_URL"] = "http://api.invalid"
        stage.environment["PLEIADES_NETWORK__PROXY"] = "http://127.0.0.1:1"
        await stage.maia("seed", "stop motion")
        finished = await stage.maia("doctor", "--json")
        [api] = [check for check in finished.json["checks"] if check["subject"] == "YouTube API"]
        assert finished.status == 69
        assert "through the proxy 127.0.0.1:1" in api["finding"]
        assert api["finding"] in (await stage.hunt()).stderr

    def test_an_unreachable_database_is_69(self, environment: dict[str, str]) -> None:
        environment |= {
            "DATABASE_URL": "postgresql://maia:opensesame@127.0.0.1:1/pleiades",
            "PLEIADES_DATABASE__CONNECT_TIMEOUT_S": "1",
            "YOUTUBE_API_KEY_POOL_JSON": '["lab-key"]',
        }
        finished = run("doctor", environment=environment)
        assert finished.returncode == 69
        assert "is PostgreSQL running?" in finished.stdout
        assert "opensesame" not in finished.stdout + finished.stderr

    def test_unusable_settings_are_78(self, environment: dict[str, str]) -> None:
        environment["PLEIADES_QUOTA__RESERVE"] = "5"
        finished = run("doctor", "--json", environment=environment)
        failed = [check for check in json.loads(finished.stdout)["checks"] if check["verdict"] == "failed"]
        assert finished.returncode == 78
        assert [check["finding"].partition(":")[0] for check in failed] == ["PLEIADES_QUOTA__RESERVE"]


async def test_logs_are_json_lines_where_asked_and_data_stays_apart(
    stage_of: StageFactory, synthetic: Catalogue
) -> None:
    stage: Stage = await stage_of(synthetic, settings={"PLEIADES_LOG__JSON_LINES": "true"})
    stage.set_clock(synthetic.span[1] + timedelta(hours=1))
    await stage.maia("seed", "stop motion")
    hunted = await stage.hunt()

    assert hunted.json["pages"] == 1
    entries = [json.loads(line) for line in hunted.stderr.splitlines()]
    [cycle] = [entry for entry in entries if entry.get("action") == "hunter_cycle"]
    assert cycle["statistics"]["pages"] == 1


class TestStart:
    @pytest.mark.parametrize("arguments", [("tracker", "--direct"), ("hunter", "--direct"), ("top",)])
    def test_nothing_that_is_not_needed_is_loaded(
        self, environment: dict[str, str], arguments: tuple[str, ...]
    ) -> None:
        # A hunter in the original order has nothing to ask without topics; any other asks without them too.
        environment |= {
            "YOUTUBE_API_KEY_POOL_JSON": '["lab-key"]',
            "PLEIADES_HUNTER__STRATEGY": "specification",
        }
        code = (
            "import sys; from maia.cli import main\n"
            "try: main(sys.argv[1:])\n"
            "finally: print(*sys.modules, sep='\\n', file=sys.stderr)"
        )
        finished = subprocess.run(
            [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True
        )
        assert finished.returncode == 0, finished.stderr
        loaded = set(finished.stderr.splitlines())
        assert {"asyncpg", "atlas.db"} <= loaded
        # The place of numpy is kept by what loads it.
        assert loaded.isdisjoint(
            {"numpy._core", "prefect", "yaml", "rich.progress", "apprise", "atlas.embedded"}
        )
