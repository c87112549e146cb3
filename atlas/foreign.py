"""Escape text written by strangers for the place where it is shown.

Titles, tags, channel names, seeds and other services' messages come from strangers. A terminal would execute
their escape sequences, a spreadsheet their formulas, a chat their mentions, a browser their markup. Each
function here prepares a text for one such place. Everything that leaves the product goes through this module;
stored text stays as it came.
"""

from __future__ import annotations

import html
import re
from typing import Final

# Explicit embeddings, overrides and isolates reorder the text after them. The marks U+200E, U+200F and U+061C
# affect only their neighbours, and right-to-left titles need them.
_BIDI: Final = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
_C0, _DELETE, _C1 = range(0x20), 0x7F, range(0x80, 0xA0)
_SURROGATES: Final = range(0xD800, 0xE000)
_UNKNOWN: Final = "\ufffd"

_VISIBLE: Final[dict[int, str | None]] = (
    {code: chr(0x2400 + code) for code in _C0}
    | {_DELETE: "\u2421"}
    | dict.fromkeys((*_C1, *_SURROGATES), _UNKNOWN)
    | dict.fromkeys((0x2028, 0x2029), " ")
    | dict.fromkeys(_BIDI)
)
_VISIBLE_IN_LINES: Final = {code: to for code, to in _VISIBLE.items() if chr(code) not in "\t\n"}

_BREAKS: Final = re.compile("[\t\n\v\f\r\x85\u2028\u2029]+")
_CARRIAGE_RETURN: Final = re.compile("\r\n?")

_SPACES: Final = " \u00a0\u200b\ufeff"
_FORMULA: Final = "=+@＝＋－＠'-"
_FORMULA_AT_START: Final = re.compile(f"[{_SPACES}]*[{_FORMULA}]|[\t\n]")
_FORMULA_INSIDE: Final = re.compile(f"([;\t\n][{_SPACES}]*)(?=[{_FORMULA}])")
_GUARD_INSIDE: Final = re.compile(f"([;\t\n][{_SPACES}]*)'")

_ZERO_WIDTH_SPACE: Final = "\u200b"
_MENTION: Final = re.compile(r"(?<=@)(?=\S)|(?<=<)(?=[@!#]|at\b)|(?<=\])(?=\()")
_PUNCTUATION: Final = re.compile(r"([!-/:-@\[-`{-~])")
# Joiners (U+200C, U+200D) and the two presentations (U+FE0E, U+FE0F) stay: many scripts and emoji need them.
_INVISIBLE: Final = re.compile(
    "[\u00ad\u034f\u115f\u1160\u180b-\u180f\u200b\u2060-\u206f\u3164\ufe00-\ufe0d\ufeff\uffa0\ufff0-\ufffb"
    "\U000e0000-\U000e0fff]"
)
_RAW_IN_JSON: Final = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_NOT_ASCII: Final = re.compile(r"[^\x00-\x7f]")


def one_line(text: str) -> str:
    """For a terminal, a log line or a subject: one line, with control characters as visible symbols."""
    # Most texts are printable, and this check is about 20 times as fast as translating them.
    if text.isprintable():
        return text
    return _BREAKS.sub(" ", text).translate(_VISIBLE)


def many_lines(text: str) -> str:
    """Like `one_line`, but keeps newlines and tabs."""
    if text.isprintable():
        return text
    return _CARRIAGE_RETURN.sub("\n", text).translate(_VISIBLE_IN_LINES)


def cell(text: str) -> str:
    """For a spreadsheet: put an apostrophe before anything that would be read as a formula.

    A text's own apostrophe gets one too, so that `cell_content` can remove the guard again. Formulas after a
    semicolon, tab or line break are also guarded, because with another separator a new cell would begin
    there. Control characters become visible symbols, and lines end in a newline, as in `many_lines`.
    """
    text = _FORMULA_INSIDE.sub(r"\1'", many_lines(text))
    return f"'{text}" if _FORMULA_AT_START.match(text) else text


def cell_content(guarded: str) -> str:
    """Undo `cell`: the text as `many_lines` returns it."""
    return _GUARD_INSIDE.sub(r"\1", guarded.removeprefix("'"))


def assistant(text: str) -> str:
    """For an AI assistant: one line, without the characters that people don't see but a model reads.

    Such characters, above all Unicode's tags, can hide whole instructions in a title.
    """
    return _INVISIBLE.sub("", one_line(text))


def chat(text: str) -> str:
    """For a chat message: nothing in it mentions anyone or hides a link's address.

    An invisible space breaks up what Discord, Slack, Telegram, Mattermost and Teams would read as a mention
    (`@everyone`, `<@&42>`, `<!channel>`, `<at>`) or as a link with another text (`[text](address)`).
    """
    return _MENTION.sub(_ZERO_WIDTH_SPACE, many_lines(text))


def markdown(text: str) -> str:
    """For one line of Markdown: escape markup and addresses, so that neither takes effect."""
    return _PUNCTUATION.sub(r"\\\1", one_line(text))


def html_text(text: str) -> str:
    """For HTML, between tags or in a quoted attribute."""
    return html.escape(many_lines(text))


def json_document(document: str, *, ascii_only: bool = False) -> str:
    """For a terminal: the same JSON, also escaping the control characters that JSON permits."""
    return (_NOT_ASCII if ascii_only else _RAW_IN_JSON).sub(_json_escape, document)


def _json_escape(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[start : start + 4]}" for start in range(0, len(units), 4))
