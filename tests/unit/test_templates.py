"""Failure texts become templates with stable ids, and are classified as what they are."""

from __future__ import annotations

import errno
import os
import random
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas import db
from atlas.connections import unavailable
from atlas.errors import EmptyKeyRing, LeaseLost, RingClosed
from maia.cycle.outcome import EXIT_STATUSES, Outcome
from maia.cycle.reasons import EmptyAnswer, SkipReason
from maia.emulator.facts import METHODS
from maia.emulator.faults import REFUSALS, Circumstances
from maia.emulator.quota import Project
from maia.learning.privacy import Pseudonyms
from maia.learning.states import StateError
from maia.learning.templates import (
    CLASSES,
    EXAMPLES,
    ClassifierSettings,
    FailureClass,
    FailureClassifier,
    FailureTemplates,
    Template,
    TemplateSettings,
    class_of_reason,
)
from maia.youtube.errors import Disposition, QuotaExhausted, YouTubeError, classify

NOW = datetime(2026, 11, 2, 20, tzinfo=UTC)
WORDS = st.sampled_from(
    ["disk", "full", "topic", "lost", "no", "answer", "503", "'x'", "12.5", "HTTP", "a/b", "10.0.0.1:80"]
)
TEXTS = st.lists(WORDS, max_size=6).map(" ".join)


# Templates


@pytest.mark.parametrize(
    ("one", "other", "template"),
    [
        ("a lease on topic 12 was lost", "a lease on topic 7 was lost", "a lease on topic <number> was lost"),
        (
            "no connection to 10.0.0.1:5432: no answer within 5 s",
            "no connection to db.example.com:6432: no answer within 7.5 s",
            "no connection to <host>: no answer within <number> s",
        ),
        ("'abc' cannot be the id", "'d f' cannot be the id", "<quoted> cannot be the id"),
        ("spent until 2026-11-30 08:00:00 UTC", "spent until 2026-12-01 08:00 UTC", "spent until <time>"),
        ("cannot write /a/b/c.json: full", "cannot write /var/lib/x: full", "cannot write <path>: full"),
        ("GET https://a.example/x?y=1 failed", "GET http://b/z failed", "GET <url> failed"),
        ("video dQw4w9WgXcQ of UCuAXFkgsw1L7xaCfnd5JJOw", "video 9bZkp7q19f0 of UC-lHJZR3Gqxm24_Vd_AJ5Yw",
         "video <id> of <id>"),
        ("from ip-0123456789ab by mail-ba9876543210", "from ip-aaaaaaaaaaaa by mail-bbbbbbbbbbbb",
         "from <id> by <id>"),
    ],
)  # fmt: skip
def test_what_varies_is_masked(one: str, other: str, template: str) -> None:
    templates = FailureTemplates()
    first, second = templates.template(one), templates.template(other)
    assert first == second
    assert first.text == template
    assert templates.templates() == {first: 2}


def test_statuses_and_apostrophes_are_kept() -> None:
    templates = FailureTemplates()
    one = templates.template("search.list: HTTP 503: the day's quota, or yesterday's")
    other = templates.template("search.list: HTTP 404: the day's quota, or yesterday's")
    assert one.text == "search.list: HTTP 503: the day's quota, or yesterday's"
    assert one.id != other.id


def test_words_that_differ_become_a_wildcard_and_the_old_id_leads_to_the_new() -> None:
    templates = FailureTemplates()
    old = templates.template("error in the widget alpha of the frobnicator")
    new = templates.template("error in the widget beta of the frobnicator")
    assert new.text == "error in the widget <*> of the frobnicator"
    assert templates.current_id(old.id) == new.id == templates.current_id(new.id)
    assert templates.find("error in the widget gamma of the frobnicator") == new
    assert templates.find("quite another thing") is None
    assert templates.templates() == {new: 2}


def test_the_id_depends_on_the_text_of_the_template_alone() -> None:
    one, other = FailureTemplates(), FailureTemplates()
    other.template("something else before")
    assert one.template("disk 7 is full") == other.template("disk 8 is full")
    assert one.template("disk 7 is full").id == "0c03c95022b7cc12"


def test_the_least_recently_used_template_is_forgotten() -> None:
    templates = FailureTemplates(TemplateSettings(max_templates=2))
    kept = templates.template("alpha alpha alpha")
    templates.template("beta beta beta")
    templates.template("alpha alpha alpha")
    newest = templates.template("gamma gamma gamma")
    assert list(templates.templates()) == [kept, newest]
    assert templates.find("beta beta beta") is None


