"""The API's error responses, as exceptions.

A refusal that `counts` costs its project a unit, as any request that reaches the real service does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Self
from zlib import crc32

import orjson

from atlas.clock import pacific_day, pacific_midnight
from atlas.config import Bucket

_QUOTA_MESSAGE = (
    "The request cannot be completed because you have exceeded your "
    '<a href="/youtube/v3/getting-started#quota">quota</a>.'
)
_METRICS: Mapping[Bucket, tuple[str, str, str]] = {
    "search": ("Search Queries", "search_list", "SearchList"),
    "stats": ("Batch Get Stats Queries", "batch_get_stats", "BatchGetStats"),
    "general": ("Queries", "default", ""),
}


class ErrorResponse(Exception):
    """An error response: its HTTP status and body."""

    def __init__(
        self, status: int, body: Mapping[str, Any], *, counts: bool = True, retry_after_s: int | None = None
    ) -> None:
        self.status, self.body, self.counts, self.retry_after_s = status, body, counts, retry_after_s
        super().__init__(body["error"]["message"])

    def content(self) -> bytes:
        return orjson.dumps(self.body)

    @classmethod
    def of(
        cls,
        code: int,
        message: str,
        reason: str,
        *,
        domain: str | None = "global",
        parameter: str | None = None,
        location_type: str = "parameter",
        status: str | None = None,
        details: Iterable[Mapping[str, Any]] = (),
        counts: bool = True,
        retry_after_s: int | None = None,
    ) -> Self:
        """The usual form of an error body."""
        first: dict[str, Any] = {"message": message, "reason": reason}
        if domain:
            first["domain"] = domain
        if parameter is not None:
            first |= {"location": parameter, "locationType": location_type}
        error: dict[str, Any] = {"code": code, "message": message, "errors": [first]}
        if status:
            error["status"] = status
        if details := list(details):
            error["details"] = details
        return cls(code, {"error": error}, counts=counts, retry_after_s=retry_after_s)


def error_info(reason: str, **metadata: str) -> dict[str, Any]:
    """A google.rpc.ErrorInfo."""
    info: dict[str, Any] = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": reason,
        "domain": "googleapis.com",
    }
    return info | {"metadata": metadata} if metadata else info


def project_number(project: str) -> str:
    """A stable twelve-digit number for a project's name."""
    return str(10**11 + crc32(project.encode()) * 209)


def invalid_parameter(name: str, message: str) -> ErrorResponse:
    return ErrorResponse.of(400, message, "invalidParameter", parameter=name)


def unknown_parameter(name: str) -> ErrorResponse:
    message = (
        f'Invalid JSON payload received. Unknown name "{name}": Cannot bind query parameter. '
        f"Field '{name}' could not be found in request message."
    )
    violation = {
        "@type": "type.googleapis.com/google.rpc.BadRequest",
        "fieldViolations": [{"description": message}],
    }
    return ErrorResponse.of(
        400, message, "invalid", domain=None, status="INVALID_ARGUMENT", details=[violation]
    )


def missing_parameter(name: str) -> ErrorResponse:
    return ErrorResponse.of(400, f"Required parameter: {name}", "required", parameter=name)


def unknown_part(part: str, resource: str) -> ErrorResponse:
    return ErrorResponse.of(400, f"'{part}'", "unknownPart", domain=f"youtube.{resource}", parameter="part")


def no_filter(expected: Iterable[str]) -> ErrorResponse:
    message = f"No filter selected. Expected one of: {', '.join(expected)}"
    return ErrorResponse.of(
        400,
        message,
        "missingRequiredParameter",
        domain="youtube.parameter",
        parameter="parameters.",
        location_type="other",
    )


def incompatible_parameters(names: Iterable[str]) -> ErrorResponse:
    message = f"Incompatible parameters specified in the request: {', '.join(names)}"
    return ErrorResponse.of(
        400,
        message,
        "incompatibleParameters",
        domain="youtube.parameter",
        parameter="",
        location_type="parameter",
    )


def invalid_filters(parameter: str) -> ErrorResponse:
    message = "The request specifies an invalid filter parameter."
    return ErrorResponse.of(400, message, "invalidFilters", domain="youtube.parameter", parameter=parameter)


