"""The settings of the HTTP service and of the federation between sites."""

from __future__ import annotations

from typing import Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from atlas.setting_types import Group, HttpUrl, OptionalPath, Texts, Urls, http_url

MEBIBYTE: Final = 2**20
ASKED_ACTIONS: Final = (
    "backup", "cleanup", "partitions", "vacuum", "reindex", "restart", "emergency",
)  # fmt: skip
"""The kinds of the maintainer's actions that people can be allowed to start over HTTP."""


class ApiSettings(Group):
    """The HTTP service: patterns, discovery, the dashboard."""

    cors_origins: Texts = Field(
        default=(),
        examples=["https://dashboards.example"],
        description="Origins whose pages may call it from a browser, such as https://dashboards.example.",
    )
    allowed_hosts: Texts = Field(
        default=(),
        description="Further host names under which it may be called while no key is configured.",
    )
    requests_per_minute: int = Field(
        default=100, ge=1, le=10_000_000, description="Requests that a key may make a minute, unless it says."
    )
    most_body_bytes: int = Field(
        default=MEBIBYTE, ge=1_024, le=2**30, description="Longest body of a request that is read."
    )
    most_connections: int = Field(
        default=2_000, ge=1, le=1_000_000, description="Most connections of one process at once."
    )
    most_streams: int = Field(
        default=1_500, ge=1, le=1_000_000, description="Most live streams (SSE, WebSocket) of one process."
    )
    head_timeout_s: float = Field(
        default=10, gt=0, le=3_600, description="How long a client may take to send the head of a request."
    )
    body_timeout_s: float = Field(
        default=30, gt=0, le=3_600, description="How long a client may take to send the body of a request."
    )
    connect_timeout_s: float = Field(
        default=5,
        gt=0,
        le=3_600,
        description="How long a request waits for a connection to the database before it is answered 503; "
        "never longer than PLEIADES_DATABASE__CONNECT_TIMEOUT_S.",
    )
    stop_timeout_s: float = Field(
        default=8, gt=0, le=3_600, description="How long answers in progress may take when it stops."
    )
    observe_wait_s: float = Field(
        default=1,
        ge=0,
        le=60,
        description="How long POST /observe waits until what was sent is learnt; then it answers pending.",
    )
    most_unlearnt: int = Field(
        default=50_000,
        ge=1_000,
        le=10_000_000,
        description="Most observations that may wait to be learnt, over all processes; more get a 503.",
    )
    actions: Texts = Field(
        default=("cleanup", "partitions", "vacuum", "reindex", "backup", "restart"),
        description="Kinds of the maintainer's actions that admins may start on the page Health.",
    )
    tls_certificate: OptionalPath = Field(
        default=None, description="PEM file with its certificate chain; it then answers by TLS alone."
    )
    tls_key: OptionalPath = Field(default=None, description="PEM file with the certificate's key.")

    @field_validator("cors_origins")
    @classmethod
    def _origins_are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            scheme, separator, rest = origin.partition("://")
            if scheme not in ("http", "https") or not separator or not rest or "/" in rest:
                raise ValueError(f"{origin!r} is no origin: write scheme and host, such as https://a.example")
        return origins

    @field_validator("actions")
    @classmethod
    def _actions_can_be_asked_for(cls, kinds: tuple[str, ...]) -> tuple[str, ...]:
        for kind in kinds:
            if kind not in ASKED_ACTIONS:
                raise ValueError(f"{kind!r} can't be started there; there are {', '.join(ASKED_ACTIONS)}")
        return kinds

    @model_validator(mode="after")
    def _tls_is_complete(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key belong together: set both or neither")
        return self


class FederationSettings(Group):
    """Sites that learn together by exchanging evidence."""

    enabled: bool = Field(default=False, description="Exchange evidence with other sites under maia up.")
    cluster_name: str = Field(
        default="pleiades",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$",
        description="Name of the cluster; sites of another one are refused.",
    )
    node_type: Literal["learner", "coordinator"] = Field(
        default="learner", description="A learner calls its peers; a coordinator is called by them."
    )
    coordinator_url: HttpUrl | None = Field(
        default=None, description="The coordinator's service, which a learner exchanges evidence with."
    )
    peers: Urls = Field(default=(), description="Services of further sites to exchange evidence with.")
    token: SecretStr | None = Field(
        default=None, description="Secret that all sites of the cluster share; at least 16 characters."
    )
    sync_interval_s: float = Field(
        default=300, ge=1, le=86_400, description="Seconds between two exchanges with a peer."
    )
    conflicts: Literal["merge", "latest", "confident"] = Field(
        default="merge",
        description="Whose evidence counts where sites differ: the sum of all (merge), that of the site that "
        "saw it last (latest), or of the surest site (confident). The same is stored and exchanged.",
    )
    graph: Literal["off", "people", "topics", "all"] = Field(
        default="people",
        description="Which atoms of the knowledge graph other sites are told of: none, nor are theirs taken "
        "(off), what people said (people), also tags, topics and how these hang together (topics), or also "
        "everything about videos and channels (all), which is for sites of one API client.",
    )
    most_new_atoms: int = Field(
        default=200_000, ge=1, le=10**9, description="New atoms that a peer may bring a day."
    )
    most_new_patterns: int = Field(
        default=100_000,
        ge=1,
        le=10_000_000,
        description="New patterns that a peer may bring a day, but never more than five times "
        "PLEIADES_LEARNER__MAX_PATTERNS.",
    )

    @field_validator("coordinator_url", "peers")
    @classmethod
    def _urls_are_plain(cls, value: str | tuple[SecretStr, ...] | None) -> str | tuple[SecretStr, ...] | None:
        urls = [value] if isinstance(value, str) else [each.get_secret_value() for each in value or ()]
        for url in urls:
            parts = urlsplit(http_url(url))
            if parts.username is not None or parts.query or parts.fragment:
                raise ValueError(
                    "a site's URL has no user, password, query or fragment, such as https://site.example: "
                    "sites need the token alone"
                )
        return value

    @field_validator("token")
    @classmethod
    def _token_is_long(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None and len(token.get_secret_value()) < 16:
            raise ValueError("the token is too short to be secret: use at least 16 characters")
        return token
