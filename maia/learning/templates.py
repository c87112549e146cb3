"""Groups failure texts into templates, and says what class of failure a text tells of.

`FailureTemplates` finds the constant part of messages with Drain (He et al., "Drain: an online log parsing
approach with fixed depth tree", 2017). `FailureClassifier` is naive Bayes over the words of a text; it starts
from examples of our own messages and learns from every failure whose class is known.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import astuple, dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import Any, Final, NamedTuple, Self, cast

from drain3.drain import Drain, LogCluster, Node
from drain3.masking import LogMasker, MaskingInstruction

from maia.learning.states import StateError, pack, unpack


class FailureClass(StrEnum):
    """What kind of failure it was, by what helps against it."""

    QUOTA = "quota"
    """The day's quota is spent: wait for the Pacific midnight."""
    RATE_LIMITED = "rate_limited"
    """Too many requests in a short time: wait some minutes."""
    KEY = "key"
    """YouTube refuses the API key: somebody must act."""
    CONFIG = "config"
    """A setting, or this machine's clock, is wrong: somebody must act."""
    BAD_REQUEST = "bad_request"
    """The request, or the data in it, is refused: the same again won't help."""
    NOT_FOUND = "not_found"
    """What was asked for is gone, or the answer was empty."""
    NETWORK = "network"
    """No connection, or it broke."""
    TIMEOUT = "timeout"
    """No answer in time."""
    SERVICE = "service"
    """The other side failed: an HTTP 5xx, or an answer that is none."""
    DATABASE = "database"
    CONFLICT = "conflict"
    """Another process was faster: a lost lease, a deadlock."""
    DISK = "disk"
    """PostgreSQL runs, but there is no room to store anything."""
    VAULT = "vault"
    INTERRUPTED = "interrupted"
    INTERNAL = "internal"
    """A bug."""
    UNKNOWN = "unknown"


CLASSES: Final = tuple(FailureClass)

_OF_REASONS: Final[Mapping[str, FailureClass | None]] = {
    "ring_closed": FailureClass.QUOTA,
    "closed": FailureClass.QUOTA,
    "rate_limited": FailureClass.RATE_LIMITED,
    "keys_rejected": FailureClass.KEY,
    "misconfigured": FailureClass.CONFIG,
    "bad_request": FailureClass.BAD_REQUEST,
    "page_token": FailureClass.BAD_REQUEST,
    "empty": FailureClass.NOT_FOUND,
    "network": FailureClass.NETWORK,
    "unavailable": FailureClass.NETWORK,
    "late": FailureClass.TIMEOUT,
    "database": FailureClass.DATABASE,
    "lease_lost": FailureClass.CONFLICT,
    "storage_failed": FailureClass.DISK,
    "vault": FailureClass.VAULT,
    "vault_failed": FailureClass.VAULT,
    "interrupted": FailureClass.INTERRUPTED,
    "failed": FailureClass.INTERNAL,
    "done": None,
    "idle": None,
    "not_later": None,
    "unpromising": None,
}


def class_of_reason(reason: str) -> FailureClass | None:
    """The class of a cycle's outcome or of the reason why it skipped an item; None if that is no failure."""
    return _OF_REASONS.get(reason, FailureClass.UNKNOWN)


# Templates

Masks = Sequence[tuple[str, str]]
"""Pairs of a name and the regular expression of what it stands for; applied in this order."""

MASKS: Final[Masks] = (
    ("url", r"\b[a-z][a-z0-9+.-]{1,20}://[^\s'\"<>)\]]+"),
    ("id", r"\b(?:ip|uuid|mail|key)-[0-9a-f]{12}\b"),
    ("id", r"\b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b"),
    ("time", r"\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?)?(?: ?UTC|Z|[+-]\d\d:?\d\d)?"),
    ("quoted", r"(?<!\w)'[^'\n]{0,200}'(?!\w)|\"[^\"\n]{0,200}\"|`[^`\n]{0,200}`"),
    ("path", r"(?<![\w<.])(?:/[\w.@~-]+){2,}/?"),
    ("host", r"\b[\w-]+(?:\.[\w-]+)*:\d{2,5}\b|\b(?:\d{1,3}\.){3}\d{1,3}\b"),
    ("id", r"\b(?:UC|UU|PL)[\w-]{16,}|(?<![\w-])(?=[\w-]*\d)(?=[\w-]*[A-Z])(?=[\w-]*[a-z])[\w-]{11,}"),
    ("id", r"\b(?=[0-9a-f]*\d)[0-9a-f]{8,}\b"),
    ("number", r"(?<![\w.<-])(?<!HTTP )[-+]?\d+(?:[.,:]\d+)*(?=[A-Za-z%]{0,4}(?:\W|$))"),
)  # fmt: skip

