"""The base class of all errors that the agents raise.

MaiaError
├── Unreachable     something that is needed does not answer now
└── YouTubeError    drawn in maia/youtube/errors.py
"""

from __future__ import annotations


class MaiaError(Exception):
    """An agent could not do what was asked."""


class Unreachable(MaiaError):
    """Something that is needed does not answer now: start again later."""
