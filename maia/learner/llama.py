"""An optional back end on llama.cpp: classifies failure texts and drafts the summary of a week.

The model only ever chooses among given words, by a grammar that llama.cpp makes of a JSON schema with nothing
but enumerations: every answer parses, and none runs away. All figures of the summary come from our own code.
Without a model, `StatisticalFailures` does the same by naive Bayes and by rules, and is the default.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Protocol, Self

from atlas.errors import ConfigError
from atlas.extras import DISTRIBUTION, how_to_install
from atlas.wording import counted
from maia.errors import MaiaError
from maia.learning.templates import CLASSES, Classified, FailureClass, FailureClassifier

logger = logging.getLogger(__name__)

_CONTEXT_TOKENS: Final = 2048
_ANSWER_TOKENS: Final = 48
_LONGEST_TEXT: Final = 300
_MOST_EXAMPLES: Final = 16
_MAGIC: Final = b"GGUF"


class LlamaError(MaiaError):
    """llama.cpp gave no answer."""


class Headline(StrEnum):
    """How a week went."""

    GOOD = "good week"
    MIXED = "mixed week"
    BAD = "bad week"


class Advice(StrEnum):
    """What to look at after such a week."""

    NOTHING = "nothing to do"
    QUOTA = "look at the quota"
    KEYS = "look at the keys"
    DATABASE = "look at the database"
    NETWORK = "look at the network"
    FAILURES = "look at the failures"


_HEADLINES: Final[Mapping[Headline, str]] = {
    Headline.GOOD: "A good week: {succeeded:,} of {cycles} succeeded.",
    Headline.MIXED: "A mixed week: {failed:,} of {cycles} failed.",
    Headline.BAD: "A bad week: {failed:,} of {cycles} failed.",
}
_ADVICE: Final[Mapping[Advice, str]] = {
    Advice.NOTHING: "There is nothing to do.",
    Advice.QUOTA: "The quota was what failed most: `maia plan` shows how it is spent.",
    Advice.KEYS: "Keys were what failed most: `maia keys` lists them.",
    Advice.DATABASE: "The database was what failed most: `maia doctor` checks it.",
    Advice.NETWORK: "The network, or YouTube, was what failed most.",
    Advice.FAILURES: "Look at the failures: `maia patterns list` shows them.",
}
_ADVICE_OF_CLASS: Final[Mapping[FailureClass, Advice]] = {
    FailureClass.QUOTA: Advice.QUOTA,
    FailureClass.RATE_LIMITED: Advice.QUOTA,
    FailureClass.KEY: Advice.KEYS,
    FailureClass.DATABASE: Advice.DATABASE,
    FailureClass.DISK: Advice.DATABASE,
    FailureClass.NETWORK: Advice.NETWORK,
    FailureClass.TIMEOUT: Advice.NETWORK,
    FailureClass.SERVICE: Advice.NETWORK,
}
_GOOD_SHARE: Final = 0.02
_BAD_SHARE: Final = 0.2


@dataclass(frozen=True, slots=True)
class Week:
    """The figures of a week that the summary tells."""

    cycles: int
    failed: int
    videos_found: int = 0
    videos_sampled: int = 0
    failures: Mapping[FailureClass, int] | None = None

    @property
    def worst(self) -> FailureClass | None:
        """The class of most failures."""
        failures = self.failures or {}
        return max(failures, key=lambda each: (failures[each], each), default=None)


class FailureBackend(Protocol):
    """Classifies failure texts and drafts summaries."""

    @property
    def why(self) -> str:
        """Which back end this is, and why it is used."""

    async def classify(self, text: str, examples: Sequence[tuple[str, FailureClass]] = ()) -> Classified:
        """The class of a failure's text; `examples` are texts from history whose class is known."""

    async def summarize(self, week: Week) -> str:
        """A few sentences on a week."""