_VERSION: Final = 1
_TEMPLATES_STATE: Final = "failure_templates"
_CLASSIFIER_STATE: Final = "failure_classifier"
_LONGEST_TEXT: Final = 2_000
_MOST_WORDS: Final = 48
_DEPTH: Final = 6
"""Levels of Drain's tree: the number of words, then the first three words, which hold method and status."""


class Template(NamedTuple):
    """The constant part of a failure's text; the id is a hash of the text and of nothing else."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class TemplateSettings:
    """How texts are grouped."""

    max_templates: int = 500
    similarity: float = 0.6
    """The share of words that a text and a template of the same length have in common."""
    max_children: int = 50

    def __post_init__(self) -> None:
        if self.max_templates < 1 or self.max_children < 3 or not 0 < self.similarity <= 1:
            raise ValueError("max_templates ≥ 1, max_children ≥ 3 and 0 < similarity ≤ 1 are needed")


class FailureTemplates:
    """Learns templates from texts, one after the other; of too many, the least recently used is forgotten.

    A template becomes more general when a similar text comes, and its id changes with its text:
    `current_id` follows an id to its successor.
    """

    def __init__(self, settings: TemplateSettings | None = None, masks: Masks = MASKS) -> None:
        self.settings = settings or TemplateSettings()
        self._masker = LogMasker([MaskingInstruction(pattern, name) for name, pattern in masks], "<", ">")
        self._drain = self._new_drain()
        self._successors: dict[str, str] = {}
        self._grown = 0

    def template(self, text: str) -> Template:
        """Learn the text and return its template."""
        line = self._masked(text)
        before = self._drain.match(line)
        old = None if before is None else before.get_template()
        similar = self._similar(line) if before is None else None
        cluster, change = self._drain.add_log_message(line)
        self._use(cluster.cluster_id)
        current = _template(cluster)
        if change == "cluster_created":
            self._forget_dead_branches()
        elif change == "cluster_template_changed":
            self._succeed(old or similar, current)
        return current

    def find(self, text: str) -> Template | None:
        """The template of a text, if there is one that fits as it is; learns nothing."""
        cluster = self._drain.match(self._masked(text))
        return None if cluster is None else _template(cluster)

    def templates(self) -> dict[Template, int]:
        """All templates, with how many texts each had; the least recently used first."""
        counts: dict[Template, int] = {}
        for cluster in self._clusters.values():
            # Two templates may have become the same.
            template = _template(cluster)
            counts[template] = counts.get(template, 0) + cluster.size
        return counts

    def current_id(self, template_id: str) -> str:
        """The id of the template that one with this id has become."""
        while template_id in self._successors:
            template_id = self._successors[template_id]
        return template_id

    def state(self) -> bytes:
        """Everything needed to go on elsewhere, with a version."""
        return pack(
            _TEMPLATES_STATE,
            _VERSION,
            {
                "settings": [
                    self.settings.max_templates,
                    self.settings.similarity,
                    self.settings.max_children,
                ],
                "counter": self._drain.clusters_counter,
                "clusters": [
                    [number, cluster.size, cluster.log_template_tokens]
                    for number, cluster in self._clusters.items()
                ],
                "tree": _tree(self._drain.root_node),
                "successors": self._successors,
                "grown": self._grown,
            },
        )

    @classmethod
    def from_state(cls, state: bytes, masks: Masks = MASKS) -> Self:
        """The templates that `state` described; StateError if this version can't read it."""
        saved = unpack(_TEMPLATES_STATE, _VERSION, state)
        templates = cls(TemplateSettings(*saved["settings"]), masks)
        drain = templates._drain
        drain.clusters_counter = saved["counter"]
        for number, size, words in saved["clusters"]:
            cluster = LogCluster(words, number)
            cluster.size = size
            drain.id_to_cluster[number] = cluster
        drain.root_node = _node(saved["tree"])
        templates._successors = saved["successors"]
        templates._grown = saved["grown"]
        return templates

    def _new_drain(self) -> Drain:
        return Drain(
            depth=_DEPTH,
            sim_th=self.settings.similarity,
            max_children=self.settings.max_children,
            param_str="<*>",
            parametrize_numeric_tokens=False,
        )

    def _masked(self, text: str) -> str:
        return " ".join(self._masker.mask(text[:_LONGEST_TEXT]).split()[:_MOST_WORDS])

    def _similar(self, line: str) -> str | None:
        """The text of the template that this line is going to change."""
        words = line.split()
        cluster = self._drain.tree_search(self._drain.root_node, words, self.settings.similarity, False)
        return None if cluster is None else cluster.get_template()

    def _use(self, number: int) -> None:
        """Keep the clusters in the order of their use, and forget the first if there are too many."""
        clusters = self._clusters
        clusters[number] = clusters.pop(number)
        if len(clusters) > self.settings.max_templates:
            del clusters[next(iter(clusters))]

    @property
    def _clusters(self) -> MutableMapping[int, LogCluster]:
        """Drain's own, which tolerates that some are gone."""
        return cast("MutableMapping[int, LogCluster]", self._drain.id_to_cluster)

    def _succeed(self, old: str | None, current: Template) -> None:
        if old is None or old == current.text:
            return
        self._successors.pop(current.id, None)
        self._successors[_id(old)] = current.id
        if len(self._successors) > 4 * self.settings.max_templates:
            del self._successors[next(iter(self._successors))]

    def _forget_dead_branches(self) -> None:
        """Rebuild the tree now and then, because Drain never removes the branches of forgotten templates."""
        self._grown += 1
        if self._grown <= 2 * self.settings.max_templates:
            return
        self._grown = 0
        self._drain.root_node = Node()
        for number in sorted(self._clusters):
            self._drain.add_seq_to_prefix_tree(self._drain.root_node, self._clusters[number])


