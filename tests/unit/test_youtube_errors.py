"""Every refusal of the API is read by its content."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maia.youtube.errors import BadRequest, Disposition, KeyRejected, QuotaExhausted, Verdict, classify

SHARED = Path(os.environ.get("PLEIADES_SHARED", Path(__file__).parents[3] / "shared"))
API = SHARED / "data" / "api"

DAY, RATE = Disposition.DAY_QUOTA, Disposition.SHORT_RATE
DEAD, CONFIG = Disposition.KEY_DEAD, Disposition.CONFIG
BAD, GONE, TRANSIENT = Disposition.BAD_REQUEST, Disposition.GONE, Disposition.TRANSIENT

QUOTA = (
    'The request cannot be completed because you have exceeded your <a href="/youtube/v3/getting-started'
    '#quota">quota</a>.'
)
PER_DAY = (
    "Quota exceeded for quota metric 'Search Queries' and limit 'Search Queries per day' of service "
    "'youtube.googleapis.com' for consumer 'project_number:994147049083'."
)


def error(
    code: int,
    message: str,
    reason: str | None = None,
    *,
    info: str | None = None,
    metadata: dict[str, str] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """A body in the API's form: the legacy list of errors, and the ErrorInfo of newer answers."""
    body: dict[str, Any] = {"code": code, "message": message, **more}
    if reason:
        body["errors"] = [{"message": message, "domain": "global", "reason": reason}]
    if info:
        detail = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": info}
        body["details"] = [{**detail, "domain": "googleapis.com", "metadata": metadata or {}}]
    return {"error": body}


