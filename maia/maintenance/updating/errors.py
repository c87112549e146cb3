"""The errors of updating.

UpdateFailed
├── ProgramFailed       a program ended with an error, or took too long
├── UpdateRunning       another process updates the same folder now
└── LeftToPeople        it can't go on without a person; the message names the commands to run
"""

from __future__ import annotations

from maia.errors import MaiaError


class UpdateFailed(MaiaError):
    """An update could not be made; what was in use before is in use again."""


class ProgramFailed(UpdateFailed):
    """A program ended with an error, or took too long."""


class UpdateRunning(UpdateFailed):
    """Another process updates the same folder now."""


class LeftToPeople(UpdateFailed):
    """It can't go on without a person; the message names the commands to run."""
