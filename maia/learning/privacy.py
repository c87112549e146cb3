"""Replaces personal data in contexts and texts with keyed pseudonyms, before anything is stored.

IP addresses, UUIDs, e-mail addresses and secrets become `ip-…`, `uuid-…`, `mail-…` and `key-…` with twelve
hexadecimal digits of a keyed BLAKE2b hash, so that equal values stay equal under one key, and nobody without
the key can test a guess. Notation doesn't matter: `::FFFF:192.0.2.1`, `192.0.2.1` and `%31%39%32.0.2.1` give
the same pseudonym.

In doubt, data is replaced. Four numbers with dots are an address unless the text or the field calls them a
version; 32 hexadecimal digits are a UUID, and more of them a secret, unless they are called a hash; a
password is recognised by its name. YouTube's ids, times, dates and ordinary words are kept. Not recognised:
addresses written as one number, a secret that looks like a word and has no telling name, and base64.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, time, timedelta
from functools import lru_cache
from hashlib import blake2b
from ipaddress import IPv4Address, IPv6Address
from itertools import pairwise
from typing import Any, Final, Literal
from urllib.parse import unquote
from uuid import UUID

import re2

Kind = Literal["ip", "uuid", "mail", "key"]

_SHORTEST_KEY: Final = 16
_LONGEST_KEY: Final = 64
_SHORTEST_SECRET: Final = 20
_SMALLEST_SECRET: Final = 1_000
"""A smaller number is none, even if its field is called a password: it may say how many there are."""
_UUID_LENGTH: Final = 36
_GROUPS: Final = 8
"""Of an IPv6 address; the last two may be written as an IPv4 address."""
_ROUNDS: Final = 5
"""How often a text is decoded at most, if it was encoded several times."""

_PSEUDONYM: Final = re.compile(r"((?:ip|uuid|mail|key)-[0-9a-f]{12})(?![0-9a-f])")
_TELLING_NAMES: Final = (
    r"api[_-]?key|access[_-]?key|secret[_-]?key|private[_-]?key|password|passwd|passphrase|pwd|secret"
    r"|client[_-]?secret|credentials?|authorization|bearer|cookie"
    r"|(?:access|refresh|auth|api|id|session|bearer|csrf)[_-]?token|token|session[_-]?id"
)
_SUSPECT: Final = re2.compile(
    r"(?i)@|%[0-9a-f]{2}|&#|\\u00|[0-9]\.[0-9]{1,3}\.|::|:[0-9a-f]{1,4}:|[\w+-]{20,}|\bip-[0-9]"
    rf"|(?:{_TELLING_NAMES}|key)[\"']?\s*[:=]|\b(?:bearer|basic)\s|private key"
)
"""What every text with something to replace matches, and few others do."""

_YOUTUBE_ID: Final = re.compile(
    r"[\w-]{11}|(?:UC|UU|FL|LL|UU(?:LF|SH|LV))[\w-]{22}|PL(?:[\w-]{16}|[\w-]{32})", re.ASCII
)
_ESCAPE: Final = re.compile(r"\\u00([0-9a-fA-F]{2})|&#x([0-9a-fA-F]{1,5});|&#([0-9]{1,6});")

_USER_INFO: Final = re.compile(
    r"(?<=://)(?:[^\s/?#:]*+:[^\s/?#]*(?=@)|[^\s/?#:@]++(?=@[^\s/?#.@:]++(?:[/?#:\s]|\Z)))"
)
_KNOWN_KEY: Final = re.compile(
    r"(?i:AIza)[\w-]{30,}"
    r"|ya29\.[\w-]{20,}|GOCSPX-[\w-]{20,}|gh[pousr]_\w{20,}|github_pat_\w{20,}|hf_[A-Za-z0-9]{20,}"
    r"|(?<!\w)sk-[\w-]{16,}|xox[abprs]-[\w-]{10,}|(?:AKIA|ASIA)[A-Z0-9]{16}"
    r"|(?<![\w-])eyJ[\w-]{10,}+\.[\w-]{10,}(?:\.[\w-]*)?"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----(?s:.*?)(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
)
_NAMED: Final = re.compile(
    rf"(?<![A-Za-z])(?P<name>{_TELLING_NAMES}|key)(?P<sign>[\"']?\s*[:=]\s*)(?P<quote>[\"']?)"
    r"(?:(?:bearer|basic)\s+)?(?P<value>[^\s\"',;&)}\]]+)",
    re.IGNORECASE,
)
_BEARER: Final = re.compile(r"\b(?:bearer|basic)\s+(?P<value>[\w.~+/=-]{8,})", re.IGNORECASE)
_MAIL: Final = re.compile(
    r"(?:\"[^\"@\s]{1,64}\"|(?<![\w.+'~%-])(?:[\w.-]{1,64}\+[\w.+-]{1,64}=)?[\w.+'~%-]++)"
    r"[@＠](?:[\w-]++(?:\.[\w-]+)+|\[[^\]\s]{2,60}\])"
)
_UUID: Final = re.compile(
    r"(?:urn:uuid:)?\{?(?<![0-9a-f])[0-9a-f]{8}(?P<dash>-?)[0-9a-f]{4}(?P=dash)[0-9a-f]{4}(?P=dash)[0-9a-f]{4}"
    r"(?P=dash)[0-9a-f]{12}(?![0-9a-f])\}?",
    re.IGNORECASE,
)
_IPV6: Final = re.compile(
    r"(?P<open>\[)?(?P<address>(?:[0-9a-f]{0,4}:){2,}(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9a-f]{0,4}))"
    r"(?:%(?!5d)(?:25)?[\w.~-]+)?(?(open)\])",
    re.IGNORECASE,
)
_IPV4: Final = re.compile(
    r"(?<![0-9])(?<![0-9]\.)(?P<address>[0-9]{1,3}(?:\.[0-9]{1,3}){3})(?![0-9]|\.[0-9])"
    r"|\bip-(?P<dashed>[0-9]{1,3}(?:-[0-9]{1,3}){3})(?![0-9])",
    re.IGNORECASE,
)
_RUN: Final = re.compile(rf"(?<![\w+-])[\w+-]{{{_SHORTEST_SECRET},}}={{0,2}}", re.ASCII)
_HEXADECIMAL: Final = re.compile(r"[0-9a-f]{32,}", re.IGNORECASE)

_CALLED_VERSION: Final = re.compile(
    r"(?:\bv|version[\w ]{0,12}[\"']?[ :=]*[\"']?v?|(?:Chrome|Chromium|Edg|OPR|YaBrowser|Electron)/)$",
    re.IGNORECASE,
)
_CALLED_HASH: Final = re.compile(
    r"(?:sha[-_]?(?:1|224|256|384|512)?|md5|blake2[bs]?|hash|digest|e?tag|checksum|commit|revision|fingerprint"
    r"|pattern|template)(?:[_-]?ids?|s|es)?[\"'\s:=_()-]*$",
    re.IGNORECASE,
)
_SECRET_FIELD: Final = re.compile(rf"(?:.*[_.-])?(?:{_TELLING_NAMES})s?", re.IGNORECASE)
_NUMERIC_SECRET_FIELD: Final = re.compile(
    r"(?:.*[_.-])?(?:(?:api|access|secret|private)[_-]?key|(?:client[_-]?)?secret|passw(?:or)?d|passphrase"
    r"|pwd)",
    re.IGNORECASE,
)
_VERSION_FIELD: Final = re.compile(r".*version.*", re.IGNORECASE)
_PAGE_TOKEN: Final = re.compile(r"(?:.*[_.-])?(?:next|prev|previous)?[_-]?page[_-]?tokens?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Pseudonyms:
    """Replaces personal data by pseudonyms under one key; e-mail addresses and secrets always."""

    key: bytes = field(repr=False)
    ips: bool = True
    uuids: bool = True

    def __post_init__(self) -> None:
        if len(self.key) < _SHORTEST_KEY:
            raise ValueError(f"the key of the pseudonyms needs at least {_SHORTEST_KEY} bytes")
        if len(self.key) > _LONGEST_KEY:
            object.__setattr__(self, "key", blake2b(self.key).digest())

    def context(self, value: Any) -> Any:
        """The value without personal data: mappings (keys too) and sequences at any depth, and texts in them.

        Numbers, booleans, None and dates stay, except for numbers that are called passwords or keys. Other
        objects become texts.
        """
        return self._clean(value, "")

    def text(self, text: str, *, called: str = "") -> str:
        """The text without personal data; `called` is the name of the field that holds it, if any."""
        if called and _names_secret(called):
            return text if not text or _PSEUDONYM.fullmatch(text) else self.pseudonym("key", text)
        if not _is_suspect(text):
            return text
        if len(text) == _UUID_LENGTH and self.uuids and (match := _UUID.fullmatch(text)):
            return self._uuid(match)
        # Before decoding, which would take the zone of fe80::1%41 for an encoded letter.
        cleaned = self._outside(text, _IPV6, self._ipv6) if self.ips and text.count(":") > 1 else text
        decoded = _decoded(cleaned)
        if decoded != cleaned:
            without = self._replace(decoded, called)
            if without != decoded:
                return without
        return self._replace(cleaned, called)

    def pseudonym(self, kind: Kind, value: str) -> str:
        """What stands for a value of this kind, whose notation the caller has made canonical."""
        data = value.encode("utf-8", "surrogatepass")
        return f"{kind}-{blake2b(data, key=self.key, person=kind.encode(), digest_size=6).hexdigest()}"

    def _clean(self, value: Any, called: str) -> Any:
        if isinstance(value, str):
            return self.text(value, called=called)
        if value is None or isinstance(value, (bool, int, float, date, time, timedelta)):
            return value if not _is_secret_number(value, called) else self.pseudonym("key", str(value))
        if isinstance(value, Mapping):
            return self._mapping(value)
        if isinstance(value, (bytes, bytearray)):
            return self.text(value.decode("utf-8", "replace"), called=called)
        if isinstance(value, (UUID, IPv4Address, IPv6Address)):
            return self.text(str(value))
        if isinstance(value, Iterable):
            return [self._clean(item, called) for item in value]
        return self.text(str(value), called=called)

    def _mapping(self, value: Mapping[Any, Any]) -> dict[str, Any]:
        cleaned: dict[str, Any] = {}
        for name, item in value.items():
            called = name if isinstance(name, str) else str(name)
            unique = kept = self.text(called)
            number = 2
            # Two notations of one address get the same pseudonym.
            while unique in cleaned:
                unique, number = f"{kept}#{number}", number + 1
            cleaned[unique] = self._clean(item, called)
        return cleaned

    def _replace(self, text: str, called: str) -> str:
        text = self._secrets(text)
        if "@" in text or "＠" in text:
            text = self._outside(text, _MAIL, self._mail)
        if self.uuids and not _CALLED_HASH.search(called):
            text = self._outside(text, _UUID, self._uuid)
        if self.ips:
            if text.count(":") >= 2:
                text = self._outside(text, _IPV6, self._ipv6)
            if not _VERSION_FIELD.fullmatch(called):
                text = self._outside(text, _IPV4, self._ipv4)
        return text if _CALLED_HASH.search(called) else self._outside(text, _RUN, self._run)

    def _secrets(self, text: str) -> str:
        if "://" in text:
            text = self._outside(text, _USER_INFO, lambda match: self.pseudonym("key", match[0]))
        text = self._outside(text, _KNOWN_KEY, lambda match: self.pseudonym("key", match[0]))
        text = self._outside(text, _NAMED, self._named)
        return self._outside(text, _BEARER, self._bearer)

    def _outside(self, text: str, pattern: re.Pattern[str], replace: _Replace) -> str:
        """Substitute everywhere but in pseudonyms that are there already."""
        parts = _PSEUDONYM.split(text)
        parts[::2] = [pattern.sub(replace, part) for part in parts[::2]]
        return "".join(parts)

    def _mail(self, match: re.Match[str]) -> str:
        address = match[0].replace("＠", "@").strip(".'").casefold()
        return self.pseudonym("mail", address)

    def _uuid(self, match: re.Match[str]) -> str:
        if not match["dash"] and _is_called(match, _CALLED_HASH):
            return match[0]
        digits = re.sub(r"(?i)urn:uuid:|[^0-9a-f]", "", match[0])
        return self.pseudonym("uuid", digits.lower())

    def _ipv6(self, match: re.Match[str]) -> str:
        run = match["address"]
        if "::" not in run and run.count(":") < _GROUPS - 1:
            return match[0]  # a time, or a hardware address
        # The words of "std::deque" are no groups of an address.
        fewest = 3 if _beside_letter(match) else 1
        groups, kept, place = run.split(":"), [], 0
        while place < len(groups):
            length, address = _address_at(groups, place, fewest)
            kept.append(self._address(address) if address else groups[place])
            place += length
        without = ":".join(kept)
        return without if without != run else match[0]

    def _ipv4(self, match: re.Match[str]) -> str:
        digits = (match["address"] or match["dashed"]).replace("-", ".")
        octets = [int(octet) for octet in digits.split(".")]
        if max(octets) > 255 or _is_called(match, _CALLED_VERSION):
            return match[0]
        return self._address(IPv4Address(bytes(octets)))

    def _address(self, address: IPv4Address | IPv6Address) -> str:
        if isinstance(address, IPv6Address):
            address = address.ipv4_mapped or IPv6Address(int(address))
        return self.pseudonym("ip", str(address))

    def _named(self, match: re.Match[str]) -> str:
        value, name = match["value"], match["name"].lower()
        if name in ("key", "token", "bearer", "cookie"):
            secret = len(value) >= 16 and any(character.isdigit() for character in value)
        else:
            # Prose has colons too: "authorization: missing".
            secret = "=" in match["sign"] or bool(match["quote"]) or not value.isalpha()
        return self._with_pseudonym(match) if secret else match[0]

    def _bearer(self, match: re.Match[str]) -> str:
        return (
            match[0] if match["value"].islower() and match["value"].isalpha() else self._with_pseudonym(match)
        )

    def _with_pseudonym(self, match: re.Match[str]) -> str:
        return match[0][: match.start("value") - match.start()] + self.pseudonym("key", match["value"])

    def _run(self, match: re.Match[str]) -> str:
        word = match[0]
        if _is_called(match, _CALLED_HASH) or (not self.uuids and _UUID.search(word)):
            return word
        return self.pseudonym("key", word) if _looks_random(word) else word


_Replace = Callable[[re.Match[str]], str]


def _is_suspect(text: str) -> bool:
    """Whether a text may hold something to replace; made for the many texts that don't."""
    if text.isascii():
        if len(text) < _SHORTEST_SECRET and text.isidentifier():
            return False
        return _SUSPECT.search(text) is not None and not _YOUTUBE_ID.fullmatch(text)
    plain = unicodedata.normalize("NFKC", text).encode("ascii", "ignore")
    return _SUSPECT.search(plain) is not None


