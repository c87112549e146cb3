from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maia.emulator.facts import METHODS
from maia.emulator.faults import MISHAPS, REFUSALS, Circumstances, Fault, FaultPlan
from maia.emulator.quota import Project

SEARCH, VIDEOS = METHODS["/youtube/v3/search"], METHODS["/youtube/v3/videos"]
AT = Circumstances(Project("demo"), SEARCH, datetime(2026, 11, 2, 12, tzinfo=UTC))
SHARED = Path(os.environ.get("PLEIADES_SHARED") or Path(__file__).parents[3] / "shared")


def body_of(kind: str) -> tuple[int, Any]:
    refusal = REFUSALS[kind][1](AT)
    return refusal.status, refusal.body["error"]


def test_a_fault_is_read_with_its_rate_and_method():
    assert Fault.parse("500:0.25") == Fault("500", 0.25)
    assert str(Fault.parse("429-day:1:search.list")) == "429-day:1:search.list"
    assert [Fault.parse(f"{kind}:1").delay_s for kind in ("latency", "latency-10s", "latency-250ms")] == [
        1,
        10,
        0.25,
    ]
    assert Fault.parse("500:1").delay_s == 0
    assert str(Fault.parse("429:0.5:feed")) == "429:0.5:feed"


@pytest.mark.parametrize(
    "text",
    [
        "500",
        "500:2",
        "500:-1",
        "500:often",
        "600:1",
        "latency-x:1",
        "500:1:search",
        "429:1",
        "429-day:1:feed",
    ],
)
def test_a_malformed_fault_is_refused_with_what_there_is(text: str):
    with pytest.raises(
        ValueError, match=r"the faults (of the feeds )?are|the methods are|number from 0 to 1"
    ):
        Fault.parse(text)


def draws(seed: int, requests: list[str]) -> dict[str, list[bool]]:
    plan = FaultPlan([Fault("500", 0.3)], seed)
    drawn: dict[str, list[bool]] = {}
    for request in requests:
        drawn.setdefault(request, []).append(plan.draw(SEARCH, [("q", request)]).refuser is not None)
    return drawn


def test_a_seed_repeats_what_each_request_meets_in_whatever_order_they_come():
    requests = [f"request {number % 40}" for number in range(200)]
    forwards, backwards = draws(1, requests), draws(1, requests[::-1])
    assert forwards == backwards != draws(2, requests)
    struck = sum(map(sum, forwards.values()))
    assert 30 < struck < 90
    assert any(len(set(outcomes)) == 2 for outcomes in forwards.values())


def test_rates_of_nothing_and_of_everything_are_kept():
    plan = FaultPlan([Fault("500", 0.0), Fault("503", 1.0), Fault("reset", 1.0), Fault("latency-2s", 1.0)], 1)
    for number in range(50):
        strikes = plan.draw(SEARCH, [("q", str(number)), ("key", "any")])
        assert strikes.refuser is REFUSALS["503"][1]
        assert (strikes.mishap, strikes.delay_s) == (None, 2.0)
    assert plan.struck == {"503": 50, "latency-2s": 50}


def test_a_fault_of_one_method_spares_the_others():
    plan = FaultPlan([Fault("reset", 1.0, "videos.list")], 1)
    assert plan.draw(SEARCH, []).mishap is None
    assert plan.draw(VIDEOS, []).mishap == "reset"


@pytest.mark.parametrize("kind", [*REFUSALS, *MISHAPS])
def test_every_kind_can_be_asked_for(kind: str):
    strikes = FaultPlan([Fault.parse(f"{kind}:1")], 0).draw(SEARCH, [])
    assert (strikes.refuser is not None) == (kind in REFUSALS)
    assert strikes.mishap == (kind if kind in MISHAPS else None)


@pytest.mark.parametrize("kind", REFUSALS)
def test_every_refusal_has_the_common_form(kind: str):
    status, error = body_of(kind)
    assert error["code"] == status
    assert error["message"] == error["errors"][0]["message"]
    assert error["errors"][0]["reason"]


def error_info(error: Any) -> Any:
    return error["details"][0]


