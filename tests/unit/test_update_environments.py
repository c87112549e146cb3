"""The folder of environments: the switch, the lock, the journal, and which environments are kept."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas.testing import NOON
from maia.maintenance.updating.building import PLEIADES, Builder, check_space
from maia.maintenance.updating.environments import (
    Environment,
    EnvironmentFolder,
    Journal,
    Phase,
    to_delete,
    users_of,
)
from maia.maintenance.updating.errors import UpdateFailed, UpdateRunning
from maia.maintenance.updating.procedure import Condition, Target


@pytest.fixture
def folder(tmp_path: Path) -> EnvironmentFolder:
    made = EnvironmentFolder(tmp_path / "environments")
    with made.locked():
        pass
    return made


def make(folder: EnvironmentFolder, stamp: str, version: str | None = "1.0") -> Environment:
    """An environment with its Python; complete if it has a version."""
    environment = folder.named(stamp)
    (environment.path / "bin").mkdir(parents=True)
    environment.python.symlink_to(sys.executable)
    return environment if version is None else folder.complete(environment, version, {})


class TestFolder:
    def test_a_new_one_comes_after_all_others(self, folder: EnvironmentFolder) -> None:
        stamps = []
        for at in (NOON, NOON, NOON, NOON - timedelta(days=9), NOON + timedelta(days=1)):
            environment = folder.new(at)
            make(folder, environment.stamp)
            stamps.append(environment.stamp)
        assert stamps == [
            "20261102T120000Z", "20261102T120000Z-001", "20261102T120000Z-002", "20261102T120000Z-003",
            "20261103T120000Z",
        ]  # fmt: skip
        assert [each.stamp for each in folder.environments()] == stamps[::-1]

    def test_only_what_is_complete_has_a_version(self, folder: EnvironmentFolder) -> None:
        make(folder, "a", "1.2")
        make(folder, "b", None)
        assert {each.stamp: each.version for each in folder.environments()} == {"a": "1.2", "b": None}

    def test_an_empty_folder_has_no_current(self, tmp_path: Path) -> None:
        folder = EnvironmentFolder(tmp_path / "nothing")
        assert (folder.current(), folder.environments(), folder.journal()) == (None, [], None)

    def test_a_link_that_leads_nowhere_is_an_error(self, folder: EnvironmentFolder) -> None:
        folder.link.symlink_to("envs/gone")
        with pytest.raises(UpdateFailed, match="leads nowhere"):
            folder.current()

    def test_a_link_that_leads_elsewhere_is_an_error(self, folder: EnvironmentFolder, tmp_path: Path) -> None:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        folder.link.symlink_to(elsewhere)
        with pytest.raises(UpdateFailed, match="leads out of"):
            folder.current()

    @pytest.mark.parametrize("stamp", ["..", "../..", "/etc", "", 5])
    def test_a_journal_that_names_another_folder_is_refused(
        self, folder: EnvironmentFolder, stamp: object
    ) -> None:
        values = {"phase": "building", "new": stamp, "previous": None, "version": "1", "problems": []}
        (folder.root / "update.json").write_text(json.dumps(values))
        with pytest.raises(UpdateFailed, match="can't be read"):
            folder.journal()

    def test_names_of_people_do_not_count_for_new_ones(self, folder: EnvironmentFolder) -> None:
        make(folder, "venv-old", None)
        assert folder.new(datetime(2026, 11, 29, 2, tzinfo=UTC)).stamp == "20261129T020000Z"

    def test_a_folder_in_the_place_of_the_link_is_an_error(self, folder: EnvironmentFolder) -> None:
        folder.link.mkdir()
        with pytest.raises(UpdateFailed, match="is no link"):
            folder.current()

    def test_what_is_discarded_leaves_no_trace(self, folder: EnvironmentFolder) -> None:
        environment = make(folder, "a")
        folder.discard(environment)
        folder.discard(environment)
        assert list((folder.root / "envs").iterdir()) == []

    def test_remains_of_a_killed_deletion_are_swept(self, folder: EnvironmentFolder) -> None:
        kept = make(folder, "by-hand", None)
        (folder.root / "envs/.deleted-a/bin").mkdir(parents=True)
        (folder.work / "cache").mkdir(parents=True)
        (folder.root / "work").mkdir()
        (folder.root / ".current.next").symlink_to("envs/a")
        (folder.root / ".update.json.new").write_text('{"phase": ')
        folder.sweep()
        assert sorted(path.name for path in folder.root.iterdir()) == ["envs", "lock", "work"]
        assert folder.environments() == [kept]


class TestSwitch:
    def test_readers_never_miss_the_link(self, folder: EnvironmentFolder) -> None:
        environments = [make(folder, stamp) for stamp in "ab"]
        folder.switch(environments[0])
        done, seen, missed = threading.Event(), set(), []

        def read() -> None:
            while not done.is_set():
                try:
                    seen.add(str(folder.link.readlink()))
                    assert (folder.link / "bin/python").exists()
                except (OSError, AssertionError) as error:
                    missed.append(error)

        readers = [threading.Thread(target=read) for _ in range(3)]
        for reader in readers:
            reader.start()
        for turn in range(100):
            folder.switch(environments[turn % 2])
        done.set()
        for reader in readers:
            reader.join()
        assert missed == []
        assert seen <= {"envs/a", "envs/b"}
        current = folder.current()
        assert current is not None
        assert current.stamp == "b"

    def test_what_a_killed_switch_left_is_no_obstacle(self, folder: EnvironmentFolder) -> None:
        (folder.root / ".current.next").symlink_to("envs/another")
        folder.switch(make(folder, "a"))
        current = folder.current()
        assert current is not None
        assert current.stamp == "a"

    @given(st.lists(st.sampled_from("abc"), min_size=1, max_size=8))
    @settings(max_examples=20)
    def test_the_last_one_counts(self, tmp_path_factory: pytest.TempPathFactory, stamps: list[str]) -> None:
        folder = EnvironmentFolder(tmp_path_factory.mktemp("environments"))
        for stamp in "abc":
            (folder.root / "envs" / stamp).mkdir(parents=True)
        for stamp in stamps:
            folder.switch(folder.named(stamp))
        current = folder.current()
        assert current is not None
        assert current.stamp == stamps[-1]


class TestLock:
    def test_one_at_a_time(self, folder: EnvironmentFolder) -> None:
        with folder.locked(), pytest.raises(UpdateRunning), EnvironmentFolder(folder.root).locked():
            pass
        with folder.locked():
            pass

    def test_a_program_that_inherits_it_keeps_it(self, folder: EnvironmentFolder) -> None:
        with folder.locked() as lock:
            program = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, pass_fds=(lock,))
        try:
            with pytest.raises(UpdateRunning), folder.locked():
                pass
        finally:
            program.communicate()
        with folder.locked():
            pass


class TestJournal:
    @given(
        st.builds(
            Journal,
            phase=st.sampled_from(Phase),
            new=st.text(min_size=1),
            previous=st.none() | st.text(),
            version=st.text(),
            made=st.booleans(),
            migrates=st.booleans(),
            restarts=st.integers(0, 3),
            score=st.none() | st.floats(0, 1),
            problems=st.lists(st.text()).map(tuple),
        )
    )
    @settings(max_examples=30)
    def test_comes_back_as_it_was(self, tmp_path_factory: pytest.TempPathFactory, journal: Journal) -> None:
        folder = EnvironmentFolder(tmp_path_factory.getbasetemp() / "journal")
        folder.root.mkdir(exist_ok=True)
        folder.write_journal(journal)
        assert folder.journal() == journal

    def test_one_that_cannot_be_read_stops_everything(self, folder: EnvironmentFolder) -> None:
        (folder.root / "update.json").write_text('{"phase": "resting"}')
        with pytest.raises(UpdateFailed, match="can't be read"):
            folder.journal()


STAMPS = st.lists(st.integers(0, 9).map(str), unique=True, max_size=8)


class TestKeeping:
    @given(STAMPS, st.integers(1, 4), st.data())
    def test_what_must_stay_stays(self, stamps: list[str], keep: int, data: st.DataObject) -> None:
        complete = {stamp: data.draw(st.booleans()) for stamp in stamps}
        known = [
            Environment(stamp=each, path=Path("/envs", each), version="1" if complete[each] else None)
            for each in sorted(stamps, reverse=True)
        ]
        some = st.none() | st.sampled_from(stamps) if stamps else st.none()
        current, previous = data.draw(some), data.draw(some)
        in_use = data.draw(st.sets(st.sampled_from(stamps))) if stamps else set()
        doomed = {
            each.stamp
            for each in to_delete(known, current=current, previous=previous, keep=keep, in_use=in_use)
        }
        assert not doomed & {current, previous, *in_use}
        assert all(complete[each] for each in doomed)
        kept = [each.stamp for each in known if complete[each.stamp] and each.stamp not in {*doomed, current}]
        assert len(kept) >= min(keep, sum(complete[each] for each in stamps if each != current))
        free = {each for each in kept if each not in in_use and each != previous}
        assert len(free) <= keep
        # Nothing older is kept for its age while something newer goes.
        assert all(each > max(doomed) for each in free if doomed)

    def test_users_are_known_by_arguments_folder_and_files(self, folder: EnvironmentFolder) -> None:
        ours, other = make(folder, "a"), make(folder, "b")
        python = subprocess.Popen([ours.python, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
        within = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, cwd=ours.path / "bin")
        try:
            assert users_of(folder, [ours, other]) == {"a": sorted([python.pid, within.pid])}
            folder.switch(other)
            any_of = subprocess.Popen(
                [folder.link / "bin/python", "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
            )
            try:
                assert users_of(folder, [other]) == {"b": [any_of.pid]}
            finally:
                any_of.communicate()
        finally:
            python.communicate()
            within.communicate()
        assert users_of(folder, [ours, other]) == {}


class TestBuilding:
    def builder(self, uv: Path | None) -> Builder:
        return Builder(
            wheelhouse=Path("/wheels"), constraints=Path("/c.txt"), base_python=Path("/usr/bin/python3"),
            timeout_s=1, uv=uv,
        )  # fmt: skip

    @pytest.mark.parametrize("uv", [None, Path("/usr/bin/uv")])
    def test_nothing_is_downloaded_or_compiled(self, uv: Path | None, tmp_path: Path) -> None:
        environment = Environment(stamp="a", path=tmp_path / "a")
        requirements = Target(version="1.2", extras=("s3",), also=("uv",)).requirements(PLEIADES.distribution)
        make, install, check = self.builder(uv).commands(environment, requirements, tmp_path / "cache")
        assert make[-1] == str(environment.path)
        assert install[-2:] == ("pleiades-agents[s3]==1.2", "uv")
        assert "--no-index" in install
        assert ("--no-build" if uv else "--only-binary") in install
        assert install[install.index("-c") + 1] == "/c.txt"
        assert "check" in check
        assert "--upgrade" not in install

    def test_a_full_disk_is_told_before(self, tmp_path: Path) -> None:
        check_space(tmp_path, 0)
        with pytest.raises(UpdateFailed, match="maia system cleanup"):
            check_space(tmp_path, 1 << 60)


class TestCondition:
    def test_new_problems_and_a_fallen_score_are_worse(self) -> None:
        before = Condition(score=0.9, problems={"a": "a is failed, restarted 5 times"})
        same = Condition(score=0.85, problems={"a": "a is failed, restarted 6 times"})
        assert same.worse_than(before) == []
        assert Condition(score=0.9, problems={"b": "b is failed"}).worse_than(before) == ["b is failed"]
        assert Condition(score=0.5).worse_than(before) == ["the score of health fell from 0.90 to 0.50"]
        assert Condition(score=None).worse_than(before) == []