LIMIT = {"quota_limit": "defaultSearchListPerDayPerProject", "quota_unit": "1/d/{project}"}
NOT_USED = "YouTube Data API v3 has not been used in project 1080266325902 before or it is disabled."
DOCUMENTED = [
    ("quotaExceeded", DAY, error(403, QUOTA, "quotaExceeded")),
    ("dailyLimitExceeded", DAY, error(403, "Daily Limit Exceeded.", "dailyLimitExceeded")),
    (
        "a day's 429",
        DAY,
        error(429, PER_DAY, "rateLimitExceeded", info="RATE_LIMIT_EXCEEDED", metadata=LIMIT),
    ),
    (
        "a day's limit without its unit",
        DAY,
        error(
            429, "", "rateLimitExceeded", info="RATE_LIMIT_EXCEEDED", metadata={"quota_limit": "SearchPerDay"}
        ),
    ),
    ("a day's 429 by its message", DAY, error(429, PER_DAY, "rateLimitExceeded", info="RATE_LIMIT_EXCEEDED")),
    (
        "a minute's unit outranks the message",
        RATE,
        error(
            429,
            PER_DAY,
            "rateLimitExceeded",
            info="RATE_LIMIT_EXCEEDED",
            metadata={"quota_unit": "1/min/{project}/{user}"},
        ),
    ),
    (
        "a minute's limit outranks quotaExceeded",
        RATE,
        error(403, "", "quotaExceeded", info="X", metadata={"quota_limit": "QueriesPerMinutePerUser"}),
    ),
    ("a bare rateLimitExceeded", RATE, error(429, "Rate Limit Exceeded", "rateLimitExceeded")),
    ("a minute's 429 by its message", RATE, error(429, "limit 'Queries per minute' of", "rateLimitExceeded")),
    ("a bare 403 rateLimitExceeded", RATE, error(403, "Rate Limit Exceeded", "rateLimitExceeded")),
    ("userRateLimitExceeded", RATE, error(403, "User Rate Limit Exceeded", "userRateLimitExceeded")),
    (
        "API_KEY_INVALID",
        DEAD,
        error(400, "API key not valid. Please pass a valid API key.", "badRequest", info="API_KEY_INVALID"),
    ),
    ("an invalid key by its message", DEAD, error(400, "API key not valid. Please pass …", "badRequest")),
    ("an expired key by its message", DEAD, error(400, "API key expired. Please renew it.", "badRequest")),
    ("keyInvalid", DEAD, error(400, "Bad Request", "keyInvalid")),
    ("keyExpired", DEAD, error(400, "Bad Request", "keyExpired")),
    ("accessNotConfigured", CONFIG, error(403, "Access Not Configured.", "accessNotConfigured")),
    ("SERVICE_DISABLED", CONFIG, error(403, NOT_USED, "forbidden", info="SERVICE_DISABLED")),
    ("a disabled service by its message", CONFIG, error(403, NOT_USED, "forbidden")),
    (
        "a blocked referrer",
        CONFIG,
        error(
            403,
            "Requests from referer <empty> are blocked.",
            "forbidden",
            info="API_KEY_HTTP_REFERRER_BLOCKED",
        ),
    ),
    ("a blocked address by its message", CONFIG, error(403, "Requests from 10.0.0.1 are blocked.")),
    ("a blocked service", CONFIG, error(403, "x", "forbidden", info="API_KEY_SERVICE_BLOCKED")),
    (
        "no credentials",
        CONFIG,
        error(401, "Request is missing required authentication credential.", "required"),
    ),
    ("credentials that do not suffice", CONFIG, error(403, "x", "insufficientPermissions")),
    ("a call without a key", CONFIG, error(403, "Method doesn't allow unregistered callers", "forbidden")),
    ("invalidParameter", BAD, error(400, "Invalid value 'views'.", "invalidParameter")),
    ("invalidPageToken", BAD, error(400, "The page token is invalid.", "invalidPageToken")),
    ("a parameter that quotes a limit", BAD, error(400, "Invalid value 'quota per day'.", "invalidQuery")),
    ("an unknown 403 that blames nothing", TRANSIENT, error(403, "Forbidden", "forbidden")),
    ("an unknown 403 that blames a parameter", BAD, error(403, "The id parameter is odd.", "forbidden")),
    ("a delegation never asked for", TRANSIENT, error(403, "cannot act", "accountDelegationForbidden")),
    ("an unknown 4xx", BAD, error(418, "I'm a teapot")),
    ("playlistNotFound", GONE, error(404, "The playlist cannot be found.", "playlistNotFound")),
    ("videoNotFound", GONE, error(404, "Video not found.", "videoNotFound")),
    ("commentsDisabled", GONE, error(403, "The video has disabled comments.", "commentsDisabled")),
    ("a bare 410", GONE, error(410, "Gone")),
    ("backendError", TRANSIENT, error(500, "Internal error encountered.", "backendError", status="INTERNAL")),
    ("a bare 503", TRANSIENT, error(503, "The service is currently unavailable.", status="UNAVAILABLE")),
    ("a bare 501", TRANSIENT, error(501, "Not implemented")),
    ("a 408", TRANSIENT, error(408, "Request Timeout")),
]


@pytest.mark.parametrize(
    ("disposition", "body"),
    [(disposition, body) for _, disposition, body in DOCUMENTED],
    ids=[name for name, _, _ in DOCUMENTED],
)
def test_documented_bodies(disposition: Disposition, body: dict[str, Any]) -> None:
    status = body["error"]["code"]
    verdict = classify(status, json.dumps(body).encode(), {})
    assert (verdict.disposition, verdict.status) == (disposition, status)
    assert verdict == classify(status, body, {}), "parsed and raw bodies are read alike"


# The MIT-licensed recordings of python-youtube and Fullscreen/yt, cut to what is read.
RECORDED = [
    (400, "missingRequiredParameter", "No filter selected. Expected one of: id, videoId", BAD),
    (403, "subscriptionForbidden", "The requester is not allowed to access the subscriptions.", BAD),
    (404, "publisherNotFound", "The resource cannot be found.", GONE),
    (400, "subscriptionForbidden", "Subscribing to your own channel is not supported.", BAD),
    (404, "videoNotFound", "Video not found.", GONE),
    (403, "playlistForbidden", "This operation is forbidden or not properly authorized.", BAD),
    (403, "playlistItemsNotAccessible", "Forbidden", BAD),
    (400, "unknownPart", "{0}", BAD),
    (403, "SERVICE_UNAVAILABLE", "The caller does not have permission", TRANSIENT),
    (400, "keyInvalid", "Bad Request", DEAD),
]
BY_REASON = {(status, reason): disposition for status, reason, _, disposition in RECORDED}
# Recorded with the location "id".
BY_REASON[403, "forbidden"] = BAD


