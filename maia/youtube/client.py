"""The YouTube Data API v3 over aiohttp: every request granted by the quota ledger first.

What becomes of a grant:

- answered, whatever the answer said: settled, or recorded as the refusal that it was;
- sent, but without a whole answer: failed, which counts it as used and counts against the key;
- never sent, as no connection could be had: given back. That is no key's fault, so no key's circuit
  opens for it; the few attempts, their back-off and the caller's own pause keep us from hammering;
- cancelled on its way: left reserved, so that the ledger never counts less than the API does.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar, assert_never, overload

import aiohttp
import orjson
import stamina
from yarl import URL

from atlas.clock import Clock
from atlas.config import Bucket, YouTubeSettings
from atlas.errors import ConfigError, RingClosed
from maia.youtube.errors import (
    BadRequest,
    Disposition,
    Gone,
    KeyRejected,
    QuotaExhausted,
    RateLimited,
    Transient,
    Verdict,
    YouTubeError,
    classify,
)
from maia.youtube.feed import FeedEntry, parse_feed
from maia.youtube.methods import (
    BATCH_STATS,
    CATEGORIES,
    CHANNELS,
    CHART,
    PLAYLIST_ITEMS,
    SEARCH,
    SEARCH_IDS,
    VIDEO_STATS,
    VIDEOS,
    Method,
    distinct,
    page_size,
    query,
)
from maia.youtube.resources import (
    Channel,
    MalformedAnswer,
    NotModified,
    PlaylistPage,
    SearchPage,
    StatsBatch,
    Video,
    VideoCategory,
    VideoPage,
    VideoStats,
    parse_categories,
    parse_channels,
    parse_playlist_page,
    parse_search_page,
    parse_stats,
    parse_video_page,
    parse_videos,
)

if TYPE_CHECKING:
    from atlas.keyring import Grant

logger = logging.getLogger(__name__)

T = TypeVar("T")
SearchOrder = Literal["date", "rating", "relevance", "title", "videoCount", "viewCount"]

IDS_PER_CALL = 50
_PUBLIC_API = "https://www.googleapis.com"
_PUBLIC_FEEDS = "https://www.youtube.com"
# Google compresses only for a User-Agent that says gzip.
_HEADERS = {"User-Agent": "pleiades (gzip)", "Accept-Encoding": "gzip"}
_LARGEST_ANSWER = 8 * 2**20
_LEDGER_GRACE_S = 2.0
_LONGEST_WAIT_S = 5.0
_METHOD_UNKNOWN = (404, 501)


class KeySource(Protocol):
    """Grants calls and keeps the account of them, as `atlas.keyring.KeyRing` does."""

    async def acquire(self, bucket: Bucket, units: int = 1) -> Grant: ...
    async def settle(self, grant: Grant, units: int | None = None) -> None: ...
    async def cancel(self, grant: Grant) -> None: ...
    async def fail(self, grant: Grant, reason: str) -> None: ...
    async def close_day(self, grant: Grant, reason: str) -> datetime: ...
    async def cool_down(self, grant: Grant, retry_after_s: float | None, reason: str) -> datetime: ...
    async def disable_key(self, grant: Grant, reason: str) -> None: ...


@dataclass(slots=True)
class _Call(Generic[T]):
    """One call under way, over all its attempts and keys."""

    method: Method
    params: Mapping[str, str]
    parse: Callable[[Mapping[str, Any]], T]
    etag: str | None = None
    grant: Grant | None = None
    """What pays for the first request, if the caller has it already."""
    refusals: dict[str, Verdict] = field(default_factory=dict)
    """What YouTube said of each key it refused, by fingerprint."""

    @property
    def query(self) -> dict[str, str]:
        return {"part": self.method.part, "fields": self.method.fields, **self.params}

    def without_key(self, closed: RingClosed | None) -> YouTubeError | None:
        """What to raise when no further key can be had; None where RingClosed itself says it all."""
        verdicts = self.refusals.values()
        reopens_at = closed.reopens_at if closed else None
        spent = [verdict for verdict in verdicts if verdict.disposition is Disposition.DAY_QUOTA]
        if spent:
            return QuotaExhausted(self.method.name, spent[-1], reopens_at, str(closed or ""))
        rejected = [verdict for verdict in verdicts if verdict.disposition in _REJECTIONS]
        return KeyRejected(self.method.name, rejected[-1]) if rejected and reopens_at is None else None


_REJECTIONS = (Disposition.KEY_DEAD, Disposition.CONFIG)


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


class _NoAnswer(Exception):
    """A request brought no whole answer; `sent` unless no connection was had."""

    def __init__(self, reason: str, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent
        self.verdict = Verdict(Disposition.TRANSIENT, reason, message)


class _Interrupted(aiohttp.ClientError):
    """A connection broke after the request went out."""


class YouTube:
    """The API's methods, each answering typed results or raising what `maia.youtube.errors` draws."""

    def __init__(
        self, session: aiohttp.ClientSession, settings: YouTubeSettings, keys: KeySource, *, clock: Clock
    ) -> None:
        self.requests: Counter[Bucket] = Counter()
        """Requests sent, by bucket."""
        self._session, self._settings, self._keys, self._clock = session, settings, keys, clock
        self._api, self._feeds = _roots(settings)
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._has_batch_stats = True

    @classmethod
    @asynccontextmanager
    async def open(
        cls, settings: YouTubeSettings, keys: KeySource, *, clock: Clock
    ) -> AsyncIterator[YouTube]:
        """One session for every call; proxies of the environment are not trusted with keys."""
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=settings.concurrency),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=_HEADERS,
            trust_env=False,
            middlewares=(_send_once,),
        ) as session:
            yield cls(session, settings, keys, clock=clock)

    async def search(
        self,
        *,
        q: str | None = None,
        order: SearchOrder = "relevance",
        published_after: datetime | None = None,
        published_before: datetime | None = None,
        region_code: str | None = None,
        relevance_language: str | None = None,
        video_category_id: int | None = None,
        channel_id: str | None = None,
        page_token: str | None = None,
        max_results: int = 50,
        ids_only: bool = False,
        grant: Grant | None = None,
    ) -> SearchPage:
        """A page of videos. A `page_token` belongs to the very parameters that it was given for.

        With `ids_only` nothing else is asked for, which makes the answer an eighth as long. `grant` is spent
        first, if the caller has one.
        """
        params = query(
            type="video",
            q=q,
            order=order,
            publishedAfter=published_after,
            publishedBefore=published_before,
            regionCode=region_code,
            relevanceLanguage=relevance_language,
            videoCategoryId=video_category_id,
            channelId=channel_id,
            pageToken=page_token,
            maxResults=page_size(max_results),
        )
        method = SEARCH_IDS if ids_only else SEARCH
        return await self._fresh(_Call(method, params, parse_search_page, grant=grant))

    async def videos(self, ids: Iterable[str], *, grant: Grant | None = None) -> tuple[Video, ...]:
        """The videos of those ids in their order, each once; deleted and private ones are missing.

        `grant` is spent first, if the caller has one.
        """
        wanted, paid = distinct(ids), iter([grant])
        answers = await self._each_chunk(
            wanted,
            lambda chunk: self._fresh(_Call(VIDEOS, {"id": chunk}, parse_videos, grant=next(paid, None))),
        )
        found = {video.id: video for answer in answers for video in answer}
        return tuple(found[id_] for id_ in wanted if id_ in found)

    async def batch_get_stats(self, ids: Iterable[str]) -> StatsBatch:
        """The counters of those ids in their order, each once, and the ids that have none."""
        wanted = distinct(ids)
        answers = await self._each_chunk(wanted, self._stats)
        found = {stats.id: stats for answer in answers for stats in answer}
        return StatsBatch(
            tuple(found[id_] for id_ in wanted if id_ in found),
            tuple(id_ for id_ in wanted if id_ not in found),
        )

    async def channels(self, ids: Iterable[str]) -> tuple[Channel, ...]:
        """The channels of those ids in their order, each once; terminated ones are missing."""
        wanted = distinct(ids)
        answers = await self._each_chunk(
            wanted, lambda chunk: self._fresh(_Call(CHANNELS, {"id": chunk}, parse_channels))
        )
        found = {channel.id: channel for answer in answers for channel in answer}
        return tuple(found[id_] for id_ in wanted if id_ in found)

    @overload
    async def playlist_items(
        self, playlist_id: str, page_token: str | None = None, *, max_results: int = 50, etag: None = None
    ) -> PlaylistPage: ...
    @overload
    async def playlist_items(
        self, playlist_id: str, page_token: str | None = None, *, max_results: int = 50, etag: str | None
    ) -> PlaylistPage | NotModified: ...
    async def playlist_items(
        self,
        playlist_id: str,
        page_token: str | None = None,
        *,
        max_results: int = 50,
        etag: str | None = None,
    ) -> PlaylistPage | NotModified:
        """A page of a playlist; NotModified, for the same unit, while it is as `etag` names it."""
        params = query(playlistId=playlist_id, pageToken=page_token, maxResults=page_size(max_results))
        return await self._call(_Call(PLAYLIST_ITEMS, params, parse_playlist_page, etag))

    async def most_popular(
        self,
        region_code: str,
        category_id: int | None = None,
        page_token: str | None = None,
        *,
        max_results: int = 50,
    ) -> VideoPage:
        """A page of a region's chart; since July 2025 only of music, movies and gaming."""
        params = query(
            chart="mostPopular",
            regionCode=region_code,
            videoCategoryId=category_id,
            pageToken=page_token,
            maxResults=page_size(max_results),
        )
        return await self._fresh(_Call(CHART, params, parse_video_page))

    async def video_categories(self, region_code: str) -> tuple[VideoCategory, ...]:
        """The categories that videos of a region may be in."""
        return await self._fresh(_Call(CATEGORIES, {"regionCode": region_code}, parse_categories))

    async def feed(self, channel_id: str) -> tuple[FeedEntry, ...]:
        """A channel's newest uploads with their views, for no quota and without a key."""
        url = (self._feeds / "feeds" / "videos.xml").with_query(channel_id=channel_id)
        return await self._retried("feed", lambda deadline: self._feed_attempt(url, deadline))

    async def _stats(self, chunk: str) -> tuple[VideoStats, ...]:
        if self._has_batch_stats:
            try:
                return await self._fresh(_Call(BATCH_STATS, {"id": chunk}, parse_stats))
            except (BadRequest, Gone, Transient) as refusal:
                if refusal.verdict.status not in _METHOD_UNKNOWN:
                    raise
                logger.warning("%s; from now on videos.list is asked instead", refusal)
                self._has_batch_stats = False
        return await self._fresh(_Call(VIDEO_STATS, {"id": chunk}, parse_stats))

    async def _each_chunk(self, ids: Sequence[str], ask: Callable[[str], Coroutine[Any, Any, T]]) -> list[T]:
        """The answers for 50 ids at a time, in order; the first failure ends them all."""
        chunks = [",".join(ids[at : at + IDS_PER_CALL]) for at in range(0, len(ids), IDS_PER_CALL)]
        if len(chunks) == 1:
            return [await ask(chunks[0])]
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(ask(chunk)) for chunk in chunks]
        except ExceptionGroup as failures:
            worst = next(
                (e for e in failures.exceptions if isinstance(e, RateLimited)), failures.exceptions[0]
            )
            raise worst from None
        return [task.result() for task in tasks]

    async def _fresh(self, call: _Call[T]) -> T:
        answer = await self._call(call)
        assert not isinstance(answer, NotModified), "a call without an etag cannot be answered so"
        return answer

    async def _call(self, call: _Call[T]) -> T | NotModified:
        return await self._retried(call.method.name, lambda deadline: self._attempt(call, deadline))

    async def _retried(self, name: str, attempt: Callable[[float], Awaitable[T]]) -> T:
        """The attempt's result within the total time; its last Transient when that is over."""
        loop, total_s = asyncio.get_running_loop(), self._settings.total_timeout_s
        late = Verdict(Disposition.TRANSIENT, "timeout", f"the ledger did not answer within {total_s:g} s")
        failure = Transient(name, late)
        async with self._slots:
            end = loop.time() + total_s
            # The last request ends early enough for the ledger to hear of it.
            deadline = end - min(_LEDGER_GRACE_S, total_s / 10)
            try:
                async with asyncio.timeout_at(end):
                    async for trial in stamina.retry_context(
                        on=_worth_another_try,
                        attempts=self._settings.attempts,
                        timeout=total_s,
                        wait_initial=0.2,
                        wait_max=_LONGEST_WAIT_S,
                        wait_jitter=1.0,
                    ):
                        with trial:
                            if loop.time() >= deadline:
                                raise failure
                            try:
                                return await attempt(deadline)
                            except Transient as error:
                                failure = error
                                raise
            except TimeoutError:
                raise failure from None
        raise failure

    async def _attempt(self, call: _Call[T], deadline: float) -> T | NotModified:
        """One answer, asked of one key after another while YouTube refuses them."""
        while True:
            grant = await self._grant(call)
            answer = await self._ask(call, grant, deadline)
            if answer.status == 304 and call.etag is not None:
                await self._record(self._keys.settle(grant))
                return NotModified(call.etag)
            if answer.status == 200:
                try:
                    result = _read(answer.body, call.parse)
                except MalformedAnswer as fault:
                    await self._record(self._keys.fail(grant, str(fault)))
                    raise Transient(call.method.name, _malformed(fault)) from fault
                if result is not None:
                    await self._record(self._keys.settle(grant))
                    return result
            await self._refused(call, grant, answer)

    async def _grant(self, call: _Call[Any]) -> Grant:
        if call.grant is not None:
            grant, call.grant = call.grant, None
            return grant
        try:
            grant = await self._keys.acquire(call.method.bucket)
        except RingClosed as closed:
            error = call.without_key(closed)
            if error is None:
                raise
            raise error from closed
        if grant.fingerprint in call.refusals:
            # The ledger could not record the refusal: asking again would only spend.
            await self._record(self._keys.cancel(grant))
            verdict = call.refusals[grant.fingerprint]
            raise call.without_key(None) or Transient(call.method.name, verdict)
        return grant

    async def _ask(self, call: _Call[Any], grant: Grant, deadline: float) -> _Answer:
        url = (self._api / call.method.path).with_query(call.query)
        self.requests[call.method.bucket] += 1
        try:
            return await self._get(url, deadline, key=grant, etag=call.etag)
        except _NoAnswer as failure:
            if failure.sent:
                await self._record(self._keys.fail(grant, str(failure)))
            else:
                self.requests[call.method.bucket] -= 1
                await self._record(self._keys.cancel(grant))
            raise Transient(call.method.name, failure.verdict) from failure

    async def _refused(self, call: _Call[Any], grant: Grant, answer: _Answer) -> None:
        """Record a refusal and raise it, or return if another key may be asked."""
        name, keys, until = call.method.name, self._keys, None
        body = answer.body.replace(grant.key.get_secret_value().encode(), b"[key]")
        verdict = classify(answer.status, body, answer.headers, now=self._clock.now())
        logger.info("%s was refused: %s", name, verdict, extra={"action": f"youtube_{verdict.disposition}"})
        match verdict.disposition:
            case Disposition.DAY_QUOTA:
                until = await self._record_refusal(verdict, keys.close_day(grant, str(verdict)))
            case Disposition.SHORT_RATE:
                cooling = keys.cool_down(grant, verdict.retry_after_s, str(verdict))
                until = await self._record_refusal(verdict, cooling)
            case Disposition.KEY_DEAD | Disposition.CONFIG:
                await self._record_refusal(verdict, keys.disable_key(grant, verdict.plain_words))
            case Disposition.BAD_REQUEST:
                await self._record(keys.settle(grant))
                raise BadRequest(name, verdict)
            case Disposition.GONE:
                await self._record(keys.settle(grant))
                raise Gone(name, verdict)
            case Disposition.TRANSIENT:
                missing = verdict.status == 501
                await self._record(keys.settle(grant) if missing else keys.fail(grant, str(verdict)))
                raise Transient(name, verdict)
            case _:
                assert_never(verdict.disposition)
        if verdict.status == 429:
            raise RateLimited(name, verdict, until)
        call.refusals[grant.fingerprint] = verdict

    async def _record_refusal(self, verdict: Verdict, recording: Coroutine[Any, Any, T]) -> T | None:
        try:
            return await self._record(recording)
        except asyncio.CancelledError:
            if verdict.status == 429:
                # A 429 ends the process, which outranks whatever cancelled this one call.
                return None
            raise

    async def _record(self, recording: Coroutine[Any, Any, T]) -> T | None:
        """Write to the ledger to the end, for up to 2 s even if cancelled meanwhile."""
        task = asyncio.ensure_future(_logged(recording))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            try:
                await asyncio.wait({task}, timeout=_LEDGER_GRACE_S)
            finally:
                task.cancel()
            raise

    async def _feed_attempt(self, url: URL, deadline: float) -> tuple[FeedEntry, ...]:
        try:
            answer = await self._get(url, deadline)
        except _NoAnswer as failure:
            raise Transient("feed", failure.verdict) from failure
        if answer.status == 200:
            try:
                return parse_feed(answer.body)
            except MalformedAnswer as fault:
                raise Transient("feed", _malformed(fault)) from fault
        verdict = classify(answer.status, answer.body, answer.headers, now=self._clock.now())
        if answer.status == 404:
            raise Gone("feed", verdict)
        if answer.status == 429:
            raise RateLimited("feed", verdict)
        raise (Transient if answer.status >= 500 else BadRequest)("feed", verdict)

    async def _get(
        self, url: URL, deadline: float, *, key: Grant | None = None, etag: str | None = None
    ) -> _Answer:
        """The whole answer, or _NoAnswer."""
        left_s = deadline - asyncio.get_running_loop().time()
        if left_s <= 0:
            raise _NoAnswer("timeout", "no time was left to ask", sent=False)
        timeout = aiohttp.ClientTimeout(
            total=min(self._settings.timeout_s, left_s), sock_connect=self._settings.connect_timeout_s
        )
        try:
            async with self._session.get(
                url, headers=_request_headers(key, etag), allow_redirects=False, timeout=timeout
            ) as response:
                return _Answer(response.status, response.headers, await _body(response))
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            failure = _NoAnswer("connection", str(error), sent=False)
        except TimeoutError:
            failure = _NoAnswer("timeout", f"no whole answer within {timeout.total:.3g} s", sent=True)
        except (aiohttp.ClientError, OSError) as error:
            failure = _NoAnswer("connection", f"{type(error).__name__}: {error}", sent=True)
        # Raised out here so that aiohttp's error, which may hold the request and so the key, is no context.
        raise failure


