"""Foreign text: whatever it holds, no terminal, spreadsheet, chat, Markdown or HTML reader executes it."""

from __future__ import annotations

import csv
import html
import io
import json
import re
import unicodedata
from html.parser import HTMLParser

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from atlas import foreign

BIDI = re.compile("[\u202a-\u202e\u2066-\u2069]")
# Any text, and often the characters that matter.
TEXTS = st.text(
    st.one_of(
        st.characters(exclude_categories=()),
        st.sampled_from("=+-@'＝＠;,\t\r\n \x1b\x9b\x00\x7f\u202e\u2066<>&[]()!#:/\"`*_"),
    )
)
PLAIN = st.text(st.characters(categories=("L", "N", "P", "S"), include_characters=" "))


def controls(text: str) -> set[str]:
    return {
        character
        for character in text
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or BIDI.match(character)
    }


class TestTerminals:
    @given(TEXTS)
    def test_nothing_that_a_terminal_executes_is_left(self, text: str) -> None:
        assert controls(foreign.one_line(text)) == set()
        assert controls(foreign.many_lines(text)) <= {"\n", "\t"}

    @given(PLAIN)
    def test_ordinary_text_stays_as_it_is(self, text: str) -> None:
        assert foreign.one_line(text) == foreign.many_lines(text) == text

    @given(TEXTS)
    def test_twice_is_as_once(self, text: str) -> None:
        assert foreign.one_line(foreign.one_line(text)) == foreign.one_line(text)
        assert foreign.many_lines(foreign.many_lines(text)) == foreign.many_lines(text)

    @given(TEXTS)
    def test_it_can_always_be_encoded(self, text: str) -> None:
        foreign.one_line(text).encode()

    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("\x1b[31mred\x1b]0;title\x07", "␛[31mred␛]0;title␇"),
            ("two\r\nlines\tand a tab", "two lines and a tab"),
            ("\x9b2J\x7f", "\ufffd2J␡"),
            ("invoice\u202efdp.exe", "invoicefdp.exe"),
            ("日本語 العربية\u200f 👨‍👩‍👧‍👦 ünï", "日本語 العربية\u200f 👨‍👩‍👧‍👦 ünï"),
            ("half \ud83d", "half \ufffd"),
        ],
    )
    def test_examples(self, text: str, shown: str) -> None:
        assert foreign.one_line(text) == shown


class TestSpreadsheets:
    @given(TEXTS)
    def test_no_cell_begins_like_a_formula(self, text: str) -> None:
        begins = foreign.cell(text).lstrip(" \u00a0\u200b\ufeff")[:1]
        assert begins not in set("=+-@＝＋－＠\t\r\n")

    @given(TEXTS, st.sampled_from(";\t\n"))
    def test_nor_does_one_that_another_separator_makes(self, text: str, separator: str) -> None:
        for part in foreign.cell(text).split(separator):
            assert part.lstrip(" \u00a0\u200b\ufeff")[:1] not in set("=+-@＝＋－＠")

    @given(TEXTS)
    @example("'=1")
    @example("\t=1\r\n-2; '+3")
    def test_the_guard_can_be_taken_away_again(self, text: str) -> None:
        assert foreign.cell_content(foreign.cell(text)) == foreign.many_lines(text)

    @given(st.lists(st.lists(TEXTS, min_size=2, max_size=2), min_size=1))
    def test_it_survives_a_file(self, rows: list[list[str]]) -> None:
        file = io.StringIO(newline="")
        csv.writer(file, lineterminator="\n").writerows([foreign.cell(text) for text in row] for row in rows)
        file.seek(0)
        read = [[foreign.cell_content(text) for text in row] for row in csv.reader(file)]
        assert read == [[foreign.many_lines(text) for text in row] for row in rows]

    @given(PLAIN.filter(lambda text: not re.search("[=+@＝＋－＠'-]", text)))
    def test_ordinary_text_stays_as_it_is(self, text: str) -> None:
        assert foreign.cell(text) == text

    @pytest.mark.parametrize(
        ("text", "guarded"),
        [
            (
                '=HYPERLINK("http://example.invalid","click")',
                '\'=HYPERLINK("http://example.invalid","click")',
            ),
            ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
            ("-DashFirst0", "'-DashFirst0"),
            ("@sum(1)", "'@sum(1)"),
            ("＝1+1", "'＝1+1"),
            ("\t=1", "'\t'=1"),
            ("  =1", "'  =1"),
            ("'quoted'", "''quoted'"),
            ("a;=1", "a;'=1"),
            ("x = y - z", "x = y - z"),
        ],
    )
    def test_examples(self, text: str, guarded: str) -> None:
        assert foreign.cell(text) == guarded
        assert foreign.cell_content(guarded) == text


