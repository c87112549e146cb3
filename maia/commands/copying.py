"""The commands of `maia patterns` that make copies and read them: export, import, snapshots, restore."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from atlas.wording import counted
from maia.commands.tables import print_table
from maia.commands.terminal import AsJson, print_json, print_text, with_atlas

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from atlas.adapters.patterns import PatternsDAO
    from atlas.composition import Atlas
    from maia.cycle.snapshot_chains import StoredSnapshot
    from maia.learner.archive import Restored, Taken
    from maia.learner.copies import Merged
    from maia.learner.exporting import Committed
    from maia.learning.snapshots import Snapshot

ExportFormat = Literal["json", "parquet"]
_ID_DIGITS: Final = 12


def export(
    to: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE|FOLDER]",
            help="A path or URL as for maia export --to, or - for standard output. In a folder each pattern "
            "gets a file of its own, and files of patterns that are gone are deleted.",
            show_default=False,
        ),
    ] = None,
    format_: Annotated[
        ExportFormat | None,
        typer.Option("--format", help="The format. [default: by the name's ending]", show_default=False),
    ] = None,
    git: Annotated[
        bool, typer.Option("--git", help="Commit to the Git repository of the settings instead.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write all patterns to a file or a folder, or commit them to Git.

    The JSON file also holds who counted what on which day, so that importing it anywhere, even twice, counts
    nothing twice. Parquet is for analysis and can't be imported. For example:

    - `maia patterns export patterns.json`
    - `maia patterns export patterns.parquet`
    - `maia patterns export - | jq '.patterns[].statement'`
    - `maia patterns export --git`

    Parquet needs the extra `parquet`: `.venv/bin/pip install -e '.[parquet]'`.
    """
    if git == (to is not None):
        raise typer.BadParameter("give either a FILE or FOLDER, or --git")
    if git:
        _export_to_git(format_, as_json=as_json)
        return
    assert to is not None
    if as_json and to == "-":
        raise typer.BadParameter("- and --json both print to standard output: leave out --json")
    folder = _folder_of(to)
    if folder is not None and format_ == "parquet":
        raise typer.BadParameter("a folder holds JSON: name a file for Parquet")
    format_ = "json" if folder is not None else format_ or _format_of(to)

    async def write(atlas: Atlas) -> int:
        if folder is not None:
            return await _write_folder(atlas, folder)
        return await _write_file(atlas, to, format_)

    count = with_atlas(write)
    if as_json:
        print_json({"to": to, "format": format_, "patterns": count})
    else:
        place = "standard output" if to == "-" else to
        print_text(f"wrote {counted(count, 'pattern')} to {place}", stderr=to == "-")