def invalid_search_filter(parameter: str) -> ErrorResponse:
    message = (
        "The request contains an invalid combination of search filters and/or restrictions. Note that you "
        "must set the <code>type</code> parameter to <code>video</code> if you set a value for the "
        f"<code>{parameter}</code> parameter."
    )
    return ErrorResponse.of(400, message, "invalidSearchFilter", domain="youtube.search", parameter=parameter)


def invalid_region(parameter: str) -> ErrorResponse:
    message = "Invalid region code."
    return ErrorResponse.of(
        400, message, "invalidRegionCode", domain="youtube.parameter", parameter=parameter
    )


def delegation_forbidden() -> ErrorResponse:
    """A 403 that YouTube sometimes sends for correct requests."""
    return ErrorResponse.of(
        403,
        "The authenticated user cannot act on behalf of the specified Google account.",
        "accountDelegationForbidden",
        domain="youtube.common",
        parameter="Authorization",
        location_type="header",
    )


def invalid_page_token() -> ErrorResponse:
    message = "The request specifies an invalid page token."
    return ErrorResponse.of(
        400, message, "invalidPageToken", domain="youtube.parameter", parameter="pageToken"
    )


def invalid_argument() -> ErrorResponse:
    message = "Request contains an invalid argument."
    return ErrorResponse.of(400, message, "badRequest", status="INVALID_ARGUMENT")


def needs_user(parameter: str) -> ErrorResponse:
    message = f"The request uses the <code>{parameter}</code> parameter but is not properly authorized."
    return ErrorResponse.of(
        401, message, "authorizationRequired", domain="youtube.parameter", parameter=parameter
    )


def forbidden_part() -> ErrorResponse:
    message = "The request is not properly authorized to access video file or processing information."
    return ErrorResponse.of(403, message, "forbidden", domain="youtube.video", parameter="part")


def playlist_not_found() -> ErrorResponse:
    message = "The playlist identified with the request's <code>playlistId</code> parameter cannot be found."
    return ErrorResponse.of(
        404, message, "playlistNotFound", domain="youtube.playlistItem", parameter="playlistId"
    )


def video_not_found() -> ErrorResponse:
    message = "The video identified by the <code>videoId</code> parameter could not be found."
    return ErrorResponse.of(404, message, "videoNotFound", domain="youtube.video", parameter="videoId")


def comments_disabled() -> ErrorResponse:
    message = (
        'The video identified by the <code><a href="/youtube/v3/docs/commentThreads/list#videoId">videoId'
        "</a></code> parameter has disabled comments."
    )
    return ErrorResponse.of(
        403, message, "commentsDisabled", domain="youtube.commentThread", parameter="videoId"
    )


def method_not_found() -> ErrorResponse:
    return ErrorResponse.of(404, "Method not found.", "notFound", status="NOT_FOUND", counts=False)


def method_not_allowed() -> ErrorResponse:
    return ErrorResponse.of(405, "The emulator answers GET only.", "httpMethodNotAllowed", counts=False)


def not_implemented() -> ErrorResponse:
    message = "Operation is not implemented, or supported, or enabled."
    return ErrorResponse.of(501, message, "notImplemented", status="UNIMPLEMENTED")


def unregistered_caller() -> ErrorResponse:
    message = (
        "Method doesn't allow unregistered callers (callers without established identity). Please use API "
        "Key or other form of API consumer identity to call this API."
    )
    return ErrorResponse.of(403, message, "forbidden", status="PERMISSION_DENIED", counts=False)


def key_invalid() -> ErrorResponse:
    message = "API key not valid. Please pass a valid API key."
    details = [error_info("API_KEY_INVALID", service="youtube.googleapis.com")]
    return ErrorResponse.of(
        400, message, "badRequest", status="INVALID_ARGUMENT", details=details, counts=False
    )


def key_expired() -> ErrorResponse:
    message = "API key expired. Please renew the API key."
    details = [error_info("API_KEY_INVALID", service="youtube.googleapis.com")]
    return ErrorResponse.of(
        400, message, "badRequest", status="INVALID_ARGUMENT", details=details, counts=False
    )


