"""What lies at a path, asked without an error where this user may not look.

`pathlib` answers for a missing file, but raises PermissionError where a folder above it is closed to us: in
the working folder of another user, or below a HOME that was kept when the user was changed.
"""

from __future__ import annotations

import os
from pathlib import Path


def exists(path: Path | str) -> bool:
    """Whether anything is there that this user can see."""
    return os.path.exists(path)  # noqa: PTH110 - pathlib raises


def is_file(path: Path | str) -> bool:
    """Whether there is a file that this user can see."""
    return os.path.isfile(path)  # noqa: PTH113 - pathlib raises


def is_folder(path: Path | str) -> bool:
    """Whether there is a folder that this user can see."""
    return os.path.isdir(path)  # noqa: PTH112 - pathlib raises


def nearest(path: Path) -> Path:
    """The path itself if it can be seen, else the first of the folders above it that can."""
    return next(place for place in (path, *path.parents) if exists(place))
