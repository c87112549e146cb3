"""Patterns as files: one JSON or Parquet file for all, or one a pattern, in a folder or committed to Git.

The same patterns make the same bytes wherever they are written, so that Git commits nothing if none changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from atlas.adapters.patterns import PatternsDAO
from atlas.composition import Atlas
from atlas.config import GitSettings, Settings
from atlas.errors import ConfigError
from atlas.extras import how_to_install
from atlas.gitstore import GitError, GitStore
from maia.errors import MaiaError
from maia.learner.copies import evidence_of
from maia.learning import forms
from maia.learning.evidence import Evidence
from maia.learning.known_patterns import KnownPattern, known
from maia.views.patterns import as_learnt, prior_of


class CopyFailed(MaiaError):
    """The patterns could not be written."""


@dataclass(frozen=True, slots=True)
class Committed:
    """What a commit brought; nothing is committed if no pattern has changed."""

    commit: str | None
    """The branch's last commit in hexadecimal digits; None if it has none."""
    created: bool
    new: int
    changed: int
    gone: int
    pushed: bool


async def commit_patterns(atlas: Atlas) -> Committed:
    """Commit what is known to the repository of the settings; GitError says what is wrong."""
    settings = atlas.settings.learner.git
    files = await files_of(atlas)
    store = repository(atlas.settings)
    new, changed, gone = _differences(await store.read(settings.branch), files)
    message = settings.message.format(new=new, changed=changed, gone=gone)
    made = await store.commit(files, message, settings.author, settings.branch, atlas.clock.now())
    return Committed(made.commit, made.created, new, changed, gone, made.pushed)


Encode = Callable[[Sequence[KnownPattern], Evidence], bytes]


def encoder_of(format_: Literal["json", "parquet"]) -> Encode:
    """What makes a file of patterns; ConfigError if the packages for Parquet are not installed."""
    if format_ == "json":
        return forms.export
    if find_spec("pyarrow") is None:
        raise ConfigError(f"Parquet needs pyarrow; install it: {how_to_install('parquet')}, or choose JSON")
    return _parquet


def _parquet(patterns: Sequence[KnownPattern], evidence: Evidence) -> bytes:  # noqa: ARG001
    from pyarrow import BufferOutputStream, parquet

    out = BufferOutputStream()
    parquet.write_table(forms.table(patterns), out, compression="zstd")
    return bytes(out.getvalue().to_pybytes())


async def known_with_evidence(atlas: Atlas) -> tuple[list[KnownPattern], Evidence]:
    """All patterns that are known, and the rows of their evidence."""
    dao = PatternsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    stored = await dao.known()
    pinned = [each.id for each in stored if each.pinned]
    patterns = known([as_learnt(each) for each in stored], prior_of(atlas), pinned)
    return patterns, evidence_of(await dao.evidence([each.id for each in stored]))


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the files of patterns, each at once, and delete those of others; CopyFailed if that fails."""
    try:
        for path, body in files.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            staged = target.with_name(f".{target.name}")
            staged.write_bytes(body)
            staged.replace(target)
        for each in folder.glob("*/*.json"):
            path = f"{each.parent.name}/{each.name}"
            # Those that a killed export began to write have a dot before their names.
            if path not in files and forms.is_path(path.replace("/.", "/")):
                each.unlink()
    except OSError as error:
        raise CopyFailed(f"cannot write to {folder}: {error.strerror or error}") from error


async def files_of(atlas: Atlas) -> dict[str, bytes]:
    """The file of each pattern that is known, by its path."""
    return forms.files((await known_with_evidence(atlas))[0])


def repository(settings: Settings) -> GitStore:
    """The repository that the settings name, by default `patterns.git` in the data folder.

    GitError if the settings want to push but don't say where to.
    """
    git: GitSettings = settings.learner.git
    remote = None if git.remote is None else git.remote.get_secret_value()
    if git.auto_push and remote is None:
        raise GitError("PLEIADES_LEARNER__GIT__AUTO_PUSH needs PLEIADES_LEARNER__GIT__REMOTE to push to")
    path = git.path or settings.data_folder / "patterns.git"
    return GitStore(path, remote=remote, auto_push=git.auto_push)


def _differences(old: Mapping[str, bytes], new: Mapping[str, bytes]) -> tuple[int, int, int]:
    """How many files are new, changed and gone."""
    return (
        len(new.keys() - old.keys()),
        sum(old[path] != new[path] for path in new.keys() & old.keys()),
        len(old.keys() - new.keys()),
    )
