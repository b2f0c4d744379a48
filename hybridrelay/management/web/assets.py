"""The files that pages need: scripts, style sheets and the icon. Importing this module reads and compresses them.

The name of a file that is served contains a hash of its content, so that browsers can cache it for a year and still
use the newest version.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Mapping
from importlib import resources

import attrs

from ..._value import Value
from ...http import Request, Response

__all__ = ["ASSETS", "Asset", "asset_response", "url_of"]

#: An element of Accept-Encoding that allows gzip: without a weight, or with one above zero.
_GZIP = re.compile(r"gzip(;q=(1(\.0*)?|0?\.0*[1-9]\d*))?")
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}


@attrs.frozen
class Asset(Value):
    """A file of ``static``."""

    #: The name under which it is served, such as ``app.3f2a....css``.
    served_as: str
    media_type: str
    data: bytes = attrs.field(repr=False)
    #: The content, compressed with gzip.
    compressed: bytes = attrs.field(repr=False)

    @property
    def etag(self) -> str:
        """The ETag of the uncompressed content."""
        return f'"{hashlib.sha256(self.data).hexdigest()[:32]}"'


def _load() -> dict[str, Asset]:
    found = {}
    for file in resources.files(__package__).joinpath("static").iterdir():
        stem, dot, suffix = file.name.rpartition(".")
        data = file.read_bytes()
        served_as = f"{stem}.{hashlib.sha256(data).hexdigest()[:16]}{dot}{suffix}"
        # Without a time in the gzip header, the same file always gives the same bytes.
        found[file.name] = Asset(served_as, _TYPES[dot + suffix], data, gzip.compress(data, 9, mtime=0))
    return found


#: The files, by their names in ``static``.
ASSETS: Mapping[str, Asset] = _load()
_BY_SERVED_NAME = {asset.served_as: asset for asset in ASSETS.values()}


def url_of(name: str) -> str:
    """Return the path at which a file of ``static`` is served."""
    return f"/assets/{ASSETS[name].served_as}"


def asset_response(request: Request, served_as: str) -> Response | None:
    """Return the response for a file; None if there is none with this name."""
    asset = _BY_SERVED_NAME.get(served_as)
    if asset is None:
        return None
    accepted = {part.replace(" ", "") for part in request.headers.tokens("accept-encoding")}
    is_compressed = any(_GZIP.fullmatch(part) for part in accepted)
    # Each encoding is a representation of its own, and needs its own strong ETag (RFC 9110 section 8.8.3.3).
    etag = f'{asset.etag[:-1]}-gzip"' if is_compressed else asset.etag
    headers = [
        ("ETag", etag),
        ("Cache-Control", "public, max-age=31536000, immutable"),
        ("Vary", "Accept-Encoding"),
        ("X-Content-Type-Options", "nosniff"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
    ]
    known = {
        tag.strip().removeprefix("W/") for value in request.headers.all("if-none-match") for tag in value.split(",")
    }
    if etag in known or "*" in known:
        return Response(304, headers=headers)
    headers.append(("Content-Type", asset.media_type))
    if is_compressed:
        headers.append(("Content-Encoding", "gzip"))
    return Response(200, asset.compressed if is_compressed else asset.data, headers)