@pytest.mark.parametrize(("status", "reason", "message", "disposition"), RECORDED)
def test_recorded_bodies(status: int, reason: str, message: str, disposition: Disposition) -> None:
    verdict = classify(status, error(status, message, reason))
    assert verdict == Verdict(disposition, reason, message, None, status)


def shared_errors() -> Iterator[Any]:
    if not API.is_dir():
        reason = f"no recorded data at {API}: set PLEIADES_SHARED to the folder that has it"
        yield pytest.param(0, {}, BAD, marks=pytest.mark.skip(reason=reason))
        return
    by_file = {
        "400_api_key_invalid": DEAD,
        "400_keyInvalid_legacy": DEAD,
        "403_accessNotConfigured": CONFIG,
        "403_dailyLimitExceeded_legacy": DAY,
        "403_quotaExceeded": DAY,
        "404_playlistNotFound": GONE,
        "429_rate_per_minute": RATE,
        "429_search_queries_per_day": DAY,
        "500_backendError": TRANSIENT,
    }
    for path in sorted((API / "errors").glob("*.json")):
        recorded = json.loads(path.read_bytes())
        yield pytest.param(recorded["http_status"], recorded["body"], by_file[path.stem], id=path.stem)
    with gzip.open(API / "fullscreen_yt_recorded.jsonl.gz", "rt") as lines:
        for number, line in enumerate(lines):
            recorded = json.loads(line)
            if recorded["status"] != 200:
                reason = recorded["body"]["error"]["errors"][0]["reason"]
                expected = BY_REASON[recorded["status"], reason]
                yield pytest.param(recorded["status"], recorded["body"], expected, id=f"{number}-{reason}")
    for name, status in {"error_permission_resp": 403, "error_response": 400}.items():
        body = json.loads((API / "python-youtube" / f"{name}.json").read_bytes())
        expected = BY_REASON[status, body["error"]["errors"][0]["reason"]]
        yield pytest.param(status, body, expected, id=name)
    simple = json.loads((API / "python-youtube" / "error_response_simple.json").read_bytes())
    yield pytest.param(400, simple, BAD, id="error_response_simple")


@pytest.mark.parametrize(("status", "body", "disposition"), list(shared_errors()))
def test_every_shared_recording_maps_to_its_disposition(
    status: int, body: dict[str, Any], disposition: Disposition
) -> None:
    verdict = classify(status, json.dumps(body).encode(), {"content-type": "application/json"})
    assert verdict.disposition is disposition
    assert verdict.message


@pytest.mark.parametrize(
    ("status", "body", "disposition"),
    [
        (200, b"", TRANSIENT),
        (200, b'{"items": [{"id"', TRANSIENT),
        (200, b"<html>Sign in to the hotel's network</html>", TRANSIENT),
        (302, b"", TRANSIENT),
        (400, b"<html>Bad Request</html>", BAD),
        (401, b"<html>Gateway: log in</html>", BAD),
        (401, b'{"error": {"code": 401}}', CONFIG),
        (403, b"[]", TRANSIENT),
        (403, b"<html>Forbidden</html>", TRANSIENT),
        (404, b"<html>Not Found</html>", BAD),
        (429, b"", RATE),
        (429, b"<html>Too many</html>", RATE),
        (500, b"\xff\xfe", TRANSIENT),
        (502, b"<html>Bad Gateway</html>", TRANSIENT),
        (503, b'{"error": null}', TRANSIENT),
        (503, b'{"error": {"errors": {"reason": "x"}, "details": "none", "message": 7}}', TRANSIENT),
        (400, b'{"error": "error message"}', BAD),
    ],
)
def test_bodies_of_another_form_go_by_their_status(
    status: int, body: bytes, disposition: Disposition
) -> None:
    assert classify(status, body).disposition is disposition


