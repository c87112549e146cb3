"""The vault over a real folder and PostgreSQL: refusals wait, and nothing is lost or brought back."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
import textwrap
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from atlas import vault
from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.config import Settings
from atlas.db import Database
from atlas.errors import InvalidObjectName, ObjectNotFound, VaultBroken, VaultError, VaultUnavailable
from atlas.stores import Changes, FileStore
from atlas.testing import SettingsFactory
from atlas.vault import Vault

pytestmark = pytest.mark.integration

TODAY = "metadata/2026-11-02"


class GatedStore(FileStore):
    """A folder whose writes wait for `gate`, or fail with `fault`, and are counted."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.gate = asyncio.Event()
        self.gate.set()
        self.reached = asyncio.Event()
        self.fault: VaultError | None = None
        self.writes: list[Changes] = []

    async def write(self, changes: Changes) -> None:
        self.writes.append(changes)
        self.reached.set()
        await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        await super().write(changes)


class PoisonedStore(FileStore):
    """A folder that refuses every write in which one of some objects is."""

    def __init__(self, root: Path, poison: set[str]) -> None:
        super().__init__(root)
        self.poison = poison
        self.writes: list[Changes] = []

    async def write(self, changes: Changes) -> None:
        self.writes.append(changes)
        if self.poison & set(changes):
            raise VaultError("HTTP 400")
        await super().write(changes)


@pytest.fixture
def settings(settings_factory: SettingsFactory) -> Settings:
    return settings_factory(vault={"retry_s": 0.001})


@pytest.fixture
def store(tmp_path: Path) -> GatedStore:
    return GatedStore(tmp_path / "vault")


@pytest.fixture
def kept(store: GatedStore, database: Database, clock: FixedClock, settings: Settings) -> Vault:
    return Vault(store, database, clock, settings)