async def _logged(recording: Coroutine[Any, Any, T]) -> T | None:
    """The recording's result. A ledger that fails is logged, not raised.

    The answer in hand is worth more, and a unit that is not written off stays reserved, which counts it.
    """
    try:
        return await recording
    except Exception:
        logger.exception("the ledger could not record what became of a call; its unit stays counted")
        return None


async def _send_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Keep aiohttp from sending a GET anew by itself: a second request costs a second unit."""
    try:
        return await handler(request)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _Interrupted(f"{type(error).__name__}: {error}") from None


async def _body(response: aiohttp.ClientResponse) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        chunks.append(chunk)
        size += len(chunk)
        if size > _LARGEST_ANSWER:
            raise aiohttp.ClientPayloadError(f"the answer is longer than {_LARGEST_ANSWER} bytes")
    return b"".join(chunks)


def _request_headers(grant: Grant | None, etag: str | None) -> dict[str, str]:
    headers = {"x-goog-api-key": grant.key.get_secret_value()} if grant else {}
    if etag is not None:
        headers["If-None-Match"] = etag
    return headers


def _read(body: bytes, parse: Callable[[Mapping[str, Any]], T]) -> T | None:
    """The result in an answer of status 200; None if it is an error all the same."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as fault:
        torn = str(fault)
    else:
        if not isinstance(document, dict):
            raise MalformedAnswer(f"the answer is no JSON object, but {type(document).__name__}")
        return None if "error" in document else parse(document)
    # Raised out here so that the decoder's error, which holds the answer, is no context.
    raise MalformedAnswer(f"the answer is not whole JSON: {torn}")


def _malformed(fault: MalformedAnswer) -> Verdict:
    return Verdict(Disposition.TRANSIENT, "malformed", str(fault), status=200)


def _worth_another_try(error: Exception) -> bool | float:
    """Whether to try again, or after how many seconds at least."""
    if not isinstance(error, Transient) or error.verdict.status == 501:
        return False
    asked_s = error.verdict.retry_after_s
    return True if asked_s is None else min(asked_s, _LONGEST_WAIT_S)


def _roots(settings: YouTubeSettings) -> tuple[URL, URL]:
    """The roots of the API and of the feeds."""
    api = _root("BASE_URL", settings.base_url)
    public = api == URL(_PUBLIC_API)
    feeds = settings.feed_url or (_PUBLIC_FEEDS if public else settings.base_url)
    return api / "youtube" / "v3", _root("FEED_URL", feeds)


def _root(name: str, text: str) -> URL:
    try:
        url = URL(text.rstrip("/"))
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigError(
            f"PLEIADES_YOUTUBE__{name} must be a URL such as {_PUBLIC_API} or http://127.0.0.1:8780, "
            f"not {text!r}"
        )
    return url
