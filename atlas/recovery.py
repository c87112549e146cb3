"""Error recovery that every agent shares: back-off, a circuit breaker, and a token bucket, all exact.

Nothing here sleeps or reads a clock by itself, except where a caller waits for tokens: clocks are arguments.
For a call at the network's edge that is simply tried again, use stamina. This is for what remembers failures
beyond one call. State that several processes share is kept in PostgreSQL, with the same arithmetic: see
`reserve` in keyring.sql, and `begin_look` and `back_off` in uploads.sql.

Libraries were looked at first. aiolimiter keeps its level as a float, serves small requests before large ones
that came earlier, and takes no clock; purgatory pauses for a fixed time, admits any number of probes, and
lets a late answer to an old call close a circuit; the buckets of limits and pyrate-limiter are windows.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import Final, Literal

_NS_PER_S: Final = 10**9

Jitter = Literal["none", "full", "equal"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Pauses that double from `first_s` up to `longest_s`.

    Jitter keeps those that failed together from trying again together: "full" takes any part of the pause,
    "equal" at least half of it.
    """

    first_s: float
    longest_s: float
    jitter: Jitter = "none"

    def __post_init__(self) -> None:
        if not 0 <= self.first_s <= self.longest_s < math.inf:
            raise ValueError(f"a pause of {self.first_s} s can't grow to {self.longest_s} s")

    def bound_s(self, failures: int) -> float:
        """The longest pause after so many failures before this one."""
        if failures < 0:
            raise ValueError(f"{failures} is no number of failures")
        try:
            return min(math.ldexp(self.first_s, failures), self.longest_s)
        except OverflowError:
            return self.longest_s

    def following_s(self, last_s: float) -> float:
        """The longest pause after one of at most `last_s`, for those who keep that instead of failures."""
        return min(max(self.first_s, 2 * last_s), self.longest_s)

    def pause_s(self, failures: int, chance: Callable[[], float] = random.random) -> float:
        """How long to pause after so many failures before this one; `chance` is uniform in [0, 1)."""
        bound_s = self.bound_s(failures)
        if self.jitter == "none":
            return bound_s
        certain_s = bound_s / 2 if self.jitter == "equal" else 0.0
        return certain_s + chance() * (bound_s - certain_s)


# Circuit breaker


class CircuitState(StrEnum):
    """Closed: calls are made. Open: none is. Half-open: one at a time is, to see whether it works again."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class CircuitBreaker:
    """Stops calls to what has failed several times in a row, and lets one at a time probe it after a pause.

    Every admitted call must end its permit. The pause doubles with each probe that fails. A permit from
    before the circuit last changed has no effect, so that a late answer neither opens nor closes it. A probe
    that does not end within `probe_s`, as when its task was killed, no longer keeps others out.
    """

    def __init__(
        self,
        *,
        failures: int,
        pauses: Backoff,
        probe_s: float,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`failures` in a row open the circuit; `clock` returns seconds and must not go back."""
        if failures < 1:
            raise ValueError("it takes at least one failure to open a circuit")
        self._threshold, self._pauses, self._probe_s = failures, pauses, probe_s
        self._clock, self._chance = clock, chance
        self._failures = self._openings = self._era = 0
        self._open_until: float | None = None
        """None while the circuit is closed."""
        self._probing_until: float | None = None

    @property
    def state(self) -> CircuitState:
        """What the circuit does with a call now."""
        if self._open_until is None:
            return CircuitState.CLOSED
        return CircuitState.OPEN if self._clock() < self._open_until else CircuitState.HALF_OPEN

    @property
    def wait_s(self) -> float:
        """How long until a call may be admitted, if none that is on its way ends before."""
        until = max(self._open_until or -math.inf, self._probing_until or -math.inf)
        return max(until - self._clock(), 0.0)

    def admit(self) -> Permit | None:
        """Permit to make one call; None if it must not be made now."""
        match self.state:
            case CircuitState.CLOSED:
                return Permit(self, self._era)
            case CircuitState.OPEN:
                return None
        now = self._clock()
        if self._probing_until is not None and now < self._probing_until:
            return None
        # A new era, so that a probe that was given up can't decide any more.
        self._era += 1
        self._probing_until = now + self._probe_s
        return Permit(self, self._era)

    def _succeed(self, era: int) -> None:
        if era == self._era:
            self._failures = self._openings = 0
            if self._open_until is not None:
                self._change(open_until=None)

    def _fail(self, era: int, retry_after_s: float | None) -> None:
        if era != self._era:
            return
        self._failures += 1
        if self._open_until is not None or self._failures >= self._threshold:
            pause_s = self._pauses.pause_s(self._openings, self._chance)
            self._openings += 1
            self._change(open_until=self._clock() + (pause_s if retry_after_s is None else retry_after_s))

    def _release(self, era: int) -> None:
        if era == self._era:
            self._probing_until = None

    def _change(self, *, open_until: float | None) -> None:
        self._open_until, self._probing_until = open_until, None
        self._era += 1


