from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from atlas.adapters.upkeep import BloatedTable
from atlas.config import BucketShares, RingShares, Settings, load, unknown_variables
from atlas.maintainer_settings import (
    ActionSettings,
    BackupSettings,
    MaintainerSettings,
    RetentionSettings,
)
from atlas.testing import NOON, IsolatedSettings
from maia.cli import load_command
from maia.maintainer.suggestions import host_time_zone, open_files
from maia.maintenance.suggesting import (
    KEY_PREFIX,
    DiskHistory,
    Durations,
    Proposal,
    RingUse,
    Situation,
    disk_trend,
    propose,
)

GB = 10**9
WEEK_H = [float(hour) for hour in range(168)]
CATEGORIES = {
    "schedule", "quota", "performance", "reliability", "storage", "security", "discovery", "tracking",
    "updates", "configuration",
}  # fmt: skip


def content(**maintainer: Any) -> Settings:
    """Settings with which nothing is to be suggested."""
    return IsolatedSettings(
        notifier={"urls": ["json://localhost"]},
        maintainer={
            "apply": ["backup"],
            "alerts": {"ping_url": "https://hc-ping.com/one"},
            **maintainer,
        },
    )


def dead_rows(dead: int) -> BloatedTable:
    return BloatedTable(
        name="videos",
        live=100_000,
        dead=dead,
        bytes=2**20,
        is_vacuumed=False,
        command="VACUUM (ANALYZE) videos",
    )


def calm(**changes: Any) -> Situation:
    """A situation in which nothing is to be suggested."""
    return replace(
        Situation(
            now=NOON,
            settings=content(),
            since=NOON - timedelta(days=90),
            last_backup_at=NOON - timedelta(hours=5),
            disks=[DiskHistory("north", WEEK_H, [100.0 * GB] * 168, 200.0 * GB)],
            quota=[RingUse("search", "hunting", [0.9] * 7), RingUse("general", "tracking", [0.3] * 7)],
            durations=[Durations("tracker", 20.0, 1000, 19.0, 1000)],
            tables=[dead_rows(10_500)],
            oldest_transaction_s=2.0,
            tracker_cycles=1000,
            starving_cycles=10,
            host_time_zone="Etc/UTC",
        ),
        **changes,
    )


def filling(gb_an_hour: float, free_gb: float = 200.0) -> DiskHistory:
    free = [max(free_gb - gb_an_hour * hour, 0.0) * GB for hour in WEEK_H]
    return DiskHistory("north", WEEK_H, free, 400.0 * GB)


def only(found: list[Proposal], about: str) -> Proposal:
    [one] = [each for each in found if each.key == f"{KEY_PREFIX}{about}"]
    return one


SITUATIONS: dict[str, Situation] = {
    "disk north": calm(disks=[filling(0.5)]),
    "open file /etc/pleiades/it's.env": calm(open_files=["/etc/pleiades/it's.env"]),
    "plain backups": calm(
        settings=IsolatedSettings(
            vault_provider="s3", vault={"url": "s3://bucket"}, notifier={"urls": ["json://localhost"]},
            maintainer={"apply": ["all"], "alerts": {"ping_url": "https://hc-ping.com/one"}},
        )
    ),
    "listening": calm(settings=content().model_copy(update={"host": "0.0.0.0"})),
    "backups off": calm(settings=content(apply=["cleanup"]), last_backup_at=None),
    "backup": calm(last_backup_at=NOON - timedelta(days=4)),
    "no alert URL": calm(settings=content().model_copy(update={"notifier": IsolatedSettings().notifier})),
    "no ping URL": calm(settings=content(alerts={})),
    "transaction": calm(oldest_transaction_s=5000.0),
    "dead rows videos": calm(tables=[dead_rows(90_000)]),
    "slow tracker": calm(durations=[Durations("tracker", 40.0, 1000, 20.0, 1000)]),
    "shares general": calm(
        quota=[RingUse("general", "tracking", [0.99] * 7), RingUse("general", "hunting", [0.1] * 7)]
    ),
    "unspent search": calm(quota=[RingUse("search", "hunting", [0.2] * 7)]),
    "starving": calm(starving_cycles=900),
    "contradiction verify": calm(
        settings=content(backups={"verify": True, "recipient": "age1" + "q" * 58})
    ),
    "contradiction restart": calm(
        settings=content(apply=["backup", "restart"], actions={"children": False})
    ),
    "contradiction monitoring": calm(
        settings=IsolatedSettings(
            monitoring={"enabled": False}, notifier={"urls": ["json://localhost"]},
            maintainer={"apply": ["backup"], "alerts": {"ping_url": "https://hc-ping.com/one"}},
        )
    ),
    "contradiction events": calm(settings=content(retention={"events_days": 7})),
    "time zone": calm(host_time_zone="Europe/Berlin"),
}  # fmt: skip
"""A situation for each rule, in which it alone has something to say."""