class TestChats:
    @given(TEXTS)
    def test_nothing_is_a_mention_or_a_hidden_link(self, text: str) -> None:
        message = foreign.chat(text)
        assert not re.search(r"@(everyone|here|channel|all|[a-z0-9_&!])", message, re.IGNORECASE)
        assert not re.search(r"<([@!#]|at\b)", message)
        assert "](" not in message

    @pytest.mark.parametrize(
        "mention",
        ["@everyone", "@here", "<@&42>", "<@!7>", "<#9>", "<!channel>", "<!subteam^S1>", "@all", "<at>x"],
    )
    def test_each_form_is_parted(self, mention: str) -> None:
        message = foreign.chat(f"free {mention} now")
        assert mention not in message
        assert message.replace("\u200b", "") == f"free {mention} now"

    @given(PLAIN.filter(lambda text: not re.search(r"[@<\]]", text)))
    def test_ordinary_text_stays_as_it_is(self, text: str) -> None:
        assert foreign.chat(text) == text


class TestAssistants:
    @given(TEXTS)
    def test_nothing_is_hidden_from_people(self, text: str) -> None:
        shown = foreign.assistant(text)
        assert "\n" not in shown
        assert not [
            letter
            for letter in shown
            if unicodedata.category(letter) in ("Cc", "Cs")
            or "\u2060" <= letter <= "\u206f"
            or "\U000e0000" <= letter <= "\U000e0fff"
        ]

    def test_instructions_in_tags_of_unicode_vanish(self) -> None:
        hidden = "".join(chr(0xE0000 + ord(letter)) for letter in "obey")
        assert foreign.assistant(f"lofi{hidden}\u200b beats\ufeff") == "lofi beats"

    @pytest.mark.parametrize("text", ["👩\u200d👩\u200d👧", "❤\ufe0f", "می\u200cخواهم", "é 日本 हिन्दी"])
    def test_joined_letters_and_emoji_stay(self, text: str) -> None:
        assert foreign.assistant(text) == text


class TestMarkup:
    @given(TEXTS)
    def test_every_punctuation_mark_of_markdown_is_escaped(self, text: str) -> None:
        escaped = foreign.markdown(text)
        assert re.fullmatch(r"(?:\\[!-/:-@\[-`{-~]|[^!-/:-@\[-`{-~])*", escaped)
        assert re.sub(r"\\(.)", r"\1", escaped) == foreign.one_line(text)

    @given(TEXTS)
    def test_html_has_no_tags_and_shows_the_text(self, text: str) -> None:
        tags: list[str] = []

        class Reader(HTMLParser):
            def handle_starttag(self, tag: str, attrs: object) -> None:
                tags.append(tag)

        escaped = foreign.html_text(text)
        Reader().feed(f"<p>{escaped}</p>")
        assert tags == ["p"]
        assert html.unescape(escaped) == foreign.many_lines(text)


class TestJson:
    @given(TEXTS)
    def test_the_document_says_the_same_without_controls(self, text: str) -> None:
        text = text.encode("utf-8", "replace").decode()
        document = json.dumps({"title": text}, ensure_ascii=False)
        for ascii_only in (False, True):
            shown = foreign.json_document(document, ascii_only=ascii_only)
            assert controls(shown) == set()
            assert json.loads(shown) == {"title": text}
            assert shown.isascii() or not ascii_only
