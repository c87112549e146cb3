"""Signing in with a key: a browser then presents a session, which ends when the key is revoked."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from maia.api.access import SESSION_COOKIE, SESSION_S
from maia.api.context import service_of
from maia.api.pages.parameters import PageRoute, form_of
from maia.api.pages.rendering import page
from maia.api.problems import Problem
from maia.origin import refusal

router = APIRouter(route_class=PageRoute)

_LONGEST: Final = 2_000


@router.get("/login")
async def form(request: Request) -> Response:
    """The form that asks for a key."""
    return await _form(request, request.query_params.get("next"))


@router.post("/login")
async def sign_in(request: Request) -> Response:
    """Exchange a key for a session."""
    _check_origin(request)
    fields, access = await form_of(request), service_of(request).access
    try:
        caller = await access.caller(fields.get("key", "").strip()[:_LONGEST], None, is_local=False)
    except Problem as problem:
        return await _form(request, fields.get("next"), status=problem.status, problem=problem.detail)
    key = (await access.keys()).get(caller.id or "")
    if key is None:
        return await _form(request, fields.get("next"), status=401, problem="this key was revoked just now")
    answer = RedirectResponse(_own_path(fields.get("next")), 303)
    answer.set_cookie(
        SESSION_COOKIE,
        access.session_of(key),
        max_age=SESSION_S,
        path="/",
        httponly=True,
        samesite="strict",
        secure=_is_encrypted(request),
    )
    return answer


@router.post("/logout")
async def sign_out(request: Request) -> Response:
    """End the browser's session."""
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(
        SESSION_COOKIE, path="/", httponly=True, samesite="strict", secure=_is_encrypted(request)
    )
    return answer


def _is_encrypted(request: Request) -> bool:
    """Whether the browser came by TLS, to us or to a proxy; then its cookie must not go in plain text."""
    return "https" in (request.url.scheme, request.headers.get("x-forwarded-proto"))


async def _form(
    request: Request, then: str | None, *, status: int = 200, problem: str | None = None
) -> Response:
    has_keys = bool(await service_of(request).access.keys())
    return page(
        request, "login.html.j2", http_status=status, problem=problem, then=_own_path(then), has_keys=has_keys
    )


def _check_origin(request: Request) -> None:
    """A page of another site must not sign a visitor in, either."""
    headers, settings = request.headers, service_of(request).atlas.settings.api
    host = headers.get("host", "")
    own_name = host.rsplit(":", 1)[0]
    if reason := refusal(host, headers.get("origin"), settings.allowed_hosts, own_name):
        raise Problem(403, f"{reason}: open /login itself")


def _own_path(then: str | None) -> str:
    """Where to go after signing in: a path of ours, never another site."""
    if then is None or not then.startswith("/") or len(then) > _LONGEST:
        return "/"
    try:
        parts = urlsplit(then)
    except ValueError:
        return "/"
    is_foreign = parts.scheme or parts.netloc or then.startswith(("//", "/\\")) or "\\" in then
    return "/" if is_foreign or not then.isprintable() or parts.path == "/login" else then