def import_(
    from_: Annotated[
        str,
        typer.Argument(
            metavar="FILE|FOLDER",
            help="A JSON file or a snapshot; - for standard input; or a folder of JSON.",
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Add the patterns of an export or a snapshot to what is known here.

    Counts stay those of the site that counted them, so importing the same again changes nothing, and neither
    does importing one's own export. Of patterns that are only counted in all, as in a folder or in Git, what
    exceeds the counts here is added, under a site named after their contents. What you forgot stays
    forgotten. If anything in the file is wrong, nothing of it is imported.
    """

    async def merge(atlas: Atlas) -> Merged:
        from maia.learner import copies
        from maia.learner.cycle import pseudonyms_of

        now = atlas.clock.now()
        copy = copies.checked(_copy_of(from_), await pseudonyms_of(atlas), now)
        return await copies.merge(_dao(atlas), atlas.settings.learner, copy, now)

    merged = with_atlas(merge)
    if as_json:
        print_json(merged)
    else:
        print_text(f"imported {_said(merged)}")


def snapshot(
    full: Annotated[
        bool, typer.Option("--full", help="A whole one, not only what has changed since the last.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Store a compact snapshot of all patterns in the vault.

    It holds what has changed since the last one, and now and then everything. The learner takes one by itself
    every PLEIADES_LEARNER__SNAPSHOT_INTERVAL_H hours; old ones are deleted.
    """

    async def work(atlas: Atlas) -> Taken:
        from maia.learner import archive

        return await archive.take(atlas, full=full)

    taken = with_atlas(work)
    if as_json:
        print_json(taken)
        return
    what = f"{counted(taken.patterns, 'pattern')} and {_rows(taken.evidence)}"
    print_taken(taken.snapshot, what, taken.bytes, taken.deleted)


def snapshots(as_json: AsJson = False) -> None:
    """List the snapshots in the vault, newest first."""

    async def look(atlas: Atlas) -> list[StoredSnapshot]:
        from maia.learner import archive

        return (await archive.stored(atlas))[::-1]

    found = with_atlas(look)
    if as_json:
        print_json({"snapshots": found})
    else:
        print_snapshots(
            found,
            none="There is no snapshot in the vault yet: maia patterns snapshot takes one.",
            use="maia patterns restore ID restores one, and all that it is based on.",
        )


def restore(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[ID|NAME]",
            help="The snapshot's id or name; the last one if left out.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Bring back what a snapshot holds, once it and those it is based on have been verified.

    Nothing is lost or lowered: of evidence the higher counts stay, of texts the newer ones.
    """

    async def work(atlas: Atlas) -> Restored:
        from maia.learner import archive

        return await archive.restore(atlas, name)

    restored = with_atlas(work)
    if as_json:
        print_json(restored)
        return
    verified = counted(len(restored.chain), "snapshot")
    print_text(f"verified {verified}, up to {restored.chain[-1].name}")
    print_text(f"restored {_said(restored.merged)}")


def print_taken(taken: StoredSnapshot, what: str, size: int, deleted: int) -> None:
    """Tell of a snapshot that was taken now: what is in so many bytes, and how many old ones were deleted."""
    kind = "everything" if taken.is_full else "what has changed"
    print_text(f"took {taken.name}")
    print_text(
        f"with {kind}: {what} in {counted(size, 'byte')}"
        + (f"; deleted {counted(deleted, 'old one')}" if deleted else "")
    )


def print_snapshots(found: Sequence[StoredSnapshot], *, none: str, use: str) -> None:
    """List snapshots and tell what to do with them, or if there are none, how to take one."""
    if not found:
        print_text(none)
        return
    rows = [
        (
            each.id[:_ID_DIGITS],
            each.at,
            "everything" if each.base is None else f"changes since {each.base[:_ID_DIGITS]}",
        )
        for each in found
    ]
    print_table(("id", "taken at", "holds"), rows)
    print_text(use)


def _export_to_git(format_: ExportFormat | None, *, as_json: bool) -> None:
    if format_ is not None:
        raise typer.BadParameter("--format doesn't apply to --git")

    async def commit(atlas: Atlas) -> Committed:
        from maia.learner.exporting import commit_patterns

        return await commit_patterns(atlas)

    made = with_atlas(commit)
    if as_json:
        print_json(made)
    elif not made.created:
        print_text("nothing has changed since the last commit" if made.commit else "there is no pattern yet")
    else:
        pushed = ", and pushed it" if made.pushed else ""
        print_text(
            f"committed {(made.commit or '')[:_ID_DIGITS]}: {made.new:,} new, {made.changed:,} changed, "
            f"{made.gone:,} gone{pushed}"
        )


def _folder_of(to: str) -> Path | None:
    """The folder that is meant; None if it's a file, a URL or standard output."""
    if to == "-" or ":" in to:
        return None
    path = Path(to)
    return path if path.is_dir() or to.endswith("/") else None


def _format_of(to: str) -> ExportFormat:
    if to.endswith((".parquet", ".pq")):
        return "parquet"
    if to == "-" or to.endswith(".json"):
        return "json"
    raise typer.BadParameter(f"{to!r} ends neither in .json nor in .parquet: rename it, or give --format")


async def _write_file(atlas: Atlas, to: str, format_: ExportFormat) -> int:
    import asyncio
    from functools import partial

    from atlas.exports import locate
    from maia.learner import exporting

    # Before anything is written to.
    encode = exporting.encoder_of(format_)
    patterns, evidence = await exporting.known_with_evidence(atlas)
    body = await asyncio.to_thread(partial(encode, patterns, evidence))
    target, name = locate(to, atlas.settings, atlas.db)
    async with target.writing(name) as file:
        await asyncio.to_thread(file.write, body)
    return len(patterns)


async def _write_folder(atlas: Atlas, folder: Path) -> int:
    from maia.learner import exporting

    files = await exporting.files_of(atlas)
    exporting.write_folder(folder, files)
    return len(files)


def _copy_of(from_: str) -> Snapshot:
    from maia.learner import copies

    try:
        if from_ == "-":
            return copies.copy_of(sys.stdin.buffer.read(), "standard input")
        path = Path(from_)
        if path.is_dir():
            return copies.copy_of_files(_files_in(path), from_)
        return copies.copy_of(path.read_bytes(), from_)
    except OSError as error:
        raise copies.CopyRefused(f"{from_} can't be read: {error.strerror or error}") from error


def _files_in(folder: Path) -> Mapping[str, bytes]:
    """The files of patterns in a folder, by their paths in it; not what a killed export began to write."""
    return {
        f"{each.parent.name}/{each.name}": each.read_bytes()
        for each in folder.glob("*/[!.]*.json")
        if not each.parent.name.startswith(".")
    }


def _said(merged: Merged) -> str:
    held = f"{counted(merged.patterns, 'pattern')} with {_rows(merged.evidence)}"
    if merged.changed_patterns or merged.changed_evidence:
        changed = counted(merged.changed_patterns, "pattern")
        held += f"; new or newer here: {changed} and {_rows(merged.changed_evidence)}"
    else:
        held += "; nothing of it is new here"
    lines = [held]
    if kept := merged.kept_forgotten:
        stay = counted(kept, "pattern stays", "patterns stay")
        lines.append(f"{stay} forgotten, as you said (maia patterns remember)")
    if merged.too_old:
        lines.append(f"{_rows(merged.too_old)} left out: older than the retention")
    return "\n".join(lines)


def _rows(count: int) -> str:
    return f"{counted(count, 'row')} of evidence"


def _dao(atlas: Atlas) -> PatternsDAO:
    from atlas.adapters.patterns import PatternsDAO

    return PatternsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