def test_the_days_exhaustion_tells_its_unit_and_limit():
    status, error = body_of("429-day")
    assert (status, error["status"], error["errors"][0]["reason"]) == (
        429,
        "RESOURCE_EXHAUSTED",
        "rateLimitExceeded",
    )
    assert error_info(error) == {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": "RATE_LIMIT_EXCEEDED",
        "domain": "googleapis.com",
        "metadata": {
            "quota_location": "global",
            "window_start_time": "1793606400",
            "quota_limit": "defaultSearchListPerDayPerProject",
            "consumer": error_info(error)["metadata"]["consumer"],
            "quota_unit": "1/d/{project}",
            "service": "youtube.googleapis.com",
            "quota_metric": "youtube.googleapis.com/search_list",
            "quota_limit_value": "100",
        },
    }


@pytest.mark.parametrize(
    ("kind", "status", "reason", "info"),
    [
        ("429-minute", 429, "rateLimitExceeded", "RATE_LIMIT_EXCEEDED"),
        ("429-bare", 429, "rateLimitExceeded", None),
        ("403-quota", 403, "quotaExceeded", None),
        ("403-daily", 403, "dailyLimitExceeded", None),
        ("403-user-rate", 403, "userRateLimitExceeded", None),
        ("key-invalid", 400, "badRequest", "API_KEY_INVALID"),
        ("key-invalid-legacy", 400, "keyInvalid", None),
        ("key-expired-legacy", 400, "keyExpired", None),
        ("not-configured", 403, "accessNotConfigured", "SERVICE_DISABLED"),
        ("referrer-blocked", 403, "forbidden", "API_KEY_HTTP_REFERRER_BLOCKED"),
        ("invalid-page-token", 400, "invalidPageToken", None),
        ("invalid-parameter", 400, "invalidParameter", None),
        ("invalid-query", 400, "invalidParameter", None),
        ("invalid-region", 400, "invalidRegionCode", None),
        ("403-delegation", 403, "accountDelegationForbidden", None),
        ("playlist-not-found", 404, "playlistNotFound", None),
        ("video-not-found", 404, "videoNotFound", None),
        ("comments-disabled", 403, "commentsDisabled", None),
        ("500", 500, "backendError", None),
        ("501", 501, "notImplemented", None),
    ],
)
def test_refusals_say_what_the_api_says(kind: str, status: int, reason: str, info: str | None):
    code, error = body_of(kind)
    assert (code, error["errors"][0]["reason"]) == (status, reason)
    assert ("details" in error) == (info is not None)
    if info is not None:
        assert error_info(error)["reason"] == info


@pytest.mark.parametrize(
    ("kind", "file"),
    [
        ("403-quota", "403_quotaExceeded"),
        ("403-daily", "403_dailyLimitExceeded_legacy"),
        ("key-invalid", "400_api_key_invalid"),
        ("key-invalid-legacy", "400_keyInvalid_legacy"),
        ("playlist-not-found", "404_playlistNotFound"),
        ("500", "500_backendError"),
    ],
)
def test_refusals_equal_the_recorded_bodies(kind: str, file: str):
    path = SHARED / "data" / "api" / "errors" / f"{file}.json"
    if not path.exists():
        pytest.skip(f"{path} is not there: set PLEIADES_SHARED to the folder of recorded data")
    recorded = json.loads(path.read_text())
    assert body_of(kind) == (recorded["http_status"], recorded["body"]["error"])


def test_faults_end_when_they_should() -> None:
    noon = datetime(2026, 11, 2, 12, tzinfo=UTC)
    plan = FaultPlan([Fault("500", 1), Fault("429", 1, "feed")], 1, until=noon + timedelta(hours=1))
    for hours, hit in ((0, True), (0.99, True), (1, False), (2, False)):
        at = noon + timedelta(hours=hours)
        assert (plan.draw(SEARCH, [], at).refuser is not None) is hit
        assert (plan.draw_feed([], at).feed_refusal is not None) is hit


@given(st.lists(st.sampled_from(["latency", "500", "reset", "truncated"]), max_size=5))
def test_at_most_one_refusal_or_mishap_hits_a_request(kinds: list[str]) -> None:
    strikes = FaultPlan([Fault(kind, 1) for kind in kinds], 1).draw(SEARCH, [])
    others = [kind for kind in kinds if kind != "latency"]
    assert strikes.delay_s == kinds.count("latency")
    first = others[0] if others else None
    assert (strikes.refuser is not None) == (first == "500")
    assert strikes.mishap == (first if first != "500" else None)
