"""Copies of patterns over a real database and a vault in a folder: exports, snapshots and Git."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from dulwich.repo import Repo

from atlas.adapters.patterns import Alarm, NewEvidence, PatternsDAO, StoredEvidence
from atlas.clock import FixedClock, SystemClock
from atlas.composition import Atlas
from atlas.config import Settings
from atlas.db import Database
from atlas.errors import VaultUnavailable
from atlas.testing import NOON, SettingsFactory
from atlas.vault import Vault
from maia.commands import copying
from maia.cycle.agent import run
from maia.learner import archive, copies, exporting
from maia.learner.advising import make_suggestions
from maia.learner.copies import CopyRefused
from maia.learner.cycle import Learner, pseudonyms_of
from maia.learner.housekeeping import keep_within_limits
from maia.learner.knowledge import content_of
from maia.learning import forms, snapshots
from maia.learning.evidence import Counts, EvidenceKey, EvidenceRow
from maia.learning.importance import Importance
from maia.learning.patterns import Condition, Operator, Pattern, PatternType, pattern_id
from maia.learning.snapshots import Remembered, Snapshot

pytestmark = pytest.mark.integration

DAY = NOON.date()


def pattern(tool: str = "feeds", statement: str | None = None) -> Pattern:
    return Pattern(
        PatternType.TOOL_USAGE,
        {"tool": tool},
        statement or f"{tool} find early",
        (Condition("hour", Operator.EQUALS, 3),),
        tool,
        {"rate": 0.25},
    )


FEEDS, SEARCH = pattern(), pattern("search")


def dao(atlas: Atlas) -> PatternsDAO:
    return PatternsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)


async def know(atlas: Atlas, *patterns: Pattern, pos: int = 30, neg: int = 1, day: date = DAY) -> None:
    await dao(atlas).store([content_of(each) for each in patterns])
    await dao(atlas).count([NewEvidence(each.id, day, pos, neg, 12.5, NOON) for each in patterns])


async def counts(atlas: Atlas) -> dict[str, tuple[int, int]]:
    return {each.id: (each.pos, each.neg) for each in await dao(atlas).known()}


async def rows(atlas: Atlas) -> list[StoredEvidence]:
    return [each async for each in dao(atlas).all_evidence()]


async def texts(atlas: Atlas) -> dict[str, str]:
    return {each.id: each.statement async for each in dao(atlas).all_patterns()}


async def wipe(atlas: Atlas) -> None:
    """As if the database were new."""
    connection = await asyncpg.connect(atlas.db.url_of())
    try:
        for table in ("pattern_evidence", "patterns", "learner_cursors"):
            await connection.execute(f"DELETE FROM {table}")
    finally:
        await connection.close()


async def exported(atlas: Atlas) -> bytes:
    return forms.export(*await exporting.known_with_evidence(atlas))


async def import_(atlas: Atlas, body: bytes) -> copies.Merged:
    now = atlas.clock.now()
    copy = copies.checked(copies.copy_of(body, "copy.json"), await pseudonyms_of(atlas), now)
    return await copies.merge(dao(atlas), atlas.settings.learner, copy, now)


class TestExportAndImport:
    async def test_bring_everything_into_an_empty_database(self, atlas: Atlas) -> None:
        await know(atlas, FEEDS, SEARCH)
        await know(atlas, FEEDS, pos=5, neg=4, day=DAY - timedelta(days=3))
        await dao(atlas).pin([FEEDS.id])
        before, evidence = await counts(atlas), await rows(atlas)
        body = await exported(atlas)
        await wipe(atlas)

        merged = await import_(atlas, body)

        assert (merged.patterns, merged.changed_patterns, merged.changed_evidence) == (2, 2, 3)
        assert await counts(atlas) == before == {FEEDS.id: (35, 5), SEARCH.id: (30, 1)}
        assert await rows(atlas) == evidence
        assert await exported(atlas) == body

    async def test_ones_own_export_changes_nothing(self, atlas: Atlas) -> None:
        await know(atlas, FEEDS, SEARCH)
        body, before = await exported(atlas), await rows(atlas)
        for _ in range(2):
            merged = await import_(atlas, body)
            assert (merged.changed_patterns, merged.changed_evidence) == (0, 0)
        assert await rows(atlas) == before

    async def test_an_older_export_lowers_nothing(self, atlas: Atlas) -> None:
        await know(atlas, FEEDS)
        body = await exported(atlas)
        await know(atlas, pattern(statement="feeds find earlier"), pos=9)
        merged = await import_(atlas, body)
        assert (merged.changed_patterns, merged.changed_evidence) == (0, 0)
        assert await counts(atlas) == {FEEDS.id: (39, 2)}
        assert await texts(atlas) == {FEEDS.id: "feeds find earlier"}

    async def test_totals_are_counted_once_under_a_site_of_their_own(self, atlas: Atlas) -> None:
        await know(atlas, FEEDS)
        body = forms.document((await exporting.known_with_evidence(atlas))[0])
        await wipe(atlas)
        await know(atlas, FEEDS, pos=2, neg=0)
        for changed in (1, 0):
            assert (await import_(atlas, body)).changed_evidence == changed
        # It may hold the two that are known here.
        assert await counts(atlas) == {FEEDS.id: (30, 1)}
        assert len({row.node for row in await rows(atlas) if row.node.startswith("import-")}) == 1

    async def test_of_sums_nothing_is_counted_twice(self, atlas: Atlas) -> None:
        """Those of a folder that is imported week after week, and one's own."""
        bodies = []
        for day in (DAY - timedelta(days=14), DAY - timedelta(days=7), DAY):
            await know(atlas, FEEDS, pos=10, neg=1, day=day)
            bodies.append(await exporting.files_of(atlas))
        before = await rows(atlas)

        async def merge_all() -> None:
            for files in bodies:
                copy = copies.copy_of_files(files, "folder")
                await copies.merge(dao(atlas), atlas.settings.learner, copy, NOON)

        await merge_all()
        assert await rows(atlas) == before
        await wipe(atlas)
        for _ in range(2):
            await merge_all()
            [found] = await dao(atlas).known()
            assert (found.pos, found.neg, found.sum_reward) == (30, 3, 37.5)

    async def test_what_the_operator_forgot_stays_forgotten(self, atlas: Atlas) -> None:
        await know(atlas, FEEDS, SEARCH)
        body = await exported(atlas)
        await dao(atlas).forget([FEEDS.id], "operator")
        await dao(atlas).forget([SEARCH.id], "learner")
        merged = await import_(atlas, body)
        assert (merged.kept_forgotten, merged.changed_patterns) == (1, 1)
        assert await counts(atlas) == {SEARCH.id: (30, 1)}

    async def test_evidence_beyond_the_retention_is_left_out(self, atlas: Atlas) -> None:
        await know(atlas, FEEDS)
        await know(atlas, FEEDS, day=DAY - timedelta(days=200))
        body = await exported(atlas)
        await wipe(atlas)
        assert (await import_(atlas, body)).too_old == 1
        assert await counts(atlas) == {FEEDS.id: (30, 1)}

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"signature": {"tool": "feeds", "by": "someone@example.org"}}, "its signature holds"),
            ({"conditions": (Condition("host", Operator.EQUALS, "192.0.2.7"),)}, "its conditions holds"),
            ({"action": "mail someone@example.org"}, "its action holds"),
            ({"action": "x" * 201}, "its action is longer than 200"),
            ({"statement": "x" * 2001}, "its statement is longer than 2,000"),
        ],
    )
    async def test_nothing_is_imported_of_a_file_with_what_must_not_be_stored(
        self, atlas: Atlas, change: Mapping[str, Any], said: str
    ) -> None:
        odd = replace(FEEDS, **change)
        copy = Snapshot(NOON, {each.id: Remembered(each) for each in (SEARCH, odd)})
        with pytest.raises(CopyRefused, match=said):
            await import_(atlas, snapshots.write(copy))
        assert await texts(atlas) == {}

    async def test_a_statement_loses_personal_data(self, atlas: Atlas) -> None:
        odd = replace(FEEDS, statement="192.0.2.7 finds early")
        await import_(atlas, snapshots.write(Snapshot(NOON, {odd.id: Remembered(odd)})))
        (statement,) = (await texts(atlas)).values()
        assert statement.startswith("ip-")
        assert "192.0.2.7" not in statement

    async def test_evidence_from_the_future_is_refused(self, atlas: Atlas) -> None:
        later = NOON + timedelta(days=3)
        row = {EvidenceKey(FEEDS.id, "far", later.date()): EvidenceRow(1, 0, 0.0, later, 1)}
        with pytest.raises(CopyRefused, match="yet to come"):
            await import_(atlas, snapshots.write(Snapshot(NOON, {FEEDS.id: Remembered(FEEDS)}, row)))

    @pytest.mark.parametrize("body", [b"", b"{", b"{}", b"3", b'[{"id": 1}]', b"\x89PLPAT\r\nrest"])
    async def test_other_files_are_refused(self, atlas: Atlas, body: bytes) -> None:
        with pytest.raises(CopyRefused, match=r"copy\.json"):
            await import_(atlas, body)

    async def test_what_a_killed_export_left_in_a_folder_is_passed_over(
        self, atlas: Atlas, tmp_path: Path
    ) -> None:
        await know(atlas, FEEDS, SEARCH)
        exporting.write_folder(tmp_path, await exporting.files_of(atlas))
        cut = tmp_path / "tool_usage" / f".{'0' * 32}.json"
        cut.write_bytes(b'{"format": 1,')
        (tmp_path / ".git").mkdir()
        (tmp_path / ".git" / "x.json").write_bytes(b"no pattern")
        copy = copying._copy_of(str(tmp_path))
        assert sorted(copy.patterns) == sorted([FEEDS.id, SEARCH.id])
        exporting.write_folder(tmp_path, await exporting.files_of(atlas))
        assert not cut.exists()
        assert (tmp_path / ".git" / "x.json").exists()

    async def test_a_folder_holds_exactly_what_is_known(self, atlas: Atlas, tmp_path: Path) -> None:
        await know(atlas, FEEDS, SEARCH)
        (tmp_path / "tool_usage").mkdir()
        (tmp_path / "tool_usage" / "notes.json").write_text("mine")
        exporting.write_folder(tmp_path, await exporting.files_of(atlas))
        await dao(atlas).forget([FEEDS.id], "operator")
        exporting.write_folder(tmp_path, await exporting.files_of(atlas))
        names = {each.name for each in tmp_path.rglob("*") if each.is_file()}
        assert names == {"notes.json", f"{SEARCH.id}.json"}