def _template(cluster: LogCluster) -> Template:
    text = cluster.get_template()
    return Template(_id(text), text)


def _id(text: str) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, person=b"failure").hexdigest()


def _tree(node: Node) -> list[Any]:
    return [list(node.cluster_ids), {word: _tree(child) for word, child in node.key_to_child_node.items()}]


def _node(saved: Sequence[Any]) -> Node:
    node = Node()
    node.cluster_ids = list(saved[0])
    node.key_to_child_node = {word: _node(child) for word, child in saved[1].items()}
    return node


# The class of a text


EXAMPLES: Final[Mapping[FailureClass, tuple[str, ...]]] = {
    FailureClass.QUOTA: (
        "the day's quota is spent until the next Pacific midnight (HTTP 403 quotaExceeded)",
        "ring is closed for bucket search until: the day's units are used up",
        "HTTP 403 dailyLimitExceeded: Daily Limit Exceeded. The quota will be reset at midnight Pacific Time",
        "The request cannot be completed because you have exceeded your quota.",
        "HTTP 429 rateLimitExceeded: Quota exceeded for metric 'Queries' and limit 'Queries per day'",
        "Quota exceeded for quota metric 'Search Queries' and limit 'Search Queries per day'",
        "limit 'Queries per day', PerDayPerProject, daily",
        "other processes use every unit as soon as it is free",
    ),
    FailureClass.RATE_LIMITED: (
        "HTTP 429 rateLimitExceeded: Rate Limit Exceeded",
        "HTTP 403 userRateLimitExceeded: User Rate Limit Exceeded",
        "HTTP 429 rateLimitExceeded: Quota exceeded for metric 'Queries' and limit 'Queries per minute'",
        "HTTP 429: Too Many Requests, slow down, retry after some seconds",
    ),
    FailureClass.KEY: (
        "no key is left. YouTube does not know this key: it was mistyped, deleted or has expired.",
        "HTTP 400 API_KEY_INVALID: API key not valid. Please pass a valid API key.",
        "API key expired. Please renew the API key.",
        "HTTP 400 keyInvalid: Bad Request",
        "HTTP 400 keyExpired: Bad Request",
        "HTTP 403 accessNotConfigured: the API has not been used in project before or it is disabled",
        "API_KEY_IP_ADDRESS_BLOCKED: The provided API key has an IP address restriction",
        "The key is restricted to web sites. Requests from referer are blocked",
        "no API key is configured for hunting: set YOUTUBE_API_KEY_POOL_JSON to your API key",
        "unregistered callers; consumer project has been suspended; billing is disabled",
    ),
    FailureClass.CONFIG: (
        "this machine's clock says another time than the database's: set the wrong one",
        "settings are missing, malformed or contradict each other: PLEIADES_HUNTER is no setting",
        "DATABASE_URL: sslmode must be one of; cannot read the file; is not the URL of a database",
        "YouTube refused a value that comes from a setting: invalidRegionCode regionCode",
        "needs a package that is not installed; install it with pip install",
    ),
    FailureClass.BAD_REQUEST: (
        "HTTP 400 invalidParameter: Invalid value of order",
        "HTTP 400 invalidPageToken: The request specifies an invalid page token.",
        "HTTP 400 badRequest: Request contains an invalid argument. INVALID_ARGUMENT",
        "Required parameter missing; No filter selected; Incompatible parameters specified in the request",
        "unknownPart; Invalid JSON payload received. Unknown name: Cannot bind query parameter",
        "a query is blank: give at least one word; the query has too many characters",
    ),
    FailureClass.NOT_FOUND: (
        "HTTP 404 videoNotFound: The video identified by the videoId parameter could not be found.",
        "HTTP 404 playlistNotFound: The playlist cannot be found",
        "impossibleId: cannot be the id of a channel",
        "A response contained none of the requested items; the answer was empty",
        "HTTP 404 Not Found; no longer exists; was deleted; is gone; HTTP 410",
        "commentsDisabled: The video has disabled comments; channelClosed channelSuspended",
    ),
    FailureClass.NETWORK: (
        "Connection reset by peer",
        "Server disconnected; the connection broke in the middle of the response",
        "Cannot connect to host: Connect call failed: connection refused",
        "the host name cannot be resolved: Temporary failure in name resolution (DNS)",
        "Network is unreachable; no route to host; broken pipe",
        "TLS handshake failed: certificate verify failed",
    ),
    FailureClass.TIMEOUT: (
        "timeout: no answer within 30 s",
        "the ledger did not answer within 10 s; no response in time",
        "timed out; Timeout on reading data from socket; deadline exceeded",
        "HTTP 504: The request timed out. gateway timeout",
        "canceling statement due to statement timeout; canceling statement due to lock timeout",
    ),
    FailureClass.SERVICE: (
        "HTTP 500 backendError: Internal error encountered.",
        "HTTP 503 backendError: The service is currently unavailable.",
        "HTTP 502 badGateway: Bad Gateway",
        "HTTP 403 accountDelegationForbidden: cannot act on behalf of the specified Google account",
        "HTTP 501 notImplemented: Operation is not implemented, or supported, or enabled",
        "the response is not complete JSON; the response is not a JSON object, but html",
        "the response is incomplete, or not what was requested; a redirect, which the API never sends",
    ),
    FailureClass.DATABASE: (
        "no connection to the database: is that a PostgreSQL server? connection does not exist",
        "terminating connection due to administrator command",
        "the database system is starting up; the database system is shutting down; in recovery",
        "no connection became free within 10 s: all are in use (PLEIADES_DATABASE__POOL_SIZE)",
        "relation does not exist: is the schema up to date? (maia migrate); column does not exist",
        "unique violation; foreign key violation; not null violation; check violation",
        "PostgreSQL did not start; the embedded server cannot be used; migration failed",
        "the transaction is rolled back: a statement in it failed; sorry, too many clients already",
    ),
    FailureClass.CONFLICT: (
        "a lease on the topic was lost: nothing was stored; claim it again",
        "deadlock detected",
        "could not serialize access due to concurrent update",
        "the lock was lost with its connection; another process holds it now",
    ),
    FailureClass.DISK: (
        "No space left on device: could not extend file",
        "has only 12 MiB of free disk left: free some space",
        "cannot execute INSERT in a read-only transaction; disk full; out of memory",
        "Disk quota exceeded; Read-only file system",
    ),
    FailureClass.VAULT: (
        "cannot write the object in the vault's folder: Permission denied",
        "dataset does not exist or this token may not use it: create it, or set HF_DATASET_ID and HF_TOKEN",
        "bucket does not exist: create it, or set PLEIADES_VAULT__URL",
        "s3: Access Denied; NoSuchBucket; could not connect to the endpoint URL",
        "unable to locate credentials of the bucket",
        "huggingface.co: HTTP 503; another process deleted a file; object storage refused or failed",
        "the vault can't be reached or can't store now",
    ),
    FailureClass.INTERRUPTED: (
        "the process was asked to stop: SIGTERM; every claim is released",
        "CancelledError; KeyboardInterrupt; interrupted by signal",
    ),
    FailureClass.INTERNAL: (
        "TypeError: unsupported operand; object has no attribute; is not subscriptable",
        "KeyError; IndexError: list index out of range; ZeroDivisionError: division by zero",
        "ValueError: not enough values to unpack; AssertionError; RuntimeError; RecursionError",
        "AttributeError: 'NoneType' object has no attribute",
        "unexpected keyword argument; got an unexpected; missing required positional argument",
    ),
}  # fmt: skip
"""What the classifier knows before it has learnt anything: words of our own messages and our libraries'."""

