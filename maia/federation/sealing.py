"""Seals on messages that travel over what others may use too, such as a shared Redis.

A seal proves that a message was written by a site that knows the cluster's token, for this cluster, and as
what. It hides nothing. Old messages can be sent again; merging makes that harmless, and an answer names its
question.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, Literal, get_args

import msgpack

from atlas.wording import counted
from maia.errors import MaiaError

MOST_BYTES: Final = 9 * 2**20
"""The longest sealed message that is looked at."""

_VERSION: Final = 1
_SEAL_BYTES: Final = 32
_LONGEST_NAME: Final = 200
_MOST_NUMBER: Final = 2**53

Purpose = Literal["changes", "question", "answer"]


class SealBroken(MaiaError):
    """The message was not sealed with this cluster's token."""


@dataclass(frozen=True, slots=True)
class Letter:
    """What is sealed: a message, and who says it to whom, as what.

    Of `changes` the reference names the chain they are part of, and the number their place in it; of
    `question` and `answer` it names the question, which is `about` something.
    """

    purpose: Purpose
    sender: str
    reference: str
    message: bytes
    number: int = 0
    receiver: str = ""
    """Empty for all."""
    about: str = ""


class Sealer:
    """Seals and opens the letters of one cluster."""

    def __init__(self, token: str, cluster: str) -> None:
        self._cluster = cluster
        # Not the token itself, so that a seal is of no use wherever else the token is asked for.
        self._key = hmac.digest(token.encode(), f"pleiades letters {cluster}".encode(), sha256)

    def seal(self, letter: Letter) -> bytes:
        """The letter with its seal."""
        packed: bytes = msgpack.packb(
            (
                _VERSION, self._cluster, letter.purpose, letter.sender, letter.receiver, letter.reference,
                letter.number, letter.about, letter.message,
            )
        )  # fmt: skip
        return hmac.digest(self._key, packed, sha256) + packed

    def open(self, sealed: bytes) -> Letter:
        """The letter, if its seal holds; SealBroken if it doesn't."""
        if not _SEAL_BYTES < len(sealed) <= MOST_BYTES:
            raise SealBroken(f"a message of {counted(len(sealed), 'byte')} is none of ours")
        seal, packed = sealed[:_SEAL_BYTES], sealed[_SEAL_BYTES:]
        if not hmac.compare_digest(seal, hmac.digest(self._key, packed, sha256)):
            raise SealBroken("the seal is not of this cluster's token: all sites need the same one")
        return self._read(packed)

    def _read(self, packed: bytes) -> Letter:
        # Only who knows the token gets here; but versions may differ.
        try:
            told: Any = msgpack.unpackb(packed)
            version, cluster, purpose, sender, receiver, reference, number, about, message = told
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            raise SealBroken("a sealed message is of a form that isn't known: update this site") from error
        texts = (sender, receiver, reference, about)
        if (
            (version, cluster) != (_VERSION, self._cluster)
            or purpose not in get_args(Purpose)
            or not all(isinstance(text, str) and len(text) <= _LONGEST_NAME for text in texts)
            or not (type(number) is int and 0 <= number <= _MOST_NUMBER)
            or not isinstance(message, bytes)
        ):
            raise SealBroken("a sealed message is of a form that isn't known: update this site")
        return Letter(purpose, sender, reference, message, number, receiver, about)
