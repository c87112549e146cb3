"""Ids of YouTube's form from short names, so that tests stay readable."""

from __future__ import annotations

from maia.youtube.ids import ChannelId, VideoId


def vid(name: object) -> VideoId:
    """A video's id that begins with `name`."""
    return VideoId(str(name).ljust(11, "-"))


def cid(name: object) -> ChannelId:
    """A channel's id that goes on with `name` after its UC."""
    return ChannelId("UC" + str(name).ljust(22, "-"))