class Permit:
    """Permission to make one call; only the first of its methods that is called has an effect."""

    __slots__ = ("_breaker", "_era", "_is_used")

    def __init__(self, breaker: CircuitBreaker, era: int) -> None:
        self._breaker, self._era, self._is_used = breaker, era, False

    def succeed(self) -> None:
        """The call succeeded."""
        if self._use():
            self._breaker._succeed(self._era)

    def fail(self, retry_after_s: float | None = None) -> None:
        """The call failed; `retry_after_s` is the pause that the answer asked for."""
        if self._use():
            self._breaker._fail(self._era, retry_after_s)

    def release(self) -> None:
        """The call was not made, or nobody knows how it ended."""
        if self._use():
            self._breaker._release(self._era)

    def _use(self) -> bool:
        was_used, self._is_used = self._is_used, True
        return not was_used


# Token bucket


class TokenBucket:
    """Admits `burst` at once and `rate_per_s` on average: it begins full, and refills continuously.

    All that is stored is the instant at which it will be full again, in whole parts of a nanosecond of which
    a token is a whole number. So nothing is ever rounded, and over any time t no more than burst + rate × t
    is taken. (This is the virtual scheduling of ITU-T I.371, the generic cell rate algorithm.)
    """

    def __init__(
        self, *, rate_per_s: float, burst: int, now_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        """The rate counts as it is written: 0.1 is a tenth. A clock that goes back seems to stand still."""
        if burst < 1 or not 0 < rate_per_s < math.inf:
            raise ValueError("a token bucket needs a finite rate above 0, and a burst of at least 1")
        rate = Fraction(str(rate_per_s))
        self._parts_per_ns = rate.numerator
        self._parts_per_token = rate.denominator * _NS_PER_S
        self._capacity = burst * self._parts_per_token
        self._burst, self._now_ns = burst, now_ns
        self._last = now_ns() * self._parts_per_ns
        self._full_at = self._last
        self._turn = asyncio.Lock()

    @property
    def available(self) -> int:
        """How many whole tokens there are now."""
        return (self._capacity - self._missing()) // self._parts_per_token

    def wait_s(self, tokens: int = 1) -> float:
        """How long until there are so many tokens, if nobody takes any before."""
        over = self._missing() + self._cost(tokens) - self._capacity
        return -(-over // self._parts_per_ns) / _NS_PER_S if over > 0 else 0.0

    def try_take(self, tokens: int = 1) -> bool:
        """Take tokens, all or none; nothing is taken ahead of those who wait in `acquire`."""
        return not self._turn.locked() and self._take(tokens)

    async def acquire(
        self, tokens: int = 1, *, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    ) -> None:
        """Wait for tokens and take them, first come first served. Whoever is cancelled takes none."""
        self._cost(tokens)
        async with self._turn:
            while not self._take(tokens):
                await sleep(self.wait_s(tokens))

    def _take(self, tokens: int) -> bool:
        cost, missing = self._cost(tokens), self._missing()
        if missing + cost > self._capacity:
            return False
        self._full_at = self._last + missing + cost
        return True

    def _cost(self, tokens: int) -> int:
        if not 0 <= tokens <= self._burst:
            raise ValueError(f"{tokens} tokens can never be taken at once from a bucket of {self._burst}")
        return tokens * self._parts_per_token

    def _missing(self) -> int:
        """What the bucket lacks now to be full."""
        self._last = max(self._last, self._now_ns() * self._parts_per_ns)
        return max(self._full_at - self._last, 0)