class TestSnapshots:
    async def test_an_increment_and_its_base_bring_everything_back(
        self, atlas: Atlas, clock: FixedClock
    ) -> None:
        await know(atlas, FEEDS)
        first = await archive.take(atlas)
        clock.advance(timedelta(hours=1))
        await know(atlas, SEARCH)
        await dao(atlas).pin([SEARCH.id])
        second = await archive.take(atlas)
        assert (first.snapshot.is_full, second.snapshot.base) == (True, first.snapshot.id)
        assert (first.patterns, second.patterns) == (1, 1)
        before, evidence = await counts(atlas), await rows(atlas)
        await wipe(atlas)

        restored = await archive.restore(atlas)

        assert [each.name for each in restored.chain] == [first.snapshot.name, second.snapshot.name]
        assert await counts(atlas) == before
        assert await rows(atlas) == evidence
        assert {each.id for each in await dao(atlas).known() if each.pinned} == {SEARCH.id}

    async def test_a_named_one_is_restored_without_what_came_later(
        self, atlas: Atlas, clock: FixedClock
    ) -> None:
        await know(atlas, FEEDS)
        first = await archive.take(atlas)
        clock.advance(timedelta(hours=1))
        await know(atlas, SEARCH)
        await archive.take(atlas)
        for name in (first.snapshot.id, first.snapshot.name, first.snapshot.name.removeprefix("patterns/")):
            await wipe(atlas)
            await archive.restore(atlas, name)
            assert set(await counts(atlas)) == {FEEDS.id}
        with pytest.raises(CopyRefused, match="no snapshot has the name"):
            await archive.restore(atlas, "f" * 15)

    async def test_restoring_lowers_nothing_and_forgets_only_what_was_forgotten_later(
        self, atlas: Atlas
    ) -> None:
        await know(atlas, FEEDS, SEARCH)
        await dao(atlas).forget([SEARCH.id], "operator")
        await archive.take(atlas)
        await know(atlas, FEEDS, pos=7)
        await dao(atlas).remember([SEARCH.id])
        await know(atlas, SEARCH, pos=3)
        await archive.restore(atlas)
        assert await counts(atlas) == {FEEDS.id: (37, 2), SEARCH.id: (3, 1)}

    async def test_an_operators_tombstone_comes_back(self, atlas: Atlas) -> None:
        await know(atlas, FEEDS, SEARCH)
        await dao(atlas).forget([SEARCH.id], "operator")
        await archive.take(atlas)
        await wipe(atlas)
        await know(atlas, SEARCH)
        await archive.restore(atlas)
        assert await counts(atlas) == {FEEDS.id: (30, 1)}
        assert {row.pattern_id for row in await rows(atlas)} == {FEEDS.id}

    @pytest.mark.parametrize("damage", ["flipped", "cut", "deleted"])
    async def test_a_damaged_base_restores_nothing_and_makes_the_next_one_full(
        self, atlas: Atlas, clock: FixedClock, damage: str
    ) -> None:
        await know(atlas, FEEDS)
        base = (await archive.take(atlas)).snapshot.name
        clock.advance(timedelta(hours=1))
        await know(atlas, SEARCH)
        await archive.take(atlas)
        body = await atlas.vault.fetch_bytes(base)
        if damage == "deleted":
            await atlas.vault.delete(base)
        else:
            middle = len(body) // 2
            flipped = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
            await atlas.vault.store(base, flipped if damage == "flipped" else body[:middle])
        await wipe(atlas)

        with pytest.raises(CopyRefused, match="can't be restored"):
            await archive.restore(atlas)

        assert await texts(atlas) == {}
        clock.advance(timedelta(hours=1))
        await know(atlas, FEEDS)
        assert (await archive.take(atlas)).snapshot.is_full

    async def test_chains_end_and_old_ones_are_deleted(self, atlas: Atlas, clock: FixedClock) -> None:
        await know(atlas, FEEDS)
        kinds = []
        for _ in range(9 * (archive.MOST_INCREMENTS + 1)):
            kinds.append((await archive.take(atlas)).snapshot.is_full)
            clock.advance(timedelta(hours=1))
        chain = [True] + [False] * archive.MOST_INCREMENTS
        assert kinds == chain * 9
        kept = await archive.stored(atlas)
        assert [each.is_full for each in kept] == chain * archive.CHAINS_KEPT
        clock.advance(timedelta(days=atlas.settings.learner.max_retention_days))
        taken = await archive.take(atlas, full=True)
        assert await archive.stored(atlas) == [taken.snapshot]

    async def test_other_objects_are_passed_over(self, atlas: Atlas) -> None:
        await atlas.vault.store("patterns/notes.txt", b"mine")
        await atlas.vault.store("patterns/20269999T999999.000000Z-0123456789abcdef-full.plpat", b"odd")
        assert await archive.stored(atlas) == []
        with pytest.raises(CopyRefused, match="there is no snapshot"):
            await archive.restore(atlas)

    async def test_one_is_due_by_the_interval_once_there_is_something(
        self, atlas: Atlas, clock: FixedClock
    ) -> None:
        assert not await archive.is_due(atlas)
        await know(atlas, FEEDS)
        assert await archive.is_due(atlas)
        await archive.take(atlas)
        clock.advance(timedelta(hours=23))
        assert not await archive.is_due(atlas)
        clock.advance(timedelta(hours=1))
        assert await archive.is_due(atlas)