class StatisticalFailures:
    """Classifies by naive Bayes, and summarizes by rules."""

    def __init__(self, classifier: FailureClassifier | None = None, why: str = "no model is set") -> None:
        self._classifier = classifier or FailureClassifier()
        self.why = f"statistical classifier: {why}"

    async def classify(self, text: str, examples: Sequence[tuple[str, FailureClass]] = ()) -> Classified:
        """As the classifier says; it has learnt its examples before."""
        return self._classifier.classify(text)

    async def summarize(self, week: Week) -> str:
        """The headline by the share of failed cycles, and advice by the most frequent class."""
        share = week.failed / max(week.cycles, 1)
        headline = Headline.MIXED if share < _BAD_SHARE else Headline.BAD
        if share <= _GOOD_SHARE:
            headline = Headline.GOOD
        advice = Advice.NOTHING
        if week.failed:
            advice = _ADVICE_OF_CLASS.get(week.worst or FailureClass.UNKNOWN, Advice.FAILURES)
        return _drafted(week, headline, advice)


class LlamaFailures:
    """Classifies and summarizes with a model in this process; opened by `open`, closed by `close`.

    One thread asks the model. After the time limit the answer is given up, but llama.cpp can't be stopped
    within it: until it is ready, every question fails at once.
    """

    def __init__(self, server: Any, model: Path, timeout_s: float) -> None:
        self._server, self._timeout_s = server, timeout_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="llama")
        self._running: asyncio.Future[Any] | None = None
        self.why = f"llama.cpp with {model.name}"

    @classmethod
    async def open(cls, model: Path, *, threads: int = 2, timeout_s: float = 30.0) -> Self:
        """Load the model; ConfigError if that can't be done."""
        await asyncio.to_thread(_check, model)
        try:
            server = await asyncio.to_thread(_load, model, threads)
        except (RuntimeError, ValueError, OSError) as error:
            raise ConfigError(f"llama.cpp cannot load {model}: {error}") from error
        return cls(server, model, timeout_s)

    async def classify(self, text: str, examples: Sequence[tuple[str, FailureClass]] = ()) -> Classified:
        """The class that the model chooses; how likely it is isn't known, so that the probability is 1."""
        answer = await self._choose(_classifying(text, examples), {"class": [each.value for each in CLASSES]})
        return Classified(FailureClass(answer["class"]), 1.0)

    async def summarize(self, week: Week) -> str:
        """The headline and the advice that the model chooses, with our figures."""
        choices = {"headline": [each.value for each in Headline], "advice": [each.value for each in Advice]}
        answer = await self._choose(_summarizing(week), choices)
        return _drafted(week, Headline(answer["headline"]), Advice(answer["advice"]))

    async def close(self) -> None:
        """Free the model, once it has finished its last answer."""
        await asyncio.to_thread(self._thread.shutdown)
        self._server = None

    async def _choose(
        self, messages: list[dict[str, str]], choices: Mapping[str, Sequence[str]]
    ) -> dict[str, str]:
        if self._server is None:
            raise LlamaError("the model is closed")
        if self._running is not None and not self._running.done():
            raise LlamaError("llama.cpp is still busy with a question that took too long")
        loop = asyncio.get_running_loop()
        request = _request(messages, choices)
        self._running = loop.run_in_executor(self._thread, self._server.handle_chat_completions, request)
        done, _ = await asyncio.wait({self._running}, timeout=self._timeout_s)
        if not done:
            raise LlamaError(f"llama.cpp did not answer within {self._timeout_s:g} s")
        try:
            return _chosen(self._running.result(), choices)
        except (RuntimeError, ValueError, OSError) as error:
            raise LlamaError(f"llama.cpp failed: {error}") from error


async def failure_backend(
    model: Path | None = None,
    *,
    threads: int = 2,
    timeout_s: float = 30.0,
    classifier: FailureClassifier | None = None,
) -> StatisticalFailures | LlamaFailures:
    """The back end that these settings ask for; its `why` says which and why.

    Without a model, and also where the model can't be loaded, it is the statistical one.
    """
    if model is None:
        return StatisticalFailures(classifier)
    try:
        return await LlamaFailures.open(model, threads=threads, timeout_s=timeout_s)
    except ConfigError as error:
        logger.warning("failures are classified without llama.cpp: %s", error, extra={"action": "no_llama"})
        return StatisticalFailures(classifier, str(error))


def llama_problem(model: Path | None) -> str | None:
    """Why llama.cpp can't be used with this setting, without loading it; None if it can or isn't set."""
    if model is None:
        return None
    try:
        _check(model)
    except ConfigError as error:
        return str(error)
    return None