def test_a_429_is_never_anything_that_lets_the_process_go_on() -> None:
    for reason in ("backendError", "invalidParameter", "videoNotFound", "commentsDisabled"):
        assert classify(429, error(429, "odd", reason)).disposition is RATE


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["error", "errors", "details", "reason", "message", "metadata", "quota_unit", "@type", "x"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(
    status=st.integers(100, 599),
    body=JSON | st.binary(),
    retry_after=st.text() | st.sampled_from(["1", "Sat, 21 Nov 2026 08:00:00 GMT"]),
)
def test_no_body_and_no_header_can_break_it(status: int, body: Any, retry_after: str) -> None:
    verdict = classify(status, body, {"Retry-After": retry_after}, now=datetime(2026, 11, 21, tzinfo=UTC))
    assert isinstance(verdict.disposition, Disposition)
    assert verdict.retry_after_s is None or 0 <= verdict.retry_after_s <= 86_400
    assert str(verdict)


def test_the_reason_that_settled_it_is_the_one_named() -> None:
    body = error(400, "API key not valid.", "badRequest", info="API_KEY_INVALID")
    assert classify(400, body).reason == "API_KEY_INVALID"
    body = error(429, PER_DAY, "rateLimitExceeded", info="RATE_LIMIT_EXCEEDED", metadata=LIMIT)
    assert classify(429, body).reason == "rateLimitExceeded"
    assert classify(503, error(503, "later", status="UNAVAILABLE")).reason == "UNAVAILABLE"


def test_messages_are_plain_text_without_keys() -> None:
    assert classify(403, error(403, QUOTA, "quotaExceeded")).message == (
        "The request cannot be completed because you have exceeded your quota."
    )
    assert classify(403, error(403, "referer <empty> isn&#39;t allowed")).message == (
        "referer <empty> isn't allowed"
    )
    key = "AIza" + "Sy0123456789abcdefghijklmnopqrstuvw"
    for told in (f"Consumer 'api_key:{key}' has been suspended.", f"Key {key} is odd"):
        verdict = classify(403, error(403, told, "forbidden"))
        assert key not in repr(verdict)
        assert "[key]" in verdict.message
    assert len(classify(400, error(400, "x" * 10_000)).message) == 300


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "30"}, 30.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"Retry-After": "999999999"}, 86_400.0),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"}, None),
        ({}, None),
        ({"Retry-After": "Sat, 21 Nov 2026 08:00:40 GMT", "Date": "Sat, 21 Nov 2026 08:00:00 GMT"}, 40.0),
        ({"Retry-After": "Sat, 21 Nov 2026 08:00:40 GMT"}, 10.0),
        ({"Retry-After": "Sat, 21 Nov 2026 07:00:00 GMT"}, None),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(headers: dict[str, str], seconds: float | None) -> None:
    now = datetime(2026, 11, 21, 8, 0, 30, tzinfo=UTC)
    assert classify(429, b"", headers, now=now).retry_after_s == seconds


def test_retry_info_serves_where_the_header_is_missing() -> None:
    body = error(429, "slow down", "rateLimitExceeded")
    detail = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "17s"}
    body["error"]["details"] = [detail]
    assert classify(429, body).retry_after_s == 17.0
    assert classify(429, body, {"Retry-After": "3"}).retry_after_s == 3.0


def test_a_refused_key_is_explained_in_plain_words() -> None:
    verdict = classify(403, error(403, "blocked", "forbidden", info="API_KEY_IP_ADDRESS_BLOCKED"))
    assert "restricted to other IP addresses" in verdict.plain_words
    assert "HTTP 403 API_KEY_IP_ADDRESS_BLOCKED: blocked" in verdict.plain_words
    assert "no key is left" in str(KeyRejected("search.list", verdict))
    unknown = Verdict(CONFIG, "", "who knows", status=401)
    assert unknown.plain_words == "YouTube refuses this key: HTTP 401: who knows"