class TestPages:
    async def test_more_than_a_page_of_patterns_and_rows_are_read(self, atlas: Atlas) -> None:
        many = [pattern(f"tool {n}") for n in range(1_003)]
        await know(atlas, *many)
        await know(atlas, *many, day=DAY - timedelta(days=1))
        assert set(await texts(atlas)) == {each.id for each in many}
        keys = [(row.pattern_id, row.node, row.day) for row in await rows(atlas)]
        assert keys == sorted(set(keys))
        assert len(keys) == 2 * len(many)


@pytest.fixture
def atlas_settings(settings_factory: SettingsFactory) -> Settings:
    return settings_factory(learner={"git": {"enabled": True}})


async def steps(atlas: Atlas, clock: FixedClock) -> None:
    """Enough for the learner to find something."""
    for _ in range(120):
        clock.advance(timedelta(hours=1))
        night = clock.now().hour < 6
        await atlas.events.append_many(
            [
                (
                    "hunter.step",
                    {"action": f"search:{n % 2}", "outcome": outcome, "context": {"night": night}},
                )
                for n, outcome in enumerate(["transient", "success"] * 4 if night else ["success"] * 8)
            ],
            agent="hunter",
            session=clock.now().isoformat(),
        )


def commits(path: Path) -> list[bytes]:
    with Repo(path) as repo:
        return [each.commit.message for each in repo.get_walker([repo.refs[b"refs/heads/main"]])]


