"""Classes of failure templates are kept with who said them."""

from __future__ import annotations

import pytest

from maia.learning.failure_classes import BY_REASON, FailureClasses, Said
from maia.learning.states import StateError, pack
from maia.learning.templates import FailureClass


def test_what_the_reason_said_stands_against_what_a_back_end_thinks() -> None:
    classes = FailureClasses()
    classes.tell("a", FailureClass.QUOTA, BY_REASON)
    classes.tell("a", FailureClass.DISK, "llama.cpp")
    classes.tell("b", FailureClass.DISK, "llama.cpp")
    classes.tell("b", FailureClass.KEY, BY_REASON)
    assert classes.of("a") == Said(FailureClass.QUOTA, BY_REASON)
    assert classes.of("b") == Said(FailureClass.KEY, BY_REASON)
    assert classes.of("c") is None


def test_only_classes_known_by_reason_are_examples_the_newest_last() -> None:
    classes = FailureClasses()
    for text in "abc":
        classes.tell(text, FailureClass.NETWORK, BY_REASON)
    classes.tell("d", FailureClass.NETWORK, "statistical")
    classes.tell("a", FailureClass.TIMEOUT, BY_REASON)
    assert classes.examples(2) == [("c", FailureClass.NETWORK), ("a", FailureClass.TIMEOUT)]


def test_the_least_recently_told_are_forgotten_also_after_a_restart() -> None:
    classes = FailureClasses(most=2)
    for text in "ab":
        classes.tell(text, FailureClass.QUOTA, BY_REASON)
    again = FailureClasses.from_state(classes.state())
    again.tell("c", FailureClass.VAULT, "llama.cpp")
    assert [again.of(text) for text in "abc"] == [
        None, Said(FailureClass.QUOTA, BY_REASON), Said(FailureClass.VAULT, "llama.cpp"),
    ]  # fmt: skip


def test_a_foreign_state_is_refused() -> None:
    with pytest.raises(StateError):
        FailureClasses.from_state(pack("other", 1, {}))