def test_memory_stays_bounded_whatever_comes() -> None:
    templates = FailureTemplates(TemplateSettings(max_templates=20))
    random_ = random.Random(5)
    sizes = []
    for _ in range(4):
        for _ in range(500):
            words = ["".join(random_.choices("abcdefgh", k=5)) for _ in range(random_.randint(1, 60))]
            templates.template(" ".join(words))
        sizes.append(len(templates.state()))
    assert len(templates.templates()) == 20
    assert max(sizes) < 60_000


@given(st.lists(TEXTS, max_size=30), st.lists(TEXTS, max_size=15))
def test_a_restored_state_goes_on_alike(before: list[str], after: list[str]) -> None:
    templates = FailureTemplates(TemplateSettings(max_templates=4, max_children=3))
    for text in before:
        templates.template(text)
    restored = FailureTemplates.from_state(templates.state())
    assert restored.templates() == templates.templates()
    assert [restored.template(text) for text in after] == [templates.template(text) for text in after]
    assert restored.state() == templates.state()


def test_other_masks_can_be_given() -> None:
    templates = FailureTemplates(masks=[("animal", "cat|dog")])
    assert templates.template("a cat and 3 dogs").text == "a <animal> and 3 <animal>s"


@pytest.mark.parametrize("text", ["", "   ", "x" * 100_000, "\n\n", "'" * 1000, "\ud800", "word " * 5000])
def test_odd_texts_are_templates_too(text: str) -> None:
    templates = FailureTemplates()
    template = templates.template(text)
    assert templates.template(text) == template
    assert len(template.text) <= 2_000 * len("<quoted>")


@pytest.mark.parametrize("settings", [{"max_templates": 0}, {"similarity": 0.0}, {"max_children": 2}])
def test_useless_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="are needed"):
        TemplateSettings(**settings)


@pytest.mark.parametrize("read", [FailureTemplates.from_state, FailureClassifier.from_state])
def test_another_state_is_refused(read: Any) -> None:
    other = FailureClassifier if read.__self__ is FailureTemplates else FailureTemplates
    for state in (b"", b"nonsense", other().state()):
        with pytest.raises(StateError):
            read(state)


# Classes


def test_every_outcome_and_reason_of_a_cycle_has_a_class() -> None:
    fine = {Outcome.DONE, Outcome.IDLE, SkipReason.NOT_LATER, SkipReason.UNPROMISING}
    for each in (*Outcome, *SkipReason):
        assert (class_of_reason(each.value) is None) == (each in fine), each
        assert class_of_reason(each.value) is not FailureClass.UNKNOWN
    assert all(class_of_reason(outcome.value) for outcome in EXIT_STATUSES)
    assert class_of_reason("something new") is FailureClass.UNKNOWN


def test_there_are_examples_of_every_class_but_unknown() -> None:
    assert set(EXAMPLES) == set(CLASSES) - {FailureClass.UNKNOWN}


EXPECTED = {
    Disposition.DAY_QUOTA: {FailureClass.QUOTA},
    Disposition.SHORT_RATE: {FailureClass.RATE_LIMITED},
    Disposition.KEY_DEAD: {FailureClass.KEY},
    Disposition.CONFIG: {FailureClass.KEY},
    Disposition.BAD_REQUEST: {FailureClass.BAD_REQUEST},
    Disposition.GONE: {FailureClass.NOT_FOUND},
    Disposition.TRANSIENT: {FailureClass.SERVICE, FailureClass.TIMEOUT},
}


@pytest.mark.parametrize("kind", sorted(REFUSALS))
def test_the_errors_of_youtube_are_classified(kind: str) -> None:
    method = next(iter(METHODS.values()))
    refusal = REFUSALS[kind][1](Circumstances(Project("one"), method, NOW))
    verdict = classify(refusal.status, refusal.body)
    text = str(YouTubeError(method.name, verdict))
    assert FailureClassifier().classify(text).failure_class in EXPECTED[verdict.disposition], text


def _wrapped(error: Exception) -> str:
    return str(db._wrapped("queue.claim", error, closed=False))


