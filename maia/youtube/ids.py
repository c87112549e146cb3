"""Validates YouTube's ids by alphabet and length.

An id from outside is checked once, where it is read. After that its type says that it is valid.
"""

from __future__ import annotations

import re
from typing import NewType

VideoId = NewType("VideoId", str)
ChannelId = NewType("ChannelId", str)
PlaylistId = NewType("PlaylistId", str)

_VIDEO = re.compile(r"[A-Za-z0-9_-]{11}")
_CHANNEL = re.compile(r"UC[A-Za-z0-9_-]{22}")
# A mix has 13 characters, an album 43, a channel's playlist 24, a user's playlist 18 or 34.
_PLAYLIST = re.compile(r"[A-Za-z0-9_-]{13,64}")


def video_id(text: object) -> VideoId | None:
    """The text as a video id; None if it cannot be one."""
    return VideoId(text) if isinstance(text, str) and _VIDEO.fullmatch(text) else None


def channel_id(text: object) -> ChannelId | None:
    """The text as a channel id; None if it cannot be one."""
    return ChannelId(text) if isinstance(text, str) and _CHANNEL.fullmatch(text) else None


def playlist_id(text: object) -> PlaylistId | None:
    """The text as a playlist id; None if it cannot be one."""
    return PlaylistId(text) if isinstance(text, str) and _PLAYLIST.fullmatch(text) else None


def uploads_playlist(channel: ChannelId) -> PlaylistId:
    """The playlist of a channel's uploads."""
    return PlaylistId(f"UU{channel[2:]}")
