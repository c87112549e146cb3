"""Styles, scripts and pictures, by the digest of their content: browsers may keep them for ever."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from maia.api.problems import Problem

router = APIRouter()

_TYPES: Final = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_FOR_EVER: Final = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class Asset:
    """A file that pages load, also compressed."""

    url: str
    content_type: str
    content: bytes
    compressed: bytes


@router.get("/static/{digest}/{name}")
async def static(request: Request, digest: str, name: str) -> Response:
    """A file, if its digest is that of its content here; other versions are not to be had."""
    asset = assets().get(name)
    if asset is None or asset.url != f"/static/{digest}/{name}":
        raise Problem(404, "this file is not part of this version: load the page again")
    headers = {"Cache-Control": _FOR_EVER, "Vary": "Accept-Encoding"}
    if "gzip" not in request.headers.get("accept-encoding", ""):
        return Response(asset.content, headers=headers, media_type=asset.content_type)
    headers["Content-Encoding"] = "gzip"
    return Response(asset.compressed, headers=headers, media_type=asset.content_type)


@cache
def assets() -> Mapping[str, Asset]:
    """Every file that pages may load, by its name."""
    return {file.name: _read(file) for file in _files() if file.name.rpartition(".")[2] in _TYPES}


def _files() -> Iterator[Traversable]:
    folder = files("maia.api").joinpath("static")
    for each in (*folder.iterdir(), *folder.joinpath("vendor").iterdir()):
        if each.is_file():
            yield each


def _read(file: Traversable) -> Asset:
    content = file.read_bytes()
    digest = blake2b(content, digest_size=8).hexdigest()
    content_type = _TYPES[file.name.rpartition(".")[2]]
    return Asset(f"/static/{digest}/{file.name}", content_type, content, gzip.compress(content, mtime=0))


def url_of(name: str) -> str:
    """Where pages load a file from."""
    return assets()[name].url
