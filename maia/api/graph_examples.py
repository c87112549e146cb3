"""Examples of answers about the knowledge graph, as the OpenAPI document shows them."""

from __future__ import annotations

from typing import Any, Final

from atlas.adapters.graph import link_handle, node_handle

_NOON: Final = "2026-11-02T12:00:00Z"
_MUSIC: Final = node_handle("tag", "music")
_LIVE: Final = node_handle("tag", "live")
_VIDEO: Final = node_handle("video", "dQw4w9WgXcQ")
_TAGGED: Final = link_handle("tagged", (_VIDEO, _MUSIC))
_TOGETHER: Final = link_handle("co_occurs", sorted((_MUSIC, _LIVE)))

_UNKNOWN: Final = {
    "outgoing": None, "strength": 0.5, "confidence": 0.0, "positive": 0.0, "count": 0.0, "weight": None,
    "sources": ["facts"], "seen_at": _NOON, "sti": 0.0, "lti": 0.0, "vlti": 0, "attended_at": None,
}  # fmt: skip


def _ref(handle: object, atom: str, type_: str, shown: str | None = None) -> dict[str, Any]:
    return {"handle": str(handle), "atom": atom, "type": type_, "shown": shown}


_MUSIC_REF: Final = _ref(_MUSIC, "tag:music", "tag")
_LIVE_REF: Final = _ref(_LIVE, "tag:live", "tag")
_VIDEO_REF: Final = _ref(_VIDEO, "video:dQw4w9WgXcQ", "video", "Never Gonna Give You Up")
_MUSIC_ATOM: Final = _MUSIC_REF | _UNKNOWN | {"sti": 12.5, "lti": 3.0, "attended_at": _NOON}
_LIVE_ATOM: Final = _LIVE_REF | _UNKNOWN
_TAGGED_ATOM: Final = (
    _ref(_TAGGED, "tagged(video:dQw4w9WgXcQ, tag:music)", "tagged", "Never Gonna Give You Up – tag:music")
    | _UNKNOWN
    | {
        "outgoing": [_VIDEO_REF, _MUSIC_REF], "strength": 1.0, "confidence": 0.001, "positive": 1.0,
        "count": 1.0,
    }
)  # fmt: skip
_TOGETHER_ATOM: Final = (
    _ref(_TOGETHER, "co_occurs(tag:live, tag:music)", "co_occurs")
    | _UNKNOWN
    | {
        "outgoing": [_LIVE_REF, _MUSIC_REF], "strength": 0.4, "confidence": 0.12, "positive": 40.0,
        "count": 100.0, "weight": 2.1, "sources": ["derived"],
    }
)  # fmt: skip

ATOMS: Final[dict[str, Any]] = {"space": "own", "atoms": [_MUSIC_ATOM], "next": None}
INCOMING: Final[dict[str, Any]] = {"space": "own", "atoms": [_TAGGED_ATOM], "next": None}
ATTENTION: Final[dict[str, Any]] = {"now": _NOON, "space": "own", "atoms": [_MUSIC_ATOM]}
ATOM: Final[dict[str, Any]] = _MUSIC_ATOM | {
    "own_pos": 0, "own_neg": 0, "values": {"shown": ["Music"]},
    "incoming": {"co_occurs": 20, "tagged": 1_200},
}  # fmt: skip
NEIGHBOURS: Final[dict[str, Any]] = {
    "of": _MUSIC_REF,
    "neighbours": [
        {
            "neighbour": _LIVE_ATOM, "hops": 1, "paths": 1, "types": ["co_occurs"], "weight": 2.1,
            "link": _TOGETHER_ATOM, "via": None, "closeness": None,
        }
    ],
    "sampled": False,
}  # fmt: skip
SIMILAR: Final[dict[str, Any]] = {
    "of": _MUSIC_REF, "by": "links", "atoms": [{"atom": _LIVE_ATOM, "likeness": 0.83}],
}  # fmt: skip
PATH: Final[dict[str, Any]] = {
    "atoms": [_MUSIC_REF, _LIVE_REF], "links": [_TOGETHER_ATOM], "visited": 12, "note": None,
}  # fmt: skip
QUERY: Final[dict[str, Any]] = {
    "query": "tagged(?video, tag:music)", "variables": ["?video"],
    "rows": [{"atoms": [_VIDEO_REF | _UNKNOWN], "tally": None}],
    "total": None, "more": False, "cost": 42.5, "missing": [], "plan": None, "sql": None,
}  # fmt: skip
COMMUNITIES: Final[dict[str, Any]] = {
    "found_at": _NOON, "space": "own", "total": 300, "modularity": 0.61,
    "communities": [
        {
            "size": 1_240, "by_type": {"tag": 200, "video": 1_000, "channel": 36, "topic": 4},
            "tags": [_MUSIC_REF, _LIVE_REF], "members": [_VIDEO_REF],
        }
    ],
}  # fmt: skip
STATS: Final[dict[str, Any]] = {
    "now": _NOON, "space": "own", "nodes": 2, "links": 1,
    "types": [
        {
            "type": "co_occurs", "is_link": True,
            "what": "two tags are on the same videos more often than by chance", "atoms": 1,
            "by_source": {"derived": 1}, "positive": 40.0, "count": 100.0, "seen_at": _NOON,
        },
        {
            "type": "tag", "is_link": False, "what": "a tag, by the key that all its spellings share",
            "atoms": 2, "by_source": {"facts": 2}, "positive": 0.0, "count": 0.0, "seen_at": _NOON,
        },
    ],
    "positive": 40.0, "count": 100.0, "attended": 1, "kept": 0, "sti": 12.5, "lti": 3.0,
    "attended_at": _NOON, "seen_at": _NOON, "gone": 0,
    "bytes": {"atoms": 81_920, "incoming": 40_960},
}  # fmt: skip