def _check(model: Path) -> None:
    if find_spec("xllamacpp") is None:
        raise ConfigError(
            f"llama.cpp needs xllamacpp; install it: {how_to_install('llama')} "
            f"(pip install '{DISTRIBUTION}[llama]'), or unset PLEIADES_LEARNER__LLAMA_MODEL"
        )
    try:
        with model.open("rb") as file:
            magic = file.read(len(_MAGIC))
    except OSError as error:
        raise ConfigError(f"PLEIADES_LEARNER__LLAMA_MODEL: cannot read {model}: {error.strerror}") from error
    if magic != _MAGIC:
        raise ConfigError(f"PLEIADES_LEARNER__LLAMA_MODEL: {model} is no GGUF file")


def _load(model: Path, threads: int) -> Any:
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(model)
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
    parameters.n_parallel = 1
    parameters.n_ctx = _CONTEXT_TOKENS
    parameters.n_gpu_layers = 0
    parameters.warmup = False
    parameters.verbosity = -1
    # It listens on a port of this machine, too, which nobody else shall use.
    parameters.hostnames = ["127.0.0.1"]
    parameters.api_keys = [secrets.token_urlsafe(32)]
    parameters.n_threads_http = 1
    return xllamacpp.Server(parameters)


def _request(messages: list[dict[str, str]], choices: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {name: {"enum": list(values)} for name, values in choices.items()},
        "required": list(choices),
        "additionalProperties": False,
    }
    return {
        "messages": messages,
        "temperature": 0,
        "max_tokens": _ANSWER_TOKENS,
        "response_format": {"type": "json_schema", "json_schema": {"name": "choice", "schema": schema}},
    }


def _chosen(response: Mapping[str, Any], choices: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The choices in an answer; ValueError if it has none."""
    if "choices" not in response:
        raise ValueError(str(response.get("message") or response)[:_LONGEST_TEXT])
    content = response["choices"][0]["message"]["content"]
    try:
        answer = json.loads(content)
    except ValueError as error:
        raise ValueError(f"the answer is no JSON: {content[:_LONGEST_TEXT]!r}") from error
    for name, values in choices.items():
        if answer.get(name) not in values:
            raise ValueError(f"the answer does not choose {name!r}: {content[:_LONGEST_TEXT]!r}")
    return dict(answer)


def _classifying(text: str, examples: Sequence[tuple[str, FailureClass]]) -> list[dict[str, str]]:
    """The question as a conversation, with the latest examples as answers already given."""
    asked = f"Say the class of each failure. The classes are {', '.join(CLASSES)}."
    messages = [{"role": "system", "content": asked}]
    for example, failure_class in examples[-_MOST_EXAMPLES:]:
        messages.append({"role": "user", "content": _sent(example)})
        messages.append({"role": "assistant", "content": json.dumps({"class": failure_class.value})})
    messages.append({"role": "user", "content": _sent(text)})
    return messages


def _sent(text: str) -> str:
    """The beginning of a text, as UTF-8 can hold it."""
    return text[:_LONGEST_TEXT].encode("utf-8", "replace").decode()


def _summarizing(week: Week) -> list[dict[str, str]]:
    failures = ", ".join(f"{count} {each}" for each, count in (week.failures or {}).items()) or "none"
    told = (
        f"{week.cycles} cycles, {week.failed} failed ({week.failed / max(week.cycles, 1):.0%}). "
        f"Failures by class: {failures}. Choose a headline for the week and what to look at."
    )
    return [{"role": "user", "content": told}]


def _drafted(week: Week, headline: Headline, advice: Advice) -> str:
    """The summary: chosen sentences, filled with the week's figures."""
    cycles, failed = counted(week.cycles, "cycle"), week.failed
    figures = {"cycles": cycles, "failed": failed, "succeeded": week.cycles - failed}
    sentences = [_HEADLINES[headline].format(**figures)]
    sentences.append(
        f"{counted(week.videos_found, 'video was', 'videos were')} found and "
        f"{counted(week.videos_sampled, 'sample')} taken."
    )
    if week.worst is not None and week.failures:
        sentences.append(f"Most failures were of class {week.worst}: {week.failures[week.worst]:,}.")
    sentences.append(_ADVICE[advice])
    return " ".join(sentences)
