"""Backups under load: killed at any moment, restored on another machine's server, in bounded memory."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import psutil
import pyrage
import pytest
from pydantic import SecretStr

from atlas.backups.creation import create
from atlas.backups.restoration import _PREFIX
from atlas.backups.shelf import Shelf
from atlas.cluster import packaged_programs
from atlas.composition import Atlas
from atlas.config import DatabaseSettings
from atlas.embedded import EmbeddedServer
from atlas.testing import IsolatedSettings, ThrowAwayServer, throw_away_folder

# Its commands read and write hundreds of megabytes, whatever else the machine does.
pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

KILLS = 8
DAYS = 10
FILL = f"""
SELECT ensure_sample_days(ARRAY(SELECT '2026-11-01'::date + n FROM generate_series(0, {DAYS}) AS n));
INSERT INTO video_stats_log (video_id, methodology, sampled_at, views, likes, comments, velocity)
    SELECT substr(md5(v::text), 1, 11), 2,
        '2026-11-01Z'::timestamptz + h * interval '1 hour' + v * interval '9 ms',
        v * h, nullif(v % 5, 0), h, random()
    FROM generate_series(0, {24 * DAYS - 1}) AS h, generate_series(1, 8000) AS v;
"""


@pytest.fixture
def environment(environment: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """That of `maia`, with a folder for backups in small parts."""
    return environment | {
        "PLEIADES_MAINTAINER__BACKUPS__PATH": str(tmp_path / "backups"),
        "PLEIADES_MAINTAINER__BACKUPS__PART_MB": "2",
    }


@pytest.fixture
def filled(database_url: str) -> str:
    async def fill() -> None:
        connection = await asyncpg.connect(database_url)
        await connection.execute(FILL)
        await connection.close()

    asyncio.run(fill())
    return database_url


def maia(environment: dict[str, str], *arguments: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "maia", "backup", *arguments, "--json"],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def sessions_of_backups(url: str) -> int:
    async def count() -> int:
        connection = await asyncpg.connect(url)
        try:
            found: int = await connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                "AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
            return found
        finally:
            await connection.close()

    return asyncio.run(count())


def running_dumps() -> list[psutil.Process]:
    """Programs that backups have started, whoever their parent is now."""
    found = []
    for process in psutil.process_iter(["name"]):
        try:
            if process.info["name"] == "pg_dump" and process.environ().get("PGAPPNAME") == "pleiades_backup":
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_killed_at_any_moment_it_leaves_no_backup_no_program_and_no_snapshot(
    filled: str, environment: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "backups"
    good = maia(environment, "create")
    rng = random.Random(1)
    for _ in range(KILLS):
        with subprocess.Popen(
            [sys.executable, "-m", "maia", "backup", "create"], env=environment, stderr=subprocess.PIPE
        ) as process:
            # From its first part on, for as long as one takes.
            known = set(folder.iterdir())
            while process.poll() is None and set(folder.iterdir()) <= known:
                time.sleep(0.01)
            time.sleep(rng.random() * good["seconds"])
            process.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 10
        while running_dumps() or sessions_of_backups(filled):
            assert time.monotonic() < deadline, "a program or a session outlives its backup"
            time.sleep(0.05)
    listed = maia(environment, "list")
    whole = [each["name"] for each in listed["backups"]]
    left = len(listed["incomplete"])
    print(f"\n{KILLS} kills: {len(whole) - 1} had just been completed, {left} left parts")
    assert good["name"] in whole
    assert left > 0
    # The next one is not disturbed by what is left, and all that are listed are good.
    maia(environment, "create")
    for name in whole[-2:]:
        assert maia(environment, "verify", name)["verification_problem"] is None


def test_after_a_kill_the_previous_is_restored_on_another_machines_server(
    filled: str, environment: dict[str, str], tmp_path: Path
) -> None:
    good = maia(environment, "create")
    with subprocess.Popen([sys.executable, "-m", "maia", "backup", "create"], env=environment) as process:
        while len(list((tmp_path / "backups").iterdir())) < 3:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    with throw_away_folder() as elsewhere:
        elsewhere.chmod(0o755)
        # The other machine has the backups, and nothing of the first one's database.
        there = environment | {"DATABASE_URL": "postgresql://nobody@127.0.0.1:9/none"}
        restored = maia(there, "restore", "latest", "--data-dir", str(elsewhere / "data"))
        assert (restored["name"], restored["rows"]) == (good["name"], good["rows"])
        use = {name: value for name, value in environment.items() if name != "DATABASE_URL"}
        use["PLEIADES_DATA_DIR"] = str(elsewhere / "data")
        checked = subprocess.run(
            [sys.executable, "-m", "maia", "migrate", "--check"], env=use, capture_output=True, text=True
        )
        assert checked.returncode == 0, checked.stderr

        async def rows() -> tuple[Any, Any]:
            query = "SELECT count(*), sum(hashtextextended(t::text, 0)) FROM video_stats_log AS t"
            async with EmbeddedServer.open(elsewhere / "data", DatabaseSettings()) as server:
                found = []
                for url in (filled, server.dsn):
                    connection = await asyncpg.connect(url)
                    found.append(tuple(await connection.fetchrow(query)))
                    await connection.close()
            return found[0], found[1]

        before, after = asyncio.run(rows())
        assert before == after
        assert before[0] == 24 * DAYS * 8000


def test_verifying_leaves_nothing_and_finds_what_was_changed(
    filled: str, environment: dict[str, str], tmp_path: Path
) -> None:
    key = tmp_path / "key.txt"
    identity = pyrage.x25519.Identity.generate()
    key.write_text(str(identity))
    with throw_away_folder() as temporary:
        sealed = environment | {
            "PLEIADES_MAINTAINER__BACKUPS__RECIPIENT": str(identity.to_public()),
            "PLEIADES_MAINTAINER__BACKUPS__IDENTITY_FILE": str(key),
            "TMPDIR": str(temporary),
        }
        made = maia(sealed, "create", "--verify")
        assert made["verification_problem"] is None
        assert made["verified_at"] is not None
        part = tmp_path / "backups" / made["name"] / "part-00002.zst.age"
        body = bytearray(part.read_bytes())
        body[1000] ^= 1
        part.write_bytes(body)
        done = subprocess.run(
            [sys.executable, "-m", "maia", "backup", "verify"], env=sealed, capture_output=True, text=True
        )
        assert done.returncode == 1, done.stderr
        assert "part-00002.zst.age" in done.stderr
        assert list(temporary.glob(f"{_PREFIX}*")) == []
    [listed] = maia(sealed, "list")["backups"]
    assert "part-00002.zst.age" in listed["verification_problem"]


@pytest.fixture
def older_server() -> Iterator[str]:
    """The URL of an empty database on a server of an earlier version, if this machine has its programs."""
    found = [
        folder for folder in Path("/usr/lib/postgresql").glob("*/bin") if 15 <= int(folder.parent.name) < 18
    ]
    if not found:
        pytest.skip("there is no PostgreSQL 15 to 17 here (Debian: postgresql-15)")
    if os.geteuid() == 0:
        account = pwd.getpwnam("postgres")
        options: dict[str, Any] = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    else:
        options = {}
    with throw_away_folder() as folder:
        folder.chmod(0o777)
        data = folder / "data"
        subprocess.run(
            [found[0] / "initdb", "-D", data, "-U", "pleiades", "-A", "trust", "-N", "-E", "UTF8"],
            check=True, capture_output=True, cwd="/", **options,
        )  # fmt: skip
        command = [found[0] / "postgres", "-D", data, "-k", folder, "-h", "", "-F"]
        with subprocess.Popen(command, cwd="/", stderr=subprocess.DEVNULL, **options) as server:
            try:
                url = f"postgresql:///postgres?host={quote(str(folder), safe='')}&user=pleiades"
                asyncio.run(_answers(url))
                yield url
            finally:
                server.send_signal(signal.SIGQUIT)


async def _answers(url: str) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                await (await asyncpg.connect(url)).close()
            except (OSError, asyncpg.PostgresError):
                await asyncio.sleep(0.1)
            else:
                return


@pytest.mark.parametrize("has_pg_dump", [True, False])
def test_a_backup_of_an_earlier_version_is_verified_on_the_embedded_server(
    older_server: str, environment: dict[str, str], tmp_path: Path, *, has_pg_dump: bool
) -> None:
    """Checksums are the same in every version."""
    older = environment | {"DATABASE_URL": older_server}
    migrated = subprocess.run([sys.executable, "-m", "maia", "migrate"], env=older, capture_output=True)
    assert migrated.returncode == 0, migrated.stderr

    async def fill() -> None:
        connection = await asyncpg.connect(older_server)
        await connection.execute(FILL)
        await connection.close()

    asyncio.run(fill())
    if has_pg_dump:
        made = maia(older, "create")
    else:
        settings = IsolatedSettings(
            database_url=SecretStr(older_server), maintainer={"backups": {"path": tmp_path / "backups"}}
        )

        async def copy() -> Any:
            async with Atlas.open(settings) as atlas:
                # Only the package's programs, whose dumps such a server could not take back.
                return await create(atlas, Shelf.of(settings), folders=[packaged_programs()])

        manifest = asyncio.run(copy())
        made = {"name": manifest.name, "method": manifest.contents.method}
    assert made["method"] == ("pg_dump" if has_pg_dump else "copy")
    assert maia(environment, "verify", made["name"])["verification_problem"] is None


MEASURES = """
import json, resource, sys
from maia.cli import main
sys.argv = ["maia", *sys.argv[1:]]
try:
    main()
finally:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, file=sys.stderr)
"""


def test_memory_does_not_grow_with_the_database(
    filled: str, environment: dict[str, str], postgres: ThrowAwayServer
) -> None:
    def peak_mb(*arguments: str, **variables: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", MEASURES, "backup", *arguments],
            env=environment | variables, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return int(done.stderr.split()[-1])

    async def grow() -> None:
        connection = await asyncpg.connect(filled)
        await connection.execute(
            "INSERT INTO video_stats_log SELECT substr(md5(video_id || n), 1, 11), methodology, sampled_at, "
            "views, likes, comments, velocity FROM video_stats_log, generate_series(1, 3) AS n"
        )
        await connection.close()

    def both() -> tuple[int, int]:
        created = peak_mb("create")
        target = postgres.create_database()
        try:
            return created, peak_mb("restore", "latest", RESTORE_URL=postgres.dsn_of(target))
        finally:
            postgres.drop_database(target)

    small = both()
    asyncio.run(grow())
    large = both()
    print(f"\npeak memory in MB, to create and to restore: {small}, of four times the rows {large}")
    assert large[0] < small[0] + 40
    assert large[1] < small[1] + 40
