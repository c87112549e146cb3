"""What comes from outside is read within bounds, or refused by a line that says where and why."""

from __future__ import annotations

import gzip
import io
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas import documents
from atlas.documents import DocumentError


class TestFiles:
    def test_a_file_without_an_end_is_refused(self) -> None:
        with pytest.raises(DocumentError, match="larger than 1,000 bytes"):
            documents.read_bytes(Path("/dev/zero"), 1_000)

    def test_bytes_that_are_no_text_are_located(self) -> None:
        with pytest.raises(DocumentError, match="x is not UTF-8 text: line 2"):
            documents.decode(b"good\nb\xffd", "x")
        assert documents.decode(b"\xef\xbb\xbfgood", "x") == "good"

    @given(st.lists(st.text(st.characters(exclude_characters="\n", exclude_categories=("Cs",)), max_size=9)))
    def test_lines_up_to_the_bound_are_as_they_are(self, lines: list[str]) -> None:
        text = "".join(f"{line}\n" for line in lines)
        assert list(documents.bounded_lines(io.StringIO(text, newline="\n"), 10, "x")) == [
            f"{x}\n" for x in lines
        ]

    def test_a_longer_line_is_refused(self) -> None:
        lines = documents.bounded_lines(io.StringIO("short\n" + "x" * 11), 10, "x.csv")
        assert next(lines) == "short\n"
        with pytest.raises(DocumentError, match=r"x\.csv has more than 10 characters in line 2"):
            next(lines)

    @pytest.mark.parametrize("name", ["rot13", "base64", "hex", "zlib", "no-such", "a\0b", ""])
    def test_only_encodings_of_text(self, name: str) -> None:
        with pytest.raises(DocumentError, match=r"there is no encoding|is not a text encoding"):
            documents.check_text_encoding(name)
        documents.check_text_encoding("cp1252")


def test_a_gzip_of_one_endless_line_takes_little_memory(tmp_path: Path) -> None:
    packed = tmp_path / "bomb.csv.gz"
    # Parts that are packed one by one are one file: 2 GiB of zeros.
    packed.write_bytes(gzip.compress(bytes(1 << 26)) * (1 << 5))
    assert packed.stat().st_size < 20 << 20

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))

    command = [sys.executable, "-m", "maia", "catalogue", "import", str(packed), "-o", str(tmp_path / "x")]
    told = subprocess.run(command, capture_output=True, text=True, preexec_fn=limited, env={**os.environ})
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr == f"maia: {packed} has more than 1,048,576 characters in line 1\n"
