"""The YouTube Data API v3 client. Before each request, the quota ledger must grant the units it costs.

What happens to a grant:

- The API responded: the grant is settled, or the refusal is recorded.
- The request was sent, but no complete response came: the grant is failed. It counts as used, and as a
  failure of the key.
- There was no connection: the grant is cancelled. The key is not at fault, so its circuit stays closed; few
  attempts with back-off, and the caller's own pause, limit how often we retry.
- The call was cancelled midway: the grant stays reserved, so the ledger never counts less than the API does.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from math import ceil
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, assert_never, overload

import orjson
import stamina

from atlas.clock import Clock
from atlas.composition import current
from atlas.config import Bucket, YouTubeSettings
from atlas.errors import DatabaseError, NoCurrentAtlas, RingClosed
from maia.youtube.errors import (
    BadRequest,
    Disposition,
    Gone,
    KeyRejected,
    NoResponse,
    QuotaExhausted,
    RateLimited,
    Transient,
    Verdict,
    YouTubeError,
    classify,
)
from maia.youtube.ids import channel_id as checked_channel_id
from maia.youtube.ids import playlist_id as checked_playlist_id
from maia.youtube.ids import video_id as checked_video_id
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
    Duration,
    EventType,
    Method,
    Order,
)
from maia.youtube.reading import (
    MalformedResponse,
    Reader,
    parse_categories,
    parse_channels,
    parse_playlist_page,
    parse_search_page,
    parse_stats,
    parse_video_page,
    parse_videos,
)
from maia.youtube.resources import (
    Channel,
    Feed,
    Json,
    NotModified,
    PlaylistPage,
    SearchPage,
    StatsBatch,
    Validators,
    Video,
    VideoCategory,
    VideoPage,
    VideoStats,
)
from maia.youtube.transport import Transport

if TYPE_CHECKING:
    from yarl import URL

    from atlas.keyring import Grant
    from maia.youtube.session import Response

logger = logging.getLogger(__name__)

T = TypeVar("T")
Id = TypeVar("Id", bound=str)

IDS_PER_CALL = 50
# No response that we request is nested nearly as deep.
_MOST_LEVELS = 32
_HANDLE = re.compile(r"@?[\w.·-]{1,60}")
_LEDGER_GRACE_S = 2.0
_LONGEST_WAIT_S = 5.0
_METHOD_UNKNOWN = (404, 501)


class KeySource(Protocol):
    """Grants units for calls and records what became of them; `atlas.keyring.KeyRing` implements it."""

    async def acquire(self, bucket: Bucket, units: int = 1) -> Grant: ...
    async def settle(self, grant: Grant) -> None: ...
    async def cancel(self, grant: Grant) -> None: ...
    async def fail(self, grant: Grant, reason: str) -> None: ...
    async def close_day(self, grant: Grant, reason: str) -> datetime: ...
    async def cool_down(self, grant: Grant, retry_after_s: float | None, reason: str) -> datetime: ...
    async def disable_key(self, grant: Grant, reason: str) -> None: ...


@dataclass(slots=True)
class _Call(Generic[T]):
    """A call in progress, across all its attempts and keys."""

    method: Method
    params: Mapping[str, str]
    parse: Callable[[Json, Reader], T]
    etag: str | None = None
    grant: Grant | None = None
    """Pays for the first request, if the caller has already reserved it."""
    refusals: dict[str, Verdict] = field(default_factory=dict)
    """The verdict on each key that YouTube refused, by fingerprint."""

    @property
    def query(self) -> dict[str, str]:
        return {"part": self.method.part, "fields": self.method.fields, **self.params}

    def without_key(self, closed: RingClosed | None) -> YouTubeError | None:
        """The error to raise when the ledger grants no other key; None to raise RingClosed itself."""
        verdicts = self.refusals.values()
        reopens_at = closed.reopens_at if closed else None
        spent = [verdict for verdict in verdicts if verdict.disposition is Disposition.DAY_QUOTA]
        if spent:
            return QuotaExhausted(self.method.name, spent[-1], reopens_at, str(closed or ""))
        rejected = [verdict for verdict in verdicts if verdict.disposition in _REJECTIONS]
        return KeyRejected(self.method.name, rejected[-1]) if rejected and reopens_at is None else None


_REJECTIONS = (Disposition.KEY_DEAD, Disposition.CONFIG)


class YouTube:
    """The API's methods. Each returns typed results or raises an error of `maia.youtube.errors`."""

    def __init__(
        self, transport: Transport, settings: YouTubeSettings, keys: KeySource, *, clock: Clock
    ) -> None:
        self.requests: Counter[Bucket] = Counter()
        """Requests sent, by bucket."""
        self.malformed: Counter[str] = Counter()
        """Malformed values in responses, which were left out, counted by kind: "video", "publishedAt", …"""
        self._transport, self._settings, self._keys, self._clock = transport, settings, keys, clock
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._has_batch_stats = True

    @classmethod
    @asynccontextmanager
    async def open(
        cls, settings: YouTubeSettings, keys: KeySource, *, clock: Clock
    ) -> AsyncIterator[YouTube]:
        """Open a client with its own transport."""
        async with Transport.open(settings) as transport:
            yield cls(transport, settings, keys, clock=clock)

    async def search(
        self,
        *,
        q: str | None = None,
        order: Order = "relevance",
        published_after: datetime | None = None,
        published_before: datetime | None = None,
        region_code: str | None = None,
        relevance_language: str | None = None,
        video_category_id: int | None = None,
        video_duration: Duration | None = None,
        event_type: EventType | None = None,
        channel_id: str | None = None,
        page_token: str | None = None,
        max_results: int = 50,
        ids_only: bool = False,
        grant: Grant | None = None,
    ) -> SearchPage:
        """A page of videos. A `page_token` is valid only with the parameters of the search that returned it.

        With `ids_only` the response holds only ids and is an eighth as long. If the caller passes a `grant`,
        the first request spends it; it is cancelled if the parameters are invalid.
        """
        method = SEARCH_IDS if ids_only else SEARCH
        try:
            params = method.params(
                type="video",
                q=q,
                order=order,
                publishedAfter=published_after,
                publishedBefore=published_before,
                regionCode=region_code,
                relevanceLanguage=relevance_language,
                videoCategoryId=video_category_id,
                videoDuration=video_duration,
                eventType=event_type,
                channelId=channel_id,
                pageToken=page_token,
                maxResults=max_results,
            )
        except (BadRequest, ValueError):
            await self._give_back(grant)
            raise
        return await self._fresh(_Call(method, params, parse_search_page, grant=grant))

    async def videos(self, ids: Iterable[str], *, grants: Sequence[Grant] = ()) -> tuple[Video, ...]:
        """The videos with those ids, in order and without duplicates.

        Deleted and private videos, and impossible ids, are missing. The first requests spend the `grants`
        that the caller passes; those that are not needed are cancelled.
        """
        wanted = self._distinct(ids, checked_video_id)
        requests = ceil(len(wanted) / IDS_PER_CALL)
        for grant in grants[requests:]:
            await self._give_back(grant)
        paid = iter(grants[:requests])
        answers = await self._each_chunk(
            wanted,
            lambda chunk: self._fresh(_Call(VIDEOS, {"id": chunk}, parse_videos, grant=next(paid, None))),
        )
        found = {video.id: video for answer in answers for video in answer}
        return tuple(found[id_] for id_ in wanted if id_ in found)

    async def batch_get_stats(self, ids: Iterable[str]) -> StatsBatch:
        """The counters of those videos, in order and without duplicates, and the ids without counters."""
        asked = dict.fromkeys(ids)
        answers = await self._each_chunk(self._distinct(asked, checked_video_id), self._stats)
        found: dict[str, VideoStats] = {stats.id: stats for answer in answers for stats in answer}
        return StatsBatch(
            tuple(found[id_] for id_ in asked if id_ in found),
            tuple(id_ for id_ in asked if id_ not in found),
        )

    async def channels(self, ids: Iterable[str]) -> tuple[Channel, ...]:
        """The channels with those ids, in order; terminated channels and impossible ids are missing."""
        wanted = self._distinct(ids, checked_channel_id)
        answers = await self._each_chunk(
            wanted, lambda chunk: self._fresh(_Call(CHANNELS, {"id": chunk}, parse_channels))
        )
        found = {channel.id: channel for answer in answers for channel in answer}
        return tuple(found[id_] for id_ in wanted if id_ in found)

    async def channel_by_handle(self, handle: str) -> Channel | None:
        """The channel with that handle, or None; the @ is optional."""
        return await self._named_channel("forHandle", handle)

    async def channel_by_username(self, name: str) -> Channel | None:
        """The channel at youtube.com/user/NAME, or None."""
        return await self._named_channel("forUsername", name)

    async def _named_channel(self, parameter: str, name: str) -> Channel | None:
        if not _HANDLE.fullmatch(name):
            return None
        found = await self._fresh(_Call(CHANNELS, {parameter: name}, parse_channels))
        return found[0] if found else None

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
        """A page of a playlist; NotModified if its etag is still `etag`, which costs a unit all the same."""
        if checked_playlist_id(playlist_id) is None:
            raise Gone(PLAYLIST_ITEMS.name, _impossible("playlist", playlist_id))
        params = PLAYLIST_ITEMS.params(playlistId=playlist_id, pageToken=page_token, maxResults=max_results)
        return await self._call(_Call(PLAYLIST_ITEMS, params, parse_playlist_page, etag))

    async def most_popular(
        self,
        region_code: str,
        category_id: int | None = None,
        page_token: str | None = None,
        *,
        max_results: int = 50,
    ) -> VideoPage:
        """A page of a region's chart. Since July 2025 there are only charts of music, movies and gaming."""
        params = CHART.params(
            chart="mostPopular",
            regionCode=region_code,
            videoCategoryId=category_id,
            pageToken=page_token,
            maxResults=max_results,
        )
        return await self._fresh(_Call(CHART, params, parse_video_page))

    async def video_categories(self, region_code: str) -> tuple[VideoCategory, ...]:
        """The video categories of a region."""
        return await self._fresh(
            _Call(CATEGORIES, CATEGORIES.params(regionCode=region_code), parse_categories)
        )

    @overload
    async def feed(self, channel_id: str, known: None = None, *, attempts: int | None = None) -> Feed: ...
    @overload
    async def feed(
        self, channel_id: str, known: Validators | None, *, attempts: int | None = None
    ) -> Feed | NotModified: ...
    async def feed(
        self, channel_id: str, known: Validators | None = None, *, attempts: int | None = None
    ) -> Feed | NotModified:
        """A channel's newest uploads with their views, without using quota or a key.

        NotModified if the feed is still the one that `known` came with. `attempts` replaces the setting: who
        polls many feeds should not insist on one.
        """
        if checked_channel_id(channel_id) is None:
            raise Gone("feed", _impossible("channel", channel_id))
        url = (self._transport.feeds / "feeds" / "videos.xml").with_query(channel_id=channel_id)
        return await self._retried(
            "feed", lambda deadline: self._feed_attempt(url, known or Validators(), deadline), attempts
        )

    async def _stats(self, chunk: str) -> tuple[VideoStats, ...]:
        if self._has_batch_stats:
            try:
                return await self._fresh(_Call(BATCH_STATS, {"id": chunk}, parse_stats))
            except (BadRequest, Gone, Transient) as refusal:
                if refusal.verdict.status not in _METHOD_UNKNOWN:
                    raise
                logger.warning("%s; using videos.list from now on", refusal)
                self._has_batch_stats = False
        return await self._fresh(_Call(VIDEO_STATS, {"id": chunk}, parse_stats))

    def _distinct(self, ids: Iterable[str], check: Callable[[object], Id | None]) -> list[Id]:
        """The ids in order, without duplicates; impossible ids are counted, logged and left out."""
        wanted: list[Id] = []
        for text in dict.fromkeys(ids):
            if (id_ := check(text)) is None:
                self.malformed["requested id"] += 1
                logger.warning("%.80r cannot be an id: not requested", text, extra={"action": "malformed"})
            else:
                wanted.append(id_)
        return wanted

    async def _give_back(self, grant: Grant | None) -> None:
        if grant is not None:
            await self._record(self._keys.cancel(grant))

    async def _each_chunk(self, ids: Sequence[str], ask: Callable[[str], Coroutine[Any, Any, T]]) -> list[T]:
        """Request 50 ids at a time; the results are in order, and the first failure cancels the others."""
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
        assert not isinstance(answer, NotModified), "only a call with an etag can return NotModified"
        return answer

    async def _call(self, call: _Call[T]) -> T | NotModified:
        return await self._retried(call.method.name, lambda deadline: self._attempt(call, deadline))

    async def _retried(
        self, name: str, attempt: Callable[[float], Awaitable[T]], attempts: int | None = None
    ) -> T:
        """Make a call with its retries, and count it among what is used of the current Atlas."""
        began_s = time.monotonic()
        try:
            result = await self._attempted(name, attempt, attempts)
        except RingClosed:
            # Nothing was called.
            raise
        except Exception:
            _count(name, began_s, failed=True)
            raise
        _count(name, began_s, failed=False)
        return result

    async def _attempted(
        self, name: str, attempt: Callable[[float], Awaitable[T]], attempts: int | None
    ) -> T:
        """Retry until an attempt succeeds or the total time is over; then raise the last Transient."""
        loop, total_s = asyncio.get_running_loop(), self._settings.total_timeout_s
        late = Verdict(Disposition.TRANSIENT, "timeout", f"the ledger did not answer within {total_s:g} s")
        failure = Transient(name, late)
        async with self._slots:
            end = loop.time() + total_s
            # The last request ends early enough to record it in the ledger.
            deadline = end - min(_LEDGER_GRACE_S, total_s / 10)
            try:
                async with asyncio.timeout_at(end):
                    async for trial in stamina.retry_context(
                        on=_worth_another_try,
                        attempts=attempts or self._settings.attempts,
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
        """Make one attempt, with one key after another while YouTube refuses the key."""
        while True:
            grant = await self._grant(call)
            answer = await self._ask(call, grant, deadline)
            if answer.status == 304 and call.etag is not None:
                await self._record(self._keys.settle(grant))
                return NotModified(call.etag)
            if answer.status == 200:
                try:
                    result = self._read(answer.body, call)
                except MalformedResponse as fault:
                    await self._record(self._keys.fail(grant, str(fault)))
                    raise Transient(call.method.name, _malformed(fault)) from fault
                if result is not None:
                    await self._record(self._keys.settle(grant))
                    return result
            await self._refused(call, grant, answer)

    def _read(self, body: bytes, call: _Call[T]) -> T | None:
        """Parse a response with status 200; None if it holds an error after all."""
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError as fault:
            incomplete = str(fault)
        else:
            if not isinstance(document, dict):
                raise MalformedResponse(f"the response is not a JSON object, but {type(document).__name__}")
            if "error" in document:
                return None
            if _is_too_deep(document):
                raise MalformedResponse(f"the response is nested more than {_MOST_LEVELS} levels deep")
            reader = Reader(self._clock.now(), self.malformed)
            result = call.parse(document, reader)
            reader.log_rest(call.method.name)
            return result
        # Raised outside the handler: the decoder's error, which holds the response, must not be the context.
        raise MalformedResponse(f"the response is not complete JSON: {incomplete}")

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
            # The ledger could not record the refusal, so it grants the same key again: don't spend more.
            await self._record(self._keys.cancel(grant))
            verdict = call.refusals[grant.fingerprint]
            raise call.without_key(None) or Transient(call.method.name, verdict)
        return grant

    async def _ask(self, call: _Call[Any], grant: Grant, deadline: float) -> Response:
        url = (self._transport.api / call.method.path).with_query(call.query)
        self.requests[call.method.bucket] += 1
        try:
            return await self._transport.get(url, deadline, key=grant.key, etag=call.etag)
        except NoResponse as failure:
            if failure.sent:
                await self._record(self._keys.fail(grant, str(failure)))
            else:
                self.requests[call.method.bucket] -= 1
                await self._record(self._keys.cancel(grant))
            raise Transient(call.method.name, failure.verdict) from failure

    async def _refused(self, call: _Call[Any], grant: Grant, answer: Response) -> None:
        """Record a refusal and raise it, or return if another key may be tried."""
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
                # A 429 ends the whole process, so it matters more than the cancellation of this call.
                return None
            raise

    async def _record(self, recording: Coroutine[Any, Any, T]) -> T | None:
        """Write to the ledger; if cancelled meanwhile, still take up to 2 s to finish."""
        task = asyncio.ensure_future(_logged(recording))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            try:
                await asyncio.wait({task}, timeout=_LEDGER_GRACE_S)
            finally:
                task.cancel()
            raise

    async def _feed_attempt(self, url: URL, known: Validators, deadline: float) -> Feed | NotModified:
        from maia.youtube.feed import parse_feed

        try:
            answer = await self._transport.get(
                url, deadline, etag=known.etag, modified_since=known.last_modified
            )
        except NoResponse as failure:
            raise Transient("feed", failure.verdict) from failure
        if answer.status == 304 and known:
            return NotModified(known.etag or "")
        if answer.status == 200:
            reader = Reader(self._clock.now(), self.malformed)
            try:
                entries = parse_feed(answer.body, reader)
            except MalformedResponse as fault:
                raise Transient("feed", _malformed(fault)) from fault
            reader.log_rest("feed")
            return Feed(entries, Validators.of(answer.headers), _cached_s(answer.headers))
        verdict = classify(answer.status, answer.body, answer.headers, now=self._clock.now())
        if answer.status == 404:
            raise Gone("feed", verdict)
        if answer.status == 429:
            raise RateLimited("feed", verdict)
        raise (Transient if answer.status >= 500 else BadRequest)("feed", verdict)


def _count(name: str, began_s: float, *, failed: bool) -> None:
    """Count a call among what is used of the current Atlas, if there is one."""
    with suppress(NoCurrentAtlas):
        current().usage.add("call", name, time.monotonic() - began_s, failed=failed)


async def _logged(recording: Coroutine[Any, Any, T]) -> T | None:
    """The recording's result. If the ledger fails, log it instead of raising.

    The response is worth more than the record, and a unit that was not settled stays reserved, so it counts.
    """
    told = "the ledger could not record the outcome of a call; its unit stays counted"
    try:
        return await recording
    except DatabaseError as error:
        logger.error("%s: %s", told, error)
        logger.debug("the error came from here", exc_info=error)
    except Exception:
        logger.exception(told)
    return None


def _is_too_deep(document: Json) -> bool:
    """Whether the document is nested so deeply that other code might fail to write it out again."""
    level: list[Any] = [document]
    for _ in range(_MOST_LEVELS):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return False
    return True


def _cached_s(headers: Mapping[str, str]) -> float:
    """For how long a cache on the way has held the response; 0 if it doesn't say."""
    age = headers.get("Age", "")
    return float(age) if age.isascii() and age.isdigit() and len(age) < 8 else 0.0


def _impossible(noun: str, id_: str) -> Verdict:
    return Verdict(Disposition.GONE, "impossibleId", f"{id_!r:.80} cannot be the id of a {noun}")


def _malformed(fault: MalformedResponse) -> Verdict:
    return Verdict(Disposition.TRANSIENT, "malformed", str(fault), status=200)


def _worth_another_try(error: Exception) -> bool | float:
    """Whether to retry, or the minimum number of seconds to wait before."""
    if not isinstance(error, Transient) or error.verdict.status == 501:
        return False
    asked_s = error.verdict.retry_after_s
    return True if asked_s is None else min(asked_s, _LONGEST_WAIT_S)
