from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from maia.emulator.quota import EmulatorError, Project, Quota
from maia.emulator.refusals import ErrorResponse

NOW = datetime(2026, 11, 2, 12, tzinfo=UTC)


def test_a_project_is_read_with_its_limits():
    assert Project.parse("demo") == Project("demo", 100, 10_000, 10_000, None)
    assert Project.parse("a-b.c:search=5,stats=6,general=7,per_minute=8") == Project("a-b.c", 5, 6, 7, 8)
    assert Project.parse("x:general=0").limit("general") == 0


@pytest.mark.parametrize(
    "text", ["", ":search=1", "a b", "a:search", "a:search=-1", "a:searches=1", "a:name=1"]
)
def test_a_malformed_project_is_refused(text: str):
    with pytest.raises(ValueError, match="is no"):
        Project.parse(text)


def test_a_key_belongs_to_the_longest_name_it_begins_with_or_as_configured():
    quota = Quota([Project("a"), Project("a-b")], {"AIza123": "a"})
    owners = {key: quota.project_of(key).name for key in ("a-1", "a-b-1", "a-bc", "AIza123")}
    assert owners == {"a-1": "a", "a-b-1": "a-b", "a-bc": "a", "AIza123": "a"}
    for key in ("a", "a-", "b-1", "A-1", "AIza", ""):
        with pytest.raises(ErrorResponse, match="API key not valid"):
            quota.project_of(key)


def test_a_key_of_no_project_is_refused_at_the_start():
    with pytest.raises(EmulatorError, match="--project nobody"):
        Quota([Project("a")], {"key": "nobody"})
    with pytest.raises(EmulatorError, match="empty"):
        Quota([Project("a")], {"": "a"})


def test_buckets_are_separate_and_exhausted_as_the_api_does_it():
    quota, project = Quota([Project("a", search=2, stats=1, general=1)], {}), Project("a", 2, 1, 1)
    for bucket in ("search", "search", "stats", "general"):
        quota.spend(project, bucket, NOW)
    with pytest.raises(ErrorResponse) as search:
        quota.spend(project, "search", NOW)
    details = search.value.body["error"]["details"][0]["metadata"]
    assert (search.value.status, details["quota_unit"], details["quota_limit_value"]) == (
        429,
        "1/d/{project}",
        "2",
    )
    assert details["window_start_time"] == str(int(datetime(2026, 11, 2, 8, tzinfo=UTC).timestamp()))
    for bucket in ("stats", "general"):
        with pytest.raises(ErrorResponse) as other:
            quota.spend(project, bucket, NOW)
        assert (other.value.status, other.value.body["error"]["errors"][0]["reason"]) == (
            403,
            "quotaExceeded",
        )
    state = quota.state(NOW)
    assert state["projects"]["a"]["search"] == {"used": 2, "limit": 2, "left": 0, "refused": 1}
    assert (state["pacific_day"], state["resets_at"]) == ("2026-11-02", "2026-11-03T08:00:00Z")


@pytest.mark.parametrize(
    ("reset", "hours"),
    [
        (datetime(2026, 11, 3, 8, tzinfo=UTC), 24),
        (datetime(2026, 11, 2, 8, tzinfo=UTC), 25),
        (datetime(2026, 3, 9, 7, tzinfo=UTC), 23),
    ],
)
def test_buckets_refill_at_pacific_midnight_on_days_of_every_length(reset: datetime, hours: int):
    project = Project("a", search=1)
    quota = Quota([project], {})
    quota.spend(project, "search", reset - timedelta(hours=hours))
    for instant in (reset - timedelta(hours=hours), reset - timedelta(seconds=1)):
        with pytest.raises(ErrorResponse):
            quota.spend(project, "search", instant)
    quota.spend(project, "search", reset)
    assert quota.used("a", "search", reset) == 1


def test_queries_a_minute_are_limited_by_the_clock():
    project = Project("a", per_minute=2)
    quota = Quota([project], {})
    quota.spend(project, "search", NOW)
    quota.spend(project, "general", NOW + timedelta(seconds=59))
    with pytest.raises(ErrorResponse) as refused:
        quota.spend(project, "stats", NOW + timedelta(seconds=59))
    assert refused.value.body["error"]["details"][0]["metadata"]["quota_unit"] == "1/min/{project}"
    quota.spend(project, "stats", NOW + timedelta(seconds=60))


def test_a_reset_forgets_everything():
    project = Project("a", search=1)
    quota = Quota([project], {})
    quota.spend(project, "search", NOW)
    quota.reset()
    quota.spend(project, "search", NOW)