@lru_cache(maxsize=1024)
def _names_secret(called: str) -> bool:
    """Whether a field of this name holds a secret, whatever it looks like."""
    return _SECRET_FIELD.fullmatch(called) is not None and not _PAGE_TOKEN.fullmatch(called)


def _is_secret_number(value: object, called: str) -> bool:
    """Whether a number is a secret by its field's name; of tokens and cookies there may be so many."""
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and abs(value) >= _SMALLEST_SECRET
        and _NUMERIC_SECRET_FIELD.fullmatch(called) is not None
    )


def _is_called(match: re.Match[str], names: re.Pattern[str]) -> bool:
    return names.search(match.string[max(0, match.start() - 40) : match.start()]) is not None


def _decoded(text: str) -> str:
    """The text without URL-encoding, numeric character references and compatibility characters."""
    for _ in range(_ROUNDS):
        plain = unquote(text) if "%" in text else text
        if "\\u00" in plain or "&#" in plain:
            plain = _ESCAPE.sub(_unescaped, plain)
        if not plain.isascii():
            plain = unicodedata.normalize("NFKC", plain)
        if plain == text:
            break
        text = plain
    return text


def _unescaped(match: re.Match[str]) -> str:
    code = int(match[3]) if match[3] else int(match[1] or match[2], 16)
    return chr(code) if code < 0xD800 else match[0]


