"""The files of others that the dashboard needs: unchanged, with their licences, and calling no other host."""

from __future__ import annotations

import json
from hashlib import sha256
from importlib.resources import files

VENDOR = files("maia.api").joinpath("static/vendor")
LISTED = json.loads(VENDOR.joinpath("vendored.json").read_text())


def test_every_file_is_the_one_that_was_published() -> None:
    listed = {file: digest for each in LISTED.values() for file, digest in each["sha256"].items()}
    present = {file.name: sha256(file.read_bytes()).hexdigest() for file in VENDOR.iterdir()}
    del present["vendored.json"]
    assert present == listed


def test_each_has_a_version_and_its_licence() -> None:
    for name, each in LISTED.items():
        assert each["version"], name
        assert each["licence_file"] in each["sha256"], name
        assert "permission" in VENDOR.joinpath(each["licence_file"]).read_text().lower(), name