def legacy_key_refused(reason: str) -> ErrorResponse:
    return ErrorResponse.of(400, "Bad Request", reason, domain="usageLimits", counts=False)


def not_configured(project: str) -> ErrorResponse:
    number = project_number(project)
    message = f"YouTube Data API v3 has not been used in project {number} before or it is disabled."
    details = [
        error_info("SERVICE_DISABLED", service="youtube.googleapis.com", consumer=f"projects/{number}")
    ]
    return ErrorResponse.of(
        403,
        message,
        "accessNotConfigured",
        domain="usageLimits",
        status="PERMISSION_DENIED",
        details=details,
        counts=False,
    )


def key_blocked(reason: str, message: str) -> ErrorResponse:
    return ErrorResponse.of(
        403, message, "forbidden", status="PERMISSION_DENIED", details=[error_info(reason)], counts=False
    )


def quota_exceeded() -> ErrorResponse:
    return ErrorResponse.of(403, _QUOTA_MESSAGE, "quotaExceeded", domain="youtube.quota", counts=False)


def daily_limit_exceeded() -> ErrorResponse:
    message = (
        "Daily Limit Exceeded. The quota will be reset at midnight Pacific Time (PT). You may monitor your "
        "quota usage and adjust limits in the API Console."
    )
    return ErrorResponse.of(403, message, "dailyLimitExceeded", domain="usageLimits", counts=False)


def user_rate_limit_exceeded() -> ErrorResponse:
    return ErrorResponse.of(
        403, "User Rate Limit Exceeded", "userRateLimitExceeded", domain="usageLimits", counts=False
    )


def bare_rate_limit() -> ErrorResponse:
    return ErrorResponse.of(
        429, "Rate Limit Exceeded", "rateLimitExceeded", domain="usageLimits", counts=False
    )


def day_exhausted(project: str, bucket: Bucket, limit: int, now: datetime) -> ErrorResponse:
    """429 for the rest of the Pacific day."""
    metric, name, limit_name = _METRICS[bucket]
    window = pacific_midnight(pacific_day(now))
    return _rate_limited(
        project,
        metric,
        f"{metric} per day",
        quota_location="global",
        window_start_time=str(int(window.timestamp())),
        quota_limit=f"default{limit_name}PerDayPerProject",
        quota_unit="1/d/{project}",
        quota_metric=f"youtube.googleapis.com/{name}",
        quota_limit_value=str(limit),
    )


def minute_exhausted(project: str, limit: int, *, retry_after_s: int | None = None) -> ErrorResponse:
    """429 until the minute is over."""
    refusal = _rate_limited(
        project,
        "Queries",
        "Queries per minute",
        quota_location="global",
        quota_limit="defaultPerMinutePerProject",
        quota_unit="1/min/{project}",
        quota_metric="youtube.googleapis.com/default",
        quota_limit_value=str(limit),
    )
    refusal.retry_after_s = retry_after_s
    return refusal


def _rate_limited(project: str, metric: str, limit: str, **metadata: str) -> ErrorResponse:
    number = project_number(project)
    message = (
        f"Quota exceeded for quota metric '{metric}' and limit '{limit}' of service 'youtube.googleapis.com' "
        f"for consumer 'project_number:{number}'."
    )
    metadata |= {"consumer": f"projects/{number}", "service": "youtube.googleapis.com"}
    return ErrorResponse.of(
        429,
        message,
        "rateLimitExceeded",
        status="RESOURCE_EXHAUSTED",
        details=[error_info("RATE_LIMIT_EXCEEDED", **metadata)],
        counts=False,
    )


def backend_error(code: int) -> ErrorResponse:
    """500, 502, 503 or 504."""
    message, reason, status = {
        500: ("Internal error encountered.", "backendError", "INTERNAL"),
        502: ("Bad Gateway", "badGateway", "UNAVAILABLE"),
        503: ("The service is currently unavailable.", "backendError", "UNAVAILABLE"),
        504: ("The request timed out.", "backendError", "DEADLINE_EXCEEDED"),
    }[code]
    return ErrorResponse.of(code, message, reason, status=status)