def _beside_letter(match: re.Match[str]) -> bool:
    before, after = match.string[: match.start()][-1:], match.string[match.end() :][:1]
    return before.isalpha() or before == "_" or after.isalpha() or after == "_"


def _address_at(groups: Sequence[str], place: int, fewest: int) -> tuple[int, IPv6Address | None]:
    """The longest address that begins at a group, with how many groups it has; (1, None) if none does.

    Where two colons begin or end it, there is an empty group more.
    """
    for length in range(min(_GROUPS + 1, len(groups) - place), 2, -1):
        window = groups[place : place + length]
        empty = window.count("")
        if length - empty < fewest or empty > 2 or (empty == 0 and length < _GROUPS - 1):
            continue
        try:
            return length, IPv6Address(":".join(window))
        except ValueError:
            continue
    return 1, None


def _looks_random(word: str) -> bool:
    """Whether a word without telling name is a secret: many changes between letters, capitals and digits."""
    if _HEXADECIMAL.fullmatch(word):
        return True
    if _YOUTUBE_ID.fullmatch(word):
        return False
    kinds = ["0" if c.isdigit() else "A" if c.isupper() else "a" for c in word if c.isalnum()]
    changes = sum(one != other for one, other in pairwise(kinds))
    return kinds.count("0") >= 2 and changes >= max(6, len(word) // 4)
