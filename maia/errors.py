"""The root of everything that the agents raise.

MaiaError
└── YouTubeError    drawn in maia/youtube/errors.py
"""

from __future__ import annotations


class MaiaError(Exception):
    """An agent could not do what was asked."""
