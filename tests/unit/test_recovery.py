"""Back-off, the circuit breaker against its definition, and the token bucket in exact arithmetic."""

from __future__ import annotations

import asyncio
import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from atlas.recovery import Backoff, CircuitBreaker, CircuitState, Jitter, Permit, TokenBucket

NS = 10**9
RATES = st.one_of(st.floats(1e-6, 1e9), st.sampled_from([0.1, 1 / 3, 0.7, 3.0]))


class TestBackoff:
    @given(
        st.floats(0, 1e6), st.floats(0, 1e6), st.integers(0, 10**6), st.floats(0, 1, exclude_max=True),
        st.sampled_from(["none", "full", "equal"]),
    )  # fmt: skip
    def test_a_pause_keeps_its_bounds(
        self, first_s: float, more_s: float, failures: int, chance: float, jitter: Jitter
    ) -> None:
        backoff = Backoff(first_s=first_s, longest_s=first_s + more_s, jitter=jitter)
        bound_s, pause_s = backoff.bound_s(failures), backoff.pause_s(failures, lambda: chance)

        assert first_s <= bound_s <= first_s + more_s
        # 2**3000 is more than any quotient of two of these numbers.
        assert bound_s == min(Fraction(first_s) * 2 ** min(failures, 3000), Fraction(first_s + more_s))
        assert backoff.following_s(bound_s) == backoff.bound_s(failures + 1)
        match jitter:
            case "none":
                assert pause_s == bound_s
            case "full":
                assert 0 <= pause_s <= bound_s
            case "equal":
                assert bound_s / 2 <= pause_s <= bound_s

    def test_chance_covers_what_jitter_leaves_open(self) -> None:
        for jitter, least_s in (("full", 0.0), ("equal", 4.0)):
            backoff = Backoff(first_s=1, longest_s=60, jitter=jitter)  # type: ignore[arg-type]
            assert backoff.pause_s(3, lambda: 0.0) == least_s
            assert backoff.pause_s(3, lambda: math.nextafter(1, 0)) == pytest.approx(8)

    @pytest.mark.parametrize(("first_s", "longest_s"), [(-1, 1), (2, 1), (1, math.inf), (math.nan, 1)])
    def test_pauses_that_make_no_sense_are_refused(self, first_s: float, longest_s: float) -> None:
        with pytest.raises(ValueError, match="can't grow"):
            Backoff(first_s=first_s, longest_s=longest_s)


class Circuit(RuleBasedStateMachine):
    """Compares a breaker with a model of its states, while calls end in any order."""

    permits = Bundle("permits")

    @initialize(failures=st.integers(1, 4), longest=st.integers(0, 6))
    def begin(self, failures: int, longest: int) -> None:
        self.now = 0.0
        self.threshold, self.longest_s = failures, float(8 << longest)
        pauses = Backoff(first_s=8, longest_s=self.longest_s)
        self.breaker = CircuitBreaker(failures=failures, pauses=pauses, probe_s=4, clock=lambda: self.now)
        self.row = self.openings = 0
        self.open_until: float | None = None
        self.deciding: set[Permit] = set()
        """The permits whose end still counts."""
        self.probe_until = -math.inf

    @rule(seconds=st.integers(0, 40))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @rule(target=permits)
    def call(self) -> object:
        permit = self.breaker.admit()
        if self.open_until is None:
            assert permit is not None
        elif self.now < self.open_until or (self.deciding and self.now < self.probe_until):
            assert permit is None
        else:
            assert permit is not None
            self.deciding.clear()
            self.probe_until = self.now + 4
        if permit is None:
            return multiple()
        self.deciding.add(permit)
        return permit

    @rule(permit=permits)
    def succeed(self, permit: Permit) -> None:
        permit.succeed()
        if permit in self.deciding:
            self.deciding.discard(permit)
            self.row = self.openings = 0
            if self.open_until is not None:
                self.open_until = None
                self.deciding.clear()

    @rule(permit=permits, retry_after_s=st.none() | st.integers(0, 30))
    def fail(self, permit: Permit, retry_after_s: int | None) -> None:
        permit.fail(retry_after_s)
        if permit in self.deciding:
            self.deciding.discard(permit)
            self.row += 1
            if self.open_until is not None or self.row >= self.threshold:
                pause_s = min(8 * 2.0**self.openings, self.longest_s)
                self.open_until = self.now + (pause_s if retry_after_s is None else retry_after_s)
                self.openings, self.row = self.openings + 1, 0
                self.deciding.clear()

    @rule(permit=permits)
    def release(self, permit: Permit) -> None:
        permit.release()
        self.deciding.discard(permit)

    @invariant()
    def the_state_is_the_models(self) -> None:
        if self.open_until is None:
            assert self.breaker.state is CircuitState.CLOSED
            assert self.breaker.wait_s == 0
        elif self.now < self.open_until:
            assert self.breaker.state is CircuitState.OPEN
            assert self.breaker.wait_s == self.open_until - self.now
        else:
            assert self.breaker.state is CircuitState.HALF_OPEN


TestCircuit = Circuit.TestCase
TestCircuit.settings = settings(max_examples=50, stateful_step_count=40)


def test_a_circuit_needs_a_failure_to_open() -> None:
    with pytest.raises(ValueError, match="at least one failure"):
        CircuitBreaker(failures=0, pauses=Backoff(first_s=1, longest_s=1), probe_s=1)


