"""What `maia status` prints of suggestions."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from atlas.adapters.patterns import Suggestion
from atlas.testing import NOON
from maia.commands import status


def suggestion(n: int, command: str | None = None) -> Suggestion:
    return Suggestion(n, f"advice {n}", "schedule", f"Advice number {n}.", command, {}, NOON, NOON)


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> object:
    def lines(suggestions: Sequence[Suggestion]) -> list[str]:
        status._print_suggestions(suggestions)
        return capsys.readouterr().out.splitlines()

    return lines


def test_a_suggestion_comes_with_what_to_set(shown):
    found = shown([suggestion(1, "PLEIADES_AGENTS__INTERVALS_S=hunter=1200"), suggestion(2)])
    assert found == [
        "Suggestion (schedule): Advice number 1.",
        "    PLEIADES_AGENTS__INTERVALS_S=hunter=1200",
        "Suggestion (schedule): Advice number 2.",
        "",
    ]


def test_a_few_are_shown_and_the_others_counted(shown):
    assert "2 more: maia status --json" in shown([suggestion(n) for n in range(7)])
    assert not any("more" in line for line in shown([suggestion(n) for n in range(5)]))


def test_without_any_nothing_is_printed(shown):
    assert shown([]) == []