BLAMED = [
    # (a setting's fault) as the API has been seen to word it
    (
        "regionCode",
        {"reason": "invalidRegionCode", "location": "regionCode", "locationType": "parameter"},
        "x",
    ),
    ("regionCode", {"reason": "invalidRegionCode"}, "invalid region code"),
    ("regionCode", {"reason": "invalidParameter"}, "Invalid value 'UK' for the regionCode parameter."),
    ("relevanceLanguage", {"reason": "invalidRelevanceLanguage", "location": "relevanceLanguage"}, "x"),
    ("order", {"location": "order", "locationType": "parameter"}, "Invalid value 'views'. Values must be …"),
    ("publishedAfter", {"reason": "badRequest"}, "Invalid value at 'published_after' (TYPE_STRING), \"x\""),
    ("videoCategoryId", {"reason": "invalidVideoCategoryId"}, "x"),
    # (the item's)
    ("q", {"location": "q", "locationType": "parameter"}, "x"),
    ("pageToken", {"reason": "invalidPageToken"}, "The request specifies an invalid page token."),
    ("id", {"reason": "missingRequiredParameter"}, "The <code>id</code> parameter is missing."),
    ("maxHeight", {"location": "maxHeight", "locationType": "parameter"}, "a parameter of another's"),
    # (nothing in the request)
    (None, {"location": "Authorization", "locationType": "header"}, "x"),
    (
        None,
        {"location": "parameters.", "locationType": "other"},
        "No filter selected. Expected one of: videoId",
    ),
    (None, {"location": ["regionCode"], "reason": 7}, "Bad Request"),
    (None, {}, "Invalid value 'views'. Values must be one of: date, rating, videoCount"),
]


@pytest.mark.parametrize(("parameter", "entry", "message"), BLAMED)
def test_the_parameter_at_fault_is_named(parameter: str | None, entry: dict[str, Any], message: str) -> None:
    body = {"error": {"code": 400, "message": message, "errors": [entry]}}
    verdict = classify(400, body)
    assert verdict.parameter == parameter
    assert BadRequest("search.list", verdict).parameter == parameter


def test_a_field_violation_names_the_parameter_too() -> None:
    body = error(400, "Request contains an invalid argument.", "badRequest", status="INVALID_ARGUMENT")
    violation = {"field": "region_code", "description": "not a region"}
    body["error"]["details"] = [{"@type": "x/google.rpc.BadRequest", "fieldViolations": [violation]}]
    assert classify(400, body).parameter == "regionCode"


def test_a_403_that_blames_nothing_in_the_request_is_the_services_own() -> None:
    message = "The authenticated user cannot act on behalf of the specified Google account."
    entry = {
        "message": message,
        "domain": "youtube.common",
        "reason": "accountDelegationForbidden",
        "location": "Authorization",
        "locationType": "header",
    }
    verdict = classify(403, {"error": {"code": 403, "message": message, "errors": [entry]}})
    assert (verdict.disposition, verdict.parameter) == (TRANSIENT, None)


def test_an_error_is_told_in_one_line_whatever_it_holds() -> None:
    body = error(400, "\x1b[2J\x1b]0;owned\x07 a\u202eb\nc" + "x" * 10**6, "bad\x1breason" + "y" * 10**6)
    verdict = classify(400, body)
    assert verdict.reason == ""
    assert str(verdict).isprintable()
    assert len(str(verdict)) < 320


def test_spent_quota_says_when_it_refills() -> None:
    verdict = Verdict(DAY, "quotaExceeded", "spent", status=403)
    reset = datetime(2026, 11, 22, 8, tzinfo=UTC)
    assert "until 2026-11-22 08:00:00 UTC" in str(QuotaExhausted("search.list", verdict, reset))
