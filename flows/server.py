"""The Prefect server of PREFECT_API_URL: whether it is set, and whether a server answers there."""

from __future__ import annotations

import asyncio
import time

import httpx
from prefect.settings import PREFECT_API_URL, PREFECT_CLOUD_API_URL

from atlas.errors import ConfigError
from maia.errors import MaiaError, Unreachable

_POLL_S = 0.1
_GRACE_S = 10
REMEDY = "or run the agent without Prefect: maia hunter --direct"


class PrefectServerError(MaiaError):
    """Prefect's server cannot be used."""


class PrefectServerAway(PrefectServerError, Unreachable):
    """The Prefect server at PREFECT_API_URL does not answer."""

    def __init__(self, finding: str, remedy: str) -> None:
        super().__init__(f"{finding}: {remedy}")
        self.finding, self.remedy = finding, remedy


def answering() -> str | None:
    """PREFECT_API_URL, or None if it is unset; PrefectServerAway if no server answers there."""
    url: str | None = PREFECT_API_URL.value()
    if url:
        _check(url)
    return url or None


def required_url() -> str:
    """PREFECT_API_URL; ConfigError if it is unset."""
    url: str | None = PREFECT_API_URL.value()
    if not url:
        raise ConfigError(
            "PREFECT_API_URL is not set: set it to your Prefect server, such as http://127.0.0.1:4200/api, "
            "or let maia up start one"
        )
    return url


async def wait_until_answering(url: str, limit_s: float) -> None:
    """Wait for a server that may be starting; PrefectServerAway if it takes longer than `limit_s`."""
    deadline = time.monotonic() + limit_s
    while not await answers(url):
        if time.monotonic() > deadline:
            raise PrefectServerAway(
                f"PREFECT_API_URL: {url} did not answer in {limit_s:g} s",
                "start that server (maia up, or prefect server start)",
            )
        await asyncio.sleep(_POLL_S)


async def answers(url: str) -> bool:
    """Whether a server responds at that URL."""
    try:
        async with httpx.AsyncClient(timeout=_GRACE_S) as client:
            return (await client.get(f"{url}/health")).is_success
    except httpx.TransportError:
        return False


def _check(url: str) -> None:
    try:
        response = httpx.get(f"{url}/health", timeout=_GRACE_S)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise PrefectServerAway(
            f"PREFECT_API_URL: {url} does not answer ({error})",
            f"start that server (prefect server start), unset the variable to use a temporary one, {REMEDY}",
        ) from error
    if not _is_prefect(url, response):
        raise PrefectServerAway(
            f"PREFECT_API_URL: what answers at {url} is not the API of a Prefect server",
            f"set it to that API's URL, such as http://127.0.0.1:4200/api, {REMEDY}",
        )


def _is_prefect(url: str, response: httpx.Response) -> bool:
    """Whether this answers for Prefect's API, as far as somebody without a login can know."""
    if url.startswith(PREFECT_CLOUD_API_URL.value()) or response.status_code in {401, 403}:
        return True
    return response.status_code >= 500 or (response.is_success and response.text.strip() == "true")
