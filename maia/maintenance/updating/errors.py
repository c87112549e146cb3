"""The errors of updating, beside ProgramFailed.

UpdateFailed
├── UpdateRunning       another process updates the same folder now
└── LeftToPeople        it can't go on without a person; the message names the commands to run
"""

from __future__ import annotations

from maia.errors import MaiaError


class UpdateFailed(MaiaError):
    """An update could not be made; what was in use before is in use again."""


class UpdateRunning(UpdateFailed):
    """Another process updates the same folder now."""


class LeftToPeople(UpdateFailed):
    """It can't go on without a person; the message names the commands to run."""
