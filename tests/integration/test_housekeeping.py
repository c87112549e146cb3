"""What is known stays within its limits: used patterns are paid, and the least important are forgotten."""

from __future__ import annotations

from datetime import timedelta

import pytest

from atlas.adapters.patterns import NewEvidence, PatternContent, PatternsDAO
from atlas.clock import FixedClock
from atlas.config import LearnerSettings
from atlas.db import Database
from atlas.testing import NOON, SettingsFactory
from maia.learner.housekeeping import Kept, keep_within_limits, pay
from maia.learning.importance import Use

pytestmark = pytest.mark.integration

A, B, C = "a" * 32, "b" * 32, "c" * 32


@pytest.fixture
async def dao(database: Database, clock: FixedClock, settings_factory: SettingsFactory) -> PatternsDAO:
    """Three patterns with a day's evidence."""
    dao = PatternsDAO(database, clock=clock, settings=settings_factory())
    await dao.store([PatternContent(id_, "tool_usage", {"tool": id_}, "finds early") for id_ in (A, B, C)])
    await dao.count([NewEvidence(id_, NOON.date(), 1, 0, 0.0, NOON) for id_ in (A, B, C)])
    return dao


async def short_term(dao: PatternsDAO) -> dict[str, float]:
    return {each.id: each.sti for each in await dao.known()}


async def test_only_those_used_are_paid(dao: PatternsDAO) -> None:
    await pay(dao, [B, "d" * 32], Use.MATCHED, NOON)
    await pay(dao, [B, C], Use.PROVEN, NOON)
    await pay(dao, [], Use.PROVEN, NOON)
    assert await short_term(dao) == {A: 0, B: 60, C: 50}


async def test_a_forgotten_pattern_is_not_paid(dao: PatternsDAO) -> None:
    await dao.forget([B], "learner")
    await pay(dao, [A, B], Use.MATCHED, NOON)
    assert [(each.id, each.sti) for each in await dao.importances()] == [(A, 10), (C, 0)]


async def test_nothing_is_forgotten_within_the_limit(dao: PatternsDAO) -> None:
    kept = await keep_within_limits(dao, LearnerSettings(max_patterns=3), NOON, [A])
    assert kept == Kept(forgotten=0, known=3)
    assert await short_term(dao) == {A: 50, B: 0, C: 0}


async def test_beyond_the_limit_the_least_important_go_unless_pinned(dao: PatternsDAO) -> None:
    await dao.pin([A])
    kept = await keep_within_limits(dao, LearnerSettings(max_patterns=2), NOON, [C])
    assert kept == Kept(forgotten=1, known=2)
    assert set(await short_term(dao)) == {A, C}


async def test_what_has_expired_is_counted_too(dao: PatternsDAO) -> None:
    late = NOON + timedelta(days=LearnerSettings().max_retention_days + 1)
    await dao.count([NewEvidence(B, late.date(), 1, 0, 0.0, late)])
    assert await keep_within_limits(dao, LearnerSettings(), late) == Kept(forgotten=2, known=1)
