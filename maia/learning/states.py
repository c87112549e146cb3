"""Detectors' states as versioned bytes: msgpack in zstd, with a name and a version that are checked first."""

from __future__ import annotations

from typing import Any, Final

import msgpack
import zstandard

_MAX_BYTES: Final = 256 * 2**20


class StateError(ValueError):
    """The bytes are no state of this kind, or are damaged."""


class NewerState(StateError):
    """The state was written by a newer version."""


def check_version(found: object, expected: int) -> None:
    """Refuse a part of a state that another release wrote, with ValueError."""
    if found != expected:
        raise ValueError(f"the state has version {found}, this release reads {expected}")


def pack(name: str, version: int, content: Any) -> bytes:
    """The content (plain lists, mappings, texts, numbers, bytes) as bytes."""
    body = msgpack.packb([name, version, content], use_bin_type=True)
    return zstandard.ZstdCompressor(level=1, write_checksum=True).compress(body)


def unpack(name: str, version: int, state: bytes) -> Any:
    """The content of packed bytes; StateError if they are not of this name and a version up to this one."""
    try:
        # The limit given to decompress only holds for frames that don't say their size.
        if zstandard.frame_content_size(state) > _MAX_BYTES:
            raise StateError(f"the state of {name} would take more than {_MAX_BYTES >> 20} MiB")
        body = zstandard.ZstdDecompressor().decompress(state, max_output_size=_MAX_BYTES)
        found, found_version, content = msgpack.unpackb(body, raw=False, strict_map_key=False)
    except StateError:
        raise
    except (zstandard.ZstdError, ValueError, TypeError, msgpack.UnpackException) as error:
        raise StateError(f"the state of {name} is damaged: {error}") from error
    if found != name:
        raise StateError(f"this is a state of {found!r}, not of {name!r}")
    if not isinstance(found_version, int) or found_version > version:
        raise NewerState(f"the state of {name} has version {found_version}, and this is version {version}")
    return content