class TestKeepingAfterACycle:
    async def test_a_cycle_commits_and_takes_a_snapshot(self, atlas: Atlas, clock: FixedClock) -> None:
        await steps(atlas, clock)
        statistics = await run(Learner, atlas)
        assert (statistics["commits"], statistics["snapshots"], statistics["failed_copies"]) == (1, 2, 0)
        known = statistics["patterns"]
        assert commits(atlas.settings.data_folder / "patterns.git") == [
            b"Learn %d and change 0 patterns\n" % known
        ]
        files = await exporting.repository(atlas.settings).read("main")
        assert files == await exporting.files_of(atlas)
        assert len(files) == known > 0
        (snapshot,) = await archive.stored(atlas)
        kinds = [each.kind for each in await atlas.events.since(0)]
        assert {"learner.committed", "learner.snapshot", "learner.graph_snapshot"} <= set(kinds)
        assert snapshot.is_full

    async def test_a_cycle_that_learns_nothing_keeps_nothing(self, atlas: Atlas, clock: FixedClock) -> None:
        await steps(atlas, clock)
        await run(Learner, atlas)
        again = await run(Learner, atlas)
        assert (again["commits"], again["snapshots"]) == (0, 0)
        assert not (await exporting.commit_patterns(atlas)).created
        assert len(commits(atlas.settings.data_folder / "patterns.git")) == 1

    async def test_failures_are_reported_and_made_up_for(
        self, atlas: Atlas, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await steps(atlas, clock)
        path = atlas.settings.data_folder / "patterns.git"
        path.mkdir(parents=True)
        (path / "letter").write_text("dear")

        async def unavailable(self: Vault, prefix: str = "") -> list[str]:
            raise VaultUnavailable("the vault is away")

        monkeypatch.setattr(Vault, "list", unavailable)
        statistics = await run(Learner, atlas)
        assert (statistics["outcome"], statistics["failed_copies"]) == ("done", 3)
        assert statistics["patterns"] > 0
        failed = [each.payload for each in await atlas.events.since(0, kinds=["learner.copy_failed"])]
        assert {each["what"] for each in failed} == {"commit", "snapshot", "graph_snapshot"}
        assert "no bare Git repository" in json.dumps(failed)

        monkeypatch.undo()
        (path / "letter").unlink()
        await steps(atlas, clock)
        statistics = await run(Learner, atlas)
        assert (statistics["commits"], statistics["snapshots"], statistics["failed_copies"]) == (1, 2, 0)


class TestHostileCopies:
    """Files that somebody else wrote."""

    @staticmethod
    def exported(tool: str = "rockets", **changes: Any) -> dict[str, Any]:
        found = pattern(tool)
        row = EvidenceRow(3, 1, 2.0, NOON, 1)
        known = forms.known([(found, Counts(3, 1, 2.0, NOON))])
        document: dict[str, Any] = json.loads(forms.export(known, {EvidenceKey(found.id, "ours", DAY): row}))
        one, evidence = document["patterns"][0], document["evidence"][0]
        for name, value in changes.items():
            (evidence if name in evidence else one)[name] = value
        one["id"] = evidence["pattern"] = Pattern(found.type, one["signature"], "x").id
        return document

    async def usable(self, atlas: Atlas) -> None:
        """Everything that a learner's cycle does with what is known."""
        await know(atlas, FEEDS, pos=1, neg=1)
        await keep_within_limits(dao(atlas), atlas.settings.learner, NOON, [FEEDS.id])
        await make_suggestions(atlas)
        await archive.take(atlas, full=True)
        await archive.restore(atlas)
        files = await exporting.files_of(atlas)
        copies.copy_of_files(files, "folder")

    @pytest.mark.parametrize(
        "changes",
        [
            {"pos": 2**63 - 1}, {"neg": 2**63 - 1}, {"version": 2**63 - 1},
            {"last_seen": "0001-01-01T00:00:00Z"}, {"node": "a\0b"},
            {"node": "\ud800"}, {"node": "ann@example.org"}, {"node": "192.0.2.1"},
            {"statement": "\0"}, {"action": "\0"}, {"signature": {"tool": "a\0b"}},
            {"signature": {"tool": -0.0}}, {"signature": {"tool": 10**30}}, {"data": {"x": 10**400}},
            {"data": {"deep": json.loads("[" * 400 + "]" * 400)}}, {"data": {"long": "x" * 300_000}},
            {"conditions": [{"field": "x", "operator": ">", "value": 10**400}]},
            {
                "conditions": [
                    {"field": "ip", "operator": "=", "value": "192.0.2.1"},
                    {"field": "ip", "operator": "!=", "value": "x"},
                ]
            },
        ],
    )  # fmt: skip
    async def test_are_refused_and_all_goes_on(self, atlas: Atlas, changes: dict[str, Any]) -> None:
        await know(atlas, FEEDS, SEARCH)
        before = await counts(atlas)
        with pytest.raises(CopyRefused):
            await import_(atlas, json.dumps(self.exported(**changes)).encode())
        assert await counts(atlas) == before
        await self.usable(atlas)

    async def test_a_counter_near_the_end_does_not_stop_our_own(self, atlas: Atlas) -> None:
        await know(atlas, FEEDS)
        site = (await dao(atlas).site()).node
        for node in (site, "other", "third"):
            await import_(atlas, json.dumps(self.exported("feeds", node=node, pos=10**12)).encode())
        await self.usable(atlas)
        assert (await counts(atlas))[FEEDS.id][0] == 3 * 10**12 + 1

    async def test_half_of_a_character_is_a_fault_of_the_file(self, atlas: Atlas) -> None:
        body = json.dumps(self.exported()).replace("rockets find", "\\ud800 find").encode()
        with pytest.raises(CopyRefused, match="is no JSON"):
            await import_(atlas, body)

    async def test_a_mark_of_the_byte_order_is_none(self, atlas: Atlas) -> None:
        body = b"\xef\xbb\xbf" + json.dumps(self.exported()).encode()
        assert (await import_(atlas, body)).changed_patterns == 1

    async def test_importance_from_the_future_pays_rent(self, atlas: Atlas) -> None:
        importance = Importance(1e6, 1e6, NOON + timedelta(days=9999))
        body = snapshots.write(Snapshot(NOON, {FEEDS.id: Remembered(FEEDS, importance=importance)}))
        await import_(atlas, body)
        [known] = await dao(atlas).known()
        assert known.attended_at == NOON

    async def test_a_snapshot_with_signed_nonsense_is_refused(self, atlas: Atlas) -> None:
        await know(atlas, FEEDS)
        row = EvidenceRow(1, 1, 1.0, NOON, 1)
        for odd in (replace(row, pos=-1), replace(row, sum_reward=float("nan")), replace(row, version=-7)):
            body = snapshots.write(
                Snapshot(NOON, {FEEDS.id: Remembered(FEEDS)}, {EvidenceKey(FEEDS.id, "x", DAY): odd})
            )
            with pytest.raises(CopyRefused):
                await import_(atlas, body)

    async def test_a_pattern_that_is_not_its_signatures_does_not_spoil_the_copies(
        self, atlas: Atlas, caplog: pytest.LogCaptureFixture
    ) -> None:
        await know(atlas, FEEDS)
        await dao(atlas).store([replace(content_of(SEARCH), id="0" * 32)])
        await archive.take(atlas, full=True)
        assert f"pattern {'0' * 32} is not that of its signature" in caplog.text
        await wipe(atlas)
        await archive.restore(atlas)
        assert [*await texts(atlas)] == [FEEDS.id]


class TestClocks:
    async def test_snapshots_are_taken_and_found_after_the_clock_was_ahead(
        self, atlas: Atlas, clock: FixedClock
    ) -> None:
        await know(atlas, FEEDS)
        clock.advance(timedelta(days=365))
        ahead = await archive.take(atlas)
        clock.advance(timedelta(days=-365))
        assert await archive.is_due(atlas)
        await know(atlas, SEARCH)
        right = await archive.take(atlas)
        assert not await archive.is_due(atlas)
        found = await archive.stored(atlas)
        assert [each.name for each in found] == [ahead.snapshot.name, right.snapshot.name]
        assert right.snapshot.base == ahead.snapshot.id
        await wipe(atlas)
        assert len((await archive.restore(atlas)).chain) == 2
        assert sorted(await counts(atlas)) == sorted([FEEDS.id, SEARCH.id])

    async def test_nothing_expires_by_a_clock_that_is_ahead_of_the_databases(
        self, database: Database, settings_factory: SettingsFactory
    ) -> None:
        class Ahead(SystemClock):
            def now(self) -> datetime:
                return super().now() + timedelta(days=400)

        now = SystemClock().now()
        for clock, kept in ((Ahead(), True), (SystemClock(), True), (FixedClock(now + timedelta(99)), False)):
            ours = PatternsDAO(database, clock=clock, settings=settings_factory())
            await ours.store([content_of(FEEDS)])
            await ours.count([NewEvidence(FEEDS.id, now.date() - timedelta(days=9), 3, 1, 1.0, now)])
            await ours.add_alarms([Alarm("cpu", now - timedelta(days=9), "anomaly", 1.0, 1.0, "odd")])
            await ours.expire(clock.now() - timedelta(days=90))
            assert (len(await ours.known()) == 1) is kept
            assert (len(await ours.alarms(now - timedelta(days=99))) == 1) is kept


@pytest.mark.parametrize(
    "value",
    [
        "nul\0in", "\ud83d\ude00", "lone \udc00", -0.0, 1.0, 1e15, 1e16, 123e17, 1.5e17, -1e22, 1e22, 1e300,
        1e-7, 5e-324, 2**53 + 1, 2**63 - 1, 2**64 - 1, 2**64, -(2**70), 0.1 + 0.2, True, None,
    ],
)  # fmt: skip
async def test_a_pattern_has_the_same_id_however_its_signature_is_stored(atlas: Atlas, value: object) -> None:
    odd = Pattern(PatternType.TOOL_USAGE, {"tool": value, "those": [{"value": value}]}, "odd")
    await know(atlas, odd)
    [stored] = await dao(atlas).known()
    assert pattern_id(PatternType.TOOL_USAGE, stored.signature) == odd.id