class FakeTime:
    """A clock in nanoseconds, and a sleep that moves it on and lets other tasks run."""

    def __init__(self) -> None:
        self.ns = 0

    def __call__(self) -> int:
        return self.ns

    async def sleep(self, seconds: float) -> None:
        self.ns += math.ceil(Fraction(str(seconds)) * NS)
        await asyncio.sleep(0)


class TestTokenBucket:
    @given(RATES, st.integers(1, 50), st.lists(st.tuples(st.integers(0, 10 * NS), st.integers(0, 60))))
    def test_it_is_the_bucket_of_the_definition(
        self, rate_per_s: float, burst: int, steps: list[tuple[int, int]]
    ) -> None:
        clock = FakeTime()
        bucket = TokenBucket(rate_per_s=rate_per_s, burst=burst, now_ns=clock)
        rate, level = Fraction(str(rate_per_s)), Fraction(burst)
        for wait_ns, tokens in steps:
            clock.ns += wait_ns
            level = min(level + rate * wait_ns / NS, Fraction(burst))
            assert bucket.available == math.floor(level)
            if tokens > burst:
                with pytest.raises(ValueError, match="never be taken"):
                    bucket.try_take(tokens)
                continue
            # No token is lost, and none is taken that is not there.
            assert bucket.try_take(tokens) is (tokens <= level)
            level -= tokens if tokens <= level else 0

    @given(RATES, st.integers(1, 20), st.lists(st.integers(0, 3 * NS), max_size=25))
    def test_no_window_ever_gets_more_than_burst_and_rate(
        self, rate_per_s: float, burst: int, waits_ns: list[int]
    ) -> None:
        clock = FakeTime()
        bucket = TokenBucket(rate_per_s=rate_per_s, burst=burst, now_ns=clock)
        taken: list[int] = []
        for wait_ns in waits_ns:
            clock.ns += wait_ns
            taken += [clock.ns] * sum(bucket.try_take() for _ in range(burst + 1))
        rate = Fraction(str(rate_per_s))
        for first, begin in enumerate(taken):
            for last in range(first, len(taken)):
                assert last - first + 1 <= burst + rate * (taken[last] - begin) / NS

    @given(RATES, st.integers(1, 20), st.integers(1, 20))
    def test_the_wait_is_exact(self, rate_per_s: float, burst: int, tokens: int) -> None:
        clock, tokens = FakeTime(), min(tokens, burst)
        bucket = TokenBucket(rate_per_s=rate_per_s, burst=burst, now_ns=clock)
        assert bucket.wait_s(tokens) == 0
        assert bucket.try_take(burst)
        exact_ns = math.ceil(Fraction(tokens) / Fraction(str(rate_per_s)) * NS)
        assert bucket.wait_s(tokens) == exact_ns / NS
        clock.ns = exact_ns - 1
        assert not bucket.try_take(tokens)
        clock.ns = exact_ns
        assert bucket.try_take(tokens)

    def test_many_tokens_drift_by_nothing(self) -> None:
        clock = FakeTime()
        bucket = TokenBucket(rate_per_s=0.7, burst=2, now_ns=clock)
        assert bucket.try_take()
        for n in range(20_000):
            assert bucket.try_take()
            assert not bucket.try_take()
            clock.ns = -(-(n + 1) * 10 * NS // 7)

    def test_a_clock_that_goes_back_gives_nothing(self) -> None:
        clock = FakeTime()
        clock.ns = 100 * NS
        bucket = TokenBucket(rate_per_s=1, burst=2, now_ns=clock)
        assert bucket.try_take()
        clock.ns = 0
        assert bucket.try_take()
        assert not bucket.try_take()
        clock.ns = 101 * NS
        assert bucket.try_take()
        assert not bucket.try_take()

    @pytest.mark.parametrize(("rate", "burst"), [(0, 1), (-1, 1), (math.inf, 1), (math.nan, 1), (1, 0)])
    def test_a_bucket_that_makes_no_sense_is_refused(self, rate: float, burst: int) -> None:
        with pytest.raises(ValueError, match="token bucket needs"):
            TokenBucket(rate_per_s=rate, burst=burst)

    async def test_who_comes_first_is_served_first_whatever_they_want(self) -> None:
        clock = FakeTime()
        bucket = TokenBucket(rate_per_s=1, burst=5, now_ns=clock)
        served: list[tuple[str, int]] = []

        async def take(name: str, tokens: int) -> None:
            await bucket.acquire(tokens, sleep=clock.sleep)
            served.append((name, clock.ns // NS))

        wanted = [("a", 5), ("b", 4), ("c", 1), ("d", 2)]
        await asyncio.gather(*(take(*each) for each in wanted))
        assert served == [("a", 0), ("b", 4), ("c", 5), ("d", 7)]

    async def test_nobody_takes_ahead_of_those_who_wait_and_the_cancelled_take_none(self) -> None:
        clock = FakeTime()
        bucket = TokenBucket(rate_per_s=1, burst=2, now_ns=clock)
        assert bucket.try_take(2)
        woken = asyncio.Event()
        first = asyncio.create_task(bucket.acquire(2, sleep=lambda _: woken.wait()))
        second = asyncio.create_task(bucket.acquire(1, sleep=clock.sleep))
        await asyncio.sleep(0)
        clock.ns = NS
        assert bucket.available == 1
        assert not bucket.try_take()
        first.cancel()
        await second
        assert first.cancelled()
        assert bucket.available == 0
        assert clock.ns == NS

    async def test_what_can_never_be_had_is_refused_at_once(self) -> None:
        with pytest.raises(ValueError, match="3 tokens can never be taken at once from a bucket of 2"):
            await TokenBucket(rate_per_s=1, burst=2).acquire(3)