_WORD: Final = re.compile(r"[^\W\d_]{2,}|(?<=HTTP )[1-5]\d\d")
_CAMEL: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")
_LONGEST_WORD: Final = 32


@dataclass(frozen=True, slots=True)
class ClassifierSettings:
    """How failure texts are classified."""

    smoothing: float = 0.03
    max_words: int = 20_000
    least_probability: float = 0.35
    """Below it, the class is unknown."""
    weight_of_examples: float = 1.0


class Classified(NamedTuple):
    """The likeliest class of a text and its probability."""

    failure_class: FailureClass
    probability: float


class FailureClassifier:
    """Naive Bayes over the words and word pairs of failure texts, learnt online.

    The least recently learnt words are forgotten when there are too many.
    """

    def __init__(
        self,
        settings: ClassifierSettings | None = None,
        examples: Mapping[FailureClass, Iterable[str]] = EXAMPLES,
    ) -> None:
        self.settings = settings or ClassifierSettings()
        self._words: dict[str, list[float]] = {}
        self._totals = [0.0] * len(CLASSES)
        self._texts = [0.0] * len(CLASSES)
        for failure_class, texts in examples.items():
            for text in texts:
                self.learn(text, failure_class, weight=self.settings.weight_of_examples)

    def learn(self, text: str, failure_class: FailureClass, *, weight: float = 1.0) -> None:
        """Learn that a text told of this class."""
        place = CLASSES.index(failure_class)
        self._texts[place] += weight
        for word in _words_of(text):
            counts = self._words.pop(word, None) or [0.0] * len(CLASSES)
            counts[place] += weight
            self._words[word] = counts
            self._totals[place] += weight
        while len(self._words) > self.settings.max_words:
            forgotten = self._words.pop(next(iter(self._words)))
            self._totals = [total - count for total, count in zip(self._totals, forgotten, strict=True)]

    def classify(self, text: str) -> Classified:
        """The likeliest class of a text; unknown if none is likely enough, or none of its words is known."""
        probabilities = self.probabilities(text)
        best = max(probabilities, key=probabilities.__getitem__)
        if probabilities[best] < self.settings.least_probability:
            return Classified(FailureClass.UNKNOWN, probabilities[FailureClass.UNKNOWN])
        return Classified(best, probabilities[best])

    def probabilities(self, text: str) -> dict[FailureClass, float]:
        """The probability of each class."""
        known = [counts for word in _words_of(text) if (counts := self._words.get(word))]
        if not known:
            return {each: float(each is FailureClass.UNKNOWN) for each in CLASSES}
        smoothing = self.settings.smoothing
        scores = []
        for place, texts in enumerate(self._texts):
            if not texts:
                scores.append(-math.inf)
                continue
            whole = math.log(self._totals[place] + smoothing * len(self._words))
            score = sum(math.log(counts[place] + smoothing) - whole for counts in known)
            # Words of one message come together, so that fewer of them are evidence of their own.
            scores.append(score / len(known) ** 0.25 + 0.5 * math.log(texts))
        top = max(scores)
        weights = [math.exp(score - top) for score in scores]
        return {each: weight / sum(weights) for each, weight in zip(CLASSES, weights, strict=True)}

    def state(self) -> bytes:
        """Everything needed to go on elsewhere, with a version."""
        return pack(
            _CLASSIFIER_STATE,
            _VERSION,
            {
                "settings": list(astuple(self.settings)),
                "classes": [each.value for each in CLASSES],
                "words": self._words,
                "totals": self._totals,
                "texts": self._texts,
            },
        )

    @classmethod
    def from_state(cls, state: bytes) -> Self:
        """The classifier that `state` described; StateError if this version can't read it."""
        saved = unpack(_CLASSIFIER_STATE, _VERSION, state)
        if saved["classes"] != [each.value for each in CLASSES]:
            raise StateError("the state of the failure classifier has other classes")
        classifier = cls(ClassifierSettings(*saved["settings"]), {})
        classifier._words, classifier._totals = saved["words"], saved["totals"]
        classifier._texts = saved["texts"]
        return classifier


def _words_of(text: str) -> list[str]:
    """The distinct words of a text and the pairs of neighbours, without numbers; camelCase in parts too."""
    found: dict[str, None] = {}
    previous = ""
    for word in _WORD.findall(text[:_LONGEST_TEXT]):
        parts = _CAMEL.split(word)
        for part in parts if len(parts) == 1 else [word, *parts]:
            found[part.casefold()[:_LONGEST_WORD]] = None
        current = word.casefold()[:_LONGEST_WORD]
        if previous:
            found[f"{previous} {current}"] = None
        previous = current
    return list(found)