def test_nothing_is_suggested_where_all_is_well() -> None:
    assert propose(calm()) == []


def test_nothing_is_suggested_where_nothing_is_known() -> None:
    assert propose(Situation(now=NOON, settings=content())) == []


@pytest.mark.parametrize("about", SITUATIONS)
def test_each_rule_speaks_alone(about: str) -> None:
    [found] = propose(SITUATIONS[about])
    assert found.key == f"{KEY_PREFIX}{about}"
    assert found.category in CATEGORIES
    assert found.evidence
    assert 20 < len(found.text) < 400
    assert found.text.endswith(".")


def test_every_rule_is_tried() -> None:
    everything = replace(
        SITUATIONS["listening"],
        disks=[filling(0.5)],
        open_files=["a"],
        last_backup_at=None,
        starving_cycles=900,
    )
    assert {each.key for each in propose(everything)} == {
        f"{KEY_PREFIX}{about}" for about in ("disk north", "open file a", "listening", "backup", "starving")
    }
    categories = {found.category for situation in SITUATIONS.values() for found in propose(situation)}
    # The learner suggests about discovery, and the duty of updates about updates.
    assert categories == CATEGORIES - {"discovery", "updates"}


# The commands


def commands() -> Iterator[str]:
    for situation in SITUATIONS.values():
        for found in propose(situation):
            assert found.command is not None
            yield found.command


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_every_command_is_real(command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    words = shlex.split(command)
    match words[0]:
        case "maia":
            parse(words[1:])
        case "chmod":
            assert words[1] == "600"
            assert len(words) == 3
        case _:
            monkeypatch.chdir(tmp_path)
            for name in list(os.environ):
                if name.startswith("PLEIADES_"):
                    monkeypatch.delenv(name)
            for word in words:
                name, _, value = word.partition("=")
                monkeypatch.setenv(name, value)
            assert unknown_variables(dict.fromkeys(os.environ)) == []  # type: ignore[arg-type]
            load()


def parse(words: list[str]) -> None:
    """Read a command line of `maia` as its own parser does, without running it."""
    command: click.Command = load_command(words[0])
    rest = words[1:]
    while True:
        context = command.make_context(command.name, list(rest), resilient_parsing=False)
        if not isinstance(command, click.Group):
            return
        name, inner, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        assert inner is not None, name
        command = inner


# Disks


def test_a_disk_that_fills_is_told_of_by_how_soon() -> None:
    texts = {rate: propose(calm(disks=[filling(rate)])) for rate in (0.02, 0.3, 0.6, 1.0)}
    assert texts[0.02] == []
    assert "within a month" in texts[0.3][0].text
    assert "within a week" in texts[0.6][0].text
    assert "within three days" in texts[1.0][0].text


def test_the_estimate_is_right_and_counts_up_to_the_emergency() -> None:
    trend = disk_trend(filling(0.5), 95)
    assert trend is not None
    free_gb = 200 - 0.5 * 166
    assert trend.days_left == pytest.approx((free_gb - 20) / 12, rel=0.01)
    assert trend.bytes_per_day == pytest.approx(12 * GB)
    assert trend.low_per_day <= trend.bytes_per_day <= trend.high_per_day


@settings(max_examples=25)
@given(
    st.floats(0.05, 1.0),
    st.lists(st.floats(-0.2, 0.2), min_size=168, max_size=168),
    st.integers(0, 167),
    st.floats(1, 100),
)
def test_noise_and_a_clean_up_do_not_mislead(
    gb_an_hour: float, noise: list[float], at: int, freed_gb: float
) -> None:
    free = [400 - gb_an_hour * hour + noise[int(hour)] for hour in WEEK_H]
    # One wrong sample an hour, such as while a backup is written.
    free[at] -= freed_gb
    trend = disk_trend(DiskHistory("n", WEEK_H, [each * GB for each in free], None), 95)
    assert trend is not None
    assert trend.bytes_per_day == pytest.approx(24 * gb_an_hour * GB, rel=0.1)


@pytest.mark.parametrize(
    "history",
    [
        DiskHistory("n", WEEK_H[:11], [1.0] * 11, None),
        DiskHistory("n", WEEK_H[:20], [100.0 - each for each in WEEK_H[:20]], None),
        DiskHistory("n", WEEK_H, [100.0 + each for each in WEEK_H], None),
        DiskHistory("n", WEEK_H, [100.0 + (7 * each) % 13 for each in WEEK_H], None),
        DiskHistory("n", [], [], None),
    ],
    ids=["few", "short", "emptying", "up and down", "none"],
)
def test_what_is_not_surely_filling_is_not_told_of(history: DiskHistory) -> None:
    assert disk_trend(history, 95) is None


def test_texts_stay_the_same_while_figures_change() -> None:
    one, other = (propose(calm(disks=[filling(rate)]))[0] for rate in (0.30, 0.31))
    assert one.text == other.text
    assert one.evidence != other.evidence


# Quota


def test_half_of_what_is_spare_is_moved_and_no_bucket_is_given_away_twice() -> None:
    found = only(propose(SITUATIONS["shares general"]), "shares general")
    assert found.command == (
        "PLEIADES_QUOTA__SHARES__HUNTING__GENERAL=0.25 PLEIADES_QUOTA__SHARES__TRACKING__GENERAL=0.65"
    )
    RingShares(hunting=BucketShares(search=1, general=0.25), tracking=BucketShares(stats=0.9, general=0.65))


@pytest.mark.parametrize(
    "quota",
    [
        [RingUse("general", "tracking", [0.99] * 4), RingUse("general", "hunting", [0.1] * 4)],
        [RingUse("general", "tracking", [0.99] * 7), RingUse("general", "hunting", [0.1] * 6 + [0.6])],
        [RingUse("general", "tracking", [0.99] * 7), RingUse("search", "hunting", [0.7] * 7)],
        [RingUse("general", "tracking", [0.5] * 7), RingUse("general", "hunting", [0.1] * 7)],
        [RingUse("search", "hunting", [0.0] * 7)],
    ],
    ids=["few days", "busy once", "other bucket", "no need", "nothing ran"],
)
def test_shares_are_left_alone_where_nobody_gains(quota: list[RingUse]) -> None:
    assert propose(calm(quota=quota)) == []


# What must not be said


def test_a_container_listens_to_the_outside() -> None:
    assert propose(replace(SITUATIONS["listening"], is_container=True)) == []
    for host in ("127.0.0.1", "localhost", "::1", "10.0.0.5", "pleiades.internal"):
        assert propose(calm(settings=content().model_copy(update={"host": host}))) == []
    for host in ("::", "[::]", ""):
        assert propose(calm(settings=content().model_copy(update={"host": host})))


def test_a_new_installation_needs_no_backup_yet() -> None:
    young = calm(since=NOON - timedelta(days=1), last_backup_at=None, settings=content(apply=["cleanup"]))
    assert propose(young) == []


def test_backups_that_a_timer_makes_are_backups() -> None:
    assert propose(calm(settings=content(apply=["cleanup"]))) == []


def test_a_switched_off_backup_is_to_be_switched_on() -> None:
    found = propose(calm(settings=content(off=["backup", "updates"]), last_backup_at=None))
    assert only(found, "backups off").command == "PLEIADES_MAINTAINER__OFF=updates"


def test_no_secret_is_ever_told() -> None:
    maintainer = MaintainerSettings(
        apply=("restart",),
        actions=ActionSettings(children=False),
        retention=RetentionSettings(events_days=1),
        backups=BackupSettings(verify=True, recipient="age1" + "q" * 58),
    )
    secrets = {"database_url": SecretStr("postgresql://u:hunter2@db/x"), "maintainer": maintainer}
    situation = calm(settings=content().model_copy(update=secrets), open_files=["/x"], last_backup_at=None)
    told = repr(propose(situation))
    assert "upkeep contradiction verify" in told
    assert "hunter2" not in told


# This machine


def test_only_files_that_all_may_read_are_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("A=b")
    (tmp_path / "one.yaml").write_text("{}")
    (tmp_path / ".env").chmod(0o644)
    (tmp_path / "one.yaml").chmod(0o640)
    environment = {"PLEIADES_CONFIG": str(tmp_path / "one.yaml")}
    secret = IsolatedSettings(hf_token=SecretStr("x"))
    assert open_files(secret, environment) == [str(tmp_path / ".env")]
    (tmp_path / "one.yaml").chmod(0o644)
    assert len(open_files(secret, environment)) == 2
    assert open_files(IsolatedSettings(), environment) == []
    assert open_files(secret, {"PLEIADES_CONFIG": "/nowhere"}) == [str(tmp_path / ".env")]


def test_the_hosts_time_zone_is_read_where_it_is_told(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    assert host_time_zone({}, tmp_path) is None
    (tmp_path / "etc/localtime").symlink_to("/usr/share/zoneinfo/Asia/Tokyo")
    assert host_time_zone({}, tmp_path) == "Asia/Tokyo"
    (tmp_path / "etc/timezone").write_text("Europe/Berlin\n")
    assert host_time_zone({}, tmp_path) == "Europe/Berlin"
    assert host_time_zone({"TZ": ":America/Lima"}, tmp_path) == "America/Lima"
    assert host_time_zone({"TZ": "nowhere/at all"}, tmp_path) == "Europe/Berlin"