@pytest.mark.parametrize(
    ("text", "failure_class"),
    [
        (
            str(RingClosed("hunting", "search", NOW, "project 'one': the day's units are spent")),
            FailureClass.QUOTA,
        ),
        (str(QuotaExhausted("search.list", classify(403, {}), NOW)), FailureClass.QUOTA),
        (str(EmptyKeyRing()), FailureClass.KEY),
        (EmptyAnswer.__doc__ or "", FailureClass.NOT_FOUND),
        (str(LeaseLost()), FailureClass.CONFLICT),
        ("somebody else's lease on topic 17 was lost: nothing was stored", FailureClass.CONFLICT),
        (_wrapped(asyncpg.DeadlockDetectedError("deadlock detected")), FailureClass.CONFLICT),
        (
            _wrapped(asyncpg.DiskFullError("could not extend file: No space left on device")),
            FailureClass.DISK,
        ),
        (
            _wrapped(asyncpg.QueryCanceledError("canceling statement due to statement timeout")),
            FailureClass.TIMEOUT,
        ),
        (_wrapped(asyncpg.UndefinedTableError('relation "videos" does not exist')), FailureClass.DATABASE),
        (_wrapped(asyncpg.UniqueViolationError("duplicate key")), FailureClass.DATABASE),
        (
            _wrapped(asyncpg.AdminShutdownError("terminating connection due to administrator command")),
            FailureClass.DATABASE,
        ),
        (
            _wrapped(ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))),
            FailureClass.NETWORK,
        ),
        (
            str(unavailable(ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), "db:5432", 5)),
            FailureClass.DATABASE,
        ),
        ("youtube.googleapis.com broke the connection: ServerDisconnectedError", FailureClass.NETWORK),
        ("'dQw4w9' cannot be the id of a video", FailureClass.NOT_FOUND),
        ("dataset x/y does not exist or this token may not use it", FailureClass.VAULT),
        (repr(KeyError("title")), FailureClass.INTERNAL),
        ("'NoneType' object has no attribute 'video_id'", FailureClass.INTERNAL),
    ],
)
def test_our_own_messages_are_classified(text: str, failure_class: FailureClass) -> None:
    assert FailureClassifier().classify(text).failure_class is failure_class, text


def test_what_says_nothing_is_unknown() -> None:
    classifier = FailureClassifier()
    for text in ("", "12345", "zxqv wvut"):
        assert classifier.classify(text) == (FailureClass.UNKNOWN, 1.0)
    assert sum(classifier.probabilities("the connection timed out").values()) == pytest.approx(1)


def test_new_words_are_learnt() -> None:
    classifier = FailureClassifier()
    assert classifier.classify("flux capacitor desynchronized").failure_class is FailureClass.UNKNOWN
    for _ in range(3):
        classifier.learn("flux capacitor desynchronized", FailureClass.VAULT)
    learnt = classifier.classify("the flux capacitor is desynchronized again")
    assert learnt.failure_class is FailureClass.VAULT
    assert learnt.probability > 0.5


def test_without_examples_it_knows_only_what_it_learnt() -> None:
    classifier = FailureClassifier(examples={})
    assert classifier.classify("Connection reset by peer").failure_class is FailureClass.UNKNOWN
    classifier.learn("Connection reset by peer", FailureClass.NETWORK)
    assert classifier.classify("connection reset").failure_class is FailureClass.NETWORK


def test_words_are_forgotten_when_there_are_too_many() -> None:
    classifier = FailureClassifier(ClassifierSettings(max_words=50), examples={})
    for number in range(300):
        classifier.learn("".join(chr(97 + int(digit)) for digit in f"{number:05}"), FailureClass.DISK)
    assert classifier.classify("aaaaa").failure_class is FailureClass.UNKNOWN
    assert classifier.classify("aacjj").failure_class is FailureClass.DISK
    assert len(classifier.state()) < 3_000


@given(st.lists(st.tuples(TEXTS, st.sampled_from(CLASSES)), max_size=20), TEXTS)
def test_a_restored_classifier_goes_on_alike(learnt: list[tuple[str, FailureClass]], text: str) -> None:
    classifier = FailureClassifier(ClassifierSettings(max_words=20), examples={})
    for each, failure_class in learnt:
        classifier.learn(each, failure_class)
    restored = FailureClassifier.from_state(classifier.state())
    for one in (classifier, restored):
        one.learn("one more", FailureClass.KEY)
    assert restored.probabilities(text) == classifier.probabilities(text)
    assert restored.state() == classifier.state()


def test_pseudonyms_do_not_split_templates() -> None:
    hide, templates = Pseudonyms(b"k" * 32), FailureTemplates()
    found = {
        templates.template(hide.text(f"no route to 192.0.2.{n} for bob{n}@example.com")) for n in range(5)
    }
    assert [template.text for template in found] == ["no route to <id> for <id>"]
    assert isinstance(found.pop(), Template)