def block(folder: Path) -> None:
    """Put a file where the vault's folder belongs, so that every write fails."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_bytes(b"")


class TestObjects:
    async def test_an_answer_is_kept_under_its_day(self, atlas: Atlas, tmp_path: Path) -> None:
        name = await vault.store_metadata("dQw4w9WgXcQ", {"kind": "youtube#video", "title": "é"})

        assert name == f"{TODAY}/dQw4w9WgXcQ.json"
        assert json.loads((tmp_path / "data" / "vault" / name).read_bytes())["title"] == "é"
        assert await vault.fetch(name) == {"kind": "youtube#video", "title": "é"}

    async def test_a_batch_is_one_write(self, kept: Vault, store: GatedStore) -> None:
        async with kept.batch() as batch:
            for number in range(50):
                batch.store_metadata(f"video{number}", {"n": number})

        assert [len(write) for write in store.writes] == [50]
        assert len(await kept.list(f"{TODAY}/")) == 50

    async def test_an_empty_batch_is_no_write(self, kept: Vault, store: GatedStore) -> None:
        async with kept.batch():
            pass

        assert store.writes == []

    async def test_a_batch_whose_body_fails_is_no_write(self, kept: Vault, store: GatedStore) -> None:
        with pytest.raises(ZeroDivisionError):
            async with kept.batch() as batch:
                batch.store_metadata("a", {"n": 1 / 0})

        assert store.writes == []

    async def test_the_current_vault_is_used(self, atlas: Atlas) -> None:
        async with vault.batch() as batch:
            names = [batch.store_metadata(video, {}) for video in "abc"]
        assert await vault.list() == names
        await vault.delete(names[0])
        await vault.delete_many(names[1:2])

        assert await vault.list(f"{TODAY}/") == names[2:]
        assert await vault.retry_refused() == 0

    async def test_lists_by_any_prefix(self, kept: Vault, clock: FixedClock) -> None:
        for _ in range(3):
            await kept.store_metadata("ab", {})
            await kept.store_metadata("ac", {})
            clock.advance(timedelta(days=15))

        assert await kept.list("metadata/2026-11-") == [
            f"metadata/2026-11-{day}/{video}.json" for day in ("02", "17") for video in ("ab", "ac")
        ]
        assert await kept.list(f"{TODAY}/ab") == [f"{TODAY}/ab.json"]
        assert await kept.list("meta") == await kept.list()
        assert await kept.list("metadata/2027-") == []

    async def test_tells_its_days(self, kept: Vault, store: GatedStore, clock: FixedClock) -> None:
        for _ in range(2):
            await kept.store_metadata("a", {})
            clock.advance(timedelta(days=1))
        await store.write({"metadata/not-a-day/x.json": b"1"})

        assert await kept.days() == [date(2026, 11, 2), date(2026, 11, 3)]

    async def test_days_that_were_emptied_are_gone(self, kept: Vault) -> None:
        async with kept.batch() as batch:
            for number in range(120):
                batch.store_metadata(f"v{number}", {})

        await kept.delete_many(await kept.list(f"{TODAY}/"))

        assert await kept.days() == []

    async def test_the_answers_of_a_day_are_deleted_and_nothing_else(
        self, kept: Vault, store: GatedStore, clock: FixedClock
    ) -> None:
        for _ in range(2):
            async with kept.batch() as batch:
                for number in range(20):
                    batch.store_metadata(f"v{number}", {})
            clock.advance(timedelta(days=1))
        await store.write({f"{TODAY}/notes.txt": b"1"})

        counts = [count async for count in kept.delete_answers(date(2026, 11, 2))]

        assert sum(counts) == 20
        assert await kept.answers(date(2026, 11, 2)) == []
        assert len(await kept.answers(date(2026, 11, 3))) == 20
        assert await kept.list(f"{TODAY}/") == [f"{TODAY}/notes.txt"]

    async def test_answers_that_wait_are_deleted_with_the_others_and_counted_once(
        self, kept: Vault, store: GatedStore, sql: Any
    ) -> None:
        await kept.store_metadata("stored", {})
        await kept.store_metadata("both", {"n": 1})
        store.fault = VaultError("no space")
        await kept.store_metadata("both", {"n": 2})
        await kept.store_metadata("waiting", {})
        store.fault = None

        assert sum([count async for count in kept.delete_answers(date(2026, 11, 2))]) == 3
        assert await kept.days() == []
        await due(sql)
        await kept.retry_refused()
        assert await store.list("") == []
        assert await kept.waiting() == 0

    async def test_bad_names_touch_nothing(self, kept: Vault, store: GatedStore) -> None:
        for attempt in (
            kept.fetch("../secret"),
            kept.list("../"),
            kept.delete("/etc/passwd"),
            kept.store_metadata("../../x", {}),
        ):
            with pytest.raises(InvalidObjectName):
                await attempt

        assert store.writes == []

    async def test_a_file_that_is_not_json_is_told(self, kept: Vault, store: GatedStore) -> None:
        await store.write({f"{TODAY}/a.json": b"<html>"})

        with pytest.raises(VaultError, match=r"a\.json in the vault is not JSON"):
            await kept.fetch(f"{TODAY}/a.json")

    async def test_a_required_vault_is_checked_before_anything_is_spent(
        self, database: Database, clock: FixedClock, settings_factory: SettingsFactory, tmp_path: Path
    ) -> None:
        required = settings_factory(vault={"required": True})
        good = Vault(FileStore(tmp_path / "vault"), database, clock, required)
        await good.check()
        assert await good.list() == []
        assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []

        dangling = tmp_path / "dangling"
        dangling.symlink_to(tmp_path / "nowhere")
        (tmp_path / "file").touch()
        for path in (dangling, dangling / "within", tmp_path / "file"):
            broken = Vault(FileStore(path), database, clock, required)
            with pytest.raises(VaultBroken, match="PLEIADES_VAULT__REQUIRED"):
                await broken.check()
            await Vault(FileStore(path), database, clock, settings_factory()).check()

    async def test_ping_tells_a_vault_that_cannot_be_written(self, atlas: Atlas, tmp_path: Path) -> None:
        assert (await atlas.ping())["vault"] == "ok"
        blocked = tmp_path / "blocked"
        block(blocked)

        with pytest.raises(VaultError, match="cannot write"):
            await Vault(FileStore(blocked), atlas.db, atlas.clock, atlas.settings).ping()


class TestRefusals:
    async def test_what_is_refused_waits_and_is_stored_later(
        self,
        database: Database,
        clock: FixedClock,
        settings: Settings,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        folder = tmp_path / "vault"
        kept = Vault(FileStore(folder), database, clock, settings)
        block(folder)

        async with kept.batch() as batch:
            names = [batch.store_metadata(f"v{number}", {"n": number}) for number in range(250)]

        assert await kept.waiting() == 250
        assert "The vault refused 250 objects, which wait in the database: cannot write" in caplog.text
        assert await kept.fetch(names[7]) == {"n": 7}
        folder.unlink()
        assert await kept.list(f"{TODAY}/") == sorted(names)
        assert await kept.retry_refused() == 250
        assert await kept.waiting() == 0
        assert json.loads((folder / names[7]).read_bytes()) == {"n": 7}

    async def test_a_required_vault_raises_and_keeps_nothing_back(
        self, settings_factory: SettingsFactory, database: Database, store: GatedStore, clock: FixedClock
    ) -> None:
        kept = Vault(store, database, clock, settings_factory(vault={"required": True}))
        store.fault = VaultError("no space")

        with pytest.raises(VaultError, match="no space"):
            await kept.store_metadata("a", {})

        assert await kept.waiting() == 0

    async def test_a_retry_that_is_refused_waits_on(
        self, kept: Vault, store: GatedStore, sql: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        store.fault = VaultError("no space")
        await kept.store_metadata("a", {"n": 1})
        store.fault = VaultError("still no space")
        await due(sql)

        assert await kept.retry_refused() == 0
        row = await sql.fetchrow("SELECT * FROM vault_refused")
        assert (row["attempts"], row["last_error"], row["lease_token"]) == (1, "still no space", None)
        assert "The vault still refuses 1 object: still no space" in caplog.text

        store.fault = None
        await due(sql)
        assert await kept.retry_refused() == 1
        assert await kept.fetch(f"{TODAY}/a.json") == {"n": 1}

    @pytest.mark.parametrize("poisonous", [{"v7"}, {"v0", "v99"}])
    async def test_an_object_refused_for_its_own_sake_holds_up_no_other(
        self, database: Database, clock: FixedClock, settings: Settings, tmp_path: Path, sql: Any,
        poisonous: set[str],
    ) -> None:  # fmt: skip
        poison = {f"{TODAY}/{name}.json" for name in poisonous}
        store = PoisonedStore(tmp_path / "vault", poison)
        kept = Vault(store, database, clock, settings)
        async with kept.batch() as batch:
            for number in range(100):
                batch.store_metadata(f"v{number}", {"n": number})
        store.writes.clear()
        await due(sql)

        assert await kept.retry_refused() == 100 - len(poison)
        assert len(store.writes) < 40
        assert {row["name"] for row in await sql.fetch("SELECT name FROM vault_refused")} == poison
        store.poison = set()
        await due(sql)
        assert await kept.retry_refused() == len(poison)

    async def test_a_store_that_refuses_all_is_not_asked_for_each(
        self, kept: Vault, store: GatedStore, sql: Any
    ) -> None:
        store.fault = VaultError("no space")
        async with kept.batch() as batch:
            for number in range(100):
                batch.store_metadata(f"v{number}", {"n": number})
        store.writes.clear()
        await due(sql)

        assert await kept.retry_refused() == 0
        assert len(store.writes) < 40
        told = await sql.fetch("SELECT DISTINCT attempts, lease_token, last_error FROM vault_refused")
        assert [tuple(row) for row in told] == [(1, None, "no space")]

    async def test_what_is_not_due_is_left_alone(
        self, settings_factory: SettingsFactory, database: Database, store: GatedStore, clock: FixedClock
    ) -> None:
        kept = Vault(store, database, clock, settings_factory(vault={"retry_s": 600}))
        store.fault = VaultError("no space")
        await kept.store_metadata("a", {})
        store.fault = None

        assert await kept.retry_refused() == 0
        assert await kept.waiting() == 1

    async def test_a_store_that_asks_for_rest_gets_it(self, kept: Vault, store: GatedStore, sql: Any) -> None:
        store.fault = VaultUnavailable("HTTP 429", 1200)
        await kept.store_metadata("a", {})
        store.fault = None
        await kept.store_metadata("b", {})
        assert await kept.retry_refused() == 0

        assert len(store.writes) == 1
        assert await kept.waiting() == 2
        left = await sql.fetch(
            "SELECT extract(epoch FROM retry_at - clock_timestamp())::int FROM vault_refused"
        )
        assert all(1100 < seconds <= 1200 for (seconds,) in left)

    async def test_a_rest_ends(self, kept: Vault, store: GatedStore) -> None:
        store.fault = VaultUnavailable("HTTP 503", 0.01)
        await kept.store_metadata("a", {})
        store.fault = None
        await asyncio.sleep(0.02)
        await kept.store_metadata("b", {})

        assert len(store.writes) == 2
        assert await kept.waiting() == 1

    async def test_many_retry_at_once_and_each_object_is_stored_once(
        self,
        database: Database,
        clock: FixedClock,
        settings: Settings,
        store: GatedStore,
        tmp_path: Path,
        sql: Any,
    ) -> None:
        store.fault = VaultError("no space")
        await Vault(store, database, clock, settings).store_metadata("x", {})
        async with Vault(store, database, clock, settings).batch() as batch:
            for number in range(750):
                batch.store_metadata(f"v{number}", {})
        await due(sql)
        stores = [GatedStore(tmp_path / "vault") for _ in range(4)]

        counts = await asyncio.gather(*(Vault(s, database, clock, settings).retry_refused() for s in stores))

        written = [name for s in stores for write in s.writes for name in write]
        assert sum(counts) == len(written) == len(set(written)) == 751
        assert await database.fetchval("vault.count_waiting") == 0

    async def test_the_lease_of_a_dead_process_ends(self, kept: Vault, store: GatedStore, sql: Any) -> None:
        store.fault = VaultError("no space")
        await kept.store_metadata("a", {})
        store.fault = None
        await due(sql)
        store.gate.clear()
        dying = asyncio.create_task(kept.retry_refused())
        store.reached.clear()
        await store.reached.wait()
        dying.cancel()
        await asyncio.wait([dying])
        store.gate.set()

        assert await kept.retry_refused() == 0
        await due(sql)
        assert await kept.retry_refused() == 1


class TestNewerBodies:
    async def test_a_retry_does_not_bring_an_older_body_back(
        self, kept: Vault, store: GatedStore, sql: Any
    ) -> None:
        store.fault = VaultError("no space")
        name = await kept.store_metadata("a", {"n": 1})
        store.fault = None
        await kept.store_metadata("a", {"n": 2})
        await due(sql)
        await kept.retry_refused()

        assert await kept.fetch(name) == {"n": 2}
        assert json.loads(await store.read(name)) == {"n": 2}

    async def test_nor_does_one_that_is_under_way(
        self,
        kept: Vault,
        store: GatedStore,
        sql: Any,
        database: Database,
        clock: FixedClock,
        settings: Settings,
    ) -> None:
        """The older body reaches the store after the newer one; the newer one is then stored again."""
        store.fault = VaultError("no space")
        name = await kept.store_metadata("a", {"n": 1})
        store.fault = None
        await due(sql)
        slow = GatedStore(store.root)
        slow.gate.clear()
        retry = asyncio.create_task(Vault(slow, database, clock, settings).retry_refused())
        await slow.reached.wait()
        await kept.store_metadata("a", {"n": 2})
        slow.gate.set()
        await retry
        assert json.loads(await store.read(name)) == {"n": 1}

        assert await kept.fetch(name) == {"n": 2}
        await due(sql)
        await kept.retry_refused()
        assert json.loads(await store.read(name)) == {"n": 2}
        assert await kept.waiting() == 0

    async def test_what_was_deleted_stays_deleted(
        self,
        kept: Vault,
        store: GatedStore,
        sql: Any,
        database: Database,
        clock: FixedClock,
        settings: Settings,
    ) -> None:
        store.fault = VaultError("no space")
        name = await kept.store_metadata("a", {"n": 1})
        store.fault = None
        await due(sql)
        slow = GatedStore(store.root)
        slow.gate.clear()
        retry = asyncio.create_task(Vault(slow, database, clock, settings).retry_refused())
        await slow.reached.wait()
        await kept.delete(name)
        slow.gate.set()
        await retry

        assert await kept.list() == []
        with pytest.raises(ObjectNotFound, match="deleted"):
            await kept.fetch(name)
        await due(sql)
        await kept.retry_refused()
        assert await store.list("") == []
        assert await kept.waiting() == 0

    async def test_a_newer_refusal_replaces_an_older_one(self, kept: Vault, store: GatedStore) -> None:
        store.fault = VaultError("no space")
        name = await kept.store_metadata("a", {"n": 1})
        await kept.store_metadata("a", {"n": 2})

        assert await kept.waiting() == 1
        assert await kept.fetch(name) == {"n": 2}

    async def test_opposite_orders_do_not_deadlock(
        self, database: Database, clock: FixedClock, settings: Settings, store: GatedStore
    ) -> None:
        store.fault = VaultError("no space")
        videos = [f"v{number}" for number in range(60)]

        async def keep(order: list[str]) -> None:
            for _ in range(10):
                async with Vault(store, database, clock, settings).batch() as batch:
                    for video in order:
                        batch.store_metadata(video, {})

        await asyncio.gather(*(keep(order) for order in (videos, videos[::-1]) * 3))

        assert await database.fetchval("vault.count_waiting") == 60


class TestKill9:
    async def test_nothing_that_was_acknowledged_is_lost(
        self, environment: dict[str, str], atlas: Atlas, tmp_path: Path, sql: Any
    ) -> None:
        """Processes store and retry while the vault breaks and heals, and are killed at any moment."""
        worker = textwrap.dedent("""
            import asyncio, itertools, os, sys
            from pathlib import Path
            from atlas.composition import Atlas
            from atlas.config import Settings

            async def work() -> None:
                run = sys.argv[1]
                async with Atlas.open(Settings(_env_file=None)) as atlas:
                    root = Path(os.environ["PLEIADES_DATA_DIR"]) / "vault"
                    for turn in itertools.count():
                        if turn % 3 == 1 and root.is_dir():
                            root.rename(root.with_name("away"))
                            root.write_bytes(b"")
                        async with atlas.vault.batch() as batch:
                            names = [batch.store_metadata(f"{run}-{turn}-{n}", {"n": n}) for n in range(5)]
                        print(*names, flush=True)
                        if root.is_file():
                            root.unlink()
                            root.with_name("away").rename(root)
                        await atlas.vault.retry_refused()

            asyncio.run(work())
        """)
        acknowledged: list[str] = []
        chance = random.Random(2)
        root = tmp_path / "data" / "vault"
        settings = {"PLEIADES_VAULT__RETRY_S": "0.001", "PLEIADES_DATABASE__MIGRATE": "false"}
        for run in range(6):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", worker, str(run),
                env=environment | settings, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
            assert process.stdout is not None
            acknowledged += (await process.stdout.readline()).decode().split()
            await asyncio.sleep(chance.uniform(0, 0.3))
            process.kill()
            told = (await process.stdout.read()).decode()
            assert await process.wait() == -signal.SIGKILL
            acknowledged += told[: told.rfind("\n") + 1].split()
            if root.is_file():
                root.unlink()
            if root.with_name("away").is_dir():
                root.with_name("away").rename(root)

        assert len(acknowledged) >= 30
        waiting = await atlas.vault.waiting()
        await due(sql)
        assert await atlas.vault.retry_refused() == waiting
        assert set(acknowledged) <= set(await FileStore(root).list(""))
        for name in acknowledged:
            assert await atlas.vault.fetch(name) == {"n": int(name.removesuffix(".json").rpartition("-")[2])}


async def test_the_claim_reads_what_is_due_by_its_index(database: Database, sql: Any) -> None:
    await sql.execute(
        "INSERT INTO vault_refused (name, body, last_error, refused_at, retry_at) "
        "SELECT n, '', '', now(), now() + n * interval '1 min' FROM generate_series(-100, 20000) AS n"
    )
    await sql.execute("ANALYZE vault_refused; SET plan_cache_mode = force_generic_plan")
    from atlas.db import sql_of

    await sql.execute(f"PREPARE claim AS {sql_of('vault.claim_refused')}")
    plan = await sql.fetch("EXPLAIN EXECUTE claim ('n', gen_random_uuid(), 300, 100)")

    text = "\n".join(line for (line,) in plan)
    assert "vault_refused_due" in text
    assert "Seq Scan" not in text


async def due(sql: Any) -> None:
    """Let the waiting objects' pauses and leases be over."""
    await sql.execute("UPDATE vault_refused SET retry_at = clock_timestamp() - interval '1 s'")
